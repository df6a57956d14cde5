"""One agent a node, named after it: who is placed, replaced, waited for and given up."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from coterie.engines.placing import (
    AGAIN_S,
    GROWN_S,
    MAX_RESTARTS,
    Node,
    Orders,
    Post,
    Spot,
    decide,
    placed,
    spots,
    told,
)
from coterie.homes import Engine

ROW: dict[str, Any] = {"NodeID": "f0", "Alive": True, "NodeName": "pi", "Resources": {"CPU": 4.0}}


def node(name: str, id: str = "", **resources: float) -> Node:
    return Node(id or f"id-{name}", name, {"CPU": 2.0, **resources})


def ray(**words: Any) -> Engine:
    return Engine(kind="ray", **words)


def names(orders: Orders) -> list[str]:
    return [spot.name for spot in orders.place]


def filled(orders: Orders, now_s: float = 0.0) -> dict[str, Post]:
    return {spot.name: placed(spot, None, now_s) for spot in orders.place}


def test_every_node_gets_one_agent_and_a_new_one_too() -> None:
    nodes = [node("a"), node("b")]
    first = decide(nodes, {}, ray(), 0.0)
    assert names(first) == ["a", "b"]
    posts = filled(first)
    assert decide(nodes, posts, ray(), 1.0) == Orders((), 0)
    assert names(decide([*nodes, node("c")], posts, ray(), 1.0)) == ["c"]


def test_a_node_without_what_is_asked_for_gets_none() -> None:
    nodes = [node("head", CPU=0.0), node("a", camera=1.0), node("b")]
    assert names(decide(nodes, {}, ray(), 0.0)) == ["a", "b"]
    assert names(decide(nodes, {}, ray(resources={"camera": 1.0}), 0.0)) == ["a"]
    zoned = [*nodes, Node("id-c", "c", {"CPU": 1.0}, {"zone": "east"})]
    assert names(decide(zoned, {}, ray(labels={"zone": "east"}), 0.0)) == ["c"]


def test_each_gpu_has_an_agent_with_its_part_of_the_cores() -> None:
    found = list(spots([node("box", CPU=9.0, GPU=2.0)], ray(), {}))
    assert found == [Spot("box-0", "id-box", 1, 4), Spot("box-1", "id-box", 1, 4)]
    asked = list(spots([node("box", CPU=9.0, GPU=2.0)], ray(cpus=3.0), {}))
    assert [spot.num_threads for spot in asked] == [3, 3]


def test_a_dead_nodes_agent_is_replaced_on_another_node_or_on_the_same_when_it_returns() -> None:
    nodes = [node("a"), node("b"), node("c")]
    posts = filled(decide(nodes, {}, ray(most=2), 0.0))
    assert sorted(posts) == ["a", "b"]
    assert names(decide([nodes[0], nodes[2]], posts, ray(most=2), 1.0)) == ["c"]
    returned = node("b", id="another")
    assert decide([nodes[0]], posts, ray(most=2), 1.0) == Orders((), 1)
    again = decide([nodes[0], returned], posts, ray(most=2), 2.0)
    assert [(spot.name, spot.node) for spot in again.place] == [("b", "another")]


def test_what_is_missing_is_asked_for() -> None:
    assert decide([node("a")], {}, ray(most=3), 0.0).num_missing == 2
    assert decide([node("a")], {}, ray(), 0.0).num_missing == 0


def test_an_agent_that_died_is_due_after_a_while_and_keeps_its_place() -> None:
    posts = filled(decide([node("a")], {}, ray(most=1), 0.0))
    posts["a"].ended(code=-9, now_s=5.0)
    nodes = [node("a"), node("b")]
    assert decide(nodes, posts, ray(most=1), 5.0) == Orders((), 0)
    assert names(decide(nodes, posts, ray(most=1), 5.0 + AGAIN_S)) == ["a"]


@pytest.mark.parametrize("code", [0, 2])
def test_one_that_ended_well_or_was_refused_is_not_started_again(code: int) -> None:
    posts = filled(decide([node("a")], {}, ray(most=1), 0.0))
    posts["a"].ended(code, now_s=5.0)
    assert posts["a"].again_at_s == math.inf
    assert names(decide([node("a"), node("b")], posts, ray(most=1), 99.0)) == ["b"]


def test_one_that_dies_young_again_and_again_is_given_up() -> None:
    post = Post(Spot("a", "id-a", 0, 1), began_s=0.0)
    for _ in range(MAX_RESTARTS):
        post.ended(1, now_s=1.0)
        assert post.is_due(1.0 + AGAIN_S)
        post = placed(post.spot, post, now_s=1.0)
    post.ended(1, now_s=1.0)
    assert post.again_at_s == math.inf


def test_one_that_lived_for_long_counts_anew() -> None:
    post = Post(Spot("a", "id-a", 0, 1), began_s=0.0, num_starts=MAX_RESTARTS + 1)
    post.ended(1, now_s=GROWN_S + 1)
    assert post.num_starts == 1
    assert post.is_due(GROWN_S + 1 + AGAIN_S)


def test_nodes_that_are_called_alike_keep_names_of_their_own() -> None:
    first = [node("pi", id="one"), node("pi", id="two")]
    posts = filled(decide(first, {}, ray(), 0.0))
    assert {name: post.spot.node for name, post in posts.items()} == {"pi": "one", "pi-2": "two"}
    assert decide(first[1:], posts, ray(), 1.0) == Orders((), 0)
    back = decide([*first[1:], node("pi", id="three")], posts, ray(), 1.0)
    assert [(spot.name, spot.node) for spot in back.place] == [("pi", "three")]


def test_a_name_is_never_the_servers_and_never_steers_a_terminal() -> None:
    assert [s.name for s in spots([node("hub"), node("a\x1b[b")], ray(), {})] == [
        "hub-node",
        "a--b",
    ]


def test_a_node_table_is_read_with_forgiveness() -> None:
    bare = {"NodeID": "f1", "Alive": True}
    assert [found.name for found in told([ROW, bare, {**ROW, "Alive": False}])] == ["f1", "pi"]


@given(
    some.lists(some.sampled_from("abcd"), max_size=6),
    some.lists(some.sampled_from("abcd"), max_size=6),
    some.integers(min_value=1, max_value=6),
)
def test_no_name_is_given_twice_and_no_node_has_two(
    before: list[str], after: list[str], most: int
) -> None:
    nodes = [node(name, id=f"{name}{number}") for number, name in enumerate(before)]
    posts = filled(decide(nodes, {}, ray(most=most), 0.0))
    later = nodes[::2] + [node(name, id=f"{name}+{number}") for number, name in enumerate(after)]
    living = {n.id for n in later}
    orders = decide(later, posts, ray(most=most), 1.0)
    kept = {name: p.spot.node for name, p in posts.items() if p.spot.node in living}
    new = {spot.name: spot.node for spot in orders.place}
    assert not kept.keys() & new.keys()
    at = [*kept.values(), *new.values()]
    assert len(at) == len(set(at)) == min(most, len(later))
    assert orders.num_missing == most - len(at)

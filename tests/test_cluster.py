"""Described clusters: what they mean as a world, and how what is wrong with them is said."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from coterie.cluster import Cluster, load_cluster
from coterie.errors import JobError
from coterie.inventory import Links, Load, Machine, Road
from coterie.sync import recipes
from coterie.types import Layout
from coterie.yamls import read_yaml

PLAIN = "machines: [{name: pc, count: 2, overhead_ms: 10, per_sample_ms: 1}]\n"
LINKED = PLAIN + "links: {default: {mbit_per_s: 80, latency_ms: 2}}\n"
SITES = """\
machines:
  - {name: pc, count: 2, overhead_ms: 10, per_sample_ms: 1, site: home}
  - {name: srv, overhead_ms: 1, per_sample_ms: 0.1, uplink: {mbit_per_s: 40, latency_ms: 3}}
  - {name: pi, overhead_ms: 50, per_sample_ms: 9, uplink: {mbit_per_s: 8, latency_ms: 20}}
links:
  inside: {mbit_per_s: 800}
  default: {mbit_per_s: 80, latency_ms: 2}
  between: [{a: pi, b: srv, mbit_per_s: 16, latency_ms: 1}]
requests: {asked_by: pi, per_s: 1, seconds: {pi: 1, srv: 0.1}}
"""


def cluster(text: str) -> Cluster:
    return Cluster.model_validate(read_yaml(text, "cluster.yaml"))


def test_links_come_from_the_most_particular_road_that_is_said() -> None:
    world = cluster(SITES).world(batch=8, num_train=100, num_values=10)
    roads = {(k.a, k.b): (k.bytes_per_s / 125_000, round(1e3 * k.latency_s)) for k in world.links}
    assert roads == {
        ("pc-1", "pc-2"): (800, 0),  # inside a site
        ("pc-1", "srv"): (40, 5),  # the default, over one uplink
        ("pc-2", "srv"): (40, 5),
        ("pc-1", "pi"): (8, 22),
        ("pc-2", "pi"): (8, 22),
        ("pi", "srv"): (16, 1),  # between these two, whatever their uplinks
    }


def test_links_that_stand_for_all_price_every_meeting_as_all_would() -> None:
    text = SITES.replace("count: 2", "count: 30").replace("name: pi,", "name: pi, count: 4,")
    described = cluster(text)
    few = described.world(8, 100, 10)
    pairs = [
        described.links_among(pair)[0]
        for pair in combinations((device.name for device in few.devices), 2)
    ]
    assert len(few.links) < len(pairs) / 4
    layout = Layout(("w",), ((1_000,),))
    for strategy in (recipes.all_reduce(), recipes.diloco_int8(16)):
        prices = {strategy.price(layout, len(few.devices), k) for k in (few.links, tuple(pairs))}
        assert len(prices) == 1


@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_a_speed_divides_the_measured_step(speed: float) -> None:
    described = cluster(f"machines: [{{name: pc, speed: {speed}, fails_every_h: 2}}]")
    (device,) = described.world(8, 100, 10, Load(0.25, 0.5)).devices
    assert (device.overhead_s, device.per_sample_s) == (0.25 / speed, 0.5 / speed)
    assert device.failures_per_s == 1 / 7200


def test_memory_beside_the_model_bounds_the_batch() -> None:
    described = cluster(PLAIN.replace("count: 2", "memory_gb: 1"))
    (device,) = described.world(8, 100, 10_000_000, Load(0, 1, bytes_per_sample=1e7)).devices
    assert device.max_batch == int((0.8e9 - 160e6) / 1e7)


def test_a_kind_can_be_one_more_one_less_or_none() -> None:
    described = cluster(SITES)
    more, none = described.counting("pi", 2), described.counting("pi", 0)
    assert more is not None
    assert none is not None
    assert (more.num_machines, none.num_machines) == (5, 3)
    assert none.links.between == []
    assert (more.requests, none.requests) == (described.requests, None)
    assert cluster(PLAIN.replace("count: 2, ", "")).counting("pc", 0) is None


def test_some_of_the_machines_are_a_world_of_their_own() -> None:
    described = cluster(SITES)
    some = described.world(8, 100, 10, among=("srv", "pc-2"))
    assert some == described.world(8, 100, 10).only(("pc-2", "srv"))
    assert described.num_of_kinds(("srv", "pc-2", "pc-1")) == (("pc", 2), ("srv", 1))


def test_a_job_finds_what_is_known_of_it_and_one_that_is_not_named_is_refused() -> None:
    described = cluster(LINKED + "tasks: {cats: {samples: 9, priority: 2}, dogs: {}}")
    assert described.about("cats").task.samples == 9
    with pytest.raises(JobError, match=r"expected the job cat under tasks .* found cats, dogs; "):
        described.about("cat")


def test_every_road_that_is_said_is_made_faster_once() -> None:
    faster = dict(cluster(SITES).faster_roads(10))
    assert list(faster) == [
        "links.default",
        "links.inside",
        "the link of pi and srv",
        "the uplink of srv",
        "the uplink of pi",
    ]
    assert faster["the link of pi and srv"].links.between[0].mbit_per_s == 160


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machines: []", "machines: expected"),
        ("machine: []", "found 'machine'; did you mean 'machines'?"),
        (LINKED.replace("count", "cuont"), "a key of machines.0, found 'cuont'; did you mean"),
        (LINKED.replace("per_sample_ms: 1", "per_sample_ms: 0"), "greater than 0, found 0"),
        (LINKED.replace("overhead_ms: 10, per_sample_ms: 1", "speed: 0"), "found 0; mend it"),
        (LINKED.replace("overhead_ms: 10", "speed: 1"), "either overhead_ms and per_sample_ms"),
        (LINKED.replace(", per_sample_ms: 1", ""), "per_sample_ms beside overhead_ms, found none"),
        (LINKED.replace("count: 2", "count: 0"), "machines.0.count: expected greater than or"),
        (LINKED.replace("count: 2", "site: home"), "expected links.inside beside the site home"),
        (PLAIN, "expected a link between pc and pc, found none; add links.default"),
        (LINKED.replace("80", "-1"), "links.default.mbit_per_s: expected greater than 0, found -1"),
        (SITES.replace("name: pi", "name: srv"), "different names, found srv twice"),
        (SITES.replace("name: srv", "name: pc-1"), "different names, found pc-1 twice"),
        (SITES.replace("a: pi", "a: phone"), "that are described (pc, srv, pi), found 'phone'"),
        (LINKED + "task: {parameters: 1.5}", "a whole number of parameters, found 1.5"),
        (LINKED + "tasks: {cats: {priority: -1}}", "tasks.cats.priority: expected greater than or"),
        (LINKED + "tasks: {cats: {}, cats: {}}", "the key 'cats' twice"),
        (LINKED + "task: {samples: 9}\ntasks: {cats: {}}", "either task, of one job, or tasks"),
        (LINKED + "requests: {asked_by: pi, per_s: 1, seconds: 1}", "asked_by to name machines"),
        (LINKED + "requests: {asked_by: pc, per_s: 1, seconds: {pi: 1}}", "found 'pi'; name one"),
        (
            LINKED + "requests: {asked_by: pc, per_s: 1, seconds: 0}",
            "0 or a mapping, found 0; mend",
        ),
        ("- pc", "expected a mapping of the cluster's keys, found ['pc']"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(JobError) as refusal:
        load_cluster(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert said in str(refusal.value)


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"expected a cluster file at .*absent"):
        load_cluster(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machines: [{name: pc, speed: 2}]", "a measured step that the speed of pc is relative"),
        ("machines: [{name: pc}]", "either overhead_ms and per_sample_ms, or speed, found neither"),
        (PLAIN.replace("count: 2", "memory_gb: 0.001"), "expected pc to hold a model of 1,000,000"),
    ],
)
def test_what_only_the_job_shows_to_be_impossible_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        cluster(text).world(8, 100, 1_000_000)


def test_a_road_says_nothing_of_those_who_do_not_meet() -> None:
    alone = Cluster(machines=[Machine(name="pc", speed=1)], links=Links())
    assert alone.world(8, 100, 10, Load(0, 1)).links == ()
    assert Road(mbit_per_s=8).faster(10).mbit_per_s == 80

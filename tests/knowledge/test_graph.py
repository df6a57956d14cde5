"""The graph of who helps whom: its groups, and what it is saved as."""

from __future__ import annotations

import math
import random
import sys
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

from coterie.errors import JobError
from coterie.knowledge.graph import XMLNS, Graph, gathered


def graph(help_MM: list[list[float]], error: float = 0.05) -> Graph:
    num = len(help_MM)
    names = tuple("abcdefgh"[:num])
    return Graph(names, "test", tuple(map(tuple, help_MM)), ((error,) * num,) * num)


def blocks(sizes: list[int], within: float, between: float, noise: float = 0.0) -> Graph:
    of = [at for at, size in enumerate(sizes) for _ in range(size)]
    rng = random.Random(0)
    return graph(
        [
            [(within if of[i] == of[j] else between) + rng.gauss(0, noise) for j in range(len(of))]
            for i in range(len(of))
        ]
    )


def sizes(found: Graph) -> list[int]:
    return [len(group) for group in found.groups()]


def test_all_kin_are_one_group_none_are_many_and_mixed_ones_are_told_apart() -> None:
    assert sizes(blocks([6], 0.5, 0.5, noise=0.2)) == [6]
    assert sizes(blocks([1] * 6, 1.0, -0.5, noise=0.2)) == [1] * 6
    assert blocks([3, 3], 0.5, -1.0, noise=0.2).groups() == (("a", "b", "c"), ("d", "e", "f"))
    assert sizes(blocks([1] * 6, 1.0, 0.0, noise=0.03)) == [1] * 6  # nothing but chance


def test_the_largest_gap_is_no_border() -> None:
    strong = [[0.9, 0.9, 0.2], [0.9, 0.9, 0.2], [0.2, 0.2, 0.9]]
    assert sizes(graph(strong)) == [3]
    weak = [[1.0, -0.1, -3.0], [-0.1, 1.0, -3.0], [-3.0, -3.0, 1.0]]
    assert sizes(graph(weak)) == [1, 1, 1]


def test_one_bridge_does_not_join_what_hurts_otherwise() -> None:
    matrix = [[0.5 if (i < 3) == (j < 3) else -1.0 for j in range(6)] for i in range(6)]
    matrix[2][3] = matrix[3][2] = 0.4
    assert sizes(graph(matrix)) == [3, 3]


def test_the_order_of_members_changes_nothing() -> None:
    found = blocks([2, 2], 0.5, -1.0, noise=0.1)
    wanted = {frozenset(group) for group in found.groups()}
    for order in permutations(range(4)):
        help_MM = tuple(tuple(found.help_MM[i][j] for j in order) for i in order)
        names = tuple(found.names[i] for i in order)
        turned = Graph(names, "test", help_MM, found.error_MM)
        assert {frozenset(group) for group in turned.groups()} == wanted


def test_unknown_pairs_do_not_count() -> None:
    nan = math.nan
    found = graph([[1.0, 0.5, nan], [0.5, 1.0, nan], [nan, nan, 1.0]])
    assert found.groups() == (("a", "b"), ("c",))
    assert found.kin("a") == {"b"}
    assert found.kin("c") == frozenset()
    assert len(list(found.lines())) == 3
    with pytest.raises(JobError, match="expected one of a, b, c, found z"):
        found.kin("z")


def test_rows_of_members_come_together_by_name() -> None:
    found = gathered("m", {"b": {"a": (0.5, 0.1)}, "a": {"b": (-1.0, 0.2), "stranger": (1.0, 0.0)}})
    assert found.names == ("a", "b")
    assert (found.help_MM[0][1], found.help_MM[1][0]) == (0.5, -1.0)
    assert (found.error_MM[0][1], found.error_MM[1][0]) == (0.1, 0.2)


def test_json_and_graphml_say_the_same_graph(tmp_path: Path) -> None:
    found = graph([[1.0, 0.5, math.nan], [0.25, 1.0, -2.0], [0.1, -1.0, 1.0]])
    path = found.save(tmp_path / "who.json")
    read = Graph.from_json(path.read_text())
    assert read.to_json() == found.to_json()
    assert read.groups() == found.groups()
    root = xml.parse(found.save(tmp_path / "who.graphml")).getroot()
    edges = root.findall(f".//{{{XMLNS}}}edge")
    assert {(e.get("source"), e.get("target")): float(e[0].text or "") for e in edges} == {
        ("a", "b"): 0.5,
        ("b", "a"): 0.25,
        ("b", "c"): -2.0,
        ("c", "a"): 0.1,
        ("c", "b"): -1.0,
    }


def test_networkx_reads_its_graphml(tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    found = graph([[1.0, 0.5], [0.25, 1.0]])
    read = networkx.read_graphml(found.save(tmp_path / "who.graphml"))
    assert read.edges["a", "b"]["help"] == 0.5
    assert read.nodes["a"]["group"] == read.nodes["b"]["group"] == 0


def test_a_picture_needs_matplotlib_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(JobError, match=r"pip install 'coterie\[plots\]'"):
        graph([[1.0]]).save(tmp_path / "who.png")
    with pytest.raises(JobError, match=r"ends in .json, .graphml or .png"):
        graph([[1.0]]).save(tmp_path / "who.dot")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = blocks([3, 2], 0.5, -1.0).save(tmp_path / "who.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"names": ["a"], "help_MM": [[1]]}'])
def test_what_is_no_graph_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="expected a graph"):
        Graph.from_json(text)
    with pytest.raises(JobError, match="names of their own"):
        Graph(("a", "a"), "m", ((1.0, 1.0),) * 2, ((0.0, 0.0),) * 2)

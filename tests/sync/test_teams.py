"""How members are cut into islands and pipelines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import JobError, StrategyError
from coterie.sync.teams import Islands, Pipeline, Team
from coterie.types import Ctx

NAMES = ["e", "a", "d", "b", "c"]
groups = st.integers(1, 12).map(lambda num: [f"m{i:02}" for i in range(num)])


@given(groups, st.integers(1, 6))
def test_islands_hold_everybody_once_and_are_about_equal(members: list[str], num: int) -> None:
    teams = Islands(num).teams(members[::-1])
    assert [name for team in teams for name in team] == members
    assert len(teams) == min(num, len(members))
    sizes = [len(team) for team in teams]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("team", [Islands(2), Pipeline(("1",)), Islands((tuple("abcde"),))])
def test_all_members_cut_alike(team: Team) -> None:
    assert team.teams(NAMES) == team.teams(sorted(NAMES))
    for name in NAMES:
        assert name in team.team_of(name, NAMES)


def test_named_islands_keep_their_names_and_lose_those_who_left() -> None:
    islands = Islands((("a", "z"), ("b",), ("y",)))
    assert islands.teams(["b", "a"]) == (("a",), ("b",))


def test_who_has_no_island_is_told_to_be_given_one() -> None:
    with pytest.raises(JobError, match="found none for c"):
        Islands((("a",), ("b",))).teams(["a", "b", "c"])


def test_a_crew_stands_in_its_own_order_and_closes_ranks_when_one_is_gone() -> None:
    cut = Pipeline(("1",), crew=("e", "c", "a"))
    assert cut.teams(NAMES) == (("e", "c"), ("a", "b"), ("d",))
    assert cut.teams(["a", "b", "e"]) == (("e", "a"), ("b",))
    assert cut.crew_of("b", ["a", "b", "e"]) == (("e", "a"), ("e", "a", "b"))
    assert cut.weights({"a": 1.0, "b": 2.0, "e": 4.0}) == {"a": 7.0, "b": 0.0, "e": 7.0}


def test_a_pipeline_needs_a_member_for_each_stage() -> None:
    assert Pipeline(("1", "2")).least == 3
    with pytest.raises(JobError, match="expected 3 members for the 3 stages"):
        Pipeline(("1", "2")).teams(["a", "b"])


@given(groups.filter(lambda members: len(members) >= 3), st.data())
def test_what_goes_through_pipelines_is_counted_once_for_each_stage(
    members: list[str], data: st.DataObject
) -> None:
    cut = Pipeline(("1", "2"))
    weights = {name: float(data.draw(st.integers(0, 9))) for name in members}
    counted = cut.weights(weights)
    assert sum(counted.values()) == 3 * sum(weights.values())
    crews = {cut.crew_of(name, members) for name in members}
    assert sorted(name for _, crew in crews for name in crew) == members


def test_a_team_walks_as_one_and_leaves_the_delta() -> None:
    delta_N = torch.ones(3)
    assert Islands(2).update(delta_N, None, Ctx())[0] is delta_N


@pytest.mark.parametrize("islands", [0, -1, True, 1.5, (), ((),), (("a",), "b"), ((1,),), "ab"])
def test_what_is_no_cut_into_islands_is_refused(islands: object) -> None:
    with pytest.raises(StrategyError, match="a number of islands, or the names in each"):
        Islands(islands)  # type: ignore[arg-type]


@pytest.mark.parametrize("cuts", [(), ("",), "body", ("a", "a"), (1,), ["a"]])
def test_what_is_no_cut_into_stages_is_refused(cuts: object) -> None:
    with pytest.raises(StrategyError, match="names of the modules"):
        Pipeline(cuts)  # type: ignore[arg-type]


@pytest.mark.parametrize("crew", ["ab", ("a", "a"), ("",), (1,), ["a"]])
def test_what_is_no_crew_is_refused(crew: object) -> None:
    with pytest.raises(StrategyError, match="names of members in the order of their stages"):
        Pipeline(("1",), crew=crew)  # type: ignore[arg-type]

"""Pipelines are chosen where they are predicted to win, and nowhere else."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations

import pytest

from coterie.coordinator.decide import decide
from coterie.coordinator.model import predict, shares_for
from coterie.coordinator.parallel import passing_s, pipeline_shares, pipelines
from coterie.coordinator.progress import DOUBT
from coterie.coordinator.split import split
from coterie.sync.reading import parse
from coterie.sync.teams import Pipeline
from coterie.types import Layout
from coterie.world import Decision, Device, Layer, Link, World

MBIT = 125_000
PARAMETERS = 25_000_000


def world(
    bytes_per_s: float = 10 * MBIT,
    sent_bytes: float = 1_000,
    per_sample_s: tuple[float, ...] = (0.01, 0.01),
    batch: int = 32,
    memory_bytes: int | None = None,
) -> World:
    """Ten layers of 10 MB on devices that need 0.32 s alone for a step on the batch."""
    devices = tuple(
        Device(f"d{i}", 0.0, c, 64, memory_bytes=memory_bytes) for i, c in enumerate(per_sample_s)
    )
    links = tuple(Link(a.name, b.name, 0.001, bytes_per_s) for a, b in combinations(devices, 2))
    layers = tuple(Layer(f"{i}", 1.0, 4 * PARAMETERS // 10, 10_000, sent_bytes) for i in range(10))
    return World(devices, links, batch, 500_000, chain=layers)


def choose(asked: World) -> Decision:
    return decide(asked, Layout(("w",), ((PARAMETERS,),)), 1, "start")


def team(decision: Decision) -> object:
    return parse(decision.chosen.strategy).team


def test_large_layers_with_small_activations_on_slow_links_are_cut():
    decision = choose(world())
    cut = team(decision)
    assert isinstance(cut, Pipeline)
    assert (cut.cuts, set(cut.crew)) == (("5",), {"d0", "d1"})
    assert decision.chosen.efficiency == 1.0
    assert any(reason.startswith("Stages: ") for reason in decision.reasons)
    assert any("Pipeline" not in option.strategy for option in decision.rejected)


def test_a_faster_device_holds_more_layers_and_may_stand_anywhere():
    cut = team(choose(world(per_sample_s=(0.04, 0.01))))
    assert isinstance(cut, Pipeline)
    assert cut.cuts == (("8",) if cut.crew[0] == "d1" else ("2",))


@pytest.mark.parametrize(
    "asked",
    [
        world(bytes_per_s=1e11),
        world(sent_bytes=1e6),
        replace(world(), chain=()),
        replace(world(), chain=world().chain[:1]),
        world(per_sample_s=(0.01,)),
    ],
    ids=["fast links", "large activations", "no chain", "one layer", "one device"],
)
def test_elsewhere_whole_models_learn_side_by_side(asked):
    assert team(choose(asked)) is None


def test_what_is_rejected_shows_the_pipeline_with_its_price():
    rejected = [o for o in choose(world(bytes_per_s=1e10)).rejected if "Pipeline" in o.strategy]
    assert rejected[0].round_s > 0


def test_a_sentence_is_priced_as_its_split_was():
    generator = random.Random(0)
    for _ in range(40):
        speeds = tuple(generator.uniform(0.001, 0.1) for _ in range(generator.randint(2, 4)))
        asked = world(10 ** generator.uniform(5, 8), 10 ** generator.uniform(2, 5), speeds)
        layers = (replace(layer, per_sample_s=generator.random()) for layer in asked.chain)
        asked = replace(asked, chain=tuple(layers))
        found = split(asked, m := generator.randint(1, 9), least_stages=2)
        cut = Pipeline(found.cuts, micro_batches=m, crew=found.crew)
        shares = pipeline_shares(asked.batch, found.crew)
        taken_s = passing_s(cut, shares, asked.only(found.crew))
        assert taken_s == pytest.approx(found.step_s, rel=1e-9)


def test_two_pipelines_side_by_side_lose_what_replicas_lose():
    asked = world(per_sample_s=(0.01,) * 4)
    two = parse("chain(Every(8), Pipeline(('5',), crew=('d3', 'd0')), Reduce(), Outer(1.0))")
    option = predict(asked, Layout(("w",), ((100,),)), two, shares_for(two, asked))
    kept = two.prior.kept(2.0)
    assert option.efficiency == kept * math.exp(-DOUBT * (1 - kept)) < 1
    alone_s = predict(
        asked, Layout(("w",), ((100,),)), two, pipeline_shares(32, ("d3", "d0"))
    ).round_s
    assert option.round_s == pytest.approx(alone_s / 2, rel=0.1)


@pytest.mark.parametrize(
    "asked",
    [
        world(memory_bytes=PARAMETERS * 4),
        replace(world(), links=()),
        world(batch=1),
        replace(world(), chain=(*world().chain[1:], Layer("x", float("nan"), 1, 1, 1))),
    ],
    ids=["no memory", "no link", "a single sample", "garbage"],
)
def test_no_pipeline_is_offered_that_could_not_run(asked):
    assert pipelines(asked, Layout(("w",), ((PARAMETERS,),))) == {}


def test_memory_decides_where_a_stage_fits_and_the_whole_chain_does_not():
    # Beside four vectors of 100 MB, 10 layers with their optimizer need 400 MB.
    (first, *_) = pipelines(world(memory_bytes=650_000_000), Layout(("w",), ((PARAMETERS,),)))
    assert first.team is not None
    assert first.team.least == 2
    assert pipelines(world(memory_bytes=550_000_000), Layout(("w",), ((PARAMETERS,),))) == {}


def test_shares_of_a_crew_are_even_whatever_its_memory():
    assert pipeline_shares(7, ("b", "a")) == {"b": 4, "a": 3}

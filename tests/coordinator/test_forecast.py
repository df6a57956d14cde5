"""Forecasts: time by formula, what another cluster would bring, and the words for both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.cluster import Cluster, checked
from coterie.coordinator.decide import decide
from coterie.coordinator.forecast import Forecast, Question, forecast, sentences
from coterie.errors import JobError
from coterie.inventory import Links, Machine, Road
from coterie.sync.reading import parse
from coterie.types import Layout
from coterie.world import World

LAYOUT = Layout(("w",), ((100_000,),))
FAST, SLOW = Road(mbit_per_s=1000, latency_ms=0.1), Road(mbit_per_s=10, latency_ms=5)
PC = Machine(name="pc", count=2, overhead_ms=10, per_sample_ms=1)
PI = Machine(name="pi", overhead_ms=20, per_sample_ms=4, uplink=SLOW)
CLUSTER = Cluster(machines=[PC, PI], links=Links(default=FAST))
QUESTION = Question(LAYOUT, {"epochs": 3.0}, None)


def world(cluster: Cluster) -> World:
    return cluster.world(batch=128, num_train=12_800, num_values=LAYOUT.size)


def told(cluster: Cluster = CLUSTER, question: Question = QUESTION) -> Forecast:
    return forecast(cluster, world, question)


def test_time_is_samples_over_throughput_and_a_metric_has_none() -> None:
    until = {"epochs": 3.0, "steps": 64.0, "minutes": 2.0, "accuracy": 0.9}
    found = told(question=replace(QUESTION, until=until, asked=parse("local-sgd(16)")))
    chosen = found.decision.chosen
    assert found.epoch_s == pytest.approx(12_800 / chosen.throughput_per_s)
    assert found.until_s == {
        "epochs": pytest.approx(3 * found.epoch_s),
        "steps": pytest.approx(4 * chosen.round_s),
        "minutes": 120.0,
        "accuracy": None,
    }


def test_what_one_more_brings_is_what_is_decided_with_one_more() -> None:
    found = told()
    change = next(change for change in found.machines if change.what == "one more pc")
    bigger = Cluster(machines=[PC.model_copy(update={"count": 3}), PI], links=Links(default=FAST))
    best = told(bigger).decision.chosen
    assert change.goodput_per_s == pytest.approx(best.goodput_per_s)
    assert change.gain == pytest.approx(
        best.goodput_per_s / found.decision.chosen.goodput_per_s - 1
    )


def test_the_last_machine_cannot_be_spared() -> None:
    alone = Cluster(machines=[Machine(name="pc", overhead_ms=10, per_sample_ms=1)])
    found = told(alone)
    assert (found.roads, found.bottleneck) == ((), None)
    assert found.machines[-1].refused == "nobody would be left"
    assert "One pc less: impossible: nobody would be left." in list(sentences(found))


def test_the_bottleneck_is_the_road_whose_speed_would_bring_most() -> None:
    slow = Cluster(machines=[PC], links=Links(default=SLOW))
    question = replace(QUESTION, asked=parse("all-reduce"))
    worst = told(slow, question).bottleneck
    assert worst is not None
    assert worst.what == "links.default"
    swift = dict(slow.faster_roads(10))["links.default"]
    best = decide(world(swift), LAYOUT, 1, "", question.asked and (question.asked,)).chosen
    assert worst.goodput_per_s == pytest.approx(best.goodput_per_s)
    free = Links(default=Road(mbit_per_s=100_000))
    assert told(Cluster(machines=[PC], links=free)).bottleneck is None


def test_a_cluster_that_cannot_hold_the_batch_is_refused() -> None:
    tiny = Machine(name="pc", overhead_ms=1, per_sample_ms=1)
    with pytest.raises(JobError, match="room for 4"):
        forecast(
            Cluster(machines=[tiny]),
            lambda cluster: replace(
                world(cluster), devices=(replace(world(cluster).devices[0], max_batch=4),)
            ),
            QUESTION,
        )


def test_a_thousand_machines_are_told_in_a_screen() -> None:
    kinds = [
        Machine(name="pc", count=600, overhead_ms=10, per_sample_ms=50),
        Machine(name="pi", count=400, overhead_ms=20, per_sample_ms=200),
    ]
    many = Cluster(machines=kinds, links=Links(default=FAST))
    words = list(
        sentences(
            forecast(
                many, lambda c: c.world(batch=4_000, num_train=40_000, num_values=10), QUESTION
            )
        )
    )
    assert len(words) < 40
    assert max(map(len, words)) < 400
    assert any("pc-001, pc-002, pc-003 and 597 others" in line for line in words)


ANY = st.sampled_from([1e-300, 1e-6, 0.01, 1.0, 50.0, 1e15])


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_whatever_is_described_is_planned_or_refused_in_a_sentence(data: st.DataObject) -> None:
    draw = data.draw
    described = {
        "machines": [
            {"name": name, "count": draw(st.integers(1, 2)), "fails_every_h": draw(ANY),
             "memory_gb": draw(ANY), "overhead_ms": draw(ANY), "per_sample_ms": draw(ANY)}
            for name in "ab"
        ],
        "links": {"default": {"mbit_per_s": draw(ANY), "latency_ms": draw(ANY)}},
    }  # fmt: skip
    batch, num_train, num_values = (draw(st.sampled_from([1, 64, 10**6])) for _ in range(3))
    asked = draw(st.sampled_from([None, parse("all-reduce"), parse("diloco(8)")]))
    question = Question(Layout(("w",), ((num_values,),)), {"steps": 9.0, "epochs": 2.0}, asked)
    try:
        here = checked(described, "cluster.yaml")
        found = forecast(here, lambda c: c.world(batch, num_train, num_values), question)
    except JobError:  # and nothing else
        return
    assert found.decision.chosen.goodput_per_s > 0
    assert "nan" not in " ".join(sentences(found))


def test_a_link_on_which_nothing_moves_leaves_the_best_alone() -> None:
    links = Links(default=Road(mbit_per_s=1e-300))
    found = told(Cluster(machines=[PC], links=links))
    assert len(found.decision.chosen.shares) == 1

"""What meetings cost: as the talks move bytes, as codecs were measured, less what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.model import predict
from coterie.coordinator.prices import (
    BACKWARD,
    Cohort,
    codec_s,
    cohort_of,
    hidden_s,
    roads_s,
    sentence_of,
    step_s,
)
from coterie.coordinator.shares import exact_shares
from coterie.errors import JobError
from coterie.sync import recipes
from coterie.sync.reading import parse
from coterie.types import Layout
from coterie.world import Device, Link, World

MEGABYTES = Layout(tuple("abcdefgh"), ((1_100, 1_000),) * 8)  # 35 MB: eight buckets
SMALL = Layout(("w",), ((1_000,),))
NAMES = ("a1", "a2", "b1", "b2")


def cohort(fast: float = 1e9, slow: float = 1e9, latency_s: float = 1e-4) -> Cohort:
    """Two rooms of two: `fast` bytes a second inside each, `slow` between them."""
    devices = tuple(Device(name, 0.01, 0.001, 512) for name in NAMES)
    links = tuple(
        Link(a, b, latency_s, fast if a[0] == b[0] else slow)
        for i, a in enumerate(NAMES)
        for b in NAMES[i + 1 :]
    )
    return cohort_of(World(devices, links, 64, 10_000), dict.fromkeys(NAMES, 16))


def price(sentence: str, met: Cohort, layout: Layout = MEGABYTES) -> float:
    """Of a meeting on the road, on average."""
    roads = roads_s(sentence_of(parse(sentence), layout), met)
    return sum(roads) / len(roads)


@pytest.mark.parametrize(("megabits", "measured_s"), [(10, 968 / 169), (100, 99 / 169)])
def test_an_all_reduce_on_four_slow_hosts_is_priced_as_it_was_measured(
    megabits: float, measured_s: float
) -> None:
    """The steps of benchmarks/sync.md: 4.1 MB, of which 9.56 of 10 Mbit/s were got."""
    layout, slow = Layout(("w",), ((1_026_497,),)), 0.956 * megabits * 1e6 / 8
    assert price("all-reduce", cohort(slow, slow), layout) == pytest.approx(measured_s, rel=0.03)


@pytest.mark.parametrize(
    ("sentence", "part"),
    [
        ("all-reduce-fp16", 1 / 2),
        ("all-reduce-int8", 1 / 4),
        ("chain(ErrorFeedback(Int4()), Reduce())", 0.133),
        ("chain(TopK(0.01), Reduce())", 0.04),
    ],
)
def test_a_packet_is_priced_by_the_bytes_that_really_travel(sentence: str, part: float) -> None:
    met = cohort(1e6, 1e6, latency_s=0.0)
    assert price(sentence, met) == pytest.approx(part * price("all-reduce", met), rel=0.02)


def test_fragments_of_unequal_size_are_priced_one_by_one() -> None:
    uneven = Layout(("table", "a", "b", "c"), ((900_000,), (1_000,), (1_000,), (1_000,)))
    met = cohort(1e6, 1e6, latency_s=0.0)
    whole = price("chain(Every(64), Reduce(), Outer(1.0))", met, uneven)
    parts = price("chain(Every(64, fragments=4), Reduce(), Outer(1.0))", met, uneven)
    assert parts == pytest.approx(whole / 4)


def test_codecs_cost_what_was_measured_of_each_and_of_parts_two_are_opened() -> None:
    def codec(sentence: str, num_members: int) -> float:
        return codec_s(sentence_of(parse(sentence), MEGABYTES), num_members)

    assert codec("all-reduce", 4) == codec("all-reduce-int8", 1) == 0.0
    assert codec("all-reduce-fp16", 4) < codec("all-reduce-int8", 4) < codec("sparse-loco(8)", 4)
    assert codec("all-reduce-int8", 64) < codec("all-reduce-int8", 3)
    assert codec("sparse-loco(8)", 64) > 10 * codec("sparse-loco(8)", 3)


def test_packing_takes_as_long_as_whoever_is_granted_the_smallest_part_of_a_core() -> None:
    def exchange_s(sentence: str, cores: float) -> float:
        devices = (Device("a", 0.01, 0.001, 512, cores=cores), Device("b", 0.01, 0.001, 512))
        world = World(devices, (Link("a", "b", 1e-4, 1e9),), 64, 10_000)
        return predict(world, MEGABYTES, parse(sentence), {"a": 32, "b": 32}).exchange_s

    assert exchange_s("all-reduce", 0.25) == exchange_s("all-reduce", 8.0)
    packing_s = codec_s(sentence_of(parse("all-reduce-int8"), MEGABYTES), 2)
    more_s = exchange_s("all-reduce-int8", 0.25) - exchange_s("all-reduce-int8", 8.0)
    assert more_s == pytest.approx(3 * packing_s)


def finished_s(num: int, road_s: float, backward_s: float) -> float:
    """After the backward pass began: buckets come one by one and are summed one by one."""
    free_s = 0.0
    for bucket in range(1, num + 1):
        free_s = max(free_s, bucket / num * backward_s) + road_s / num
    return free_s


@given(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0))
def test_gradients_are_summed_in_buckets_while_the_backward_pass_goes_on(
    road_s: float, one_step_s: float
) -> None:
    sentence, backward_s = sentence_of(recipes.all_reduce(), MEGABYTES), BACKWARD * one_step_s
    assert sentence.num_buckets == 8
    unhidden_s = backward_s + road_s - hidden_s(sentence, [road_s], one_step_s)
    assert unhidden_s == pytest.approx(finished_s(8, road_s, backward_s))


@pytest.mark.parametrize("sentence", ["all-reduce-fp16", "local-sgd(8)", "parameter-server"])
def test_what_does_not_stream_hides_nothing(sentence: str) -> None:
    assert hidden_s(sentence_of(parse(sentence), MEGABYTES), [1.0], 1.0) == 0.0
    assert hidden_s(sentence_of(recipes.all_reduce(), SMALL), [1.0], 1.0) == 0.0  # one bucket


def test_an_option_says_what_it_hides_and_a_round_is_shorter_by_that() -> None:
    met = cohort(4e6, 4e6)
    option = predict(met.world, MEGABYTES, parse("streaming-diloco(64, 4, 8)"), met.shares)
    still = predict(met.world, MEGABYTES, parse("streaming-diloco(64, 4, 0)"), met.shares)
    assert 0 < option.hidden_s < option.exchange_s == still.exchange_s
    assert still.round_s - option.round_s == pytest.approx(option.hidden_s)


def test_what_meetings_were_measured_to_cost_beyond_their_price_is_paid_inside_islands_too() -> (
    None
):
    met, tiers = cohort(), sentence_of(parse('tiers(8, (("a1", "a2"), ("b1", "b2")))'), SMALL)
    dear = replace(met, world=replace(met.world, meeting_s=0.5))
    assert step_s(tiers, dear) == pytest.approx(step_s(tiers, met) + 0.5)


def test_islands_pay_for_a_sum_inside_at_each_step_and_meet_by_their_first_members() -> None:
    met, islands = cohort(fast=1e9, slow=1e5), '(("a1", "a2"), ("b1", "b2"))'
    tiers = sentence_of(parse(f"tiers(32, {islands})"), MEGABYTES)
    inside_s = recipes.all_reduce().price(MEGABYTES, 2, met.world.only(("a1", "a2")).links)
    assert step_s(tiers, met) == pytest.approx(met.step_s + inside_s)
    between_s = recipes.all_reduce_int8().price(MEGABYTES, 2, met.world.only(("a1", "b1")).links)
    assert between_s < roads_s(tiers, met)[0] < between_s + 2 * inside_s + 0.01
    flat = sentence_of(recipes.diloco_int8(32), MEGABYTES)
    assert roads_s(tiers, met)[0] < roads_s(flat, met)[0]


def test_who_waits_for_nobody_pays_no_road_and_who_has_none_is_refused() -> None:
    alone = cohort_of(cohort().world, {"a1": 64})
    for name in ("all-reduce", "streaming-diloco(8, 4, 1)", 'tiers(8, (("a1", "a2"),))'):
        assert price(name, alone) == 0.0
    nowhere = World(cohort().world.devices, (), 64, 100)
    with pytest.raises(JobError, match="links that reach 4 members"):
        cohort_of(nowhere, exact_shares(64, nowhere.devices))

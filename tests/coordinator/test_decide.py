"""Decisions: pure, milliseconds, and what an expert would have chosen."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.cluster import Cluster
from coterie.coordinator.candidates import candidates
from coterie.coordinator.decide import decide
from coterie.coordinator.model import predict, shares_for
from coterie.coordinator.rivals import MOST_REFUSED, MOST_REJECTED
from coterie.coordinator.shares import exact_shares, step_s
from coterie.errors import JobError
from coterie.inventory import Machine, Road
from coterie.sync import recipes
from coterie.sync.reading import parse
from coterie.sync.teams import Islands
from coterie.types import Layout
from coterie.world import Decision, Device, Link, World

SMALL = Layout(("w",), ((100, 100),))  # 40 kB
MIDDLE = Layout(("w",), ((1_000, 1_000),))  # 4 MB
BIG = Layout(("w",), ((25_000, 1_000),))  # 100 MB


def mesh(devices: Sequence[Device], bytes_per_s: float, latency_s: float = 1e-4) -> World:
    links = tuple(
        Link(a.name, b.name, latency_s, bytes_per_s)
        for i, a in enumerate(devices)
        for b in devices[i + 1 :]
    )
    return World(tuple(devices), links, batch=128, num_train=100_000)


def unequal(num: int = 3) -> list[Device]:
    return [Device(f"d{i}", 0.005, 0.0005 * 2**i, 512) for i in range(num)]


def choose(world: World, layout: Layout = MIDDLE) -> Decision:
    return decide(world, layout, 1, "start")


def every(decision: Decision) -> int:
    return parse(decision.chosen.strategy).every


def test_a_walk_of_once_an_epoch_is_taken_where_one_of_two_meetings_is_saved():
    world = replace(mesh(unequal(), 1e8), num_train=128 * 12)
    assert recipes.local_sgd(8) in candidates(world)
    assert every(choose(world)) == 12


def test_a_fast_network_means_short_walks_and_all_devices():
    decision = choose(mesh(unequal(), 1e10, latency_s=1e-5))
    assert every(decision) <= 2
    assert set(decision.chosen.shares) == {"d0", "d1", "d2"}


def test_a_megabyte_a_second_means_long_walks():
    decision = choose(mesh([Device(f"d{i}", 0.002, 0.0005, 512) for i in range(3)], 1e6))
    assert every(decision) >= 128
    assert len(decision.chosen.shares) == 3


def test_ten_kilobytes_a_second_with_a_big_model_means_alone():
    decision = choose(mesh(unequal(), 1e4), BIG)
    assert decision.chosen.shares == {"d0": 128}
    assert decision.chosen.exchange_s == 0
    assert every(decision) == 1


def test_a_device_a_hundred_times_slower_is_left_out():
    slow = Device("slow", 2.0, 0.05, 512)
    decision = choose(mesh([*unequal(2), slow], 1e9))
    assert set(decision.chosen.shares) == {"d0", "d1"}
    assert any("slow is left out" in reason for reason in decision.reasons)


def test_a_fast_device_behind_a_slow_road_is_left_out():
    world = mesh(unequal(), 1e9)
    far = Device("far", 0.005, 0.0005, 512)
    roads = tuple(Link("far", device.name, 0.2, 1e4) for device in world.devices)
    decision = choose(world.with_device(far).with_links(roads))
    assert set(decision.chosen.shares) == {"d0", "d1", "d2"}


def test_several_devices_behind_slow_roads_are_all_left_out():
    world = mesh(unequal(4), 1e9)
    for name in ("far1", "far2"):
        roads = tuple(Link(name, device.name, 0.2, 1e4) for device in world.devices)
        world = world.with_device(Device(name, 0.005, 0.0008, 512)).with_links(roads)
    assert set(choose(world).chosen.shares) == {"d0", "d1", "d2", "d3"}


def test_once_a_slow_road_is_cut_off_a_slow_processor_can_still_be_left_out():
    near = mesh([*unequal(2), Device("slow", 2.0, 0.05, 512)], 1e9)
    roads = tuple(Link("far", device.name, 0.2, 1e2) for device in near.devices)
    world = near.with_device(Device("far", 0.005, 0.0006, 512)).with_links(roads)
    assert set(choose(world).chosen.shares) == {"d0", "d1"}
    assert choose(world).chosen == choose(near).chosen


@pytest.mark.parametrize("which", [0, 2], ids=["the fastest", "the slowest"])
def test_a_flaky_device_is_left_out_where_rounds_are_long(which):
    devices = unequal()
    devices[which] = replace(devices[which], failures_per_s=1.0)
    assert f"d{which}" not in choose(mesh(devices, 1e6)).chosen.shares


def test_one_device_alone_works():
    decision = choose(mesh(unequal(1), 1e9))
    assert decision.chosen.strategy == "chain(Reduce())"
    assert decision.chosen.shares == {"d0": 128}
    assert decision.chosen.exchange_s == 0


worlds = st.builds(
    lambda rows, rate, batch: replace(
        mesh([Device(f"d{i}", a, c, 64) for i, (a, c) in enumerate(rows)], rate),
        batch=min(batch, 64 * len(rows)),
    ),
    st.lists(st.tuples(st.floats(0, 0.1), st.floats(1e-5, 0.1)), min_size=1, max_size=4),
    st.floats(1e3, 1e10),
    st.integers(1, 256),
)


@given(worlds)
@settings(max_examples=40, deadline=None)
def test_nothing_rejected_is_better_and_no_candidate_on_everyone_is(world):
    decision = choose(world)
    best = decision.chosen.goodput_per_s
    assert sum(decision.chosen.shares.values()) == world.batch
    assert all(o.goodput_per_s <= best for o in decision.rejected if not o.refused)
    for strategy in (s for s in candidates(world) if not (s.walk and s.walk.paced)):
        shares = shares_for(strategy, world)
        assert predict(world, MIDDLE, strategy, shares).goodput_per_s <= best * (1 + 1e-12)


@given(worlds)
@settings(max_examples=40, deadline=None)
def test_a_decision_is_the_same_for_the_same_world(world):
    assert choose(world) == choose(world)


@given(worlds)
@settings(max_examples=40, deadline=None)
def test_few_sentences_in_plain_words(world):
    reasons = choose(world).reasons
    assert 2 <= len(reasons) <= 5
    assert all(reason.endswith(".") and "nan" not in reason for reason in reasons)


def test_rejected_holds_the_other_kinds_by_goodput_and_no_option_twice():
    decision = choose(mesh(unequal(), 1e7))
    goodputs = [option.goodput_per_s for option in decision.rejected]
    said = [(option.strategy, *option.shares) for option in decision.rejected]
    assert goodputs == sorted(goodputs, reverse=True)
    assert len(set(said)) == len(said) <= MOST_REJECTED
    assert any(strategy == "chain(Reduce())" for strategy, *_ in said)
    assert decision.chosen not in decision.rejected


def test_reasons_name_the_exchange_the_shares_and_the_bargain_of_longer_walks():
    world = mesh(unequal(), 2e7)
    decision = choose(world)
    text = " ".join(decision.reasons)
    assert every(decision) > 1
    assert "chain(Reduce()) would exchange at every step" in text
    assert f"d0 {decision.chosen.shares['d0']}" in text
    assert f"Walks of {2 * every(decision)} steps would save" in text
    assert "d0 alone would reach" in text


def test_reasons_say_when_a_longer_walk_would_outlast_the_data():
    decision = choose(replace(mesh(unequal(), 2e7), num_train=128 * 16))
    assert every(decision) == 16
    assert any("Walks of 32 steps would outlast" in reason for reason in decision.reasons)


def test_a_sentence_is_said_once_though_a_member_without_a_share_makes_two_sets_alike():
    devices = [Device(f"d{i}", 0.0, c, 64) for i, c in enumerate((0.0625, 0.09375, 0.03125))]
    decision = choose(replace(mesh(devices, 2933282.0), batch=3))
    assert "d1" not in decision.chosen.shares
    assert every(decision) > 1
    assert len(set(decision.reasons)) == len(decision.reasons) <= 5


def test_a_strategy_that_was_asked_for_is_taken_and_said_to_be():
    asked = recipes.diloco(64)
    decision = decide(mesh(unequal(), 1e10), MIDDLE, 3, "start", candidates=(asked,))
    assert decision.chosen.strategy == repr(asked)
    assert {option.strategy for option in decision.rejected} == {repr(asked)}
    assert decision.reasons[0].startswith("As asked, ")


def test_a_choice_among_several_is_not_said_to_be_asked_for():
    world = mesh(unequal(), 1e10)
    narrowed = [strategy for strategy in candidates(world) if strategy.walks]
    decision = decide(world, MIDDLE, 1, "start", candidates=narrowed)
    assert parse(decision.chosen.strategy).walks
    assert not any("asked" in reason for reason in decision.reasons)


def test_number_cause_and_world_are_kept():
    world = mesh(unequal(), 1e9)
    decision = decide(world, SMALL, 7, "d2 was lost")
    assert (decision.number, decision.cause, decision.world) == (7, "d2 was lost", world)


def test_what_does_not_fit_into_memory_is_refused_with_its_sentence():
    world = mesh(unequal(), 1e7)
    spare_bytes = dict.fromkeys(("d0", "d1", "d2"), 2 * 4 * MIDDLE.size)
    decision = decide(world, MIDDLE, 1, "start", spare_bytes=spare_bytes)
    refused = [option for option in decision.rejected if option.refused]
    assert every(choose(world)) > 1
    assert every(decision) == 1
    assert not decision.chosen.refused
    assert 1 <= len(refused) <= MOST_REFUSED
    assert all("MB beside the model, found 8.0 MB spare on d" in o.refused for o in refused)


def test_a_device_short_of_memory_is_left_out_rather_than_the_walk():
    decision = decide(mesh(unequal(), 1e6), MIDDLE, 1, "start", spare_bytes={"d2": 0})
    assert set(decision.chosen.shares) == {"d0", "d1"}
    assert every(decision) > 1


def test_a_wish_that_fits_nowhere_is_an_error():
    with pytest.raises(JobError, match=r"fits these devices.*needs .* MB beside the model"):
        decide(
            mesh(unequal(1), 1e9),
            MIDDLE,
            1,
            "start",
            candidates=(recipes.diloco(16),),
            spare_bytes={"d0": 0},
        )


def test_memory_that_holds_the_batch_only_together_keeps_them_together():
    devices = [replace(device, max_batch=64) for device in unequal(2)]
    decision = choose(mesh(devices, 1e3))
    assert decision.chosen.shares == {"d0": 64, "d1": 64}


@pytest.mark.parametrize(
    ("world", "sentence"),
    [
        (World((), (), 8, 100), "found none"),
        (World((Device("a", 0.0, 0.1, 4),), (), 8, 100), "room for 4"),
        (World(tuple(unequal(2)), (), 8, 100), "links that reach 2 members"),
    ],
    ids=["no device", "no room", "no link"],
)
def test_a_world_that_cannot_learn_is_refused(world, sentence):
    with pytest.raises(JobError, match=sentence):
        choose(world)


def test_no_candidate_at_all_is_refused():
    with pytest.raises(JobError, match="found none"):
        decide(mesh(unequal(), 1e9), SMALL, 1, "start", candidates=())


def test_deciding_loads_neither_torch_nor_ray_nor_numpy():
    code = (
        "import sys; from coterie.coordinator import adapt, decide, model, shares; "
        "print({'torch', 'ray', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("sentence", "needed"),
    [
        ("chain(Every(8), Reduce(Krum(1)), Outer(1.0))", 5),
        ("robust(8, 2)", 5),
        ('pipeline(8, ("1", "2", "3"))', 4),
    ],
)
def test_a_sentence_that_needs_more_members_is_refused_in_words(sentence, needed):
    world = mesh(unequal(3), 1e9)
    with pytest.raises(JobError, match=f"needs {needed} members, found 3; start more agents"):
        decide(world, MIDDLE, 1, "start", (parse(sentence),))


def kinds_of_many(*kinds: tuple[str, int, float, float]) -> Cluster:
    """Machines by (name, count, ms a sample, Mbit/s of the uplink)."""
    machines = [
        Machine(name=name, count=num, overhead_ms=5, per_sample_ms=ms, uplink=Road(mbit_per_s=rate))
        for name, num, ms, rate in kinds
    ]
    return Cluster(machines=machines)


@pytest.mark.parametrize(
    "kinds",
    [
        [("pc", 20, 0.5, 1000.0), ("pi", 20, 8.0, 1000.0), ("far", 20, 0.5, 2.0)],
        [("pc", 3, 0.1, 1000.0), ("pi", 40, 4.0, 1000.0), ("slow", 9, 30.0, 1000.0)],
        [("pc", 12, 1.0, 100.0), ("near", 1, 9.0, 100.0), ("far", 30, 1.0, 20.0)],
    ],
)
def test_of_many_the_best_kinds_are_chosen(kinds: list[tuple[str, int, float, float]]) -> None:
    cluster = kinds_of_many(*kinds)
    world = cluster.world(batch=1_024, num_train=100_000, num_values=SMALL.size)
    found = choose(world, SMALL).chosen.goodput_per_s
    for num in range(1, len(kinds) + 1):
        for some in combinations([kind[0] for kind in kinds], num):
            members = tuple(d.name for d in world.devices if d.name.split("-")[0] in some)
            cohort = replace(world.only(members), links=cluster.links_among(members))
            best = max(
                predict(cohort, SMALL, s, exact_shares(1_024, cohort.devices)).goodput_per_s
                for s in candidates(world)
            )
            assert found >= best * 0.99  # an eighth at a time


def rooms(between: float, names: Sequence[str] = ("a1", "a2", "b1", "b2", "c1", "c2")) -> World:
    """Alike devices in rooms named by their first letter, fast inside and slow between."""
    links = tuple(
        Link(a, b, 1e-4, 1e9 if a[0] == b[0] else between)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    )
    devices = tuple(Device(name, 0.01, 0.002, 512) for name in names)
    return World(devices, links, batch=128, num_train=128 * 40)


def test_islands_are_chosen_where_roads_between_rooms_are_slow_and_the_reasons_name_them():
    decision = choose(rooms(between=1e6))
    assert parse(decision.chosen.strategy).team == Islands(
        (("a1", "a2"), ("b1", "b2"), ("c1", "c2"))
    )
    assert any("3 islands (a1, a2; b1, b2; c1, c2)" in reason for reason in decision.reasons)
    assert parse(choose(rooms(between=1e9)).chosen.strategy).team is None


def test_what_is_hidden_is_said_and_the_numbers_add_up():
    asked = parse("streaming-diloco(64, 4, 8)")
    decision = decide(mesh(unequal(), 2e6), MIDDLE, 1, "start", candidates=(asked,))
    option = decision.chosen
    work_s = 16 * step_s(option.shares, decision.world.devices)
    whole_s = work_s * option.samples_per_round / (16 * 128)
    assert option.round_s == pytest.approx(whole_s + option.exchange_s - option.hidden_s)
    assert "of it while they compute)" in decision.reasons[0]


odd = st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-300, 1e300])
odd_worlds = st.builds(
    lambda devices, links, batch, num_train: World(
        tuple(Device(f"d{i}", *device) for i, device in enumerate(devices)),
        tuple(Link(f"d{a}", f"d{b}", *pace) for a, b, pace in links),
        batch,
        num_train,
    ),
    st.lists(
        st.tuples(
            st.floats(0, 1) | odd,
            st.floats(1e-6, 1) | odd,
            st.integers(-1, 64),
            st.floats(0, 1) | odd,
        ),
        max_size=4,
    ),
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 4),
            st.tuples(st.floats(0, 1) | odd, st.floats(1, 1e9) | odd),
        ),
        max_size=6,
    ),
    st.integers(-1, 100),
    st.integers(-1, 1000),
)


@given(odd_worlds, st.dictionaries(st.sampled_from(["d0", "d1"]), st.integers(-1, 10**6)))
@settings(max_examples=150, deadline=None)
def test_an_odd_world_is_decided_or_refused_in_a_sentence(world, spare_bytes):
    found = ""
    try:
        decision = decide(world, SMALL, 1, "start", spare_bytes=spare_bytes)
    except JobError as error:
        found = str(error)
    if found:
        assert found.startswith("expected")
        assert "found" in found
    else:
        assert sum(decision.chosen.shares.values()) == world.batch
        assert decision.chosen.goodput_per_s > 0


def test_who_asks_for_walks_is_not_left_alone_for_the_progress_that_walks_lose():
    devices = tuple(Device(name, 0.04, 0.001, 512) for name in ("a", "b"))
    shared = World(devices, (Link("a", "b", 1e-4, 1e9),), 20, 10_000)
    layout = Layout(("w",), ((1_000,),))
    asked = decide(shared, layout, 1, "", candidates=(recipes.local_sgd(8),)).chosen
    assert asked.shares.keys() == {"a", "b"}
    assert decide(shared, layout, 1, "").chosen.efficiency > asked.efficiency

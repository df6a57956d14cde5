"""An agent that is let in and talks nonsense: it may harm itself, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.transport import messages as say

ints = st.integers(-3, 40) | st.sampled_from([10**18, -(10**18), 2**200])
floats = st.floats(-1.0, 10.0) | st.sampled_from([0.0, float("nan"), float("inf"), -1e300, 1e300])
names = st.sampled_from(["a", "b", "c", "hub", "z", ""])
reports = st.builds(
    say.Report,
    term=ints,
    first_round=ints,
    last_round=ints,
    cohort=st.lists(names, max_size=3).map(tuple),
    num_samples=ints,
    num_steps=ints,
    loss=floats,
    compute_s=floats,
    exchange_s=floats,
    gap_s=floats,
    digest=st.none() | ints,
    stretches=st.lists(st.tuples(ints, ints, floats), max_size=3).map(tuple),
    cores=st.none() | floats,
)
readies = st.builds(
    say.Ready,
    names=st.just(("w",)),
    shapes=st.lists(ints, max_size=2).map(lambda shape: (tuple(shape),)),
    num_train=ints,
    needs_closure=st.booleans(),
)
hellos = st.builds(
    say.Hello,
    name=st.just("b"),  # a driver sees to it that nobody speaks for others
    pid=ints,
    cores=floats,
    memory_bytes=ints,
    device=st.just("cpu"),
    store=st.text(max_size=4),
)
garbage: st.SearchStrategy[Any] = st.one_of(
    reports,
    readies,
    hellos,
    st.builds(say.Beat, computing_s=floats),
    st.builds(
        say.Back,
        hello=hellos,
        ready=readies,
        term=ints,
        round=ints,
        reports=st.lists(reports, max_size=2).map(tuple),
    ),
    st.builds(
        say.Probed,
        timings=st.lists(st.tuples(ints, floats), max_size=3).map(tuple),
        fixed_bytes=ints,
        bytes_per_sample=floats,
    ),
    st.builds(
        say.Linked,
        term=ints,
        links=st.lists(st.tuples(names, floats, floats), max_size=2).map(tuple),
    ),
    st.builds(say.TornRound, term=ints),
    st.builds(
        say.Scores,
        round=ints,
        metrics=st.dictionaries(st.sampled_from(["accuracy", "x"]), floats),
        seconds=floats,
    ),
    st.builds(say.Declined, round=ints, reason=st.text(max_size=4), in_a_row=ints),
    st.builds(say.Offence, member=names, reason=st.text(max_size=4)),
    st.builds(say.State, ticket=ints, file=names, index=st.just(0), total=st.just(10**15)),
    st.builds(say.Refused, reason=st.text(max_size=4)),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(garbage, st.integers(0, 6)), min_size=1, max_size=6))
def test_whatever_an_agent_says_the_coordinator_stands(play, said):
    """It raises nothing of its own accord, answers quickly, and ends only with a sentence."""
    p = play(3, until={"epochs": 2.0}).until_training()
    for message, answers in said:
        p.say("b", message)
        for _ in range(answers):
            if p.run.done:
                return
            p.answer()


@pytest.mark.parametrize("num_samples", [-1, -(10**18)])
def test_less_than_no_samples_tell_nothing_of_progress(play, num_samples):
    p = play(3, until={"epochs": 2.0}).until_training()
    report = {"term": 0, "first_round": 0, "last_round": 0, "cohort": (), "num_steps": 0}
    times = {"loss": 0.0, "compute_s": 0.0, "exchange_s": 0.0}
    p.say("b", say.Report(num_samples=num_samples, **report, **times))
    assert not p.run.done


@pytest.mark.parametrize(
    ("cohort", "seconds"), [(("a", "z"), 1.0), (("a", "b", "c"), 1e-300), (("a", "b"), 1e308)]
)
def test_garbage_about_a_stage_is_believed_of_nobody(play, cohort, seconds):
    p = play(3, until={"epochs": 1e4}, strategy="pipeline(2, ('1',), ('b', 'a'))")
    p.chain = tuple((str(at), 1.0, 1_000, 100, 100) for at in range(4))
    p.until_training()
    words = {"term": 1, "first_round": 10_000, "last_round": 10_000, "num_samples": 8}
    times = {"num_steps": 1, "loss": 1.0, "compute_s": 1.0, "exchange_s": 0.0}
    for _ in range(9):
        told = {"cohort": cohort, "stretches": ((8, 1, seconds),), **words, **times}
        p.say("a", say.Report(**told))
    assert not p.run.failure
    assert 0 < p.run.members["a"].device.step_s(8) < 1e6


@pytest.mark.parametrize("where", [{"round": 10**9}, {"round": -1}, {"stands": 10**9}])
def test_one_that_settles_where_nobody_was_sent_is_ended_and_the_books_stay_whole(play, where):
    p = play(3, until={"epochs": 4.0}).until_training()
    p.until_true(lambda: p.run.ledger.committed > 3)
    p.kill("c")
    known = {"term": p.run.term.number, "round": 4, "stands": 4, "healed": False, "seconds": 0.1}
    p.say("a", say.Settled(**{**known, **where}))
    (offence,) = p.of("offence")
    assert offence["member"] == "a"
    assert p.orders_of(say.Stop, to="a")[-1].at_once
    assert p.run.evicted == ["a"]
    p.kill("a")  # as the driver does for it
    p.to_the_end()
    assert p.run.failure == ""
    assert p.times_learned() == {epoch: {1} for epoch in range(4)}

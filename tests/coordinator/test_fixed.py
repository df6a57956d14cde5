"""Decisions that can be repeated: nothing that is measured makes a difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.fixed import fixed_shares, refuse_unlooped, refuse_unsteady
from coterie.errors import JobError, StrategyError
from coterie.sync.reading import parse
from coterie.transport import messages as say


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8), st.integers(8, 500))
def test_shares_are_whole_and_near_what_speeds_ask_for(speeds: list[float], batch: int) -> None:
    names = [f"agent-{i}" for i in range(len(speeds))]
    shares = fixed_shares(batch, names, speeds)
    assert sum(shares.values()) == batch
    assert min(shares.values()) >= 1
    for name, speed in zip(names, speeds, strict=True):
        exact = batch * speed / sum(speeds)
        assert exact - len(speeds) <= shares[name] < max(1.0, exact) + 1


def test_shares_are_equal_where_no_speeds_are_given() -> None:
    assert fixed_shares(9, ["x", "y"], None) == {"x": 5, "y": 4}


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("asynchronous(2)", "meet the server whenever"),
        ("parameter-server(2)", "goes on without whoever is late"),
        ("dylu(2)", "walk as far as their speed allows"),
        ("streaming-diloco(4, 2, 1)", "land early"),
        ("private(2, 1.0, 0.01)", "noise nobody may know"),
    ],
)
def test_sentences_that_time_or_chance_decides_in_are_refused(sentence: str, words: str) -> None:
    with pytest.raises(JobError, match=words):
        refuse_unsteady(parse(sentence))


@pytest.mark.parametrize("sentence", ["all-reduce", "diloco-int8(4)", "gossip(2, 'ring')"])
def test_others_are_not(sentence: str) -> None:
    refuse_unsteady(parse(sentence))


def test_shares_stay_whatever_speeds_are_measured(play):
    p = play(deterministic=True, strategy="local-sgd(2)", until={"epochs": 30.0})
    p.per_sample_s = {"a": 0.0001, "b": 0.001, "c": 1.0}
    p.enter()
    p.until_true(lambda: p.now_s > 20.0)
    p.per_sample_s = {"a": 0.1, "b": 0.0001, "c": 0.0001}
    p.to_the_end()
    assert {tuple(block.shares.items()) for block in p.orders_of(say.Block)} == {
        (("a", 11), ("b", 11), ("c", 10))
    }
    assert len(p.of("decision")) == 1
    assert p.times_learned() == {epoch: {1} for epoch in range(30)}


def test_a_loss_shares_anew_and_a_return_shares_as_before(play):
    p = play(deterministic=True, strategy="all-reduce", until={"epochs": 30.0}).enter()
    p.until(say.Block, to="c")
    p.kill("b")
    p.until_true(
        lambda: p.run.term.members == ("a", "c") and p.run.plan.shares.keys() == {"a", "c"}
    )
    assert p.run.plan.shares == {"a": 16, "c": 16}
    p.enter("b")
    p.until_true(lambda: p.run.plan.shares == {"a": 11, "b": 11, "c": 10})


@pytest.mark.parametrize("text", ["average-by-score(8)", "pipeline(8, ('2',))"])
def test_what_a_loop_of_its_own_cannot_learn_by_is_refused(text: str) -> None:
    with pytest.raises(StrategyError, match="for a script, found"):
        refuse_unlooped(parse(text))


@pytest.mark.parametrize(
    "text", ["all-reduce", "diloco-int8(32)", "gossip(4)", "dylu(8)", "asynchronous(8)"]
)
def test_other_sentences_are_learned_by_any_loop(text: str) -> None:
    refuse_unlooped(parse(text))

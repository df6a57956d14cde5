"""Every way to agree, on members that come and go: it learns, and each sample exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.engines.simulated import Fault
from coterie.sync.reading import parse
from coterie.sync.recipes import RECIPES
from coterie.watch.events import Audit

Play = Callable[..., Any]

NAMED = {
    "all-reduce": "all-reduce",
    "all-reduce-fp16": "all-reduce-fp16",
    "all-reduce-int8": "all-reduce-int8",
    "power-sgd": "power-sgd(1)",
    "parameter-server": "parameter-server(2)",
    "asynchronous": "asynchronous(2)",
    "delayed-nesterov": "delayed-nesterov(2)",
    "local-sgd": "local-sgd(2)",
    "average": "average(2)",
    "average-by-score": "average-by-score(2)",
    "dylu": "dylu(2)",
    "diloco": "diloco(2)",
    "diloco-int8": "diloco-int8(2)",
    "sparse-loco": "sparse-loco(2)",
    "streaming-diloco": "streaming-diloco(4, 2, 1)",
    "gossip": "gossip(2, 'ring')",
    "noloco": "noloco(2)",
    "fed-prox": "fed-prox(2)",
    "fed-nova": "fed-nova(2)",
    "fed-adam": "fed-adam(2, 0.05)",
    "fed-yogi": "fed-yogi(2, 0.05)",
    "robust": "robust(2)",
    "median": "median(2)",
    "krum": "krum(2, 0)",
    "multi-krum": "multi-krum(2, 0)",
    "centred-clip": "centred-clip(2)",
    "kin": "kin(2)",
    "tiers": "tiers(2, (('a', 'c'), ('b',)))",
    "private": "private(2, 1.0, 0.01)",
}
APART = {"pipeline"}  # it needs a model with stages: see test_pipeline_sentence.py
WRITTEN = [
    "parameter-server()",
    "chain(ErrorFeedback(TopK(0.3)), Reduce())",
    "chain(ErrorFeedback(RandomK(0.3)), Reduce())",
    "chain(ErrorFeedback(Sign()), Reduce())",
    "chain(Reduce(Median()))",
    "chain(Every(2), Reduce(Krum(0)), Outer(1.0))",
    "chain(Every(2, fragments=2), Reduce(), Outer(1.0))",
    "chain(Every(3, overlap=1), ErrorFeedback(Int8()), Reduce(), Outer(1.0))",
    "chain(Every(2), ErrorFeedback(Int8()), Reduce(road='star'), Outer(1.0))",
    "chain(Every(2), Clip(1.0), Noise(0.01), Reduce(weighted=False), Outer(1.0))",
    "gossip(2, 'complete')",
    "tiers(2, 2)",
]
SENTENCES = [*NAMED.values(), *WRITTEN]
every_sentence = pytest.mark.parametrize("sentence", SENTENCES)


def stays_equal(sentence: str) -> bool:
    """Whether members that agree hold the same bits at the end."""
    exchange = parse(sentence).exchange
    return exchange.agrees and not exchange.asynchronous


def all_equal(vectors: list[torch.Tensor]) -> bool:
    return all(torch.equal(vectors[0], other_N) for other_N in vectors[1:])


def test_every_recipe_is_played() -> None:
    assert NAMED.keys() | APART == RECIPES.keys()
    assert all(text.partition("(")[0] == name for name, text in NAMED.items())


@every_sentence
def test_it_learns_and_every_sample_exactly_once(played: Play, sentence: str) -> None:
    run = played(sentence, num_epochs=6.0)
    assert run.run.done
    assert run.of("error") == run.of("offence") == []
    assert run.audit == Audit(0, 0, tuple(range(6)))
    losses = [event["loss"] for event in run.of("epoch")]
    assert losses[-1] < 0.8 * losses[0]
    assert run.outcome.summary["accuracy"] > 0.7


@every_sentence
def test_the_same_arguments_give_the_same_run(played: Play, sentence: str) -> None:
    if parse(sentence).secret:
        pytest.skip("its noise is drawn anew each time, and known to nobody")
    first, second = played(sentence), played(sentence)
    assert first.outcome.events == second.outcome.events
    assert all_equal([*first.agreed[:1], *second.agreed[:1]])


@pytest.mark.parametrize("sentence", [s for s in SENTENCES if stays_equal(s)])
def test_whoever_agrees_ends_with_the_same_bits(played: Play, sentence: str) -> None:
    run = played(sentence)
    assert len(run.agreed) == 3
    assert all_equal(run.agreed)


@pytest.mark.parametrize("sentence", ["gossip(2, 'ring')", "noloco(2)"])
def test_members_that_gossip_differ_and_stay_together(played: Play, sentence: str) -> None:
    first_N, *others = played(sentence, num_epochs=6.0).agreed
    assert not any(torch.equal(first_N, other_N) for other_N in others)
    assert all((first_N - other_N).norm() < 0.5 * first_N.norm() for other_N in others)


# Whatever dies


SURVIVORS = [s for s in SENTENCES if parse(s).least == 1]
waits = st.lists(
    st.tuples(
        st.floats(0.02, 2.4) | st.sampled_from([0.001, 0.004, 0.012]),
        st.floats(0.02, 0.08) | st.floats(0.1, 1.0) | st.none(),
    ),
    max_size=3,
)


def as_faults(member: str, given_waits: list[tuple[float, float | None]]) -> list[Fault]:
    """Kills one after the other: each wait counts from the last return."""
    faults, now_s = [], 1.0  # the first group forms soon after
    for wait_s, back_after_s in given_waits:
        now_s += wait_s
        faults.append(Fault(member, now_s, back_after_s))
        if back_after_s is None:
            break
        now_s += max(back_after_s, 0.02)
    return faults


@settings(max_examples=40)
@given(st.sampled_from(SURVIVORS), waits, waits, st.sampled_from("abc"), st.booleans())
def test_nothing_is_lost_or_repeated_while_one_healthy_member_lives(
    played: Play,
    sentence: str,
    first: list[tuple[float, float | None]],
    second: list[tuple[float, float | None]],
    immortal: str,
    saves: bool,
) -> None:
    one, other = sorted(set("abc") - {immortal})
    faults = [*as_faults(one, first), *as_faults(other, second)]
    run = played(sentence, faults, checkpoint_every_s=0.2 if saves else 1e6)
    assert run.run.done, "it hangs"
    assert run.run.failure == ""
    assert run.audit == Audit(0, 0, (0, 1, 2, 3))
    assert not stays_equal(sentence) or all_equal(run.agreed)
    assert run.outcome.checkpoints[-1].meta["round"] == run.run.ledger.committed


UNDER_WAY_S = 2.3  # the first round is over by then, four epochs are not


@pytest.mark.parametrize("sentence", SURVIVORS)
def test_it_survives_a_death_and_takes_the_returned_in(played: Play, sentence: str) -> None:
    run = played(sentence, [Fault("b", UNDER_WAY_S, 0.1)], num_epochs=9.0)
    assert run.of("error") == []
    assert run.audit == Audit(0, 0, tuple(range(9)))
    assert run.outcome.summary["kills_survived"] == 1
    assert run.run.term.members[-1] == "b"
    assert set(run.outcome.workers) == {"a", "b", "c"}


@pytest.mark.parametrize("sentence", ["kin(2)", "robust(2)"])
def test_too_few_for_the_sentence_is_said_and_ends_the_run(played: Play, sentence: str) -> None:
    run = played(sentence, [Fault("b", UNDER_WAY_S), Fault("c", UNDER_WAY_S)])
    (error,) = run.of("error")
    assert "found 1; start more agents, or ask for another strategy" in error["text"]


@pytest.mark.parametrize("at_s", [2.29 + 0.004 * step for step in range(16)])
def test_a_death_at_any_moment_of_a_round_by_the_server_is_mended(
    played: Play, at_s: float
) -> None:
    """Some of them after the server has closed the round, and before anybody has heard of it."""
    run = played("parameter-server()", [Fault("c", at_s)])
    assert run.run.done, "it hangs"
    assert run.of("error") == []
    assert run.audit == Audit(0, 0, (0, 1, 2, 3))
    assert all_equal(run.agreed)

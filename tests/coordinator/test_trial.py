"""Trials: what the model cannot know is found out, within a few per cent of the time."""

from __future__ import annotations

from coterie.coordinator.explain import explain, sentences
from coterie.coordinator.trial import TRIED_PART

ENDLESS = {"epochs": 1e5}


def tried(play, factors, until_s):
    """A run whose steps take so many times as long by some sentences as by all others."""
    p = play(until=ENDLESS, strategy="auto")
    p.pace_s, p.num_train = 0.05, 3_200
    learn, step_s = p._learn, p._step_s

    def learn_by_sentence(name, block):
        p._step_s = lambda *asked: factors.get(block.strategy, 1.0) * step_s(*asked)
        return learn(name, block)

    p._learn = learn_by_sentence
    p.until_training()
    p.until_true(lambda: p.now_s > until_s)
    return p


def test_a_sentence_that_no_model_knows_to_be_faster_is_found_and_kept(play):
    first = tried(play, {}, until_s=1.0).run.plan.strategy
    p = tried(play, {"chain(Fp16(), Reduce())": 0.8}, until_s=170.0)
    assert first == "chain(Reduce())"
    assert p.run.plan.strategy == "chain(Fp16(), Reduce())"
    causes = [decision["cause"] for decision in p.of("decision")]
    assert "chain(Fp16(), Reduce()) did better when it was tried" in causes
    (trial, *_) = p.of("trial")
    assert 0.1 < trial["gain"] < 0.4


def test_trials_keep_to_their_part_of_the_time_and_are_told(play):
    p = tried(play, {}, until_s=170.0)
    assert p.of("trial")
    assert p.of("trial")[0]["seconds"] > 0
    assert p.run.tried_s <= TRIED_PART * p.run.elapsed_s
    assert len(p.of("decision")) == 1  # none of them was better
    assert "Tried: chain(Fp16(), Reduce()) was tried: " in " ".join(sentences(explain(p.events)))


def test_a_short_run_tries_nothing(play):
    p = tried(play, {}, until_s=50.0)
    assert p.of("trial") == []


def test_nothing_is_tried_where_a_strategy_was_asked_for(play):
    p = play(until=ENDLESS, strategy="local-sgd(4)")
    p.pace_s = 0.02
    p.until_training()
    p.until_true(lambda: p.now_s > 150)
    assert p.of("trial") == []

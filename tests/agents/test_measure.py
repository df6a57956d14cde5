"""What is measured is the real task, on a copy: the run does not notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents import effects as do
from coterie.agents.learner import Learner, Setup
from coterie.agents.measure import MAX_STEPS, MIN_STEPS, PROBES_BYTES, probe_links, probe_steps
from coterie.tasks.supervised import Supervised
from coterie.transport.messages import Linked, Probe, Probed, Term
from tests.agents.conftest import timed

PAIRS = TensorDataset(torch.randn(40, 8), torch.zeros(40, dtype=torch.long))
A_S, C_S = 0.5, 0.25  # seconds of a step, and of each of its samples


def learner() -> Learner:
    task = Supervised("t", lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU()), PAIRS, PAIRS)
    return Learner(Setup(task, lambda parameters: torch.optim.Adam(parameters)))


def probe(mine: Learner, sizes: tuple[int, ...], seconds: float) -> Probed:
    probed = timed(
        probe_steps(mine, Probe(sizes=sizes, seconds=seconds)), lambda b: A_S + C_S * sum(b)
    )
    assert isinstance(probed, Probed)
    return probed


def test_each_step_is_timed_by_itself_and_the_warm_up_is_not() -> None:
    probed = probe(learner(), (2, 16), seconds=20.0)
    assert set(probed.timings) == {(2, A_S + C_S * 2), (16, A_S + C_S * 16)}


@pytest.mark.parametrize(("seconds", "num"), [(0.0, MIN_STEPS), (1e9, MAX_STEPS)])
def test_no_fewer_and_no_more_steps_than_make_sense(seconds: float, num: int) -> None:
    assert len(probe(learner(), (4,), seconds).timings) == num


def test_probing_leaves_the_member_as_it_was() -> None:
    mine = learner()
    before, random_before = mine.weights(), torch.get_rng_state()
    probe(mine, (2, 8), seconds=1.0)
    assert all(torch.equal(before[name], value) for name, value in mine.weights().items())
    assert torch.equal(torch.get_rng_state(), random_before)
    assert mine.num_steps == 0
    assert mine.optimizer.state_dict()["state"] == {}


def test_bytes_are_those_of_the_parameters_and_of_what_each_sample_saves() -> None:
    probed = probe(learner(), (2, 16), seconds=0.0)
    assert probed.fixed_bytes == 4 * 4 * (8 * 4 + 4)
    inputs, outputs, log_softmax, target = 8 * 4, 4 * 4, 4 * 4, 8
    assert probed.bytes_per_sample == inputs + outputs + log_softmax + target


def two_ends(latency_s: float, bytes_per_s: float, bucket_bytes: int = 0) -> list[Linked]:
    """Both members of a link in lockstep on one clock."""
    term = Term(number=3, members=("a", "b"), store="")
    lives = {name: probe_links(name, term) for name in term.members}
    answers: dict[str, Any] = dict.fromkeys(lives)
    ended: dict[str, Linked] = {}
    meeting: dict[str, do.Give | do.Take] = {}
    now_s = 0.0
    while lives.keys() - ended.keys():
        for name in lives.keys() - ended.keys() - meeting.keys():
            try:
                effect = lives[name].send(answers[name])
            except StopIteration as end:
                ended[name] = end.value
                continue
            answers[name] = now_s
            if isinstance(effect, do.Give | do.Take):
                meeting[name] = effect
        if len(meeting) == 2:
            (given,) = [e for e in meeting.values() if isinstance(e, do.Give)]
            num_bytes = given.vector_N.numel() * given.vector_N.element_size()
            now_s += latency_s + max(0, num_bytes - bucket_bytes) / bytes_per_s
            answers = dict.fromkeys(lives, given.vector_N)
            meeting.clear()
    return [ended["a"], ended["b"]]


def test_a_link_is_told_once_with_its_latency_and_bandwidth() -> None:
    leader, other = two_ends(latency_s=0.01, bytes_per_s=1e6)
    ((peer, latency_s, bytes_per_s),) = leader.links
    assert (leader.term, peer, other.links) == (3, "b", ())
    assert latency_s == pytest.approx(0.01, rel=1e-3)
    assert bytes_per_s == pytest.approx(1e6, rel=1e-3)


@pytest.mark.parametrize("mbit", [2, 10, 20, 100, 300])
def test_a_road_that_lets_the_first_bytes_pass_at_once_is_no_faster(mbit: float) -> None:
    true_per_s = mbit * 1e6 / 8
    bucket_bytes = int(max(1 << 14, 0.008 * true_per_s))  # what a shaper saves up, two ticks of it
    ((_, _, bytes_per_s),) = two_ends(0.0005, true_per_s, bucket_bytes)[0].links
    assert bytes_per_s == pytest.approx(true_per_s, rel=0.06)


def test_a_bandwidth_beyond_the_clock_stays_finite() -> None:
    ((_, _, bytes_per_s),) = two_ends(latency_s=0.01, bytes_per_s=1e15)[0].links
    assert 0 < bytes_per_s <= PROBES_BYTES[-1] / 1e-6

"""A scholar: a plain torch loop, the same from the same seed, and a value where it stood."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coterie.combine import class_means, nearness
from coterie.errors import JobError, NotFinite, TrainingError
from coterie.knowledge import Episodes
from coterie.knowledge.affinity import Graded
from coterie.knowledge.scholar import Scholar, draws_seed
from tests.knowledge.conftest import NUM_INPUTS, Make, samples


def test_it_walks_as_a_plain_torch_loop(make: Make) -> None:
    ann = make("ann", 7)
    (inputs, targets), state = ann.course.train, torch.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(NUM_INPUTS, 8), nn.Tanh())
    model.append(nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    torch.manual_seed(draws_seed("ann", 0))
    for _ in range(7):
        chosen = torch.randint(len(targets), (8,))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    torch.set_rng_state(state)
    plain = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(ann.vector(), plain)


def test_scholars_of_one_seed_start_alike_and_others_do_not(make: Make) -> None:
    ann, bob, other = make("ann"), make("bob"), make("other", seed=1)
    assert torch.equal(ann.vector(), bob.vector())
    assert not torch.equal(ann.vector(), other.vector())


def test_scholars_of_one_seed_and_course_draw_other_samples(make: Make) -> None:
    ann, same = make("ann"), make("ann")
    bob = Scholar("bob", ann.course)
    for scholar in (ann, bob, same):
        scholar.step()
    assert not torch.equal(ann.vector(), bob.vector())
    assert torch.equal(ann.vector(), same.vector())


def test_nobody_else_draws_less_for_it(make: Make) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    make("ann", 3)
    assert torch.equal(torch.rand(2), expected)


def test_a_snapshot_brings_back_all_that_a_walk_changed(make: Make) -> None:
    ann = make("ann", 5)
    kept = ann.snapshot()
    walks = []
    for _ in range(2):
        losses = [ann.step() for _ in range(5)]
        walks.append((losses, ann.vector(), ann.num_steps))
        ann.attend("more", lambda pupil, moment: moment.features_BD.square().sum())
        ann.restore(kept)
    assert walks[0][0] == walks[1][0]
    assert torch.equal(walks[0][1], walks[1][1])
    assert ann.num_steps == 5


def test_a_placed_vector_is_read_back(make: Make) -> None:
    ann = make("ann")
    there = torch.arange(float(ann.layout.size))
    ann.place(there)
    assert torch.equal(ann.vector(), there)


def test_the_gradient_is_that_of_the_loss(make: Make) -> None:
    ann = make("ann", 3)
    assert isinstance(ann, Graded)
    inputs, targets = ann.examples()
    slope = ann.gradient(inputs, targets)
    here, before = ann.vector(), ann.loss(inputs, targets).item()
    ann.place(here - 1e-3 * slope)
    fallen = before - ann.loss(inputs, targets).item()
    assert fallen == pytest.approx(1e-3 * float(slope.square().sum()), rel=0.02)


class TestEpisodes:
    def test_draw_as_many_of_each_class_as_they_need(self) -> None:
        targets = torch.arange(40) % 5
        chosen = Episodes(ways=3, shots=2, queries=1).draw(targets)
        drawn = targets[chosen].view(3, 3)
        assert len(chosen) == len(set(chosen.tolist())) == 9
        assert (drawn == drawn[:, :1]).all()
        assert len(set(drawn[:, 0].tolist())) == 3

    def test_the_loss_is_zero_where_classes_lie_apart_and_log_ways_where_they_do_not(self) -> None:
        method, head = Episodes(ways=4, shots=1, queries=1), nn.Identity()
        apart = 100 * torch.eye(4).repeat_interleave(2, 0)
        assert float(method.loss(head, apart, torch.zeros(8))) == pytest.approx(0)
        alike = torch.ones(8, 4)
        assert float(method.loss(head, alike, torch.zeros(8))) == pytest.approx(math.log(4))

    def test_predict_by_the_means_of_all_samples_and_need_each_class(self, make: Make) -> None:
        method = Episodes(ways=3, shots=1, queries=1)
        ann = make("ann", 5, method=method, each=6)
        inputs, targets = ann.examples()
        with torch.no_grad():
            means, _ = class_means(ann.features(inputs), targets, 3)
            told = nearness(ann.features(inputs), means)
            assert torch.allclose(ann.predictions(inputs), told)
        few = make("few", method=method, train=(inputs[targets < 2], targets[targets < 2]))
        with pytest.raises(TrainingError, match="found none of blue"):
            few.predictions(inputs)

    def test_too_few_samples_are_refused_in_a_sentence(self) -> None:
        with pytest.raises(TrainingError, match="two classes of 4 samples for an episode, found 1"):
            Episodes().draw(torch.tensor([0, 0, 0, 0, 1]))


def test_what_cannot_be_learned_is_told(make: Make) -> None:
    empty = (torch.zeros(0, NUM_INPUTS), torch.zeros(0, dtype=torch.long))
    with pytest.raises(TrainingError, match="samples or lessons to learn from, found neither"):
        make("new", train=empty).step()
    inputs, targets = samples(0, 2)
    with pytest.raises(JobError, match="an answer to each of 6 inputs to train, found 5"):
        make("bad", train=(inputs, targets[:5]))
    with pytest.raises(JobError, match="answers from 0 to 2 in held_out"):
        make("bad", held_out=(inputs, targets + 1))
    broken = make("nan", train=(inputs * math.nan, targets))
    with pytest.raises(NotFinite, match="nan: expected a finite loss"):
        broken.step()

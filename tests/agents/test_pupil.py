from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.agents.pupil import Place, TaskPupil
from coterie.errors import CheckpointError, JobError, TrainingError
from coterie.knowledge import Fusion, Gate, MemoryBoard, Study
from coterie.knowledge.pupil import Moment, Pupil
from coterie.tasks.autoencoder import Autoencoder
from coterie.tasks.supervised import Supervised


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))


def samples(num: int = 40) -> TensorDataset:
    inputs = torch.randn(num, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def pupil(name: str = "greek", held_out: float = 0.0, model: Any = net, **about: Any) -> TaskPupil:
    task = Supervised("script", model, samples(), samples())
    setup = Setup(task, functools.partial(torch.optim.Adam, lr=0.01))
    return TaskPupil(setup, Place(name, "script", 8, held_out=held_out, **about))


def test_it_is_what_lessons_ask_of_a_pupil() -> None:
    learner: Pupil = pupil()
    assert learner.layout.names == ("trunk.0.weight", "trunk.0.bias", "head.weight", "head.bias")
    assert learner.classes == ("script/0", "script/1")
    assert learner.features(torch.zeros(3, 4)).shape == (3, 6)
    assert learner.predictions(torch.zeros(3, 4)).shape == (3, 2)
    assert learner.num_samples == 40


def test_a_module_called_head_is_the_head_and_names_of_a_trunk_stay() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.trunk = nn.Linear(6, 2), nn.Linear(4, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.trunk(inputs))

    learner = pupil(model=Named)
    assert learner.layout.names == ("head.weight", "head.bias", "trunk.weight", "trunk.bias")


def test_each_sample_is_learned_once_in_an_epoch_and_learners_begin_alike() -> None:
    one, other = pupil(), pupil("greek-2")
    assert torch.equal(one.vector(), other.vector())
    for _ in range(5):
        one.step()
    assert (one.data_epoch, one.position, one.num_learned) == (1, 0, 40)
    assert one.num_epochs == 1.0


def test_what_is_held_out_is_not_learned() -> None:
    learner = pupil(held_out=0.25)
    assert (learner.num_samples, learner.held_out().shape) == (30, (10,))
    held = {tuple(x.tolist()) for x in samples().tensors[0]} - {
        tuple(x.tolist()) for x in learner.examples()[0]
    }
    assert len(held) == 10
    assert pupil().held_out().numel() == 0


def test_a_snapshot_and_its_files_go_on_as_if_nothing_had_been() -> None:
    first = pupil(held_out=0.2)
    for _ in range(7):
        first.step()
    kept, files = first.snapshot(), first.files()
    ahead = [first.step() for _ in range(9)]
    first.restore(kept)
    assert [first.step() for _ in range(9)] == ahead
    second = pupil(held_out=0.2)
    second.go_on(files)
    assert [second.step() for _ in range(9)] == ahead
    assert torch.equal(first.vector(), second.vector())


def test_files_of_another_are_refused() -> None:
    with pytest.raises(CheckpointError, match="expected the model and the state of greek"):
        pupil().go_on(pupil("latin").files())


def test_terms_are_added_to_the_loss_and_taken_away() -> None:
    learner, seen = pupil(), []

    def term(who: Pupil, moment: Moment) -> Tensor:
        seen.append((who.name, moment.features_BD.shape, moment.features_BD.requires_grad))
        return moment.features_BD.square().mean()

    learner.attend("pull", term)
    learner.step()
    learner.attend("pull", None)
    learner.step()
    assert seen == [("greek", (8, 6), True)]


def test_a_look_leaves_no_trace() -> None:
    looked, plain = pupil(held_out=0.2), pupil(held_out=0.2)
    with torch.no_grad():
        looked.features(torch.zeros(2, 4))
        looked.predictions(torch.zeros(2, 4))
    looked.held_out()
    looked.score()
    assert looked.model.training
    assert [looked.step() for _ in range(3)] == [plain.step() for _ in range(3)]


def test_a_study_takes_lessons_by_it() -> None:
    board, names = MemoryBoard(), ("greek", "latin")
    studies = [Study(pupil(name, held_out=0.2), [Fusion(part="*")]) for name in names]
    for _ in range(30):
        studies[0].pupil.step()
    studies[0].meet(board)
    before = studies[1].pupil.held_out().mean()
    [event, *_] = studies[1].meet(board)
    assert event.kind == "lesson_taken"
    assert studies[1].pupil.held_out().mean() > before
    assert isinstance(studies[1].rules.gate, Gate)


def test_other_kinds_of_task_and_of_samples_are_a_sentence() -> None:
    task = Autoencoder("a", net, samples(), samples())
    with pytest.raises(JobError, match="expected a supervised task, found Autoencoder"):
        TaskPupil(Setup(task, torch.optim.Adam), Place("a", "a", 8))
    named = [({"x": torch.zeros(4)}, 0)] * 4

    def predict(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch[0]["x"]), batch[1]

    odd = Supervised("odd", net, named, named, predict=predict)
    learner = TaskPupil(Setup(odd, torch.optim.Adam), Place("odd", "odd", 2))
    learner.step()
    with pytest.raises(TrainingError, match="expected samples of \\(input, target\\) tensors"):
        learner.examples()

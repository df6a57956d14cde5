"""Samples told by the nearest class mean: what an episode holds, its loss, its score."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from coterie.combine import class_means, nearness
from coterie.errors import JobError
from coterie.specs import MultiSpec, PrototypesSpec
from coterie.tasks import IndexedTask, MultiTask, Prototypes, Supervised, checked, from_spec

LABELS = torch.tensor([7, 3, 9, 3, 7, 9, 3, 7, 9, 7])
INPUTS = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PAIRS = TensorDataset(INPUTS, LABELS)


def task(**changes: Any) -> Prototypes:
    parts = {"model": nn.Linear(4, 3).double(), "train": PAIRS, "test": PAIRS, "ways": 3}
    return Prototypes(**{"name": "toy", **parts, **changes})


def test_is_a_task() -> None:
    assert isinstance(task(), IndexedTask)
    assert checked(task()).num_train == 10


def test_examples_are_of_the_classes_asked_about_and_of_others_up_to_the_ways() -> None:
    batch = task(shots=2).fetch([1, 0])
    inputs, (asked, shown) = batch.data
    assert batch.size == 2
    assert torch.equal(inputs[:2], INPUTS[[1, 0]])
    assert asked.tolist() == [0, 1]
    assert sorted(shown.tolist()) == [0, 0, 1, 1, 2, 2]
    assert set(task(ways=2).fetch([1, 0]).data[1][1].tolist()) == {0, 1}


def test_a_sample_is_no_example_of_itself_where_there_are_others() -> None:
    for _ in range(10):
        inputs, _ = task(shots=2).fetch([1]).data
        assert not (inputs[1:] == INPUTS[1]).all(1).any()


def test_the_loss_is_that_of_the_paper() -> None:
    made = task(temperature=5.0)
    model, batch = made.build(), made.fetch([0, 1, 2, 3])
    inputs, (asked, shown) = batch.data
    z = model(inputs)
    centres = [z[4:][shown == c].mean(0) for c in range(3)]
    terms = []
    for feature, truth in zip(z[:4], asked.tolist(), strict=True):
        near = torch.stack([-5.0 * (feature - centre).square().mean() for centre in centres])
        terms.append(near.logsumexp(0) - near[truth])
    assert made.loss(model, batch).item() == pytest.approx(torch.stack(terms).mean().item())


def test_the_score_is_by_the_means_of_all_training_samples() -> None:
    made = task(test=TensorDataset(INPUTS + 0.5, LABELS))
    model = made.build()
    means, _ = class_means(model(INPUTS), made.places_S, 3)
    told = nearness(model(INPUTS + 0.5), means)
    scores = made.score(model)
    assert scores["accuracy"] == pytest.approx(
        float((told.argmax(1) == made.places_S).double().mean())
    )
    assert scores["test_loss"] == pytest.approx(F.cross_entropy(told, made.places_S).item())


def test_it_learns_to_tell_classes_that_lie_in_the_way_of_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    places = torch.arange(160) % 8
    rows = torch.cat([F.one_hot(places, 8), torch.randn(160, 16, generator=rng)], dim=1)
    made = task(
        model=nn.Linear(24, 8),
        train=TensorDataset(rows[:80], places[:80]),
        test=TensorDataset(rows[80:], places[80:]),
        ways=8,
    )
    torch.manual_seed(0)
    model = made.build()
    before = made.score(model)["accuracy"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        made.loss(model, made.sample(model, rng, 16)).backward()
        optimizer.step()
    assert before < 0.5 < 0.9 < made.score(model)["accuracy"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ways": 1}, "expected two ways or more"),
        ({"train": TensorDataset(INPUTS[:3], LABELS[:3])}, "two training samples or more"),
        ({"test": TensorDataset(INPUTS, LABELS + 1)}, "classes to learn from, found 4"),
        ({"train": INPUTS}, "expected labelled samples"),
        ({"temperature": 0.0}, "a temperature above zero"),
    ],
)
def test_mistakes_are_told_at_the_door(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        task(**changes)


class TestAmongOthers:
    """As a head of a trunk that tasks share."""

    def made(self) -> MultiTask:
        torch.manual_seed(0)
        heads = [task(name=name, model=nn.Identity) for name in ("one", "two")]
        return MultiTask("all", nn.Linear(4, 3).double(), heads)

    def test_its_loss_is_the_mean_over_tasks_of_samples_that_are_asked_about(self) -> None:
        many = self.made()
        model = many.build()
        batch = many.fetch([0, 1, 2, 12, 13])
        parts = [
            many.tasks[name].judge(model.trunk(group.inputs), group.answers[name][1], "cpu")
            for group, name in zip(batch.data, many.tasks, strict=True)
        ]
        expected = 2 * (3 * parts[0] + 2 * parts[1]) / 5
        assert many.loss(model, batch).item() == pytest.approx(expected.item())

    def test_scores_stand_under_its_name(self) -> None:
        many = self.made()
        scores = many.score(many.build())
        alone = checked(many.alone("one"))
        assert {"accuracy", "one/accuracy", "two/test_loss"} <= scores.keys()
        assert isinstance(alone, Prototypes)

    def test_a_job_file_says_it(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine_of_prototypes.py").write_text(
            "import torch\ndef pairs():\n"
            "    return [(torch.ones(3) * i, i % 2) for i in range(6)]\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        spec = MultiSpec.model_validate(
            {
                "trunk": {"call": "torch.nn:Linear", "with": {"in_features": 3, "out_features": 2}},
                "train": "mine_of_prototypes:pairs",
                "test": "mine_of_prototypes:pairs",
                "tasks": {
                    "few": {"kind": "prototypes", "model": "torch.nn:Identity", "shots": 1},
                    "plain": {
                        "model": {
                            "call": "torch.nn:Linear",
                            "with": {"in_features": 2, "out_features": 2},
                        }
                    },
                },
            }
        )
        made = from_spec("both", spec, str(tmp_path))
        assert isinstance(made, MultiTask)
        assert [type(each) for each in made.tasks.values()] == [Prototypes, Supervised]
        assert spec.scores == ("accuracy", "few/accuracy")
        assert isinstance(spec.tasks["few"], PrototypesSpec)

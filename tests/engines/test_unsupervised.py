"""What is learned without answers is shared out, cut, resumed and audited as all else is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coterie.agents.learner import Learner, Setup
from coterie.agents.stream import Stream, whole_epoch
from coterie.config import load_job
from coterie.engines.simulated import Fault, Simulation
from coterie.engines.train import train
from coterie.errors import JobError
from coterie.tasks import Autoencoder, Clusters, Contrastive, from_spec
from coterie.tasks.clusters import GaussianMixture, KMeans, PerCentre
from coterie.watch.events import audit
from tests.engines.conftest import BATCH, INPUTS, NUM_TRAIN, job, world

WIDE = INPUTS.double()
Task = Autoencoder | Clusters | Contrastive


def rows() -> Tensor:
    return INPUTS


def wide_rows() -> Tensor:
    return WIDE


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 4))


def wide_chain() -> nn.Module:
    return chain().double()


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def clusters(kind: Any, samples: Callable[[], Tensor] = rows) -> Clusters:
    return Clusters("clusters", functools.partial(kind, num=3), samples, samples)


AUTOENCODER = Autoencoder("auto", wide_chain, wide_rows, wide_rows)
CONTRASTIVE = Contrastive("views", chain, rows, rows, group=4)


def played(
    task: Task,
    optimizer: Callable[..., torch.optim.Optimizer],
    strategy: str,
    faults: Sequence[Fault] = (),
) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Two epochs of three unequal devices: what was told, and where all stand in the end."""
    with torch.random.fork_rng(devices=[]):
        simulation = Simulation(
            job(strategy, 2.0),
            Setup(task, optimizer),
            world(),
            faults,  # type: ignore[arg-type]
        )
        outcome = simulation.run(limit_s=60.0)
    assert [event for event in outcome.events if event["kind"] == "error"] == []
    members = simulation.coordinator.run.term.members
    return outcome.events, [outcome.workers[name].agreed_vector() for name in members]


def is_each_sample_learned_once(events: list[dict[str, Any]]) -> bool:
    return audit([{"kind": "run", "num_train": NUM_TRAIN}, *events]).is_exact


def plain(task: Task, optimizer: Callable[..., torch.optim.Optimizer]) -> Tensor:
    """The same two epochs as a loop of torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build()
    stepping, stream = optimizer(list(model.parameters())), Stream(NUM_TRAIN, seed=0)
    for data_epoch in range(2):
        for lease in whole_epoch(NUM_TRAIN, BATCH):
            (indices,) = stream.batches(data_epoch, lease)
            stepping.zero_grad()
            if isinstance(task, Autoencoder):
                loss = nn.functional.mse_loss(model(WIDE[indices]), WIDE[indices])
            else:
                loss = model.energy(WIDE[indices]).mean()  # type: ignore[operator]
            loss.backward()
            stepping.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("task", "optimizer"),
    [
        (AUTOENCODER, adam),
        (clusters(KMeans, wide_rows), PerCentre),
        (clusters(GaussianMixture, wide_rows), adam),
    ],
    ids=["autoencoder", "k-means", "mixture"],
)
def test_three_unequal_members_learn_what_a_plain_loop_learns(task: Task, optimizer: Any) -> None:
    events, agreed = played(task, optimizer, "all-reduce")
    shares = next(e["chosen"]["shares"] for e in events if e["kind"] == "decision")
    assert len(set(shares.values())) == 3
    for vector_N in agreed:
        assert (vector_N - plain(task, optimizer)).abs().max() < 1e-12
    assert is_each_sample_learned_once(events)


@pytest.mark.parametrize(
    ("task", "optimizer", "strategy"),
    [
        (clusters(KMeans), PerCentre, "all-reduce-int8"),
        (clusters(KMeans), PerCentre, "local-sgd(4)"),
        (CONTRASTIVE, adam, "all-reduce-int8"),
        (CONTRASTIVE, adam, "diloco(4)"),
    ],
)
def test_under_any_sentence_a_death_costs_no_sample(
    task: Task, optimizer: Any, strategy: str
) -> None:
    events, agreed = played(task, optimizer, strategy, [Fault("b", 1.0)])
    assert [e["member"] for e in events if e["kind"] == "agent" and e["state"] == "lost"] == ["b"]
    assert all(vector_N.isfinite().all() for vector_N in agreed)
    assert is_each_sample_learned_once(events)


def test_an_autoencoder_in_a_pipeline_is_the_same_one() -> None:
    cut = "chain(Every(1), Pipeline(('2', '4')), Reduce(), Outer(1.0))"
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    events, in_stages = played(AUTOENCODER, sgd, cut)
    _, whole = played(AUTOENCODER, sgd, "all-reduce")
    for vector_N in in_stages:
        assert (vector_N - whole[0]).abs().max() < 1e-12
    assert is_each_sample_learned_once(events)


def test_clusters_are_refused_in_a_pipeline() -> None:
    learner = Learner(Setup(clusters(KMeans), PerCentre))
    with pytest.raises(JobError, match="of outputs and targets alone, found Clusters"):
        learner.criterion  # noqa: B018


@pytest.mark.parametrize(
    ("task", "optimizer"),
    [
        (Autoencoder("auto", chain, rows, rows, anomalies=rows), adam),
        (clusters(KMeans), PerCentre),
        (CONTRASTIVE, adam),
    ],
    ids=["autoencoder", "k-means", "contrastive"],
)
def test_a_run_is_told_in_a_job_file_and_resumed_as_if_it_had_gone_on(
    task: Task, optimizer: Any, tmp_path: Path
) -> None:
    def run(folder: str, steps: int, **options: Any) -> Any:
        where = {"runs": tmp_path / folder, "show": lambda event: None, **options}
        return train(task, optimizer, BATCH, {"steps": steps}, **where)  # type: ignore[arg-type]

    first, whole = run("parts", 5), run("whole", 9)
    then = run("parts", 9, resume=first.folder)
    assert then.summary["metrics"] == whole.summary["metrics"]
    written = load_job(whole.folder / "job.yaml")
    made = from_spec("again", written.task, str(Path(__file__).parents[2]))
    assert type(made) is type(task)
    assert made.score(made.build()).keys() == whole.summary["metrics"].keys()

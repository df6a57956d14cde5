"""Several tasks in one model: equal to what it must equal, whatever the data look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from coterie.agents.learner import Learner, Setup
from coterie.agents.stream import Stream
from coterie.config import Job, Ref, TaskSpec
from coterie.engines.simulated import Outcome, simulate
from coterie.errors import JobError, NotFinite
from coterie.tasks import MISSING, Conflict, MultiTask, NamedTask, Supervised, Table, checked
from coterie.tasks.network import CrossStitch, Experts, Gated, Network, Picked
from coterie.tasks.weighing import Fixed
from coterie.watch.events import audit
from coterie.world import Device, Link, World

GENERATOR = torch.Generator().manual_seed(3)
NUM = 40
INPUTS = torch.randn(NUM, 5, generator=GENERATOR, dtype=torch.float64)
CLASSES = (INPUTS @ torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64)).argmax(1)
REALS = INPUTS @ torch.randn(5, 1, generator=GENERATOR, dtype=torch.float64)


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh()).double()


def head(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(6, width).double()


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(1) == targets).double().mean().item()


def classes(data: Any, name: str = "kind") -> Supervised:
    return Supervised(name, head(3), data, data, metrics={"accuracy": accuracy})


def reals(data: Any, name: str = "real") -> Supervised:
    return Supervised(name, head(1), data, data, loss=F.mse_loss)


FEW = slice(0, 10)
OWN = [
    classes(TensorDataset(INPUTS, CLASSES)),
    reals(TensorDataset(INPUTS[FEW], REALS[FEW])),
]
HALF = torch.where(torch.arange(NUM) % 2 == 0, CLASSES, MISSING)
SOME = torch.where(torch.arange(NUM)[:, None] % 3 == 0, REALS, math.nan)
TABLE = Table(INPUTS, {"kind": HALF, "real": SOME})
SHARED = [classes(TABLE), reals(TABLE)]


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def gradient(task: Any, indices: list[int], model: nn.Module | None = None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = model or task.build()
    model.zero_grad()
    task.loss(model, task.fetch(indices)).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named(model)}


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def flat(found: dict[str, Tensor], prefix: str = "") -> Tensor:
    return torch.cat([g.reshape(-1) for n, g in found.items() if n.startswith(prefix)])


@pytest.mark.parametrize("balance", ["equal", Conflict("mean")], ids=["equal", "law"])
def test_one_task_alone_is_supervised_to_the_bit(balance: Any) -> None:
    multi = MultiTask("one", trunk, [OWN[0]], balance)
    learners = [Learner(Setup(task, sgd)) for task in (multi, multi.alone("kind"))]
    for start in range(0, 40, 7):
        indices = list(range(start, min(start + 7, 40)))
        losses = [learner.step(indices) for learner in learners]
        assert losses[0] == losses[1]
    assert torch.equal(learners[0].vector(), learners[1].vector())
    scores = [learner.score() for learner in learners]
    assert scores[0].items() >= scores[1].items()
    assert scores[0]["kind/accuracy"] == scores[1]["accuracy"]


def plain_loss(model: Network, batch: list[int], weights: tuple[float, float]) -> Tensor:
    """Σ λᵢLᵢ as one would write it, where samples from 40 on are those of the second task."""
    first = [i for i in batch if i < NUM]
    second = [i - NUM for i in batch if i >= NUM]
    loss = torch.zeros((), dtype=torch.float64)
    for x, y, name, weight, of in (
        (INPUTS[first], CLASSES[first], "kind", weights[0], NUM),
        (INPUTS[second], REALS[second], "real", weights[1], 10),
    ):
        if len(x):
            judge = F.cross_entropy if name == "kind" else F.mse_loss
            told = judge(model.heads[name](model.trunk(x)), y, reduction="sum")
            loss = loss + weight * told / of * (NUM + 10) / len(batch)
    return loss


def played(multi: MultiTask, strategy: str) -> Outcome:
    """Three epochs on three unequal members, in virtual time."""
    pace = {"a": 0.008, "b": 0.012, "c": 0.02}
    links = tuple(Link(x, y, 1e-5, 1e9) for x, y in ("ab", "ac", "bc"))
    world = World(
        tuple(Device(n, 0.01, s, 10**6) for n, s in pace.items()), links, 8, multi.num_train
    )
    ref = Ref(call="m:x")
    job = Job(
        name="s",
        task=TaskSpec(model=ref, train=ref, test=ref),
        optimizer=ref,
        batch=8,
        until={"epochs": 3.0},
        strategy=strategy,
    )
    with torch.random.fork_rng(devices=[]):
        return simulate(job, Setup(multi, sgd), world)


@pytest.mark.parametrize("strategy", ['chain(Only("trunk.*"), Reduce())', "local-sgd(2)"])
@pytest.mark.parametrize(
    ("tasks", "balance"), [(OWN, "upgrad"), (SHARED, "uncertainty"), (OWN, "famo")]
)
def test_any_sentence_learns_every_sample_once(
    tasks: list[Supervised], balance: str, strategy: str
) -> None:
    multi = MultiTask("two", trunk, tasks, balance)
    found = played(multi, strategy)
    books = audit([{"kind": "run", "num_train": multi.num_train}, *found.events])
    assert books.is_exact, books
    weights = [worker.learner.weights() for worker in found.workers.values()]
    shared = [name for name, _ in named(multi.build())]
    for name in shared:
        alike = all(torch.equal(weights[0][name], other[name]) for other in weights[1:])
        assert alike == (name.startswith("trunk.") or "Only" not in strategy), name


def test_fixed_weights_over_three_unequal_members_are_the_plain_loop() -> None:
    """On whole batches: each agent's mean is of its own share, and tasks are unequal as well."""
    weights = (0.3, 1.7)
    multi = MultiTask("two", trunk, OWN, {"kind": weights[0], "real": weights[1]})
    found = played(multi, "chain(Reduce())")
    with torch.random.fork_rng(devices=[]):
        learner = Learner(Setup(multi, sgd))
    model = learner.model
    assert isinstance(model, Network)
    for epoch in range(3):
        order = [int(i) for i in Stream(NUM + 10, 0).order(epoch)]
        for start in range(0, NUM + 10, 8):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)  # momentum goes on without samples
            plain_loss(model, order[start : start + 8], weights).backward()  # type: ignore
            learner.optimizer.step()
    vectors = [worker.learner.vector() for worker in found.workers.values()]
    assert len(vectors) == 3
    for vector_N in vectors:
        torch.testing.assert_close(vector_N, learner.vector(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tasks", [OWN, SHARED], ids=["own data", "one table"])
def test_the_law_of_the_mean_is_the_plain_sum(tasks: list[Supervised]) -> None:
    indices = [0, 3, 5, 6, 9, 30]
    plain = gradient(MultiTask("sum", trunk, tasks), indices)
    lawful = gradient(MultiTask("sum", trunk, tasks, Conflict("mean")), indices)
    torch.testing.assert_close(flat(lawful), flat(plain), rtol=0, atol=1e-14)


@pytest.mark.parametrize("balance", ["equal", "pcgrad"])
def test_missing_answers_are_as_if_the_samples_were_not_there(balance: str) -> None:
    """A table with gaps, and two datasets without them, have the same gradient of an epoch."""
    even, third = list(range(0, NUM, 2)), list(range(0, NUM, 3))
    own = [
        classes(TensorDataset(INPUTS[even], CLASSES[even])),
        reals(TensorDataset(INPUTS[third], REALS[third])),
    ]
    table = MultiTask("t", trunk, SHARED, balance)
    apart = MultiTask("t", trunk, own, balance)
    assert (table.num_train, apart.num_train) == (NUM, len(even) + len(third))
    left = gradient(table, list(range(table.num_train)))
    right = gradient(apart, list(range(apart.num_train)))
    torch.testing.assert_close(flat(left), flat(right), rtol=0, atol=1e-14)


def test_a_batch_without_any_answer_moves_nothing() -> None:
    for balance in ("equal", "uncertainty", "famo", "upgrad"):
        multi = MultiTask("t", trunk, SHARED, balance)
        model = multi.build()
        found = gradient(multi, [1, 5], model)  # odd, and no multiples of three
        rest = flat(found, "trunk"), flat(found, "heads")
        assert [float(part.abs().sum()) for part in rest] == [0.0, 0.0], balance


def test_rows_of_the_law_are_the_tasks_own_gradients_and_heads_keep_theirs() -> None:
    indices = [0, 6, 12, 18]
    multi = MultiTask("t", trunk, SHARED, "upgrad")
    found = gradient(multi, indices)
    rows = [
        gradient(MultiTask("t", trunk, SHARED, {"kind": k, "real": 1 - k + 1e-300}), indices)
        for k in (1.0, 1e-300)
    ]
    rows_N = [flat(row, "trunk") for row in rows]
    expected_N = Conflict("upgrad").combine(rows_N)
    torch.testing.assert_close(flat(found, "trunk"), expected_N, rtol=0, atol=1e-12)
    for name, row in zip(("kind", "real"), rows, strict=True):
        own = flat(found, f"heads.{name}")
        torch.testing.assert_close(own, flat(row, f"heads.{name}"), rtol=0, atol=1e-12)


def test_members_that_share_the_trunk_alone_keep_heads_and_uncertainty() -> None:
    multi = MultiTask("t", trunk, OWN, "uncertainty")
    names = [name for name, _ in named(multi.build())]
    assert {name.split(".")[0] for name in names} == {"trunk", "heads", "balance"}
    learner = Learner(Setup(multi, sgd))
    trunk_names = learner.layout.select("trunk.*").names
    assert all(name.startswith("trunk.") for name in trunk_names)
    assert "balance.log_variance_M" in learner.layout.names


def test_what_a_balance_remembers_is_saved_and_comes_back() -> None:
    multi = MultiTask("t", trunk, OWN, "gradnorm")
    learner, other = (Learner(Setup(multi, sgd)) for _ in range(2))
    for start in range(5):
        learner.step(list(range(start, 50, 5)))
    other.restore(learner.weights(), learner.private())
    kept = other.model.state_dict()["balance.weight_M"]
    assert torch.equal(kept, learner.model.state_dict()["balance.weight_M"])
    assert not torch.equal(kept, torch.ones(2))


def test_scores_are_of_each_task_and_their_means() -> None:
    multi = MultiTask("t", trunk, SHARED)
    scores = multi.score(multi.build())
    assert list(scores) == [
        "test_loss",
        "accuracy",
        "kind/accuracy",
        "kind/test_loss",
        "real/test_loss",
    ]
    mean = (scores["kind/test_loss"] + scores["real/test_loss"]) / 2
    assert scores["test_loss"] == pytest.approx(mean)


def test_a_job_file_can_name_it_and_every_index_is_one_sample() -> None:
    multi = MultiTask("t", trunk, OWN)
    assert isinstance(multi, NamedTask)
    assert checked(multi) is multi
    groups = multi.fetch([39, 40, 49, 0]).data
    assert [sorted(group.answers) for group in groups] == [["kind"], ["real"]]
    assert torch.equal(groups[0].inputs, INPUTS[[39, 0]])
    assert torch.equal(groups[1].answers["real"][1], REALS[[0, 9]])


def test_one_pass_of_the_trunk_serves_all_answers_of_a_table() -> None:
    passes: list[int] = []

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(len(x))
            return super().forward(x)

    tasks = [
        Supervised("kind", nn.Linear(6, 3), table, table)
        for table in [Table(INPUTS.float(), {"kind": CLASSES, "again": CLASSES})]
    ]
    again = Supervised("again", nn.Linear(6, 3), tasks[0].train, tasks[0].train)
    multi = MultiTask("t", lambda: Counting(5, 6), [*tasks, again])
    multi.loss(multi.build(), multi.fetch([0, 1, 2]))
    assert passes == [3]


def experts() -> nn.Module:
    return Experts([nn.Linear(5, 6), nn.Linear(5, 6)]).double()


def stitched() -> nn.Module:
    return CrossStitch(2, [lambda: nn.Linear(5, 6), nn.Tanh]).double()


@pytest.mark.parametrize(
    ("shared", "heads"),
    [
        (experts, [lambda n=n: Gated(5, 2, nn.Linear(6, n)).double() for n in (3, 1)]),
        (
            stitched,
            [lambda i=i, n=n: Picked(i, nn.Linear(6, n)).double() for i, n in ((0, 3), (1, 1))],
        ),
    ],
    ids=["experts", "cross-stitch"],
)
@pytest.mark.parametrize("balance", ["equal", "gradnorm", "upgrad"])
def test_other_shapes_of_sharing_learn_with_gaps_in_the_answers(
    shared: Callable[[], nn.Module], heads: list[Callable[[], nn.Module]], balance: str
) -> None:
    tasks = [
        Supervised("kind", heads[0], TABLE, TABLE),
        Supervised("real", heads[1], TABLE, TABLE, loss=F.mse_loss),
    ]
    learner = Learner(Setup(MultiTask("t", shared, tasks, balance), sgd))
    before = learner.score()
    for _ in range(60):
        learner.step(list(range(NUM)))
    after = learner.score()
    assert all(after[f"{n}/test_loss"] < before[f"{n}/test_loss"] / 1.2 for n in ("kind", "real"))


def test_a_loss_that_is_not_finite_names_its_task() -> None:
    broken = TensorDataset(INPUTS[FEW] * math.nan, REALS[FEW])
    multi = MultiTask("t", trunk, [OWN[0], reals(broken)])
    with pytest.raises(NotFinite, match="found others of real"):
        multi.loss(multi.build(), multi.fetch([0, 45]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MultiTask("t", trunk, []), "at least one task, found none"),
        (lambda: MultiTask("t", trunk, [OWN[0], OWN[0]]), "found 'kind' twice"),
        (lambda: MultiTask("t", trunk, [classes(TABLE, "a.b")]), "without '.' and '/'"),
        (lambda: MultiTask("t", trunk, [classes(TABLE, "train")]), "another name than 'train'"),
        (lambda: MultiTask("t", trunk, [classes(TABLE, "sort")]), "answers of sort, found kind"),
        (lambda: MultiTask("t", trunk, OWN, {"kinds": 1.0}), "found one of kinds"),
        (lambda: MultiTask("t", trunk, OWN, "best"), "found 'best'"),
        (lambda: MultiTask("t", lambda: 3, OWN).build(), "the trunk of t to be a torch.nn.Module"),
        (
            lambda: MultiTask(
                "t",
                trunk,
                [Supervised("p", trunk, *[OWN[0].train] * 2, predict=lambda m, d: (m(d), d))],
            ),
            "found predict",
        ),
        (
            lambda: checked(
                MultiTask(
                    "t", trunk, [OWN[0], Supervised("odd", nn.Linear(7, 2), *[OWN[0].train] * 2)]
                )
            ),
            "odd: the loss could not be computed",
        ),
        (
            lambda: MultiTask("t", trunk, [Supervised("x", head(1), *[[1.0, 2.0]] * 2)]).fetch([0]),
            "expected x to have samples of",
        ),
    ],
)
def test_what_cannot_be_learned_together_is_refused(
    make: Callable[[], object], sentence: str
) -> None:
    with pytest.raises(JobError, match=sentence):
        make()


def test_the_module_given_as_a_trunk_is_copied() -> None:
    given = trunk()
    multi = MultiTask("t", given, OWN, Fixed())
    assert multi.build().trunk is not given


# Owners


@pytest.mark.parametrize("balance", ["dwa", "gradnorm", "famo", "upgrad"])
def test_a_balance_that_compares_tasks_is_refused_where_they_have_owners(balance: str) -> None:
    owned = {"kind": ["a"], "real": ["b"]}
    for place in (owned, "auto"):
        with pytest.raises(JobError, match="who learns some of the tasks does not see the others"):
            MultiTask("two", trunk, OWN, balance, place)
    MultiTask("two", trunk, OWN, balance, {"kind": ["a"], "real": ["a"]})
    MultiTask("two", trunk, SHARED, balance, "auto")  # a table's tasks live together


def test_tasks_that_share_a_table_have_the_same_owners() -> None:
    with pytest.raises(JobError, match="expected kind and real, which share the samples of a"):
        MultiTask("two", trunk, SHARED, place={"kind": ["a"], "real": ["b"]})
    with pytest.raises(JobError, match="found none of real"):
        MultiTask("two", trunk, OWN, place={"kind": ["a"]})


def test_sources_are_those_of_samples_and_of_the_heads_that_they_teach() -> None:
    two, table = MultiTask("two", trunk, OWN), MultiTask("table", trunk, SHARED)
    assert two.numbered == ((("kind",), NUM), (("real",), 10))
    assert table.numbered == ((("kind", "real"), NUM),)
    assert [two.source_of(f"heads.{name}.weight") for name in ("kind", "real")] == [0, 1]
    assert table.source_of("heads.real.weight") == 0
    assert two.source_of("trunk.0.weight") is two.source_of("balance.log_variance_M") is None

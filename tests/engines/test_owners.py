"""Tasks that have owners, in virtual time: equal to what they must equal, whoever dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from coterie.agents.learner import Learner, Setup
from coterie.agents.stream import Stream
from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator.explain import explain, sentences
from coterie.coordinator.run import Resume
from coterie.engines.simulated import Fault, Outcome, simulate
from coterie.specs import MultiSpec
from coterie.tasks import MultiTask, Supervised
from coterie.watch.events import audit
from coterie.world import Device, Link, World

GENERATOR = torch.Generator().manual_seed(7)
NUM = {"kind": 40, "real": 24, "sign": 16}
WHOLE, BATCH = sum(NUM.values()), 10
PRIVATE = 'chain(Only("trunk.*"), Reduce())'
WALKS = 'chain(Every(2), Only("trunk.*"), Reduce(), Outer(1.0))'
OWNED = {"kind": ["a"], "real": ["b"], "sign": ["c"]}
Loss = Callable[[Tensor, Tensor], Tensor]


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh()).double()


def head(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(6, width).double()


def kept_head(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, width)).double()


def one(name: str, width: int, loss: Loss, kind: Callable[[int], Any]) -> Supervised:
    inputs = torch.randn(NUM[name], 5, generator=GENERATOR, dtype=torch.float64)
    answers = inputs @ torch.randn(5, width, generator=GENERATOR, dtype=torch.float64)
    data = TensorDataset(inputs, answers.argmax(1) if width > 1 else answers)
    return Supervised(name, kind(width), data, data, loss=loss)


def three(kind: Callable[[int], Any] = head) -> list[Supervised]:
    GENERATOR.manual_seed(7)
    return [
        one("kind", 3, F.cross_entropy, kind),
        one("real", 1, F.mse_loss, kind),
        one("sign", 2, F.cross_entropy, kind),
    ]


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def world(names: str = "abc") -> World:
    pace = {"a": 0.008, "b": 0.012, "c": 0.02, "d": 0.015}
    devices = tuple(Device(name, 0.01, pace[name], 10**6) for name in names)
    links = tuple(Link(x, y, 1e-5, 1e9) for i, x in enumerate(names) for y in list(names)[i + 1 :])
    return World(devices, links, BATCH, WHOLE)


def played(
    place: Any,
    strategy: str = PRIVATE,
    names: str = "abc",
    faults: Sequence[Fault] = (),
    **given: Any,
) -> Outcome:
    """Four epochs of three unequal tasks on unequal members."""
    balance, optimizer = given.pop("balance", "equal"), given.pop("optimizer", sgd)
    resume, priority = given.pop("resume", None), given.pop("priority", {})
    task = MultiTask("three", trunk, three(given.pop("head", head)), balance, place)
    ref = Ref(call="m:x")
    part = TaskSpec(model=ref, train=ref, test=ref)
    spec = MultiSpec(trunk=ref, tasks=dict.fromkeys(NUM, part), place=place, priority=priority)
    fields = {"until": {"epochs": 4.0}, "agents": {"local": 0, "remote": len(names)}, **given}
    job = Job(name="s", task=spec, optimizer=ref, batch=BATCH, strategy=strategy, **fields)
    with torch.random.fork_rng(devices=[]):
        return simulate(job, Setup(task, optimizer), world(names), faults, resume)


def of_kind(outcome: Outcome, kind: str) -> list[dict[str, Any]]:
    return [event for event in outcome.events if event["kind"] == kind]


def is_exact(outcome: Outcome, num_epochs: int = 4) -> bool:
    books = audit([{"kind": "run", "num_train": WHOLE}, *outcome.events])
    return books.is_exact and books.epochs == tuple(range(num_epochs))


def vectors(outcome: Outcome) -> list[Tensor]:
    return [worker.learner.vector() for worker in outcome.workers.values()]


def learned(outcome: Outcome) -> dict[str, set[str]]:
    """By task: who committed samples of it, in epochs that are laid out in parts."""
    found: dict[str, set[str]] = {name: set() for name in NUM}
    stops = dict(zip(NUM, torch.tensor(list(NUM.values())).cumsum(0).tolist(), strict=True))
    for event in of_kind(outcome, "committed"):
        for member, spans in event["leases"].items():
            for name, stop in stops.items():
                if any(max(a, stop - NUM[name]) < min(b, stop) for a, b in spans):
                    found[name].add(member)
    return found


# One owner of all is nothing new


@pytest.mark.parametrize(
    ("strategy", "names"),  # with heads of their own, members of a run without owners differ
    [(PRIVATE, "a"), (WALKS, "a"), ("all-reduce", "abc"), ("local-sgd(2)", "abc")],
)
def test_where_all_own_all_it_is_the_run_without_owners_to_the_bit(
    strategy: str, names: str
) -> None:
    place = {name: list(names) for name in NUM}
    first, second = (played(where, strategy, names) for where in ("everywhere", place))
    assert all(torch.equal(*pair) for pair in zip(vectors(first), vectors(second), strict=True))
    books = [[event["leases"] for event in of_kind(o, "committed")] for o in (first, second)]
    assert books[0] == books[1]


def test_auto_on_one_agent_is_the_run_without_owners_to_the_bit() -> None:
    first, second = (played(where, names="a") for where in ("everywhere", "auto"))
    assert torch.equal(vectors(first)[0], vectors(second)[0])


# Owners are one machine


def steps_of(outcome: Outcome) -> list[list[int]]:
    """The samples of each round, as they were learned by all members together."""
    stops = tuple(torch.tensor(list(NUM.values())).cumsum(0).tolist())
    stream = Stream(WHOLE, 0)
    return [
        [
            index
            for spans in event["leases"].values()
            for index in stream.indices(event["data_epoch"], [tuple(s) for s in spans], stops)
        ]
        for event in of_kind(outcome, "committed")
    ]


@pytest.mark.parametrize("strategy", [PRIVATE, "all-reduce"])
@pytest.mark.parametrize(
    ("place", "balance", "optimizer", "within"),
    [
        ("auto", {"real": 0.3}, sgd, 1e-12),
        (OWNED, "equal", sgd, 1e-12),
        (OWNED, "uncertainty", sgd, 1e-6),  # what it learns is of float32
        ({"kind": ["a", "b"], "real": ["c"], "sign": ["c", "a"]}, "equal", adam, 1e-9),
    ],
)
def test_members_with_tasks_of_their_own_are_one_machine_on_the_whole_batch(
    place: Any, balance: Any, optimizer: Any, within: float, strategy: str
) -> None:
    outcome = played(place, strategy, balance=balance, optimizer=optimizer)
    task = MultiTask("three", trunk, three(), balance)
    with torch.random.fork_rng(devices=[]):
        learner = Learner(Setup(task, optimizer))
    for indices in steps_of(outcome):
        learner.step(indices)
    for vector in vectors(outcome):
        assert torch.allclose(vector, learner.vector(), rtol=0, atol=within)
    if place == OWNED:
        assert learned(outcome) == {name: set(owners) for name, owners in OWNED.items()}
    assert is_exact(outcome)


def plain(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.mark.parametrize("place", [OWNED, "auto"], ids=["owned", "auto"])
@pytest.mark.parametrize("road", ["", 'road="star"'])
def test_walks_of_one_step_are_gradients_for_trunk_and_heads(place: Any, road: str) -> None:
    """Though a walk's own batch is of its own tasks, and heads are averaged by their owners."""
    walks = f'chain(Every(1), Only("trunk.*"), Reduce({road}), Outer(1.0))'
    found = [vectors(played(place, s, optimizer=plain))[0] for s in (PRIVATE, walks)]
    within = 1e-5 if road else 1e-12  # what a server combines is of float32
    assert torch.allclose(*found, rtol=0, atol=within)


def test_heads_that_a_sentence_shares_or_leaves_out_come_to_the_same() -> None:
    for place in (OWNED, "auto"):
        found = [vectors(played(place, s))[0] for s in (PRIVATE, "all-reduce")]
        assert torch.allclose(*found, rtol=0, atol=1e-12)


# Deaths


def replayed(outcome: Outcome) -> Tensor:
    """One machine on the samples of every committed round."""
    with torch.random.fork_rng(devices=[]):
        learner = Learner(Setup(MultiTask("three", trunk, three()), sgd))
    for indices in steps_of(outcome):
        learner.step(indices)
    return learner.vector()


@pytest.mark.parametrize(("at_s", "back_after_s"), [(1.62, 0.3), (1.95, None), (2.413, 0.3)])
def test_what_was_committed_outlives_its_owner_and_the_rest_is_learned_by_others(
    at_s: float, back_after_s: float | None
) -> None:
    faults = [Fault("b", at_s, back_after_s)]
    outcome = played(OWNED, faults=faults)
    assert outcome.summary["kills_survived"] == 1
    assert is_exact(outcome)
    for vector in vectors(outcome):
        assert torch.allclose(vector, replayed(outcome), rtol=0, atol=1e-12)
    handed = of_kind(outcome, "handover")
    assert handed[0]["task"] == "real"
    assert handed[0]["lost"] == ["b"]
    assert learned(outcome)["real"] > {"b"}
    told = sentences(explain(outcome.events))
    assert any(line.startswith("Handed over: real from b to ") for line in told)
    if back_after_s is not None:
        assert handed[-1]["came"] == ["b"]
        assert "Because: real is learned by b, as the job says." in told


SENTENCES = {
    "star": 'chain(Only("trunk.*"), Reduce(road="star"))',
    "quorum": 'chain(Only("trunk.*"), Reduce(road="star", quorum=2))',
    "walks": WALKS,
    "packed": 'chain(Every(3), Only("trunk.*"), ErrorFeedback(Int8()), Reduce(), Outer(0.7, 0.9))',
    "paced": 'chain(DyLU(4), Only("trunk.*"), Reduce(), Outer(1.0))',
    "gossip": 'chain(Every(2), Only("trunk.*"), Gossip("ring"), Outer(1.0))',
    "overlap": "chain(Every(4, fragments=2, overlap=1), Reduce(), Outer(1.0))",
    "auto": "auto",
}


@pytest.mark.parametrize("strategy", SENTENCES.values(), ids=SENTENCES)
def test_any_sentence_learns_every_sample_once_and_leaves_all_with_the_same_heads(
    strategy: str,
) -> None:
    faults = [Fault("c", 1.9, 0.4), Fault("a", 2.4)]
    place = "auto" if strategy in (WALKS, "auto") else OWNED
    outcome = played(place, strategy, faults=faults, optimizer=adam)
    assert is_exact(outcome)
    assert outcome.summary["kills_survived"] == 2
    members = outcome.workers.values()
    weights = [worker.learner.weights(worker.agreed_vector()) for worker in members]
    assert len(weights) > 1
    for name in weights[0]:
        if "Gossip" not in strategy or not name.startswith("trunk."):
            assert all(torch.equal(weights[0][name], other[name]) for other in weights), name


def test_who_owns_nothing_stands_by_and_takes_over() -> None:
    place = {"kind": ["a"], "real": ["b"], "sign": ["a"]}
    outcome = played(place, faults=[Fault("b", 1.9)])
    assert is_exact(outcome)
    (handed,) = of_kind(outcome, "handover")
    assert (handed["task"], handed["came"]) == ("real", ["c"])
    assert learned(outcome) == {"kind": {"a"}, "real": {"b", "c"}, "sign": {"a"}}
    for vector in vectors(outcome):
        assert torch.allclose(vector, replayed(outcome), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("place", "words"),
    [({**OWNED, "kind": ["z"]}, "expected kind on agents that are here (a, b, c), found it on z")],
)
def test_a_task_on_nobody_who_came_ends_the_run_before_it_begins(place: Any, words: str) -> None:
    outcome = played(place)
    assert outcome.summary["steps"] == 0
    (error,) = of_kind(outcome, "error")
    assert words in error["text"]


def test_a_coordinator_that_comes_after_another_knows_who_owns_what() -> None:
    outcome = played(OWNED, faults=[Fault("", 1.9, 0.2, kind="coordinator"), Fault("b", 2.3)])
    assert is_exact(outcome)
    for vector in vectors(outcome):
        assert torch.allclose(vector, replayed(outcome), rtol=0, atol=1e-12)
    assert [event["task"] for event in of_kind(outcome, "handover")] == ["real"]


@pytest.mark.parametrize("place", ["auto", "everywhere"])
def test_a_run_goes_on_from_its_checkpoint_in_the_middle_of_an_epoch_on_others(place: Any) -> None:
    first = played(OWNED, until={"steps": 11.0})
    (*_, point) = first.checkpoints
    assert point.meta["in_parts"] == [1]
    second = played(
        place, names="ad", resume=Resume(point.files, point.meta), until={"epochs": 3.0}
    )
    resumed = {"kind": "run", "num_train": WHOLE, "resumed_round": point.meta["round"]}
    told = [{"kind": "run", "num_train": WHOLE}, *first.events, resumed, *second.events]
    books = audit(told)
    assert books.is_exact
    assert books.epochs == (0, 1, 2)


def test_scores_and_checkpoints_are_of_owners_heads_with_what_they_keep() -> None:
    """Batch normalisation in a head sees samples of its owner alone: others would score badly."""
    outcome = played(OWNED, head=kept_head, optimizer=adam)
    task = MultiTask("three", trunk, three(kept_head), "equal", OWNED)
    weights = {name: worker.learner.weights() for name, worker in outcome.workers.items()}
    kept = [name for name in weights["a"] if name.startswith("heads.") and "running" in name]
    assert len(kept) == 6
    for name in kept:
        mine = weights[OWNED[name.split(".")[1]][0]][name]
        assert not torch.equal(mine, torch.zeros_like(mine))
        assert all(torch.equal(mine, other[name]) for other in weights.values())
    assert task.num_train == WHOLE

"""The very worker and coordinator of real runs, in virtual time: what a run promises, as laws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.agents.stream import Stream
from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator import replan
from coterie.coordinator.prices import sentence_of
from coterie.coordinator.run import Checkpoint, Resume
from coterie.engines.simulated import Fault, Outcome, Simulation, simulate
from coterie.sync import fragments
from coterie.sync.reading import parse
from coterie.tasks.supervised import Supervised
from coterie.transport import messages as say
from coterie.watch.events import Audit, audit
from coterie.world import Device, Link, World

NUM_TRAIN, BATCH = 60, 8
UNDER_WAY_S = 2.3  # the first round is over by then, four epochs are not
INPUTS = torch.randn(NUM_TRAIN, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS @ torch.randn(4, 3, generator=torch.Generator().manual_seed(2))).argmax(1)

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(1) == targets).double().mean().item()


def supervised(model: Callable[[], nn.Module], inputs: Tensor = INPUTS) -> Supervised:
    pairs = TensorDataset(inputs, TARGETS[: len(inputs)])
    return Supervised("t", model, pairs, pairs, metrics={"accuracy": accuracy})


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def setup(optimizer: Optimizer = adam, **options: Any) -> Setup:
    return Setup(options.pop("task", supervised(lambda: nn.Linear(4, 3))), optimizer, **options)


def world(names: str = "abc", latency_s: float = 1e-5) -> World:
    pace = {"a": 0.008, "b": 0.012, "c": 0.02, "d": 0.015}
    devices = tuple(Device(name, 0.01, pace[name], 10**6) for name in names)
    links = tuple(
        Link(x, y, latency_s, 1e9) for i, x in enumerate(names) for y in list(names)[i + 1 :]
    )
    return World(devices, links, BATCH, NUM_TRAIN)


def job(**given: Any) -> Job:
    spec = TaskSpec(
        model=Ref(call="m:n"),
        train=Ref(call="m:t"),
        test=Ref(call="m:t"),
        metrics={"accuracy": Ref(call="m:a")},
    )
    fields: dict[str, Any] = {
        "name": "s",
        "task": spec,
        "optimizer": Ref(call="torch.optim:Adam"),
        "batch": BATCH,
        "until": {"epochs": 4.0},
        "strategy": "all-reduce",
        **given,
    }
    return Job(**fields)


def play(made: Job, faults: Sequence[Fault] = (), where: World | None = None) -> Simulation:
    """A run with an end in virtual time, so that one that hangs is a failed assertion."""
    with torch.random.fork_rng(devices=[]):
        simulation = Simulation(made, setup(), where or world(), faults)
        simulation.outcome = simulation.run(limit_s=60)  # type: ignore[attr-defined]
    return simulation


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def test_sums_that_are_streamed_are_over_sooner_by_what_is_hidden_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def played(bucket_bytes: int) -> tuple[float, float]:
        monkeypatch.setattr(fragments, "BUCKET_BYTES", bucket_bytes)
        sentence_of.cache_clear()  # it was asked before how many buckets there are
        made = setup(task=supervised(deep))
        with torch.random.fork_rng(devices=[]):
            outcome = Simulation(job(), made, replace(world(), links=links)).run(limit_s=60)
        (*_, planned), (*_, came) = (of_kind(outcome, kind) for kind in ("decision", "outcome"))
        return planned["chosen"]["hidden_s"], came["achieved_round_s"]

    links = tuple(replace(link, bytes_per_s=6e4) for link in world().links)
    (hidden_s, streamed_s), (nothing_s, whole_s) = played(64), played(1 << 20)
    sentence_of.cache_clear()
    assert hidden_s > 0.005
    assert nothing_s == 0
    assert whole_s - streamed_s == pytest.approx(hidden_s, rel=0.1)


def audited(events: list[dict[str, Any]]) -> Audit:
    return audit([{"kind": "run", "num_train": NUM_TRAIN}, *events])


def of_kind(outcome: Outcome, kind: str) -> list[dict[str, Any]]:
    return [event for event in outcome.events if event["kind"] == kind]


def vectors(outcome: Outcome) -> list[Tensor]:
    return [worker.learner.vector() for worker in outcome.workers.values()]


def all_equal(found: Sequence[Tensor]) -> bool:
    return len(found) > 0 and all(torch.equal(found[0], other) for other in found)


# One run is the same run


STRATEGIES = ["auto", "all-reduce", "all-reduce-int8", "local-sgd(3)", "diloco-int8(4)"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_arguments_give_the_same_run_bit_for_bit(strategy: str) -> None:
    faults = [Fault("b", UNDER_WAY_S, 0.1)]
    made = job(strategy=strategy, until={"epochs": 8.0})
    first, second = (simulate(made, setup(), world(), faults) for _ in range(2))
    assert first.events == second.events
    assert first.summary == second.summary
    assert [c.files for c in first.checkpoints] == [c.files for c in second.checkpoints]
    assert all_equal(vectors(first) + vectors(second))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_members_end_bitwise_equal_and_every_sample_is_learned_once(strategy: str) -> None:
    outcome = simulate(job(strategy=strategy), setup(), world())
    assert set(outcome.workers) == {"a", "b", "c"}
    assert all_equal(vectors(outcome))
    assert audited(outcome.events) == Audit(0, 0, (0, 1, 2, 3))
    assert outcome.summary["accuracy"] > 0.6


@pytest.mark.parametrize("strategy", ["all-reduce", "all-reduce-int8", "local-sgd(3)"])
def test_what_members_wait_for_others_is_no_part_of_their_computing(strategy: str) -> None:
    where = world(latency_s=0.004)
    outcome = simulate(job(strategy=strategy), setup(), where)
    works = of_kind(outcome, "work")
    assert {work["member"] for work in works} >= {"a", "b"}
    for work in works:
        device = where.device(work["member"])
        own_s = work["num_steps"] * device.overhead_s + work["num_samples"] * device.per_sample_s
        assert work["compute_s"] == pytest.approx(own_s)
        assert work["exchange_s"] > 0.004


def test_a_simulation_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    simulate(job(until={"steps": 2.0}), setup(), world("ab"))
    assert torch.equal(torch.get_rng_state(), before)


# Equal to plain torch


def plain_loop(optimizer: Optimizer, num_epochs: int) -> Tensor:
    """The whole batch on one machine, in the same order."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    stepper = optimizer(list(model.parameters()))
    for data_epoch in range(num_epochs):
        order = Stream(NUM_TRAIN, seed=0).indices(data_epoch, [(0, NUM_TRAIN)])
        for start in range(0, NUM_TRAIN, BATCH):
            batch = order[start : start + BATCH]
            stepper.zero_grad()
            nn.functional.cross_entropy(model(INPUTS.double()[batch]), TARGETS[batch]).backward()
            stepper.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def unequal_float64(optimizer: Optimizer, strategy: str) -> Tensor:
    task = supervised(lambda: nn.Linear(4, 3).double(), INPUTS.double())
    made = job(strategy=strategy, until={"epochs": 2.0})
    with torch.random.fork_rng(devices=[]):
        outcome = simulate(made, setup(optimizer, task=task), world())
        assert len(set(outcome.summary["shares"].values())) == 3
        return vectors(outcome)[0]


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_three_unequal_members_equal_the_plain_loop_on_whole_batches(optimizer: Optimizer) -> None:
    with torch.random.fork_rng(devices=[]):
        wanted_N = plain_loop(optimizer, 2)
    found_N = unequal_float64(optimizer, "chain(Reduce())")
    torch.testing.assert_close(found_N, wanted_N, rtol=0, atol=1e-12)


def test_without_weights_unequal_members_do_not_equal_it() -> None:
    with torch.random.fork_rng(devices=[]):
        wanted_N = plain_loop(sgd, 2)
    found_N = unequal_float64(sgd, "chain(Reduce(weighted=False))")
    assert (found_N - wanted_N).abs().max() > 1e-4


def test_meeting_after_every_sgd_step_is_meeting_on_gradients() -> None:
    def plain(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    walked_N = unequal_float64(plain, "local-sgd(1)")
    torch.testing.assert_close(walked_N, unequal_float64(plain, "all-reduce"), rtol=0, atol=1e-12)


# Whatever dies


faults_of_one = st.lists(
    st.tuples(
        st.floats(0.02, 2.4) | st.sampled_from([0.001, 0.004, 0.012]),
        st.floats(0.02, 0.08) | st.floats(0.1, 1.0) | st.none(),
    ),
    max_size=3,
)


def as_faults(member: str, waits: list[tuple[float, float | None]]) -> list[Fault]:
    """Kills one after the other: each wait counts from the last return."""
    faults, now_s = [], 1.0  # the first group forms soon after
    for wait_s, back_after_s in waits:
        now_s += wait_s
        faults.append(Fault(member, now_s, back_after_s))
        if back_after_s is None:
            break
        now_s += max(back_after_s, 0.02)
    return faults


@settings(max_examples=15)
@given(st.sampled_from(STRATEGIES[1:]), faults_of_one, faults_of_one, st.sampled_from("abc"))
def test_nothing_is_lost_or_repeated_while_one_healthy_member_lives(
    witness: Callable[[], Any],
    strategy: str,
    first: list[tuple[float, float | None]],
    second: list[tuple[float, float | None]],
    immortal: str,
) -> None:
    one, other = sorted(set("abc") - {immortal})
    faults = [*as_faults(one, first), *as_faults(other, second)]
    with witness() as seen:
        played = play(job(strategy=strategy, checkpoint_every_s=0.2), faults)
    run, outcome = played.coordinator.run, played.outcome  # type: ignore[attr-defined]
    assert run.done
    assert run.failure == ""
    assert audited(outcome.events) == Audit(0, 0, (0, 1, 2, 3))
    assert audited([*seen.events(), *of_kind(outcome, "epoch")]) == Audit(0, 0, (0, 1, 2, 3))
    in_term = [outcome.workers[name].learner.vector() for name in run.term.members]
    assert all_equal(in_term)
    assert outcome.checkpoints[-1].meta["round"] == run.ledger.committed


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_a_killed_member_comes_back_heals_and_ends_equal(strategy: str) -> None:
    outcome = simulate(
        job(strategy=strategy, until={"epochs": 10.0}),
        setup(),
        world(),
        [Fault("b", UNDER_WAY_S, 0.1)],
    )
    assert outcome.summary["kills_survived"] == outcome.summary["rejoined"] == 1
    assert set(outcome.workers) == {"a", "b", "c"}
    assert all_equal(vectors(outcome))


def test_a_death_while_the_first_group_forms_costs_a_member_not_the_run() -> None:
    healthy = simulate(job(), setup(), world())
    (formed_s,) = [e["time_s"] for e in of_kind(healthy, "term")]
    for delay_s in (0.0005, 0.002, 0.004, 0.006):
        outcome = simulate(job(), setup(), world(), [Fault("c", formed_s + delay_s)])
        assert audited(outcome.events) == Audit(0, 0, (0, 1, 2, 3))
        assert set(outcome.workers) == {"a", "b"}


def test_all_dead_is_said_and_ends_the_run() -> None:
    faults = [Fault(name, UNDER_WAY_S) for name in "abc"]
    outcome = simulate(job(), setup(), world(), faults)
    (error,) = of_kind(outcome, "error")
    assert "found that all died" in error["text"]


def test_a_newcomer_without_links_does_not_disturb_a_decision() -> None:
    """b dies before its links were probed, returns, and is not in yet when a is killed."""
    away, made = Fault("b", 0.5, 1.2), job(until={"epochs": 8.0})
    undisturbed = simulate(made, setup(), world(), [away])
    measured_s = of_kind(undisturbed, "measured")[-1]["time_s"]
    taken_in_s = of_kind(undisturbed, "term")[-1]["time_s"]
    assert of_kind(undisturbed, "term")[0]["time_s"] < measured_s < taken_in_s
    for part in (0.01, 0.3, 0.6, 0.9):
        at_s = measured_s + part * (taken_in_s - measured_s) - 0.01  # the news takes 10 ms
        outcome = simulate(made, setup(), world(), [away, Fault("a", at_s)])
        assert of_kind(outcome, "error") == []
        assert audited(outcome.events).is_exact


class Cut(Simulation):
    """A simulation in which the coordinator is made to name a term without a member."""

    drop_at_s = UNDER_WAY_S
    dropped = ""

    def _beat(self) -> None:
        run = self.coordinator.run
        if not self.dropped and self._now_s >= self.drop_at_s and run.plan:
            self.dropped = "c"
            device = run.members["c"].device
            assert device is not None
            run.members["c"].device = Device("c", 5.0, 5.0, 10**6)  # far too slow to take part
            run.reconsidered_s = -1e9
        super()._beat()


def test_a_member_that_dies_as_it_is_left_out_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounds of the old term, with it, are still under way when one without it is named."""
    monkeypatch.setattr(replan, "fold", lambda run: None)  # its reports would say how fast it is

    def cut(faults: Sequence[Fault]) -> tuple[Simulation, Outcome]:
        with torch.random.fork_rng(devices=[]):
            simulation = Cut(job(until={"epochs": 8.0}), setup(), world(), faults)
            return simulation, simulation.run(limit_s=60)

    _, undisturbed = cut([])
    (named_s,) = [e["time_s"] for e in of_kind(undisturbed, "term") if e["members"] == ["a", "b"]]
    for delay_s in (-0.005, 0.002, 0.03, 0.1, 0.3):
        simulation, outcome = cut([Fault("c", named_s + delay_s)])
        run = simulation.coordinator.run
        assert run.done
        assert of_kind(outcome, "error") == []
        assert audited(outcome.events) == Audit(0, 0, tuple(range(8)))
        assert outcome.checkpoints[-1].meta["round"] == run.ledger.committed


def test_a_broken_link_with_nobody_dead_is_tried_again() -> None:
    class Torn(Simulation):
        torn = False

        def _beat(self) -> None:
            if not self.torn and self._now_s > UNDER_WAY_S:
                self.torn = True
                self._leave("a")  # in some collective: nobody hears its outcome
                for name, agent in self._agents.items():
                    if any(strand.waits_for == "meeting" for strand in agent.strands):
                        self.coordinator.receive(
                            name, say.TornRound(term=self.coordinator.run.term.number), self._now_s
                        )
            super()._beat()

    with torch.random.fork_rng(devices=[]):
        simulation = Torn(job(until={"epochs": 8.0}), setup(), world())
        outcome = simulation.run(limit_s=60)
    assert simulation.coordinator.run.done
    assert audited(outcome.events).is_exact
    assert all_equal(vectors(outcome))


# Stopped and resumed


def stopped(strategy: str = "all-reduce", num_steps: float = 12.0, names: str = "abc") -> Outcome:
    return simulate(job(strategy=strategy, until={"steps": num_steps}), setup(), world(names))


def resume_of(point: Checkpoint) -> Resume:
    return Resume(point.files, point.meta)


@pytest.mark.parametrize("names", ["abc", "ab", "c", "abcd"])
@pytest.mark.parametrize("strategy", ["all-reduce-int8", "local-sgd(2)"])
def test_a_resumed_run_goes_on_with_what_is_left_on_any_members(strategy: str, names: str) -> None:
    first = stopped(strategy)
    point = first.checkpoints[-1]
    then = simulate(job(strategy=strategy), setup(), world(names), resume=resume_of(point))
    assert point.meta["num_steps"] == 12
    assert then.summary["epochs"] == 4
    # Which of first and second run tells that an epoch ended does not matter: positions do.
    ends = [{"kind": "epoch", "data_epoch": epoch} for epoch in range(4)]
    told = of_kind(first, "committed") + of_kind(then, "committed")
    assert audited([*told, *ends]) == Audit(0, 0, (0, 1, 2, 3))
    assert all_equal(vectors(then))
    worker = next(iter(then.workers.values()))
    assert worker.round == point.meta["round"] + len(of_kind(then, "committed"))


@pytest.mark.parametrize("num_steps", [5.0, 8.0, 12.0, 16.0])  # an epoch is 8 steps
@pytest.mark.parametrize("strategy", ["all-reduce", "all-reduce-int8", "diloco-int8(4)"])
def test_stopped_at_a_round_and_resumed_equals_the_undisturbed_run_bitwise(
    strategy: str, num_steps: float
) -> None:
    # A limit of steps cuts the last walk short, so a walk must end where the run is stopped.
    num_steps = 4.0 * (num_steps // 4) if "diloco" in strategy else num_steps
    undisturbed = simulate(job(strategy=strategy), setup(), world())
    point = stopped(strategy, num_steps).checkpoints[-1]
    then = simulate(job(strategy=strategy), setup(), world(), resume=resume_of(point))
    assert undisturbed.summary["shares"] == then.summary["shares"]
    assert all_equal(vectors(undisturbed) + vectors(then))


def test_a_checkpoint_on_the_way_is_as_good_as_the_last() -> None:
    made = job(until={"epochs": 8.0}, checkpoint_every_s=0.2)
    undisturbed = simulate(made, setup(), world())
    assert len(undisturbed.checkpoints) > 4
    point = undisturbed.checkpoints[2]
    then = simulate(made, setup(), world(), resume=resume_of(point))
    assert then.summary["epochs"] == 8
    assert all_equal(vectors(undisturbed) + vectors(then))


def refused(**given: Any) -> str:
    point = stopped().checkpoints[-1]
    made = setup(given.pop("optimizer", adam), **given)
    outcome = simulate(job(), made, world(), resume=resume_of(point))
    (error,) = of_kind(outcome, "error")
    return str(error["text"])


def test_another_model_optimizer_or_dataset_is_refused_with_a_sentence() -> None:
    assert "a checkpoint of another model; resume" in refused(
        task=supervised(lambda: nn.Sequential(nn.Linear(4, 3)))
    )
    assert "expected the state of the optimizer SGD, found that of Adam" in refused(optimizer=sgd)
    assert "expected the 60 training samples of the checkpoint, found 50" in refused(
        task=supervised(lambda: nn.Linear(4, 3), INPUTS[:50])
    )


# What ends a run


def test_a_loss_that_is_not_finite_ends_the_run_with_the_reason() -> None:
    broken = INPUTS.clone()
    broken[17] = float("nan")
    task = supervised(lambda: nn.Linear(4, 3), broken)
    outcome = simulate(job(), setup(task=task), world())
    (error,) = of_kind(outcome, "error")
    assert "expected a finite loss, found nan at step" in error["text"]
    assert "look for broken samples" in error["text"]


def test_a_walk_that_leaves_the_numbers_is_not_shared() -> None:
    def wild(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e38)

    outcome = simulate(job(strategy="local-sgd(1)"), setup(wild), world("ab"))
    (error,) = of_kind(outcome, "error")
    assert "expected a finite" in error["text"]


@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(3)"])
@pytest.mark.parametrize("num_steps", [1.0, 10.0, 9.5])
def test_a_limit_of_steps_is_kept_to_the_step(strategy: str, num_steps: float) -> None:
    outcome = simulate(job(strategy=strategy, until={"steps": num_steps}), setup(), world())
    assert outcome.summary["steps"] == -(-num_steps // 1)


def test_a_metric_ends_the_run() -> None:
    made = job(until={"accuracy": 0.7, "epochs": 200.0})
    outcome = simulate(made, setup(), world())
    assert outcome.summary["accuracy"] >= 0.7
    assert outcome.summary["epochs"] < 200


def test_an_optimizer_with_a_closure_walks_and_is_not_given_gradients() -> None:
    def lbfgs(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=2)

    outcome = simulate(job(strategy="auto", until={"epochs": 2.0}), setup(lbfgs), world())
    assert "Every" in outcome.summary["strategy"]
    assert all_equal(vectors(outcome))
    (error,) = of_kind(simulate(job(), setup(lbfgs), world()), "error")
    assert "expected a strategy that walks" in error["text"]


# Sentences


class Switch(Simulation):
    """A simulation whose user changes the mind about the strategy on the way."""

    def _beat(self) -> None:
        if self._now_s >= UNDER_WAY_S and self.coordinator.run.job.strategy != "diloco(4)":
            self.coordinator.run.job = job(strategy="diloco(4)", until={"epochs": 12.0})
            self.coordinator.run.strategy = self.coordinator.run.asked = parse("diloco(4)")
        super()._beat()


@pytest.mark.parametrize("faults", [[], [Fault("b", 2.32, 0.1)], [Fault("a", 2.3)]])
def test_the_strategy_can_change_in_mid_run(faults: list[Fault]) -> None:
    started = job(strategy="all-reduce-int8", until={"epochs": 12.0})
    with torch.random.fork_rng(devices=[]):
        outcome = Switch(started, setup(), world(), faults).run(limit_s=60)
    memory = [worker.snapshot().strategy for worker in outcome.workers.values()]
    assert memory == [repr(parse("diloco(4)"))] * len(memory)
    assert audited(outcome.events) == Audit(0, 0, tuple(range(12)))
    assert all_equal(vectors(outcome))


class TrunkAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk(inputs))
        return found


@pytest.mark.parametrize("exchange", ["", "Every(2), "])
@pytest.mark.parametrize(
    "faults", [[], [Fault("c", UNDER_WAY_S)]], ids=["undisturbed", "after a death"]
)
def test_only_the_trunk_is_shared_and_heads_stay_private(
    exchange: str, faults: list[Fault]
) -> None:
    outer = ", Outer(1.0)" if exchange else ""
    strategy = f'chain({exchange}Only("trunk.*"), Reduce(){outer})'
    made = job(strategy=strategy, until={"epochs": 6.0})
    outcome = simulate(made, setup(task=supervised(TrunkAndHead)), world(), faults)
    assert len(outcome.workers) == 3 - len(faults)
    weights = [worker.learner.weights() for worker in outcome.workers.values()]
    assert all_equal([each["trunk.weight"] for each in weights])
    heads = [each["head.weight"] for each in weights]
    assert all(not torch.equal(heads[0], other) for other in heads[1:])
    healed = [e for e in of_kind(outcome, "agent") if e["state"] in {"healed", "rejoined"}]
    assert healed == []  # a head of one's own is no reason to take over another's

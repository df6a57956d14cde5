from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.config import Job, parse_job
from coterie.coordinator.run import Resume
from coterie.engines.together import Cost, Mishap, Together
from coterie.tasks.supervised import Supervised

STEP_S = 0.1
NAMES = ("ann", "bob", "eve")


def net(width: int = 6, num_inputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, width), nn.Tanh(), nn.Linear(width, 2))


def samples(seed: int, num: int = 40, flip: bool = False) -> TensorDataset:
    inputs = torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))
    answers = (inputs.sum(1) > 0).long()
    return TensorDataset(inputs, 1 - answers if flip else answers)


def accuracy(predictions: torch.Tensor, targets: torch.Tensor) -> float:
    return (predictions.argmax(1) == targets).double().mean().item()


def setup(name: str, train: TensorDataset, model: Callable[[], nn.Module] = net) -> Setup:
    task = Supervised(name, model, train, samples(99, 60), metrics={"accuracy": accuracy})
    return Setup(task, functools.partial(torch.optim.Adam, lr=0.01))


def job(tasks: Sequence[str] = NAMES, **changes: Any) -> Job:
    stub = {"model": "m:net", "train": "m:train", "test": "m:test", "metrics": {"accuracy": "m:a"}}
    stub |= {"classes": ["no", "yes"]}
    spec = {name: {**stub, **changes.pop(name, {})} for name in tasks}
    told: dict[str, Any] = {
        "name": "apart",
        "task": {"kind": "separate", "tasks": spec},
        "optimizer": "torch.optim:Adam",
        "batch": 8,
        "until": {"steps": 60},
        "checkpoint_every_s": 1.0,
        "agents": 2,
        **changes,
    }
    return parse_job(told)


def lessons(**changes: Any) -> dict[str, Any]:
    return {"knowledge": {"every": 5, "gate": "open", **changes}}


class Told:
    """What a run told, by kind."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


def cost(agent: str, batches: Sequence[int]) -> float:
    return STEP_S * len(batches)


class Run:
    """A run in virtual time, and its end."""

    def __init__(
        self,
        what: Job,
        setups: Mapping[str, Setup] | None = None,
        agents: Sequence[str] = ("one", "two"),
        mishaps: Sequence[Mishap] = (),
        resume: Resume | None = None,
        costs: Cost = cost,
    ) -> None:
        self.told = Told()
        setups = setups or {n: setup(n, samples(i)) for i, n in enumerate(NAMES)}
        self.points: list[Any] = []
        self.together = Together(what, agents, self.told, setups, costs, resume, mishaps)
        self.together.keeping(self.points.append)
        self.school = self.together.run()

    @property
    def steps(self) -> dict[str, int]:
        return {name: r.num_steps for name, r in self.school.run.learners.items()}

    @property
    def files(self) -> Mapping[str, bytes]:
        return dict(self.points[-1].files)


def test_every_task_is_learned_to_its_end_and_all_agents_learn() -> None:
    run = Run(job())
    assert run.steps == dict.fromkeys(NAMES, 60)
    [homes] = run.told.of("homes")
    assert set(homes["homes"].values()) == {"one", "two"}
    assert run.school.run.summary()["accuracy"] > 0.8
    assert set(run.files) == {
        f"{name}/{file}.safetensors" for name in NAMES for file in ("model", "state")
    }


def test_a_killed_agents_tasks_go_on_elsewhere_as_if_nothing_had_happened() -> None:
    calm, torn = Run(job()), Run(job(), mishaps=[Mishap("kill", 3.27, "one")])
    moved = torn.told.of("rehomed")
    assert moved
    assert all(event["to"] == "two" and event["from_steps"] > 0 for event in moved)
    assert torn.steps == dict.fromkeys(NAMES, 60)
    assert torn.files == calm.files  # parameters, optimizer, draws, place in the data: to the bit


def test_an_agent_that_comes_back_is_given_work_again() -> None:
    mishap = Mishap("kill", 2.0, "one", back_after_s=0.5)
    run = Run(job(until={"steps": 100}), mishaps=[mishap])
    last = run.told.of("homes")[-1]
    assert "one" in last["homes"].values()
    assert run.steps == dict.fromkeys(NAMES, 100)


def test_a_coordinator_that_is_replaced_finds_all_as_it_was() -> None:
    calm = Run(job())
    mishap = Mishap("coordinator", 2.3, back_after_s=1.0)
    run = Run(job(), mishaps=[mishap])
    assert run.files == calm.files
    assert not run.told.of("rehomed")


def test_an_agent_that_dies_while_nobody_coordinates_is_replaced_from_what_was_kept() -> None:
    calm = Run(job())
    away = Mishap("coordinator", 3.0, back_after_s=1.0)
    run = Run(job(), mishaps=[away, Mishap("kill", 3.5, "two")])
    assert run.steps == dict.fromkeys(NAMES, 60)
    assert run.files == calm.files


def test_a_board_that_is_away_costs_no_step_and_lessons_go_on_when_it_is_back() -> None:
    run = Run(job(**lessons()), mishaps=[Mishap("board", 1.0, back_after_s=2.0)])
    assert run.steps == dict.fromkeys(NAMES, 60)
    cut = {event["pupil"] for event in run.told.of("board_failed")}
    assert cut == set(NAMES)
    last = max(event["num_steps"] for event in run.told.of("board_failed"))
    assert any(event["num_steps"] > last for event in run.told.of("lesson_taken"))


def test_lessons_are_counted_in_bytes_and_none_is_lost_from_the_events() -> None:
    run = Run(job(**lessons()))
    summary = run.school.run.summary()
    assert summary["lessons_taken"] == len(run.told.of("lesson_taken")) > 0
    board = run.together.board
    assert sum(summary["published_bytes"].values()) == board.written_bytes


def test_a_codec_makes_lessons_smaller() -> None:
    wide = {name: setup(name, samples(i), lambda: net(200)) for i, name in enumerate(NAMES)}
    plain = Run(job(until={"steps": 20}, **lessons()), wide).school.run.summary()["published_bytes"]
    packed = Run(job(until={"steps": 20}, **lessons(codec="int8")), wide)
    small = packed.school.run.summary()
    assert 0 < small["published_bytes"]["parameters"] < plain["parameters"] / 2
    assert small["lessons_taken"] > 0


def test_groups_keep_lessons_among_those_that_are_named() -> None:
    run = Run(job(**lessons(groups=[["ann", "bob"]])))
    pairs = {(event["teacher"], event["pupil"]) for event in run.told.of("lesson_taken")}
    assert pairs == {("ann", "bob"), ("bob", "ann")}


def test_kin_are_found_out_and_strangers_are_left_alone() -> None:
    setups = {
        "ann": setup("ann", samples(1, 100)),
        "bob": setup("bob", samples(2, 100)),
        "eve": setup("eve", samples(3, 100, flip=True)),  # what is yes to others is no to it
    }
    run = Run(job(until={"steps": 150}, **lessons(groups="auto", after=60)), setups)
    [groups] = run.told.of("groups")
    assert groups["groups"] == (("ann", "bob"),)
    taught = {event["teacher"] for event in run.told.of("lesson_taken")}
    assert taught == {"ann", "bob"}


def test_the_gate_holds_out_samples_and_refuses_what_would_harm() -> None:
    setups = {
        "ann": setup("ann", samples(1, 100)),
        "eve": setup("eve", samples(3, 100, flip=True)),
    }
    sharing = lessons(gate="held-out", share="all", after=40)
    run = Run(job(("ann", "eve"), until={"steps": 80}, **sharing), setups)
    assert {event["reason"][:16] for event in run.told.of("lesson_refused")} >= {"held-out utility"}
    assert run.school.run.summary()["lessons_refused"] > 0


def test_models_that_do_not_fit_refuse_each_others_parameters_and_all_learn_on() -> None:
    setups = {"ann": setup("ann", samples(1)), "bob": setup("bob", samples(2), lambda: net(9))}
    run = Run(job(("ann", "bob"), **lessons()), setups)
    refused = run.told.of("lesson_refused")
    assert refused
    assert all("expected parameters of the shapes" in event["reason"] for event in refused[:2])
    assert run.steps == {"ann": 60, "bob": 60}


def test_models_of_other_widths_teach_by_prototypes() -> None:
    setups = {"ann": setup("ann", samples(1)), "bob": setup("bob", samples(2), lambda: net(9))}
    run = Run(job(("ann", "bob"), **lessons(currency="prototypes")), setups)
    assert run.told.of("lesson_taken")
    assert set(run.school.run.summary()["published_bytes"]) == {"prototypes"}


def test_a_task_that_diverges_ends_in_a_sentence_and_the_others_go_on() -> None:
    broken = samples(1)
    broken.tensors[0][3] = float("nan")
    setups = {name: setup(name, samples(i)) for i, name in enumerate(("bob", "eve"))}
    run = Run(job(**lessons()), {"ann": setup("ann", broken), **setups})
    warnings = [event["text"] for event in run.told.of("warning")]
    assert any("ann" in text and "expected a finite loss" in text for text in warnings)
    assert (run.steps["bob"], run.steps["eve"]) == (60, 60)


def test_a_task_that_nobody_can_learn_is_told_and_left_out() -> None:
    def raising() -> nn.Module:
        raise RuntimeError("the weights are missing")

    setups = {
        "ann": Setup(
            Supervised("ann", raising, samples(1), samples(9), metrics={"accuracy": accuracy}),
            torch.optim.Adam,
        ),
        "bob": setup("bob", samples(2)),
    }
    run = Run(job(("ann", "bob")), setups)
    texts = [event["text"] for event in run.told.of("warning")]
    assert any(text.startswith("ann is learned by nobody") for text in texts)
    assert run.steps["bob"] == 60


def test_where_no_task_can_be_learned_the_run_fails_in_a_sentence() -> None:
    broken = samples(1)
    broken.tensors[0].fill_(float("nan"))
    run = Run(job(("ann",)), {"ann": setup("ann", broken)})
    assert run.school.run.failure.startswith("expected a task that can be learned, found none")


def test_lessons_that_take_long_are_given_less_often_where_a_job_leaves_that_open() -> None:
    def dear(agent: str, batches: Sequence[int]) -> float:
        return cost(agent, batches) or STEP_S / 4  # whatever comes after each step

    until = {"steps": 200}
    given = {
        every: Run(job(until=until, **lessons(every=every)), costs=costs)
        for every, costs in (("auto", cost), (10, dear))
    }
    num_taken = {every: len(run.told.of("lesson_taken")) for every, run in given.items()}
    assert num_taken["auto"] > 60  # what costs nothing is given as soon as may be
    assert num_taken[10] > 60  # and what is asked for, whatever it costs
    seldom = Run(job(until=until, **lessons(every="auto")), costs=dear)
    assert len(seldom.told.of("lesson_taken")) < 20


def test_a_task_may_live_on_several_agents_and_an_agent_hold_several_tasks() -> None:
    run = Run(job(("ann",), ann={"agents": 3}, **lessons()), {"ann": setup("ann", samples(1))})
    assert set(run.steps) == {"ann", "ann-2", "ann-3"}
    assert set(run.told.of("homes")[0]["homes"].values()) == {"one", "two"}


def test_priority_is_a_part_of_an_agents_time() -> None:
    what = job(("ann", "bob"), ann={"priority": 3.0}, until={"minutes": 0.5}, agents=1)
    run = Run(what, agents=("one",))
    assert run.steps["ann"] == pytest.approx(3 * run.steps["bob"], rel=0.1)


def test_a_metric_ends_the_run_and_a_checkpoint_begins_the_next() -> None:
    first = Run(job(until={"accuracy": 0.9, "steps": 2000}))
    assert first.school.run.reached().startswith("accuracy")
    point = first.points[-1]
    second = Run(
        job(until={"steps": 2000, "accuracy": 0.5}), resume=Resume(point.files, point.meta)
    )
    assert min(second.steps.values()) >= min(point.meta["steps"].values()) > 0

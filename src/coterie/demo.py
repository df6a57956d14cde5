"""The demo's job: digits on three unequal agents, one of which is killed and returns."""

from __future__ import annotations

from typing import Literal

from coterie.config import Agents, Drill, Job, Ref, TaskSpec

LEARNING_RATE = 0.002
WIDTH = 64
BATCH = 256
SPEEDS = (4.0, 2.0, 1.0)
MINUTES = 0.9
BASELINES: tuple[Literal["solo", "equal"], ...] = ("solo", "equal")
KILLED = "agent-1"
KILLED_AT = 0.3  # of the run
CHECKPOINT_EVERY_S = 15.0


def job(run_name: str) -> Job:
    """The job of `coterie demo`, whose run is called `run_name`.

    >>> job("demo-1").agents.speeds
    [4.0, 2.0, 1.0]
    """
    return Job(
        name=run_name,
        task=TaskSpec(
            model=Ref(call="coterie.tasks.digits:model", kwargs={"width": WIDTH}),
            train=Ref(call="coterie.tasks.digits:train_set"),
            test=Ref(call="coterie.tasks.digits:test_set"),
            loss=Ref(call="torch.nn.functional:cross_entropy"),
            metrics={"accuracy": Ref(call="coterie.tasks.digits:accuracy")},
        ),
        optimizer=Ref(call="torch.optim:AdamW", kwargs={"lr": LEARNING_RATE}),
        batch=BATCH,
        until={"minutes": MINUTES},
        agents=Agents(local=len(SPEEDS), speeds=list(SPEEDS)),
        checkpoint_every_s=CHECKPOINT_EVERY_S,
        baselines=list(BASELINES),
        drill=Drill(kill=KILLED, at=KILLED_AT),
    )

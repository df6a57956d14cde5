"""Train from Python, on three unequal agents of this machine.

python examples/02_python.py
"""

from __future__ import annotations

import functools

import torch

import coterie
from coterie.tasks import digits


def main() -> None:
    """Learn until nineteen of twenty held-out digits are recognised, for a minute at most."""
    # Agents are processes that build the task anew, so its parts are functions that they can
    # import. With agents=1 the run stays in this process, and any objects will do.
    task = coterie.Supervised(
        "python-digits",
        functools.partial(digits.model, width=8),
        train=digits.train_set,
        test=digits.test_set,
        metrics={"accuracy": digits.accuracy},
    )
    result = coterie.train(
        task,
        optimizer=functools.partial(torch.optim.AdamW, lr=0.005),
        batch=128,
        until={"accuracy": 0.95, "minutes": 1},
        agents={"speeds": [4, 2, 1]},
    )
    print("accuracy:", result.summary["metrics"]["accuracy"])
    print("why it ran so: coterie explain", result.folder)


if __name__ == "__main__":
    main()

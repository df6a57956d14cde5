"""Three tasks in one model: which digit, whether it is odd, and how much ink it took.

python examples/06_multitask.py
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional as F

import coterie
from coterie.tasks import digits
from coterie.tasks.interference import interference

FEATURES = 32


def task() -> coterie.MultiTask:
    """A convolutional trunk, and a linear head for each of three columns of one table."""
    return coterie.MultiTask(
        "three-of-digits",
        trunk=functools.partial(digits.trunk, width=8),
        tasks=[
            coterie.Supervised(
                name,
                functools.partial(nn.Linear, in_features=FEATURES, out_features=width),
                train=digits.train_table,
                test=digits.test_table,
                loss=loss,
                metrics=metrics,
            )
            for name, width, loss, metrics in (
                ("digit", 10, F.cross_entropy, {"accuracy": digits.accuracy}),
                ("odd", 2, F.cross_entropy, {"accuracy": digits.accuracy}),
                ("ink", 1, F.mse_loss, {}),
            )
        ],
        balance="uncertainty",  # or "equal", {"ink": 5.0}, "dwa", "gradnorm", "famo", "upgrad", …
    )


def main() -> None:
    """Learn on two agents, which agree on the trunk alone; each keeps heads of its own."""
    three = task()
    result = coterie.train(
        three,
        optimizer=functools.partial(torch.optim.AdamW, lr=0.005),
        batch=128,
        until={"digit/accuracy": 0.95, "epochs": 30},
        agents=2,
        strategy='chain(Only("trunk.*"), Reduce())',
    )
    for name, value in result.summary["metrics"].items():
        print(f"{name:16}{value:.4f}")
    fresh = three.build()  # before it has learned, for tasks disagree most at the beginning
    print(*interference(three, fresh, torch.Generator().manual_seed(0)).lines(), sep="\n")


if __name__ == "__main__":
    main()

"""An autoencoder that has never seen a zero finds the zeros among other digits.

python examples/05_unsupervised/anomalies.py
"""

from __future__ import annotations

import functools
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

import coterie
from coterie.tasks import digits


def network() -> nn.Module:
    """Images through eight numbers and back; a chain, which could be cut into a pipeline."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 8),
        nn.Linear(8, 32),
        nn.ReLU(),
        nn.Linear(32, 64),
        nn.Unflatten(1, (1, 8, 8)),
    )


def usual() -> Tensor:
    """What is learned: images of all digits but zero."""
    images, truth = digits.train_set().tensors
    return images[truth != 0]


def usual_held_out() -> Tensor:
    """The same, held out."""
    images, truth = digits.test_set().tensors
    return images[truth != 0]


def zeros() -> Tensor:
    """What was never seen."""
    images, truth = digits.test_set().tensors
    return images[truth == 0]


def main() -> None:
    """Learn for fifteen epochs, or until nine times of ten a zero is the stranger of the two."""
    task = coterie.Autoencoder("anomalies", network, usual, usual_held_out, anomalies=zeros)
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    result = coterie.train(task, adam, batch=64, until={"auroc": 0.9, "epochs": 15}, agents=1)
    print("a zero is the stranger of the two:", result.summary["metrics"]["auroc"])

    model = network()
    weights = Path(result.summary["checkpoint"], "model.safetensors")
    model.load_state_dict(safetensors.torch.load_file(weights))
    images, truth = digits.test_set().tensors
    strangest = task.anomaly(model, images).argsort(descending=True)[:10]
    print("digits of the ten strangest images:", truth[strangest].tolist())


if __name__ == "__main__":
    main()

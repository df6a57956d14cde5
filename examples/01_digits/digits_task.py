"""What job.yaml names: a model, its data and a metric, in plain PyTorch.

Legend of shape suffixes: N samples, C classes, P pixels.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

NUM_PIXELS = 64
NUM_CLASSES = 10


def network(num_hidden: int) -> nn.Module:
    """A perceptron with one hidden layer."""
    return nn.Sequential(
        nn.Linear(NUM_PIXELS, num_hidden),
        nn.ReLU(),
        nn.Linear(num_hidden, NUM_CLASSES),
    )


def train_set() -> TensorDataset:
    """The 1347 images to learn from."""
    return split()[0]


def test_set() -> TensorDataset:
    """The 450 images held out."""
    return split()[1]


def accuracy(predictions_NC: Tensor, targets_N: Tensor) -> float:
    """The fraction of images whose digit was recognised; metrics are better higher."""
    return (predictions_NC.argmax(dim=1) == targets_N).double().mean().item()


def split() -> tuple[TensorDataset, TensorDataset]:
    """The images in two parts, cut alike on every agent: the seed is fixed."""
    digits = load_digits()
    pixels_NP = torch.tensor(digits.data, dtype=torch.float32) / 16
    targets_N = torch.tensor(digits.target)
    train_N, test_N = train_test_split(range(len(targets_N)), test_size=0.25, random_state=0)
    return (
        TensorDataset(pixels_NP[train_N], targets_N[train_N]),
        TensorDataset(pixels_NP[test_N], targets_N[test_N]),
    )

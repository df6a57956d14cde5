"""Handwritten digits of scikit-learn: a real task small enough to learn while one watches.

Legend of shape suffixes: N samples, C classes; images are 1x8x8 with values 0..1.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.errors import JobError
from coterie.tasks.tables import Table

NUM_TRAIN = 1437  # four fifths of 1797; the other 360 are held out
NUM_CLASSES = 10


def model(width: int = 16) -> nn.Module:
    """A small convolutional network, `width` channels wide.

    >>> model(width=4)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width * 2 * 2, NUM_CLASSES),
    )


def trunk(width: int = 16) -> nn.Module:
    """The same network without its last layer: 4·width features of an image, for several tasks.

    >>> trunk(width=4)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 16])
    """
    whole = model(width)
    assert isinstance(whole, nn.Sequential)
    return whole[:-1]


def train_table() -> Table:
    """The images to learn from with three answers: the digit, whether it is odd, its ink, 0..1.

    >>> sorted(train_table().answers), len(train_table())
    (['digit', 'ink', 'odd'], 1437)
    """
    return _table(train_set())


def test_table() -> Table:
    """The images held out, with the same three answers.

    >>> len(test_table())
    360
    """
    return _table(test_set())


def _table(images_and_digits: TensorDataset) -> Table:
    images, digits_N = images_and_digits.tensors
    ink_N1 = images.flatten(1).mean(1, keepdim=True)
    return Table(images, {"digit": digits_N, "odd": digits_N % 2, "ink": ink_N1})


def train_set() -> TensorDataset:
    """The 1437 images to learn from, with their digits; alike on every machine.

    >>> len(train_set())
    1437
    """
    return _split()[0]


def test_set() -> TensorDataset:
    """The 360 images held out, with their digits.

    >>> image, digit = test_set()[0]
    >>> image.shape, int(digit) in range(10)
    (torch.Size([1, 8, 8]), True)
    """
    return _split()[1]


def few_labels(agent: int, per_class: int = 5) -> TensorDataset:
    """So many images of each digit to learn from: others for each agent, alike on every machine.

    >>> len(few_labels(agent=0)), len(few_labels(agent=1, per_class=2))
    (50, 20)
    """
    images, digits_N = train_set().tensors
    order_N = torch.from_numpy(np.random.RandomState(agent).permutation(len(digits_N)))
    own = [order_N[digits_N[order_N] == digit][:per_class] for digit in range(NUM_CLASSES)]
    return TensorDataset(images[torch.cat(own)], digits_N[torch.cat(own)])


def accuracy(predictions_NC: Tensor, targets_N: Tensor) -> float:
    """The fraction of samples whose largest prediction is the target, 0..1.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    return (predictions_NC.argmax(dim=1) == targets_N).double().mean().item()


@functools.lru_cache(maxsize=1)
def _split() -> tuple[TensorDataset, TensorDataset]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise JobError(
            "expected scikit-learn for the digits, found none; pip install 'coterie[demo]'"
        ) from None
    digits = load_digits()
    # RandomState's stream is frozen for good, so members of other versions split alike.
    order_N = np.random.RandomState(0).permutation(len(digits.target))
    images = torch.from_numpy(digits.images[order_N]).float().div(16).unsqueeze(1)
    targets_N = torch.from_numpy(digits.target[order_N]).long()
    return (
        TensorDataset(images[:NUM_TRAIN], targets_N[:NUM_TRAIN]),
        TensorDataset(images[NUM_TRAIN:], targets_N[NUM_TRAIN:]),
    )

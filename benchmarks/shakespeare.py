"""The task of the synchronisation benchmarks: the next character of Shakespeare, by a transformer.

One definition for every arm: job files name `shakespeare:network` and its neighbours, scripts of
peers import them. Run by itself it prints the loss curve of one process, from which the target is
chosen:

    python benchmarks/shakespeare.py [LEARNING_RATE ...]

Legend of shape suffixes: B windows, T characters of a window, D width, V characters known.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

WINDOW = 32  # characters seen at once
WIDTH, NUM_BLOCKS, NUM_HEADS = 144, 4, 4  # 1.03 M parameters, 4.1 MB as float32
NUM_CHARS = 65
BATCH = 16  # windows of one step, over all hosts
NUM_TRAIN = 1600  # windows of a data epoch: 100 steps
NUM_TEST = 64  # held-out windows that are scored: 0.07 s of one core
LEARNING_RATE = 3e-3  # of Adam; best of 1e-3, 2e-3, 3e-3 for one process
TARGET = 2.26  # held-out loss, nats a character: where one process stands after 156 steps
SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


class Block(nn.Module):
    """Attention to what came before, then a perceptron; norms first (Xiong et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mix = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.attended = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The characters, each told of those before it."""
        parts = self.attend(self.before_attention(x_BTD)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.attended(seen.transpose(1, 2).flatten(2))
        return x_BTD + self.mix(self.before_mix(x_BTD))


class Transformer(nn.Module):
    """A decoder over characters (Vaswani et al. 2017), without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(NUM_CHARS, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(NUM_BLOCKS)))
        self.last, self.guess = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, NUM_CHARS)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits of the next character at each place, B×T×V."""
        placed_BTD = self.characters(x_BT) + self.places.weight[: x_BT.shape[1]]
        return self.guess(self.last(self.blocks(placed_BTD)))


def network() -> nn.Module:
    """A fresh model; its weights follow from torch's seed alone."""
    return Transformer()


def loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy, nats a character: a mean over windows, for all are of one length."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def likelihood(logits_BTV: Tensor, targets_BT: Tensor) -> float:
    """exp(−loss), the geometric mean of what the right character was given; higher is better."""
    return float(torch.exp(-loss(logits_BTV, targets_BT)))


def train_set() -> TensorDataset:
    """`NUM_TRAIN` windows spread evenly over the first 90 % of the text."""
    text = encoded()
    return windows(text[: len(text) * 9 // 10], NUM_TRAIN)


def test_set() -> TensorDataset:
    """`NUM_TEST` windows spread evenly over the last 10 % of the text."""
    text = encoded()
    return windows(text[len(text) * 9 // 10 :], NUM_TEST)


def windows(text: Tensor, num: int) -> TensorDataset:
    """`num` windows at even distances, each with the window one character later.

    >>> windows(torch.arange(100), 2)[1][0][:3]
    tensor([67, 68, 69])
    """
    starts = torch.linspace(0, len(text) - WINDOW - 1, num, dtype=torch.float64).long()
    places = starts[:, None] + torch.arange(WINDOW)
    return TensorDataset(text[places], text[places + 1])


@functools.cache
def encoded() -> Tensor:
    """The whole text as numbers of its characters in sorted order.

    Errors: FileNotFoundError that tells where to get the text.
    """
    folder = os.environ.get("COTERIE_DATA")
    root = Path(folder) if folder else Path(__file__).resolve().parents[2] / "shared" / "data"
    path = root / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the text at {path}, found none; save {SOURCE} as "
            "tinyshakespeare/input.txt in a folder and set COTERIE_DATA to that folder"
        )
    text = path.read_text(encoding="utf-8")
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    return torch.tensor([numbers[character] for character in text])


def batches(seed: int, num_train: int = NUM_TRAIN, batch: int = BATCH) -> Iterator[list[int]]:
    """The windows of each global step, for ever: the order in which a coterie job learns them."""
    data_epoch = 0
    while True:
        order = np.random.default_rng([seed, data_epoch]).permutation(num_train).tolist()
        yield from (order[start : start + batch] for start in range(0, num_train, batch))
        data_epoch += 1


def begin(seed: int) -> nn.Module:
    """The model with which every arm begins."""
    torch.manual_seed(seed)
    return network()


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    """The loss over the whole test set."""
    return float(loss(model(test_set().tensors[0]), test_set().tensors[1]))


def curve(seed: int, lr: float, num_steps: int, every: int) -> Iterator[tuple[int, float]]:
    """Held-out losses of one process that learns alone: (steps, loss)."""
    model, data = begin(seed), train_set()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step, indices in enumerate(batches(seed), start=1):
        x_BT, y_BT = data[indices]
        optimizer.zero_grad()
        loss(model(x_BT), y_BT).backward()
        optimizer.step()
        if step % every == 0:
            yield step, held_out_loss(model)
        if step == num_steps:
            return


def main() -> None:
    """Print loss curves of one process, one row per learning rate."""
    for lr in map(float, sys.argv[1:] or ["1e-3", "2e-3", "3e-3"]):
        points = [f"{step}: {value:.3f}" for step, value in curve(0, lr, 300, 20)]
        print(f"lr {lr:g}:", ", ".join(points), flush=True)


if __name__ == "__main__":
    main()

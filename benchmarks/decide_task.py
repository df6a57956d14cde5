"""The task of the benchmark of decisions: the next character of Shakespeare, by one of two models.

Both have the same transformer and cost about the same a sample; `large` also looks up pairs of
characters in a table, and so has ten times as many parameters to exchange. An epoch is short, for
the model is scored once an epoch; it also bounds every walk.

Run by itself it prints the loss curves of one process, from which the targets are chosen:

    python benchmarks/decide_task.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import shakespeare
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

WIDTH, NUM_BLOCKS, NUM_HEADS = 64, 2, 4
PAIR_WIDTH = 232  # of the table of pairs
BATCH = 48  # windows of a step, over all hosts
NUM_TRAIN = 1536  # windows of an epoch: 32 steps
NUM_TEST = 32  # held-out windows that are scored


@dataclass(frozen=True)
class Size:
    """One of the two models, and what it is to reach."""

    network: str  # its function here
    target: float  # held-out loss, nats a character: some 10 s of the fastest host alone
    lr: float  # of Adam


SIZES = {"small": Size("small", 2.32, 4e-3), "large": Size("large", 2.29, 2e-3)}


class Transformer(nn.Module):
    """A decoder over characters, without dropout; told of pairs of them where `pair_width` > 0."""

    def __init__(self, pair_width: int = 0) -> None:
        super().__init__()
        num_chars, window = shakespeare.NUM_CHARS, shakespeare.WINDOW
        self.characters, self.places = nn.Embedding(num_chars, WIDTH), nn.Embedding(window, WIDTH)
        self.pairs = nn.Embedding(num_chars**2, pair_width) if pair_width else None
        self.narrow = nn.Linear(pair_width, WIDTH) if pair_width else None
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, NUM_HEADS, 4 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(NUM_BLOCKS)
        )
        self.last, self.guess = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_chars)
        mask_TT = nn.Transformer.generate_square_subsequent_mask(window)
        self.register_buffer("mask_TT", mask_TT, persistent=False)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits of the next character at each place, B×T×V."""
        x_BTD = self.characters(x_BT) + self.places.weight
        if self.pairs is not None and self.narrow is not None:
            before_BT = F.pad(x_BT, (1, 0))[:, :-1]
            pairs_BT = before_BT * shakespeare.NUM_CHARS + x_BT
            x_BTD = x_BTD + self.narrow(self.pairs(pairs_BT))
        for block in self.blocks:
            x_BTD = block(x_BTD, src_mask=self.mask_TT, is_causal=True)
        return self.guess(self.last(x_BTD))


def small() -> nn.Module:
    """0.11 M parameters."""
    return Transformer()


def large() -> nn.Module:
    """1.1 M parameters."""
    return Transformer(PAIR_WIDTH)


def train_set() -> TensorDataset:
    """`NUM_TRAIN` windows spread evenly over the first 90 % of the text."""
    text = shakespeare.encoded()
    return shakespeare.windows(text[: len(text) * 9 // 10], NUM_TRAIN)


def test_set() -> TensorDataset:
    """`NUM_TEST` windows spread evenly over the last 10 % of the text."""
    text = shakespeare.encoded()
    return shakespeare.windows(text[len(text) * 9 // 10 :], NUM_TEST)


def begin(size: str, seed: int) -> nn.Module:
    """The model with which every arm begins."""
    torch.manual_seed(seed)
    network: nn.Module = globals()[SIZES[size].network]()
    return network


def adam(model: nn.Module, size: str) -> torch.optim.Optimizer:
    """The optimizer of every arm."""
    return torch.optim.Adam(model.parameters(), lr=SIZES[size].lr, fused=True)


def batches(seed: int) -> Iterator[list[int]]:
    """The windows of each global step, for ever: the order in which a coterie job learns them."""
    return shakespeare.batches(seed, NUM_TRAIN, BATCH)


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    """The loss over the whole test set."""
    x_ST, y_ST = test_set().tensors
    return float(shakespeare.loss(model(x_ST), y_ST))


def curve(size: str, lr: float, num_steps: int, every: int) -> Iterator[tuple[int, float, float]]:
    """One process that learns alone: (steps, CPU-seconds, held-out loss)."""
    model, data = begin(size, 0), train_set()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    seconds = 0.0
    for step, indices in enumerate(batches(0), start=1):
        began_s = time.process_time()
        x_BT, y_BT = data[indices]
        optimizer.zero_grad()
        shakespeare.loss(model(x_BT), y_BT).backward()
        optimizer.step()
        seconds += time.process_time() - began_s
        if step % every == 0:
            yield step, seconds, held_out_loss(model)
        if step == num_steps:
            return


def main() -> None:
    """Print loss curves of one process, one row per model and learning rate."""
    torch.set_num_threads(1)
    for size in SIZES:
        num = sum(p.numel() for p in begin(size, 0).parameters())
        for lr in map(float, sys.argv[1:] or ["1e-3", "2e-3", "4e-3"]):
            told = curve(size, lr, 192, 32)
            points = [f"{step}: {loss:.3f} ({seconds:.1f} s)" for step, seconds, loss in told]
            print(f"{size}, {num:,} parameters, lr {lr:g}:", ", ".join(points), flush=True)


if __name__ == "__main__":
    main()

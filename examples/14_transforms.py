"""Random transforms of samples that do not depend on how many agents there are.

python examples/14_transforms.py
python examples/14_transforms.py --agents 2

The transforms are modules that draw from torch's generator, as torchvision's v2 are: put
`torchvision.transforms.v2.Compose([...])` in their place where torchvision is installed.
"""

from __future__ import annotations

import argparse
import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import coterie
from coterie.tasks import digits


class RandomShift(nn.Module):
    """As RandomCrop with padding: an image moved by at most so many pixels either way."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, image: Tensor) -> Tensor:
        """One image, (1, height, width)."""
        height, width = image.shape[-2:]
        padded = F.pad(image, [self.pixels] * 4)
        top, left = torch.randint(2 * self.pixels + 1, (2,)).tolist()
        return padded[..., top : top + height, left : left + width]


class RandomBrightness(nn.Module):
    """As ColorJitter: an image made brighter or darker by a factor."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, image: Tensor) -> Tensor:
        """One image, of any shape."""
        return image * torch.empty(()).uniform_(1 - self.by, 1 + self.by)


def train_set() -> coterie.Transformed:
    """Digits that are changed anew in each pass, from a seed of their own."""
    changed = nn.Sequential(RandomShift(1), RandomBrightness(0.3))
    return coterie.Transformed(digits.train_set(), changed, seed=0)


def main(num_agents: int, num_epochs: int) -> None:
    """Learn from changed digits, and tell how well others are recognised as they are."""
    task = coterie.Supervised(
        "changed-digits",
        functools.partial(digits.model, width=8),
        train_set,
        digits.test_set,
        metrics={"accuracy": digits.accuracy},
    )
    result = coterie.train(
        task,
        optimizer=functools.partial(torch.optim.AdamW, lr=0.005),
        batch=64,
        until={"epochs": num_epochs},
        agents=num_agents,
    )
    print({name: round(value, 3) for name, value in result.summary["metrics"].items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    main(given.agents, given.epochs)

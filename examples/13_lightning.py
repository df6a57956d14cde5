"""A Lightning module without Lightning's Trainer, on one device or on several.

python examples/13_lightning.py
python examples/13_lightning.py --agents 2
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

import coterie
from coterie.tasks import digits
from coterie.tasks.lightning import configured, scheduled


class Digits(lightning.LightningModule):
    """A module as Lightning has it: nothing in it knows of Coterie."""

    def __init__(self) -> None:
        super().__init__()
        self.net = digits.model(width=8)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the ten digits."""
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss to descend."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """What is told of held-out samples."""
        images, labels = batch
        scores = self(images)
        self.log("val_loss", F.cross_entropy(scores, labels))
        self.log("val_acc", (scores.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        """An optimizer with groups of its own, and a schedule by epochs."""
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters() if p.dim() > 1], "weight_decay": 0.01},
                {"params": [p for p in self.parameters() if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=0.005,
        )
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)]


def main(num_agents: int, num_epochs: int) -> None:
    """Learn, and tell how well."""
    task = coterie.Lightning(
        "lightning-digits", Digits, digits.train_set, digits.test_set, metrics=["val_acc"]
    )
    result = coterie.train(
        task,
        optimizer=configured,
        scheduler=scheduled,
        batch=64,
        until={"val_acc": 0.95, "epochs": num_epochs},
        agents={"local": num_agents, "join_timeout_s": 300},  # imports take their time
    )
    print({name: round(value, 3) for name, value in result.summary["metrics"].items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    main(given.agents, given.epochs)

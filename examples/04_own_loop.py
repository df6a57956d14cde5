"""A training loop of your own, on one device or on several.

python examples/04_own_loop.py
coterie run --agents 3 examples/04_own_loop.py --epochs 8
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import coterie
from coterie.tasks import digits


def accuracy(model: nn.Module, device: str) -> float:
    """The part of held-out digits that are recognised."""
    images, labels = digits.test_set()[:]
    model.eval()
    with torch.no_grad():
        right = model(images.to(device)).argmax(dim=1) == labels.to(device)
    model.train()
    return right.double().mean().item()


def main(num_epochs: int) -> None:
    """Learn, and tell after each epoch how well."""
    torch.manual_seed(0)
    model = digits.model(width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs)
    # The batch is of all agents together: each is handed as much of it as its speed allows.
    loader = DataLoader(digits.train_set(), batch_size=128, shuffle=True)

    me = coterie.join()
    model, optimizer, loader, scheduler = me.prepare(model, optimizer, loader, scheduler)
    me.clip_grad_norm_(1.0)
    for epoch in me.passes(num_epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
        if me.is_first:
            me.print(f"epoch {epoch}: accuracy {accuracy(model, me.device):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    main(parser.parse_args().epochs)

"""A streamed dataset of Hugging Face in a loop of one's own: each sample once, over all agents.

python examples/16_streams.py
coterie run --agents 2 examples/16_streams.py --epochs 2
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import coterie
from coterie.tasks import digits


def rows() -> Iterator[dict[str, Any]]:
    """Rows that come one after another, as from files too large to number."""
    for image, label in digits.train_set():
        yield {"image": image.tolist(), "label": int(label)}


def main(num_epochs: int) -> None:
    """Learn, and tell after each pass how well."""
    torch.manual_seed(0)
    model = digits.model(width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    # What agents have in common is the order: it is drawn from this seed, anew in each pass.
    stream = datasets.IterableDataset.from_generator(rows).shuffle(seed=0, buffer_size=300)
    loader = DataLoader(stream.with_format("torch"), batch_size=64)

    me = coterie.join()
    model, optimizer, loader = me.prepare(model, optimizer, loader)
    images, labels = (part.to(me.device) for part in digits.test_set()[:])
    for epoch in me.passes(num_epochs):
        for batch in loader:
            loss = F.cross_entropy(model(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            right = model(images).argmax(dim=1) == labels
        me.print(f"epoch {epoch}: accuracy {right.double().mean().item():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)

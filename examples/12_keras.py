"""A Keras model with its losses, metrics and callbacks, on one device or on several.

python examples/12_keras.py
python examples/12_keras.py --agents 2
"""

from __future__ import annotations

import argparse
import functools
import os

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported, in every agent

import keras
import torch
from torch.utils.data import TensorDataset

import coterie
from coterie.tasks import digits


def flat(images: TensorDataset) -> TensorDataset:
    """The digits as vectors."""
    inputs, labels = images.tensors
    return TensorDataset(inputs.flatten(1), labels)


def train_set() -> TensorDataset:
    """Four fifths of the digits."""
    return flat(digits.train_set())


def test_set() -> TensorDataset:
    """The others."""
    return flat(digits.test_set())


def net() -> keras.Model:
    """A model as Keras has it; weights are made at once, because its input is known."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )


class Told(keras.callbacks.Callback):
    """A callback as Keras has it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print what is known."""
        print(f"epoch {epoch}:", {name: round(value, 3) for name, value in (logs or {}).items()})


def main(num_agents: int, num_epochs: int) -> None:
    """Learn, and use the Keras model that has learned."""
    task = coterie.Supervised(
        "keras-digits",
        net,
        train_set,
        test_set,
        loss=functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
        metrics={"accuracy": keras.metrics.sparse_categorical_accuracy},
    )
    result = coterie.train(
        task,
        optimizer=functools.partial(torch.optim.AdamW, lr=0.005),
        batch=64,
        until={"epochs": num_epochs},
        agents={"local": num_agents, "join_timeout_s": 300},  # imports take their time
        show=coterie.KerasCallbacks([Told()]),
    )
    learned = task.build()  # the Keras model as a module: `learned.keras` is the model itself
    learned.load_state_dict(result.weights())
    images, labels = test_set().tensors
    found = learned.keras.predict(images[:128].numpy(), verbose=0).argmax(axis=1)
    print("accuracy of model.predict:", (found == labels[:128].numpy()).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    main(given.agents, given.epochs)

"""A small GPT of Hugging Face, made from its configuration, learns to write Python.

python examples/10_transformers.py                    # one device, in this process
python examples/10_transformers.py --agents 2
"""

from __future__ import annotations

import argparse
import functools
import inspect

import datasets
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import coterie

BLOCK = 32  # characters of a sample
TEXT = inspect.getsource(argparse)[:40_000]  # every machine has it: nothing is downloaded


def tokens(part: slice) -> datasets.Dataset:
    """Blocks of characters: as a causal model of Hugging Face has it, they are their own labels."""
    ids = [min(ord(character), 127) for character in TEXT]
    blocks = [ids[at : at + BLOCK] for at in range(0, len(ids) - BLOCK, BLOCK)][part]
    return datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks}).with_format("torch")


def train_set() -> datasets.Dataset:
    """All but the last blocks."""
    return tokens(slice(0, -200))


def test_set() -> datasets.Dataset:
    """The last blocks."""
    return tokens(slice(-200, None))


def model(width: int = 64) -> PreTrainedModel:
    """Two layers, with random weights."""
    config = GPT2Config(
        vocab_size=128,
        n_positions=BLOCK,
        n_embd=width,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The part of characters that are foretold."""
    return (logits[:, :-1].argmax(dim=-1) == labels[:, 1:]).double().mean().item()


def main(num_agents: int, num_epochs: int) -> None:
    """Learn, and tell how well."""
    task = coterie.Supervised(
        "tiny-gpt",
        model,
        train_set,
        test_set,
        loss=coterie.own_loss,  # the model's: labels are in the batch
        metrics={"accuracy": accuracy},
    )
    result = coterie.train(
        task,
        optimizer=functools.partial(torch.optim.AdamW, lr=3e-3),
        batch=32,
        until={"epochs": num_epochs},
        agents={"local": num_agents, "join_timeout_s": 300},  # imports take their time
    )
    print({name: round(value, 3) for name, value in result.summary["metrics"].items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    main(given.agents, given.epochs)

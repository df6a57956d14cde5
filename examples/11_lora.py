"""A loop of one's own that teaches adapters alone to a small GPT: nothing else travels.

python examples/11_lora.py
coterie run --agents 2 examples/11_lora.py --epochs 1
"""

from __future__ import annotations

import argparse
import inspect

import datasets
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

import coterie

BLOCK = 32  # characters of a sample
TEXT = inspect.getsource(argparse)[:20_000]  # every machine has it: nothing is downloaded


def train_set() -> datasets.Dataset:
    """Blocks of characters: as a causal model of Hugging Face has it, they are their own labels."""
    ids = [min(ord(character), 127) for character in TEXT]
    blocks = [ids[at : at + BLOCK] for at in range(0, len(ids) - BLOCK, BLOCK)]
    return datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks}).with_format("torch")


def adapted() -> nn.Module:
    """A model whose own weights stay as they are, with adapters of rank 4 beside its attention."""
    torch.manual_seed(0)  # frozen weights do not travel: all agents have to make the same ones
    config = GPT2Config(
        vocab_size=128,
        n_positions=BLOCK,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    adapters = LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    return get_peft_model(GPT2LMHeadModel(config), adapters)


def main(num_epochs: int) -> None:
    """Learn, and tell what travels and the loss after each pass."""
    model = adapted()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.01)
    loader = DataLoader(train_set(), batch_size=32, shuffle=True)

    me = coterie.join()
    model, optimizer, loader = me.prepare(model, optimizer, loader)
    num_learned, num_all = (sum(p.numel() for p in ps) for ps in (learned, model.parameters()))
    me.print(f"{num_learned:,} of {num_all:,} parameters are learned, and travel")
    for epoch in me.passes(num_epochs):
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            me.tell(loss)
        me.print(f"epoch {epoch}: loss {loss.item():.3f}")
    me.save("adapters.safetensors", rank=4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)

"""All that a member is survives as bytes and as files."""

from __future__ import annotations

import dataclasses

import pytest
import safetensors.torch
import torch
from torch import nn

from coterie.agents.snapshot import MODEL_FILE, Snapshot, state_file
from coterie.errors import CheckpointError


def snapshot(member: int = 0) -> Snapshot:
    return Snapshot(
        round=7,
        strategy="chain(Reduce())",
        memory=(None, torch.full((2,), float(member)), (torch.zeros(1), None)),
        agreed_N=torch.tensor([1.0, 2.0]),
        weights=nn.Linear(1, 1).state_dict(),
        private={"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "num_steps": member},
    )


def alike(a: Snapshot, b: Snapshot) -> bool:
    """Whether all fields are equal; the order of the weights' names is no part of them."""
    ordered = [
        dataclasses.replace(one, weights={name: one.weights[name] for name in sorted(one.weights)})
        for one in (a, b)
    ]
    return ordered[0].to_bytes() == ordered[1].to_bytes()


def test_bytes_hold_all_of_it() -> None:
    taken = snapshot(4)
    back = Snapshot.from_bytes(taken.to_bytes())
    assert alike(taken, back)
    assert torch.equal(back.memory[1], taken.memory[1])
    assert back.private["num_steps"] == 4


def test_files_hold_all_of_it() -> None:
    taken = snapshot(4)
    assert alike(taken, Snapshot.from_files(taken.files("a"), "a"))


def test_the_model_is_a_plain_file_that_torch_users_load() -> None:
    taken = snapshot()
    model = nn.Linear(1, 1)
    model.load_state_dict(safetensors.torch.load(taken.files("a")[MODEL_FILE]))
    assert torch.equal(model.weight, taken.weights["weight"])


def test_each_member_reads_its_own_state_and_a_stranger_inherits_the_first() -> None:
    files = {**snapshot(2).files("b"), **snapshot(1).files("a")}
    numbers = {m: Snapshot.from_files(files, m).private["num_steps"] for m in ("a", "b", "z")}
    assert numbers == {"a": 1, "b": 2, "z": 1}


@pytest.mark.parametrize("missing", [MODEL_FILE, state_file("a")])
def test_a_checkpoint_without_a_part_is_refused(missing: str) -> None:
    files = {name: data for name, data in snapshot().files("a").items() if name != missing}
    with pytest.raises(
        CheckpointError, match=r"expected model\.safetensors and a state file, found"
    ):
        Snapshot.from_files(files, "a")


def test_weights_that_are_none_are_refused() -> None:
    files = {**snapshot().files("a"), MODEL_FILE: b"garbage"}
    with pytest.raises(CheckpointError, match=r"expected weights in model\.safetensors"):
        Snapshot.from_files(files, "a")

"""All that a member is, as bytes: what heals a newcomer and what a checkpoint keeps.

Legend: N trainable parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from coterie.agents.state import pack_state, state_parts, tensor_parts, unpack_state
from coterie.errors import CheckpointError

MODEL_FILE = "model.safetensors"


def state_file(member: str) -> str:
    """The file of one member's private state.

    >>> state_file("agent-0")
    'state/agent-0.safetensors'
    """
    return f"state/{member}.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """A member at a round boundary: agreed parameters, buffers, optimizer, outer memory.

    All of it is copied: the member may go on while it is packed.
    """

    round: int
    strategy: str  # the sentence whose memory this is; empty if none was adopted yet
    memory: tuple[Any, ...]
    agreed_N: Tensor
    weights: dict[str, Tensor]
    private: dict[str, Any]
    here_N: Tensor | None = None  # where it walks, if not from where all agreed

    def to_bytes(self) -> bytes:
        """Everything in one piece, without pickle."""
        return pack_state({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Read what `to_bytes` wrote."""
        return cls(**unpack_state(data))

    def files(self, member: str) -> dict[str, bytes]:
        """The model as a plain safetensors file, and the rest as this member's own."""
        return {
            MODEL_FILE: b"".join(self.model_parts()),
            state_file(member): b"".join(self.private_parts()),
        }

    def model_parts(self) -> list[memoryview]:
        """The parts of the model's file."""
        return tensor_parts(self.weights, {})

    def private_parts(self) -> list[memoryview]:
        """The parts of this member's own file."""
        return state_parts(
            {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weights"}
        )

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], member: str) -> Snapshot:
        """A member's snapshot from a checkpoint; one that was not in it inherits another's."""
        states = sorted(name for name in files if name.startswith("state/"))
        if MODEL_FILE not in files or not states:
            raise CheckpointError(
                f"expected {MODEL_FILE} and a state file, found {', '.join(files) or 'nothing'}"
            )
        mine = state_file(member)
        rest = unpack_state(files[mine if mine in files else states[0]])
        try:
            weights = safetensors.torch.load(files[MODEL_FILE])
        except SafetensorError as error:
            raise CheckpointError(f"expected weights in {MODEL_FILE}, found: {error}") from error
        return cls(weights=weights, **rest)

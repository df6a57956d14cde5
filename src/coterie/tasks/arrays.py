"""Arrays as samples: in a folder that agents can read, and in the module that learns them.

Legend of shape suffixes: S samples, F features, O outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

INPUTS, ANSWERS = "inputs.npy", "answers.npy"


def write(folder: Path, inputs_SF: NDArray[np.float32], answers_S: NDArray[np.generic]) -> None:
    """Lay arrays down where `samples` finds them."""
    np.save(folder / INPUTS, inputs_SF, allow_pickle=False)
    np.save(folder / ANSWERS, answers_S, allow_pickle=False)


def samples(folder: str) -> TensorDataset:
    """The samples that `write` laid down.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder), np.ones((3, 2), np.float32), np.arange(3))
    ...     len(samples(folder))
    3
    """
    inputs_SF, answers_S = (
        torch.from_numpy(np.load(Path(folder, name), allow_pickle=False))
        for name in (INPUTS, ANSWERS)
    )
    return TensorDataset(inputs_SF, answers_S)


class Perceptron(nn.Sequential):
    """One hidden layer (Rumelhart et al. 1986); bring inputs to a common scale first.

    >>> Perceptron(num_inputs=4, num_outputs=3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, num_inputs: int, num_outputs: int, width: int = 64) -> None:
        super().__init__(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, num_outputs))


def flat(outputs: Tensor) -> Tensor:
    """Outputs of one value a sample as a vector.

    >>> flat(torch.ones(2, 1)).shape
    torch.Size([2])
    """
    return outputs.squeeze(-1) if outputs.dim() > 1 and outputs.shape[-1] == 1 else outputs

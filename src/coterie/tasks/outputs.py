"""What models answer that say more than predictions: Hugging Face's return a loss and logits.

Legend of shape suffixes: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from coterie.errors import JobError

LABELS = "labels"  # what answers are called in batches that are mappings


def own_loss(outputs: Any, targets: Any) -> Tensor:
    """The loss that a model computes itself, as those of Hugging Face do where they see labels.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> own_loss(SimpleNamespace(loss=torch.tensor(2.0)), None)
    tensor(2.)
    """
    loss = getattr(outputs, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    raise JobError(
        f"expected a model that returns its loss, found {type(outputs).__name__} without one; "
        f"put {LABELS!r} into each batch, or name a loss of (predictions, targets)"
    )


def by_name(model: nn.Module, data: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a model answers to a batch of named tensors, and the batch's labels.

    >>> import torch
    >>> by_name(nn.Identity(), {"input": torch.ones(1)})
    Traceback (most recent call last):
    coterie.errors.JobError: expected batches with 'labels', found 'input'; ...
    """
    if LABELS in data:
        return model(**data), data[LABELS]
    found = ", ".join(map(repr, data))
    raise JobError(
        f"expected batches with {LABELS!r}, found {found}; rename the column, or pass predict, a "
        "function of (model, batch) that returns (predictions, targets)"
    )


def predictions_of(outputs: Any) -> Any:
    """What metrics and losses are told: the logits of outputs that name them, or all there is.

    >>> predictions_of({"logits": 1})
    {'logits': 1}
    """
    logits = getattr(outputs, "logits", None) if isinstance(outputs, Mapping) else None
    return logits if isinstance(logits, Tensor) else outputs

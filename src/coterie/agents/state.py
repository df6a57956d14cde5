"""State as bytes, never pickle: what a model, an optimizer or a scheduler remembers.

The bytes are one safetensors file. Tensors are named by their path, so any safetensors tool reads
a packed `model.state_dict()`; everything around them is JSON in the file's metadata. One flipped
bit loads silently in this format, as in all others: compare `digest` wherever bytes have travelled.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from coterie.agents.checkpoint import digest
from coterie.errors import CheckpointError

__all__ = ["copied", "digest", "pack_state", "state_parts", "tensor_parts", "unpack_state"]

Path = tuple[str, ...]  # the keys and indices that lead to a value

_STRUCTURE = "coterie.structure"
_RESERVED_NAME = "__metadata__"
_MAX_HEADER_BYTES = 100_000_000  # safetensors writes longer headers, and then cannot read them

_NATIVE = {  # what safetensors calls them; the others lie in the file as their bytes
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}


def pack_state(tree: object) -> bytes:
    """A tree of tensors and plain values as safetensors bytes; equal trees give equal bytes.

    The tree may hold dict (keys str or int), list, tuple, str, int, float, bool, None, Counter and
    dense tensors of any dtype, shape or device. An OrderedDict comes back as the dict it equals, a
    Parameter as its values, shared storage as copies. Anything else raises CheckpointError with
    its path and type.

    >>> packed = pack_state({"step": 3, "betas": (0.9, 0.99), "mean": torch.ones(2)})
    >>> unpack_state(packed)
    {'step': 3, 'betas': (0.9, 0.99), 'mean': tensor([1., 1.])}
    """
    return b"".join(state_parts(tree))


def state_parts(tree: object) -> list[memoryview]:
    """What `pack_state` joins: a head, then the memory of each tensor, where it lies.

    So nothing is copied, and no other thread is held up for as long as that takes.
    """
    tensors: dict[str, Tensor] = {}
    try:
        structure = json.dumps(_describe(tree, (), tensors))
    except (RecursionError, ValueError) as error:
        raise CheckpointError(
            f"expected a state that JSON can describe, found one it cannot ({error}); "
            "leave it out of the state or store it as a tensor"
        ) from error
    head, *rest = tensor_parts(tensors, {_STRUCTURE: structure})
    if len(head) - 8 > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"expected at most {_MAX_HEADER_BYTES:,} bytes of plain values in a state, found "
            f"{len(head) - 8:,}; store long lists of numbers as tensors"
        )
    return [head, *rest]


def tensor_parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[memoryview]:
    """A safetensors file of tensors that lie densely on the CPU, in the order that it asks for.

    >>> data = b"".join(tensor_parts({"w": torch.ones(2)}, {}))
    >>> load(data)
    {'w': tensor([1., 1.])}
    """
    entries: dict[str, Any] = {_RESERVED_NAME: dict(metadata)} if metadata else {}
    stop, parts = 0, []
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        data_B = tensors[name].reshape(-1).view(torch.uint8)
        start, stop = stop, stop + data_B.numel()
        kind, shape = _NATIVE[tensors[name].dtype], list(tensors[name].shape)
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}
        parts.append(data_B.numpy().data)
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return [memoryview(len(head).to_bytes(8, "little") + head), *parts]


def copied(tree: Any) -> Any:
    """The same tree with tensors of its own, on the CPU: what it was taken of may change.

    >>> weight = torch.ones(2)
    >>> state = copied({"step": 3, "mean": [weight]})
    >>> _ = weight.zero_()
    >>> state
    {'step': 3, 'mean': [tensor([1., 1.])]}
    """
    if isinstance(tree, Tensor):
        mine = tree.detach().cpu()
        return mine.clone() if mine.data_ptr() == tree.data_ptr() else mine
    if type(tree) in (dict, OrderedDict, Counter):
        return type(tree)({key: copied(value) for key, value in tree.items()})
    if type(tree) in (list, tuple):
        return type(tree)(map(copied, tree))
    return tree


def unpack_state(data: bytes) -> Any:
    """The tree that `pack_state` was given, its tensors on the CPU.

    Bytes that are no packed state, or not all of one, raise CheckpointError.

    >>> unpack_state(pack_state([torch.tensor(2.5), {7: float("-inf")}, None]))
    [tensor(2.5000), {7: -inf}, None]
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + _header_bytes(data)])
        structure = header.get(_RESERVED_NAME, {}).get(_STRUCTURE)
        if structure is not None:
            return _rebuild(json.loads(structure), tensors)
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"expected a packed state, found {len(data):,} bytes that are not one ({error}); "
            "take it again from where it came, or from a good checkpoint"
        ) from error
    raise CheckpointError(
        "expected a packed state, found a safetensors file of another program; "
        "read it with safetensors.torch.load"
    )


def _header_bytes(packed: bytes) -> int:
    return int.from_bytes(packed[:8], "little")


def _describe(value: object, path: Path, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, its tensors laid aside into `tensors` under the names the JSON gives.

    A scalar, a list and None stand for themselves; all else is an object with one word of kind.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return _lay_aside(value, path, tensors)
    # Of containers the exact type alone: a named tuple or a default dict would come back as less.
    if type(value) is list:
        return _describe_items(value, path, tensors)
    if type(value) is tuple:
        return {"tuple": _describe_items(value, path, tensors)}
    if isinstance(value, dict) and type(value) in (dict, OrderedDict):
        return {"dict": _describe_pairs(value, path, tensors)}
    if type(value) is Counter:  # torch's MultiStepLR keeps its milestones in one
        return {"counter": _describe_pairs(value, path, tensors)}
    raise _unfit(type(value), path)


def _describe_items(
    items: list[object] | tuple[object, ...], path: Path, tensors: dict[str, Tensor]
) -> list[Any]:
    return [_describe(item, (*path, str(i)), tensors) for i, item in enumerate(items)]


def _describe_pairs(
    pairs: Mapping[object, object], path: Path, tensors: dict[str, Tensor]
) -> list[Any]:
    for key in pairs:
        if type(key) not in (str, int):
            raise _unfit(type(key), (*path, f"<key {key!r}>"))
    return [[key, _describe(value, (*path, str(key)), tensors)] for key, value in pairs.items()]


def _lay_aside(tensor: Tensor, path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    dense = _dense(tensor, path)
    name = ".".join(path)
    while name in tensors or name == _RESERVED_NAME:  # {"a.b": x} beside {"a": {"b": y}}
        name += "~"
    if dense.dtype in _NATIVE:
        tensors[name] = dense
        return {"tensor": name}
    tensors[name] = dense.reshape(-1).view(torch.uint8)
    dtype = str(dense.dtype).removeprefix("torch.")
    return {"tensor": name, "dtype": dtype, "shape": list(dense.shape)}


def _dense(tensor: Tensor, path: Path) -> Tensor:
    """The tensor's values on the CPU, in row-major order; refuses what has none or has more."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        raise _unfit(type(tensor), path, f" ({tensor.layout}, {tensor.dtype})")
    if tensor.is_meta:
        raise _unfit(type(tensor), path, " without values")
    # Conjugates and negatives are lazy: their memory still holds the values before.
    dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    if type(dense) is not Tensor:
        raise _unfit(type(tensor), path)
    return dense


def _rebuild(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    match node:
        case None | bool() | int() | float() | str():
            return node
        case list():
            return [_rebuild(item, tensors) for item in node]
        case {"tuple": list(items)}:
            return tuple(_rebuild(item, tensors) for item in items)
        case {"dict": list(pairs)}:
            return {key: _rebuild(value, tensors) for key, value in pairs}
        case {"counter": list(pairs)}:
            return Counter({key: _rebuild(value, tensors) for key, value in pairs})
        case {"tensor": str(name), "dtype": str(dtype), "shape": list(shape)}:
            return tensors[name].view(_dtype(dtype)).reshape(shape)
        case {"tensor": str(name)}:
            return tensors[name]
    raise ValueError(f"{node!r} describes nothing")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"this version of torch has no dtype {name}")
    return found


def _unfit(found: type, path: Path, detail: str = "") -> CheckpointError:
    return CheckpointError(
        "expected a state of dicts, lists, tuples, strings, numbers and dense tensors, found "
        f"{found.__module__}.{found.__qualname__}{detail} at {'.'.join(path) or 'the top'}; "
        "leave it out of the state or turn it into one of these"
    )

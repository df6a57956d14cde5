"""What one member can teach another: a value, its bytes, and what is asked of it at the door.

Legend of shape suffixes: N values of all float arrays of a lesson laid end to end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from coterie.errors import CoterieError, LessonError
from coterie.types import Ctx

WORD_LENGTH = 200  # of a name in a lesson: longer ones are no names
PACKED = "packed"  # under this name lies what a codec made of all float arrays

_HEAD = "lesson"
_DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Evidence:
    """What stands behind a lesson: samples learned from, and the teacher's own held-out score.

    >>> Evidence(40, 0.75).utility
    0.75
    """

    num_samples: float
    utility: float | None = None  # higher is better; None where the teacher held nothing out


@dataclass(frozen=True, eq=False)
class Lesson:
    """One thing that a member knows, as arrays by name.

    `currency` names how it is meant ("parameters", "prototypes", "labels", "hints", "samples",
    "transitions"), `num_steps` are the teacher's optimizer steps when it was written, and `basis`
    is a digest of what both must have in common where arrays alone do not tell, such as the pool
    that soft labels are about. Raises LessonError where a lesson is not finite or names nothing.

    >>> lesson = Lesson("ann", "greek", "parameters", 120, {"trunk.w": torch.ones(2)}, Evidence(40))
    >>> read = Lesson.from_bytes(lesson.to_bytes())
    >>> read.teacher, read.num_steps, read.arrays["trunk.w"]
    ('ann', 120, tensor([1., 1.]))
    """

    teacher: str
    task: str
    currency: str
    num_steps: int
    arrays: Mapping[str, Tensor]
    evidence: Evidence
    basis: str = ""
    classes: tuple[str, ...] = ()  # what rows or columns mean, where there is one for each class
    num_bytes: int = field(default=0, compare=False)  # that it came in, or 0 for one of one's own

    def __post_init__(self) -> None:
        arrays = {name: each.detach().cpu().contiguous() for name, each in self.arrays.items()}
        object.__setattr__(self, "arrays", MappingProxyType(arrays))
        for role in ("teacher", "task", "currency"):
            _check_word(role, getattr(self, role))
        for word in self.classes:
            _check_word("class", word)
        _check_counts(self)
        for name, array in arrays.items():
            _check_array(name, array)

    @property
    def norm(self) -> float:
        """The L2 norm of all its float arrays together."""
        squares = [a.double().square().sum() for a in self.arrays.values() if _is_float(a)]
        return math.sqrt(float(sum(squares)))

    def to_bytes(self, packing: Packing | None = None) -> bytes:
        """A safetensors file; with a packing its float arrays are what a codec makes of them."""
        return self.packed(packing)[0] if packing else self._written(self.arrays, {})

    def packed(self, packing: Packing, lost_N: Tensor | None = None) -> tuple[bytes, Tensor]:
        """The bytes by a codec, and what it lost: give that to the next lesson of its kind.

        Error feedback (Seide et al. 2014): what a codec lost is added before it packs again.
        """
        floats = {name: array for name, array in self.arrays.items() if _is_float(array)}
        if not floats:
            return self._written(self.arrays, {}), torch.zeros(0)
        wanted_N = torch.cat([array.reshape(-1).float() for array in floats.values()])
        if lost_N is not None and lost_N.numel() == wanted_N.numel():
            wanted_N = wanted_N + lost_N
        bytes_B = packing.pack(wanted_N)
        others = {name: array for name, array in self.arrays.items() if name not in floats}
        shapes = {name: list(array.shape) for name, array in floats.items()}
        head = {"packing": packing.name, "shapes": shapes}
        read_N = packing.unpack(bytes_B, wanted_N.numel())
        return self._written({**others, PACKED: bytes_B}, head), wanted_N - read_N

    @classmethod
    def from_bytes(
        cls, data: bytes, door: Door | None = None, packings: tuple[Packing, ...] = ()
    ) -> Lesson:
        """The lesson in some bytes, checked by a door; LessonError says what is wrong with it."""
        door = door or Door()
        door.check_size(len(data))
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            head = json.loads(header["__metadata__"][_HEAD])
            if head.get("packing"):
                arrays = _opened(arrays, head, packings, door)
            evidence = Evidence(head["num_samples"], head["utility"])
            teacher, task, currency = head["teacher"], head["task"], head["currency"]
            when, basis, classes = head["num_steps"], head["basis"], tuple(head["classes"])
            lesson = cls(teacher, task, currency, when, arrays, evidence, basis, classes, len(data))
        except (SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise LessonError(
                f"expected a lesson, found {len(data):,} bytes that are not one ({error}); "
                "write it with Lesson.to_bytes"
            ) from error
        door.check(lesson)
        return lesson

    def _written(self, arrays: Mapping[str, Tensor], packed: Mapping[str, Any]) -> bytes:
        head = {
            "teacher": self.teacher,
            "task": self.task,
            "currency": self.currency,
            "num_steps": self.num_steps,
            "num_samples": self.evidence.num_samples,
            "utility": self.evidence.utility,
            "basis": self.basis,
            "classes": self.classes,
            **packed,
        }
        return save(dict(arrays), metadata={_HEAD: json.dumps(head)})


@dataclass(frozen=True)
class Door:
    """What is let in: so many bytes, arrays and so long a norm, and no more.

    >>> Door(max_norm=1.0).check(Lesson("a", "t", "labels", 0, {"p": torch.ones(4)}, Evidence(1)))
    Traceback (most recent call last):
    coterie.errors.LessonError: expected a lesson of a norm of at most 1, found 2 from a; ...
    """

    max_bytes: int = 1 << 28
    max_norm: float = 1e6
    max_arrays: int = 10_000

    def check_size(self, num_bytes: int) -> None:
        """Raise LessonError for more bytes than are let in, before they are looked at."""
        if num_bytes > self.max_bytes:
            raise LessonError(
                f"expected a lesson of at most {self.max_bytes:,} bytes, found {num_bytes:,}; "
                "teach less of it, or pack it by a codec"
            )

    def check(self, lesson: Lesson) -> None:
        """Raise LessonError for a lesson of too many arrays or too long a norm."""
        if len(lesson.arrays) > self.max_arrays:
            raise LessonError(
                f"expected at most {self.max_arrays:,} arrays in a lesson, found "
                f"{len(lesson.arrays):,} from {lesson.teacher}; teach less of it"
            )
        if lesson.norm > self.max_norm:
            raise LessonError(
                f"expected a lesson of a norm of at most {self.max_norm:g}, found "
                f"{lesson.norm:g} from {lesson.teacher}; it goes unheard"
            )


class Encoding(Protocol):
    """A codec as pieces of a strategy are: `coterie.sync.codecs` has many."""

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of a vector, as bytes."""

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The vector in a packet, of the size of another."""


@dataclass(frozen=True)
class Packing:
    """A vector as fewer bytes and back, under the name by which a receiver knows it.

    >>> half = Packing("half", lambda v: v.half().view(torch.uint8),
    ...                lambda p, num: p.view(torch.float16).float())
    >>> lesson = Lesson("ann", "greek", "labels", 0, {"p": torch.tensor([0.1])}, Evidence(1))
    >>> Lesson.from_bytes(lesson.to_bytes(half), packings=(half,)).arrays["p"]
    tensor([0.1000])
    """

    name: str
    pack: Callable[[Tensor], Tensor]  # float32 (N,) -> uint8
    unpack: Callable[[Tensor, int], Tensor]  # uint8, N -> float32 (N,)

    @classmethod
    def of(cls, codec: Encoding, ctx: Ctx | None = None) -> Packing:
        """A codec of a strategy, under the name that its sentence has, such as `Int8()`."""
        ctx = ctx or Ctx()

        def unpack(packed: Tensor, num_values: int) -> Tensor:
            return codec.decode(packed, torch.empty(num_values), ctx)

        return cls(repr(codec), lambda vector_N: codec.encode(vector_N, ctx), unpack)


def _opened(
    arrays: Mapping[str, Tensor], head: Mapping[str, Any], packings: tuple[Packing, ...], door: Door
) -> dict[str, Tensor]:
    known = {packing.name: packing for packing in packings}
    if head["packing"] not in known:
        raise LessonError(
            f"expected a lesson packed by {' or '.join(known) or 'no codec'}, found one packed by "
            f"{head['packing']!s:.40}; give teacher and pupil one codec"
        )
    shapes = {str(name): tuple(map(int, shape)) for name, shape in head["shapes"].items()}
    num = [math.prod(shape) if min(shape, default=0) >= 0 else -1 for shape in shapes.values()]
    if min(num, default=0) < 0 or len(num) > door.max_arrays or sum(num) > door.max_bytes:
        raise LessonError("expected arrays of a size that fits memory, found others; teach less")
    try:
        vector_N = known[head["packing"]].unpack(arrays[PACKED].reshape(-1), sum(num))
    except (CoterieError, RuntimeError) as error:
        raise LessonError(f"expected a packed lesson that opens, found: {error}") from error
    parts = zip(shapes.items(), vector_N.split_with_sizes(num), strict=True)
    opened = {name: part_N.reshape(shape) for (name, shape), part_N in parts}
    return {name: array for name, array in arrays.items() if name != PACKED} | opened


def _is_float(array: Tensor) -> bool:
    return array.dtype.is_floating_point


def _check_word(role: str, word: object) -> None:
    if not isinstance(word, str) or not word or len(word) > WORD_LENGTH or not word.isprintable():
        raise LessonError(
            f"expected the {role} of a lesson to be a name of 1 to {WORD_LENGTH} letters, found "
            f"{word!r:.60}; name it"
        )


def _check_counts(lesson: Lesson) -> None:
    evidence = lesson.evidence
    if type(lesson.num_steps) is not int or lesson.num_steps < 0:
        raise LessonError(
            f"expected a lesson from {lesson.teacher} after a whole number of steps, found "
            f"{lesson.num_steps!r:.40}"
        )
    for number in (evidence.num_samples, evidence.utility or 0.0):
        if isinstance(number, bool) or not math.isfinite(number) or evidence.num_samples < 0:
            raise LessonError(
                f"expected evidence that is finite, and of at least 0 samples, found {evidence} "
                f"from {lesson.teacher}; it goes unheard"
            )
    if not isinstance(lesson.basis, str) or len(lesson.basis) > WORD_LENGTH:
        raise LessonError(f"expected a digest as basis, found {lesson.basis!r:.60}")


def _check_array(name: str, array: Tensor) -> None:
    _check_word("array", name)
    if array.dtype not in _DTYPES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise LessonError(f"expected {name} to be of {kinds}, found {array.dtype}; convert it")
    if _is_float(array) and not bool(array.isfinite().all()):
        raise LessonError(
            f"expected {name} to be finite, found NaN or infinity; "
            "look for broken samples, or lower the learning rate"
        )

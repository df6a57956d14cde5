"""What a pack and a codec are, and the memory of what did not fit.

Legend of shape suffixes: N values of the delta. A packet is a flat uint8 tensor of exactly
`packet_bytes(N)` bytes, in the machine's own byte order. Dtypes are taken from tensors
(`like.half().dtype`), because torch is imported for its types alone.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from coterie.errors import StrategyError, TrainingError
from coterie.sync.pieces import Kind, Memory, Piece
from coterie.sync.talk import Talk

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coterie.types import Ctx, Layout

PASS_NS = 1.0  # over a value of two vectors, where a new one is written


class Pack(Piece):
    """What stands next to the exchange: it turns a delta into fewer bytes that others can open.

    >>> from coterie.sync.codecs.dense import Int8
    >>> isinstance(Int8(), Pack), isinstance(ErrorFeedback(Int8()), Pack)
    (True, True)
    """

    kind: ClassVar[Kind] = "pack"

    @abc.abstractmethod
    def num_bytes(self, layout: Layout) -> int:
        """Exact bytes that a member brings of a vector of `layout`."""

    @abc.abstractmethod
    def takes_ns(self) -> tuple[float, float]:
        """Prior of what packing and opening a value take one core, in nanoseconds."""


class Codec(Pack):
    """A pack without memory: encode and decode alone.

    >>> from coterie.sync.codecs.dense import Fp16, Int8
    >>> Fp16().packet_bytes(10), Int8().packet_bytes(10)
    (20, 14)
    """

    divisible: ClassVar[bool] = True  # whether parts of a vector may be packed one by one
    block: int = 1  # and where it may be cut: at multiples of so many values, and of eight
    pack_ns: ClassVar[float] = 2.0  # a value: the dearer of two sizes in benchmarks/codecs.md
    open_ns: ClassVar[float] = 2.2

    @abc.abstractmethod
    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of a delta; TrainingError if it holds NaN or infinity."""

    @abc.abstractmethod
    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The delta in a packet, of the size, dtype and device of `like_N`, as a new vector.

        Raises TrainingError for a packet that is not of N values.
        """

    @abc.abstractmethod
    def packet_bytes(self, size: int) -> int:
        """Exact bytes of the packet of `size` values."""

    def part(self, packed: Tensor, size: int, where: slice) -> Tensor:
        """The packet of some of the `size` values in a packet, cut where blocks and bytes begin.

        It opens to the very same values; what it opens to beyond the last of them has no meaning.
        """
        per_value = self.packet_bytes(1)
        cut = packed.new_zeros(self.packet_bytes(where.stop - where.start))
        codes = packed[per_value * where.start : per_value * where.stop]
        cut[: codes.numel()] = codes
        return cut

    def num_bytes(self, layout: Layout) -> int:
        """Bytes of the packet of the whole vector."""
        return self.packet_bytes(layout.size)

    def takes_ns(self) -> tuple[float, float]:
        """As measured on one core of a server."""
        return self.pack_ns, self.open_ns

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The packet; nothing is remembered."""
        return self.encode(delta_N, ctx), memory


class Sketch(Pack):
    """A pack whose members shrink their deltas together: what travels can be added on the way.

    >>> Sketch.kind
    'pack'
    """

    num_sums: ClassVar[int] = 2  # that a meeting takes: who is heard, and what they agree on

    @abc.abstractmethod
    def talk(
        self, mine_N: Tensor, share: float, memory: Memory, layout: Layout, ctx: Ctx
    ) -> Talk[tuple[Tensor, Memory]]:
        """Agree on (about) the sum of share·mine over all members, by `Total`s in one fixed order.

        Returns what was agreed, of shape (N,), and the memory after it; both are the same on every
        member, as long as the memories were.
        """

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta as it is: it is shrunk in conversation."""
        return delta_N, memory


@dataclass(frozen=True, repr=False)
class ErrorFeedback(Pack):
    """Pack a delta with a lossy codec and add what was lost to the next one.

    Seide et al. 2014, 1-Bit SGD; Karimireddy et al. 2019, Error Feedback Fixes SignSGD. The
    residual belongs to this member: checkpoint it, never average it. The memory is the pair of
    the residual of shape (N,) and the codec's own.

    >>> import torch
    >>> from coterie.sync.codecs.dense import Int8
    >>> from coterie.types import Ctx, Layout
    >>> piece, wanted_N = ErrorFeedback(Int8(block=4)), torch.tensor([1.0, 0.3, -0.2, 0.0])
    >>> memory = piece.init(Layout(("w",), ((4,),)), wanted_N)
    >>> packed, (residual_N, _) = piece.update(wanted_N, memory, Ctx())
    >>> torch.allclose(piece.codec.decode(packed, wanted_N, Ctx()) + residual_N, wanted_N)
    True
    """

    codec: Codec | Sketch

    def __post_init__(self) -> None:
        if not isinstance(self.codec, Codec | Sketch):
            raise StrategyError(
                f"expected a codec inside ErrorFeedback, found {self.codec!r}; "
                "write for example ErrorFeedback(Int8())"
            )

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """Nothing lost so far: zeros of shape (N,), beside the codec's own memory."""
        return (like.new_zeros(layout.size), self.codec.init(layout, like))

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The packet of delta and residual, and the new residual of shape (N,)."""
        residual_N, inner = cast("tuple[Tensor, Memory]", memory)
        wanted_N = delta_N + residual_N  # new: the old must outlive a refused round
        if isinstance(self.codec, Sketch):
            return wanted_N, memory  # what is lost is known once all have met: see `settle`
        packed = self.codec.encode(wanted_N, ctx)
        return packed, (wanted_N.sub_(self.codec.decode(packed, wanted_N, ctx)), inner)

    def settle(self, wanted_N: Tensor, agreed_N: Tensor, memory: Memory) -> Memory:
        """The memory after a sketch was agreed on: what it left out of this member's own wish.

        The mean over members of what they keep is what the agreement lost (Vogels et al. 2019).
        """
        _, inner = cast("tuple[Tensor, Memory]", memory)
        return (wanted_N - agreed_N, inner)

    def num_bytes(self, layout: Layout) -> int:
        """The codec's bytes: a residual stays at home."""
        return self.codec.num_bytes(layout)

    def takes_ns(self) -> tuple[float, float]:
        """Packing is opened at once, and two more passes tell what was lost."""
        pack_ns, open_ns = self.codec.takes_ns()
        return pack_ns + open_ns + 2 * PASS_NS, open_ns

    def bound(self, norm: float | None) -> float | None:
        """Unknown: a residual can grow past any clip."""
        return None

    def keeps(self) -> float:
        """As the codec: a prior that gives feedback no credit until it is measured."""
        return self.codec.keeps()


def as_bytes(values: Tensor) -> Tensor:
    """The same storage as bytes."""
    return values.view(values[:0].byte().dtype)


def from_bytes(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as values of a dtype, copied.

    A packet cut out of a larger buffer may start at any byte; a copy starts at a whole value.
    """
    return packed.clone().view(dtype)


def check_size(packed: Tensor, num_bytes: int) -> None:
    """Raise TrainingError unless a packet has so many bytes."""
    if packed.numel() != num_bytes:
        raise TrainingError(
            f"expected a packet of {num_bytes} bytes, found {packed.numel()}; "
            "members must share one layout and one sentence"
        )


def refuse_unless(finite: bool, codec: Codec) -> None:
    """Raise TrainingError for a delta that cannot be packed."""
    if not finite:
        raise TrainingError(
            f"expected finite values to pack with {codec}, found NaN, infinity or a value beyond "
            "float32; lower the learning rate, or leave this member out of the round"
        )

"""A strategy is a sentence of pieces, checked when it is built.

Legend of shape suffixes: N all values of the flat vector, K those that are shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from coterie.errors import StrategyError
from coterie.sync.codecs import Pack
from coterie.sync.exchanges import Exchange, Payload
from coterie.sync.pieces import Every, Memory, Piece

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Layout
    from coterie.world import Link

GRAMMAR = "local? map* pack? exchange map*"
DENSE_BYTES = 4  # what travels unpacked is float32
Memories = tuple[Memory, ...]  # one for each piece, in the order of the sentence


@dataclass(frozen=True, repr=False)
class Strategy:
    """A sentence of pieces: how members agree, from a member's delta to the update that lands.

    Without `Every`, the delta is a gradient and the member's own optimizer steps on the update.
    With it, the delta is `anchor − here` after a walk, and new = anchor − update.

    >>> from coterie.sync.exchanges import Reduce
    >>> from coterie.sync.outer import Outer
    >>> chain(Every(8), Reduce(), Outer(1.0)).every
    8
    """

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        _check(self.pieces)

    def __repr__(self) -> str:
        return _written(self.pieces)

    @property
    def every(self) -> int:
        """Optimizer steps between two meetings; 1 when gradients travel."""
        return next((p.num_steps for p in self.pieces if isinstance(p, Every)), 1)

    @property
    def walks(self) -> bool:
        """Whether members walk alone between meetings, so that a delta of weights travels."""
        return any(isinstance(piece, Every) for piece in self.pieces)

    @property
    def exchange(self) -> Exchange:
        """The one piece that knows other members exist."""
        return cast("Exchange", self.pieces[self._meeting])

    @property
    def pack(self) -> Pack | None:
        """The piece that packs what travels, or None when it travels dense."""
        return next((piece for piece in self.pieces if isinstance(piece, Pack)), None)

    @property
    def _meeting(self) -> int:
        return next(i for i, piece in enumerate(self.pieces) if isinstance(piece, Exchange))

    def init(self, layout: Layout, like: Tensor) -> Memories:
        """Fresh memory, one for each piece, of the dtype and on the device of `like`.

        Raises JobError when a pattern of the sentence matches no parameter.
        """
        memory = []
        for piece in self.pieces:
            memory.append(piece.init(layout, like))
            layout = piece.narrow(layout)
        return tuple(memory)

    def prepare(self, delta_N: Tensor, memory: Memories, ctx: Ctx) -> tuple[Tensor, Memories]:
        """What travels, dense of shape (K,) or packed uint8, and the memory if the round counts.

        Nothing passed in is written to; a dense payload may be the delta itself.
        """
        payload, ours = _fold(self.pieces[: self._meeting], delta_N, memory[: self._meeting], ctx)
        return payload, (*ours, *memory[self._meeting :])

    def factor(self, weight: float, weight_M: Sequence[float]) -> float | None:
        """What to multiply a payload by so that a plain sum is the law; None where it is not."""
        return self.exchange.factor(weight, weight_M) if self.pack is None else None

    def inherit(self, memory: Memories, layout: Layout, like: Tensor) -> Memories:
        """What a newcomer takes over of a member's memory: the agreed part, after the exchange.

        What stands before it, such as a residual, belongs to the other member and stays there.
        """
        fresh, after = self.init(layout, like), self._meeting + 1
        return (*fresh[:after], *memory[after:])

    def open(self, payload: Tensor, like_K: Tensor) -> Tensor:
        """The row of shape (K,) in a payload, of the dtype and on the device of `like_K`."""
        return payload if self.pack is None else self.pack.decode(payload, like_K)

    def land(
        self, agreed_K: Tensor, own_N: Tensor, layout: Layout, memory: Memories, ctx: Ctx
    ) -> tuple[Tensor, Memories]:
        """The update of shape (N,) that the agreed vector becomes, and the memory after it.

        Parameters that are not shared keep the member's own delta: its gradient, or its walk.
        """
        after = self._meeting + 1
        update_K, theirs = _fold(self.pieces[after:], agreed_K, memory[after:], ctx)
        update_N = _widen(update_K, self.narrowed(layout), own_N, layout)
        return update_N, (*memory[:after], *theirs)

    def narrowed(self, layout: Layout) -> Layout:
        """The part of the layout that is shared; all of it without `Only`."""
        for piece in self.pieces:
            layout = piece.narrow(layout)
        return layout

    def num_bytes(self, layout: Layout) -> int:
        """Exact bytes that one member brings to a meeting."""
        size = self.narrowed(layout).size
        return DENSE_BYTES * size if self.pack is None else self.pack.num_bytes(size)

    def payload(self, layout: Layout) -> Payload:
        """What one member brings to a meeting, as the exchange prices it."""
        return Payload(self.num_bytes(layout), summable=self.pack is None)

    def price(self, layout: Layout, num_members: int, links: Sequence[Link]) -> float:
        """Predicted seconds of one meeting; JobError when a member has no link."""
        return self.exchange.price(self.payload(layout), num_members, links)

    def keeps(self) -> float:
        """Prior of the progress per sample kept against plain synchronous steps, in (0, 1].

        The product over pieces, with one adjustment: what a walk loses, an outer optimizer may
        win back in part (half of it for DiLoCo's Nesterov after more than 16 steps).

        >>> from coterie.sync.recipes import diloco, local_sgd
        >>> local_sgd(32).keeps() < diloco(32).keeps() < 1
        True
        """
        walk = math.prod(piece.keeps() for piece in self.pieces if isinstance(piece, Every))
        rest = math.prod(piece.keeps() for piece in self.pieces if not isinstance(piece, Every))
        regained = max(piece.regains(self.every) for piece in self.pieces)
        return rest * (walk + (1 - walk) * regained)


def chain(*pieces: Piece) -> Strategy:
    """Build a sentence: `local? map* pack? exchange map*`, or a StrategyError that says why not.

    >>> from coterie.sync.exchanges import Reduce
    >>> from coterie.sync.outer import Outer
    >>> chain(Every(8), Reduce(), Outer(0.7, 0.9, nesterov=True))
    chain(Every(8), Reduce(), Outer(0.7, 0.9, nesterov=True))
    """
    return Strategy(pieces)


def _fold(
    pieces: Sequence[Piece], vector: Tensor, memory: Memories, ctx: Ctx
) -> tuple[Tensor, Memories]:
    """Pass a vector through the pieces, left to right, each with its own memory."""
    kept = []
    for piece, own in zip(pieces, memory, strict=True):
        vector, own_next = piece.update(vector, own, ctx)
        kept.append(own_next)
    return vector, tuple(kept)


def _widen(update_K: Tensor, shared: Layout, own_N: Tensor, layout: Layout) -> Tensor:
    """The own vector with the shared slices replaced by the agreed ones."""
    if shared == layout:
        return update_K
    agreed = dict(shared.slices())
    update_N = own_N.clone()
    for name, where in layout.slices():
        if name in agreed:
            update_N[where] = update_K[agreed[name]]
    return update_N


def _written(words: Sequence[object]) -> str:
    return f"chain({', '.join(map(str, words))})"


def _check(pieces: tuple[Piece, ...]) -> None:
    """Refuse what is not a sentence; the most telling complaint comes first."""
    for piece in pieces:
        if not isinstance(piece, Piece):
            raise StrategyError(
                f"expected pieces in a chain, found {piece!r} in {_written(pieces)}; "
                "write for example chain(Reduce())"
            )
    _check_exchange(pieces)
    _check_order(pieces)
    _check_outer(pieces)


def _check_exchange(pieces: tuple[Piece, ...]) -> None:
    num = sum(piece.kind == "exchange" for piece in pieces)
    if num == 0:
        raise StrategyError(
            f"expected one exchange, found none in {_written(pieces)}, so nothing meets; "
            "add Reduce()"
        )
    if num > 1:
        raise StrategyError(
            f"expected one exchange, found {num} in {_written(pieces)}, which is more than one "
            "strategy; keep one of them"
        )


def _check_order(pieces: tuple[Piece, ...]) -> None:
    meeting = next(i for i, piece in enumerate(pieces) if piece.kind == "exchange")
    for place, piece in enumerate(pieces):
        complaint = _misplaced(piece, place, meeting)
        if complaint is not None:
            raise StrategyError(
                f"expected {GRAMMAR}, found {piece} {complaint}, in {_written(pieces)}"
            )


def _misplaced(piece: Piece, place: int, meeting: int) -> str | None:
    """What is wrong with where a piece stands, and what to do; None when nothing is."""
    side = "before" if place < meeting else "after"
    if piece.kind == "local" and place > 0:
        return "away from the start; put it first, and only once"
    if piece.kind == "pack" and place != meeting - 1:
        return "away from the exchange; put one pack just before it, after all maps"
    if piece.kind == "map" and piece.stands not in (side, "either"):
        return f"{side} the exchange; put it {piece.stands} the exchange"
    return None


def _check_outer(pieces: tuple[Piece, ...]) -> None:
    walks = any(piece.kind == "local" for piece in pieces)
    outers = [piece for piece in pieces if piece.optimizes]
    if walks and not outers:
        raise StrategyError(
            f"expected an outer optimizer after a walk, found none in {_written(pieces)}, so the "
            f"delta lands nowhere; did you mean {_written([*pieces, 'Outer(1.0)'])}?"
        )
    if outers and not walks:
        plain = [piece for piece in pieces if not piece.optimizes]
        raise StrategyError(
            f"expected Every(...) with an outer optimizer, found none in {_written(pieces)}, so "
            "two optimizers would step on one gradient; did you mean "
            f"{_written(['Every(8)', *pieces])}, or {_written(plain)}?"
        )
    if len(outers) > 1:
        raise StrategyError(
            f"expected one outer optimizer, found {len(outers)} in {_written(pieces)}; keep one"
        )

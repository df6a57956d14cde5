"""A strategy is a sentence of pieces, checked when it is built.

Legend of shape suffixes: N all values of the flat vector, F those that a round is about (all, or a
fragment), K those of them that are shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import coterie.sync.fragments as fragments
import coterie.sync.grammar as grammar
import coterie.sync.meetings as meetings
from coterie.sync.codecs import Codec, ErrorFeedback, Pack, Sketch
from coterie.sync.exchanges import Exchange
from coterie.sync.maps import Prox
from coterie.sync.pieces import Every, Memory, Piece, Prior, fold, norm_before
from coterie.sync.privacy import Noise
from coterie.sync.room import Agreed, Payload, Room
from coterie.sync.talk import Talk
from coterie.sync.teams import Team

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from coterie.types import Ctx, Layout, Message
    from coterie.world import Link

DENSE_BYTES = 4  # what travels unpacked is float32
Memories = tuple[Memory, ...]  # one for each piece, in the order of the sentence
P = TypeVar("P", bound=Piece)


@dataclass(frozen=True)
class Landing:
    """What a member brought to a round, as landing needs it."""

    delta_N: Tensor  # its gradient, or anchor − here
    anchor_N: Tensor  # where it started from; of no meaning for a gradient
    payload: Tensor
    heard: bool = True  # whether it counted


@dataclass(frozen=True, repr=False)
class Strategy:
    """A sentence of pieces: how members agree, from a member's delta to the update that lands.

    Without `Every`, the delta is a gradient and the member's own optimizer steps on the update.
    With it, the delta is `anchor − here` after a walk, and new = anchor − update. Where a walk has
    fragments, each round is about one part of the parameters: `part` says which.

    >>> from coterie.sync.exchanges import Reduce
    >>> from coterie.sync.outer import Outer
    >>> chain(Every(8), Reduce(), Outer(1.0)).every
    8
    """

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        grammar.check(self.pieces)

    def __repr__(self) -> str:
        return grammar.written(self.pieces)

    # -- what it is -------------------------------------------------------------------------------

    @property
    def walk(self) -> Every | None:
        """How members walk between meetings; None when gradients travel."""
        return self._first(Every)

    @property
    def every(self) -> int:
        """Optimizer steps between two meetings; 1 when gradients travel."""
        return self.walk.meets_every if self.walk else 1

    @property
    def walks(self) -> bool:
        """Whether members walk alone between meetings, so that a delta of weights travels."""
        return self.walk is not None

    @property
    def overlap(self) -> int:
        """Steps that members walk on while a meeting goes on."""
        return self.walk.overlap if self.walk else 0

    @property
    def momentum(self) -> float:
        """How much of what a meeting moved goes on into the next; 0 where nothing does."""
        outer = self.pieces[self._meeting + 1 :]
        return max((getattr(p, "momentum", getattr(p, "b1", 0.0)) for p in outer), default=0.0)

    @property
    def pull(self) -> float:
        """How strongly each step of a walk is drawn back to the anchor (FedProx)."""
        prox = self._first(Prox)
        return prox.mu if prox else 0.0

    @property
    def team(self) -> Team | None:
        """How members are cut into teams; None where each walks alone."""
        return self._first(Team)

    @property
    def least(self) -> int:
        """Fewest members it makes sense with."""
        return max(self.exchange.least(), self.team.least if self.team else 1)

    @property
    def exchange(self) -> Exchange:
        """The one piece that knows other members exist."""
        return cast("Exchange", self.pieces[self._meeting])

    @property
    def pack(self) -> Pack | None:
        """The piece that packs what travels, or None when it travels dense."""
        return self._first(Pack)  # type: ignore[type-abstract]

    @property
    def sketch(self) -> Sketch | None:
        """The pack, where members shrink their deltas in conversation."""
        return self._bare if isinstance(self._bare, Sketch) else None

    @property
    def downlink(self) -> Codec | None:
        """What a server packs its answers with: a codec that keeps every value."""
        codec = self._codec
        return codec if codec is not None and codec.divisible else None

    @property
    def after(self) -> int:
        """The place of the first piece that members apply to what was agreed."""
        return self._meeting + (1 if self.noise is None else 2)

    @property
    def noise(self) -> Noise | None:
        """What the server adds to what was agreed, before anybody sees it."""
        follows = self.pieces[self._meeting + 1 : self._meeting + 2]
        return next((piece for piece in follows if isinstance(piece, Noise)), None)

    @property
    def secret(self) -> bool:
        """Whether what is drawn must be known to nobody else."""
        return self._first(Noise) is not None

    @property
    def plain(self) -> bool:
        """Whether gradients are averaged as they are: what can begin during the backward pass."""
        ring = self.exchange.road == "ring" and self.exchange.linear
        before = self.pieces[: self._meeting]
        known = getattr(self.exchange, "weighted", True) != "score"  # weights, before the pass
        return ring and known and not before and self.exchange.agrees

    def waiting_for(self, num: int) -> Strategy:
        """The sentence with this quorum, if it has one."""
        return chain(*(p.waiting_for(num) if isinstance(p, Exchange) else p for p in self.pieces))

    @property
    def _bare(self) -> Pack | None:
        return self.pack.codec if isinstance(self.pack, ErrorFeedback) else self.pack

    @property
    def _codec(self) -> Codec | None:
        return self._bare if isinstance(self._bare, Codec) else None

    @property
    def _meeting(self) -> int:
        return next(i for i, piece in enumerate(self.pieces) if isinstance(piece, Exchange))

    def _first(self, kind: type[P]) -> P | None:
        return next((piece for piece in self.pieces if isinstance(piece, kind)), None)

    # -- what it does -----------------------------------------------------------------------------

    def init(self, layout: Layout, like: Tensor) -> Memories:
        """Fresh memory, of the dtype and on the device of `like`: one for each piece.

        With fragments, one such for each of them. Raises JobError when a pattern of the sentence
        matches no parameter.
        """
        parts = fragments.split(layout, self._num_parts)
        memories = tuple(self._init(part, like) for part in parts)
        return memories if self._num_parts > 1 else memories[0]

    def part(self, layout: Layout, number: int) -> Layout:
        """What a round is about: a fragment, or everything."""
        return fragments.split(layout, self._num_parts)[(number - 1) % self._num_parts]

    def prepare(
        self, delta_N: Tensor, anchor_N: Tensor, memory: Memories, layout: Layout, ctx: Ctx
    ) -> tuple[Tensor, Memories]:
        """What travels, dense or packed uint8, and the memory if the round counts.

        Nothing passed in is written to; a dense payload may be the delta itself.
        """
        part, mine = self.part(layout, ctx.round), self._mine(memory, ctx)
        before = slice(self._meeting)
        delta_K = fragments.take(delta_N, layout, part)
        payload, ours = fold(self.pieces[before], delta_K, mine[before], ctx)
        if self.pack is None:
            payload = self.exchange.bring(payload, self._shared(anchor_N, layout, ctx))
        return payload, self._kept((*ours, *mine[self._meeting :]), memory, ctx)

    def talk(
        self, mine: Message, memory: Memories, room: Room, layout: Layout
    ) -> Talk[tuple[Agreed, Memories]]:
        """Hold the meeting: what is agreed, and the memory if the round counts."""
        own, shared = self._mine(memory, room.ctx), self.shared(layout, room.ctx.round)
        if self.sketch is None:
            agreed = yield from self.exchange.talk(mine, own[self._meeting], room)
            return agreed, self._with(agreed.memory, self._meeting, memory, room.ctx)
        place = self._meeting - 1
        feedback = isinstance(self.pack, ErrorFeedback)
        inner = cast("tuple[Memory, ...]", own[place])[1] if feedback else own[place]
        law = cast("meetings.Law", self.exchange)
        agreed = yield from meetings.sketched(law, self.sketch, mine, inner, shared, room)
        packs = agreed.memory
        if feedback:
            packs = (cast("tuple[Memory, ...]", own[place])[0], agreed.memory)
        return agreed, self._with(packs, place, memory, room.ctx)

    def room(
        self,
        me: str,
        members: tuple[str, ...],
        weights: Mapping[str, float],
        like_N: Tensor,
        layout: Layout,
        ctx: Ctx,
    ) -> Room:
        """Who meets about what in a round; `like_N` is any vector of the layout."""
        shown = self.exchange.shown(self.shared(layout, ctx.round))
        like_K = like_N.new_zeros(shown.size)
        return Room(me, members, weights, like_K, self.pack, ctx)

    def open(self, payload: Tensor, like_K: Tensor, ctx: Ctx) -> Tensor:
        """The row of shape (K,) in a payload, of the dtype and on the device of `like_K`."""
        return self._codec.decode(payload, like_K, ctx) if self._codec else payload

    def land(
        self, agreed_K: Tensor, mine: Landing, memory: Memories, layout: Layout, ctx: Ctx
    ) -> tuple[Tensor, Memories]:
        """The update that the agreed vector becomes, of the round's part, and the memory after it.

        Parameters that are not shared keep the member's own delta: its gradient, or its walk.
        """
        own, part = self._mine(memory, ctx), self.part(layout, ctx.round)
        if mine.heard and self.sketch is not None and isinstance(self.pack, ErrorFeedback):
            place = self._meeting - 1
            settled = self.pack.settle(mine.payload, agreed_K, own[place])
            own = (*own[:place], settled, *own[place + 1 :])
        delta_K = self.exchange.land(agreed_K, self._shared(mine.anchor_N, layout, ctx))
        after = self.after
        update_K, theirs = fold(self.pieces[after:], delta_K, own[after:], ctx)
        own_F = fragments.take(mine.delta_N, layout, part)
        update_F = fragments.put(own_F, update_K, part, self.narrowed(part))
        return update_F, self._kept((*own[:after], *theirs), memory, ctx)

    def veil(self, agreed_K: Tensor, num_members: int, generator: Generator) -> Tensor:
        """What a server tells of a mean over so many members, as a new vector if it adds noise."""
        if self.noise is None:
            return agreed_K
        norm = norm_before(self.pieces[: self._meeting])
        return self.noise.add(agreed_K, self.noise.scale(norm, num_members), generator)

    def unheard(self, before: Memories, after: Memories, ctx: Ctx) -> Memories:
        """The memory of a member that nobody heard: what it wished to say is still unsaid.

        What its part in the meeting left behind it keeps: the others have heard the outcome.
        """
        own, met = self._mine(before, ctx), self._mine(after, ctx)
        return self._kept((*own[: self._meeting], *met[self._meeting :]), before, ctx)

    def inherit(self, memory: Memories, layout: Layout, like: Tensor) -> Memories:
        """What a newcomer takes over of a member's memory: the agreed part, after the exchange.

        What stands before it, such as a residual, belongs to the other member and stays there.
        """
        fresh, after = self.init(layout, like), self._meeting + 1
        if self._num_parts == 1:
            return (*fresh[:after], *memory[after:])
        pairs = zip(
            cast("tuple[Memories, ...]", fresh), cast("tuple[Memories, ...]", memory), strict=True
        )
        return tuple((*new[:after], *old[after:]) for new, old in pairs)

    def narrowed(self, layout: Layout) -> Layout:
        """The part of the layout that is shared; all of it without `Only`."""
        for piece in self.pieces:
            layout = piece.narrow(layout)
        return layout

    def shared(self, layout: Layout, number: int) -> Layout:
        """What travels in a round."""
        return self.narrowed(self.part(layout, number))

    # -- what it costs ----------------------------------------------------------------------------

    def num_bytes(self, layout: Layout) -> int:
        """Exact bytes that one member brings to a meeting, the weight behind them not counted.

        With fragments, those of the largest.
        """
        return max(self._num_bytes(part) for part in fragments.split(layout, self._num_parts))

    def _num_bytes(self, part: Layout) -> int:
        shown = self.exchange.shown(self.narrowed(part))
        return DENSE_BYTES * shown.size if self.pack is None else self.pack.num_bytes(shown)

    def payload(self, layout: Layout) -> Payload:
        """What one member brings to a meeting, of the largest fragment."""
        return max(self.payloads(layout), key=lambda payload: payload.num_bytes)

    def payloads(self, layout: Layout) -> tuple[Payload, ...]:
        """What one member brings about each fragment, as the exchange prices it."""
        codec, sketch = self._codec, self.sketch
        summable = self.exchange.linear and (self.pack is None or sketch is not None)
        cut = self.pack is None or (codec is not None and codec.divisible)
        divisible = cut and self.exchange.divides and not summable
        grain = meetings.grain_bytes(codec, DENSE_BYTES) if divisible else 1
        kind = (summable, divisible, grain, sketch.num_sums if sketch else 1)
        parts = fragments.split(layout, self._num_parts)
        return tuple(Payload(self._num_bytes(part), *kind) for part in parts)

    def price(self, layout: Layout, num_members: int, links: Sequence[Link]) -> float:
        """Predicted seconds of one meeting; JobError when a member has no link."""
        return self.exchange.price(self.payload(layout), num_members, links)

    def keeps(self) -> float:
        """Prior of the progress per sample kept against plain synchronous steps, in (0, 1].

        Of three members of equal share; of others see `prior`.

        >>> from coterie.sync.recipes import diloco, local_sgd
        >>> local_sgd(128).keeps() < diloco(128).keeps() < 1
        True
        """
        return self.prior.kept()

    @property
    def prior(self) -> Prior:
        """The product over pieces; what a walk loses, an outer optimizer wins back in part."""
        regained = max(piece.regains(self.every) for piece in self.pieces)
        rest = math.prod(piece.keeps() for piece in self.pieces if not isinstance(piece, Every))
        loss, lands = (self.walk.loss, self.walk.lands()) if self.walk else (0.0, 1.0)
        return Prior(loss, regained, rest * lands)

    # -- memories ---------------------------------------------------------------------------------

    @property
    def _num_parts(self) -> int:
        return self.walk.fragments if self.walk else 1

    def _init(self, layout: Layout, like: Tensor) -> Memories:
        memory = []
        for place, piece in enumerate(self.pieces):
            if isinstance(piece, Noise) and place < self._meeting:
                norm = norm_before(self.pieces[:place])
                memory.append(piece.remember(norm, like, of_mean=False))
            else:
                memory.append(piece.init(layout, like))
            layout = piece.narrow(layout)
        return tuple(memory)

    def _mine(self, memory: Memories, ctx: Ctx) -> Memories:
        """The memories of the pieces for the part that a round is about."""
        if self._num_parts == 1:
            return memory
        return cast("Memories", memory[(ctx.round - 1) % self._num_parts])

    def _kept(self, mine: Memories, memory: Memories, ctx: Ctx) -> Memories:
        if self._num_parts == 1:
            return mine
        place = (ctx.round - 1) % self._num_parts
        return (*memory[:place], mine, *memory[place + 1 :])

    def _with(self, value: Memory, place: int, memory: Memories, ctx: Ctx) -> Memories:
        mine = self._mine(memory, ctx)
        return self._kept((*mine[:place], value, *mine[place + 1 :]), memory, ctx)

    def _shared(self, vector_N: Tensor, layout: Layout, ctx: Ctx) -> Tensor:
        return fragments.take(vector_N, layout, self.shared(layout, ctx.round))


def chain(*pieces: Piece) -> Strategy:
    """Build a sentence: `local* map* pack? exchange map*`, or a StrategyError that says why not.

    >>> from coterie.sync.exchanges import Reduce
    >>> from coterie.sync.outer import Outer
    >>> chain(Every(8), Reduce(), Outer(0.7, 0.9, nesterov=True))
    chain(Every(8), Reduce(), Outer(0.7, 0.9, nesterov=True))
    """
    return Strategy(pieces)

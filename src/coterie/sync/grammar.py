"""What is a sentence: every complaint says what was expected, what was found, and what to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coterie.errors import StrategyError
from coterie.sync.codecs import Codec, Pack, Sketch
from coterie.sync.exchanges import Exchange, Reduce
from coterie.sync.maps import Discount, Prox
from coterie.sync.pieces import Every, Only, Piece
from coterie.sync.privacy import Noise
from coterie.sync.server import Push
from coterie.sync.teams import Team

GRAMMAR = "local* map* pack? exchange map*"


def written(words: Sequence[object]) -> str:
    """A sentence as it is written.

    >>> written(["Every(8)", "Reduce()"])
    'chain(Every(8), Reduce())'
    """
    return f"chain({', '.join(map(str, words))})"


def check(pieces: tuple[Piece, ...]) -> None:
    """Refuse what is not a sentence; the most telling complaint comes first."""
    for piece in pieces:
        if not isinstance(piece, Piece):
            raise StrategyError(
                f"expected pieces in a chain, found {piece!r} in {written(pieces)}; "
                "write for example chain(Reduce())"
            )
    _check_exchange(pieces)
    _check_order(pieces)
    _check_walk(pieces)
    _check_outer(pieces)
    for asked, complaint, advice in _company(pieces):
        if asked:
            raise StrategyError(f"expected {complaint}, found {written(pieces)}; {advice}")


def _check_exchange(pieces: tuple[Piece, ...]) -> None:
    num = sum(piece.kind == "exchange" for piece in pieces)
    if num == 0:
        raise StrategyError(
            f"expected one exchange, found none in {written(pieces)}, so nothing meets; "
            "add Reduce()"
        )
    if num > 1:
        raise StrategyError(
            f"expected one exchange, found {num} in {written(pieces)}, which is more than one "
            "strategy; keep one of them"
        )


def _check_order(pieces: tuple[Piece, ...]) -> None:
    meeting = next(i for i, piece in enumerate(pieces) if piece.kind == "exchange")
    for place, piece in enumerate(pieces):
        complaint = _misplaced(piece, place, meeting)
        if complaint is not None:
            raise StrategyError(
                f"expected {GRAMMAR}, found {piece} {complaint}, in {written(pieces)}"
            )


def _misplaced(piece: Piece, place: int, meeting: int) -> str | None:
    """What is wrong with where a piece stands, and what to do; None when nothing is."""
    side = "before" if place < meeting else "after"
    if piece.kind == "local" and place >= meeting:
        return "after the exchange; put it first"
    if piece.kind == "pack" and place != meeting - 1:
        return "away from the exchange; put one pack just before it, after all maps"
    if piece.kind == "map" and piece.stands not in (side, "either"):
        return f"{side} the exchange; put it {piece.stands} the exchange"
    return None


def _check_walk(pieces: tuple[Piece, ...]) -> None:
    """A walk comes first, and what is done on the way right behind it, each once."""
    local = [piece for piece in pieces if piece.kind == "local"]
    if tuple(local) != pieces[: len(local)]:
        raise StrategyError(
            f"expected {GRAMMAR}, found {local[-1]} away from the start, in {written(pieces)}; "
            "put it first"
        )
    if local and not isinstance(local[0], Every):
        raise StrategyError(
            f"expected Every(...) before {local[0]}, which says what is done on a walk, found "
            f"none in {written(pieces)}; did you mean {written(['Every(8)', *pieces])}?"
        )
    if len({_family(piece) for piece in local}) < len(local):
        raise StrategyError(
            f"expected each local word only once, found {', '.join(map(repr, local))} in "
            f"{written(pieces)}; keep one of each"
        )


def _family(piece: Piece) -> type[Piece]:
    families: tuple[type[Piece], ...] = (Every, Team)
    return next((family for family in families if isinstance(piece, family)), type(piece))


def _company(pieces: tuple[Piece, ...]) -> Iterator[tuple[bool, str, str]]:
    """Who cannot stand beside whom: whether it is so, what was expected, and what to do."""
    exchange = next(piece for piece in pieces if isinstance(piece, Exchange))
    walk = next((piece for piece in pieces if isinstance(piece, Every)), None)
    team = next((piece for piece in pieces if isinstance(piece, Team)), None)
    pack = next((piece for piece in pieces if isinstance(piece, Pack)), None)
    has = {type(piece) for piece in pieces}
    server = isinstance(exchange, Push)
    codec = getattr(pack, "codec", pack)
    sketch = isinstance(codec, Sketch)
    yield (
        pack is not None and not exchange.agrees,
        f"no codec with {exchange}, whose members show where they stand: what a codec loses "
        "would never be made good",
        f"leave out {pack}, or meet by Reduce()",
    )
    yield (
        not exchange.agrees and walk is None,
        f"a walk with {exchange}: members that do not agree cannot average gradients",
        "put Every(1) first and Outer(1.0) last",
    )
    yield (server and walk is None, f"a walk before {exchange}", "put Every(8) first")
    yield (
        Discount in has and not server,
        "Push() with Discount, for no other exchange has stale deltas",
        "leave out Discount(...)",
    )
    yield (
        sketch and not (exchange.linear and exchange.road == "ring"),
        f"{pack}, whose sums are made on the ring road, with the mean of Reduce()",
        "write Reduce() for the exchange",
    )
    sparse = isinstance(codec, Codec) and not codec.divisible
    yield (
        sparse and exchange.divides and not exchange.linear,
        f"a codec that keeps every value with {exchange}, for of few values sent by each most "
        "columns hold zeros",
        f"write Reduce(), or another codec than {codec}",
    )
    yield from _of_walks(walk, team, exchange, has)
    yield from _of_noise(pieces, exchange)


def _of_noise(pieces: tuple[Piece, ...], exchange: Exchange) -> Iterator[tuple[bool, str, str]]:
    places = [place for place, piece in enumerate(pieces) if isinstance(piece, Noise)]
    meeting = pieces.index(exchange)
    for place in places:
        norm: float | None = None
        for piece in pieces[: min(place, meeting)]:
            norm = piece.bound(norm)
        yield (
            norm is None,
            f"a bound on what a member brings before {pieces[place]}",
            "write for example Clip(1.0) before it, and nothing between that may lift the norm",
        )
        mean = isinstance(exchange, Reduce) and exchange.linear and exchange.weighted is False
        yield (
            place > meeting and not (mean and exchange.road == "star" and place == meeting + 1),
            f"{pieces[place]} of a server's right behind an unweighted mean on the star road",
            'write Reduce(weighted=False, road="star") before it, or the noise before the exchange',
        )
    yield (len(places) > 1, "noise once", "keep one Noise(...)")


def _of_walks(
    walk: Every | None, team: Team | None, exchange: Exchange, has: set[type[Piece]]
) -> Iterator[tuple[bool, str, str]]:
    ring = exchange.road == "ring" and exchange.agrees
    streams = walk is not None and (walk.fragments > 1 or walk.overlap > 0)
    yield (
        streams and not ring,
        "fragments and overlap with an exchange of the ring road in which all agree",
        "meet by Reduce(), or leave them out",
    )
    yield (
        streams and (team is not None or Only in has),
        "fragments and overlap of all parameters, walked by each member alone",
        "leave out what stands with them, or them",
    )
    yield (
        team is not None and not ring,
        "teams that meet on the ring road, and agree",
        "meet by Reduce(), or leave the teams out",
    )
    yield (
        team is not None and Prox in has,
        "a pull to the anchor in a walk that each takes alone",
        "leave out Prox(...) or the teams",
    )


def _check_outer(pieces: tuple[Piece, ...]) -> None:
    walks = any(piece.kind == "local" for piece in pieces)
    outers = [piece for piece in pieces if piece.optimizes]
    if walks and not outers:
        raise StrategyError(
            f"expected an outer optimizer after a walk, found none in {written(pieces)}, so the "
            f"delta lands nowhere; did you mean {written([*pieces, 'Outer(1.0)'])}?"
        )
    if outers and not walks:
        plain = [piece for piece in pieces if not piece.optimizes]
        raise StrategyError(
            f"expected Every(...) with an outer optimizer, found none in {written(pieces)}, so "
            "two optimizers would step on one gradient; did you mean "
            f"{written(['Every(8)', *pieces])}, or {written(plain)}?"
        )
    if len(outers) > 1:
        raise StrategyError(
            f"expected one outer optimizer, found {len(outers)} in {written(pieces)}; keep one"
        )

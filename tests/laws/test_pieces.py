"""Laws that every piece obeys: a new piece joins SENTENCES and inherits them.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import ErrorFeedback, Fp16, Int8, Pack
from coterie.sync.exchanges import Reduce
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Memory, Only, Piece
from coterie.sync.recipes import WORDS, parse
from coterie.types import Ctx, Layout

NUM = 10  # not a multiple of any block below
WHOLE = Layout(("trunk.all",), ((NUM,),))
CUT = Layout(("trunk.a", "trunk.b", "trunk.c"), ((2, 2), (5,), ()))

SENTENCES = [
    chain(Reduce()),
    chain(Clip(1.0), Reduce(weighted=False)),
    chain(Only("trunk.*"), Fp16(), Reduce()),
    chain(Int8(), Reduce()),
    chain(Int8(block=4), Reduce()),
    chain(ErrorFeedback(Fp16()), Reduce()),
    chain(ErrorFeedback(Int8(block=4)), Reduce()),
    chain(Every(3), Reduce(), Outer(1.0)),
    chain(Every(3), Reduce(), Outer(0.5, 0.9)),
    chain(Every(3), Reduce(), Outer(0.7, 0.9, nesterov=True)),
]
PIECES = list(dict.fromkeys(piece for sentence in SENTENCES for piece in sentence.pieces))
PACKS = [piece for piece in PIECES if isinstance(piece, Pack)]
BOUNDED = [piece for piece in PIECES if piece.bound(1.0) is not None]

every_piece = pytest.mark.parametrize("piece", PIECES, ids=repr)
every_pack = pytest.mark.parametrize("pack", PACKS, ids=repr)


def random(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(NUM, generator=torch.Generator().manual_seed(seed))


def opened(piece: Piece, out: Tensor) -> Tensor:
    return piece.decode(out, torch.zeros(NUM)) if isinstance(piece, Pack) else out


def same(left: Memory, right: Memory) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right is None


def test_every_piece_of_the_language_is_under_the_laws() -> None:
    assert set(map(type, PIECES)) == set(WORDS.values()) - {chain}


@every_piece
def test_zero_delta_is_rest(piece: Piece) -> None:
    zero_N = torch.zeros(NUM)
    out, _ = piece.update(zero_N, piece.init(WHOLE, zero_N), Ctx())
    assert torch.equal(opened(piece, out), zero_N)


@every_piece
def test_memory_is_a_value(piece: Piece) -> None:
    _, memory = piece.update(random(0), piece.init(WHOLE, random(0)), Ctx())
    before, delta_N = copy.deepcopy(memory), random(1)
    first, after_first = piece.update(delta_N, memory, Ctx())
    second, after_second = piece.update(delta_N, memory, Ctx())
    assert torch.equal(first, second)
    assert same(after_first, after_second)
    assert same(memory, before)


@every_piece
def test_the_delta_is_not_written_to(piece: Piece) -> None:
    delta_N = random(1, scale=100.0)
    piece.update(delta_N, piece.init(WHOLE, delta_N), Ctx())
    assert torch.equal(delta_N, random(1, scale=100.0))


@pytest.mark.parametrize("piece", BOUNDED, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-3, 3e-8, 1e-41, 0.0])
def test_the_declared_bound_holds(piece: Piece, scale: float) -> None:
    for seed in range(20):
        delta_N = random(seed, scale)
        memory = piece.init(WHOLE, delta_N)
        out, _ = piece.update(delta_N, memory, Ctx())
        bound = piece.bound(float(delta_N.double().norm()))
        assert bound is not None
        assert float(opened(piece, out).double().norm()) <= bound * (1 + 1e-5) + 1e-38


@every_piece
def test_the_cut_into_tensors_does_not_matter(piece: Piece) -> None:
    like = random(0)
    cut, whole = piece.init(CUT, like), piece.init(WHOLE, like)
    for seed in range(3):
        out_cut, cut = piece.update(random(seed), cut, Ctx())
        out_whole, whole = piece.update(random(seed), whole, Ctx())
        assert torch.equal(out_cut, out_whole)


@every_piece
def test_what_comes_out_has_the_narrowed_layouts_size(piece: Piece) -> None:
    out, _ = piece.update(random(0), piece.init(CUT, random(0)), Ctx())
    assert opened(piece, out).shape == (piece.narrow(CUT).size,)


@every_piece
def test_memory_is_of_the_dtype_of_the_deltas(piece: Piece) -> None:
    delta_N = random(0).double()
    out, _ = piece.update(delta_N, piece.init(WHOLE, delta_N), Ctx())
    assert out.dtype == (torch.uint8 if isinstance(piece, Pack) else torch.float64)


@every_piece
def test_what_is_kept_and_regained_are_shares(piece: Piece) -> None:
    assert 0 < piece.keeps() <= 1
    assert all(0 <= piece.regains(num) <= 1 for num in (1, 10, 1000))


@every_piece
def test_a_piece_is_frozen_data(piece: Piece) -> None:
    assert piece == copy.deepcopy(piece)
    assert hash(piece) == hash(copy.deepcopy(piece))
    for field in dataclasses.fields(piece):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(piece, field.name, None)


@pytest.mark.parametrize("sentence", SENTENCES, ids=repr)
def test_a_sentence_prints_as_it_is_written_and_reads_back(sentence: Strategy) -> None:
    assert parse(repr(sentence)) == sentence
    assert repr(parse(repr(sentence))) == repr(sentence)


@every_pack
def test_packing_keeps_length_and_stays_finite(pack: Pack) -> None:
    for scale in (1.0, 1e30, 1e-41, 0.0):
        delta_N = random(3, scale)
        out, _ = pack.update(delta_N, pack.init(WHOLE, delta_N), Ctx())
        opened_N = pack.decode(out, delta_N)
        assert opened_N.shape == delta_N.shape
        assert opened_N.isfinite().all()


@every_pack
@pytest.mark.parametrize("num", [1, 4, 5, 1024, 1025])
def test_bytes_are_exactly_those_announced(pack: Pack, num: int) -> None:
    delta_N, layout = torch.ones(num), Layout(("w",), ((num,),))
    out, _ = pack.update(delta_N, pack.init(layout, delta_N), Ctx())
    assert out.numel() * out.element_size() == pack.num_bytes(num)


@pytest.mark.parametrize(
    "pack", [pack for pack in PACKS if isinstance(pack, ErrorFeedback)], ids=repr
)
def test_packing_telescopes(pack: ErrorFeedback) -> None:
    produced_N, sent_N = torch.zeros(NUM), torch.zeros(NUM)
    residual: Memory = pack.init(WHOLE, produced_N)
    for seed in range(50):
        delta_N = random(seed)
        packed, residual = pack.update(delta_N, residual, Ctx())
        produced_N += delta_N
        sent_N += pack.decode(packed, delta_N)
    assert isinstance(residual, Tensor)
    torch.testing.assert_close(sent_N + residual, produced_N, rtol=1e-5, atol=1e-5)

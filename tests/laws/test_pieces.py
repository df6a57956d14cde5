"""Laws that every piece obeys: a new piece joins SENTENCES and inherits them.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor

from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import (
    E3M0,
    Bf16,
    ChunkTopK,
    Codec,
    ErrorFeedback,
    Fp16,
    Int4,
    Int8,
    Pack,
    PowerSGD,
    RandomK,
    Sign,
    Sketch,
    Stochastic,
    TopK,
)
from coterie.sync.exchanges import Reduce
from coterie.sync.gossip import GRAPHS, Gossip, Pairs
from coterie.sync.laws import CentredClip, Kin, Krum, Law, Mean, Median, MultiKrum, TrimmedMean
from coterie.sync.maps import Discount, Even, Prox
from coterie.sync.outer import DelayedNesterov, Outer, OuterAdam, OuterYogi
from coterie.sync.pieces import Clip, DyLU, Every, Memory, Only, Piece
from coterie.sync.privacy import Noise
from coterie.sync.reading import parse
from coterie.sync.recipes import WORDS
from coterie.sync.server import Push
from coterie.sync.teams import Islands, Pipeline
from coterie.types import Ctx, Layout

NUM = 10  # not a multiple of any block below
WHOLE = Layout(("trunk.all",), ((NUM,),))
CUT = Layout(("trunk.a", "trunk.b", "trunk.c"), ((2, 2), (5,), ()))
MATRIX = Layout(("trunk.a",), ((5, 2),))

CODECS: list[Codec | Sketch] = [
    Fp16(),
    Bf16(),
    Int8(),
    Int8(block=4),
    Int4(),
    Int4(block=4),
    E3M0(),
    E3M0(block=4),
    Sign(),
    Sign(block=4),
    Stochastic(),
    Stochastic(4, block=4),
    Stochastic(16),
    TopK(),
    TopK(0.5),
    ChunkTopK(),
    ChunkTopK(4, 2),
    RandomK(),
    RandomK(0.5),
    PowerSGD(1),
]
LAWS: list[Law] = [
    Mean(),
    Median(),
    TrimmedMean(2),
    Krum(),
    MultiKrum(1, keep=2),
    CentredClip(0.5),
    Kin(),
]
OUTERS: list[Piece] = [
    Outer(0.5, 0.9),
    Outer(0.7, 0.9, nesterov=True),
    OuterAdam(0.1),
    OuterYogi(0.1),
    DelayedNesterov(0.7, 0.9, every=2),
]
MEAN = Reduce(weighted=False, road="star")
SENTENCES = [
    chain(Reduce()),
    *(chain(codec, Reduce()) for codec in CODECS),
    *(chain(ErrorFeedback(codec), Reduce()) for codec in CODECS),
    *(chain(Reduce(law)) for law in LAWS),
    *(chain(Every(3), Gossip(graph), Outer(1.0)) for graph in GRAPHS),
    *(chain(Every(3), Reduce(), outer) for outer in OUTERS),
    chain(Clip(1.0), Reduce(weighted=False)),
    chain(Only("trunk.*"), Fp16(), Reduce()),
    chain(Clip(1.0), Noise(0.5), Reduce()),
    chain(Every(3), Clip(1.0), MEAN, Noise(0.5), Outer(1.0)),
    chain(Every(6, fragments=3, overlap=1, mix=0.25), Reduce(weighted="score"), Outer(1.0)),
    chain(DyLU(3), Prox(0.1), Even(), Reduce(road="star", quorum=2), Outer(1.0)),
    chain(Every(3), Pairs(0.25), Outer(1.0)),
    chain(DyLU(3), Push(max_staleness=4), Discount(0.25), DelayedNesterov(0.7)),
    chain(Every(3), Islands(2), Reduce(), Outer(1.0)),
    chain(Every(3), Islands((("a", "b"), ("c",))), Reduce(), Outer(1.0)),
    chain(Every(3), Pipeline(("1", "2"), micro_batches=2), Reduce(), Outer(1.0)),
]
PIECES = list(dict.fromkeys(piece for sentence in SENTENCES for piece in sentence.pieces))
PACKS = [piece for piece in PIECES if isinstance(piece, Pack)]
FEEDBACKS = [pack for pack in PACKS if isinstance(pack, ErrorFeedback)]
BOUNDED = [piece for piece in PIECES if piece.bound(1.0) is not None]
# Where matrices are shrunk, the memory is of their shapes: a cut is another task.
SHAPED = [piece for piece in PIECES if isinstance(getattr(piece, "codec", piece), PowerSGD)]
UNSHAPED = [piece for piece in PIECES if piece not in SHAPED]

every_piece = pytest.mark.parametrize("piece", PIECES, ids=repr)
every_pack = pytest.mark.parametrize("pack", PACKS, ids=repr)


def random(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(NUM, generator=torch.Generator().manual_seed(seed))


def moment(number: int = 1) -> Ctx:
    """A moment; what is drawn in it is the same each time."""
    generator = torch.Generator().manual_seed(number)
    return Ctx(number, generator, num_steps=2, mean_steps=3.0, num_members=4, staleness=5)


def fresh(piece: Piece, layout: Layout, like: Tensor) -> Memory:
    """Fresh memory, as a chain makes it: noise has to be told what it hides."""
    if isinstance(piece, Noise):
        return piece.remember(1.0, like, of_mean=False)
    return piece.init(layout, like)


def codec_of(piece: Piece) -> Piece:
    return piece.codec if isinstance(piece, ErrorFeedback) else piece


def opened(piece: Piece, out: Tensor, num: int = NUM) -> Tensor:
    codec = codec_of(piece)
    return codec.decode(out, torch.zeros(num), moment()) if isinstance(codec, Codec) else out


def same(left: Memory, right: Memory) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right is None


def test_every_word_of_the_language_is_under_the_laws() -> None:
    words = {*map(type, PIECES), *map(type, LAWS)}
    assert words == {word for word in WORDS.values() if isinstance(word, type)}
    assert {name for name, word in WORDS.items() if not isinstance(word, type)} == {"chain"}


@every_piece
def test_zero_delta_is_rest(piece: Piece) -> None:
    if isinstance(piece, Noise):
        return  # it hides even that nothing was learned
    zero_N = torch.zeros(NUM)
    out, _ = piece.update(zero_N, fresh(piece, WHOLE, zero_N), moment())
    assert torch.equal(opened(piece, out), zero_N)


def test_noise_hides_even_that_nothing_was_learned() -> None:
    zero_N = torch.zeros(NUM)
    out, _ = Noise(1.0).update(zero_N, fresh(Noise(1.0), WHOLE, zero_N), moment())
    assert (out != 0).all()


@every_piece
def test_memory_is_a_value(piece: Piece) -> None:
    _, memory = piece.update(random(0), fresh(piece, WHOLE, random(0)), moment())
    before, delta_N = copy.deepcopy(memory), random(1)
    first, after_first = piece.update(delta_N, memory, moment(2))
    second, after_second = piece.update(delta_N, memory, moment(2))
    assert torch.equal(first, second)
    assert same(after_first, after_second)
    assert same(memory, before)


@every_piece
def test_the_delta_is_not_written_to(piece: Piece) -> None:
    delta_N = random(1, scale=100.0)
    piece.update(delta_N, fresh(piece, WHOLE, delta_N), moment())
    assert torch.equal(delta_N, random(1, scale=100.0))


@pytest.mark.parametrize("piece", BOUNDED, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-3, 3e-8, 1e-41, 0.0])
def test_the_declared_bound_holds(piece: Piece, scale: float) -> None:
    for seed in range(20):
        delta_N = random(seed, scale)
        memory = fresh(piece, WHOLE, delta_N)
        out, _ = piece.update(delta_N, memory, moment())
        bound = piece.bound(float(delta_N.double().norm()))
        assert bound is not None
        assert float(opened(piece, out).double().norm()) <= bound * (1 + 1e-5) + 1e-38


@pytest.mark.parametrize("piece", UNSHAPED, ids=repr)
def test_the_cut_into_tensors_does_not_matter(piece: Piece) -> None:
    like = random(0)
    cut, whole = fresh(piece, CUT, like), fresh(piece, WHOLE, like)
    for seed in range(3):
        out_cut, cut = piece.update(random(seed), cut, moment(seed))
        out_whole, whole = piece.update(random(seed), whole, moment(seed))
        assert torch.equal(out_cut, out_whole)


@pytest.mark.parametrize("piece", SHAPED, ids=repr)
def test_the_cut_into_matrices_matters_to_some_alone(piece: Piece) -> None:
    assert not same(piece.init(MATRIX, random(0)), piece.init(CUT, random(0)))


@every_piece
def test_what_comes_out_has_the_narrowed_layouts_size(piece: Piece) -> None:
    out, _ = piece.update(random(0), fresh(piece, CUT, random(0)), moment())
    assert opened(piece, out).shape == (piece.narrow(CUT).size,)


@every_piece
def test_what_comes_out_is_packed_or_of_the_dtype_of_the_deltas(piece: Piece) -> None:
    delta_N = random(0).double()
    out, _ = piece.update(delta_N, fresh(piece, WHOLE, delta_N), moment())
    packs = isinstance(codec_of(piece), Codec)
    assert out.dtype == (torch.uint8 if packs else torch.float64)


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


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_a_law_is_frozen_data_too(law: Law) -> None:
    assert law == copy.deepcopy(law)
    assert hash(law) == hash(copy.deepcopy(law))
    with pytest.raises(dataclasses.FrozenInstanceError):
        law.trim = 3  # type: ignore[attr-defined]


CLOSED = [pack for pack in PACKS if isinstance(codec_of(pack), Codec)]


@pytest.mark.parametrize("pack", CLOSED, ids=repr)
def test_packing_keeps_length_and_stays_finite(pack: Pack) -> None:
    for scale in (1.0, 1e30, 1e-41, 0.0):
        delta_N = random(3, scale)
        out, _ = pack.update(delta_N, pack.init(WHOLE, delta_N), moment())
        opened_N = opened(pack, out)
        assert opened_N.shape == delta_N.shape
        assert opened_N.isfinite().all()


@pytest.mark.parametrize("pack", CLOSED, ids=repr)
@pytest.mark.parametrize("num", [0, 1, 4, 5, 1024, 1025, 4097])
def test_bytes_are_exactly_those_announced(pack: Pack, num: int) -> None:
    delta_N, layout = torch.ones(num), Layout(("w",), ((num,),))
    out, _ = pack.update(delta_N, pack.init(layout, delta_N), moment())
    assert out.dtype == torch.uint8
    assert out.numel() == pack.num_bytes(layout)


@every_pack
def test_packing_never_makes_more_of_a_large_model(pack: Pack) -> None:
    layout = Layout(("w",), ((1000, 1000),))
    assert 0 < pack.num_bytes(layout) <= 4 * layout.size


@pytest.mark.parametrize("pack", [p for p in FEEDBACKS if isinstance(p.codec, Codec)], ids=repr)
def test_packing_telescopes(pack: ErrorFeedback) -> None:
    produced_N, sent_N = torch.zeros(NUM), torch.zeros(NUM)
    memory: Memory = pack.init(WHOLE, produced_N)
    for seed in range(50):
        delta_N = random(seed)
        packed, memory = pack.update(delta_N, memory, moment(seed))
        produced_N += delta_N
        sent_N += opened(pack, packed)
    assert isinstance(memory, tuple)
    residual_N, _ = memory
    assert isinstance(residual_N, Tensor)
    torch.testing.assert_close(sent_N + residual_N, produced_N, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("pack", FEEDBACKS, ids=repr)
def test_feedback_bounds_nothing_for_a_residual_may_grow(pack: ErrorFeedback) -> None:
    assert pack.bound(1.0) is None


@pytest.mark.parametrize("codec", [c for c in CODECS if getattr(c, "divisible", False)], ids=repr)
@pytest.mark.parametrize("size", [1, 17, 40, 4100])
def test_a_part_of_a_packet_opens_to_the_very_same_values(codec: Codec, size: int) -> None:
    delta_N = torch.randn(size, generator=torch.Generator().manual_seed(size))
    packed = codec.encode(delta_N, moment())
    whole_N = codec.decode(packed, delta_N, moment())
    length = math.lcm(codec.block, 8) * max(1, size // 3 // math.lcm(codec.block, 8))
    for start in range(0, size, length):
        part = codec.part(packed, size, slice(start, start + length))
        assert part.numel() == codec.packet_bytes(length)
        found_P = codec.decode(part, torch.zeros(length), moment())
        expected_P = whole_N[start : start + length]
        assert torch.equal(found_P[: expected_P.numel()], expected_P)

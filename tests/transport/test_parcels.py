"""Files of state are the same again when their pieces have come, in whatever order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.transport.messages import State
from coterie.transport.parcels import PIECE_BYTES, Assembly, pieces


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, [0]),
        (1, [1]),
        (PIECE_BYTES, [PIECE_BYTES]),
        (2 * PIECE_BYTES + 1, [PIECE_BYTES, PIECE_BYTES, 1]),
    ],
)
def test_a_file_is_cut_into_pieces_of_a_mebibyte(size: int, sizes: list[int]) -> None:
    cut = list(pieces(3, "model", bytes(size)))
    assert [len(piece.blob) for piece in cut] == sizes
    assert [(p.index, p.total, p.ticket) for p in cut] == [
        (i, len(sizes), 3) for i in range(len(sizes))
    ]


@given(st.lists(st.integers(0, 2 * PIECE_BYTES) | st.sampled_from([0, PIECE_BYTES]), max_size=4))
def test_a_file_of_parts_is_cut_as_if_it_were_one(sizes: list[int]) -> None:
    parts = [memoryview(random.Random(i).randbytes(size)) for i, size in enumerate(sizes)]
    whole = b"".join(parts)
    assert list(pieces(3, "model", *parts)) == list(pieces(3, "model", whole))
    assert b"".join(piece.blob for piece in pieces(3, "model", *parts)) == whole


FILES = {"a": random.Random(0).randbytes(2 * PIECE_BYTES + 77), "b": b"", "c": b"short"}
PIECES = [piece for file, data in FILES.items() for piece in pieces(0, file, data)]


@given(st.permutations(PIECES))
def test_files_are_whole_in_whatever_order_their_pieces_come(order: list[State]) -> None:
    assembly = Assembly()
    for num, piece in enumerate(order, start=1):
        seen = {p.file: sum(q.file == p.file for q in order[:num]) for p in order[:num]}
        assembly.add(piece)
        assert {file for file, n in seen.items() if n == piece_count(file)} == set(assembly.files)
    assert assembly.files == FILES


def piece_count(file: str) -> int:
    return sum(piece.file == file for piece in PIECES)


def test_a_piece_that_comes_twice_counts_once() -> None:
    first, second, third = pieces(0, "a", FILES["a"])
    assembly = Assembly()
    for piece in (first, first, second, second):
        assembly.add(piece)
        assert assembly.files == {}
    assembly.add(third)
    assert assembly.files == {"a": FILES["a"]}


def test_pieces_of_files_of_one_name_are_never_mixed() -> None:
    long, short = list(pieces(0, "a", FILES["a"])), State(ticket=0, file="a", index=0, total=2)
    assembly = Assembly()
    for piece in (long[0], short, long[2]):
        assembly.add(piece)
        assert assembly.files == {}
    assembly.add(long[1])
    assert assembly.files == {"a": FILES["a"]}

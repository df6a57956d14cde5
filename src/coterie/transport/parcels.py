"""Files of state cut into messages, and put together again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from coterie.transport.messages import State

PIECE_BYTES = 1 << 16  # a slow link carries it between two beats


def pieces(ticket: int, file: str, *parts: bytes | memoryview) -> Iterator[State]:
    """A file of state, given in parts, as messages of at most 64 KiB: other words pass between.

    >>> [len(piece.blob) for piece in pieces(0, "model", b"head", bytes(PIECE_BYTES))]
    [65536, 4]
    """
    total = max(1, -(-sum(map(len, parts)) // PIECE_BYTES))
    left = deque(memoryview(part) for part in parts)
    for index in range(total):
        piece = bytearray()
        while left and len(piece) < PIECE_BYTES:
            part, room = left.popleft(), PIECE_BYTES - len(piece)
            piece += part[:room]
            if len(part) > room:
                left.appendleft(part[room:])
        blob = bytes(piece)
        yield State(ticket=ticket, file=file, index=index, total=total, blob=blob)


@dataclass
class Assembly:
    """Files of state put together again from their pieces, in whatever order they come.

    Pieces that disagree on how many there are belong to different files of one name.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    _parts: dict[tuple[str, int], dict[int, bytes]] = field(default_factory=dict)

    def add(self, piece: State) -> None:
        """Take a piece; a file appears in `files` once it is whole."""
        parts = self._parts.setdefault((piece.file, piece.total), {})
        parts[piece.index] = piece.blob
        if len(parts) == piece.total:
            self.files[piece.file] = b"".join(parts[i] for i in range(piece.total))
            del self._parts[piece.file, piece.total]

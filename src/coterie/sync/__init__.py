"""How members agree: sentences of small frozen pieces, read, checked and priced without torch."""

from __future__ import annotations

from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import Codec, ErrorFeedback, Fp16, Int8, Pack
from coterie.sync.exchanges import Exchange, Payload, Reduce
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Only, Piece
from coterie.sync.recipes import parse

__all__ = [
    "Clip",
    "Codec",
    "ErrorFeedback",
    "Every",
    "Exchange",
    "Fp16",
    "Int8",
    "Only",
    "Outer",
    "Pack",
    "Payload",
    "Piece",
    "Reduce",
    "Strategy",
    "chain",
    "parse",
]

"""How members agree: sentences of small frozen pieces, read, checked and priced without torch."""

from __future__ import annotations

from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import Codec, ErrorFeedback, Pack, Sketch
from coterie.sync.exchanges import Exchange, Reduce
from coterie.sync.laws import Law
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Only, Piece
from coterie.sync.reading import parse
from coterie.sync.recipes import RECIPES, WORDS
from coterie.sync.room import Payload

__all__ = [
    "RECIPES",
    "WORDS",
    "Clip",
    "Codec",
    "ErrorFeedback",
    "Every",
    "Exchange",
    "Law",
    "Only",
    "Outer",
    "Pack",
    "Payload",
    "Piece",
    "Reduce",
    "Sketch",
    "Strategy",
    "chain",
    "parse",
]

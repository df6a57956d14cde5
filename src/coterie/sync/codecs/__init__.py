"""Packing a delta into fewer bytes, and remembering what did not fit."""

from __future__ import annotations

from coterie.sync.codecs.base import Codec, ErrorFeedback, Pack, Sketch
from coterie.sync.codecs.dense import Bf16, Fp16, Int8, Stochastic
from coterie.sync.codecs.fourbit import E3M0, Int4
from coterie.sync.codecs.lowrank import PowerSGD
from coterie.sync.codecs.sign import Sign
from coterie.sync.codecs.sparse import ChunkTopK, RandomK, TopK

__all__ = [
    "E3M0",
    "Bf16",
    "ChunkTopK",
    "Codec",
    "ErrorFeedback",
    "Fp16",
    "Int4",
    "Int8",
    "Pack",
    "PowerSGD",
    "RandomK",
    "Sign",
    "Sketch",
    "Stochastic",
    "TopK",
]

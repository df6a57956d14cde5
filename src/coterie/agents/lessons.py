"""From the knowledge section of a job to what a learner teaches by and holds lessons to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from coterie.agents.board import topic_of
from coterie.errors import JobError, LessonError
from coterie.knowledge.board import Board, Heard
from coterie.knowledge.currency import Currency
from coterie.knowledge.distill import Hints, Labels, Pool
from coterie.knowledge.fusion import Fusion
from coterie.knowledge.gate import Gate, Open
from coterie.knowledge.lesson import Packing
from coterie.knowledge.prototypes import Prototypes
from coterie.knowledge.study import Rules
from coterie.sharing import Sharing
from coterie.sync.codecs import Bf16, Codec, Fp16, Int4, Int8, TopK
from coterie.tasks.references import instantiate
from coterie.tasks.samples import batches, dataset, inputs_of

PATTERNS = {"trunk": "trunk.*", "all": "*"}
TOP_PART = 0.1  # of the values of a lesson that topk sends
CODECS: Mapping[str, Callable[[], Codec]] = {
    "fp16": Fp16,
    "bf16": Bf16,
    "int8": Int8,
    "int4": Int4,
    "topk": lambda: TopK(TOP_PART),
}


def currencies_of(sharing: Sharing, root: str) -> list[Currency]:
    """What lessons are made of, in the order in which they are taken up.

    >>> [each.name for each in currencies_of(Sharing(currency=["prototypes", "parameters"]), ".")]
    ['prototypes', 'parameters']
    """
    pool = _pool(sharing, root) if sharing.pool is not None else None
    return [_currency(name, sharing, pool) for name in sharing.currencies]


def _currency(name: str, sharing: Sharing, pool: Pool | None) -> Currency:
    if name == "parameters":
        return Fusion(min(1.0, sharing.strength), part=PATTERNS[sharing.share])
    if name == "prototypes":
        return Prototypes(weight=sharing.strength)
    assert pool is not None
    return (Labels if name == "labels" else Hints)(pool, weight=sharing.strength)


def _pool(sharing: Sharing, root: str) -> Pool:
    assert sharing.pool is not None
    samples = dataset("pool", instantiate(sharing.pool, root))
    try:
        return Pool(torch.cat([inputs_of(data) for _, data in batches(samples)]))
    except LessonError as error:
        raise JobError(str(error)) from error


def rules_of(sharing: Sharing) -> Rules:
    """What lessons have to pass, and how they are packed.

    >>> rules_of(Sharing(codec="fp16")).packing.name
    'Fp16()'
    """
    packing = Packing.of(CODECS[sharing.codec]()) if sharing.codec else None
    return Rules(
        gate=Gate() if sharing.gate == "held-out" else Open(),
        packing=packing,
        packings=(packing,) if packing else (),
        max_lag_steps=sharing.every_steps,  # of one that goes on elsewhere, from a little before
    )


class Metered:
    """A board as one learner uses it: what it publishes is counted, what is outdated left out.

    >>> from coterie.knowledge import Evidence, Lesson, MemoryBoard
    >>> metered = Metered(MemoryBoard(), counts := {})
    >>> for num_steps in (1, 2):
    ...     lesson = Lesson("ann", "a", "labels", num_steps, {"p": torch.ones(1)}, Evidence(1))
    ...     metered.publish(lesson.to_bytes())
    >>> counts == {"labels": 2 * len(lesson.to_bytes())}, len(metered.since(0).lessons)
    (True, 1)
    """

    def __init__(self, board: Board, published_bytes: dict[str, int]) -> None:
        self._board, self._published = board, published_bytes

    def publish(self, data: bytes) -> None:
        """Show a lesson, and count it."""
        self._board.publish(data)
        _, currency = topic_of(data) or ("", "unknown")
        self._published[currency] = self._published.get(currency, 0) + len(data)

    def since(self, cursor: int) -> Heard:
        """What was published since a cursor, the newest alone of each teacher in each currency."""
        cursor, lessons = self._board.since(cursor)
        newest = {topic_of(data) or number: data for number, data in enumerate(lessons)}
        return Heard(cursor, tuple(newest.values()))

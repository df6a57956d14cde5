"""How separate learners teach one another, as the knowledge section of a job file says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from pydantic import field_validator as check
from pydantic import model_validator as check_whole

from coterie.errors import JobError
from coterie.names import Positive, Ref, Words
from coterie.specs import SeparateSpec

SOONEST_STEPS = 10  # between two lessons, where a job leaves that to whoever learns
CODECS = ("fp16", "bf16", "int8", "int4", "topk")

Currency = Literal["parameters", "prototypes", "labels", "hints"]


class Sharing(Words):
    """What lessons are made of, how often, among whom, and what they have to pass.

    >>> Sharing().currencies, Sharing(currency=["parameters", "prototypes"], every=5).every
    (('parameters',), 5)
    """

    currency: Currency | Annotated[list[Currency], Field(min_length=1)] = "parameters"
    """parameters where models are alike; prototypes, labels or hints where they are not."""
    every: Literal["auto"] | Annotated[int, Field(strict=True, ge=1)] = "auto"
    """Steps of a learner between two lessons that it gives; auto is ten, and more where lessons
    would else take more than a tenth of its time."""
    after: Annotated[int, Field(strict=True, ge=0)] = 0
    """Steps that it learns alone first."""
    groups: Literal["auto", "all", "none"] | list[list[str]] = "all"
    """Who teaches whom: all, none, lists of tasks, or auto, by whose models do well on whose
    samples."""
    gate: Literal["held-out", "open"] = "held-out"
    """Whether a lesson is kept only where it does no harm on held-out samples."""
    held_out: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.2
    """The part of each task's training samples that lessons are judged by, and nobody learns."""
    codec: Annotated[str, Field(pattern=rf"^({'|'.join(CODECS)})$")] | None = None
    """In which lessons are packed: fp16, bf16, int8, int4 or topk."""
    share: Literal["trunk", "all"] = "trunk"
    """Which parameters are shared: all but the last layer, or all."""
    strength: Positive = 1.0
    """How far to go: of the way to the mean of parameters, or what a loss beside one's own counts
    for."""
    max_age_s: Positive = 60.0
    """Seconds after which a lesson comes off the board."""
    pool: Ref | None = None
    """() -> Dataset that all have, unlabelled, which lessons in labels and hints are about."""
    board: str = ""
    """Where lessons meet; by default where the run does, or kafka://HOST:PORT/TOPIC."""

    @property
    def every_steps(self) -> int:
        """Steps between two lessons, at least."""
        return SOONEST_STEPS if self.every == "auto" else self.every

    @property
    def currencies(self) -> tuple[str, ...]:
        """What lessons are made of."""
        return tuple([self.currency] if isinstance(self.currency, str) else self.currency)

    def groups_of(self, pupils: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
        """Who teach one another at first, of learners given with their tasks; auto finds out.

        >>> Sharing(groups=[["greek", "latin"]]).groups_of({"greek": "greek", "latin-2": "latin"})
        (('greek', 'latin-2'),)
        """
        if isinstance(self.groups, str):
            return (tuple(pupils),) if self.groups == "all" else ()
        return tuple(tuple(n for n, task in pupils.items() if task in g) for g in self.groups)

    @check("board")
    @classmethod
    def _is_a_board(cls, board: str) -> str:
        if not board or re.fullmatch(r"kafka://[^/\s]+:\d+(,[^/\s]+:\d+)*/[A-Za-z0-9._-]+", board):
            return board
        raise JobError(
            f"expected kafka://HOST:PORT/TOPIC, found {board!r}; leave it out to have lessons "
            "travel as all else does"
        )

    @check_whole(mode="after")
    def _has_a_pool(self) -> Sharing:
        if self.pool is None and {"labels", "hints"} & set(self.currencies):
            raise JobError(
                "expected a pool beside labels and hints, found none; name a function that returns "
                "samples that all agents have, with or without answers"
            )
        return self


def check_apart(spec: SeparateSpec, sharing: Sharing | None, told: Sequence[str]) -> None:
    """Raises JobError for keys that mean nothing where tasks are apart, and for unknown tasks."""
    if told:
        raise JobError(
            f"expected nothing of {', '.join(told)} beside separate tasks, which never meet in "
            "rounds, found it; leave it out"
        )
    groups = sharing.groups if sharing is not None else "none"
    for name in (name for group in groups for name in group) if isinstance(groups, list) else ():
        if name not in spec.tasks:
            raise JobError(
                f"expected in knowledge.groups names of tasks ({', '.join(spec.tasks)}), found "
                f"{name!r}; name one of these"
            )

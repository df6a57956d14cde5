"""What agents that learn tasks of their own and their coordinator say to one another.

There are no terms and no rounds here: each agent is told what it holds, and tells what it did.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coterie.transport.messages import Wire

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


# -- agent to coordinator ------------------------------------------------------------------------


class Able(Wire):
    """What I can learn and how long a step of it takes here, what I cannot, and what I hold."""

    kind: Literal["able"] = "able"
    step_s: dict[str, Seconds]  # by task
    refused: dict[str, str] = Field(default_factory=dict)  # by task, in a sentence
    holds: dict[str, Count] = Field(default_factory=dict)  # steps, by learner


class Learned(Wire):
    """How far a learner is, and what it sent and read so far."""

    kind: Literal["learned"] = "learned"
    pupil: str
    num_steps: Count
    num_samples: Count
    data_epoch: Count
    position: Count  # samples of that epoch that are learned
    num_epochs: Seconds  # in parts
    loss: float
    step_s: Seconds
    metrics: dict[str, float] = Field(default_factory=dict)  # as scored last
    published_bytes: dict[str, Count] = Field(default_factory=dict)  # by currency
    heard_bytes: dict[str, Count] = Field(default_factory=dict)


class Judged(Wire):
    """What came of a lesson: the reason that it was refused for, or none, and what it gained."""

    kind: Literal["judged"] = "judged"
    pupil: str
    teacher: str
    currency: str
    num_bytes: Count
    num_steps: Count  # of the pupil
    reason: str = ""
    gain: float = 0.0  # of held-out utility, by all lessons of that moment
    gain_error: float = 0.0
    weight: Seconds = 0.0  # among them, 0 to 1


class Cut(Wire):
    """The board could not be reached: this learner goes on alone for now."""

    kind: Literal["cut"] = "cut"
    pupil: str
    num_steps: Count
    reason: str


class Kinship(Wire):
    """How much others' models know of what mine knows of my samples, with standard errors."""

    kind: Literal["kinship"] = "kinship"
    pupil: str
    num_steps: Count
    row: dict[str, tuple[float, float]]


class Kept(Wire):
    """The files of this learner's state were sent, as it stood after so many steps."""

    kind: Literal["kept"] = "kept"
    pupil: str
    num_steps: Count


class LaidDown(Wire):
    """I hold this learner no more; its state was sent before."""

    kind: Literal["laid-down"] = "laid-down"
    pupil: str
    num_steps: Count


class Broke(Wire):
    """A learner cannot go on, in one sentence; the others do."""

    kind: Literal["broke"] = "broke"
    pupil: str
    reason: str


# -- coordinator to agent ------------------------------------------------------------------------


class Duties(Wire):
    """All that you hold from now on, and whom each may hear.

    A learner that goes on from elsewhere has the steps of the state that was sent before this.
    """

    kind: Literal["duties"] = "duties"
    pupils: dict[str, Count]
    groups: tuple[tuple[str, ...], ...] = ()  # who teach one another; none: nobody does
    board: str = ""  # where it listens


FromPupils = Able | Learned | Judged | Cut | Kinship | Kept | LaidDown | Broke

"""What a person writes of machines, of the roads among them, and of what they are to do.

Bottom layer: plain words with their units, each checked by itself. `coterie.cluster` is the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic import field_validator as check
from pydantic import model_validator as check_whole

from coterie.errors import JobError
from coterie.world import DEFAULT_FAILURES_PER_S

MOST_MACHINES = 10_000

MOST = 1e15  # of anything: what is reckoned from it stays finite

Positive = Annotated[float, Field(strict=True, gt=0, le=MOST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, le=MOST, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Words(BaseModel):
    """Keys of a file: those that are known, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Road(Words):
    """How fast bytes travel, and how long the first of them takes.

    >>> Road(mbit_per_s=100, latency_ms=5).faster(10)
    Road(mbit_per_s=1000.0, latency_ms=0.5)
    """

    mbit_per_s: Positive
    latency_ms: NotNegative = 0.0

    def faster(self, factor: float) -> Road:
        """The same road with so many times the bandwidth, and as much less latency."""
        return Road(
            mbit_per_s=min(MOST, self.mbit_per_s * factor),
            latency_ms=round(self.latency_ms / factor, 9),
        )


class Between(Road):
    """The road between any machine called `a` and any called `b`, whatever else is said."""

    a: Name
    b: Name


class Links(Words):
    """Roads, the most particular first: `between` two kinds, `inside` a site, the `default`.

    The default goes over the uplinks of both machines, where they have any.
    """

    default: Road | None = None
    inside: Road | None = None
    between: list[Between] = Field(default_factory=list)


class Machine(Words):
    """One kind of machine, of which there are `count`.

    A step on b samples takes overhead_ms + per_sample_ms · b, as `coterie explain` prints of a run;
    or `speed` says how many times as fast as the measured step of the job it is. A machine that
    learns nothing needs neither.

    >>> Machine(name="pi", count=3, speed=0.1).names
    ('pi-1', 'pi-2', 'pi-3')
    """

    name: Name
    count: Annotated[int, Field(strict=True, ge=1, le=MOST_MACHINES)] = 1
    overhead_ms: NotNegative | None = None
    per_sample_ms: Positive | None = None
    speed: Positive | None = None
    memory_gb: Positive | None = None
    fails_every_h: Positive = 1 / DEFAULT_FAILURES_PER_S / 3600
    site: Name | None = None
    uplink: Road | None = None

    @check_whole(mode="after")
    def _says_how_fast_in_one_way(self) -> Machine:
        timed = self.overhead_ms is not None or self.per_sample_ms is not None
        if timed and self.speed is not None:
            raise JobError(
                f"expected of {self.name} either overhead_ms and per_sample_ms, or speed, "
                "found both; say it in one of the two ways"
            )
        if timed and self.per_sample_ms is None:
            raise JobError(
                f"expected of {self.name} per_sample_ms beside overhead_ms, found none; add it"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What each is called, in order: by the name alone where there is one."""
        if self.count == 1:
            return (self.name,)
        width = len(str(self.count))
        return tuple(f"{self.name}-{number:0{width}}" for number in range(1, self.count + 1))


class Known(Words):
    """What is known of the job, so that nothing has to be built or measured to plan it.

    The step is that of a machine whose `speed` is 1.
    """

    parameters: Positive | None = None  # 1.2e6 is a float in YAML
    samples: Annotated[int, Field(strict=True, ge=1)] | None = None
    overhead_ms: NotNegative | None = None
    per_sample_ms: Positive | None = None
    sample_mb: NotNegative = 0.0  # that one more sample of a step holds in memory

    @check("parameters")
    @classmethod
    def _is_whole(cls, parameters: float | None) -> float | None:
        if parameters is None or parameters == int(parameters):
            return parameters
        raise JobError(f"expected a whole number of parameters, found {parameters}; round it")


class Claimant(Known):
    """What is known of one of several jobs, and how much its progress counts."""

    priority: NotNegative = 1.0


class Requests(Words):
    """A stream of requests: who asks, how often, how long an answer takes, what has to travel.

    `seconds` are those of a machine whose speed is 1; or of each kind of machine that can answer,
    and of no other. Each machine called `asked_by` asks `per_s` requests a second.

    >>> Requests(asked_by="camera", per_s=0.5, seconds={"camera": 0.8, "edge": 0.05}).in_bytes
    0.0
    """

    asked_by: Name
    per_s: NotNegative
    seconds: Positive | Annotated[dict[Name, Positive], Field(min_length=1)]
    in_bytes: NotNegative = 0.0  # of a request, to where it is answered
    out_bytes: NotNegative = 0.0  # of its answer, back to who asked


@dataclass(frozen=True)
class Load:
    """What a step of the job asks of a machine of speed 1."""

    overhead_s: float
    per_sample_s: float
    bytes_per_sample: float = 0.0

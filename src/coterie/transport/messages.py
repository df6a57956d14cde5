"""What agents and the coordinator say to one another: typed, checked at the door, never pickled.

Orders between members carry the term they were given in, so that what a later term made void is
recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coterie.leases import Lease, Part, Span, cut_block

HUB = "hub"  # the name of the star road's server


class Wire(BaseModel):
    """A message that travels; unknown or mistyped fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


# -- agent to coordinator ------------------------------------------------------------------------


class Hello(Wire):
    """I am here: who I am, what machine I sit on, where my store of addresses listens."""

    kind: Literal["hello"] = "hello"
    name: str
    pid: int
    cores: float
    memory_bytes: int
    device: str
    store: str  # the server of the star road says here where it listens
    torch: str = ""  # its release, where one computes


class Ready(Wire):
    """The task is built: its parameters, the size of an epoch, what it scores."""

    kind: Literal["ready"] = "ready"
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    num_train: int
    needs_closure: bool
    shuffled: int = 0  # tells orders of samples apart
    batch: int | None = None  # samples of one step over all agents, where a loop of its own says so
    # tasks whose samples are numbered together, and how many samples: where there are several
    sources: tuple[tuple[tuple[str, ...], int], ...] = ()
    rates_fall: bool = False  # of the optimizer: what overshoots once does not come back


class Refused(Wire):
    """The job cannot be taken up here, in one sentence."""

    kind: Literal["refused"] = "refused"
    reason: str
    traceback: str = ""  # as of Failed


class Beat(Wire):
    """Still alive; said by both sides. An agent says how long it has computed on one thing."""

    kind: Literal["beat"] = "beat"
    computing_s: float = 0.0


class Probed(Wire):
    """How long single steps took, as (batch, seconds), and what they held in memory."""

    kind: Literal["probed"] = "probed"
    timings: tuple[tuple[int, float], ...]
    fixed_bytes: int
    bytes_per_sample: float
    chain: tuple[tuple[str, float, int, float, float], ...] = ()  # a world's layers, if it is one
    cores: float | None = None  # that were granted meanwhile: see Report
    warning: str = ""  # of what could not be measured as it should


class Linked(Wire):
    """Links as probed from here: (peer, latency in s, bytes per s)."""

    kind: Literal["linked"] = "linked"
    term: int
    links: tuple[tuple[str, float, float], ...]


class TornRound(Wire):
    """A meeting of this term broke off; I hold my contribution and wait for a new term."""

    kind: Literal["torn"] = "torn"
    term: int


class Settled(Wire):
    """The group of this term stands, and its last committed round is `round`.

    `stands` is the last round that earlier orders still ask for: some member holds a part of it.
    """

    kind: Literal["settled"] = "settled"
    term: int
    round: int
    stands: int = 0
    healed: bool
    seconds: float


class Report(Wire):
    """What I did in rounds first..last of a term, together with whom."""

    kind: Literal["report"] = "report"
    term: int
    first_round: int
    last_round: int
    cohort: tuple[str, ...]
    num_samples: int
    num_steps: int
    loss: float
    compute_s: float
    exchange_s: float
    gap_s: float = 0.0  # between the commits before and after a new term, if one fell in between
    # |own|², |agreed|², own·agreed of the last round, own samples, their part of all weight
    norms: tuple[float, float, float, float, float] | None = None
    # (samples, steps, seconds) of the last stretches of computing, each on its own
    stretches: tuple[tuple[int, int, float], ...] = ()
    cores: float | None = None  # of full clock that its machine grants me now, where that is known
    digest: int | None = None  # of what members agree on after the last round, where asked for
    restates: bool = False  # whether my own loop changes gradients after it has computed them


class Back(Wire):
    """I was here before: who I am, what I have built, where I stand and what I told of late.

    Said to a coordinator that does not know this agent, or has forgotten it.
    """

    kind: Literal["back"] = "back"
    hello: Hello
    ready: Ready
    term: int
    round: int
    reports: tuple[Report, ...]


class Declined(Wire):
    """What I computed for a round is not finite: I bring nothing, so many rounds in a row."""

    kind: Literal["declined"] = "declined"
    round: int
    reason: str
    in_a_row: int


class Offence(Wire):
    """What a member brought could not be counted; said by the server of the star road."""

    kind: Literal["offence"] = "offence"
    member: str
    reason: str


class Scores(Wire):
    """Held-out metrics of the agreed model after `round`."""

    kind: Literal["scores"] = "scores"
    round: int
    metrics: dict[str, float]
    seconds: float


class Failed(Wire):
    """The run cannot go on, in one sentence."""

    kind: Literal["failed"] = "failed"
    reason: str
    traceback: str = ""  # of a script, where it raised


class State(Wire):
    """A piece of a file of state: bytes `index` of `total` pieces. Travels both ways."""

    kind: Literal["state"] = "state"
    ticket: int  # the round it was asked at; -1 when a resumed run hands it out
    file: str
    index: int = Field(ge=0)
    total: int
    blob: bytes = Field(default=b"", exclude=True, repr=False)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> State:
        if self.index >= self.total:
            raise ValueError(f"expected a piece below {self.total}, found {self.index}")
        return self


class Saved(Wire):
    """My state is copied, and its pieces follow while I go on: for so long I stood still for it."""

    kind: Literal["saved"] = "saved"
    ticket: int
    pause_s: float


class Begun(Wire):
    """My own loop has begun this pass over the data: samples of it may be given out."""

    kind: Literal["begun"] = "begun"
    data_epoch: int


class Ended(Wire):
    """My own loop is over: it asks for no further pass, and takes no further batch."""

    kind: Literal["ended"] = "ended"


class Said(Wire):
    """What my own loop prints for whoever watches the run."""

    kind: Literal["said"] = "said"
    text: str


class Bye(Wire):
    """I stop now, on purpose; and why, if I was not told to."""

    kind: Literal["bye"] = "bye"
    reason: str = ""


# -- coordinator to agent ------------------------------------------------------------------------


class Welcome(Wire):
    """You are in: the job, and how many files of state follow, to resume from.

    `code` tells the user's files apart, by path; `source` is their text, where it is shipped.
    """

    kind: Literal["welcome"] = "welcome"
    job: dict[str, Any]
    num_files: int = 0
    code: dict[str, str] = {}
    source: dict[str, str] = {}


class Who(Wire):
    """I do not know you: hold what you have, and say who you are."""

    kind: Literal["who"] = "who"
    at_once: bool = True


class Probe(Wire):
    """Time single steps at these batch sizes, for about `seconds` each, on a scratch copy."""

    kind: Literal["probe"] = "probe"
    sizes: tuple[int, ...]
    seconds: float


class Term(Wire):
    """The membership from now on. `at_once` breaks off a meeting of the term before."""

    kind: Literal["term"] = "term"
    number: int
    members: tuple[str, ...]
    store: str  # where the first member's store of addresses listens
    spare_store: str = ""  # and the second member's, should the first one die
    hub: str = ""  # where the server of the star road listens, if members meet by it
    apart: bool = False  # whether members meet the server alone, and never one another
    names: tuple[str, ...] = ()  # of the parameters, for a server that builds no model
    shapes: tuple[tuple[int, ...], ...] = ()
    strategy: str = ""  # that the server serves
    alike: bool = False  # whether optimizers are to agree as well: each will step on one gradient
    given_out: int = 0  # the last round that was, whether or not this server has heard of it
    at_once: bool = False
    anew: bool = False  # whether what its receiver holds is void: others have learned it since


class Land(Wire):
    """Wait for a meeting that goes on while you walk, and tell."""

    kind: Literal["land"] = "land"
    term: int


class ProbeLinks(Wire):
    """Measure the road to every other member of this term, pair after pair."""

    kind: Literal["probe-links"] = "probe-links"
    term: int


class Block(Wire):
    """Rounds to do: which positions, in which shares, by which sentence."""

    kind: Literal["block"] = "block"
    term: int
    first_round: int
    data_epoch: int
    spans: tuple[Span, ...]
    shares: dict[str, int]
    every: int
    strategy: str
    batch: int | None = None  # of every member's steps, where they differ in number instead
    epoch_loss: float | None = None  # mean loss of the epoch before: what ReduceLROnPlateau reads
    trust: dict[str, float] = {}  # what a member's samples count for, where it is not 1
    digest: bool = False  # whether to tell where all stand after the last round
    tells: int = 0  # the round after which all tell what they did; 0: the last
    parts: tuple[Part, ...] = ()  # of the positions, and who owns them, where not all own all
    hands_out: bool = True  # whether plain gradients meet as they come, or each as a whole

    def rounds(self) -> Sequence[dict[str, Lease]]:
        """Each round's leases by member, in order."""
        return self._rounds

    @cached_property
    def _rounds(self) -> Sequence[dict[str, Lease]]:
        return cut_block(self.spans, self.shares, self.every, self.batch, self.parts)


class Evaluate(Wire):
    """Score the agreed model on held-out data."""

    kind: Literal["evaluate"] = "evaluate"
    term: int


class Turn(Wire):
    """All earlier passes over the data are learned: say whether your own loop begins this one."""

    kind: Literal["turn"] = "turn"
    term: int
    data_epoch: int
    epoch_loss: float | None = None


class Save(Wire):
    """Send your state, and the model's weights too if `whole`."""

    kind: Literal["save"] = "save"
    term: int
    ticket: int
    whole: bool


class Stop(Wire):
    """Leave; `at_once` breaks off a meeting.

    `again` is to come back as one that holds nothing: the run goes on from its checkpoint.
    """

    kind: Literal["stop"] = "stop"
    reason: str
    at_once: bool = False
    again: bool = False


FromAgent = Annotated[
    Hello | Ready | Refused | Beat | Probed | Linked | TornRound | Settled | Report | Scores
    | Declined | Offence | Failed | Saved | State | Back | Begun | Ended | Said | Bye,
    Field(discriminator="kind"),
]  # fmt: skip
FromCoordinator = Annotated[
    Welcome | Who | Probe | Term | ProbeLinks | Block | Land | Evaluate | Turn | Save | Stop | State
    | Beat,
    Field(discriminator="kind"),
]  # fmt: skip

"""What a member is: its learner, its place in the run, and what it holds for the next meeting.

Legend: N trainable parameters, K the part of them that a sentence shares.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from coterie.agents.learner import Learner
from coterie.agents.snapshot import Snapshot, state_file
from coterie.agents.state import copied, pack_state
from coterie.agents.stream import stream_of
from coterie.agents.tally import Contribution, Tally
from coterie.errors import TrainingError
from coterie.sync import fragments
from coterie.sync.chain import Strategy
from coterie.sync.reading import parse
from coterie.tasks.base import SourcedTask
from coterie.transport.messages import Back, Hello, Report, Term
from coterie.types import Layout

NUM_REMEMBERED = 64  # reports, for a coordinator that was not there to hear them


@dataclass(frozen=True)
class Outcome:
    """What a meeting came to, kept for a member that missed it."""

    round: int  # 0 where there was none
    agreed_K: Tensor | None
    weights: Mapping[str, float]  # of those who were heard
    beside_P: Tensor | None = None  # what members told of what they do not share


def _number_of(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "big")


@dataclass
class Member:
    """One agent's state, between one order and the next."""

    name: str
    learner: Learner
    round: int = 0  # the last one committed
    term: Term = field(default_factory=lambda: Term(number=0, members=(), store=""))
    strategy: Strategy | None = None
    memory: tuple[Any, ...] = ()
    anchor_N: Tensor | None = None  # where all agreed to be; None where gradients travel
    contribution: Contribution | None = None  # what it brings to the next meeting
    handle: Any = None  # of that meeting, if it goes on meanwhile
    walking: int = 0  # the round that it walks in, where a meeting may break off meanwhile
    outcome: Outcome = Outcome(0, None, {})
    cohort: tuple[str, ...] = ()  # who meets in the round under way
    stands: int = 0  # the last round that orders given in an earlier term still ask for
    server: str = ""  # that it has its anchor from, where one holds it
    version: int = -1  # of the server's anchor that it walks from
    heard: int = 0  # the number of that server's last answer
    answered: dict[str, Any] = field(default_factory=dict)  # what its anchor has in it, by member
    early_N: Tensor | None = None  # the sum of gradients, where it was made as they came
    early_s: float = 0.0  # that the sum took beyond computing
    busy_s: float = 0.0  # that it computed in the round under way
    stumbled: str = ""  # why its island took a step without it in the round under way
    num_declined: int = 0  # rounds in a row that it brought nothing finite to
    committed_at_s: float | None = None
    torn_at_s: float | None = None
    backlog: deque[Any] = field(default_factory=deque)
    tally: Tally = field(default_factory=Tally)
    hello: Hello | None = None  # as it was said to the coordinator first
    told: deque[Report] = field(default_factory=lambda: deque(maxlen=NUM_REMEMBERED))
    trust: Mapping[str, float] = field(default_factory=dict)  # see Block
    hands_out: bool = True  # gradients as they come, by what all were told: see Block
    check_round: int = 0  # after which all tell where they stand
    granted: Callable[[], float | None] = lambda: None  # cores, by whoever knows the machine
    tell_rounds: set[int] = field(default_factory=set)  # after which they tell what they did
    again: bool = False  # whether it was told to begin anew

    def __post_init__(self) -> None:
        task = self.learner.task
        self.stream = stream_of(task, self.learner.setup.seed)
        self.placed = task if isinstance(task, SourcedTask) and task.is_placed else None
        self.learner.draws.seed(self.learner.setup.seed, self.name)  # not as any other member

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat vector."""
        return self.learner.layout

    @property
    def sentence(self) -> Strategy:
        """How the members agree; there is one from the first block on."""
        assert self.strategy is not None
        return self.strategy

    @property
    def held(self) -> int:
        """The last round that this member holds a part of, or 0."""
        return max(self.contribution.round if self.contribution else 0, self.walking)

    def adopt_strategy(self, text: str) -> None:
        """Agree by this sentence from now on, from where all agreed to be."""
        if self.strategy is not None and repr(self.strategy) == text:
            return
        strategy = parse(text)
        if self.strategy is not None and self.strategy.waiting_for(1) == strategy.waiting_for(1):
            self.strategy = strategy  # what each round waits for is no matter of its memory
            return
        if self.anchor_N is not None:
            self.learner.place(self.anchor_N)
        self.strategy = strategy
        vector_N = self.learner.vector()
        self.memory = self.strategy.init(self.layout, vector_N)
        self.anchor_N = vector_N if self.strategy.walks else None

    def agreed_vector(self) -> Tensor:
        """The parameters all agreed on last."""
        return self.learner.vector() if self.anchor_N is None else self.anchor_N

    def digest(self) -> int:
        """Of what members agree on: private parameters differ, and are to stay so."""
        agreed_N = self.agreed_vector()
        if self.strategy is not None and not self.strategy.exchange.agrees:
            return 0  # members differ, and are to
        if self.strategy is not None and self.placed is None:  # else all hold all
            shared = self.strategy.narrowed(self.layout)
            agreed_N = fragments.take(agreed_N, self.layout, shared)
        return _number_of(agreed_N.numpy().tobytes())

    def whole_digest(self) -> int:
        """Of all that says what a step on a given gradient comes to: optimizer and schedule too."""
        private = {k: v for k, v in self.learner.private().items() if k != "draws"}
        return _number_of(pack_state([self.agreed_vector(), private]))

    def back(self) -> Back:
        """Who this member is and where it stands, for a coordinator that does not know it."""
        assert self.hello is not None
        return Back(
            hello=self.hello,
            ready=self.learner.ready(),
            term=self.term.number,
            round=self.round,
            reports=tuple(self.told),
        )

    def drop(self) -> None:
        """Let go of what is held for a meeting: it counts for nothing any more."""
        self.contribution, self.handle, self.walking = None, None, 0

    # -- state ------------------------------------------------------------------------------------

    def resume(self, files: Mapping[str, bytes]) -> None:
        """Start from a checkpoint: as this member was, or as a peer of one that was there."""
        take_over = self.adopt if state_file(self.name) in files else self.inherit
        take_over(Snapshot.from_files(files, self.name))

    def snapshot(self) -> Snapshot:
        """A copy of all that this member is, as of the last committed round."""
        here_N = self.learner.vector()
        agreed_N = here_N if self.anchor_N is None else self.anchor_N.clone()
        return Snapshot(
            round=self.round,
            strategy=repr(self.strategy) if self.strategy else "",
            memory=copied(self.memory),
            agreed_N=agreed_N,
            weights=self.learner.weights(agreed_N),
            private=copied(self.learner.private()),
            here_N=None if torch.equal(here_N, agreed_N) else here_N,
        )

    def adopt(self, snapshot: Snapshot) -> None:
        """Become what this member was when the snapshot was taken."""
        self.learner.restore(snapshot.weights, snapshot.private)
        self.learner.place(snapshot.agreed_N if snapshot.here_N is None else snapshot.here_N)
        self.round = snapshot.round
        self.strategy = parse(snapshot.strategy) if snapshot.strategy else None
        self.memory = tuple(snapshot.memory)
        walks = self.strategy is not None and self.strategy.walks
        self.anchor_N = snapshot.agreed_N if walks else None
        self.drop()

    def inherit(self, snapshot: Snapshot) -> None:
        """Become a peer of the member that the snapshot was taken of."""
        own = self.learner.draws.state()
        self.adopt(replace(snapshot, here_N=None))
        self.learner.draws.restore(own)
        self.told.clear()  # of rounds that others have learned anew since
        if self.strategy is not None:
            like_N = self.learner.vector()
            self.memory = self.strategy.inherit(self.memory, self.layout, like_N)

    def inherit_whole(self, data: bytes, digest: bytes, peer: str) -> None:
        """Become a peer of the member whose snapshot these bytes are, if they came whole."""
        if hashlib.sha256(data).digest() != digest:
            raise TrainingError(f"expected the state of {peer} whole, found it damaged on the way")
        self.inherit(Snapshot.from_bytes(data))


def as_tensor(data: bytes) -> Tensor:
    """Bytes as a vector to send."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)

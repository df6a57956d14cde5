"""An agent's process where tasks are learned apart: its classroom, and the road to the board."""

from __future__ import annotations

from coterie.agents.board import StarBoard, TopicBoard
from coterie.agents.classroom import Classroom
from coterie.agents.perform import Performer, drive
from coterie.config import Job
from coterie.knowledge.board import Board
from coterie.sharing import Sharing
from coterie.transport.control import ControlClient
from coterie.transport.kafka import KafkaTopic
from coterie.transport.messages import Hello
from coterie.transport.secure import JoinKey
from coterie.transport.star import StarTransport


class Line:
    """The road from this process to the board, wherever that is by now."""

    def __init__(
        self, sharing: Sharing | None, key: JoinKey, client: ControlClient, me: str
    ) -> None:
        self._key, self._client, self._me = key, client, me
        self._star: StarTransport | None = None
        sharing = sharing or Sharing(groups="none")
        self._stars = StarBoard(max_age_s=sharing.max_age_s)
        self._elsewhere = _elsewhere(sharing, me) if sharing.board else None

    @property
    def board(self) -> Board:
        """Where lessons meet."""
        return self._elsewhere or self._stars

    def dial(self, address: str) -> None:
        """Go to the board at an address: the one before has died, if there was one."""
        if self._elsewhere is None:
            self.close()
            self._star = StarTransport(address, self._key, self._me, self._client.inbox)
            self._stars.dial(self._star)

    def close(self) -> None:
        """Leave."""
        if self._star is not None:
            self._star.close()


def attend(job: Job, first: Hello, key: JoinKey, client: ControlClient, perform: Performer) -> str:
    """Learn until told to stop; why it ended."""
    line = Line(job.knowledge, key, client, first.name)
    try:
        room = Classroom(job, first, line.board, line.dial, device=first.device)
        return drive(room.live(), perform)
    finally:
        line.close()


def _elsewhere(sharing: Sharing, me: str) -> Board:
    return TopicBoard(KafkaTopic(sharing.board, me), sharing.max_age_s)

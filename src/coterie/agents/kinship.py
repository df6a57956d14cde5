"""How a learner finds out whose models do well on its samples: once, after learning alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.agents.pupil import TaskPupil
from coterie.errors import LessonError
from coterie.knowledge.affinity import cross_loss_row
from coterie.knowledge.board import Board
from coterie.knowledge.fusion import Fusion
from coterie.knowledge.lesson import Lesson
from coterie.transport.duties import Kinship

ALONE_STEPS = 30  # before models are worth comparing
PATIENCE_STEPS = 300  # that the models of slower ones are waited for, while it learns on
WHOLE = Fusion(part="*", name="kinship")  # a lesson in all parameters, which nobody takes up


@dataclass
class Enquiry:
    """One learner's question to all others: it shows its own model, and tries theirs.

    `others` are all who learn in the run; `due_steps` is when it begins, and it looks at the board
    every `every` steps.
    """

    others: frozenset[str]
    every: int
    due_steps: int = ALONE_STEPS
    cursor: int = 0  # on the board, up to which it has read
    is_over: bool = False
    _shown_steps: int | None = None
    _models: dict[str, Lesson] = field(default_factory=dict)

    def go_on(self, pupil: TaskPupil, board: Board) -> Kinship | None:
        """Show and look, where it is time to; what was found, once it was. A board may raise."""
        now = pupil.num_steps
        if self.is_over or now < self.due_steps or now % self.every:
            return None
        if self._shown_steps is None:
            board.publish(WHOLE.teach(pupil).to_bytes())
            self._shown_steps = now
        self.cursor, lessons = board.since(self.cursor)
        for data in lessons:
            self._look(data)
        if self.others - self._models.keys() and now < self._shown_steps + PATIENCE_STEPS:
            return None
        self.is_over = True
        row = cross_loss_row(pupil, self._models.values())
        self._models.clear()
        return Kinship(pupil=pupil.name, num_steps=now, row=row)

    def _look(self, data: bytes) -> None:
        try:
            lesson = Lesson.from_bytes(data)
        except LessonError:  # whoever takes lessons up will say so
            return
        if lesson.currency == WHOLE.name and lesson.teacher in self.others:
            self._models[lesson.teacher] = lesson

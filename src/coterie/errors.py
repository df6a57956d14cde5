"""The tree of errors: every one says what was expected, what was found and what to do."""


class CoterieError(Exception):
    """Anything Coterie refuses or cannot go on with; its text is meant for a person."""


class JobError(CoterieError, ValueError):
    """A job, a flag or a file of the user's is not what it must be."""


class StrategyError(JobError):
    """A sentence of pieces breaks the grammar or asks for what cannot be granted."""


class CheckpointError(CoterieError):
    """A checkpoint is damaged, of another model, or could not be written."""


class TrainingError(CoterieError):
    """The run cannot go on: the loss is not finite, or too few members are left."""


class NotFinite(TrainingError):
    """What a member computed is not finite: its round is dropped, and the others go on."""


class JoinError(CoterieError):
    """An agent could not be reached, was refused, or did not come in time."""


class Torn(CoterieError):
    """A meeting broke off because a member left it; the contribution is kept and retried."""


class LessonError(CoterieError):
    """A lesson cannot be read, does not fit its pupil, or would do harm; the pupil goes on."""

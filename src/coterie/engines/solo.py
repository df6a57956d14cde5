"""One device: the plain torch loop, with nothing in the way but the books of the run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.agents import checkpoint
from coterie.agents.checkpoint import Checkpoint
from coterie.agents.draws import repeatable
from coterie.agents.learner import Learner, Setup
from coterie.agents.snapshot import Snapshot
from coterie.agents.state import copied
from coterie.agents.stream import stream_of
from coterie.config import Job
from coterie.coordinator.run import Checkpoint as Point
from coterie.coordinator.survival import checkpoint_interval_s, failures_per_s
from coterie.engines.writer import Writer
from coterie.errors import CheckpointError, CoterieError
from coterie.leases import Lease, Span, count, take, unlearned
from coterie.watch.patience import PatientLog

NAME = "agent-0"
PROGRESS_S = 0.5
EVALUATION_PART = 0.03  # of the time, at most


@dataclass
class Solo:
    """A run on one device, in this process."""

    job: Job
    setup: Setup
    run: Path
    show: Callable[[dict[str, Any]], None]
    interrupted: bool = False
    loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.learner = Learner(self.setup)
        self.num_train = self.learner.task.num_train
        self.num_epochs = 0  # learned whole
        self.open: dict[int, tuple[Span, ...]] = {}  # of epochs begun: positions not yet learned
        self._stream = stream_of(self.learner.task, self.job.seed)
        self._log = PatientLog(self.run / "events.jsonl")
        self._writer = Writer(self.run, self.job.keep_checkpoints)
        self._saved, self._unsaved = self.run, ""
        self._num_samples = 0
        self._part = 0.0  # of the epoch under way
        self._score_s = self.save_cost_s = 0.0
        self.began_s = self._saved_s = self._told_s = self._scored_s = time.monotonic()

    def restore(self, point: Checkpoint, passed_over: str = "") -> None:
        """Go on from a checkpoint, of one or of more devices; why not from a newer one."""
        checkpoint.check_layout(self.learner.layout, point.meta)
        snapshot = Snapshot.from_files(point.files, NAME)
        self.learner.restore(snapshot.weights, snapshot.private)
        self.num_epochs, self.open = unlearned(point.meta, self.num_train)
        self._part = self._begun()
        if passed_over:
            self._tell("warning", text=passed_over)

    def train(self) -> dict[str, Any]:
        """Learn until `until`; the summary. Raises TrainingError where it cannot go on."""
        self._announce()
        with self._interruptible(), repeatable(self.job.deterministic):
            while not self._reached(self.metrics):
                self._epoch()
        if not self.interrupted:
            self._evaluate()
        self._save()
        saved = self._tell_written()
        if self._unsaved:
            raise CheckpointError(self._unsaved)
        return self._summarise(saved)

    def _epoch(self) -> None:
        learner = self.learner
        data_epoch = min(self.open, default=self.num_epochs)
        spans = self.open.setdefault(data_epoch, ((0, self.num_train),))
        learner.end_epoch(data_epoch, None)
        begun, loss_sum, num_done = self._begun(), 0.0, 0
        for batch in self._stream.batches(data_epoch, Lease(spans, self.job.batch)):
            self.loss = learner.step(batch)
            num_done += len(batch)
            loss_sum += self.loss * len(batch)
            self._num_samples += len(batch)
            self._part = begun + num_done / self.num_train
            self._between_steps(data_epoch, spans, num_done)
            if self._reached({}):
                break
        self.open[data_epoch] = take(spans, num_done)[1]
        if not self.open[data_epoch]:
            del self.open[data_epoch]
            self.num_epochs, self._part = self.num_epochs + 1, self._begun()
            epoch_loss = loss_sum / max(1, num_done)
            learner.end_epoch(data_epoch + 1, epoch_loss)
            self._tell("epoch", data_epoch=data_epoch, loss=epoch_loss)
            if time.monotonic() - self._scored_s >= self._score_s / EVALUATION_PART:
                self._evaluate()

    def _begun(self) -> float:
        """Epochs learned in part, by their parts."""
        return sum(1 - count(spans) / self.num_train for spans in self.open.values())

    def _between_steps(self, data_epoch: int, spans: Sequence[Span], num_done: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            self._tell("progress", **self._progress(now_s))
        if now_s - self._saved_s >= self.save_every_s(now_s) and not self._writer.busy:
            self._tell_written()
            self.open[data_epoch] = take(spans, num_done)[1]
            self._save()

    def save_every_s(self, now_s: float) -> float:
        """Seconds between checkpoints, by what the last one cost."""
        if self.job.checkpoint_every_s != "auto":
            return self.job.checkpoint_every_s
        rate_per_s = failures_per_s(0, now_s - self.began_s)
        return checkpoint_interval_s(self.save_cost_s, 1, rate_per_s)

    def _limits(self) -> dict[str, float]:
        epochs = self.num_epochs + self._part
        minutes = (time.monotonic() - self.began_s) / 60
        return {"epochs": epochs, "steps": float(self.learner.num_steps), "minutes": minutes}

    def _reached(self, metrics: dict[str, float]) -> str:
        if self.interrupted:
            return "interrupted"
        done = {**self._limits(), **metrics}
        for key, limit in self.job.until.items():
            if done.get(key, 0.0) >= limit:
                return f"{key} {done[key]:.4g} reached {limit:g}"
        return ""

    def _evaluate(self) -> None:
        began_s = time.monotonic()
        self.metrics = self.learner.score()
        self._scored_s = time.monotonic()
        self._score_s = self._scored_s - began_s
        num_steps = self.learner.num_steps
        figures = {"metrics": self.metrics, "seconds": self._score_s}
        self._tell("scores", round=num_steps, member=NAME, **figures)

    def _save(self) -> None:
        """Copy what the learner is, and have it written while it goes on."""
        learner, began_s = self.learner, time.monotonic()
        here_N = learner.vector()
        snapshot = Snapshot(
            round=learner.num_steps,
            strategy="",
            memory=(),
            agreed_N=here_N,
            weights=learner.weights(here_N),
            private=copied(learner.private()),
        )
        meta: dict[str, Any] = {
            "round": learner.num_steps,
            "num_steps": learner.num_steps,
            "num_epochs": self.num_epochs + sum(not spans for spans in self.open.values()),
            "num_train": self.num_train,
            "free": {str(epoch): spans for epoch, spans in self.open.items() if spans},
            "layout": checkpoint.describe_layout(learner.layout),
            "metrics": self.metrics,
            "job": self.job.model_dump(by_alias=True, mode="json"),
        }
        files = snapshot.files(NAME)
        self._saved_s = time.monotonic()
        self.save_cost_s = pause_s = self._saved_s - began_s  # nothing is learned meanwhile
        self._writer.add(Point(learner.num_steps, files, meta, pause_s))

    def _tell_written(self) -> Path:
        """Wait for what is being written, and say what became of it; where the last one lies."""
        for done in self._writer.written(wait=True):
            self._unsaved = done.error  # on the way that does not end the run
            if done.error:
                self._tell("warning", text=done.error)
            else:
                self._tell("checkpoint", **done.event())
                self._saved = done.path
        return self._saved

    # -- what is told -----------------------------------------------------------------------------

    def _tell(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = self._log.write(kind, **fields)
        self.show(event)
        return event

    def _announce(self) -> None:
        self.began_s = self._saved_s = self._told_s = self._scored_s = time.monotonic()
        self._tell(
            "run",
            name=self.run.name,
            folder=str(self.run),
            agents=1,
            batch=self.job.batch,
            num_train=self.num_train,
            strategy="plain torch loop",
            until=self.job.until,
        )
        self._tell("agent", member=NAME, state="ready")
        reason = "One device needs no agreement: its own optimizer steps on its own gradients."
        chosen = {"strategy": "plain torch loop", "shares": {NAME: self.job.batch}}
        self._tell("decision", number=1, cause="one agent", chosen=chosen, reasons=[reason])

    def _progress(self, now_s: float) -> dict[str, Any]:
        elapsed_s = now_s - self.began_s
        done, until = self._limits(), self.job.until
        fraction = min(1.0, max((done[k] / v for k, v in until.items() if k in done), default=0.0))
        return {
            "round": self.learner.num_steps,
            "steps": self.learner.num_steps,
            "data_epoch": self.num_epochs,
            "loss": self.loss,
            "samples": self._num_samples,
            "per_s": self._num_samples / elapsed_s if elapsed_s else 0.0,
            "elapsed_s": elapsed_s,
            "eta_s": elapsed_s * (1 / fraction - 1) if fraction > 0.02 else None,
            "fraction": fraction,
            "metrics": self.metrics,
        }

    def _summarise(self, saved: Path) -> dict[str, Any]:
        seconds = time.monotonic() - self.began_s
        self._tell("progress", **self._progress(time.monotonic()))
        figures = {
            "accuracy": self.metrics.get("accuracy"),
            "metrics": self.metrics,
            "agents": 1,
            "shares": {NAME: self.job.batch},
            "strategy": "plain torch loop",
            "per_s": self._num_samples / seconds,
            "steps": self.learner.num_steps,
            "epochs": self.num_epochs,
            "seconds": seconds,
            "checkpoint": str(saved),
            "folder": str(self.run),
        }
        told = self._tell("summary", **figures)
        reason = self._reached(self.metrics)
        self._tell("stopped", reason=reason, ok=not self.interrupted, resumable=True)
        if untold := self._log.flush():
            raise CoterieError(f"{len(self._log.held()):,} {untold}")
        return told

    def fail(self, reason: str) -> str:
        """The run cannot go on; the reason, and what was saved before and is kept."""
        self._tell_written()
        saved = checkpoint.good_checkpoints(self.run)
        kept = f"; the last good checkpoint is {saved[0]}" if saved else ""
        self._tell("error", text=reason + kept)
        self._tell("stopped", reason=reason, ok=False, resumable=bool(saved))
        return reason + kept

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM end the run at the next step, a second one at once.

        Only the main thread can listen for them.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _interrupt(self, *_: object) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

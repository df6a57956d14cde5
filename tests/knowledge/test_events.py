"""What became of lessons, as a log writes it."""

from __future__ import annotations

from pathlib import Path

from coterie.knowledge.events import BoardFailed, LessonRefused, LessonTaken
from coterie.watch.events import EventLog


def test_a_log_writes_each_as_it_is(tmp_path: Path) -> None:
    events = [
        LessonTaken("bob", 3, "ann", "labels", 10, 0.5, 0.1, 1.0),
        LessonRefused("bob", 3, "eve", "labels", 10, "it is not finite"),
        BoardFailed("bob", 3, "the line is down"),
    ]
    with EventLog(tmp_path / "events.jsonl", clock=lambda: 0.0) as log:
        for event in events:
            written = log.write(event.kind, **event.fields())
            assert written["kind"] == event.kind
            assert written["pupil"] == "bob"
            assert "\n" not in event.line()

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coterie.watch.board import Board, LiveBoard, Work, drawn, seen

SENTENCE = "chain(Every(4), Reduce(), Outer(1.0))"
LIFE: list[dict[str, Any]] = [
    {"kind": "run", "name": "digits", "agents": 2, "batch": 64, "until": {"steps": 100}},
    {"kind": "agent", "member": "desk", "state": "ready"},
    {"kind": "agent", "member": "pi", "state": "ready"},
    {"kind": "layout", "names": ["w", "b"], "shapes": [[10, 20], [50]]},
    {"kind": "decision", "chosen": {"strategy": SENTENCE, "shares": {"desk": 48, "pi": 16}}},
    {"kind": "work", "member": "desk", "num_samples": 192, "compute_s": 0.3, "exchange_s": 0.1},
    {"kind": "work", "member": "pi", "num_samples": 64, "compute_s": 0.4, "exchange_s": 0.0},
    {"kind": "progress", "round": 1, "steps": 4, "loss": 0.5},
    {"kind": "agent", "member": "pi", "state": "suspected"},
    {"kind": "pause", "member": "desk", "seconds": 1.5},
    {"kind": "progress", "round": 7, "steps": 28, "loss": 0.25},
]
END = {"kind": "stopped", "reason": "steps reached"}


def stamped(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"seq": seq, "time_s": float(seq), **event} for seq, event in enumerate(events)]


def board_of(*events: dict[str, Any]) -> Board:
    board = Board()
    for event in stamped(*events):
        board = board.after(event)
    return board


def test_how_each_agent_works_of_late() -> None:
    board = board_of(*LIFE)
    assert board.works["desk"] == Work(192, 0.3, 0.1, paused_s=1.5)
    assert (board.works["desk"].per_s, board.works["desk"].waiting) == pytest.approx((480, 0.25))
    assert (board.works["pi"].waiting, board.works["pi"].num_lost) == (0.0, 1)
    assert board.rounds_per_s == 6 / 3  # three seconds from the first progress to the last
    assert board.message_bytes == 4 * 250


def test_the_newest_work_counts_most() -> None:
    slow, fast = (
        {"num_samples": 10, "compute_s": seconds, "exchange_s": 0.0} for seconds in (1.0, 0.1)
    )
    work = Work().after(slow)
    for _ in range(60):
        work = work.after(fast)
    assert work.per_s == pytest.approx(100, rel=0.02)


def test_a_run_is_over_until_somebody_takes_it_up() -> None:
    assert not board_of(*LIFE).is_over
    assert board_of(*LIFE, END).is_over
    assert not board_of(*LIFE, END, {"kind": "coordinator", "state": "returned"}).is_over
    resumed = board_of(*LIFE, END, LIFE[0])
    assert (resumed.is_over, resumed.works, resumed.rounds_per_s) == (False, {}, None)


def test_a_frame_and_its_figures_say_the_same() -> None:
    board = board_of(*LIFE)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(drawn(board, 80))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        SENTENCE,
        "7 rounds   2 rounds/s   0.001 MB",
        "480",
        "25 %",
        "1.5 s",
        "loss 0.25",
    ):
        assert words in text
    told = json.loads(json.dumps(board.as_dict()))
    assert (told["rounds_per_s"], told["loss"], told["strategy"]) == (2.0, 0.25, SENTENCE)
    assert told["agents"]["desk"]["waiting"] == pytest.approx(0.25)
    assert [told["agents"][name]["lost"] for name in ("desk", "pi")] == [0, 1]


@pytest.mark.parametrize("kind", sorted({event["kind"] for event in LIFE} | {"of tomorrow"}))
def test_missing_fields_leave_blanks(kind: str) -> None:
    board = board_of({"kind": kind}, {"kind": "decision", "chosen": {"strategy": "of tomorrow"}})
    Console(file=io.StringIO()).print(drawn(board, 80))
    assert board.message_bytes is None


def test_a_live_board_ends_with_its_run_and_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in stamped(*LIFE, END)))
    before = path.read_bytes()
    file = io.StringIO()
    LiveBoard(path).watch(Console(file=file, force_terminal=True, width=80, color_system=None))
    assert "steps reached" in file.getvalue()
    assert seen(path) == board_of(*LIFE, END)
    assert path.read_bytes() == before

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from coterie.watch.progress import (
    NUM_DEVICES,
    NUM_HAPPENINGS,
    LiveScreen,
    Picture,
    PlainScreen,
    choose_screen,
    frame,
    goals,
    speed,
    summary_rows,
    why,
)

Event = dict[str, Any]

SENTENCE = "chain(Every(20), Reduce(), Outer(1.0))"
RUN = {"kind": "run", "name": "digits", "batch": 100, "num_train": 1000}
UNTIL = {"accuracy": 0.9, "epochs": 4}


def agent(member: str, state: str) -> Event:
    return {"kind": "agent", "member": member, "state": state}


def decision(shares: dict[str, int], **fields: Any) -> Event:
    device = {"overhead_s": 0.01, "per_sample_s": 0.001, "max_batch": 50}
    world = {"batch": 100, "devices": [{"name": name, **device} for name in shares]}
    chosen = {"strategy": SENTENCE, "shares": shares, "round_s": 0.5, "throughput_per_s": 4000}
    return {"kind": "decision", "chosen": chosen, "world": world, **fields}


LIFE: list[Event] = [
    {**RUN, "agents": ["desk", "pi"], "until": UNTIL},
    agent("desk", "ready"),
    agent("pi", "ready"),
    {"kind": "measured", "member": "desk", "solo_per_s": 4210.0},
    decision({"desk": 80, "pi": 20}, cause="the run begins", reasons=["pi is on a slow link"]),
    {"kind": "outcome", "decision": 1, "predicted_round_s": 0.5, "achieved_round_s": 0.6},
    {"kind": "fault", "member": "pi", "action": "kill"},
    agent("pi", "lost"),
    {"kind": "progress", "samples": 2000, "loss": 0.25, "per_s": 900.0, "ideal_per_s": 1000.0},
    {"kind": "scores", "metrics": {"accuracy": 0.81, "recall": 0.7}},
    {"kind": "checkpoint", "step": 40, "num_bytes": 1_000_000, "seconds": 0.1},
    {"kind": "stopped", "reason": "accuracy reached 0.9", "ok": True},
    {"kind": "summary", "accuracy": 0.91, "samples_lost": 0, "folder": "runs/digits"},
]


def stamped(events: list[Event]) -> list[Event]:
    return [{"seq": k, "time_s": 1000.0 + k, **event} for k, event in enumerate(events)]


def pictured(*events: Event) -> Picture:
    picture = Picture()
    for event in stamped(list(events)):
        picture = picture.after(event)
    return picture


def drawn(picture: Picture, width: int = 80) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(frame(picture, width))
    return console.export_text()


def printed(*events: Event) -> list[str]:
    file = io.StringIO()
    screen = PlainScreen(file)
    for event in events:
        screen.show(event)
    screen.close()
    return file.getvalue().splitlines()


def test_a_picture_is_a_value() -> None:
    before = pictured(*LIFE[:4])
    seen = drawn(before)
    after = before.after(stamped(LIFE)[4])
    assert drawn(before) == seen
    assert after == pictured(*LIFE[:5]) != before


def test_a_new_run_begins_a_new_picture() -> None:
    assert pictured(*LIFE).after({**RUN, "time_s": 9.0}) == Picture().after({**RUN, "time_s": 9.0})


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([agent("pi", "joined")], "joined"),
        ([agent("pi", "ready"), decision({"pi": 20})], "learning"),
        ([agent("pi", "ready"), decision({"desk": 100})], "left out"),
        ([agent("pi", "started"), decision({"desk": 100})], "started"),
        ([agent("pi", "ready"), decision({"pi": 20}), agent("pi", "lost")], "lost"),
        ([agent("pi", "lost"), decision({"desk": 100})], "lost"),
        ([agent("pi", "lost"), decision({"desk": 100}), agent("pi", "rejoined")], "rejoined"),
        ([decision({"pi": 20}), agent("pi", "rejoined")], "learning"),
    ],
)
def test_what_a_device_does_in_a_word(events: list[Event], word: str) -> None:
    assert pictured(*events).members["pi"].word == word


def test_a_decision_brings_the_speeds_that_it_believes_in() -> None:
    pi = pictured(agent("pi", "ready"), decision({"pi": 20})).members["pi"]
    assert pi.solo_per_s == pytest.approx(50 / 0.06)  # no more than fits at once
    assert pi.step_s(20) == pytest.approx(0.03)


def test_devices_keep_their_rows() -> None:
    members = pictured(agent("b", "ready"), agent("a", "ready"), decision({"a": 1, "b": 1})).members
    assert list(members) == ["b", "a"]


def test_goals_are_measured_by_what_they_count() -> None:
    run = {**RUN, "until": {"epochs": 4, "steps": 10, "minutes": 2, "accuracy": 0.9, "recall": 1}}
    progress = {"kind": "progress", "samples": 1000, "steps": 20, "elapsed_s": 60}
    reached = goals(pictured(run, progress, {"kind": "scores", "metrics": {"accuracy": 0.45}}))
    assert [part for _, part in reached] == [0.25, 1.0, 0.5, 0.5, 0.0]
    assert reached[0][0] == "epochs 1 of 4"
    assert reached[-1][0] == "recall – of 1"


def test_epochs_are_counted_even_where_samples_are_not_told() -> None:
    picture = pictured({**RUN, "until": UNTIL}, {"kind": "progress", "data_epoch": 3})
    assert goals(picture)[1] == ("epochs 3 of 4", 0.75)


def test_speed_says_only_what_is_known() -> None:
    assert speed(pictured({"kind": "progress", "per_s": 5.0, "equal_per_s": 0})) == ["5 samples/s"]


def test_a_reason_that_repeats_the_choice_is_left_out() -> None:
    reasons = [f"{SENTENCE} takes 500 ms a round", "pi is on a slow link"]
    words = why(decision({"pi": 1}, reasons=reasons))
    assert words[0].startswith("4,000 samples/s predicted, 500 ms a round")
    assert words[1:] == ["pi is on a slow link"]


def test_the_summary_names_what_it_was_told_and_no_more() -> None:
    assert summary_rows({}) == []
    rows = dict(summary_rows({"samples_lost": 0, "samples_repeated": 0, "vs_equal": 1.5}))
    assert rows == {"speed": "1.50× equal shares", "failures": "0 samples lost, 0 repeated"}


@pytest.mark.parametrize("width", [80, 120])
def test_the_frame_shows_a_whole_life_within_its_width(width: int) -> None:
    text = drawn(pictured(*LIFE), width)
    assert max(map(len, text.splitlines())) <= width
    for words in ("4,000 samples/s predicted", "pi is on a slow link", SENTENCE, "kill pi", "lost"):
        assert words in text
    for words in ("loss 0.25", "accuracy 0.91", "recall 0.7", "90 % of ideal", "runs/digits"):
        assert words in text


def test_only_the_last_happenings_and_the_first_devices_are_drawn() -> None:
    many = [agent(f"d{k:02}", "ready") for k in range(NUM_DEVICES + 3)]
    faults = [{"kind": "fault", "action": f"cut-{k}"} for k in range(NUM_HAPPENINGS + 1)]
    text = drawn(pictured(*many, *faults))
    assert "and 3 more" in text
    assert f"d{NUM_DEVICES:02}" not in text
    assert "cut-0" not in text
    assert f"cut-{NUM_HAPPENINGS}" in text


def test_names_from_other_machines_cannot_steer_the_terminal() -> None:
    name = "[bold]p\x1b[2Ji"
    text = drawn(pictured(agent(name, "lost"), decision({name: 1})))
    assert "[bold]p [2Ji" in text
    assert "\x1b[2J" not in "\n".join(printed(*stamped([agent(name, "lost")])))


@pytest.mark.parametrize("kind", sorted({event["kind"] for event in LIFE} | {"of tomorrow"}))
def test_missing_fields_leave_blanks(kind: str) -> None:
    assert drawn(pictured({"kind": kind}))
    printed({"kind": kind})


def test_plain_lines_are_clocked_from_the_run_and_labelled() -> None:
    lines = printed(*stamped(LIFE))
    assert (
        lines[0]
        == "    0.0 s  run         digits, 2 agents, batch 100, until accuracy 0.9 or epochs 4"
    )
    assert "    7.0 s  lost        pi" in lines
    assert f"    4.0 s  strategy    {SENTENCE}" in lines
    assert not any("\x1b" in line for line in lines)


def test_plain_progress_comes_at_most_every_two_seconds_of_the_events() -> None:
    times_s = [0.0, 1.9, 2.0, 3.0, 3.9, 5.0]
    lines = printed(*({"kind": "progress", "time_s": t, "steps": 1} for t in times_s))
    assert [line.split()[0] for line in lines] == ["0.0", "2.0", "5.0"]


def test_the_live_screen_leaves_the_last_picture_standing() -> None:
    file = io.StringIO()
    screen = LiveScreen(Console(file=file, force_terminal=True, width=80, color_system=None))
    for event in stamped(LIFE):
        screen.show(event)
    screen.close()
    screen.close()  # closing twice is closing once
    assert "runs/digits" in file.getvalue().rpartition("digits, 2 agents")[2]


def test_a_pipe_gets_lines_and_a_terminal_gets_pictures() -> None:
    assert isinstance(choose_screen(Console(file=io.StringIO())), PlainScreen)
    terminal = Console(file=io.StringIO(), force_terminal=True, force_interactive=True)
    screen = choose_screen(terminal)
    screen.close()
    assert isinstance(screen, LiveScreen)


def test_a_run_that_stopped_has_no_time_left() -> None:
    running = pictured({"kind": "progress", "per_s": 5.0, "eta_s": 12.0})
    assert speed(running)[-1] == "12.0 s left"
    assert "12.0 s left" not in speed(running.after({"kind": "stopped", "reason": "killed"}))

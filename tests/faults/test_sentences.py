"""Whichever way members agree, any of them may be killed: nothing is lost, and it comes back."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.processes

NAMES = ("agent-0", "agent-1", "agent-2", "agent-3")
JOB: dict[str, Any] = {
    # So slow a disk that on any machine everybody is worth having: a plan leaves nobody out.
    "task": {
        "model": "shop:net",
        "train": {"call": "shop:from_disk", "with": {"ms_per_sample": 1.5}},
        "test": "shop:samples",
    },
    "agents": {"local": 4, "speeds": [1.0, 1.0, 1.0, 1.0]},
    "until": {"minutes": 5},
    "checkpoint_every_s": 0.5,
}
SENTENCES = [
    "streaming-diloco(8, 4, 1)",
    "parameter-server(2)",
    "asynchronous(2)",
]


def learns(name: str, after: int) -> Any:
    """Whether a round counts that this member had samples in."""
    return lambda event: (
        event["kind"] == "committed" and event["seq"] > after and name in event["leases"]
    )


def owned_once(events: list[dict[str, Any]]) -> bool:
    """Whether no sample of an epoch has two owners, by the rounds on record."""
    learned: set[tuple[int, int]] = set()
    for event in events:
        if event["kind"] == "committed":
            for spans in event["leases"].values():
                here = {(event["data_epoch"], i) for a, b in spans for i in range(a, b)}
                if learned & here:
                    return False
                learned |= here
    return bool(learned)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_member_that_is_killed_comes_back_and_no_sample_is_lost_or_repeated(
    sentence: str, desk: Any
) -> None:
    luck = random.Random(sentence)
    victim, patience = luck.choice(NAMES), luck.randint(1, 12)
    process = desk.start("train", desk.job(**JOB, strategy=sentence), "--json", "--runs", desk.runs)
    began = desk.await_event(learns(victim, after=0))["seq"]
    desk.await_event(lambda event: event["kind"] == "committed" and event["seq"] > began + patience)
    desk.agent(victim).send_signal(signal.SIGKILL)
    dead = desk.await_event(
        lambda event: (
            event["kind"] == "agent" and (event["member"], event["state"]) == (victim, "lost")
        )
    )
    desk.await_event(learns(victim, after=dead["seq"]))
    desk.await_event(lambda event: event["kind"] == "epoch")  # else there is nothing to prove
    process.send_signal(signal.SIGINT)
    finished = desk.finish(process)
    assert finished.code == 130, finished.err
    summary = finished.answer
    assert (summary["samples_lost"], summary["samples_repeated"]) == (0, 0)
    assert owned_once(desk.events())
    assert (summary["kills_survived"], summary["epochs"] > 0) == (1, True)
    assert not desk.await_empty()

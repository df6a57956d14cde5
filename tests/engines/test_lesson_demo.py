from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.engines.lesson_demo import ARMS, NUM_AGENTS, rehearse


@pytest.mark.slow
def test_both_arms_learn_as_many_samples_and_only_one_of_them_sends_lessons(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    outcome = rehearse("demo", tmp_path, events.append, seeds=(0,), steps=20)
    ends = [event for event in events if event["kind"] == "summary"]
    assert len(ends) == len(ARMS)
    for end in ends:
        assert [row["steps"] for row in end["pupils"].values()] == [20] * NUM_AGENTS
    alone, sharing = ends
    assert (alone["lessons_taken"], alone["published_bytes"]) == (0, {})
    assert sharing["lessons_taken"] > 0
    assert sum(sharing["published_bytes"].values()) == outcome.num_bytes > 0
    samples = [e["samples"] for e in events if e["kind"] == "progress"]
    assert samples.count(max(samples)) >= 2  # the same in both
    assert outcome.as_dict()["seeds"].keys() == {"alone", "sharing"}

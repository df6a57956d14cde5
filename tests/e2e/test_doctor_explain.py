from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.processes


def test_doctor_ends_with_the_facts_and_findings_as_json(desk: Any) -> None:
    finished = desk.run("doctor", "--json")
    assert finished.answer.keys() >= {"healthy", "facts", "findings"}
    assert finished.code == (0 if finished.answer["healthy"] else 1)
    assert "Traceback" not in finished.err


def test_explain_names_the_runs_there_are_when_there_is_no_such_run(desk: Any) -> None:
    assert desk.train(desk.job(agents=1)).code == 0
    finished = desk.run("explain", "smal", "--runs", desk.runs)
    assert finished.code == 2
    assert "the newest there are small" in finished.err
    explained = desk.run("explain", "small", "--runs", desk.runs)
    assert explained.code == 0
    assert "One device needs no agreement" in explained.out

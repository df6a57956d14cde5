"""A member's side of the star road."""

from __future__ import annotations

from typing import Any

import torch

from coterie.agents.state import pack_state, unpack_state
from coterie.transport import messages as say

STAR = "chain(Reduce(road='star', quorum=1))"


def outcome(number: int, term: int = 1, **given: Any) -> bytes:
    payload = torch.ones(8)
    said = {"term": term, "round": number, "weights": {"a": 3.0}, "refused": "", "payload": payload}
    return pack_state({**said, **given})


def served(stage: Any, num_rounds: int = 1) -> Any:
    group = stage.group("a")
    group.tell(stage.term(1, "a", hub="here"))
    group.tell(stage.block(1, 1, 8 * num_rounds, strategy=STAR))
    return group


def test_it_waits_for_the_servers_word_of_this_term_and_round(stage: Any) -> None:
    group = served(stage)
    ((to, data),) = group.posted
    assert (to, unpack_state(data)["round"], unpack_state(data)["weight"]) == ("hub", 1, 5.0)
    group.deliver("a", outcome(1, term=0))
    group.deliver("a", outcome(9))
    assert group.workers["a"].round == 0
    group.deliver("a", outcome(1))
    assert group.workers["a"].round == 1
    assert [m.cohort for m in group.of("a", say.Report)] == [("a",)]


def test_a_round_that_was_closed_before_is_landed_and_not_learned(stage: Any) -> None:
    group = served(stage, num_rounds=3)
    group.mail["a"].extend([outcome(2), outcome(3)])
    group.mail["a"].appendleft(outcome(1))
    group.resume("a", ("hub", group.mail["a"].popleft()))
    assert group.workers["a"].round == 3
    assert len(group.posted) == 1


def test_what_the_server_refuses_ends_the_run_with_its_reason(stage: Any) -> None:
    group = served(stage)
    group.deliver("a", outcome(1, refused="expected finite values, found none"))
    (failed,) = group.of("a", say.Failed)
    assert failed.reason == "a: expected finite values, found none"

"""A quorum of those who are here: fewer than were asked for, until they are back."""

from __future__ import annotations

from coterie.sync.reading import parse
from coterie.transport import messages as say


def test_rounds_wait_for_those_who_live_and_for_the_whole_quorum_once_it_is_back(play):
    p = play(3, strategy="parameter-server(3)", until={"epochs": 1e4})
    p.say(say.HUB, p.hello_of_server(7))
    p.until_training()
    p.kill("b")
    p.until_true(lambda: len(p.of("decision")) == 2)
    assert p.run.strategy == parse("parameter-server(2)")
    p.enter("b")
    p.until_true(lambda: len(p.of("decision")) == 3)
    assert p.run.strategy == parse("parameter-server(3)")
    assert [event["text"] for event in p.of("quorum")] == [
        "rounds wait for at most 2 of the 3 members of the quorum: no more are here",
        "rounds wait for 3 members again",
    ]

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coterie.errors import JobError, JoinError
from coterie.transport import kafka
from coterie.transport.kafka import KafkaTopic

DEADLINE = 600  # looks, each of which waits a little in the library


@pytest.fixture
def broker() -> Iterator[str]:
    """A broker of librdkafka's own, which speaks Kafka's protocol on a port of this machine."""
    library = pytest.importorskip("confluent_kafka", reason="needs coterie[kafka]")
    mock = library.Producer({"test.mock.num.brokers": 1, "log_level": 2})
    [found] = mock.list_topics("lessons", timeout=10).brokers.values()
    yield f"kafka://{found.host}:{found.port}/lessons"
    mock.flush(0)


def until(found: Callable[[], Any]) -> Any:
    for _ in range(DEADLINE):
        if value := found():
            return value
    raise AssertionError("nothing came")


@pytest.mark.processes
def test_lessons_pass_by_a_broker_and_nobody_hears_its_own(broker: str) -> None:
    ann, bob = KafkaTopic(broker, "ann"), KafkaTopic(broker, "bob")
    heard: list[bytes] = []

    def said() -> list[bytes]:
        # A reader begins where the topic ends once it is there: say it until it is heard.
        ann.send(b"greek")
        bob._consumer.poll(0.05)
        heard.extend(bob.read())
        return heard

    assert until(said)[0] == b"greek"
    assert ann.read() == []
    ann.close()
    bob.close()


@pytest.mark.processes
def test_a_broker_that_is_away_is_a_refusal_and_no_wait() -> None:
    pytest.importorskip("confluent_kafka", reason="needs coterie[kafka]")
    ann = KafkaTopic("kafka://127.0.0.1:9/lessons", "ann")

    def refused() -> str:
        try:
            ann._producer.poll(0.05)
            ann.send(b"greek")
        except JoinError as error:
            return str(error)
        return ""

    assert "expected a Kafka broker, found none" in until(refused)


def test_a_missing_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(JobError, match="pip install 'coterie\\[kafka\\]'"):
        kafka._library()

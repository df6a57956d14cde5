"""A topic of a Kafka broker as a road for lessons: for whoever has a broker, and by choice alone.

It is written to and read from one partition, so that all read in one order, from the moment on at
which each came. How a line to the broker is guarded is the broker's matter: lessons are checked at
the door by whoever reads them, whatever road they come by.
"""

from __future__ import annotations

from typing import Any

from coterie.errors import JobError, JoinError

PREFIX = "kafka://"
MOST_BYTES = 1 << 26  # of one lesson
NUM_AT_ONCE = 1000  # lessons that are read together
CLOSING_S = 2.0  # for what was not sent yet
PARTITION = 0
_ORIGIN = "origin"  # the header that names who wrote a lesson


class KafkaTopic:
    """Bytes to a topic and from it; whoever writes does not read its own.

    `url` is kafka://HOST:PORT/TOPIC, and may name several brokers, with commas between them.
    """

    def __init__(self, url: str, me: str) -> None:
        kafka = _library()
        servers, _, self._topic = url.removeprefix(PREFIX).rpartition("/")
        self._me = me.encode()
        self._broken = self._last = ""  # what was heard last of a broker that is away
        common = {"bootstrap.servers": servers, "error_cb": self._on_error, "log_level": 2}
        self._producer = kafka.Producer({**common, "linger.ms": 5, "message.max.bytes": MOST_BYTES})
        reading = {"group.id": f"coterie-{me}", "enable.auto.commit": False}
        reading |= {"fetch.message.max.bytes": MOST_BYTES}
        self._consumer = kafka.Consumer({**common, **reading, "auto.offset.reset": "latest"})
        place = kafka.TopicPartition(self._topic, PARTITION, kafka.OFFSET_END)
        self._consumer.assign([place])

    def send(self, data: bytes) -> None:
        """Write to the topic, without waiting; JoinError where the broker is away."""
        self._producer.poll(0)
        if self._broken:
            self._broken = ""  # the next one tries again
            raise JoinError(f"expected a Kafka broker, found none: {self._last}")
        try:
            self._producer.produce(
                self._topic,
                data,
                partition=PARTITION,
                headers=[(_ORIGIN, self._me)],
                on_delivery=self._on_delivery,
            )
        except BufferError as error:
            raise JoinError(f"expected a Kafka broker that takes lessons: {error}") from error

    def read(self) -> list[bytes]:
        """What others wrote since this was last asked, without waiting."""
        found = self._consumer.consume(NUM_AT_ONCE, timeout=0.0)
        whole = [message for message in found if message.error() is None]
        return [m.value() for m in whole if dict(m.headers() or ()).get(_ORIGIN) != self._me]

    def close(self) -> None:
        """Leave."""
        self._producer.flush(CLOSING_S)
        self._consumer.close()

    def _on_error(self, error: Any) -> None:
        self._broken = self._last = str(error)

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is None:
            self._broken = ""
        else:
            self._on_error(error)


def _library() -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise JobError(
            "expected confluent-kafka for a board on Kafka, found none; pip install "
            "'coterie[kafka]', or leave out knowledge.board"
        ) from None
    return confluent_kafka

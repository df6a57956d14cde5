from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import CoterieError
from coterie.leases import cut_block
from coterie.watch.events import Audit, EventLog, audit, follow, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "events.jsonl"


def test_what_is_written_is_what_is_read(path: Path) -> None:
    with EventLog(path, clock=iter([1.0, 2.5]).__next__) as log:
        written = [
            log.write("run", name="Ziffern ✓ \udc80", shares={"a": 1, 2: 3}, folder=path.parent),
            log.write("committed", leases={"a": ((0, 3), (5, 7))}),
        ]
    assert read(path) == written
    assert [(e["seq"], e["time_s"], e["kind"]) for e in written] == [
        (0, 1.0, "run"),
        (1, 2.5, "committed"),
    ]
    assert written[0]["shares"] == {"a": 1, "2": 3}
    assert written[1]["leases"] == {"a": [[0, 3], [5, 7]]}


def test_numbers_json_does_not_know_become_null(path: Path) -> None:
    with EventLog(path) as log:
        event = log.write("progress", loss=math.nan, deep={"x": [-math.inf, 1.5, Fraction(1, 4)]})
    assert event["loss"] is None
    assert event["deep"] == {"x": [None, 1.5, 0.25]}
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_each_line_is_there_before_the_log_is_closed(path: Path) -> None:
    log = EventLog(path)
    event = log.write("epoch", data_epoch=0)
    assert read(path) == [event]
    log.close()


@pytest.mark.parametrize("torn", [b'{"seq": 2, "time', b"\x00\x00\x00", b'{"seq": 2}', b"\xc3"])
def test_a_torn_last_line_is_ignored_then_cut_off(path: Path, torn: bytes) -> None:
    with EventLog(path) as log:
        before = [log.write("a"), log.write("b")]
    with path.open("ab") as file:
        file.write(torn)
    assert read(path) == before
    with EventLog(path) as log:
        after = log.write("c")
    assert after["seq"] == 2
    assert read(path) == [*before, after]


def test_a_log_torn_in_its_first_line_begins_again(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"seq"')
    with EventLog(path) as log:
        assert log.write("run")["seq"] == 0


def test_a_field_cannot_forge_the_stamp(path: Path) -> None:
    with EventLog(path) as log, pytest.raises(CoterieError, match="found seq"):
        log.write("run", seq=7)


def test_a_damaged_line_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"seq": 0, "time_s": 1, "kind": "a"}\nnot an event\n')
    with pytest.raises(CoterieError, match="not an event"):
        read(path)


def test_a_missing_log_is_refused_with_its_path(path: Path) -> None:
    with pytest.raises(CoterieError, match=r"events\.jsonl"):
        read(path)


def test_a_folder_that_cannot_hold_the_log_is_refused(path: Path) -> None:
    path.parent.write_text("a file where the run's folder should be")
    with pytest.raises(CoterieError, match="expected to append events"):
        EventLog(path)


class FullDisk:
    """A file whose disk has room for a few more bytes only."""

    def __init__(self, file: Any, room_bytes: int) -> None:
        self._file, self._room_bytes = file, room_bytes
        self.truncate, self.close = file.truncate, file.close

    def write(self, data: bytes) -> int:
        fits = data[: self._room_bytes]
        self._room_bytes -= len(fits)
        if not fits:
            raise OSError(28, "No space left on device")
        return int(self._file.write(fits))


def test_a_full_disk_is_told_and_leaves_no_half_line(path: Path) -> None:
    log = EventLog(path)
    kept, whole = log._file, log.write("a")
    log._file = FullDisk(kept, room_bytes=10)  # type: ignore[assignment]
    with pytest.raises(CoterieError, match="No space left on device; make room"):
        log.write("b")
    assert path.read_bytes().endswith(b"}\n")
    log._file = kept
    after = log.write("c")
    assert after["seq"] == 1
    assert read(path) == [whole, after]
    log.close()


def test_follow_yields_what_comes_and_ends_with_all_of_it(path: Path) -> None:
    log: list[EventLog] = []

    def appears() -> Iterator[None]:
        log.append(EventLog(path))
        yield
        log[0].write("a")
        yield
        with path.open("ab") as file:
            file.write(b'{"seq": 1, "torn by a cra')
        yield
        log[0].close()
        with EventLog(path) as again:
            again.write("b")
            yield
            again.write("c")
            yield

    happens, over = appears(), object()
    last: list[object] = [None]

    def wait(_: float) -> None:
        last[0] = next(happens, over)

    followed = follow(path, lambda: last[0] is over, wait)
    assert [event["kind"] for event in followed] == ["a", "b", "c"]


def finished(num_train: int, *leases: dict[str, Any]) -> list[dict[str, Any]]:
    committed = [{"kind": "committed", "data_epoch": 0, "leases": lease} for lease in leases]
    run, epoch = {"kind": "run", "num_train": num_train}, {"kind": "epoch", "data_epoch": 0}
    return [run, *committed, epoch]


@settings(max_examples=30)
@given(
    num_train=st.integers(1, 300),
    shares=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1),
    every=st.integers(1, 5),
)
def test_an_epoch_cut_by_the_rules_is_exact(
    num_train: int, shares: dict[str, int], every: int
) -> None:
    rounds = cut_block([(0, num_train)], shares, every)
    leases = [{m: lease.spans for m, lease in cut.items()} for cut in rounds]
    assert audit(finished(num_train, *leases)) == Audit(0, 0, (0,))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted), max_size=6),
    st.integers(1, 25),
)
def test_the_audit_counts_as_counting_one_by_one_does(
    spans: list[list[int]], num_train: int
) -> None:
    times = [sum(start <= k < stop for start, stop in spans) for k in range(num_train)]
    expected = Audit(times.count(0), sum(t > 1 for t in times), (0,))
    assert audit(finished(num_train, {"a": spans})) == expected


def test_an_unfinished_epoch_is_not_held_against_the_run() -> None:
    learning = {"kind": "committed", "data_epoch": 1, "leases": {"a": [[0, 1]]}}
    assert audit([*finished(4, {"a": [[0, 4]]}), learning]) == Audit(0, 0, (0,))


def test_epochs_are_counted_apart() -> None:
    second = [{**event, "data_epoch": 1} for event in finished(4, {"b": [[0, 2]]})[1:]]
    found = audit([*finished(4, {"a": [[0, 4]]}), *second])
    assert found == Audit(num_lost=2, num_repeated=0, epochs=(0, 1))
    assert not found.is_exact


def test_an_epoch_of_unknown_size_cannot_be_audited() -> None:
    with pytest.raises(CoterieError, match="num_train"):
        audit([{"kind": "run"}, {"kind": "epoch", "data_epoch": 0}])


def test_what_a_resumed_run_does_again_is_not_held_against_it() -> None:
    def learned(last_round: int, start: int, stop: int) -> dict[str, Any]:
        leases = {"a": [[start, stop]]}
        return {"kind": "committed", "last_round": last_round, "data_epoch": 0, "leases": leases}

    first = [{"kind": "task", "num_train": 10}, learned(1, 0, 5), learned(2, 5, 10)]
    done = {"kind": "epoch", "data_epoch": 0}
    again = [{"kind": "run", "resumed_round": 1}, learned(2, 5, 10), done]
    assert audit([*first, done, *again]) == Audit(0, 0, (0,))
    assert audit([*first, done, learned(2, 5, 10)]).num_repeated == 5
    assert audit([*first, done, *again[:2]]).epochs == ()


def test_findings_name_the_positions_of_each_epoch() -> None:
    spans = [[0, 2], [3, 4], [3, 6], [5, 8]]
    (found,) = audit(finished(9, {"a": spans})).findings
    assert (found.lost, found.repeated) == (((2, 3), (8, 9)), ((3, 4), (5, 6)))
    assert found.sentence == (
        "Epoch 1: of its 9 samples 2 were never learned (positions 2, 8) "
        "and 2 more than once (3, 5)."
    )


def test_only_so_many_places_are_told() -> None:
    (found,) = audit(finished(40, {"a": [[n, n + 1] for n in range(0, 40, 2)]})).findings
    assert found.sentence.endswith("never learned (positions 1, 3, 5, 7, 9, 15 more spans).")


def test_a_repetition_alone_is_told_alone() -> None:
    (found,) = audit(finished(4, {"a": [[0, 4]], "b": [[1, 2]]})).findings
    assert found.sentence == "Epoch 1: of its 4 samples 1 was learned more than once (position 1)."


@pytest.mark.parametrize("leases", [None, [1], {"a": [[1, 2, 3]]}, {"a": 5}])
def test_leases_that_are_none_cannot_be_audited(leases: object) -> None:
    with pytest.raises(CoterieError, match="audit the log as Coterie wrote it"):
        audit(finished(4, leases))  # type: ignore[arg-type]

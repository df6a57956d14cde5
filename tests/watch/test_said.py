from __future__ import annotations

from pathlib import Path

from coterie.transport.secure import Keys
from coterie.watch.said import Ear, Said, note, speakers, trim


def test_each_line_is_heard_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    ear = Ear(tmp_path)
    assert ear.heard() == []
    note(tmp_path, "pi", b"one\ntw")
    assert ear.heard() == [Said("pi", "one")]
    note(tmp_path, "pi", b"o\n")
    note(tmp_path, "desk", b"hello\n")
    assert ear.heard() == [Said("desk", "hello"), Said("pi", "two")]
    assert speakers(tmp_path) == ["desk", "pi"]


def test_of_one_alone(tmp_path: Path) -> None:
    note(tmp_path, "pi", b"one\n")
    note(tmp_path, "desk", b"two\n")
    assert Ear(tmp_path, "pi").heard() == [Said("pi", "one")]


def test_a_log_that_grows_is_cut_and_its_newest_text_is_kept(tmp_path: Path) -> None:
    path, ear = tmp_path / "pi.log", Ear(tmp_path)
    with path.open("ab", buffering=0) as file:  # as an agent holds it
        for number in range(100):
            file.write(f"line {number}\n".encode())
            trim(tmp_path, most_bytes=50)
        assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 2 * 60
        assert ear.heard()[-1] == Said("pi", "line 99")
        for number in range(100, 120):
            file.write(f"line {number}\n".encode())
        trim(tmp_path, most_bytes=50)
        file.write(b"last\n")
    assert ear.heard() == [Said("pi", "last")]
    kept = Ear(tmp_path).heard()
    # What was cut is still there for who comes later.
    assert [line.text for line in kept][-21:] == [*(f"line {n}" for n in range(100, 120)), "last"]


def test_a_join_key_and_what_steers_a_terminal_are_not_passed_on(tmp_path: Path) -> None:
    key = Keys.make().join.text()
    note(tmp_path, "pi", f"the key is {key}, \x1b[2Jsaid it\n".encode())
    assert Ear(tmp_path).heard() == [Said("pi", "the key is coterie:…,  [2Jsaid it")]


def test_a_disk_that_is_full_loses_a_line_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "pi.log").mkdir()
    note(tmp_path, "pi", b"one\n")
    assert Ear(tmp_path).heard() == []

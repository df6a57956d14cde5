"""Names become the user's own code, or one sentence that says why not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coterie.config import Ref
from coterie.errors import JobError
from coterie.tasks.references import instantiate, quoted, resolve

_numbers = itertools.count()
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write a module with a name of its own into the folder; sys.path is put back after."""
    path_before, modules_before = list(sys.path), set(sys.modules)

    def write(source: str) -> str:
        name = f"mine_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield write
    sys.path[:] = path_before
    for name in set(sys.modules) - modules_before:
        del sys.modules[name]


def test_finds_a_function_of_the_folder(write: Write, tmp_path: Path) -> None:
    name = write("def two(): return 2")
    assert resolve(Ref(call=f"{name}:two"), tmp_path)() == 2


def test_follows_dots_into_classes(write: Write, tmp_path: Path) -> None:
    name = write("class Net:\n    @classmethod\n    def small(cls): return cls")
    assert instantiate(Ref(call=f"{name}:Net.small"), tmp_path).__name__ == "Net"


def test_a_neighbour_may_be_imported_later(write: Write, tmp_path: Path) -> None:
    neighbour = write("VALUE = 7")
    name = write(f"def late():\n    from {neighbour} import VALUE\n    return VALUE")
    assert instantiate(Ref(call=f"{name}:late"), tmp_path) == 7


def test_passes_arguments_in_both_ways(write: Write, tmp_path: Path) -> None:
    name = write("def pair(a, b): return a, b")
    assert instantiate(Ref(call=f"{name}:pair", kwargs={"b": 2}), tmp_path, 1) == (1, 2)


@pytest.mark.parametrize(
    ("source", "attribute", "words"),
    [
        ("def net(): ...", "nett", "found no 'nett' there; did you mean net?"),
        ("SIZE = 3", "SIZE", "to be callable, found 3"),
        ("import no_such_thing", "net", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "net", "ZeroDivisionError: division by zero"),
        ("def net(:", "net", "SyntaxError"),
        ("raise SystemExit(2)", "net", "SystemExit: 2"),
    ],
)
def test_what_cannot_be_resolved(
    write: Write, tmp_path: Path, source: str, attribute: str, words: str
) -> None:
    name = write(source)
    with pytest.raises(JobError) as refusal:
        resolve(Ref(call=f"{name}:{attribute}"), tmp_path)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("module", ["nowhere_at_all", "nowhere_at_all.inside", "json.nowhere"])
def test_a_missing_module_says_where_was_looked(write: Write, tmp_path: Path, module: str) -> None:
    with pytest.raises(JobError, match=f"expected a module {module}, found none in {tmp_path}"):
        resolve(Ref(call=f"{module}:f"), tmp_path)


def test_another_module_of_the_same_name_is_not_taken_in_silence(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("def mine(): ...")
    with pytest.raises(JobError, match=r"module json to be .*json\.py, found .*rename yours"):
        resolve(Ref(call="json:loads"), tmp_path)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"widht": 3}, "'widht'"),
        ({}, "'width'"),
        ({"width": 0}, "ValueError: no room"),
        ({"width": -1}, "say it so"),
    ],
)
def test_a_call_that_fails(
    write: Write, tmp_path: Path, kwargs: dict[str, int], words: str
) -> None:
    name = write(
        "from coterie.errors import JobError\n"
        "def net(width):\n"
        "    if width < 0: raise JobError('say it so')\n"
        "    if not width: raise ValueError('no\\nroom')\n"
    )
    with pytest.raises(JobError) as refusal:
        instantiate(Ref(call=f"{name}:net", kwargs=kwargs), tmp_path)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_our_own_errors_pass_unchanged(write: Write, tmp_path: Path) -> None:
    name = write("from coterie.errors import JobError\ndef f(): raise JobError('as it is')")
    with pytest.raises(JobError, match=r"^as it is$"):
        instantiate(Ref(call=f"{name}:f"), tmp_path)


def test_a_quoted_error_is_one_line() -> None:
    assert quoted(KeyError("a\nb")) == r"KeyError: 'a\nb'"

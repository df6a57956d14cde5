"""The shape of the house: budgets, arrows and habits, read from the source without running it."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
TESTS = ROOT / "tests"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_ARGUMENTS = 7
MIN_MIRRORED = 0.70

MODULES = sorted((SRC / "coterie").rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
RUNS_TEXT = {"eval", "exec"}
TORCH_FREE = [
    "coterie",
    "coterie.agents.checkpoint",
    "coterie.cli",
    "coterie.combine",
    "coterie.config",
    "coterie.coordinator",
    "coterie.coordinator.school",
    "coterie.knowledge.graph",
    "coterie.sync",
    "coterie.sync.recipes",
    "coterie.watch",
]
# Bases that bring no documented methods: what stands under them speaks for itself.
BARE_BASES = {"ABC", "Enum", "Exception", "Generic", "NamedTuple", "Protocol", "StrEnum"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def where(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def dotted(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(node: ast.AST) -> Iterator[Function]:
    return (n for n in ast.walk(node) if isinstance(n, Function))


def imports(node: ast.AST) -> Iterator[str]:
    """Every name an import could load, `from a import b` giving both `a` and `a.b`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, (
                f"line {child.lineno}: write the whole name of what is imported"
            )
            yield child.module or ""
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def attributes(node: ast.AST) -> Iterator[str]:
    """Every dotted access to a name, such as `torch.distributed`."""
    return (ast.unparse(n) for n in ast.walk(node) if isinstance(n, ast.Attribute))


def num_lines(function: Function) -> int:
    """Lines from `def` to the end, the docstring left out."""
    whole = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return whole
    docstring = function.body[0]
    return whole - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def arguments(function: Function) -> list[ast.arg]:
    """All arguments, without the object or class that a method is called on."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    starred = [star for star in (given.vararg, given.kwarg) if star]
    return [a for a in (*named, *starred) if a.arg not in ("self", "cls")]


def is_public(name: str) -> bool:
    return not name.startswith("_")


def inherits_words(node: ast.ClassDef) -> bool:
    """Whether a base may already have said what the methods mean."""
    names = {re.split(r"[\[(]", ast.unparse(base))[0].split(".")[-1] for base in node.bases}
    return bool(names - BARE_BASES)


def undocumented(body: list[ast.stmt], owner: str = "") -> Iterator[str]:
    """Public functions and classes that say nothing, and so for the methods of first classes."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or not is_public(node.name):
            continue
        if ast.get_docstring(node) is None:
            yield owner + node.name
        if isinstance(node, ast.ClassDef) and not inherits_words(node):
            yield from undocumented(node.body, f"{node.name}.")


def is_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)


def called_names(node: ast.AST) -> set[str]:
    """Plain names that are called: `eval(...)` is one, `model.eval()` is none."""
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def neighbours(path: Path, name_of: Callable[[str], str]) -> set[str]:
    """What a module imports of Coterie, its type-checking imports included: they begin knots."""
    known = {dotted(module) for module in MODULES}
    used = {name_of(name) for name in imports(tree(path)) if name in known}
    return used - {name_of(dotted(path)), "coterie"}


def project() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def loaded_after(statement: str) -> tuple[int, set[str], str]:
    """A fresh interpreter's exit status, which heavy packages it loaded, and what it printed."""
    program = (
        "import sys\n"
        "try:\n"
        f"    {statement}\n"
        "finally:\n"
        "    print('LOADED', *sorted({'ray', 'torch'} & sys.modules.keys()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    loaded = done.stdout.rpartition("LOADED")[2].split()
    return done.returncode, set(loaded), done.stdout + done.stderr


def every_module(check: Callable[[Path], None]) -> Callable[[], None]:
    """One test that goes through all modules, and tells of each that fails."""

    def test() -> None:
        broken = {}
        for path in MODULES:
            try:
                check(path)
            except AssertionError as error:
                broken[where(path)] = str(error)
        assert broken == {}

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


@every_module
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@every_module
def test_functions_are_short(path: Path) -> None:
    long = {f.name: num_lines(f) for f in functions(tree(path))}
    assert {name: num for name, num in long.items() if num > MAX_FUNCTION_LINES} == {}


@every_module
def test_argument_lists_are_short(path: Path) -> None:
    counts = {f.name: len(arguments(f)) for f in functions(tree(path))}
    assert {name: num for name, num in counts.items() if num > MAX_ARGUMENTS} == {}


@every_module
def test_functions_are_annotated(path: Path) -> None:
    bare = [
        f.name
        for f in functions(tree(path))
        if f.returns is None or any(a.annotation is None for a in arguments(f))
    ]
    assert bare == []


@every_module
def test_what_is_public_says_what_it_is(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module) or not module.body, "the module itself says nothing"
    assert list(undocumented(module.body)) == []


@every_module
def test_no_failure_is_swallowed(path: Path) -> None:
    handlers = [n for n in ast.walk(tree(path)) if isinstance(n, ast.ExceptHandler)]
    assert [h.lineno for h in handlers if h.type is None] == [], "bare except"
    silent = [h.lineno for h in handlers if all(is_nothing(statement) for statement in h.body)]
    assert silent == [], "except with nothing done"


@every_module
def test_nothing_read_is_run(path: Path) -> None:
    module = tree(path)
    assert called_names(module) & RUNS_TEXT == set()
    assert {name.split(".")[0] for name in imports(module)} & UNPICKLERS == set()
    assert "torch.load" not in {*imports(module), *attributes(module)}


@every_module
def test_only_transport_reaches_the_network(path: Path) -> None:
    if path.is_relative_to(SRC / "coterie" / "transport"):
        return
    module = tree(path)
    reached = {*imports(module), *attributes(module)}
    # The tracker of memory lies there too, and sends nothing.
    network = r"torch\.distributed\b(?!\._tools\.mem_tracker)|zmq\b"
    assert [name for name in reached if re.match(network, name)] == []


@pytest.mark.parametrize("name_of", [room, str], ids=["rooms", "modules"])
def test_imports_make_no_knot(name_of: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        if dotted(path) != "coterie":  # the front door looks into every room
            graph.setdefault(name_of(dotted(path)), set()).update(neighbours(path, name_of))
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the knot


def test_tests_mirror_modules() -> None:
    modules = [path.relative_to(SRC / "coterie") for path in MODULES if path.stem[0] != "_"]
    missing = [m for m in modules if not (TESTS / m.parent / f"test_{m.name}").exists()]
    mirrored = 1 - len(missing) / len(modules)
    assert mirrored >= MIN_MIRRORED, f"no test file for {', '.join(map(str, missing))}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_importing_loads_neither_torch_nor_ray(name: str) -> None:
    status, loaded, output = loaded_after(f"import {name}")
    assert status == 0, output
    assert loaded == set()


@every_module
def test_a_clock_that_jumps_changes_nothing(path: Path) -> None:
    """Events and names tell the hour of the day; what is waited for goes by another clock."""
    if path.parent.name == "watch":
        return
    read = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns")
    ]
    assert read == []


def test_help_answers_without_torch() -> None:
    status, loaded, output = loaded_after(
        "sys.argv = ['coterie', '--help']; from coterie.cli import main; main()"
    )
    assert status == 0, output
    assert "Usage" in output
    assert loaded == set()


def test_every_recipe_has_its_page() -> None:
    from coterie.sync.recipes import RECIPES

    assert {page.stem for page in (ROOT / "docs" / "recipes").glob("*.md")} == set(RECIPES)


def test_changelog_tells_of_this_version() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == project()["version"]


def test_every_core_dependency_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text().lower()
    names = [re.split(r"[<>=!~\[; ]", line)[0].lower() for line in project()["dependencies"]]
    assert [name for name in names if not re.search(rf"^{name}==", pins, re.MULTILINE)] == []

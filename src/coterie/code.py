"""The user's code of a job: which files it is, whether they are the same elsewhere, and shipped.

Files are found by reading, not by running: the modules that the job names, and those of the same
folder that they import.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from coterie.config import Job
from coterie.errors import JobError

MOST_BYTES = 4 << 20  # of all files that are shipped
NUM_NAMED = 5  # files in a sentence


def texts(job: Job) -> dict[str, str]:
    """The text of each file of the job's code, by its path below the job's root.

    >>> from coterie.config import TaskSpec
    >>> task = TaskSpec(model="math:pi", train="math:e", test="math:e")
    >>> texts(Job(name="x", task=task, optimizer="m:o", batch=1, until={"epochs": 1}))
    {}
    """
    root, found = Path(job.root), dict[str, str]()
    pending = [call.partition(":")[0] for call in _calls(job.model_dump())]
    if job.script is not None and (root / job.script.path).is_file():
        name = job.script.path
        found[name] = (root / name).read_text(encoding="utf-8", errors="replace")
        pending += _imports(found[name], PurePosixPath(name))
    while pending:
        for path in _files(root, pending.pop()):
            name = path.relative_to(root).as_posix()
            if name not in found:
                found[name] = path.read_text(encoding="utf-8", errors="replace")
                pending += _imports(found[name], PurePosixPath(name))
    return dict(sorted(found.items()))


def digests(files: Mapping[str, str]) -> dict[str, str]:
    """What tells files apart, however their lines end.

    >>> digests({"net.py": "x = 1\\r\\n"}) == digests({"net.py": "x = 1\\n"})
    True
    """
    return {name: _digest(text) for name, text in files.items()}


def check_same(root: Path, wanted: Mapping[str, str]) -> None:
    """Raises JobError naming the files that are others here, or are missing."""
    differing = [name for name, digest in wanted.items() if _digest_of(root, name) != digest]
    if differing:
        more = len(differing) - NUM_NAMED
        named = ", ".join(differing[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise JobError(
            f"expected the code of the run in {root}, found other or no {named}; copy the run's "
            "code here, name its folder with --root, or take it from a run that was begun with "
            "--ship by --accept-code"
        )


def unpack(files: Mapping[str, str], folder: Path) -> None:
    """Write shipped files below a folder; raises JobError for any that would lie elsewhere."""
    if not files:
        raise JobError(
            "expected a run that ships its code, found one that does not; begin it with "
            "coterie up --ship, or leave out --accept-code and copy the code"
        )
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".py" or "\\" in name:
            raise JobError(f"expected Python files below a folder, found {name!r:.80}; do not join")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8", newline="")


def shipped(files: Mapping[str, str]) -> dict[str, str]:
    """The files as they travel; raises JobError where they are too big."""
    num_bytes = sum(map(len, files.values()))
    if num_bytes > MOST_BYTES:
        raise JobError(
            f"expected code of at most {MOST_BYTES >> 20} MB to ship, found {num_bytes >> 20} MB; "
            "copy it to the other machines instead"
        )
    return dict(files)


def _calls(part: Any) -> Iterator[str]:
    """Every name of the user's code in a job."""
    if isinstance(part, Mapping):
        if isinstance(part.get("call"), str):
            yield part["call"]
        for inner in part.values():
            yield from _calls(inner)


def _files(root: Path, module: str) -> Iterator[Path]:
    """The files below root that importing a module runs."""
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:number])
        yield from (p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file())


def _imports(text: str, path: PurePosixPath) -> list[str]:
    """Modules that a file imports, or may: a name from a package can be a module of it."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return []  # written for another Python: importing it will tell
    package = path.parent.parts
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            found += [f"{module}.{a.name}".strip(".") for a in node.names] + [module]
    return [name for name in found if name]


def _digest(text: str) -> str:
    plain = text.replace("\r\n", "\n").encode()
    return hashlib.sha256(plain).hexdigest()


def _digest_of(root: Path, name: str) -> str:
    try:
        return _digest((root / name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""

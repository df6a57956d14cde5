"""What agents and the coordinator said: a text file for each beside the events, none too big.

Of an agent on another machine the words are kept there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coterie.watch.words import printable

COORDINATOR = "coordinator"  # its own name among those who speak
MOST_BYTES = 4 << 20  # of one file; what is older is kept once more, then forgotten
ENDING, OLDER = ".log", ".log.1"
SECRET = re.compile(r"coterie:[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{80}")  # a join key


@dataclass(frozen=True)
class Said:
    """A line that somebody said.

    >>> str(Said("pi", "no such file"))
    'pi: no such file'
    """

    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.who}: {self.text}"


@dataclass
class Ear:
    """Hears what was said in a run since it last listened, of everybody or of one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     note(Path(run), "pi", b"a line\\n")
    ...     ear = Ear(Path(run))
    ...     ear.heard(), ear.heard()
    ([Said(who='pi', text='a line')], [])
    """

    run: Path
    who: str | None = None
    offsets: dict[str, int] = field(default_factory=dict)  # bytes heard of each speaker's file

    def heard(self) -> list[Said]:
        """Whole lines since the last time; those of one speaker stay in order."""
        names = speakers(self.run) if self.who is None else [self.who]
        return [Said(name, text) for name in names for text in self._of(name)]

    def _of(self, name: str) -> Iterator[str]:
        path, begun = self.run / f"{name}{ENDING}", self.offsets.get(name)
        older = _bytes(self.run / f"{name}{OLDER}") if begun is None else b""
        offset = begun or 0
        if offset > _size(path):  # it was cut since
            offset = 0
        told = _bytes(path, offset)
        told = told[: told.rfind(b"\n") + 1]
        self.offsets[name] = offset + len(told)
        for line in (older + told).decode(errors="replace").splitlines():
            yield printable(SECRET.sub("coterie:…", line))


def speakers(run: Path) -> list[str]:
    """Who is on record in a run's folder."""
    return sorted(path.name.removesuffix(ENDING) for path in run.glob(f"*{ENDING}"))


def note(run: Path, who: str, line: bytes) -> None:
    """Keep a line; a disk that is full loses it, and nothing else."""
    with suppress(OSError), (run / f"{who}{ENDING}").open("ab") as file:
        file.write(line)


def trim(run: Path, most_bytes: int = MOST_BYTES) -> None:
    """Cut what has grown too big, though others append to it; its text is kept once more.

    What is said at that very moment may be lost.
    """
    for path in run.glob(f"*{ENDING}"):
        if _size(path) > most_bytes:
            with suppress(OSError):
                shutil.copyfile(path, path.with_suffix(OLDER))
            with suppress(OSError):
                os.truncate(path, 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bytes(path: Path, offset: int = 0) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except OSError:  # it has said nothing yet
        return b""

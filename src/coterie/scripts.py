"""A script of the user's as a job names it: where it lies, and that all agents run the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from coterie.errors import JobError
from coterie.names import Words


class Script(Words):
    """A script with a training loop of its own, by its path in the root, and its arguments."""

    path: str
    """Where it lies in the root."""
    args: list[str] = Field(default_factory=list)
    """What stands behind it on the command line."""
    digest: str
    """Its fingerprint: every agent has to run the same."""

    @classmethod
    def of(cls, path: Path, args: Sequence[str]) -> Script:
        """A script as it stands now. Raises JobError where there is none.

        >>> len(Script.of(Path(__file__), ["--lr", "0.1"]).digest)
        16
        """
        return cls(path=path.name, args=list(args), digest=_digest(path))

    def found_in(self, root: str) -> Path:
        """The script in a root that may be another machine's. Raises JobError for another one."""
        path = Path(root, self.path)
        if _digest(path) != self.digest:
            raise JobError(
                f"expected the {self.path} that the run was started with, found another in "
                f"{path.parent}; copy it from there, for all agents have to run the same"
            )
        return path


def _digest(path: Path) -> str:
    if not path.is_file():
        raise JobError(f"expected a script at {path}, found none; check its path, or set --root")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

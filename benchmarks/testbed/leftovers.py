"""What a test bed leaves in the kernel, found by the bed's name and removed.

Run as a script this is the watcher: it waits until the owner of a bed closes its pipe or dies, be
it by kill -9, and then removes the bed. It needs the standard library alone, so it starts in a few
hundredths of a second and works while the package itself is being rewritten.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "COTERIE_TESTBED"  # the environment variable that names a program's bed
BED = "cotbed"
NAMESPACES = Path("/run/netns")
PATIENCE_S = 10.0
POLL_S = 0.005


@dataclass(frozen=True)
class Leftovers:
    """What there is of one bed.

    >>> bool(Leftovers((), (), (), ())), bool(Leftovers((), ("cotbed0",), (), ()))
    (False, True)
    """

    pids: tuple[int, ...]
    links: tuple[str, ...]
    namespaces: tuple[str, ...]
    groups: tuple[Path, ...]

    def __bool__(self) -> bool:
        return any((self.pids, self.links, self.namespaces, self.groups))


def find(bed: str, parents: Iterable[Path]) -> Leftovers:
    """Everything that belongs to `bed`; `parents` are the control groups that may hold its groups.

    >>> find("cotbed999999", parents=[])
    Leftovers(pids=(), links=(), namespaces=(), groups=())
    """
    namespaces = tuple(name for name in _namespaces() if bed_of(name) == bed)
    links = tuple(name for name in counters(_text("/proc/net/dev")) if bed_of(name) == bed)
    groups = tuple(group for group in _groups(parents) if bed_of(group.name) == bed)
    pids = {*_marked_or_inside(bed, namespaces), *_members(groups)} - {os.getpid()}
    return Leftovers(tuple(sorted(pids)), links, namespaces, groups)


def beds(parents: Iterable[Path]) -> set[str]:
    """The names of all beds of which there is anything, alive or left behind."""
    names = [*_namespaces(), *counters(_text("/proc/net/dev"))]
    names += [group.name for group in _groups(parents)]
    marks = (_mark(pid) for pid in _pids())
    return {bed for bed in (*map(bed_of, names), *marks) if bed}


def bed_of(name: str) -> str | None:
    """The bed that a link, namespace or control group is named after; None for a stranger's.

    >>> [bed_of(name) for name in ("cotbed3", "cotbed3h12", "cotbed31-slow", "eth0", "cotbed3x")]
    ['cotbed3', 'cotbed3', 'cotbed31', None, None]
    >>> bed_of("coterie-4711-cotbed3-slow")
    'cotbed3'
    """
    found = re.fullmatch(rf"(?:coterie-\d+-)?({BED}\d+)(?:h\d+|-.+)?", name)
    return found[1] if found else None


def counters(text: str) -> dict[str, tuple[int, int]]:
    r"""Bytes (received, transmitted) of each interface, from the text of /proc/net/dev.

    >>> counters("head | head\n face |bytes\n lo: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n")
    {'lo': (7, 9)}
    """
    rows = (line.partition(":") for line in text.splitlines()[2:])
    return {
        name.strip(): (int(fields.split()[0]), int(fields.split()[8])) for name, _, fields in rows
    }


def remove(bed: str, parents: Sequence[Path], patience_s: float = PATIENCE_S) -> None:
    """End what runs in a bed, then remove its links, namespaces and control groups.

    Nothing there is well. Raises TimeoutError when something still stands after `patience_s`.

    >>> remove("cotbed999999", parents=[])
    """
    deadline_s = time.monotonic() + patience_s
    while left := find(bed, parents):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"expected {bed} to be gone, found {left}; end it by hand")
        _end(left.pids)
        if left.pids:
            time.sleep(POLL_S)
            continue
        for link in left.links:
            _ip("link", "del", "dev", link)
        for namespace in left.namespaces:
            _ip("netns", "del", namespace)
        for group in left.groups:
            _remove_group(group)


def watch(bed: str, owner_pid: int, parents: Sequence[Path]) -> None:
    """Wait until standard input closes or the owner is dead, then remove the bed."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    # A child that the owner forked holds the pipe open; the owner's death shows here all the same.
    with suppress(OSError, AttributeError):
        poll.register(os.pidfd_open(owner_pid), select.POLLIN)
    print("ready", flush=True)
    poll.poll()
    remove(bed, parents)


def _end(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ip(*words: str) -> None:
    # What is gone already is well; what stays is seen in the next look.
    subprocess.run(["ip", *words], stderr=subprocess.DEVNULL, check=False)


def _remove_group(group: Path) -> None:
    below: list[Path] = []
    with suppress(FileNotFoundError):  # somebody else removes it meanwhile
        below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    for path in (*below, group):
        with suppress(OSError):  # seen again, and tried again, in the next look
            path.rmdir()


def _namespaces() -> list[str]:
    return sorted(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else []


def _groups(parents: Iterable[Path]) -> list[Path]:
    return [group for parent in parents for group in sorted(parent.glob(f"coterie-*-{BED}*"))]


def _members(groups: Iterable[Path]) -> Iterator[int]:
    for group in groups:
        with suppress(FileNotFoundError):  # somebody else removes it meanwhile
            for listing in group.rglob("cgroup.procs"):
                yield from map(int, _text(listing).split())


def _marked_or_inside(bed: str, namespaces: Iterable[str]) -> Iterator[int]:
    inside = {_identity(NAMESPACES / name) for name in namespaces}
    # Never this namespace, whatever is mounted under a name of ours.
    inside -= {_identity("/proc/self/ns/net"), None}
    for pid in _pids():
        if _identity(f"/proc/{pid}/ns/net") in inside or _mark(pid) == bed:
            yield pid


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _mark(pid: int) -> str | None:
    found = re.search(rf"(?:^|\0){MARK}=({BED}\d+)\0", _text(f"/proc/{pid}/environ"))
    return found[1] if found else None


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _text(path: str | Path) -> str:
    """What the kernel says there; nothing about what has just gone or is a stranger's."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]), [Path(path) for path in sys.argv[3:]])

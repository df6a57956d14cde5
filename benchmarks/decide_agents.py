"""Agents of one host, one after the other, each forked from a process that has loaded torch.

Loading takes longer than many a run here. A line of JSON on standard input asks for `coterie join`,
{"argv": [...], "log": PATH}, and is answered by the pid of the process that does it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

import coterie.agents.join
import coterie.engines.throttle  # noqa: F401
from coterie import cli


def live(argv: Sequence[str], log: str) -> NoReturn:
    """Be the command, as if it had been typed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    with open(log, "w") as words, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
    sys.argv = ["coterie", *argv]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that ended
    torch.optim.Adam([torch.zeros(1)])  # what is loaded with the first optimizer is loaded
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            live(asked["argv"], asked["log"])
        print(pid, flush=True)


if __name__ == "__main__":
    main()

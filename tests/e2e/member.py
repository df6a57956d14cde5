"""One agent that takes part in one run after the other; what its roads carried is told each time.

Run as `python member.py ENDPOINT KEY NAME ROOT`: torch is loaded once for all of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from coterie.agents import join
from coterie.agents.perform import Roads


class Counted(Roads):
    """Roads that say what they carried when they are left."""

    kept: list[Roads] = []  # a peer may still dial the store of a run that is over  # noqa: RUF012

    def close(self) -> None:
        carried = {"ring": self.ring.told_bytes, "star": self.star.sent_bytes if self.star else 0}
        print(json.dumps(carried), flush=True)
        super().close()
        self.ring.leave()
        self.kept.append(self)


def main(endpoint: str, key_path: str, name: str, root: str) -> None:
    torch.set_num_threads(1)
    join.Roads = Counted  # type: ignore[misc]
    print(json.dumps("here"), flush=True)
    for _ in sys.stdin:  # a line for each run to take part in
        join.join(name, join.Place(endpoint, Path(key_path), Path(root)), lambda _: 0.0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One member in a process of its own: takes orders as lines of JSON and answers each with one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from coterie.errors import Torn
from coterie.sync.recipes import parse
from coterie.transport.control import Inbox
from coterie.transport.group import GroupTransport
from coterie.types import Ctx, Layout, Message


def agree(group: GroupTransport, rank: int, sentence: str, folder: Path) -> torch.Tensor:
    """What a round of a sentence comes to on the road, of the rows and weights in a folder."""
    strategy = parse(sentence)
    given = load_file(folder / "rows.safetensors")
    row_N, weight_M = given["rows_MN"][rank], given["weight_M"].tolist()
    memory = strategy.init(Layout(("w",), (tuple(row_N.shape),)), row_N)
    payload, _ = strategy.prepare(row_N, memory, Ctx())
    factor = strategy.factor(weight_M[rank], weight_M)
    if factor is not None:
        return group.total(payload * factor)
    rows = [strategy.open(gathered, row_N) for gathered in group.gather(payload)]
    met = zip(map(str, range(len(rows))), rows, weight_M, strict=True)
    return strategy.exchange.meet([Message(*each) for each in met if each[2]])[0]


def obey(group: GroupTransport, order: dict[str, Any]) -> Any:
    match order:
        case {"do": "form", "term": term, "rank": rank, "size": size, "store": store}:
            return group.form(term, rank, size, store)
        case {"do": "agree", "rank": rank, "sentences": sentences, "folder": folder}:
            agreed = {s: agree(group, rank, s, Path(folder)) for s in sentences}
            return save_file(agreed, Path(folder) / f"{rank}.safetensors")
        case {"do": "total", "value": value}:
            print(json.dumps("begun"), flush=True)
            return group.total(torch.full((1000,), value))[0].item()
    raise ValueError(order)


def main() -> None:
    torch.set_num_threads(1)
    group = GroupTransport("127.0.0.1", Inbox())
    print(json.dumps(group.store_endpoint), flush=True)
    for line in sys.stdin:
        try:
            answer = obey(group, json.loads(line))
        except Torn as error:
            answer = f"torn: {error}"
        print(json.dumps(answer), flush=True)
    sys.stdout.flush()
    os._exit(0)  # peers that were killed may keep the destructors of groups waiting


if __name__ == "__main__":
    main()

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
from coterie.sync.reading import parse
from coterie.sync.talk import Gather, Shuffle, Swap, Total
from coterie.transport.control import Inbox
from coterie.transport.group import GroupTransport
from coterie.types import Ctx, Layout, Message

NAMES = ("ann", "bob", "cy")


def ask_road(group: GroupTransport, ask: Any) -> Any:
    """What a talk asks of the road, as a call of it."""
    match ask:
        case Total(vector_N, among):
            return group.total(vector_N, among)
        case Gather(vector_N, among):
            return group.gather(vector_N, among)
        case Shuffle(parts, among):
            return group.shuffle(parts, among)
        case Swap(to, origin, vector_N):
            return group.swap(to, origin, vector_N)
    raise ValueError(ask)


def agree(group: GroupTransport, me: str, sentence: str, folder: Path) -> torch.Tensor:
    """What a round of a sentence comes to on the road, of the rows and weights in a folder."""
    strategy, ctx = parse(sentence), Ctx(round=1)
    given = load_file(folder / "rows.safetensors")
    row_N = given["rows_MN"][NAMES.index(me)]
    weights = dict(zip(NAMES, given["weight_M"].tolist(), strict=True))
    layout = Layout(("w",), (tuple(row_N.shape),))
    memory = strategy.init(layout, row_N)
    payload, memory = strategy.prepare(row_N, row_N, memory, layout, ctx)
    room = strategy.room(me, NAMES, weights, row_N, layout, ctx)
    talk = strategy.talk(Message(me, payload, weights[me]), memory, room, layout)
    answer: Any = None
    while True:
        try:
            answer = ask_road(group, talk.send(answer))
        except StopIteration as end:
            return end.value[0].vector_K


def obey(group: GroupTransport, order: dict[str, Any]) -> Any:
    match order:
        case {"do": "form", "term": term, "members": members, "me": me, "store": store}:
            return group.form(term, tuple(members), me, store)
        case {"do": "agree", "me": me, "sentences": sentences, "folder": folder}:
            agreed = {s: agree(group, me, s, Path(folder)) for s in sentences}
            return save_file(agreed, Path(folder) / f"{me}.safetensors")
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

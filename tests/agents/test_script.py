"""A script run as an agent, against a coordinator that is a list of orders."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from coterie.agents import effects as do
from coterie.agents.grant import Grant
from coterie.agents.script import Seat, follow
from coterie.config import Script
from coterie.engines.launch import script_job
from coterie.errors import JobError, TrainingError
from coterie.transport import messages as say
from coterie.transport.parcels import Assembly

HEAD = """
import sys
import torch
from torch.utils.data import DataLoader, TensorDataset
import coterie
me = coterie.join()
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
pairs = TensorDataset(torch.ones(8, 4), torch.zeros(8, dtype=torch.long))
model, optimizer, loader = me.prepare(model, optimizer, DataLoader(pairs, batch_size=4))
"""
LOOP = """
num = 0
for number in me.passes(int(sys.argv[1])):
    for x, y in loader:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        me.tell(loss)
        optimizer.step()
        num += len(x)
    me.print("pass", number, num)
me.print("stopped" if me.should_stop else "done")
"""


class Orders:
    """One member, alone in its term: what it meets about is its own."""

    def __init__(self, *orders: Any) -> None:
        self.orders, self.told, self.given_up = deque(orders), list[Any](), ""

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def perform(self, effect: Any) -> Any:
        match effect:
            case do.Hear():
                return self.orders.popleft()
            case do.Compute(run, _) | do.Await(run):
                return run()
            case do.Now():
                return 0.0
            case do.Tell(message):
                return self.tell(message)
            case do.TellMeanwhile(make):
                return self.told.extend(make())
            case do.Gather(vector_N):
                return [vector_N]
            case do.Total(vector_N):
                return vector_N
        return None

    def kinds(self) -> list[str]:
        """What was told, in short."""
        return [m.text if isinstance(m, say.Said) else m.kind for m in self.told]


def block(first: int, data_epoch: int = 0) -> say.Block:
    return say.Block(
        term=1,
        first_round=first,
        data_epoch=data_epoch,
        spans=((0, 8),),
        shares={"agent-0": 4},
        every=1,
        strategy="chain(Reduce())",
    )


TERM = say.Term(number=1, members=("agent-0",), store="")
STOP = say.Stop(reason="enough")


def turn(data_epoch: int) -> say.Turn:
    return say.Turn(term=1, data_epoch=data_epoch)


def run(
    folder: Path,
    text: str,
    orders: Orders,
    *args: str,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    path = folder / "train.py"
    path.write_text(text)
    job = script_job(path, args, {"agents": 1})
    hello = say.Hello(name="agent-0", pid=1, cores=1.0, memory_bytes=1, device="cpu", store="")
    return follow(Seat(hello, job, files, orders.perform, orders.tell, lambda: orders.given_up))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_script_learns_what_it_is_given_and_the_worker_stays_to_its_end(tmp_path: Path) -> None:
    orders = Orders(TERM, turn(0), block(1), turn(1), block(3, 1), turn(2), STOP)
    assert run(tmp_path, HEAD + LOOP, orders, "2") == "the script ended"
    kinds = [kind for kind in orders.kinds() if kind != "report"]
    assert kinds == [
        *("ready", "settled", "begun", "pass 0 8", "begun", "pass 1 16"),
        *("done", "ended", "ended", "bye"),
    ]
    losses = [message.loss for message in orders.told if isinstance(message, say.Report)]
    assert losses
    assert all(0 < loss < 10 for loss in losses)
    assert orders.told[0].batch == 4


def test_a_script_tells_what_its_machine_grants_it(tmp_path: Path) -> None:
    orders = Orders(say.Probe(sizes=(1, 4), seconds=0.0), STOP)
    run(tmp_path, HEAD + LOOP, orders, "1")
    (probed,) = (message for message in orders.told if isinstance(message, say.Probed))
    assert probed.cores == pytest.approx(Grant(torch.get_num_threads()).cores())


def test_a_run_that_stops_lets_the_script_come_to_its_end(tmp_path: Path) -> None:
    orders = Orders(TERM, turn(0), block(1), STOP)
    run(tmp_path, HEAD + LOOP, orders, "100")
    assert orders.kinds()[-3:] == ["pass 0 8", "stopped", "bye"]
    assert "ended" not in orders.kinds()


def test_one_that_comes_later_begins_in_the_pass_of_the_others(tmp_path: Path) -> None:
    orders = Orders(TERM, turn(5), block(9, 5), turn(6), STOP)
    run(tmp_path, HEAD + LOOP, orders, "6")
    assert [kind for kind in orders.kinds() if kind.startswith("pass")] == ["pass 5 8"]


def test_one_that_goes_on_from_a_checkpoint_is_what_it_was(tmp_path: Path) -> None:
    save = say.Save(term=1, ticket=2, whole=True)
    tell = "me.print(model.weight.sum().item())"
    orders = Orders(TERM, turn(0), block(1), save, turn(1), STOP)
    run(tmp_path, HEAD + LOOP + tell, orders, "1")
    assembly = Assembly()
    for message in orders.told:
        if isinstance(message, say.State):
            assembly.add(message)
    again = Orders(TERM, turn(1), STOP)
    run(tmp_path, HEAD + LOOP + tell, again, "1", files=assembly.files)
    (settled,) = [m for m in again.told if isinstance(m, say.Settled)]
    assert settled.round == 2
    said = [[m.text for m in o.told if isinstance(m, say.Said)][-1] for o in (orders, again)]
    assert said[0] == said[1]


def test_a_script_saves_and_loads_its_own_file_before_the_first_pass(tmp_path: Path) -> None:
    path = tmp_path / "state"
    keep = f"me.save({str(path)!r}, number=7)"
    run(tmp_path, HEAD + LOOP + keep, Orders(TERM, turn(0), block(1), turn(1), STOP), "1")
    load = f"me.print(me.load({str(path)!r}))\n"
    orders = Orders(TERM, turn(0), STOP)
    run(tmp_path, HEAD + load + LOOP, orders, "0")
    assert "{'number': 7}" in orders.kinds()
    orders = Orders(TERM, turn(0), block(1), turn(1), STOP)
    assert "expected me.load before the first pass" in run(
        tmp_path, HEAD + LOOP + load, orders, "1"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import coterie", "expected a script that calls coterie.join"),
        (HEAD, "goes through the loader that it gave back"),
        (HEAD + "me.prepare(model, optimizer, loader)", "expected one me.prepare"),
    ],
)
def test_a_script_that_cannot_take_part_is_refused(tmp_path: Path, text: str, words: str) -> None:
    orders = Orders()
    assert words in run(tmp_path, text, orders)
    (refused,) = orders.told
    assert isinstance(refused, say.Refused)
    assert words in refused.reason


def test_a_script_that_misuses_its_loader_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    orders = Orders(TERM, turn(0), block(1), STOP)
    text = HEAD + "for x, y in loader: model(x).sum().backward()"
    assert "expected optimizer.step() after 1" in run(tmp_path, text, orders)
    assert isinstance(orders.told[-1], say.Failed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "the script raised ZeroDivisionError: division by zero"),
        ("open('nowhere')", "FileNotFoundError"),
        ("raise SystemExit(3)", "the script ended by itself with 3"),
        ("def :", "SyntaxError"),
    ],
)
def test_what_a_script_raises_before_it_learns_refuses_it(
    tmp_path: Path, text: str, words: str
) -> None:
    orders = Orders()
    assert words in run(tmp_path, text, orders)
    (refused,) = orders.told
    assert isinstance(refused, say.Refused)
    assert words in refused.reason


def test_what_a_script_raises_ends_the_run_with_a_traceback_that_begins_in_it(
    tmp_path: Path,
) -> None:
    orders = Orders(TERM, turn(0), block(1), STOP)
    run(tmp_path, HEAD + "for x, y in loader: print(undefined)", orders)
    failed = orders.told[-1]
    assert isinstance(failed, say.Failed)
    assert "the script raised NameError: name 'undefined' is not defined" in failed.reason
    _, first, *_, last = failed.traceback.splitlines()
    assert first.strip().startswith(f'File "{tmp_path / "train.py"}", line 11')
    assert last == "NameError: name 'undefined' is not defined"


@pytest.mark.parametrize("fault", ["MemoryError()", "OSError('disk full')"])
def test_what_a_machine_does_to_a_script_that_learns_ends_that_agent_alone(
    tmp_path: Path, fault: str
) -> None:
    orders = Orders(TERM, turn(0), block(1), STOP)
    with pytest.raises((MemoryError, OSError)):
        run(tmp_path, HEAD + f"for x, y in loader: raise {fault}", orders)
    assert "failed" not in orders.kinds()


def test_a_coordinator_that_is_gone_is_raised_in_the_loop(tmp_path: Path) -> None:
    orders = Orders(TERM, turn(0), block(1), say.Stop(reason="no word", at_once=True))
    orders.given_up = "no word"
    with pytest.raises(TrainingError, match="no word"):
        run(tmp_path, HEAD + LOOP, orders, "2")


def test_another_script_on_another_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("1")
    script = Script.of(path, [])
    path.write_text("2")
    with pytest.raises(JobError, match=r"expected the train.py that the run was started with"):
        script.found_in(str(tmp_path))
    path.unlink()
    with pytest.raises(JobError, match="expected a script at"):
        script.found_in(str(tmp_path))

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coterie.transport.secure import JoinKey, Keys

pytestmark = pytest.mark.processes

BROKEN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

import shop


def raising():
    raise RuntimeError("the labels are missing")


def frozen():
    return shop.net().requires_grad_(False)


def bare():
    return nn.Flatten()


def regression(predictions, targets):
    return nn.functional.mse_loss(predictions, targets.float()[:, None, None])


class Poisoned(shop.FromDisk):
    fetched = 0

    def __getitems__(self, indices):
        Poisoned.fetched += len(indices)
        rows = super().__getitems__(indices)
        return [(x * float("nan"), y) for x, y in rows] if Poisoned.fetched > 6000 else rows


def poisoned():
    return shop.samples(512, Poisoned)
"""


def with_task(**parts: object) -> dict[str, Any]:
    from_shop = {"model": "shop:net", "train": "shop:from_disk", "test": "shop:samples"}
    return {"task": {**from_shop, **parts}}


# What is wrong, and what the sentence about it must say: what was found, and what to do.
EITHER_WAY: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no such module": (with_task(model="shap:net"), ("module shap", "check its spelling")),
    "no such attribute": (with_task(model="shop:nett"), ("no 'nett' there", "did you mean net?")),
    "a module that raises": (
        with_task(model="broken_on_import:net"),
        ("ZeroDivisionError", "mend"),
    ),
    "a factory that raises": (
        with_task(train="broken:raising"),
        ("the labels are missing", "mend"),
    ),
    "an empty dataset": (
        with_task(train={"call": "shop:samples", "with": {"num": 0}}),
        ("empty dataset", "check its path"),
    ),
    "a model without parameters": (with_task(model="broken:bare"), ("no parameter", "Flatten")),
    "a frozen model": (with_task(model="broken:frozen"), ("no parameter", "requires_grad")),
    "a loss that fails on the shapes": (
        with_task(loss="torch.nn:NLLLoss", model={"call": "shop:net", "with": {"width": 0.5}}),
        ("shop:net", "float", "mend"),
    ),
    "a loss of other shapes": (with_task(loss="torch.nn:BCELoss"), ("first 2 samples", "mend")),
    "an optimizer that is given nonsense": (
        {"optimizer": {"call": "torch.optim:SGD", "with": {"lrr": 0.1}}},
        ("'lrr'", "with"),
    ),
}
# Refused before anybody asks how many agents there are.
AT_ONCE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown key": ({"colour": "blue"}, ("found 'colour'", "possible are name, task")),
    "a mistyped key": ({"bach": 64, "batch": None}, ("found 'bach'", "did you mean 'batch'?")),
    "a missing key": ({"optimizer": None}, ("the key optimizer", "add it")),
    "fewer samples than agents": ({"batch": 1}, ("found 1 for 2 agents", "raise batch")),
    "an unknown strategy": ({"strategy": "all_reduce()"}, ("'all_reduce'", "all-reduce")),
    "a broken sentence": ({"strategy": "chain(Every(4), Reduce())"}, ("Every(4)", "Outer")),
    "a drill for a stranger": ({"drill": {"kill": "pi"}}, ("found pi", "agent-0, agent-1")),
}
CASES = {
    **{f"{what}, 2 agents, at once": (keys, said) for what, (keys, said) in AT_ONCE.items()},
    **{
        f"{what}, {agents} agents": ({**keys, "agents": agents}, said)
        for what, (keys, said) in EITHER_WAY.items()
        for agents in (1, 2)
        if agents == 1 or what in ("no such module", "a loss of other shapes")
    },
    "somebody who does not come": (
        {"agents": {"local": 0, "remote": 1, "join_timeout_s": 1}},
        ("expected 1 agents within 1 s, found 0", "raise agents.join_timeout_s"),
    ),
}


@pytest.fixture(scope="module")
def refusals(shared_desk: Any) -> Iterator[dict[str, Future[Any]]]:
    """All of them at once: most of the time of each is the start of Python."""
    (shared_desk.folder / "broken.py").write_text(BROKEN)
    (shared_desk.folder / "broken_on_import.py").write_text("1 / 0\n")

    def train(number: int, keys: dict[str, Any]) -> Any:
        path = shared_desk.job(f"job-{number}", **keys)
        return refused(shared_desk, path)

    with ThreadPoolExecutor(3) as crew:
        yield {
            what: crew.submit(train, number, keys)
            for number, (what, (keys, _)) in enumerate(CASES.items())
        }


def refused(desk: Any, *words: object) -> Any:
    return desk.run("train", *words, "--plain", "--runs", desk.runs)


def assert_refused(finished: Any, said: tuple[str, ...]) -> None:
    assert len(finished.err.splitlines()) == 1, finished.err
    sentence = finished.err.strip()
    assert finished.code == 2
    assert sentence.startswith("coterie: ")
    assert [words for words in said if words not in sentence] == [], sentence


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_refused_in_one_sentence(what: str, refusals: dict[str, Future[Any]]) -> None:
    assert_refused(refusals[what].result(), CASES[what][1])


def test_a_refused_run_leaves_no_process_and_no_folder(
    refusals: dict[str, Future[Any]], shared_desk: Any
) -> None:
    for refusal in refusals.values():
        refusal.result()
    assert not shared_desk.processes()
    assert not list(shared_desk.runs.glob("small*"))


def test_a_missing_job_file_is_named(desk: Any) -> None:
    assert_refused(refused(desk, "jab.yaml"), ("jab.yaml", "check the path"))


def test_a_port_that_is_taken_is_named(desk: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = refused(desk, desk.job(listen=f"127.0.0.1:{port}"))
    assert_refused(finished, (f"127.0.0.1:{port}", "in use", "--set listen="))
    assert not list(desk.runs.glob("*"))


def test_there_is_nothing_to_resume(desk: Any) -> None:
    assert_refused(refused(desk, desk.job(), "--resume"), ("a run of small", "leave out --resume"))


@pytest.fixture(scope="module")
def run(shared_desk: Any) -> Path:
    keys = {"agents": 1, "until": {"steps": 100}, "checkpoint_every_s": 0.2, "name": "whole"}
    assert shared_desk.train(shared_desk.job("whole", **keys)).code == 0
    return Path(shared_desk.runs / "whole")


class TestCheckpoints:
    def test_a_damaged_one_is_refused_and_the_good_one_before_it_is_named(
        self, run: Path, shared_desk: Any
    ) -> None:
        before = (run / "job.yaml").read_text()
        newest, older = sorted(
            (run / "checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]), reverse=True
        )[:2]
        weights = newest / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        finished = refused(shared_desk, shared_desk.job("again"), "--resume-from", newest)
        weights.write_bytes(whole)
        assert_refused(finished, (str(weights), "damaged", f"--resume-from {older}"))
        assert (run / "job.yaml").read_text() == before

    @pytest.mark.parametrize("agents", [1, 2])
    def test_a_run_goes_on_from_the_one_before_a_damaged_one_and_says_so(
        self, agents: int, run: Path, shared_desk: Any
    ) -> None:
        name = f"copy-{agents}"
        copy = shutil.copytree(run, shared_desk.runs / name)
        newest = copy / "checkpoints" / (copy / "latest").read_text().strip()
        (newest / "model.safetensors").unlink()
        keys = {"name": name, "agents": agents, "until": {"steps": 110}}
        finished = shared_desk.train(shared_desk.job(name, **keys), "--resume")
        assert finished.code == 0, finished.err
        (warning,) = (e["text"] for e in shared_desk.events(name) if e["kind"] == "warning")
        assert "model.safetensors cannot be read" in warning
        assert "the newest good one" in warning
        assert f"warning: {warning}" in finished.err
        resumed = shared_desk.events(name)[-1]
        assert resumed["kind"] == "stopped"
        assert finished.answer["steps"] == 110

    @pytest.mark.parametrize("agents", [1, 2])
    def test_one_of_another_model_is_refused_and_its_run_is_left_as_it_was(
        self, agents: int, run: Path, shared_desk: Any
    ) -> None:
        before = (run / "job.yaml").read_text()
        wider = with_task(model={"call": "shop:net", "with": {"width": 16}})
        path = shared_desk.job(f"wider-{agents}", **wider, agents=agents)
        finished = refused(shared_desk, path, "--resume-from", run)
        assert_refused(finished, ("0.weight", "another model", "start anew"))
        assert (run / "job.yaml").read_text() == before
        assert (run / "latest").exists()


@pytest.mark.parametrize("agents", [1, 2])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    agents: int, desk: Any
) -> None:
    (desk.folder / "broken.py").write_text(BROKEN)
    keys = {"agents": agents, "until": {"minutes": 5}, "checkpoint_every_s": 0.1}
    finished = desk.train(desk.job(**keys, **with_task(train="broken:poisoned")))
    saved = [event["path"] for event in desk.events() if event["kind"] == "checkpoint"]
    assert finished.code == 1
    sentence = finished.err.splitlines()[-1]
    assert "expected a finite loss, found nan" in sentence
    assert f"the last good checkpoint is {saved[-1]}" in sentence
    assert Path(saved[-1], "meta.json").exists()
    assert "Traceback" not in finished.err
    assert not desk.await_empty()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a tmpfs")
    mounted: list[Path] = []

    def mount(num_bytes: int) -> Path:
        disk = tmp_path / "runs"
        disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(disk)]
        made = subprocess.run(words, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("agents", [1, 2])
def test_a_full_disk_is_told_and_costs_no_earlier_checkpoint(
    agents: int, desk: Any, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk((1 + agents) * 2 << 20)  # for one checkpoint, and no second
    keys = {"agents": agents, "until": {"minutes": 5}, "checkpoint_every_s": 0.5}
    model = {"call": "shop:net", "with": {"width": 16_000}}  # 0.8 MB, and as much momentum
    process = desk.start(
        "train", desk.job(**keys, **with_task(model=model)), "--json", "--runs", disk
    )
    saved = desk.await_event(lambda event: event["kind"] == "checkpoint")
    told = desk.await_event(lambda event: event["kind"] == "warning")
    assert "No space left" in told["text"]
    assert "the last good one is" in told["text"]
    process.terminate()
    finished = desk.finish(process)
    assert finished.code == 1
    assert "No space left" in finished.err.splitlines()[-1]
    assert "the last good checkpoint is" in finished.err.splitlines()[-1]
    assert "Traceback" not in finished.err
    assert Path(saved["path"]).parent.is_dir()
    assert not desk.await_empty()


@pytest.mark.parametrize("agents", [1, 2])
def test_events_that_find_no_room_are_held_until_there_is_some(
    agents: int, desk: Any, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk(1 << 20)
    keys = {"agents": agents, "until": {"minutes": 5}, "checkpoint_every_s": 1e6}
    process = desk.start("train", desk.job(**keys), "--json", "--runs", disk)
    desk.await_event(lambda event: event["kind"] == "progress")
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    warning = next(line for line in process.stderr if line.startswith("warning: "))
    assert "No space left on device" in warning
    assert "held in memory" in warning
    known = desk.events()[-1]["seq"]
    time_s = time.time()
    filler.unlink()
    late = desk.await_event(lambda event: event["seq"] > known + 1)
    process.terminate()
    finished = desk.finish(process)
    assert finished.code == 130, finished.err
    told = desk.events()
    assert [event["seq"] for event in told] == list(range(len(told)))
    assert [event["time_s"] for event in told] == sorted(event["time_s"] for event in told)
    assert told[known + 1]["time_s"] < time_s  # its own, not that of its writing
    assert late["seq"] == known + 2
    assert told[-1]["kind"] == "stopped"
    assert "Traceback" not in finished.err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_strangers_are_refused_and_the_holder_of_the_key_becomes_a_member(desk: Any) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    job = desk.job(agents={"local": 1, "remote": 1}, listen=endpoint)
    waiting = desk.start("train", job, "--json", "--runs", desk.runs)
    desk.await_event(lambda event: event["kind"] == "run")
    key = desk.runs / "small" / "join.key"
    own = JoinKey.read(key)
    other = Keys.make().join
    other.write(desk.folder / "other.key")
    JoinKey(own.server_public, other.agent_secret).write(desk.folder / "forged.key")
    strangers = [
        desk.start("join", endpoint, "--key", path, "--name", "stranger")
        for path in ("other.key", "forged.key", "shop.py")
    ]
    refusals = [desk.finish(stranger) for stranger in strangers]
    for refusal, said in zip(
        refusals, ("hung up", "refused this agent's key", "a join key"), strict=True
    ):
        assert_refused(refusal, (said, "join.key"))
    guest = desk.start("join", endpoint, "--key", key, "--name", "guest")
    finished = desk.finish(waiting)
    assert finished.code == 0, finished.err
    assert desk.finish(guest).code == 0
    told = [event for event in desk.events() if event["kind"] == "agent"]
    assert {event["member"] for event in told} == {"agent-0", "guest"}
    first_term = next(event for event in desk.events() if event["kind"] == "term")
    assert first_term["members"] == ["agent-0", "guest"]
    assert not desk.await_empty()

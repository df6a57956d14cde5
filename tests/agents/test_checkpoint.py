"""A checkpoint is there whole or not at all, and a damaged one never loads."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coterie.agents.checkpoint import (
    JSON,
    check_layout,
    choose,
    describe_layout,
    good_checkpoints,
    load,
    save,
)
from coterie.errors import CheckpointError
from coterie.types import Layout

FILES = {"model.safetensors": b"weights of 20", "state/laptop.safetensors": bytes(range(50))}


def save_steps(run: Path, *steps: int, keep: int = 3) -> None:
    for step in steps:
        save(run, step, {"model.safetensors": f"weights of {step}".encode()}, {}, keep)


def names(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


class Crash(BaseException):
    """The machine loses its power: nothing of ours runs any more."""


@contextmanager
def failing(name: str, calls_at: range, error: BaseException) -> Iterator[list[str]]:
    """Let some calls of os.<name> raise, the first being 1; the calls made."""
    real: Callable[..., object] = getattr(os, name)
    calls: list[str] = []

    def call(*args: object, **options: object) -> object:
        calls.append(name)
        if len(calls) in calls_at:
            raise error
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, call)
        yield calls


# Written and read


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    meta: dict[str, JSON] = {"loss": 0.25, "spans": {"laptop": [[0, 4]]}, "best": None}
    written = save(tmp_path, 20, FILES, meta)
    assert written == tmp_path / "checkpoints" / "step-20"
    for path in (tmp_path, written):
        checkpoint = load(path)
        assert (checkpoint.step, checkpoint.meta, checkpoint.files) == (20, meta, FILES)


def test_the_folder_is_as_documented(tmp_path: Path) -> None:
    save(tmp_path, 20, FILES, {})
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "checkpoints/step-20/meta.json",
        "checkpoints/step-20/model.safetensors",
        "checkpoints/step-20/state/laptop.safetensors",
        "latest",
    ]
    assert (tmp_path / "latest").read_text() == "step-20\n"


def test_the_latest_is_the_last_written_not_the_highest(tmp_path: Path) -> None:
    save_steps(tmp_path, 20, 40, 30)
    assert load(tmp_path).step == 30


@pytest.mark.parametrize("pointer", [None, b"step-99\n", b"../../etc\n", b"\xff", b""])
def test_without_a_pointer_the_newest_is_found(tmp_path: Path, pointer: bytes | None) -> None:
    save_steps(tmp_path, 9, 10)
    (tmp_path / "latest").unlink()
    if pointer is not None:
        (tmp_path / "latest").write_bytes(pointer)
    assert load(tmp_path).step == 10


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no checkpoint in"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "step-20")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "./a", "a\\b", "a\0b", "meta.json"],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="inside the checkpoint"):
        save(tmp_path, 20, {name: b""}, {})
    assert not (tmp_path / "latest").exists()


@pytest.mark.parametrize(("step", "keep"), [(-1, 3), (20, 0)])
def test_impossible_numbers_are_refused(tmp_path: Path, step: int, keep: int) -> None:
    with pytest.raises(CheckpointError, match="correct them"):
        save(tmp_path, step, FILES, {}, keep)


def test_meta_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected values of JSON in the meta of step 20"):
        save(tmp_path, 20, FILES, {"weights": b"raw"})


def test_checkpoints_load_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import coterie.agents.checkpoint"
    subprocess.run([sys.executable, "-c", code], check=True)


# Kept and pruned


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 8, 9, 10, 11, keep=2)
    assert names(tmp_path) == ["step-10", "step-11"]


def test_after_going_back_the_road_left_behind_is_pruned_first(tmp_path: Path) -> None:
    save_steps(tmp_path, 20, 30, 40)
    save_steps(tmp_path, 25)
    assert names(tmp_path) == ["step-20", "step-25", "step-40"]
    save_steps(tmp_path, 26)
    assert names(tmp_path) == ["step-20", "step-25", "step-26"]


def test_the_one_just_written_is_never_pruned(tmp_path: Path) -> None:
    save_steps(tmp_path, 30, 40)
    save_steps(tmp_path, 10, keep=1)
    assert names(tmp_path) == ["step-10"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save_steps(tmp_path, 20)
    save(tmp_path, 20, FILES, {"second": True})
    assert load(tmp_path).meta == {"second": True}
    assert names(tmp_path) == ["step-20"]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    save_steps(tmp_path, 20)
    (tmp_path / "checkpoints" / ".gitignore").write_text("*")
    (tmp_path / "checkpoints" / "notes").mkdir()
    save_steps(tmp_path, 30, keep=1)
    assert names(tmp_path) == [".gitignore", "notes", "step-30"]


# Damage


def damaged_bytes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Flip one bit of each byte in turn; it is mended before the next."""
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        good = file.read_bytes()
        for place in range(len(good)):
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            file.write_bytes(bad)
            yield file, place
        file.write_bytes(good)


def complaint(path: Path) -> str:
    try:
        load(path)
    except CheckpointError as error:
        return str(error)
    return ""


def test_every_flipped_bit_is_caught(tmp_path: Path) -> None:
    folder = save(tmp_path, 20, FILES, {"loss": 0.25})
    num_flips = 0
    for file, place in damaged_bytes(folder):
        assert str(file) in complaint(folder), f"the flip at {place} of {file} was not seen"
        num_flips += 1
    assert num_flips == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert load(folder).files == FILES


@pytest.mark.parametrize("name", ["meta.json", *FILES])
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: b"", lambda data: data + b" "]
)
def test_a_file_of_another_length_is_caught(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    folder = save(tmp_path, 20, FILES, {})
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    reason = "its own SHA-256" if name == "meta.json" else "expected [0-9]+ bytes"
    with pytest.raises(CheckpointError, match=f"{name} is damaged: .*{reason}"):
        load(folder)


@pytest.mark.parametrize("name", ["meta.json", *FILES])
def test_a_missing_file_is_caught(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 20, FILES, {})
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: No such file"):
        load(tmp_path)


def test_a_damaged_one_names_the_next_older_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 10, 20, 30, 40, keep=4)
    for step in (20, 30):
        (tmp_path / f"checkpoints/step-{step}/model.safetensors").write_bytes(b"?")
    good, damaged = (tmp_path / "checkpoints" / f"step-{step}" for step in (10, 30))
    assert [found.name for found in good_checkpoints(tmp_path)] == ["step-40", "step-10"]
    monkeypatch.chdir(damaged)
    assert load(Path("../..")).step == 40
    for path in (damaged, Path(".")):
        assert complaint(path).startswith(f"{damaged / 'model.safetensors'} is damaged")
        assert complaint(path).endswith(f"resume from it with --resume-from {good}")
    (good / "meta.json").unlink()
    assert "no older good one" in complaint(damaged)


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[3] ^= 4
    file.write_bytes(data)


def lose_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "meta.json").unlink()


damages = pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut_short, "model.safetensors is damaged: expected 13 bytes, found 12"),
        (flip_a_bit, "model.safetensors is damaged: it differs from its SHA-256"),
        (lose_the_weights, "model.safetensors cannot be read"),
        (lose_the_manifest, "meta.json cannot be read"),
        (shutil.rmtree, ""),
    ],
)


@damages
def test_a_run_goes_on_from_the_newest_good_checkpoint(
    tmp_path: Path, damage: Callable[[Path], None], found: str
) -> None:
    save_steps(tmp_path, 10, 20, 30)
    for step in (20, 30):
        damage(tmp_path / "checkpoints" / f"step-{step}")
    folder, passed_over = choose(tmp_path)
    assert folder == tmp_path / "checkpoints" / "step-10"
    assert found in passed_over
    assert bool(found) == ("going on from step-10" in passed_over)
    assert "--resume-from" not in passed_over


@damages
def test_a_damaged_one_that_is_named_is_refused_and_so_is_a_run_without_a_good_one(
    tmp_path: Path, damage: Callable[[Path], None], found: str
) -> None:
    save_steps(tmp_path, 10, 20)
    damage(tmp_path / "checkpoints" / "step-20")
    with pytest.raises(CheckpointError, match=r"--resume-from .*step-10"):
        choose(tmp_path / "checkpoints" / "step-20")
    damage(tmp_path / "checkpoints" / "step-10")
    with pytest.raises(CheckpointError, match=r"start anew|found no checkpoint"):
        choose(tmp_path)


def test_a_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 20)
    for path, step in ((tmp_path, 20), (tmp_path / "checkpoints" / "step-10", 10)):
        assert choose(path) == (tmp_path / "checkpoints" / f"step-{step}", "")


def test_a_format_of_another_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("coterie.agents.checkpoint._FORMAT", "coterie checkpoint 2")
        save(tmp_path, 20, FILES, {})
    with pytest.raises(CheckpointError, match="another version of Coterie"):
        load(tmp_path)


# Crashes and full disks. A save of FILES syncs 3 files, 2 folders, the pointer, 2 folders again.

STEPS_OF_A_SAVE = [*(("fsync", n) for n in range(1, 9)), ("replace", 1), ("replace", 2)]


@pytest.mark.parametrize(("name", "at"), STEPS_OF_A_SAVE)
def test_a_crash_anywhere_leaves_a_checkpoint_that_loads(
    tmp_path: Path, name: str, at: int
) -> None:
    save_steps(tmp_path, 10)
    with failing(name, range(at, 99), Crash()), pytest.raises(Crash):
        save(tmp_path, 20, FILES, {})
    assert load(tmp_path).files in ({"model.safetensors": b"weights of 10"}, FILES)
    assert tmp_path / "checkpoints" / "step-10" in good_checkpoints(tmp_path)
    save_steps(tmp_path, 30)
    assert load(tmp_path).step == 30
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(("name", "at"), STEPS_OF_A_SAVE)
def test_an_error_anywhere_undoes_the_save(tmp_path: Path, name: str, at: int) -> None:
    save_steps(tmp_path, 10)
    with (
        failing(name, range(at, at + 1), FULL),
        pytest.raises(CheckpointError, match=r"step 20 .*No space left.*step-10; free [\d,]+"),
    ):
        save(tmp_path, 20, FILES, {})
    assert names(tmp_path) == ["step-10"]
    assert load(tmp_path).step == 10


def test_a_save_takes_the_steps_that_are_tested(tmp_path: Path) -> None:
    save_steps(tmp_path, 10)
    with failing("fsync", range(0), FULL) as syncs, failing("replace", range(0), FULL) as renames:
        save(tmp_path, 20, FILES, {})
    assert len(syncs) == sum(name == "fsync" for name, _ in STEPS_OF_A_SAVE)
    assert len(renames) == sum(name == "replace" for name, _ in STEPS_OF_A_SAVE)


@pytest.mark.parametrize("error", [Crash(), BROKEN], ids=repr)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_replacing_the_only_checkpoint_never_loses_it(
    tmp_path: Path, at: int, error: BaseException
) -> None:
    save(tmp_path, 20, FILES, {"attempt": 1})
    with failing("replace", range(at, at + 1), error), pytest.raises((Crash, CheckpointError)):
        save(tmp_path, 20, FILES, {"attempt": 2})
    assert load(tmp_path).files == FILES
    written = at == 3 and isinstance(error, Crash)
    assert load(tmp_path).meta == {"attempt": 2 if written else 1}
    save(tmp_path, 30, FILES, {})
    assert names(tmp_path) == ["step-20", "step-30"]
    assert len(good_checkpoints(tmp_path)) == 2


def test_the_first_save_on_a_full_disk_says_that_nothing_is_left(tmp_path: Path) -> None:
    with (
        failing("fsync", range(1, 2), FULL),
        pytest.raises(CheckpointError, match="there is no earlier good one"),
    ):
        save(tmp_path, 20, FILES, {})
    with pytest.raises(CheckpointError, match="found no checkpoint"):
        load(tmp_path)


def test_a_run_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match=r"could not be written: .*check the disk"):
        save(tmp_path, 20, FILES, {})


@pytest.mark.parametrize("error", [Crash(), BROKEN], ids=repr)
def test_failing_to_prune_leaves_whole_checkpoints(tmp_path: Path, error: BaseException) -> None:
    save_steps(tmp_path, 10)
    with (
        failing("replace", range(3, 99), error),
        pytest.raises((Crash, CheckpointError), match=r"^$|step 20 is written, but older"),
    ):
        save(tmp_path, 20, FILES, {}, keep=1)
    assert load(tmp_path).step == 20
    assert len(good_checkpoints(tmp_path)) == 2


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not (mount and unmount):
        pytest.skip("mounting a tiny disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run([unmount, str(disk)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    save_steps(tiny_disk, 10)
    with pytest.raises(CheckpointError, match=r"step 20 .*No space left.*is step-10; free"):
        save(tiny_disk, 20, {"model.safetensors": bytes(1 << 19)}, {})
    assert names(tiny_disk) == ["step-10"]
    assert load(tiny_disk).files == {"model.safetensors": b"weights of 10"}
    save_steps(tiny_disk, 30)
    assert load(tiny_disk).step == 30


# Another model


LAYOUT = Layout(("trunk.weight", "bias"), ((2, 3), ()))


def test_a_checkpoint_of_the_same_model_is_accepted(tmp_path: Path) -> None:
    save(tmp_path, 20, FILES, {"layout": describe_layout(LAYOUT)})
    check_layout(LAYOUT, load(tmp_path).meta)


@pytest.mark.parametrize(
    ("names", "shapes", "place", "found"),
    [
        (("trunk.weight", "bias"), ((2, 4), ()), 1, "trunk.weight (2 x 4)"),
        (("bias", "trunk.weight"), ((), (2, 3)), 1, "bias (a scalar)"),
        (("trunk.weight", "gain"), ((2, 3), ()), 2, "gain (a scalar)"),
        (("trunk.weight",), ((2, 3),), 2, "none"),
        (("trunk.weight", "bias", "extra"), ((2, 3), (), (5,)), 3, "extra (5)"),
    ],
    ids=["shape", "order", "name", "missing", "extra"],
)
def test_the_first_parameter_that_differs_is_named(
    names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], place: int, found: str
) -> None:
    wanted = ["trunk.weight (2 x 3)", "bias (a scalar)", "none"][place - 1]
    with pytest.raises(CheckpointError) as refusal:
        check_layout(LAYOUT, {"layout": describe_layout(Layout(names, shapes))})
    assert f"parameter {place} to be {wanted}, found {found}; " in str(refusal.value)


@pytest.mark.parametrize(
    "meta", [{}, {"layout": None}, {"layout": {"names": []}}, {"layout": {"a": 1}}]
)
def test_a_checkpoint_without_a_layout_is_refused(meta: dict[str, JSON]) -> None:
    with pytest.raises(CheckpointError, match="describes its model's layout"):
        check_layout(LAYOUT, meta)

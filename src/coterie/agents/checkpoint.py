"""A run's checkpoints on disk: written whole or not at all, and never read without their hashes.

    runs/<name>/latest                             the name of the newest checkpoint: step-N
    runs/<name>/checkpoints/step-N/meta.json       size and SHA-256 of every file, and its own
                                  /model.safetensors
                                  /state/<member>.safetensors

Names that begin with a dot are work in progress. Nothing here loads torch: files are bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

from coterie.errors import CheckpointError
from coterie.types import Layout

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_FORMAT = "coterie checkpoint 1"
_META = "meta.json"
_SEAL = b',\n  "sha256": "'  # opens the last line of meta.json: the hash of all that stands before
_STEP = re.compile(r"step-(\d+)")
_REPLACED = re.compile(r"\.step-(\d+)\.replaced")
_WORK = re.compile(r"\.(step-\d+|latest)\.(partial|replaced|pruned)")


@dataclass(frozen=True)
class Checkpoint:
    """What `load` has read and verified."""

    step: int
    meta: Mapping[str, JSON]
    files: Mapping[str, bytes]


def digest(data: bytes) -> str:
    """SHA-256 of some bytes, as 64 hexadecimal digits.

    >>> digest(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def save(
    run: Path, step: int, files: Mapping[str, bytes], meta: Mapping[str, JSON], keep: int = 3
) -> Path:
    """Write the checkpoint of a step, point `latest` to it, keep the last few; its folder.

    File names are relative, such as `state/laptop.safetensors`. An error of the disk raises
    CheckpointError and leaves every earlier checkpoint as it was; a crash leaves a dot folder that
    the next save clears. One process writes a run. A checkpoint of the same step is replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     written = save(Path(run), 20, {"model.safetensors": b"weights"}, {"loss": 0.5})
    ...     print(written.name, load(Path(run)).meta)
    step-20 {'loss': 0.5}
    """
    if step < 0 or keep < 1:
        raise CheckpointError(
            f"expected a step of at least 0 and at least 1 checkpoint to keep, "
            f"found step {step} and keep {keep}; correct them"
        )
    contents = {**files, _META: _sealed_meta(step, files, meta)}
    folder = run / "checkpoints"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        _write(folder / f".step-{step}.partial", contents)
        _commit(run, step)
    except OSError as error:
        with suppress(OSError):  # what cannot be swept now is swept by the next save
            _sweep(folder)
        raise _unwritten(folder, step, sum(map(len, contents.values())), error) from error
    _prune(folder, step, keep)
    return folder / f"step-{step}"


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or the latest one of a run folder; every byte is verified.

    A damaged one raises CheckpointError, which names the file and the next older good checkpoint.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     written = save(Path(run), 20, {"model.safetensors": b"weights"}, {})
    ...     load(written).files
    {'model.safetensors': b'weights'}
    """
    folder = _locate(path.absolute())
    try:
        step, meta, manifest = _read_meta(folder)
        return Checkpoint(step, meta, dict(_verified_files(folder, manifest)))
    except CheckpointError as damage:
        older = _newest_good(folder.parent, below=_step_of(folder))
        advice = (
            f"the next older good one is {older.name}: resume from it with --resume-from {older}"
            if older
            else "no older good one stands beside it: restore a copy, or start anew"
        )
        raise CheckpointError(f"{damage}; {advice}") from damage


def choose(path: Path) -> tuple[Path, str]:
    """What to go on from: a run's newest good checkpoint, and what is wrong with a newer one.

    A checkpoint that is named itself is taken or refused.
    """
    folder = _locate(path.absolute())
    try:
        load(folder)
    except CheckpointError as refusal:
        older = _newest_good(folder.parent, below=_step_of(folder))
        if folder == path.absolute() or older is None:
            raise
        return older, f"{refusal.__cause__}; going on from {older.name}, the newest good one"
    return folder, ""


def good_checkpoints(run: Path) -> list[Path]:
    """Folders of a run's checkpoints whose every byte is verified, newest first.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     for step in (20, 40):
    ...         written = save(Path(run), step, {"model.safetensors": b"weights"}, {})
    ...     [good.name for good in good_checkpoints(Path(run))]
    ['step-40', 'step-20']
    """
    return [folder for _, folder in _by_step(run / "checkpoints") if _is_good(folder)]


def describe_layout(layout: Layout) -> dict[str, JSON]:
    """A layout as JSON: what `check_layout` looks for in `meta["layout"]`.

    >>> describe_layout(Layout(("head.bias",), ((4,),)))
    {'names': ['head.bias'], 'shapes': [[4]]}
    """
    return {"names": list(layout.names), "shapes": [list(shape) for shape in layout.shapes]}


def check_layout(expected: Layout, meta: Mapping[str, JSON]) -> None:
    """Refuse the checkpoint of another model: CheckpointError names the first parameter off.

    >>> layout = Layout(("head.bias",), ((4,),))
    >>> check_layout(layout, {"layout": describe_layout(layout)})
    >>> check_layout(layout, {"layout": {"names": ["head.bias"], "shapes": [[5]]}})
    Traceback (most recent call last):
    coterie.errors.CheckpointError: expected parameter 1 to be head.bias (4), found head.bias (5); \
this is a checkpoint of another model: resume with the model that wrote it, or start anew
    """
    layout = meta.get("layout")
    if not isinstance(layout, Mapping) or not layout.keys() >= {"names", "shapes"}:
        raise CheckpointError(
            f"expected a checkpoint that describes its model's layout, found {layout!r}; "
            "resume from one that this run wrote"
        )
    wanted = describe_layout(expected)
    pairs = zip_longest(_parameters(wanted), _parameters(layout), fillvalue="none")
    for place, (want, found) in enumerate(pairs, start=1):
        if want != found:
            raise CheckpointError(
                f"expected parameter {place} to be {want}, found {found}; this is a checkpoint of "
                "another model: resume with the model that wrote it, or start anew"
            )


def _parameters(layout: Mapping[str, JSON]) -> list[str]:
    """Each parameter in words, such as `head.weight (10 x 64)`."""
    names = cast("Sequence[str]", layout["names"])
    shapes = cast("Sequence[Sequence[int]]", layout["shapes"])
    return [
        f"{name} ({' x '.join(map(str, shape)) or 'a scalar'})"
        for name, shape in zip(names, shapes, strict=True)
    ]


# meta.json: the manifest, sealed by the hash of its own bytes


def _sealed_meta(step: int, files: Mapping[str, bytes], meta: Mapping[str, JSON]) -> bytes:
    for name in files:
        _check_name(name)
    manifest = {name: {"bytes": len(data), "sha256": digest(data)} for name, data in files.items()}
    document = {"format": _FORMAT, "step": step, "meta": dict(meta), "files": manifest}
    try:
        head = json.dumps(document, indent=2).removesuffix("\n}").encode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected values of JSON in the meta of step {step}, found others ({error}); "
            "keep numbers, strings, lists and dicts there, and bytes in files"
        ) from error
    return head + _tail(head)


def _tail(head: bytes) -> bytes:
    return _SEAL + f'{digest(head)}"\n}}\n'.encode()


def _read_meta(folder: Path) -> tuple[int, dict[str, JSON], dict[str, Any]]:
    """Step, meta and manifest of a checkpoint, once the seal has been verified."""
    data = _read(folder, _META)
    head, _, _ = data.rpartition(_SEAL)
    if data != head + _tail(head):
        raise CheckpointError(f"{folder / _META} is damaged: it differs from its own SHA-256")
    document = json.loads(data)
    if document["format"] != _FORMAT:
        raise CheckpointError(
            f"expected {_FORMAT!r} in {folder / _META}, found {document['format']!r}: "
            "it needs another version of Coterie"
        )
    return document["step"], document["meta"], document["files"]


def _verified_files(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Each file that the manifest names, with its bytes, one in memory at a time."""
    for name, entry in manifest.items():
        data = _read(folder, name)
        if len(data) != entry["bytes"]:
            raise CheckpointError(
                f"{folder / name} is damaged: expected {entry['bytes']:,} bytes, "
                f"found {len(data):,}"
            )
        if digest(data) != entry["sha256"]:
            raise CheckpointError(f"{folder / name} is damaged: it differs from its SHA-256")
        yield name, data


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error.strerror}") from error


def _check_name(name: str) -> None:
    """Members name their files, and a member must not write outside the folder."""
    path = PurePosixPath(name)
    inside = path.parts and not path.is_absolute() and ".." not in path.parts
    plain = name == str(path) and name.isprintable() and "\\" not in name
    if not (inside and plain and name != _META):
        raise CheckpointError(
            f"expected the name of a file inside the checkpoint, found {name!r}; "
            "use a relative one such as state/laptop.safetensors"
        )


# Where checkpoints lie


def _locate(path: Path) -> Path:
    """The checkpoint folder that is meant by a run folder or a checkpoint folder."""
    if _STEP.fullmatch(path.name) or (path / _META).exists():
        return path
    known = [folder for _, folder in _by_step(path / "checkpoints")]
    if not known:
        raise CheckpointError(
            f"expected a run or a checkpoint folder, found no checkpoint in {path}; "
            "give --resume-from the folder of a run that has written one"
        )
    pointed = (path / "latest").is_file()
    name = _read(path, "latest").decode(errors="replace").strip() if pointed else ""
    # `latest` is a hint: without it the newest folder is meant, and it proves itself.
    return next((folder for folder in known if folder.name == name), known[0])


def _by_step(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints in `folder`, newest first, good or not."""
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    found = {}
    for pattern in (_REPLACED, _STEP):  # one set aside counts until its replacement stands
        for entry in entries:
            if named := pattern.fullmatch(entry.name):
                found[int(named[1])] = entry
    return sorted(found.items(), reverse=True)


def _step_of(folder: Path) -> int | None:
    named = _STEP.fullmatch(folder.name)
    return int(named[1]) if named else None


def _is_good(folder: Path) -> bool:
    try:
        return all(True for _ in _verified_files(folder, _read_meta(folder)[2]))
    except CheckpointError:
        return False


def _newest_good(folder: Path, below: int | None = None) -> Path | None:
    older = (found for step, found in _by_step(folder) if below is None or step < below)
    return next((found for found in older if _is_good(found)), None)


# Writing: everything into a dot folder, then renames


def _write(partial: Path, contents: Mapping[str, bytes]) -> None:
    for name, data in contents.items():
        file = partial / name
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(file, data)
    for inner in {parent for name in contents for parent in PurePosixPath(name).parents}:
        _sync_folder(partial / inner)


def _commit(run: Path, step: int) -> None:
    """Put the written folder in its place, then point to it; withdraw it if that fails."""
    folder = run / "checkpoints"
    partial, final = folder / f".step-{step}.partial", folder / f"step-{step}"
    pointer = folder / ".latest.partial"
    _write_synced(pointer, f"{final.name}\n".encode())  # before the renames: these need no space
    if final.exists():
        os.replace(final, folder / f".step-{step}.replaced")
    os.replace(partial, final)
    try:
        _sync_folder(folder)
        os.replace(pointer, run / "latest")
        _sync_folder(run)
    except OSError:
        os.replace(final, partial)
        raise


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders; its journal keeps the renames
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Clear what a crash left behind; a checkpoint set aside in vain returns to its place."""
    for entry in list(folder.glob(".*")):
        named = _WORK.fullmatch(entry.name)
        if named is None:
            continue
        name, kind = named.groups()
        if kind == "replaced" and not (folder / name).exists():
            os.replace(entry, folder / name)
        elif entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but `keep` checkpoints: this one, those before it, those of a road left behind."""
    steps = [known for known, _ in _by_step(folder)]
    by_worth = sorted(steps, key=lambda known: (known > step, -known))
    try:
        for known in by_worth[keep:]:
            doomed = folder / f".step-{known}.pruned"  # a rename first: none is ever half deleted
            os.replace(folder / f"step-{known}", doomed)
        _sweep(folder)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint of step {step} is written, but older ones could not be removed: "
            f"{error.strerror or error}; remove them from {folder}"
        ) from error


def _unwritten(folder: Path, step: int, num_bytes: int, error: OSError) -> CheckpointError:
    last = _newest_good(folder)
    standing = f"the last good one is {last.name}" if last else "there is no earlier good one"
    advice = (
        f"free {num_bytes:,} bytes on the disk of {folder}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else f"check the disk and the rights of {folder}"
    )
    return CheckpointError(
        f"checkpoint of step {step} could not be written: {error.strerror or error}; "
        f"{standing}; {advice}"
    )

"""Files for people to fill in: a commented job file, and what editors check files by.

Both are read off the models that load the files, so that neither can go stale.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coterie.config import Job, Ref, overlaid, parse_job
from coterie.errors import CoterieError, JobError
from coterie.specs import kind_of
from coterie.yamls import read_yaml, write_inline

DIALECT = "https://json-schema.org/draft/2020-12/schema"
WIDTH = 100
HEAD = (
    "A job of Coterie, carried out by: coterie train {name}",
    "Lines such as #seed: 0 are defaults; take their # away to change them.",
)


def schema(words: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a file, as editors read it.

    >>> schema(Job)["required"]
    ['name', 'batch', 'until']
    """
    written: dict[str, Any] = _told({"$schema": DIALECT, **words.model_json_schema()})
    return written


def write_job(path: Path, module: str, overrides: Sequence[str], editor_schema: str) -> Job:
    """Write a commented job file whose task lies in a module; the job that it says.

    The module is expected to have `model`, `train_set` and `test_set`, unless overrides such as
    `task.model=nets:small` say otherwise. Raises JobError where the job would be refused, or where
    there is a file already.
    """
    given: dict[str, Any] = {
        "name": path.stem,
        "task": {
            "model": f"{module}:model",
            "train": f"{module}:train_set",
            "test": f"{module}:test_set",
        },
        "optimizer": {"call": "torch.optim:AdamW", "with": {"lr": 1e-3}},
        "batch": 64,
        "until": {"epochs": 10},
    }
    given = overlaid(given, overrides)
    source = " with --set ".join((str(path), *overrides))
    parse_job(given, source)  # what the job refuses is told of the values, not of their text
    text = job_text(path.name, given, editor_schema)
    _write_new(path, text)
    return parse_job(read_yaml(text, str(path)), str(path))


def job_text(name: str, given: Mapping[str, Any], editor_schema: str = "") -> str:
    """The text of a job file: the keys that are given, and all others with their defaults.

    >>> given = dict.fromkeys(["name", "task", "optimizer", "batch", "until"], 1)
    >>> print(job_text("job.yaml", given).splitlines()[0])
    # A job of Coterie, carried out by: coterie train job.yaml
    """
    first = [f"# yaml-language-server: $schema={editor_schema}"] if editor_schema else []
    head = [f"# {line.format(name=name)}" for line in HEAD]
    return "\n".join([*first, *head, *_keys(Job, given, "\n")]) + "\n"


def _keys(words: type[BaseModel], given: Mapping[str, Any], between: str) -> Iterator[str]:
    """Each key with what it means above it; a default as a comment that can be made a line."""
    for name, field in words.model_fields.items():
        key = str(field.validation_alias or name)
        about = " ".join((field.description or "").split())
        yield between + "\n".join(textwrap.wrap(f"# {about}", WIDTH - 2, subsequent_indent="# "))
        if key in given:
            yield from _entry(key, given[key], field)
        else:
            yield from (f"#{line}" for line in _entry(key, _default(field), field))


def _entry(key: str, value: Any, field: FieldInfo) -> Iterator[str]:
    words = _block(field.annotation, value)
    if words is None:
        yield f"{key}: {write_inline(value)}"
    else:
        yield f"{key}:"
        for entry in _keys(words, value, ""):
            yield from (f"  {line}" for line in entry.splitlines())


def _block(shape: object, value: object) -> type[BaseModel] | None:
    """Whose keys stand below a key, by kind where there are several; those of a `Ref` do not."""
    if not isinstance(value, Mapping):
        return None
    for words in _forms(shape):
        if isinstance(words, type) and issubclass(words, BaseModel) and not issubclass(words, Ref):
            kind = words.model_fields.get("kind")
            if kind is None or kind.default == kind_of(value):
                return words
    return None


def _forms(shape: object) -> Iterator[object]:
    """What a key may hold: each of a union, whatever is noted about it."""
    if get_origin(shape) in (Annotated, Union, UnionType):
        for part in get_args(shape):
            yield from _forms(part)
    else:
        yield shape


def _default(field: FieldInfo) -> Any:
    found = field.get_default(call_default_factory=True)
    if not isinstance(found, BaseModel):
        return found
    plain = found.model_dump(by_alias=True)
    return plain["call"] if isinstance(found, Ref) and not found.kwargs else plain


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobError(
            f"expected to write a new file at {path}, found one there; name another, or remove it"
        ) from None
    except OSError as error:
        raise CoterieError(
            f"expected to write {path}, found: {error.strerror or error}; name another path"
        ) from error


def _told(part: Any) -> Any:
    """A schema whose descriptions leave out the examples that are meant for Python."""
    if isinstance(part, list):
        return [_told(each) for each in part]
    if not isinstance(part, dict):
        return part
    told = {key: _told(value) for key, value in part.items()}
    if isinstance(told.get("description"), str):
        told["description"] = told["description"].partition("\n\n>>>")[0]
    return told

"""What is wrong with a file of the user's, in a sentence: the key, what was expected and found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from coterie.errors import JobError

_MAPPING = "a mapping"
_PLAINER = {"model_type": _MAPPING, "dict_type": _MAPPING, "invalid-json-value": "plain values"}


T = TypeVar("T", bound=BaseModel)


def checked(words: type[T], data: Mapping[str, Any], source: str, whole: str, remedy: str) -> T:
    """The words that `data` says; raises JobError with the refusal behind its `source`."""
    try:
        return words.model_validate(data)
    except ValidationError as error:
        raise JobError(f"{source}: {refusal(error, data, words, whole, remedy)}") from None


def refusal(
    error: ValidationError,
    data: Mapping[str, Any],
    words: type[BaseModel],
    whole: str,
    remedy: str,
) -> str:
    """The first problem of `data` that the user can mend, as one sentence.

    `words` say which keys there are, `whole` what the file describes, `remedy` what to do about a
    value that is not as it should be.

    >>> class Tea(BaseModel, extra="forbid"):
    ...     minutes: int
    >>> try:
    ...     Tea.model_validate({"minute": 3})
    ... except ValidationError as error:
    ...     refusal(error, {"minute": 3}, Tea, "the tea", "mend it")
    "expected a key of the tea, found 'minute'; did you mean 'minutes'?"
    """
    # A mistyped key is also a missing one; the mistyping is what the user can mend.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    path = _key_path(first, data)
    where = ".".join(map(str, path))
    match first["type"]:
        case "extra_forbidden":
            return _unknown_key(path, words, whole, first["loc"])
        case "missing":
            return f"expected the key {where}, found none; add it"
        case "value_error":
            text = str(first["ctx"]["error"])
            return f"{where}: {text}" if where else text
    alike = [p for p in problems if _key_path(p, data) == path]
    wanted = " or ".join(dict.fromkeys(map(_wanted, alike)))
    return f"{where}: expected {wanted}, found {shown(first['input'])}; {remedy}"


def shown(found: object) -> str:
    """A value as a sentence can quote it.

    >>> shown(None), shown([1, 2])
    ('nothing', '[1, 2]')
    """
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _key_path(problem: ErrorDetails, data: object) -> tuple[int | str, ...]:
    # Between the user's own keys pydantic's location names members of unions: leave those out.
    path: list[int | str] = []
    for key in problem["loc"]:
        try:
            data = data[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(key)
    return (*path, problem["loc"][-1]) if problem["type"] == "missing" else tuple(path)


def _unknown_key(
    path: Sequence[int | str], words: type[BaseModel], whole: str, loc: Sequence[int | str]
) -> str:
    *parents, found = map(str, path)
    for key in parents:
        words = _words_at(words, key, loc)
    named = words.model_fields.items()
    known = [str(field.validation_alias or name) for name, field in named]
    near = difflib.get_close_matches(found, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"possible are {', '.join(known)}"
    if {"call", "with"} <= set(known):
        hint += " (arguments of the call stand under 'with')"
    return f"expected a key of {'.'.join(parents) or whole}, found {found!r}; {hint}"


def _words_at(words: type[BaseModel], key: str, loc: Sequence[int | str]) -> type[BaseModel]:
    """The words below a key; of several, those whose kind the location of the problem names."""
    field = words.model_fields.get(key)
    pending = [field.annotation] if field else []  # a name of the user's own is no field: stay
    found: list[type[BaseModel]] = []
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        pending.extend(get_args(kind))
    meant = [each for each in found if (f := each.model_fields.get("kind")) and f.default in loc]
    return (meant or found or [words])[0]


def _wanted(problem: ErrorDetails) -> str:
    return _PLAINER.get(problem["type"], re.sub(r"^\w+ should be ", "", problem["msg"]))

"""Many options of a command as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, get_type_hints

Command = Callable[..., None]


def spread(kind: type[Any]) -> Callable[[Command], Command]:
    """A command whose argument `asked`, a dataclass, is given as one option for each field.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Pace:
    ...     speed: int = 1
    >>> @spread(Pace)
    ... def run(path: str, asked: Pace) -> None:
    ...     print(path, asked.speed)
    >>> run(path="far", speed=3)
    far 3
    """
    options = get_type_hints(kind, include_extras=True)

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**given: Any) -> None:
            asked = kind(**{name: given.pop(name) for name in options})
            command(asked=asked, **given)

        signature = _spread(command, kind, options)
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return run

    return decorate


def _spread(command: Command, kind: type[Any], options: dict[str, Any]) -> inspect.Signature:
    """The signature that typer reads: the options of the kind stand where `asked` did."""
    hints = get_type_hints(command, include_extras=True)
    only = inspect.Parameter.KEYWORD_ONLY
    found: list[inspect.Parameter] = []
    for each in inspect.signature(command).parameters.values():
        if each.name != "asked":
            annotation = hints[each.name]
            found.append(each.replace(kind=only, annotation=annotation))
            continue
        for of in fields(kind):
            said = options[of.name]
            found.append(inspect.Parameter(of.name, only, default=of.default, annotation=said))
    return inspect.Signature(found)

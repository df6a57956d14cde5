"""From a name in a job file to the user's own code."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from coterie.config import Ref
from coterie.errors import CoterieError, JobError


def resolve(ref: Ref, root: str | Path) -> Callable[..., Any]:
    """The callable that `module:name` names; modules in the folder `root` come first.

    `root` stays on `sys.path`, because code so found may import its neighbours later. Raises
    JobError when the module is not there, fails on import, or lacks the name.

    >>> resolve(Ref(call="math:hypot"), ".")(3, 4)
    5.0
    """
    module_name, _, dotted = ref.call.partition(":")
    found: Any = _module(module_name, str(Path(root).resolve()))
    for name in dotted.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            near = difflib.get_close_matches(name, dir(found), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "check its spelling"
            raise JobError(f"expected {ref.call}, found no {name!r} there; {hint}") from None
    if not callable(found):
        raise JobError(
            f"expected {ref.call} to be callable, found {found!r:.60}; "
            "name a function or class that returns it"
        )
    return cast(Callable[..., Any], found)


def instantiate(ref: Ref, root: str | Path, *args: object) -> Any:
    """What the referenced callable returns for `args` and the reference's own arguments.

    Raises JobError when the arguments do not fit the signature or the call fails.

    >>> instantiate(Ref(call="builtins:dict", kwargs={"lr": 0.1}), ".")
    {'lr': 0.1}
    """
    target = resolve(ref, root)
    _check_arguments(ref, target, args)
    try:
        return target(*args, **ref.kwargs)
    except CoterieError:
        raise
    except Exception as error:
        raise JobError(f"expected {ref.call} to return, found {quoted(error)}; mend it") from error


def quoted(error: BaseException) -> str:
    """Another's error in one line, its kind first.

    >>> quoted(ValueError("too\\n  small"))
    'ValueError: too small'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _module(name: str, root: str) -> ModuleType:
    if root not in sys.path:
        sys.path.insert(0, root)
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise JobError(_broken(name, error)) from error
        raise JobError(
            f"expected a module {name}, found none in {root} nor among the installed packages; "
            "check its spelling, or set root in the job file"
        ) from None
    except (Exception, SystemExit) as error:  # a script without a main guard exits
        raise JobError(_broken(name, error)) from error
    _check_own(module, root)
    return module


def _broken(name: str, error: BaseException) -> str:
    return f"expected to import {name}, found {quoted(error)}; mend it, or install what it needs"


def _check_own(module: ModuleType, root: str) -> None:
    # A name imported earlier wins over the file in root: the wrong code would train in silence.
    top = module.__name__.partition(".")[0]
    wanted = [p for p in (Path(root, f"{top}.py"), Path(root, top, "__init__.py")) if p.exists()]
    loaded = getattr(sys.modules[top], "__file__", None)
    if wanted and (loaded is None or Path(loaded).resolve() not in [p.resolve() for p in wanted]):
        raise JobError(
            f"expected module {top} to be {wanted[0]}, found {loaded or 'a built-in'} imported "
            "under that name already; rename yours"
        )


def _check_arguments(ref: Ref, target: Callable[..., Any], args: tuple[object, ...]) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return  # a built-in that does not tell: the call itself will
    try:
        signature.bind_partial(*args, **ref.kwargs)  # first, for it names what is mistyped
        signature.bind(*args, **ref.kwargs)
    except TypeError as error:
        raise JobError(
            f"expected arguments that fit {ref.call}{signature}, found: {error}; "
            "mend what stands under 'with'"
        ) from None

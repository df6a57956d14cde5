"""YAML as plain values, read as YAML 1.2 says and written so that it reads back equal."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from coterie.errors import JobError
from coterie.refusals import shown


def read_yaml(text: str, source: str) -> Any:
    """The plain values of a text; `source` says in errors where it came from.

    >>> read_yaml("lr: 1e-3", "job.yaml")
    {'lr': 0.001}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except yaml.YAMLError as error:
        raise JobError(f"{source}: expected YAML, found: {' '.join(str(error).split())}") from None


def read_file(path: Path, what: str) -> dict[str, Any]:
    """The keys of a file that describes `what`; JobError where there is none, or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(
            f"expected a {what} file at {path}, found: {error}; check the path"
        ) from None
    data = read_yaml(text, str(path))
    if not isinstance(data, dict):
        raise JobError(f"{path}: expected a mapping of the {what}'s keys, found {shown(data)}")
    return data


def write_yaml(values: Any) -> str:
    """Plain values as a text that `read_yaml` reads back.

    >>> write_yaml({"lr": 0.001, "name": "1e-3"})
    "lr: 0.001\\nname: '1e-3'\\n"
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def write_inline(value: Any) -> str:
    """A plain value on one line, to stand behind a key.

    >>> write_inline({"lr": 0.001, "layers": [1, 2]}), write_inline(None)
    ('{lr: 0.001, layers: [1, 2]}', 'null')
    """
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf
    )
    return text.removesuffix("...\n").strip()


class _Loader(yaml.SafeLoader):
    """Plain values as YAML 1.2 reads them, each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            problem = f"the key {twice!r} twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back."""


# YAML 1.1 takes 1e-3 for text, and a learning rate is written so more often than not.
_EXPONENT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$")
for _speaker in (_Loader, _Dumper):
    _speaker.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))

"""YAML as plain values, read as YAML 1.2 says and written so that it reads back equal."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from coterie.errors import JobError


def read_yaml(text: str, source: str) -> Any:
    """The plain values of a text; `source` says in errors where it came from.

    >>> read_yaml("lr: 1e-3", "job.yaml")
    {'lr': 0.001}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except yaml.YAMLError as error:
        raise JobError(f"{source}: expected YAML, found: {' '.join(str(error).split())}") from None


def write_yaml(values: Any) -> str:
    """Plain values as a text that `read_yaml` reads back.

    >>> write_yaml({"lr": 0.001, "name": "1e-3"})
    "lr: 0.001\\nname: '1e-3'\\n"
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


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

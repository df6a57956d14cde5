"""What all parts of a job file are made of: keys, and names of the user's code with arguments.

Names stay text here, and only the room that needs the code imports it. Nothing here loads torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue
from pydantic import field_validator as check
from pydantic import model_validator as check_whole
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from coterie.errors import JobError
from coterie.refusals import shown

Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # what may name a file
_CALL = re.compile(r"\w+(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")  # a file may begin with its number


def shorter(form: JsonSchemaValue) -> Callable[..., JsonSchemaValue]:
    """For editors: how a mapping may be said shorter, as its `mode="before"` takes it."""

    def written(
        cls: type[BaseModel], core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler(core)
        about: JsonSchemaValue = {
            key: whole.pop(key) for key in ("title", "description") if key in whole
        }
        return {**about, "anyOf": [form, whole]}

    return written


class Words(BaseModel):
    """Keys of a file: none but these, and none changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class Ref(Words):
    """Something callable of the user's, by name, with the keyword arguments to call it with.

    In YAML the arguments stand under `with`; a reference without any is just the string.

    >>> Ref.model_validate("torch.optim:SGD") == Ref(call="torch.optim:SGD")
    True
    >>> Ref.model_validate({"call": "torch.optim:SGD", "with": {"lr": 0.1}}).kwargs
    {'lr': 0.1}
    """

    call: str
    """module:function"""
    kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, validation_alias="with", serialization_alias="with"
    )
    """The keyword arguments of the call."""

    __get_pydantic_json_schema__ = classmethod(
        shorter({"type": "string", "pattern": f"^{_CALL.pattern}$"})
    )

    @check_whole(mode="before")
    @classmethod
    def _from_string(cls, found: object) -> object:
        if isinstance(found, str):
            return {"call": found}
        if isinstance(found, Mapping | Ref):
            return found
        raise JobError(f"expected 'module:function' or {{call, with}}, found {shown(found)}")

    @check("call")
    @classmethod
    def _names_a_callable(cls, call: str) -> str:
        if _CALL.fullmatch(call):
            return call
        module, _, name = call.rpartition(".")
        meant = f"{module}:{name}"
        hint = f"; was {meant!r} meant?" if _CALL.fullmatch(meant) else "; mend its spelling"
        raise JobError(f"expected 'module:function', found {call!r}{hint}")

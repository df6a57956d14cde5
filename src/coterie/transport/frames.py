"""Messages as frames: each is one of JSON; `State` carries its bytes in a second one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from coterie.errors import CoterieError
from coterie.transport.duties import Duties, FromPupils
from coterie.transport.messages import FromAgent, FromCoordinator, State, Wire

_BY_KIND = Field(discriminator="kind")
_FROM_AGENT: TypeAdapter[Any] = TypeAdapter(Annotated[FromAgent | FromPupils, _BY_KIND])
_FROM_COORDINATOR: TypeAdapter[Any] = TypeAdapter(Annotated[FromCoordinator | Duties, _BY_KIND])


class BadMessage(CoterieError):
    """Frames that are not a message of this protocol."""


def encode(message: Wire) -> list[bytes]:
    """A message as frames.

    >>> from coterie.transport.messages import Stop
    >>> encode(Stop(reason="done"))
    [b'{"kind":"stop","reason":"done","at_once":false,"again":false}']
    """
    frames = [message.model_dump_json().encode()]
    return [*frames, message.blob] if isinstance(message, State) else frames


def decode_from_agent(frames: Sequence[bytes]) -> Any:
    """The message an agent sent; raises BadMessage for anything else."""
    return _decode(_FROM_AGENT, frames)


def decode_from_coordinator(frames: Sequence[bytes]) -> Any:
    """The message the coordinator sent; raises BadMessage for anything else."""
    return _decode(_FROM_COORDINATOR, frames)


def _decode(adapter: TypeAdapter[Any], frames: Sequence[bytes]) -> Any:
    try:
        message = adapter.validate_json(frames[0], strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "what was said"
        raise BadMessage(
            f"expected a message of this protocol, found in {where}: {first['msg']:.200}"
        ) from error
    except IndexError:
        raise BadMessage("expected a message of this protocol, found no frame") from None
    wanted = 2 if isinstance(message, State) else 1
    if len(frames) != wanted:
        raise BadMessage(f"expected {wanted} frames for {message.kind}, found {len(frames)}")
    return message.model_copy(update={"blob": bytes(frames[1])}) if wanted == 2 else message

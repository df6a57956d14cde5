"""Where agents live, as the `engine` section of a job file says it.

The text under a field is what `coterie init` and editors say of it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic import model_validator as check_whole

from coterie.errors import JobError
from coterie.names import Words

AUTO: Literal["auto"] = "auto"
LOCAL: Literal["local"] = "local"
ALL: Literal["all"] = "all"

Amount = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class Engine(Words):
    """What starts the agents: this machine, or a Ray cluster that places one on each node.

    >>> Engine(kind="ray", address="192.0.2.7:6379").cpus
    'auto'
    """

    kind: Literal["local", "ray"] = "local"
    """local starts processes of this machine; ray places agents on the nodes of a Ray cluster."""
    address: str = AUTO
    """Of the Ray cluster: HOST:PORT, auto for the one that this machine is a node of, or local to
    start one here."""
    cpus: Amount | Literal["auto"] = AUTO
    """CPUs that Ray reserves for an agent, which computes on as many threads; auto reserves one,
    and computes on all that the node has."""
    most: Annotated[int, Field(strict=True, gt=0)] | Literal["auto", "all"] = AUTO
    """How many agents at most; all places one on every node that comes; auto is all where agents
    is auto too, and else as many as the run begins with."""
    resources: dict[str, Amount] = Field(default_factory=dict)
    """Of Ray's custom resources, what an agent takes: it is placed where they are."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node has to have."""

    @check_whole(mode="after")
    def _hangs_together(self) -> Engine:
        fields = type(self).model_fields.items()
        wishes = [
            k
            for k, f in fields
            if k != "kind" and getattr(self, k) != f.get_default(call_default_factory=True)
        ]
        if self.kind == "local" and wishes:
            raise JobError(
                f"expected no engine.{wishes[0]} for agents of this machine, found one; leave it "
                "out, or set engine.kind to ray"
            )
        port = re.fullmatch(r"[^\s:/]+:(\d{1,5})", self.address)
        if self.address in (AUTO, LOCAL) or (port and 0 < int(port[1]) < 1 << 16):
            return self
        raise JobError(
            f"expected auto, local or HOST:PORT of a Ray cluster, found {self.address!r}; "
            "ray status prints no address, but ray start --head does"
        )

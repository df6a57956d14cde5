"""Whether a Ray cluster can be reached, and by whom: found out in seconds, and said in a sentence.

Ray's own client tries for half a minute and ends with a trace. Here its port is dialled first; then
two strangers to one another greet it, one with the token of this machine and one with a token that
nobody has.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from coterie.config import Job, parse_job
from coterie.engines.placing import decide, told
from coterie.errors import JobError, JoinError
from coterie.homes import ALL, AUTO, LOCAL, Engine
from coterie.machine import gpus

Answer = Literal["welcome", "refused", "silent"]

DIAL_S, GREET_S, COUNT_S = 2.0, 8.0, 45.0
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
LOOPBACK = ("127.0.0.1", "localhost")
GROWING_S = 600.0  # for nodes that an autoscaler has to bring, where the job says no other time


def surveyed(job: Job) -> Job:
    """A job for a Ray cluster with every `auto` that can be known now made a number or an address.

    Raises JobError or JoinError in a sentence where the cluster cannot be used.
    """
    if find_spec("ray") is None:
        raise JobError(
            "expected Ray for engine.kind: ray, found none installed; "
            "pip install 'coterie[ray]', here and on the nodes"
        )
    engine, agents, listen = job.engine, job.agents, job.listen
    num_here = max(1, len(gpus()))
    if engine.address != LOCAL:
        engine = engine.model_copy(update={"address": find(engine.address, os.environ)})
        knock(engine.address)
        rows = json.loads(_asked("count", engine.address, COUNT_S))
        everywhere = engine.model_copy(update={"most": ALL})
        num_here = len(decide(told(rows), {}, everywhere, 0.0).place)
        if num_here == 0 and agents.local == AUTO:
            raise JobError(
                f"expected a node of {engine.address} with what engine asks for, found none among "
                f"{len(told(rows))}; ask for less, or say how many agents to wait for"
            )
        listen = towards(engine.address, listen)
    wanted = ALL if agents.local == AUTO else agents.local
    most = wanted if engine.most == AUTO else engine.most
    local = num_here if agents.local == AUTO else agents.local
    told_agents = {**agents.model_dump(), "local": local}
    if local > num_here and "join_timeout_s" not in agents.model_fields_set:
        told_agents["join_timeout_s"] = GROWING_S
    data = job.model_dump(by_alias=True, mode="json")
    told_engine = {**engine.model_dump(mode="json"), "most": most}
    return parse_job({**data, "agents": told_agents, "engine": told_engine, "listen": listen})


def find(address: str, env: Mapping[str, str]) -> str:
    """The address of the cluster that is meant; raises JobError where there is none.

    >>> find("auto", {"RAY_ADDRESS": "192.0.2.7:6379"})
    '192.0.2.7:6379'
    """
    if address != AUTO:
        return address
    kept = env.get("RAY_TMPDIR") or env.get("TMPDIR") or "/tmp"  # as Ray itself looks for it
    file = Path(kept, "ray", "ray_current_cluster")
    found = env.get("RAY_ADDRESS", "")
    if found in ("", AUTO):
        try:
            found = file.read_text().strip()
        except OSError:
            raise JobError(
                "expected a Ray cluster that this machine is a node of, found none; join it with "
                "ray start --address=HOST:PORT, name it with engine.address, or set "
                "engine.address=local to start one here"
            ) from None
    return Engine(kind="ray", address=found).address


def knock(address: str) -> None:
    """Raises JoinError unless a cluster is there that lets this machine in, and not everybody."""
    dial(address)
    until_s = time.monotonic() + GREET_S
    stranger = _greeting(address, {MODE: "token", TOKEN: secrets.token_hex(32)})
    # With no token to show, Ray's client ends before it has asked.
    own = _greeting(address, {}) if has_token(os.environ) else stranger
    answers = {greeting: _answer(greeting, until_s) for greeting in (stranger, own)}
    judge(address, answers[own], answers[stranger], os.environ)


def has_token(env: Mapping[str, str]) -> bool:
    """Whether there is a token to show, or none is to be shown."""
    return bool(env.get(TOKEN)) or _kept(env).is_file() or env.get(MODE) == "disabled"


def _kept(env: Mapping[str, str]) -> Path:
    return Path(env.get(TOKEN_PATH, "~/.ray/auth_token")).expanduser()


def dial(address: str) -> None:
    """Raises JoinError where nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), DIAL_S).close()
    except OSError as error:
        raise JoinError(
            f"expected a Ray head at {address}, found nobody there ({error}); check engine.address "
            "and that the cluster runs: ray start --head prints its address"
        ) from error


def judge(address: str, own: Answer, stranger: Answer, env: Mapping[str, str]) -> None:
    """What the answers to this machine's token, and to a token that nobody has, come to.

    >>> judge("192.0.2.7:6379", "welcome", "refused", {})
    """
    if "silent" in (own, stranger):
        raise JoinError(
            f"expected a Ray head at {address}, found a listener that does not answer as one "
            f"within {GREET_S:.0f} s; check the port, and that Ray has one version everywhere"
        )
    if own == "refused":
        where = TOKEN if env.get(TOKEN) else _kept(env)
        found = f"another one in {where}" if has_token(env) else f"none in {where}"
        found = f"that {MODE}=disabled shows none" if env.get(MODE) == "disabled" else found
        raise JoinError(
            f"expected the token of the Ray cluster at {address}, found {found}; copy "
            f"~/.ray/auth_token from its head, or name a copy with {TOKEN_PATH}"
        )
    if stranger == "welcome" and env.get(MODE) != "disabled":
        raise JoinError(
            f"expected the Ray cluster at {address} to ask for a token, found that it lets "
            f"anybody in, who can then run code on it; start it with {MODE}=token, or set "
            f"{MODE}=disabled here to use it all the same"
        )


def guarded(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Ray asks for a token, unless it says otherwise, and tells nobody.

    >>> guarded({"RAY_AUTH_MODE": "disabled"})["RAY_AUTH_MODE"]
    'disabled'
    """
    return {MODE: "token", **env, "RAY_USAGE_STATS_ENABLED": "0"}


def towards(address: str, listen: str) -> str:
    """Where to listen for agents on the nodes: this machine's address on the road to the head."""
    host, _, port = listen.rpartition(":")
    if host not in LOOPBACK:
        return listen
    head, _, head_port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((head, int(head_port)))  # chooses a road, and sends nothing
        return f"{probe.getsockname()[0]}:{port}"


def _command(what: str, address: str) -> list[str]:
    return [sys.executable, "-m", "coterie.engines.ray", what, address]


def _greeting(address: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
    env = {**guarded(os.environ), **env}
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(
        _command("greet", address), env=env, stdin=nothing, stdout=pipe, stderr=nothing, text=True
    )


def _answer(greeting: subprocess.Popen[str], until_s: float) -> Answer:
    try:
        patience_s = max(0.1, until_s - time.monotonic())
        said = greeting.communicate(timeout=patience_s)[0].strip()
    except subprocess.TimeoutExpired:
        greeting.kill()
        greeting.communicate()
        return "silent"
    if said == "welcome":
        return "welcome"
    return "refused" if said == "refused" else "silent"


def _asked(what: str, address: str, timeout_s: float) -> str:
    """What a client of the cluster tells; raises JoinError where it cannot."""
    try:
        done = subprocess.run(
            _command(what, address),
            env=guarded(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        found = (done.stderr.strip() or f"code {done.returncode}").rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        done, found = None, f"no answer within {timeout_s:.0f} s"
    if done is None or done.returncode != 0:
        raise JoinError(
            f"expected to be a client of the Ray cluster at {address}, found: {found}; run this on "
            f"one of its nodes: ray start --address={address}"
        )
    return done.stdout.rpartition("\n")[2] or done.stdout.strip().rpartition("\n")[2]

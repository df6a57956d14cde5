"""Decisions of a run that can be repeated: the same for the same members, whatever is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coterie.coordinator.model import predict
from coterie.errors import JobError, StrategyError
from coterie.specs import MultiSpec
from coterie.sync.teams import Pipeline, Team
from coterie.types import Layout
from coterie.world import Decision, World

if TYPE_CHECKING:
    from coterie.config import Job
    from coterie.sync.chain import Strategy


def refuse_unlooped(strategy: Strategy) -> None:
    """Raise StrategyError for a sentence that a script's own loop cannot learn by.

    >>> from coterie.sync.reading import parse
    >>> refuse_unlooped(parse("average-by-score(8)"))
    Traceback (most recent call last):
    coterie.errors.StrategyError: expected members that hold whole models and count by their \
samples for a script, found chain(Every(8), Reduce(weighted='score'), Outer(1.0)); choose another \
strategy, such as diloco(32)
    """
    is_scored = strategy.exchange.weighted == "score"  # by losses, which a script need not tell
    if is_scored or isinstance(strategy.team, Pipeline):
        raise StrategyError(
            "expected members that hold whole models and count by their samples for a script, "
            f"found {strategy}; choose another strategy, such as diloco(32)"
        )


def refuse_unsteady(strategy: Strategy) -> None:
    """Refuse a sentence by which time or chance decides who is heard, with what, or when.

    >>> from coterie.sync import recipes
    >>> refuse_unsteady(recipes.local_sgd(8))
    >>> refuse_unsteady(recipes.dylu(8))
    Traceback (most recent call last):
    coterie.errors.JobError: expected a strategy that can be repeated beside deterministic: true, \
found one whose members walk as far as their speed allows; choose another, such as local-sgd(8)
    """
    walk = strategy.walk
    reasons = {
        "whose members meet the server whenever each is ready": strategy.exchange.asynchronous,
        "that goes on without whoever is late": bool(strategy.exchange.quorum),
        "whose members walk as far as their speed allows": walk is not None and walk.paced,
        "whose meetings land early where a save or a score asks for it": bool(strategy.overlap),
        "whose noise nobody may know": strategy.secret,
    }
    for reason, so in reasons.items():
        if so:
            raise JobError(
                "expected a strategy that can be repeated beside deterministic: true, found one "
                f"{reason}; choose another, such as local-sgd(8)"
            )


def refuse_owners(job: Job, strategy: Strategy) -> None:
    """Raise StrategyError for a sentence by which heads would not reach all, or should not."""
    if not isinstance(job.task, MultiSpec) or job.task.place == "everywhere":
        return
    private = "Only" in repr(strategy)
    reasons = {
        "whose members meet a server whenever each is ready": strategy.exchange.asynchronous,
        "with noise, beside which heads would be told as they are": private and strategy.secret,
        "of islands or stages": private and isinstance(strategy.team, Team),
    }
    for reason, so in reasons.items():
        if so:
            raise StrategyError(
                "expected a sentence by which owners of tasks meet all others, found one "
                f"{reason}: {strategy}; choose another, or let task.place be everywhere"
            )
    if "equal" in job.baselines:
        raise JobError(
            "expected no baseline of equal shares beside task.place, found one: who owns a task "
            "learns it whatever its share; leave equal out of baselines"
        )


def fixed_shares(
    batch: int, members: Sequence[str], speeds: Sequence[float] | None
) -> dict[str, int]:
    """Shares as given speeds ask for, or equal ones; an agent whose speed is not given counts as 1.

    >>> fixed_shares(64, ["agent-0", "agent-1", "agent-2"], [4.0, 2.0, 1.0])
    {'agent-0': 37, 'agent-1': 18, 'agent-2': 9}
    >>> fixed_shares(8, ["a", "b", "c"], None)
    {'a': 3, 'b': 3, 'c': 2}
    """
    known = {f"agent-{i}": speed for i, speed in enumerate(speeds or ())}
    wanted = {name: known.get(name, 1.0) for name in members}
    parts = {name: batch * speed / sum(wanted.values()) for name, speed in wanted.items()}
    shares = {name: max(1, int(part)) for name, part in parts.items()}
    by_rest = sorted(parts, key=lambda name: shares[name] - parts[name])
    for name in by_rest[: max(0, batch - sum(shares.values()))]:
        shares[name] += 1
    while sum(shares.values()) > batch:  # those who would have less than one sample get it
        shares[max(shares, key=lambda name: shares[name])] -= 1
    return shares


def fixed_decision(
    world: World,
    layout: Layout,
    about: tuple[int, str],
    strategy: Strategy,
    speeds: Sequence[float] | None,
) -> Decision:
    """The asked sentence on all members, with fixed shares; `about` is its number and cause."""
    names = [device.name for device in world.devices]
    if len(names) < strategy.least:
        raise JobError(
            f"expected at least {strategy.least} members for {strategy!r}, found {len(names)}; "
            "start more agents, or ask for another strategy"
        )
    shares = fixed_shares(world.batch, names, speeds)
    option = predict(world, layout, strategy, shares)
    told = ", ".join(f"{name} {share}" for name, share in shares.items())
    number, cause = about
    kind = "in proportion to agents.speeds" if speeds else "equal"
    return Decision(
        number=number,
        cause=cause,
        world=world,
        chosen=option,
        reasons=(
            f"As asked, {option.strategy} with fixed shares, {kind} ({told}): what was measured "
            "decides nothing, so that the run can be repeated bit for bit.",
        ),
    )

"""Membership: who forms the group from now on, after a death or at a boundary."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

from coterie.coordinator.account import put_on_record
from coterie.coordinator.replan import choose
from coterie.coordinator.rounds import Wait, drained, issue_again
from coterie.coordinator.run import UNTRIED_ROAD, Run
from coterie.errors import TrainingError
from coterie.transport import messages as say
from coterie.world import Link

UNKNOWN_BYTES_PER_S = 1e8
SERVER_S = 60.0  # for another server to come, in the place of one that died


def new_term(run: Run, members: Iterable[str], at_once: bool) -> Wait:
    """Name a new membership, and wait until its members have built their group and agree."""
    living = [name for name in members if name in run.members]
    if not living:
        run.bereft = True
        raise TrainingError("expected a member that holds the trained model, found that all died")
    run.torn, run.torn_at_s = False, None
    run.fewer_since_saved |= len(living) < len(run.term.members)
    alike = run.wants_alike and not (run.alike or at_once)  # at a boundary nobody holds a walk
    run.settled.clear()
    run.digests.clear()
    run.healthy.intersection_update(living)  # whoever is left out falls behind
    run.term = say.Term(
        number=run.term.number + 1,
        members=tuple(living),
        store=run.members[living[0]].hello.store,
        spare_store=run.members[living[1]].hello.store if len(living) > 1 else "",
        hub=run.hub.store if run.hub else "",
        apart=run.apart,
        names=run.layout.names if run.hub and run.layout else (),
        shapes=run.layout.shapes if run.hub and run.layout else (),
        strategy=repr(run.asked) if run.hub else "",
        given_out=run.ledger.next_round - 1,
        alike=alike,
        at_once=at_once,
    )
    run.mended = run.term.number if at_once else run.mended
    run.event("term", number=run.term.number, members=list(living))
    for name in run.everybody:
        run.tell(name, run.term_for(name))
    awaited = {say.HUB} if run.apart else set(run.term.members)
    yield lambda: run.torn or run.settled.keys() >= awaited
    run.alike = run.alike or (alike and not run.torn)


def link_up(run: Run) -> Wait:
    """Have the members of the term probe the links among them, where one is not known yet."""
    pairs = {frozenset(pair) for pair in combinations(run.term.members, 2)}
    if run.torn or pairs <= run.links.keys():
        return
    if run.apart:  # members do not meet: a newcomer's road is taken for as slow as any known
        known = list(run.links.values())
        for a, b in (sorted(pair) for pair in pairs - run.links.keys()):
            bytes_per_s = min((link.bytes_per_s for link in known), default=UNKNOWN_BYTES_PER_S)
            latency_s = max((link.latency_s for link in known), default=0.0)
            run.links[frozenset((a, b))] = Link(a, b, latency_s, bytes_per_s)
        return
    yield from probe_links(run)


def probe_links(run: Run) -> Wait:
    """Have the members of the term probe the links among them; they stand for a while."""
    run.doubts_links, run.probe_links_s = False, run.now_s + run.links_stand_s
    run.linked.clear()
    run.tell_term(say.ProbeLinks(term=run.term.number))
    yield lambda: run.torn or bool(run.stopping) or run.linked >= set(run.term.members)


def doubt_links(run: Run) -> Wait:
    """Meetings say that bytes take another time than links do: see which of them have changed.

    Where that explains nothing, it is tried again after twice the time only.
    """
    yield from drained(run)
    if run.torn or run.stopping:
        return
    text = "meetings take another time than the links explain: they are probed again"
    run.event("doubt", text=text)
    run.links_stand_s *= 2
    yield from probe_links(run)
    if not run.torn and not run.stopping:
        run.road = replace(UNTRIED_ROAD, a=run.road.a)
        run.paces.clear()
        run.gauge.mark(run.gauge.arm, run.gauge.decision)
        run.reconsidered_s = -math.inf


def regroup(run: Run) -> Wait:
    """Members are gone: the healthy ones settle on a round, and what the dead held is free."""
    run.pauses.append({})
    run.saving = None  # an order of a term that broke is void
    yield from served(run)
    healthy = [name for name in run.term.members if name in run.healthy]
    before = {*run.term.members, *(run.plan.shares if run.plan else ())}
    yield from new_term(run, healthy, at_once=True)
    if run.torn:
        return
    if run.term.apart:
        run.ledger.forget(before - set(run.term.members))
        issue_again(run)
    else:
        stand = next(s for name, s in run.settled.items() if name != say.HUB)
        run.ledger.settle(stand.round, stand.stands, run.term.members)
    put_on_record(run)
    yield from link_up(run)
    choose(run, _why(run, before - run.members.keys()))
    yield from keep_membership(run)


def give_up_server(run: Run, reason: str) -> None:
    """A server that is silent is ended, for another one to come in its place.

    Should it wake up before it has ended, nothing that it says is heard any more: members that are
    told of another server have hung up on it.
    """
    run.hub, run.hub_awaited_s = None, run.now_s
    run.fenced.add(run.hub_pid)
    run.evicted.append(say.HUB)
    run.event("server", state="suspected", reason=reason)
    run.torn, run.why_torn = True, "the server was lost"


def served(run: Run) -> Wait:
    """Wait for another server in the place of one that died."""
    if run.hub is not None or not run.by_star:
        return
    deadline_s = run.now_s + SERVER_S
    yield lambda: run.hub is not None or run.now_s > deadline_s
    if run.hub is None:
        raise TrainingError(
            f"expected another server of the star road within {SERVER_S:.0f} s, found none; see "
            "the run's log, then resume from a checkpoint"
        )


def _why(run: Run, lost: set[str]) -> str:
    """What a group was formed anew for."""
    why, run.why_torn = run.why_torn, ""
    was = "was" if len(lost) == 1 else "were"
    return why or (f"{' and '.join(sorted(lost))} {was} lost" if lost else "a meeting broke off")


def newcomers(run: Run) -> list[str]:
    """Measured agents that are not in the term, and were not left out on purpose."""
    return [
        name
        for name, member in sorted(run.members.items())
        if member.device and name not in run.term.members and name not in run.left_out
    ]


def grow(run: Run) -> Wait:
    """Take newcomers in at a boundary: they heal from the freshest member.

    Who was left out comes too where its roads to them are not known: a plan weighs all together.
    """
    arriving = newcomers(run)
    if not run.apart:
        yield from drained(run)
    if run.torn:
        return
    apart = [
        name
        for name in sorted(run.left_out)
        if any(frozenset((name, other)) not in run.links for other in arriving)
    ]
    yield from new_term(run, [*run.term.members, *arriving, *apart], at_once=False)
    yield from link_up(run)
    if not run.torn:
        choose(run, f"{' and '.join(arriving)} came in")
        yield from keep_membership(run)


def keep_membership(run: Run) -> Wait:
    """If the plan wants others than the term has, or all alike, name a term of those."""
    while run.plan and not (run.torn or run.stopping):
        same = set(run.term.members) == run.plan.shares.keys()
        is_fit = run.alike or not run.wants_alike
        if same and is_fit and run.term.apart == run.apart:
            return
        if run.by_star and not (run.apart or run.ledger.idle):
            yield from drained(run)  # its server knows one term: of the one before it hears nothing
            continue
        wanted = sorted(run.plan.shares, key=lambda m: (m not in run.term.members, m))
        yield from new_term(run, wanted, at_once=False)

"""Errors compensated: who deviates counts for less, is left out, and is tried again later."""

from __future__ import annotations

import math

from coterie.coordinator.noise import Norms
from coterie.coordinator.run import Run
from coterie.coordinator.trust import LEAST_TRUST, MAJORITY, Exile, Standing, judge
from coterie.leases import are_owned_apart
from coterie.transport import messages as say

FIRST_WAIT_S = 60.0  # before one that was left out is tried again; doubled each time
TRIAL = 1 / 4  # what its samples count for then, until it is judged


def listen(run: Run, name: str, report: say.Report) -> None:
    """Take in how a member's vectors lie to the agreed ones."""
    if are_owned_apart(run.parts):  # who learns other tasks differs, and is to
        return
    told = report.norms
    if told is None or not all(map(math.isfinite, told)) or min(told[0], told[1], told[3]) < 0:
        return
    norms = Norms(*told)
    run.standings.setdefault(name, Standing()).add(norms)
    strategy = run.strategy
    if strategy is not None and strategy.plain and not strategy.walks and not run.trust:
        run.noise = run.noise.seen(norms)


def compensate(run: Run) -> str:
    """Weigh each member by what it brought of late; why the plan must change, if it must."""
    if run.plan is None or run.strategy is None or run.apart or run.job.deterministic:
        return ""
    back = [n for n, e in run.exiles.items() if n in run.members and 0 < e.until_s <= run.now_s]
    for name in back:
        run.exiles[name].until_s = 0.0
        run.standings.pop(name, None)
        run.trust[name] = TRIAL
        run.event("trust", member=name, trust=TRIAL, reason="it is tried again")
    walk = run.strategy.walk
    standings = {n: s for n, s in run.standings.items() if n in run.term.members}
    found = judge(standings, paced=walk is not None and walk.paced)
    left_out = [name for name in sorted(found) if _leave_out(run, name, *found[name])]
    for name in standings.keys() - set(left_out) - set(back):
        _weigh(run, name, *found.get(name, (1.0, "it is as others again")))
    if left_out:
        run.standings.clear()  # others looked odd beside it
        return f"{' and '.join(left_out)} deviated from the others"
    return f"{' and '.join(back)} is tried again" if back else ""


def shunned(run: Run) -> set[str]:
    """Members that are left out for what they brought."""
    return {name for name, exile in run.exiles.items() if exile.until_s > run.now_s}


def _leave_out(run: Run, name: str, trust: float, reason: str) -> bool:
    """Leave a member out, if the others can do without it; whether they can."""
    others = [n for n in run.term.members if n != name and n not in shunned(run)]
    devices = [run.members[n].device for n in others if n in run.members]
    room = sum(device.max_batch for device in devices if device is not None)
    assert run.strategy is not None
    enough = len(others) >= max(MAJORITY - 1, run.strategy.least) and room >= run.job.batch
    if trust >= LEAST_TRUST or not enough:
        return False
    before = run.exiles.get(name)
    wait_s = 2 * before.wait_s if before else FIRST_WAIT_S
    run.exiles[name] = Exile(run.now_s + wait_s, wait_s)
    run.trust.pop(name, None)
    told = f"{reason}: it is left out, and tried again after {wait_s:.0f} s"
    run.event("trust", member=name, trust=0.0, reason=told)
    return True


def _weigh(run: Run, name: str, trust: float, reason: str) -> None:
    trust = max(LEAST_TRUST, trust)
    before = run.trust.get(name, 1.0)
    on_trial = before == TRIAL and not run.standings[name].is_judged
    if trust == before or on_trial:
        return
    run.event("trust", member=name, trust=trust, reason=reason)
    if trust < 1:
        run.trust[name] = trust
    else:
        del run.trust[name]

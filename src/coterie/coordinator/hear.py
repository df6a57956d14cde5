"""What each message changes in what is known of a run."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from coterie.code import digests
from coterie.coordinator.account import log_final
from coterie.coordinator.gauge import Flow
from coterie.coordinator.ledger import Ledger
from coterie.coordinator.members import Member, Pulse, other_torch
from coterie.coordinator.model import fit_device
from coterie.coordinator.owners import check_sources
from coterie.coordinator.perceive import measure
from coterie.coordinator.run import Checkpoint, Run
from coterie.errors import JobError, TrainingError
from coterie.leases import unlearned
from coterie.transport import messages as say
from coterie.transport.parcels import pieces
from coterie.types import Layout
from coterie.world import Device, Layer, Link

OTHER_TASK = (
    "expected the same model and data on every agent, found others on {name}{differs}; "
    "give each machine the same code and dataset"
)
OTHER_ORDER = (
    "expected samples shuffled alike on every agent, found another order on {name}; "
    "install the same numpy there, and have the dataset come in one order everywhere"
)
MOST_DECLINED = 3  # rounds in a row
MEMORY_PART = 0.8  # of what is free on a machine, for all its agents together


def hear(run: Run, name: str, message: Any) -> None:
    """Take in what a member said. Raises CoterieError where the run cannot go on."""
    match message:
        case say.Beat():
            if name in run.members:
                run.members[name].computing_s = message.computing_s
        case say.Hello():
            _hello(run, message)
        case say.Back():
            _back(run, name, message)
        case say.Ready():
            _ready(run, name, message)
        case say.Refused():
            _refused(run, name, message)
        case say.Probed():
            _probed(run, name, message)
        case say.Linked():
            _linked(run, name, message)
        case say.TornRound():
            _torn(run, name, message)
        case say.Settled():
            _settled(run, name, message)
        case say.Report():
            _report(run, name, message)
        case say.Scores():
            _scores(run, name, message)
        case say.Saved():
            _saved(run, message)
        case say.State():
            _state(run, message)
        case say.Declined():
            _declined(run, name, message)
        case say.Offence():
            run.event("offence", member=message.member, reason=message.reason)
        case say.Begun() | say.Ended() | say.Said():
            _looped(run, name, message)
        case say.Failed():
            _trace(run, name, message)
            raise TrainingError(message.reason)


def _hello(run: Run, hello: say.Hello) -> None:
    if hello.name == say.HUB:
        _hello_server(run, hello)
        return
    if hello.name in run.members:
        run.tell(
            hello.name, say.Stop(reason=f"an agent {hello.name} is here already", at_once=True)
        )
        return
    if reason := other_torch(hello, (m.hello for m in run.members.values())):
        run.event("warning", text=reason)
    state = "returned" if hello.name in run.known else "joined"
    run.known[hello.name] = hello.pid
    run.members[hello.name] = Member(hello, Pulse(run.now_s))
    run.event("agent", member=hello.name, state=state, cores=hello.cores, pid=hello.pid)
    files = dict(run.resume.files) if run.resume and not run.plan else {}
    job = run.job.model_dump(by_alias=True, mode="json")
    source = run.source if run.job.agents.ship else {}
    run.tell(
        hello.name,
        say.Welcome(job=job, num_files=len(files), code=digests(run.source), source=source),
    )
    for file, data in files.items():
        for piece in pieces(-1, file, data):
            run.tell(hello.name, piece)


def _hello_server(run: Run, hello: say.Hello) -> None:
    if run.is_fenced(hello) or run.hub == hello:  # or it was asked twice
        return
    if hello.pid != run.hub_pid:  # else another coordinator saw it come
        run.hub_pid, run.hub_start_s = hello.pid, run.now_s - run.hub_awaited_s
    run.hub, run.hub_pulse = hello, Pulse(run.now_s)
    run.event("server", state="joined", pid=hello.pid, seconds=run.hub_start_s)
    run.tell(say.HUB, say.Welcome(job={}))


def _ready(run: Run, name: str, ready: say.Ready) -> None:
    layout = Layout(ready.names, ready.shapes)
    if run.layout is None:
        _adopt(run, layout, ready)
    elif not _is_same(run, ready):
        _turn_away(run, name, ready)
        return
    if any(m.ready and m.ready.shuffled != ready.shuffled for m in run.members.values()):
        _turn_away(run, name, ready, OTHER_ORDER)
        return
    member = run.members[name]
    member.ready, member.state = ready, "ready"
    run.event("agent", member=name, state="ready", cores=member.hello.cores)
    place = (member.hello.store.rpartition(":")[0], member.hello.cores)
    is_known = run.plan is not None and run.places.get(name) == place and name in run.beliefs
    run.places[name] = place
    if is_known:  # much as it was: its reports will say what has changed
        member.device, member.state = run.beliefs[name], "measured"
        member.solo_per_s = _solo_per_s(run, name)
    elif run.probing:
        run.tell(name, run.probe())


def _solo_per_s(run: Run, name: str) -> float:
    return (run.solo[name].per_s if name in run.solo else None) or 0.0


def _is_same(run: Run, ready: say.Ready) -> bool:
    """Whether an agent has built what the first of all had."""
    known = (run.layout, run.ledger.num_train, run.sources, run.job.batch)
    layout = Layout(ready.names, ready.shapes)
    return known == (layout, ready.num_train, ready.sources, ready.batch or run.job.batch)


def _turn_away(run: Run, name: str, ready: say.Ready, expected: str = OTHER_TASK) -> None:
    """An agent that built another task ends a run that has not begun; later it goes alone."""
    differs = Layout(ready.names, ready.shapes).difference(run.layout) if run.layout else ""
    reason = expected.format(name=name, differs=differs)
    if run.plan is None:
        raise JobError(reason)
    run.tell(name, say.Stop(reason=reason, at_once=True))
    run.event("agent", member=name, state="refused", reason=reason)
    del run.members[name]


def _adopt(run: Run, layout: Layout, ready: say.Ready) -> None:
    num_agents = run.job.agents.num_known or 1
    if ready.batch is not None and ready.batch < num_agents:
        raise JobError(
            f"expected a loader whose batch has at least one sample for each of {num_agents} "
            f"agents, found {ready.batch}; raise its batch_size or use fewer agents"
        )
    check_sources(run.job, ready.sources, ready.num_train)
    run.layout = layout
    run.ledger, run.sources = Ledger(num_train=ready.num_train), ready.sources
    run.job = run.job.model_copy(update={"batch": ready.batch or run.job.batch})
    if run.resume:
        ledger, meta = run.ledger, run.resume.meta
        ledger.num_epochs, ledger.free = unlearned(meta, ready.num_train)
        ledger.in_parts = set(meta.get("in_parts", ())) & ledger.free.keys()
        ledger.committed = run.saved_round = meta["round"]
        ledger.next_round = meta["round"] + 1
        ledger.num_steps = meta["num_steps"]


def _refused(run: Run, name: str, message: say.Refused) -> None:
    if run.plan is None:
        _trace(run, name, message)
        raise JobError(f"{name}: {message.reason}")
    run.event("agent", member=name, state="refused", reason=message.reason)
    del run.members[name]


def _trace(run: Run, name: str, message: say.Failed | say.Refused) -> None:
    """Tell a script's traceback, once: others raise the same."""
    for line in () if run.done else message.traceback.splitlines():
        run.event("said", member=name, text=line)


def _probed(run: Run, name: str, probed: say.Probed) -> None:
    member = run.members[name]
    if member.device is None:
        device = fit_device(name, probed.timings, _max_batch(run, name, probed))
        member.device = replace(device, memory_bytes=_room_bytes(run, name))
        member.state, member.cores = "measured", probed.cores
        run.chain = run.chain or tuple(Layer(*figures) for figures in probed.chain)
    solo = run.solo.setdefault(name, Flow())
    for batch, seconds in probed.timings:
        if batch == max(b for b, _ in probed.timings):
            solo.add(batch, 1, seconds)
    member.solo_per_s = solo.per_s or 0.0
    if probed.warning:
        run.event("warning", text=f"{name}: {probed.warning}")
    run.event("measured", member=name, solo_per_s=member.solo_per_s, **_device(member.device))


def _max_batch(run: Run, name: str, probed: say.Probed) -> int:
    """How many samples fit beside the model."""
    room = _room_bytes(run, name) - probed.fixed_bytes
    return max(1, int(room / max(1.0, probed.bytes_per_sample)))


def _room_bytes(run: Run, name: str) -> int:
    """This agent's part of its machine's memory."""
    mine = run.members[name].hello
    host = mine.store.rpartition(":")[0]
    beside = sum(m.hello.store.rpartition(":")[0] == host for m in run.members.values())
    return int(MEMORY_PART * mine.memory_bytes / beside)


def _linked(run: Run, name: str, linked: say.Linked) -> None:
    for peer, latency_s, bytes_per_s in linked.links:
        a, b = sorted((name, peer))
        link = Link(a, b, latency_s, bytes_per_s)
        run.links[frozenset((name, peer))] = link
        run.event("link", **asdict(link))
    run.linked.add(name)


def _torn(run: Run, name: str, torn: say.TornRound) -> None:
    if name in run.members and run.members[name].outdated:
        return
    # A term named at a boundary is not yet begun while rounds of the one before are under way.
    if torn.term >= run.mended and not run.torn and run.torn_at_s is None:
        run.torn_at_s = run.now_s


def _settled(run: Run, name: str, settled: say.Settled) -> None:
    if settled.term != run.term.number:
        return
    last = run.ledger.next_round - 1
    if name != say.HUB and not (0 <= settled.round <= last and settled.stands <= last):
        _refuse_stand(run, name, f"expected to settle on a round up to {last}, found {settled!r}")
        return
    run.settled[name] = settled
    if name == say.HUB:
        return
    run.members[name].outdated = False
    run.healthy.add(name)
    returned = name in run.missed
    if returned or settled.healed:
        run.missed.discard(name)
        run.num_rejoined += returned
        state = "rejoined" if returned else "healed"  # one that is new, or had been left out
        how = "healed" if settled.healed else "settled"  # it had missed nothing
        run.event("agent", member=name, state=state, reason=f"{how} in {settled.seconds:.2f} s")


def _refuse_stand(run: Run, name: str, reason: str) -> None:
    """A member that stands where nobody was sent is not believed, and ended: the others go on."""
    run.event("offence", member=name, reason=reason)
    run.tell(name, say.Stop(reason=reason, at_once=True))
    run.evicted.append(name)


def _report(run: Run, name: str, report: say.Report) -> None:
    if name != say.HUB and report.last_round < run.ledger.next_round:
        if report.last_round > max(run.told.values(), default=0):
            run.company = report.cohort
        run.told[name] = report.last_round
    if name in run.members and run.members[name].outdated:
        return  # others have learned since what it was to learn
    run.restates = run.restates or report.restates
    _commit(run, report)
    log_final(run)  # first: what is measured here is of the epoch under way
    measure(run, name, report)
    if report.digest is not None and report.term == run.term.number:
        _compare(run, name, report.last_round, report.digest)
    if name == (say.HUB if run.term.apart else run.term.members[0]):
        run.gauge.commit(run.now_s, run.ledger.num_samples, run.ledger.committed)


def _commit(run: Run, report: say.Report) -> None:
    told = range(report.first_round, report.last_round + 1)
    for number in sorted(n for n in run.ledger.issued if n in told):
        run.ledger.commit(number, report.cohort)


def _compare(run: Run, name: str, number: int, digest: int) -> None:
    """Members that no longer hold the same meet anew: most of them are right, the others heal."""
    told = run.digests.setdefault(number, {})
    told[name] = digest
    if len(set(told.values())) > 1 and not run.torn:
        run.event("disagreement", round=number, digests=told)
        run.torn, run.why_torn = True, f"members differed after round {number}"
    for old in [n for n in run.digests if n < number]:
        del run.digests[old]


def _back(run: Run, name: str, back: say.Back) -> None:
    """An agent that this coordinator does not know, or has given up, is here again."""
    if name in run.members:
        if name in run.unheard:  # or it was asked twice
            run.unheard.discard(name)
            _catch_up(run, back)
            run.torn, run.why_torn = True, f"{name} was not heard for a while"
        return
    if not run.reuniting and run.known.get(name) != back.hello.pid:
        reason = "the run has gone on from its checkpoint"  # and what this agent holds is not in it
        run.tell(name, say.Stop(reason=reason, at_once=True, again=True))
        return
    if not _is_same(run, back.ready):
        run.members[name] = Member(back.hello, Pulse(run.now_s))
        _turn_away(run, name, back.ready)
        return
    member = Member(back.hello, Pulse(run.now_s), back.ready, run.beliefs.get(name))
    member.state = "measured" if member.device else "ready"
    member.round, member.solo_per_s = back.round, _solo_per_s(run, name)
    # One that began anew, and was in no term yet, holds nothing of what its name held before.
    member.holds = run.reuniting and name in run.term.members and back.term > 0
    run.members[name] = member
    run.known[name] = back.hello.pid
    run.event("agent", member=name, state="returned", pid=back.hello.pid)
    if member.device is None and run.probing:
        run.tell(name, run.probe())
    if not run.reuniting:
        run.missed.add(name)
        member.outdated = True
        run.tell(name, run.term_for(name))  # which it is not in
    elif member.holds:  # what others tell may have been learned anew since
        _catch_up(run, back)


def _catch_up(run: Run, back: say.Back) -> None:
    """Take in what a member told when it could not be heard."""
    for report in back.reports:
        _commit(run, report)


def _declined(run: Run, name: str, declined: say.Declined) -> None:
    """A member brings nothing; one that cannot stop it is sent away, and the others go on."""
    run.event("offence", member=name, reason=declined.reason)
    if run.strategy is not None and not run.strategy.exchange.agrees:
        run.ledger.decline(declined.round, name)  # whoever did not listen to it takes it for met
    if declined.in_a_row >= MOST_DECLINED:
        reason = f"{declined.in_a_row} rounds in a row: {declined.reason}"
        run.tell(name, say.Stop(reason=reason, at_once=True))


def _looped(run: Run, name: str, message: say.Begun | say.Ended | say.Said) -> None:
    """A script's loop goes on or ends: what was given out then is void, for nobody learns it."""
    if isinstance(message, say.Said):
        run.event("said", member=name, text=message.text)
        return
    run.awaited.discard(name)
    if isinstance(message, say.Begun) or not run.ledger.idle:
        run.awaited.clear()  # the others are to learn, or to end at once
    if isinstance(message, say.Begun):
        asked = run.ledger.num_epochs + len(run.ledger.free)  # of no later one it can know
        run.passes = max(run.passes, min(message.data_epoch, asked) + 1)
    elif run.job.script is not None:
        run.over = run.over or f"the script of {name} ended"
        if run.plan is not None and not run.ledger.idle and not run.torn:
            run.torn, run.why_torn = True, run.over


def _scores(run: Run, name: str, scores: say.Scores) -> None:
    run.scores = scores
    run.event(
        "scores", round=scores.round, metrics=scores.metrics, seconds=scores.seconds, member=name
    )


def _saved(run: Run, saved: say.Saved) -> None:
    """Members meet: whoever stands still longest holds up all."""
    if run.saving is not None and saved.ticket == run.saving.ticket:
        run.saving.pause_s = run.save_cost_s = max(run.saving.pause_s, saved.pause_s)


def _state(run: Run, piece: say.State) -> None:
    saving = run.saving
    if saving is None or piece.ticket != saving.ticket:
        return
    saving.assembly.add(piece)
    if len(saving.assembly.files) == saving.num_files:
        files, pause_s = saving.assembly.files, saving.pause_s
        run.checkpoints.append(Checkpoint(saving.step, files, saving.meta, pause_s))
        run.saved_round, run.saving = saving.ticket, None


def _device(device: Device) -> dict[str, Any]:
    fields = asdict(device)
    return {k: fields[k] for k in ("overhead_s", "per_sample_s", "max_batch")}

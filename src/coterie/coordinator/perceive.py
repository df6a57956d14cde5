"""What members report becomes what is believed: of each device, and of the road they meet on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from coterie.coordinator.adapt import JUMP_LOG_RATIO, as_believed, is_jump, leap, observe, timed
from coterie.coordinator.compensate import listen
from coterie.coordinator.gauge import Pace, Stretch
from coterie.coordinator.line import Line
from coterie.coordinator.members import Member, Usual
from coterie.coordinator.model import predict
from coterie.coordinator.parallel import passage_s
from coterie.coordinator.run import UNTRIED_ROAD, Run
from coterie.sync.teams import Pipeline
from coterie.transport import messages as say
from coterie.world import Link, World

MIN_REPORTS = 3  # before a measurement is believed
IN_A_ROW = 2  # that agree, before a jump is believed whole
FELT = 0.1  # of a round, at least, where meetings that take another time are a change of the road
MIN_STEPS = 24  # that are believed as well, in however few reports
NOISE_REACHES = 0.99 * JUMP_LOG_RATIO
LEARN = 0.2  # of how far reports scatter, with each look
SAME_GRANT = 0.05  # of what a machine grants: less is no other grant
LEAST_MEETING_S = 1e-3  # below, what is measured is not the road
OPEN_ROAD_PER_S = 1e18  # bytes: what a meeting costs on it is not for its bytes
LEAST_FACTOR = 0.05  # of a price, however short meetings are
SURE_OF_A_JUMP = 0.3  # of a measurement's usual noise: a changed road is believed at once


def measure(run: Run, name: str, report: say.Report) -> None:
    """Note what a member's report says of its losses, its pace, its pause and its vectors."""
    if report.num_samples > 0 and math.isfinite(report.loss):
        run.loss_sum += report.loss * report.num_samples
        run.num_losses += report.num_samples
        run.progress.saw(report.loss, report.num_samples)
        run.loss = report.loss if run.loss is None else 0.9 * run.loss + 0.1 * report.loss
    times_s = (report.compute_s, report.exchange_s)
    if report.num_steps > 0 and report.compute_s > 0 and all(map(math.isfinite, times_s)):
        did = ("last_round", "num_samples", "num_steps", "compute_s", "exchange_s")
        run.event("work", member=name, **report.model_dump(include=set(did)))
        if not regrant(run, name, report.cores):  # else much of it was computed before
            _time(run, name, report)
    listen(run, name, report)
    if report.gap_s:
        since_s = run.now_s - report.gap_s
        aside_s = sum(
            end_s - max(begin_s, since_s) for begin_s, end_s in run.asides if end_s > since_s
        )
        pause_s = max(0.0, report.gap_s - aside_s - run.gauge.typical_round_s())
        if run.pauses:
            run.pauses[-1][name] = pause_s
        run.event("pause", member=name, seconds=pause_s)


def _time(run: Run, name: str, report: say.Report) -> None:
    batch = max(1, round(report.num_samples / report.num_steps))
    step_s = report.compute_s / report.num_steps
    stretches = [
        (max(1, round(num / steps)), seconds / steps)
        for num, steps, seconds in report.stretches
        if steps > 0 and seconds > 0 and math.isfinite(seconds)
    ]
    if _in_stages(run, report.cohort):
        stretches = _as_whole_steps(run, name, report, stretches)
        if not stretches:
            return
        batch, step_s = stretches[-1]
    run.paces.setdefault(name, Pace()).add(
        batch=batch,
        step_s=step_s,
        meeting_s=max(0.0, report.exchange_s) / max(1, report.last_round - report.first_round + 1),
        num_steps=report.num_steps,
        stretches=stretches,
    )


def _as_whole_steps(
    run: Run, name: str, report: say.Report, stretches: Sequence[Stretch]
) -> list[Stretch]:
    """Steps of a stage as ones of the whole model, by what the stage takes of it.

    What layers take is known roughly: the first reports set what is usual for the stage, and only
    what is slower or faster than that is put down to the device.
    """
    member = run.members.get(name)
    ratios = list(_over_expected(run, name, report.cohort, stretches))
    if member is None or member.device is None or not ratios:
        return []
    sentence, least = repr(run.strategy), min(ratio for _, ratio in ratios)
    if member.usual is None or member.usual.sentence != sentence:
        member.usual = Usual(sentence, run.ledger.next_round)
    usual = member.usual
    if report.first_round < usual.first_round:  # by the sentence before, maybe
        return []
    if usual.num_reports < MIN_REPORTS:
        member.usual = usual.seen(least)
        return []
    line = member.line or timed(member.device, ratios[0][0])
    whole = [(batch, line.at(batch) * ratio / usual.ratio) for batch, ratio in ratios]
    return [(batch, step_s) for batch, step_s in whole if 0 < step_s < math.inf]


def _over_expected(
    run: Run, name: str, cohort: tuple[str, ...], stretches: Sequence[Stretch]
) -> Iterator[Stretch]:
    """The batch of each stretch, and how many times as long as was expected a stage took."""
    cut, world = run.strategy.team if run.strategy else None, run.world
    if not isinstance(cut, Pipeline) or name not in (team := cut.crew_of(name, cohort)[0]):
        return
    if not {device.name for device in world.devices}.issuperset(team):
        return
    for batch, seconds in stretches:
        expected = passage_s(cut, team, name, batch, world)
        if expected is not None and expected[1] > 0:
            yield batch, seconds / expected[1]


def fold(run: Run) -> None:
    """Believe a little more of what members reported, and begin to listen anew."""
    run.regranted = False
    leaping, other_s = _leaping(run), _other_road_s(run)
    paces = {
        name: pace
        for name, pace in run.paces.items()
        if pace.num_reports >= MIN_REPORTS
        or pace.num_steps >= MIN_STEPS
        or name in leaping
        or other_s is not None
    }
    for name, pace in paces.items():
        member = run.members.get(name)
        del run.paces[name]
        if member is not None and member.device is not None:
            odd = _is_odd(member, pace) and name not in leaping
            _time_anew(member, pace)
            if odd:  # the next report will tell
                run.paces[name] = pace.last()
        figures = {"batch": pace.batch, "step_s": pace.step_s, "meeting_s": pace.meeting_s}
        if standing := run.standings.get(name):  # how far it drifts from what is agreed on
            figures |= {"cosine": standing.cosine, "stretch": standing.stretch}
        run.event("pace", member=name, **figures)
    if len(paces) > 1 and not _in_stages(run, run.term.members):
        # Whoever comes last does not wait for others: its exchange is the meeting itself.
        median_s = min(pace.meeting_s for pace in paces.values())
        learn_road(run, median_s if other_s is None else other_s)


def has_jumped(run: Run) -> bool:
    """Whether the last reports all say that a member, or the road, got much slower or faster."""
    return run.regranted or bool(_leaping(run)) or _other_road_s(run) is not None


def regrant(run: Run, name: str, cores: float | None) -> bool:
    """Believe that a member computes as much slower as its machine grants it less; whether it does.

    What it reports from then on corrects that: not all of a step is computing.
    """
    member = run.members.get(name)
    if member is None or member.device is None or not cores or not 0 < cores < math.inf:
        return False
    before, member.cores = member.cores or cores, cores
    if abs(cores / before - 1) < SAME_GRANT:
        member.cores = before  # or a grant that fell bit by bit would never be noticed
        return False
    batch = max(1, run.plan.shares.get(name, 1)) if run.plan else 1
    line = member.line or timed(member.device, batch)
    member.line = leap(line, batch, line.at(batch) * before / cores)
    member.device = as_believed(member.device, member.line)
    run.paces.pop(name, None)
    run.regranted = True
    text = f"{name} is granted {cores:.3g} cores instead of {before:.3g}"
    run.event("grant", member=name, before=before, cores=cores, text=text)
    return True


def _in_stages(run: Run, members: tuple[str, ...]) -> bool:
    """Whether members compute a stage each, and hand on what others compute."""
    cut = run.strategy.team if run.strategy else None
    return isinstance(cut, Pipeline) and len(members) >= cut.least


def _leaping(run: Run) -> set[str]:
    measured = ((run.members[n], p) for n, p in run.paces.items() if n in run.members)
    return {m.hello.name for m, p in measured if m.device is not None and _jumps(_line(m, p), p)}


def scatter(run: Run) -> float:
    """How far reports lie from what was expected, of whoever's scatter most."""
    return max((member.scatter for member in run.members.values()), default=0.0)


def _time_anew(member: Member, pace: Pace) -> None:
    assert member.device is not None
    line = _line(member, pace)
    if _jumps(line, pace):  # in a row: believed outright
        factor = fmean(step_s / line.at(batch) for batch, step_s in pace.latest(IN_A_ROW))
        line = leap(line, pace.batch, factor * line.at(pace.batch))
    else:
        missed = math.log(pace.step_s / line.at(pace.batch))
        if pace.num_reports >= IN_A_ROW:  # what is far off and does not last counts as noise
            missed = max(-NOISE_REACHES, min(NOISE_REACHES, missed))
        line = observe(line, pace.batch, line.at(pace.batch) * math.exp(missed))
        member.scatter += LEARN * (min(NOISE_REACHES, abs(missed)) - member.scatter)
    member.line, member.device = line, as_believed(member.device, line)


def _line(member: Member, pace: Pace) -> Line:
    assert member.device is not None
    return member.line or timed(member.device, pace.batch)


def _is_odd(member: Member, pace: Pace) -> bool:
    ((batch, step_s),) = pace.latest(1)
    return is_jump(step_s, _line(member, pace).at(batch))


def _jumps(line: Line, pace: Pace) -> bool:
    """One slow report may be anything; two in a row that agree are a change."""
    return _leaps([(step_s, line.at(batch)) for batch, step_s in pace.latest(IN_A_ROW)])


def _leaps(measured: Sequence[tuple[float, float]]) -> bool:
    """Whether several (seconds, as expected) in a row are far off, and agree by how much."""
    ratios = [math.log(seconds / expected_s) for seconds, expected_s in measured]
    agree = max(ratios) - min(ratios) < JUMP_LOG_RATIO / 2
    far = min(map(abs, ratios)) > JUMP_LOG_RATIO
    return len(ratios) == IN_A_ROW and agree and far


# -- the road ------------------------------------------------------------------------------------


def learn_road(run: Run, meeting_s: float) -> None:
    """Learn from a measured meeting what each costs beside its bytes, and how long bytes take.

    meeting_s = latencies and packing + a + c · what its bytes take on the links as probed

    Two unknowns: until exchanges of another size were measured, what is not as expected is put
    down to whichever of them may be further off, a few milliseconds or a good part of the bytes.
    """
    if run.plan is None or run.strategy is None or run.strategy.overlap:
        return
    fixed_s, bytes_s = _priced(run)
    expected_s = _expected_s(run, fixed_s, bytes_s)
    jumps = is_jump(max(LEAST_MEETING_S, meeting_s), expected_s)
    if jumps and _is_known(run) and can_probe_links(run):
        run.doubts_links = True  # which of them has changed, a probe tells better
        return
    noise = expected_s * (SURE_OF_A_JUMP if jumps else 1.0)
    line = run.road.seen(bytes_s, meeting_s - fixed_s, noise)
    # What is summed while others still compute is hidden: that is no faster road.
    least = min(1.0, run.road.c) if run.strategy.plain else LEAST_FACTOR
    run.road = replace(line, a=max(0.0, line.a), c=max(least, line.c))


def _other_road_s(run: Run) -> float | None:
    """Seconds of a meeting by the last reports of all, where these say that the road is another."""
    paces = [run.paces.get(name) for name in run.term.members]
    told = [p.latest_meetings(IN_A_ROW) for p in paces if p and p.num_reports >= IN_A_ROW]
    if len(told) < max(2, len(paces)) or not _is_known(run) or _in_stages(run, run.term.members):
        return None
    if run.plan is None or run.strategy is None or run.strategy.overlap:
        return None
    # Whoever comes last does not wait for others.
    meetings_s = [max(LEAST_MEETING_S, min(each)) for each in zip(*told, strict=True)]
    expected_s = _expected_s(run, *_priced(run))
    longer_s = min(meetings_s) - expected_s
    if run.strategy.plain and longer_s < 0:
        return None  # what is summed while others still compute is hidden
    felt = abs(longer_s) > FELT * run.plan.round_s
    return fmean(meetings_s) if felt and _leaps([(m, expected_s) for m in meetings_s]) else None


def _is_known(run: Run) -> bool:
    """Whether any meeting was learned from: else what it is priced at is a guess."""
    return run.road.aa != UNTRIED_ROAD.aa


def _expected_s(run: Run, fixed_s: float, bytes_s: float) -> float:
    return max(LEAST_MEETING_S, fixed_s + run.road.at(bytes_s))


def can_probe_links(run: Run) -> bool:
    """Whether members may be asked to probe their links once more."""
    together = len(run.term.members) > 1 and not run.apart and not run.job.deterministic
    return together and run.now_s >= run.probe_links_s


def links_are_doubtful(run: Run) -> bool:
    """Whether meetings take another time than links as probed explain, by so much or so long."""
    return can_probe_links(run) and (run.doubts_links or is_jump(run.road.c, 1.0))


def _priced(run: Run) -> tuple[float, float]:
    """Seconds of a meeting by plan without its bytes, and of these on the links as probed."""
    probed = run.probed_world.only(run.term.members)

    def exchange_s(links: tuple[Link, ...]) -> float:
        assert run.plan is not None
        assert run.layout is not None
        assert run.strategy is not None
        world: World = replace(probed, links=links)
        option = predict(world, run.layout, run.strategy, run.plan.shares)
        return option.exchange_s - option.hidden_s

    fixed_s = exchange_s(tuple(replace(k, bytes_per_s=OPEN_ROAD_PER_S) for k in probed.links))
    return fixed_s, exchange_s(probed.links) - fixed_s

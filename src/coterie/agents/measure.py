"""What a member measures of itself and of its links, by doing the real thing.

Legend: N bytes of a probe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.agents.layers import measure_layers
from coterie.agents.learner import Learner
from coterie.agents.stream import stream_of
from coterie.transport.messages import Linked, Probe, Probed, Term

PROBES_BYTES = (1 << 16, 1 << 18, 1 << 20)
SLOW_S = 0.1  # there and back: whatever else delays a message is little beside the road
VERY_SLOW_S = 1.0  # for the smallest: it has to tell enough
MIN_STEPS = 3
MAX_STEPS = 50
PINGS = 5
CROWDED = 0.25  # of what is free: beyond, what a step takes is found out before it is tried
UNSEEN = 1.5  # times what tensors hold a process was seen to take: kernels and allocators need room
MOST_OF_ROOM = 0.8  # is taken to try steps


def probe_steps(learner: Learner, order: Probe, room_bytes: float = math.inf) -> do.Life[Probed]:
    """Time plain steps of the task at each batch size on a scratch copy of the learner.

    Seconds by a clock that includes what a quota takes away; bytes as autograd saves them, or,
    where the largest batch might not fit into `room_bytes`, as a step without values shows before
    it is tried: what does not fit is not.
    """
    scratch = learner.scratch()
    rng = np.random.default_rng(0)
    timings: list[tuple[int, float]] = []
    small, large = min(order.sizes), max(order.sizes)
    saved = {
        small: (
            yield do.Compute(lambda: _saved_bytes(scratch, _drawn(learner, rng, small)), (small,))
        )
    }
    held = 4 * _held_bytes(scratch)
    shaped, why = None, ""
    if held + saved[small] / small * large > CROWDED * room_bytes:
        filling = int(room_bytes / max(1, saved[small] / small))
        shaped, why = yield do.Compute(lambda: _shaped(learner, filling), ())
    for size in _fitting(order.sizes, shaped, room_bytes):
        indices = _drawn(learner, rng, size)
        if size not in saved:
            saved[size] = yield do.Compute(lambda i=indices: _saved_bytes(scratch, i), (size,))  # type: ignore[misc]
        began_s = now_s = yield do.Now()
        num_steps = 0
        while num_steps < MIN_STEPS or (num_steps < MAX_STEPS and now_s - began_s < order.seconds):
            step_at_s = yield do.Now()
            yield do.Compute(lambda i=indices: scratch.step(i), (size,))  # type: ignore[misc]
            now_s = yield do.Now()
            timings.append((size, now_s - step_at_s))
            num_steps += 1
    slope = (saved[max(saved)] - saved[small]) / max(1, max(saved) - small)
    chain = yield from measure_layers(scratch, _drawn(learner, rng, small))
    fixed_bytes, bytes_per_sample = shaped or (held, max(0.0, slope))
    return Probed(
        timings=tuple(timings),
        fixed_bytes=int(fixed_bytes),
        bytes_per_sample=bytes_per_sample,
        chain=chain,
        warning=why,
    )


def _drawn(learner: Learner, rng: np.random.Generator, size: int) -> list[int]:
    return stream_of(learner.task, seed=0).some(rng, size)


def _shaped(learner: Learner, filling: int) -> tuple[tuple[float, float] | None, str]:
    """What a step takes by its shapes, as (fixed, per sample); or why that cannot be told.

    Looked at where it matters: up to the batch that would fill the memory with what it keeps.
    """
    from coterie.agents.memory import in_words, step_bytes  # seldom needed, and slow to load

    try:
        fixed, per_sample = step_bytes(learner, (max(2, filling // 4), max(4, filling)))
        return (UNSEEN * fixed, UNSEEN * per_sample), ""
    except Exception as error:  # whatever user code or torch's private parts may raise
        return None, in_words(error)


def _fitting(
    sizes: Sequence[int], shaped: tuple[float, float] | None, room_bytes: float
) -> list[int]:
    """Those of the sizes that fit, and where some do not, the largest that does."""
    if shaped is None:
        return sorted(sizes)
    fixed_bytes, per_sample = shaped
    most = max(1, int((MOST_OF_ROOM * room_bytes - fixed_bytes) / max(1.0, per_sample)))
    return sorted({min(size, most) for size in sizes})


def _saved_bytes(learner: Learner, indices: list[int]) -> int:
    """A step's bytes saved for the backward pass; also the warm-up before timing."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        learner.gradient(indices)
    return sum(sizes.values())


def _held_bytes(learner: Learner) -> int:
    """Bytes of the parameters; gradient and optimizer state are about three times as many."""
    return sum(p.numel() * p.element_size() for p in learner.model.parameters())


def probe_links(name: str, term: Term) -> do.Life[Linked]:
    """Ping every other member in turn: small messages for latency, large ones for bandwidth."""
    links = []
    for a, b in combinations(term.members, 2):
        if name not in (a, b):
            continue
        peer = b if name == a else a
        pings = []
        for _ in range(PINGS):
            pings.append((yield from _there_and_back(name == a, peer, torch.zeros(1))))
        timed = yield from _timed(name == a, peer)
        if name == a:
            latency_s = min(pings) / 2  # the rest is waiting for a processor, not the road
            links.append((peer, latency_s, bandwidth_per_s(latency_s, timed)))
    return Linked(term=term.number, links=tuple(links))


def bandwidth_per_s(latency_s: float, timed: Sequence[tuple[int, float]]) -> float:
    """Bytes a second of a road, from (bytes, seconds there and back) in ascending order.

    A road that shapes its traffic lets the first bytes pass at once: what the last ones added to
    the time tells more, unless a processor was slow to take the small message.

    >>> bandwidth_per_s(0.5, [(100, 1.0), (1_100, 3.0)])
    1000.0
    """
    num_bytes, seconds = timed[-1]
    whole_per_s = num_bytes / max(seconds / 2 - latency_s, 1e-6)
    if len(timed) == 1:
        return whole_per_s
    fewer_bytes, sooner_s = timed[-2]
    return min(whole_per_s, (num_bytes - fewer_bytes) / max((seconds - sooner_s) / 2, 1e-6))


def _timed(leads: bool, peer: str) -> do.Life[list[tuple[int, float]]]:
    """Bytes that went to a peer and back, and the seconds: a slow road shows with few of them."""
    timed: list[tuple[int, float]] = []
    for num_bytes in PROBES_BYTES:
        vector = torch.zeros(num_bytes // 4)
        seconds = yield from _there_and_back(leads, peer, vector)
        timed.append((num_bytes, seconds))
        told = torch.tensor([seconds > (SLOW_S if len(timed) > 1 else VERY_SLOW_S)])
        if leads:
            yield do.Give(peer, told)
        else:
            yield do.Take(peer, told)
        if bool(told):
            return timed
    again_s = yield from _there_and_back(leads, peer, vector)
    return [*timed[:-1], (num_bytes, min(seconds, again_s))]


def _there_and_back(leads: bool, peer: str, vector_N: Tensor) -> do.Life[float]:
    began_s = yield do.Now()
    if leads:
        yield do.Give(peer, vector_N)
        yield do.Take(peer, vector_N.clone())
    else:
        yield do.Take(peer, vector_N.clone())
        yield do.Give(peer, vector_N)
    return float((yield do.Now()) - began_s)

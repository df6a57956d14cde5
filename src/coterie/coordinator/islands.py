"""Islands: members whose links among them are fast against the links between, as they were probed.

Links join members one after the other, the fastest first. Where the speeds at which groups were
joined fall most, from one to the next, the joining stops: what stands then are the islands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from coterie.world import Link, World

PROBE_BYTES = 1 << 20  # a road is judged by one MiB, as it was probed
TELLING = 2.0  # times as fast as any link between islands is each link inside one, or it is noise

Groups = tuple[tuple[str, ...], ...]


def islands(world: World) -> Groups:
    """The members of each island; nothing where links do not tell any apart.

    Single linkage on the logarithm of speed, cut at its largest gap; then every link inside has to
    be clearly faster than every link between. A member alone behind a slow road is one as well.

    >>> from coterie.world import Device
    >>> names, rooms = ("a1", "a2", "b1"), {("a1", "a2"): 1e8}
    >>> pairs = (("a1", "a2"), ("a1", "b1"), ("a2", "b1"))
    >>> links = tuple(Link(*pair, 1e-4, rooms.get(pair, 1e6)) for pair in pairs)
    >>> islands(World(tuple(Device(name, 0.0, 0.1, 8) for name in names), links, 8, 100))
    (('a1', 'a2'), ('b1',))
    """
    members = tuple(sorted(device.name for device in world.devices))
    known = frozenset(members)
    links = [link for link in world.links if link.joins(known) and road_s(link) < math.inf]
    joined = _joined(members, sorted(links, key=road_s))
    if len(joined) < 2:
        return ()
    cut = max(range(1, len(joined)), key=lambda i: road_s(joined[i]) / road_s(joined[i - 1]))
    groups = _groups(members, joined[:cut])
    return groups if _clear(groups, links) else ()


def road_s(link: Link) -> float:
    """Seconds to send a probe over a link; for ever where nothing passes."""
    passes = link.bytes_per_s > 0 and math.isfinite(link.latency_s)
    return link.latency_s + PROBE_BYTES / link.bytes_per_s if passes else math.inf


def _joined(members: Sequence[str], links: Sequence[Link]) -> list[Link]:
    """The links that join two groups of members, in their order (Kruskal 1956)."""
    group = {name: name for name in members}
    joining = []
    for link in links:
        a, b = _root(group, link.a), _root(group, link.b)
        if a != b:
            group[a] = b
            joining.append(link)
    return joining


def _groups(members: Sequence[str], links: Sequence[Link]) -> Groups:
    group = {name: name for name in members}
    for link in links:
        group[_root(group, link.a)] = _root(group, link.b)
    found: dict[str, list[str]] = {}
    for name in members:
        found.setdefault(_root(group, name), []).append(name)
    return tuple(map(tuple, found.values()))


def _root(group: dict[str, str], name: str) -> str:
    while group[name] != name:
        group[name] = name = group[group[name]]
    return name


def _clear(groups: Groups, links: Sequence[Link]) -> bool:
    """Whether links inside groups are all clearly faster than those between, with none missing."""
    place = {name: number for number, names in enumerate(groups) for name in names}
    inside = [road_s(link) for link in links if place[link.a] == place[link.b]]
    between = [road_s(link) for link in links if place[link.a] != place[link.b]]
    meshed = len(inside) == sum(len(names) * (len(names) - 1) // 2 for names in groups)
    return meshed and TELLING * max(inside) <= min(between, default=math.inf)

"""Who helps whom, as a graph that is shown and saved, and the groups of kin that are found in it.

Legend of shape suffixes: M members.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from coterie.errors import JobError

Matrix = tuple[tuple[float, ...], ...]
XMLNS = "http://graphml.graphdrawing.org/xmlns"
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


@dataclass(frozen=True)
class Graph:
    """How much each member helps each other one, above zero if it does; NaN where it is unknown.

    `help_MM[i][j]` is what teacher i does for pupil j, `error_MM` its standard error, and
    `measure` says in which units.

    >>> graph = Graph(("ann", "bob", "eve"), "cross loss",
    ...     ((1.0, 0.6, -2.0), (0.4, 1.0, -1.0), (-3.0, -2.0, 1.0)), ((0.1,) * 3,) * 3)
    >>> graph.groups()
    (('ann', 'bob'), ('eve',))
    >>> print(*graph.lines(), sep="\\n")
    2 groups by cross loss: ann, bob | eve
    ann helps bob: +0.6 ± 0.1
    bob helps ann: +0.4 ± 0.1
    bob hurts eve: -1 ± 0.1
    ann hurts eve: -2 ± 0.1
    eve hurts bob: -2 ± 0.1
    eve hurts ann: -3 ± 0.1
    """

    names: tuple[str, ...]
    measure: str
    help_MM: Matrix
    error_MM: Matrix

    def __post_init__(self) -> None:
        num = len(self.names)
        for matrix in (self.help_MM, self.error_MM):
            if len(matrix) != num or any(len(row) != num for row in matrix):
                raise JobError(f"expected a graph of {num} rows of {num} numbers, found others")
        if len(set(self.names)) != num:
            raise JobError("expected members with names of their own, found one twice; rename it")

    def groups(self, errors: float = 2.0) -> tuple[tuple[str, ...], ...]:
        """Members that help one another more than chance says, the largest groups first.

        Two groups become one while the mean help between all their pairs, both ways, lies more
        than `errors` standard errors above zero, those that help most first (average linkage). So
        all may be one group where all are kin, and each its own where none is: zero means no help,
        and no gap between values has to be looked for, since there always is a largest one.
        """
        groups = [[i] for i in range(len(self.names))]
        while len(groups) > 1:
            pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
            best = max(pairs, key=lambda pair: self._between(groups[pair[0]], groups[pair[1]])[0])
            mean, error = self._between(groups[best[0]], groups[best[1]])
            if not mean > errors * error:
                break
            joined = sorted(groups[best[0]] + groups[best[1]])
            groups = [group for at, group in enumerate(groups) if at not in best] + [joined]
        ordered = sorted(groups, key=lambda group: (-len(group), group))
        return tuple(tuple(self.names[i] for i in group) for group in ordered)

    def kin(self, name: str, errors: float = 2.0) -> frozenset[str]:
        """The others in a member's group."""
        group = next((g for g in self.groups(errors) if name in g), None)
        if group is None:
            raise JobError(f"expected one of {', '.join(self.names)}, found {name}")
        return frozenset(group) - {name}

    def lines(self) -> Iterator[str]:
        """The groups, then every known pair in a sentence, who helps most first."""
        groups = self.groups()
        told = " | ".join(", ".join(group) for group in groups)
        yield f"{len(groups)} group{'s' if len(groups) > 1 else ''} by {self.measure}: {told}"
        every = range(len(self.names))
        known = [(i, j) for i in every for j in every if i != j and _known(self.help_MM[i][j])]
        for i, j in sorted(known, key=lambda pair: -self.help_MM[pair[0]][pair[1]]):
            value = self.help_MM[i][j]
            verb = "helps" if value > 0 else "hurts"
            yield (
                f"{self.names[i]} {verb} {self.names[j]}: {value:+.3g} ± {self.error_MM[i][j]:.2g}"
            )

    def to_json(self) -> str:
        """The graph as text that `from_json` reads; unknown values are null."""
        told: dict[str, Any] = asdict(self)
        for key in ("help_MM", "error_MM"):
            told[key] = [[value if _known(value) else None for value in row] for row in told[key]]
        return json.dumps({**told, "groups": self.groups()}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """The graph in a text that `to_json` wrote; JobError for any other."""
        try:
            told = json.loads(text)
            matrices = [
                tuple(tuple(math.nan if v is None else float(v) for v in row) for row in told[key])
                for key in ("help_MM", "error_MM")
            ]
            names = tuple(str(name) for name in told["names"])
            return cls(names, str(told["measure"]), *matrices)
        except (ValueError, LookupError, TypeError) as error:
            raise JobError(f"expected a graph as JSON, found another text ({error})") from error

    def to_graphml(self) -> str:
        """The graph as GraphML, which networkx, Gephi and yEd read."""
        root = xml.Element("graphml", xmlns=XMLNS)
        for key, owner, kind in (("group", "node", "int"), ("help", "edge", "double")):
            named = {"id": key, "for": owner, "attr.name": key, "attr.type": kind}
            xml.SubElement(root, "key", named)
        drawn = xml.SubElement(root, "graph", id=self.measure, edgedefault="directed")
        where = {name: at for at, group in enumerate(self.groups()) for name in group}
        for name in self.names:
            node = xml.SubElement(drawn, "node", id=name)
            xml.SubElement(node, "data", key="group").text = str(where[name])
        for teacher, row in zip(self.names, self.help_MM, strict=True):
            for pupil, value in zip(self.names, row, strict=True):
                if teacher != pupil and _known(value):
                    edge = xml.SubElement(drawn, "edge", source=teacher, target=pupil)
                    xml.SubElement(edge, "data", key="help").text = repr(value)
        xml.indent(root)
        return xml.tostring(root, encoding="unicode", xml_declaration=True)

    def save(self, path: Path | str) -> Path:
        """Write it as what the name ends in: .json, .graphml, or .png by matplotlib."""
        path = Path(path)
        if path.suffix == ".json":
            path.write_text(self.to_json(), encoding="utf-8")
        elif path.suffix == ".graphml":
            path.write_text(self.to_graphml(), encoding="utf-8")
        elif path.suffix == ".png":
            _draw(self, path)
        else:
            raise JobError(f"expected a name that ends in .json, .graphml or .png, found {path}")
        return path

    def _between(self, one: Sequence[int], other: Sequence[int]) -> tuple[float, float]:
        """The mean help between two groups, both ways, and its standard error."""
        pairs = [(i, j) for i in one for j in other] + [(j, i) for i in one for j in other]
        known = [(i, j) for i, j in pairs if _known(self.help_MM[i][j])]
        if not known:
            return -math.inf, 0.0
        mean = math.fsum(self.help_MM[i][j] for i, j in known) / len(known)
        error = math.sqrt(math.fsum(self.error_MM[i][j] ** 2 for i, j in known)) / len(known)
        return mean, error


def gathered(measure: str, rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> Graph:
    """A graph of what each pupil measured of its teachers: value and standard error by name.

    >>> gathered("gain", {"ann": {"bob": (0.5, 0.1)}, "bob": {"ann": (0.25, 0.1)}}).help_MM
    ((nan, 0.25), (0.5, nan))
    """
    names = tuple(sorted(rows))
    unknown = (math.nan, math.nan)
    cells = [[rows[pupil].get(teacher, unknown) for pupil in names] for teacher in names]
    help_MM, error_MM = (tuple(tuple(cell[at] for cell in row) for row in cells) for at in (0, 1))
    return Graph(names, measure, help_MM, error_MM)


def _known(value: float) -> bool:
    return math.isfinite(value)


def _draw(graph: Graph, path: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise JobError(
            "expected matplotlib to draw a graph, found none; pip install 'coterie[plots]', or "
            "save it as .graphml"
        ) from None
    figure = Figure(figsize=(6, 6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 0.94))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.4, 1.4)
    axes.set_ylim(-1.4, 1.4)
    axes.set_title(f"who helps whom, by {graph.measure}")
    order = [name for group in graph.groups() for name in group]
    turn = {name: 2 * math.pi * at / len(order) for at, name in enumerate(order)}
    place = {name: (math.cos(turn[name]), math.sin(turn[name])) for name in order}
    _draw_edges(graph, axes, place)
    for at, group in enumerate(graph.groups()):
        for name in group:
            x, y = place[name]
            axes.plot([x], [y], "o", color=PALETTE[at % len(PALETTE)], markersize=18, zorder=2)
            axes.annotate(name, (1.18 * x, 1.18 * y), ha="center", va="center", fontsize=9)
    figure.savefig(path, format="png")


def _draw_edges(graph: Graph, axes: Any, place: Mapping[str, tuple[float, float]]) -> None:
    most = max((v for row in graph.help_MM for v in row if _known(v)), default=0.0)
    for teacher, row in zip(graph.names, graph.help_MM, strict=True):
        for pupil, value in zip(graph.names, row, strict=True):
            if teacher != pupil and _known(value) and value > 0:
                axes.annotate(
                    "",
                    xy=place[pupil],
                    xytext=place[teacher],
                    zorder=1,
                    arrowprops={
                        "arrowstyle": "->",
                        "alpha": 0.2 + 0.8 * value / most,
                        "linewidth": 0.5 + 2.5 * value / most,
                        "connectionstyle": "arc3,rad=0.1",
                        "shrinkA": 10,
                        "shrinkB": 10,
                    },
                )

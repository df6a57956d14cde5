"""What lessons came to: who taught whom, in a graph that is saved and in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from coterie.errors import JobError
from coterie.watch.events import read
from coterie.watch.words import Event, amount, number_of, text_of

GRAPHML = "http://graphml.graphdrawing.org/xmlns"
GRAPH = "graph.json"  # in the folder of a run
NUM_WHYS = 3  # reasons of refusals that a sentence names


@dataclass(frozen=True)
class Edge:
    """All lessons of one teacher to one pupil.

    >>> Edge("ann", "bob").after({"kind": "lesson_taken", "num_bytes": 9, "gain": 0.5}).gain
    0.5
    """

    teacher: str
    pupil: str
    taken: int = 0
    refused: int = 0
    weight: float = 0.0  # of those taken, on the mean
    gain: float = 0.0  # of held-out utility by those taken, on the mean
    num_bytes: int = 0
    why: Mapping[str, int] = field(default_factory=dict)  # refused, by reason

    def after(self, event: Event) -> Edge:
        """The edge with one more lesson."""
        told = asdict(self)
        told["num_bytes"] += int(number_of(event, "num_bytes") or 0)
        if event["kind"] == "lesson_refused":
            reason = _kind_of(text_of(event, "reason"))
            why = {**self.why, reason: self.why.get(reason, 0) + 1}
            return Edge(**{**told, "refused": self.refused + 1, "why": why})
        for name in ("weight", "gain"):
            told[name] += ((number_of(event, name) or 0.0) - told[name]) / (self.taken + 1)
        return Edge(**{**told, "taken": self.taken + 1})


_KINDS = {
    "held-out utility would": "held-out utility would fall",
    "its teacher is trusted": "its teacher was trusted too little",
    "it is of step": "it was older than one heard before",
}


def _kind_of(reason: str) -> str:
    """A reason without its figures, so that those alike are counted together.

    >>> _kind_of("held-out utility would change by -0.06 ± 0.004 over 256 samples")
    'held-out utility would fall'
    """
    return next((kind for begin, kind in _KINDS.items() if reason.startswith(begin)), reason)


@dataclass(frozen=True)
class Taught:
    """Who learned in a run, who taught whom, and who belonged together at its end.

    >>> Taught.of([{"kind": "lesson_taken", "teacher": "ann", "pupil": "bob"}]).pupils
    ('ann', 'bob')
    """

    pupils: tuple[str, ...]
    edges: tuple[Edge, ...]
    groups: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event]) -> Taught:
        """As the events of a run tell it."""
        edges: dict[tuple[str, str], Edge] = {}
        pupils: dict[str, None] = {}
        groups: tuple[tuple[str, ...], ...] = ()
        for event in events:
            kind = event.get("kind")
            if kind in ("lesson_taken", "lesson_refused"):
                pair = text_of(event, "teacher"), text_of(event, "pupil")
                edges[pair] = edges.get(pair, Edge(*pair)).after(event)
                pupils.update(dict.fromkeys(sorted(pair)))
            elif kind == "homes":
                pupils.update(dict.fromkeys(event.get("homes") or ()))
            elif kind == "groups":
                groups = tuple(tuple(map(str, group)) for group in event.get("groups") or ())
        return cls(tuple(pupils), tuple(edges.values()), groups)

    def group_of(self, pupil: str) -> int | None:
        """The number of its group."""
        return next((n for n, group in enumerate(self.groups) if pupil in group), None)

    def as_dict(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {
            "pupils": list(self.pupils),
            "groups": [list(group) for group in self.groups],
            "edges": [asdict(edge) for edge in self.edges],
        }

    def lines(self) -> list[str]:
        """The groups, and what each taught each other, in sentences."""
        groups = [f"Who taught one another: {'; '.join(' and '.join(g) for g in self.groups)}."]
        told = [_edge_words(edge) for edge in self.edges]
        return [*(groups if self.groups else ()), *(told or ["No lesson was looked at yet."])]

    def matrices(self) -> dict[str, list[list[float | None]]]:
        """Lessons taken, by teacher and pupil; None where there were none."""
        taken = {(e.teacher, e.pupil): float(e.taken) for e in self.edges if e.taken}
        rows = [[taken.get((a, b)) for b in self.pupils] for a in self.pupils]
        return {"help_MM": rows, "error_MM": [[0.0 for _ in row] for row in rows]}

    def save(self, path: Path) -> Path:
        """Write it as what the name ends in: .json or .graphml; JobError for another ending."""
        writers = {".json": self._json, ".graphml": self._graphml}
        if path.suffix not in writers:
            raise JobError(
                f"expected a name that ends in {', '.join(writers)} or .png, found {path.name!r}"
            )
        try:
            path.write_text(writers[path.suffix](), encoding="utf-8")
        except OSError as error:
            raise JobError(f"expected to write {path}, found: {error.strerror}") from error
        return path

    def _json(self) -> str:
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def _graphml(self) -> str:
        root = xml.Element("graphml", xmlns=GRAPHML)
        numbers = {"taken": "int", "refused": "int", "num_bytes": "int"}
        keys = {"group": "int", **numbers, "weight": "double", "gain": "double"}
        for key, kind in keys.items():
            of = "node" if key == "group" else "edge"
            named = {"id": key, "for": of, "attr.name": key, "attr.type": kind}
            xml.SubElement(root, "key", named)
        drawn = xml.SubElement(root, "graph", id="lessons", edgedefault="directed")
        for name in self.pupils:
            node = xml.SubElement(drawn, "node", id=name)
            if (group := self.group_of(name)) is not None:
                xml.SubElement(node, "data", key="group").text = str(group)
        for each in self.edges:
            edge = xml.SubElement(drawn, "edge", source=each.teacher, target=each.pupil)
            for key in (*numbers, "weight", "gain"):
                xml.SubElement(edge, "data", key=key).text = repr(getattr(each, key))
        xml.indent(root)
        return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def save_graph(run: Path) -> Path:
    """Write who taught whom in a run beside the events that tell it."""
    return Taught.of(read(run / "events.jsonl")).save(run / GRAPH)


def sentences(events: Sequence[Event]) -> Iterator[str]:
    """What became of learners and of every lesson, in plain words and in their order; then all.

    >>> taken = {"kind": "lesson_taken", "teacher": "ann", "pupil": "bob", "currency": "labels",
    ...          "num_steps": 40, "num_bytes": 370, "gain": 0.02, "gain_error": 0.01}
    >>> print(*sentences([taken]), sep="\\n")
    bob took a lesson in labels from ann at step 40: held-out utility +0.02 ± 0.01, 370 bytes.
    bob took 1 and refused 0 lessons of ann, at a gain of +0.02 each on the mean.
    """
    for event in events:
        if words := _WORDS.get(str(event.get("kind"))):
            yield words(event)
    for edge in Taught.of(events).edges:
        yield _edge_words(edge)


def lesson_words(event: Event) -> str:
    """What became of one lesson.

    >>> lesson_words({"kind": "lesson_refused", "pupil": "bob", "teacher": "eve", "num_steps": 40,
    ...               "currency": "labels", "reason": "it would do harm"})
    'bob refused a lesson in labels from eve at step 40: it would do harm.'
    """
    verb = "took" if event["kind"] == "lesson_taken" else "refused"
    about = f"{text_of(event, 'pupil')} {verb} a lesson in {text_of(event, 'currency')} from "
    about += f"{text_of(event, 'teacher')} at step {amount(number_of(event, 'num_steps'))}"
    if verb == "refused":
        return f"{about}: {text_of(event, 'reason').rstrip('.')}."
    gain, error = (number_of(event, key) or 0.0 for key in ("gain", "gain_error"))
    num_bytes = amount(number_of(event, "num_bytes"))
    return f"{about}: held-out utility {gain:+.3g} ± {error:.2g}, {num_bytes} bytes."


def _edge_words(edge: Edge) -> str:
    words = f"{edge.pupil} took {edge.taken} and refused {edge.refused} lessons of {edge.teacher}"
    if edge.taken:
        words += f", at a gain of {edge.gain:+.3g} each on the mean"
    whys = sorted(edge.why.items(), key=lambda item: -item[1])[:NUM_WHYS]
    told = "; ".join(f"{reason} ({num}×)" for reason, num in whys)
    return f"{words}{f'; refused for: {told}' if told else ''}."


def _handover_words(event: Event) -> str:
    again = int(number_of(event, "steps_again") or 0)
    words = f"{text_of(event, 'pupil')} went on on {text_of(event, 'to')} from step "
    words += f"{amount(number_of(event, 'from_steps'))}, the last state that it had told"
    return f"{words}{f'; {again} steps were learned again' if again else ''}."


def _groups_words(event: Event) -> str:
    groups = [" and ".join(map(str, group)) for group in event.get("groups") or ()]
    told = "; ".join(groups) or "nobody's model knows enough of another's samples"
    return f"Who teach one another, by how models do on one another's samples: {told}."


_WORDS: Mapping[str, Callable[[Event], str]] = {
    "lesson_taken": lesson_words,
    "lesson_refused": lesson_words,
    "homes": lambda e: f"Because {text_of(e, 'cause')}: {text_of(e, 'text')}.",
    "rehomed": _handover_words,
    "groups": _groups_words,
    "board_failed": lambda e: (
        f"{text_of(e, 'pupil')} could not reach the board at step "
        f"{amount(number_of(e, 'num_steps'))}, and learned on alone: {text_of(e, 'reason')}."
    ),
}

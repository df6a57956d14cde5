"""A pupil among teachers: who is heard, who is refused and why; and learning always goes on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.errors import CoterieError, LessonError
from coterie.knowledge import (
    BoardFailed,
    Event,
    Evidence,
    Fusion,
    Gate,
    Lesson,
    LessonRefused,
    LessonTaken,
    MemoryBoard,
    Open,
    Packing,
    Pupil,
    Rules,
    Study,
    Trust,
)
from coterie.knowledge.board import Heard
from coterie.knowledge.currency import Attended, Change
from coterie.knowledge.distill import Labels, Pool
from coterie.knowledge.gate import Verdict
from coterie.knowledge.prototypes import Prototypes
from coterie.knowledge.trust import Record
from coterie.sync.codecs import Int8
from tests.knowledge.conftest import Make, samples


def fusing(pupil: Pupil, **changes: Any) -> Study:
    return Study(pupil, [Fusion(part="*")], **changes)


def taught(pupil: Pupil) -> bytes:
    return Fusion(part="*").teach(pupil).to_bytes()


def astray(pupil: Pupil) -> Tensor:
    """Far from all that anybody learned. (The other sign would not do: two layers make it good.)"""
    return 30 * torch.randn(pupil.layout.size, generator=torch.Generator().manual_seed(1))


def refusals(events: list[Event]) -> dict[str, str]:
    return {e.teacher: e.reason for e in events if isinstance(e, LessonRefused)}


def takers(events: list[Event]) -> list[str]:
    return [e.teacher for e in events if isinstance(e, LessonTaken)]


def test_members_that_meet_by_open_gates_all_stand_at_their_mean(make: Make) -> None:
    everyone = [fusing(make(name, 5), rules=Rules(Open())) for name in ("ann", "bob", "cid")]
    mean = torch.stack([study.pupil.vector() for study in everyone]).mean(0)
    lessons = [data for study in everyone for data in study.teach()[0]]
    for study in everyone:
        events = study.learn(reversed(lessons))
        assert torch.allclose(study.pupil.vector(), mean, atol=1e-6)
        assert len(takers(events)) == 2
        assert sum(e.weight for e in events if isinstance(e, LessonTaken)) == pytest.approx(1)
        assert study.heard_bytes == sum(map(len, lessons))


def test_a_good_teacher_is_taken_and_a_hostile_one_refused_beside_it(make: Make) -> None:
    ann = make("ann", 2)
    bob, eve = make("bob", 60), make("eve", 10)
    eve.place(astray(eve))
    before = float(ann.held_out().mean())
    study = fusing(ann, rules=Rules(Gate(tolerance=0.0)))
    events = study.learn([taught(eve), taught(bob)])
    assert takers(events) == ["bob"]
    assert "held-out utility would change" in refusals(events)["eve"]
    assert float(ann.held_out().mean()) > before
    assert study.trust.of("eve") < study.trust.of("bob") == 1.0


def test_teachers_who_do_good_together_are_not_refused_because_of_a_hostile_one(make: Make) -> None:
    """Each by itself leads astray; on the mean they do not, and there all but one are honest."""
    ann, there = make("ann", 2), make("ann", 80)
    bob, cid, eve = make("bob", 10), make("cid", 10), make("eve", 10)
    aside = 1.0 * torch.randn(ann.layout.size, generator=torch.Generator().manual_seed(0))
    bob.place(there.vector() + aside)
    cid.place(there.vector() - aside)
    eve.place(astray(eve))
    study = fusing(ann, rules=Rules(Gate(tolerance=0.0)))
    for alone in (bob, cid):
        assert takers(fusing(make("ann", 2), rules=study.rules).learn([taught(alone)])) == []
    before = float(ann.held_out().mean())
    events = study.learn([taught(eve), taught(cid), taught(bob)])
    assert sorted(takers(events)) == ["bob", "cid"]
    assert list(refusals(events)) == ["eve"]
    assert float(ann.held_out().mean()) > before
    assert study.trust.of("eve") < study.trust.of("bob") == study.trust.of("cid") == 1.0


def test_a_hostile_teacher_alone_changes_nothing_and_is_heard_no_more(make: Make) -> None:
    ann, eve = make("ann", 20), make("eve")
    study, reasons = fusing(ann), []
    for step in range(12):
        eve.place(-10 * ann.vector() + step)
        here = ann.vector()
        eve.num_steps = step
        reasons.append(refusals(study.learn([taught(eve)]))["eve"])
        assert torch.equal(ann.vector(), here)
    assert any("is trusted 0." in reason for reason in reasons)
    assert "held-out utility would change" in reasons[0]


def test_who_claims_to_have_seen_everything_is_not_believed_all_of_it(make: Make) -> None:
    ann, bob = make("ann", 5), make("bob", 5)
    lesson = Fusion(part="*").teach(bob)
    boast = Lesson("bob", "colours", "parameters", 5, lesson.arrays, Evidence(1e15))
    study = fusing(ann, rules=Rules(Open(), max_evidence=1.0))
    middle = (ann.vector() + bob.vector()) / 2
    study.learn([boast.to_bytes()])
    assert torch.allclose(ann.vector(), middle, atol=1e-6)


def test_bytes_that_are_no_lesson_come_to_events_and_the_pupil_goes_on(make: Make) -> None:
    ann, bob = make("ann", 5), make("bob", 60)
    shape = Lesson("cid", "t", "parameters", 1, {"w": torch.ones(3)}, Evidence(1))
    other = Lesson("dan", "t", "gossip", 1, {"w": torch.ones(3)}, Evidence(1))
    nan = bytearray(taught(make("eve")))
    nan[-4:] = torch.tensor(math.nan).numpy().tobytes()
    data = [b"noise", bytes(nan), shape.to_bytes(), other.to_bytes(), taught(bob)]
    events = fusing(ann).learn(data)
    assert takers(events) == ["bob"]
    found = [e.reason for e in events if isinstance(e, LessonRefused)]
    words = ["not one", "expected", "elsewhere missing", "takes none of this currency"]
    assert len(found) == 4
    for word, reason in zip(words, found, strict=True):
        assert word in reason
        assert "\n" not in reason
    assert "finite" in found[1]
    assert math.isfinite(ann.step())


def test_one_does_not_learn_from_oneself_and_only_from_kin(make: Make) -> None:
    ann = make("ann", 5)
    here = ann.vector()
    study = fusing(ann, kin=frozenset({"bob"}))
    assert study.learn([taught(ann), taught(make("cid", 5))]) == []
    assert torch.equal(ann.vector(), here)
    assert takers(fusing(ann, rules=Rules(Open())).learn([taught(make("cid", 5))])) == ["cid"]


def test_older_lessons_than_one_heard_are_refused(make: Make) -> None:
    ann, bob = make("ann", 5), make("bob", 3)
    old = taught(bob)
    for _ in range(4):
        bob.step()
    new = taught(bob)
    study = fusing(ann, rules=Rules(Open()))
    events = study.learn([old, new])
    assert takers(events) == ["bob"]
    assert refusals(events) == {"bob": "its teacher gave a newer one"}
    assert refusals(study.learn([old])) == {"bob": "it is of step 3, and one of step 7 was heard"}
    late = fusing(ann, rules=Rules(Open(), max_lag_steps=10))
    late.learn([new])
    assert takers(late.learn([old])) == ["bob"]


def test_without_held_out_samples_lessons_are_refused_and_nobody_is_blamed(make: Make) -> None:
    ann = make("ann", 5)
    blind = make("blind", held_out=(ann.course.train[0][:0], ann.course.train[1][:0]))
    study = fusing(blind)
    reasons = refusals(study.learn([taught(ann), taught(make("bob", 5))]))
    assert set(reasons.values()) == {"there is no held-out sample to judge it by"}
    assert study.trust.of("ann") == 1.0


def test_who_has_nothing_to_teach_says_so_and_learns(make: Make) -> None:
    ann = make("ann", 60)
    empty = tuple(part[:0] for part in ann.course.train)
    new = Study(make("new", train=empty), [Fusion(part="*"), Prototypes()])
    lessons, events = new.teach()
    assert len(lessons) == 1
    assert "to have samples to teach, found none" in refusals(events)["new"]
    assert takers(new.learn([taught(ann)])) == ["ann"]
    assert torch.allclose(new.pupil.vector(), ann.vector())


def test_who_has_no_samples_is_taught_by_labels_alone_through_a_gate(make: Make) -> None:
    ann = make("ann", 80, each=20)
    empty = tuple(part[:0] for part in ann.course.train)
    new = make("new", train=empty)
    labels = Labels(Pool(samples(9, 10)[0]))
    study, before = Study(new, [labels]), new.held_out().mean()
    assert takers(study.learn([labels.teach(ann).to_bytes()])) == ["ann"]
    for _ in range(40):
        new.step()
    assert new.held_out().mean() > before + 0.2


def test_a_codec_carries_lessons_at_a_quarter_of_the_bytes(make: Make) -> None:
    packing = Packing.of(Int8())
    plain, packed = fusing(make("ann", 5, width=64)), fusing(make("ann", 5, width=64))
    packed.rules = Rules(Open(), packing=packing, packings=(packing,))
    (data,), _ = packed.teach()
    assert len(data) < 0.6 * len(plain.teach()[0][0])
    bob = fusing(make("bob", 5, width=64), rules=packed.rules)
    middle = (bob.pupil.vector() + packed.pupil.vector()) / 2
    assert takers(bob.learn([data])) == ["ann"]
    assert (bob.pupil.vector() - middle).abs().max() < 0.02


class TestBoards:
    def test_members_learn_from_one_another_there(self, make: Make) -> None:
        board = MemoryBoard()
        studies = [fusing(make(name, 5), rules=Rules(Open())) for name in ("ann", "bob")]
        assert studies[0].meet(board) == []
        assert takers(studies[1].meet(board)) == ["ann"]
        assert takers(studies[0].meet(board)) == ["bob"]
        assert board.written_bytes == sum(study.taught_bytes for study in studies)

    @pytest.mark.parametrize("error", [OSError("down"), CoterieError("full"), TimeoutError("late")])
    def test_one_that_fails_loses_no_learning(self, make: Make, error: Exception) -> None:
        class Broken:
            def publish(self, data: bytes) -> None:
                raise error

            def since(self, cursor: int) -> Heard:
                raise error

        ann, alone = make("ann"), make("ann")
        study = fusing(ann)
        for _ in range(3):
            ann.step()
            alone.step()
            events = study.meet(Broken())
            assert events == [BoardFailed("ann", ann.num_steps, str(error))]
        assert torch.equal(ann.vector(), alone.vector())

    def test_a_teacher_that_vanished_is_forgotten_after_a_while(self, make: Make) -> None:
        board = MemoryBoard()
        ann, bob = make("ann", 10), make("bob", 40)
        study = Study(ann, [Prototypes(lasts_steps=15)], Rules(Open()))
        board.publish(Prototypes().teach(bob).to_bytes())
        assert takers(study.meet(board)) == ["bob"]
        twin = make("ann", 10)
        for each in (ann, twin):
            each.step()
        assert not torch.equal(ann.vector(), twin.vector())  # it attends to the lesson
        for _ in range(20):
            ann.step()
        study.meet(board)
        twin.restore(ann.snapshot())
        twin.attend("prototypes", None)
        for each in (ann, twin):
            each.step()
        assert torch.equal(ann.vector(), twin.vector())  # and no longer


def test_trust_may_be_given_beforehand(make: Make) -> None:
    study = fusing(make("ann"), trust=Trust({"bob": Record(refused=9.0)}))
    assert "trusted" in refusals(study.learn([taught(make("bob"))]))["bob"]


class Scripted:
    """A gate that keeps what it is told to keep, one change after the other."""

    def __init__(self, *keeps: bool) -> None:
        self.keeps = list(keeps)

    def keep(self, pupil: Pupil, change: Change) -> Verdict:
        if not self.keeps.pop(0):
            return Verdict(-1.0, 0.0, "it would do harm")
        change.apply(pupil)
        return Verdict(1.0, 0.0, "")


def test_a_lesson_counts_no_more_once_a_newer_one_of_its_teacher_is_refused(make: Make) -> None:
    """It was taken by chance, and would else stay for as long as newer ones are refused."""
    ann, twin, bob = make("ann", 5), make("ann", 5), make("bob", 5)
    study = Study(ann, [Prototypes()], Rules(Scripted(True, False)))
    assert takers(study.learn(Study(bob, [Prototypes()]).teach()[0])) == ["bob"]
    bob.step()
    assert takers(study.learn(Study(bob, [Prototypes()]).teach()[0])) == []
    for _ in range(5):
        ann.step(), twin.step()
    assert torch.equal(ann.vector(), twin.vector())


def test_the_best_of_several_tries_has_to_stand_out(make: Make) -> None:
    """What all do together harms; one of them seems to do some good, by less than its error."""

    class Doubtful(Scripted):
        def keep(self, pupil: Pupil, change: Change) -> Verdict:
            kept = super().keep(pupil, change)
            return kept if kept.refusal else Verdict(0.1, 0.2, "")

    ann, bob, eve = make("ann", 5), make("bob", 5), make("eve", 5)
    here = ann.vector()
    study = fusing(ann, rules=Rules(Doubtful(False, True, True, True, True)))
    assert takers(study.learn([taught(bob), taught(eve)])) == []
    assert torch.equal(ann.vector(), here)


def test_lessons_that_fit_no_longer_do_not_stand_in_the_way_of_new_ones(make: Make) -> None:
    class Choosy(Prototypes):
        def integrate(self, lessons: Any, weights: Any, pupil: Pupil) -> Attended:
            if pupil.num_steps > 5 and "cid" in {lesson.teacher for lesson in lessons}:
                raise LessonError("expected another one")
            return super().integrate(lessons, weights, pupil)

    ann, bob, cid = make("ann", 5), make("bob", 5), make("cid", 5)
    study = Study(ann, [Choosy()], Rules(Open()))
    lessons = [Prototypes().teach(each).to_bytes() for each in (bob, cid)]
    assert sorted(takers(study.learn(lessons))) == ["bob", "cid"]
    ann.step(), bob.step()
    assert takers(study.learn([Prototypes().teach(bob).to_bytes()])) == ["bob"]

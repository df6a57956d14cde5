"""Where requests are answered: the optimum of `offload`, with roads and machines as described."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.cluster import Cluster, checked
from coterie.coordinator.offload import Place, offload
from coterie.coordinator.place import place, sentences
from coterie.errors import JobError
from coterie.inventory import Between, Links, Machine, Requests, Road

SECONDS = {"camera": 0.9, "edge": 0.12, "cloud": 0.02}
CAMERAS = Cluster(
    machines=[Machine(name="camera", count=40), Machine(name="edge", count=2, speed=2),
              Machine(name="cloud", speed=9)],
    links=Links(
        default=Road(mbit_per_s=50, latency_ms=40),
        between=[Between(a="camera", b="edge", mbit_per_s=100, latency_ms=2)],
    ),
    requests=Requests(asked_by="camera", per_s=0.4, seconds=SECONDS, in_bytes=250_000),
)  # fmt: skip


def asking(**changes: object) -> Cluster:
    assert CAMERAS.requests is not None
    return CAMERAS.model_copy(update={"requests": CAMERAS.requests.model_copy(update=changes)})


def test_it_is_the_optimum_over_machines_where_they_wait_and_roads_where_these_do() -> None:
    told = place(CAMERAS)
    by_hand = offload(
        [
            Place("camera", 1 / 0.9, num=40),
            Place("edge", 1 / 0.12, 2 * 0.002 + 2e6 / 100e6, num=2),
            Place("roads to cloud", 50e6 / 2e6, 2 * 0.04 + 0.02),  # 40 ms each: the one that waits
        ],
        16.0,
    )
    assert list(told.parts.values()) == pytest.approx(list(by_hand.parts.values()))
    assert (told.expected_s, told.no_load_s) == (by_hand.expected_s, by_hand.no_load_s)
    assert [spot.waits_for_roads for spot in told.spots] == [False, False, True]
    assert told.busy(told.spots[2]) == pytest.approx(16 * told.parts["cloud"] / 25)


def test_who_asks_answers_its_own_and_nothing_travels() -> None:
    alone = asking(seconds={"camera": 0.9})
    told = place(alone)
    assert told.parts == {"camera": 1.0}
    assert told.expected_s == pytest.approx(1 / (1 / 0.9 - 0.4))  # forty queues, each of its own
    assert told.rejected == ()


def test_a_number_is_the_seconds_of_a_machine_of_speed_1() -> None:
    with pytest.raises(JobError, match=r"expected the speed of camera, by which requests.seconds"):
        place(asking(seconds=0.9))
    timed = [kind.model_copy(update={"speed": kind.speed or 0.5}) for kind in CAMERAS.machines]
    told = place(asking(seconds=0.9).model_copy(update={"machines": timed}))
    assert [spot.answer_s for spot in told.spots] == pytest.approx([1.8, 0.45, 0.1])


def test_no_rival_is_sooner_and_one_more_is_what_is_decided_with_one_more() -> None:
    told = place(CAMERAS)
    assert all(way.expected_s is None or way.expected_s > told.expected_s for way in told.rejected)
    bigger = CAMERAS.counting("cloud", 2)
    assert bigger is not None
    ways = {way.what: way for way in told.machines}
    assert ways["one more cloud"].expected_s == place(bigger).expected_s
    last = Cluster(machines=[Machine(name="pc", speed=1)], requests=Requests(
        asked_by="pc", per_s=1, seconds=0.5))  # fmt: skip
    assert place(last).machines[-1].refused == "nobody would be left to ask or to answer"


def test_what_was_decided_is_told_in_words() -> None:
    words = list(sentences(place(CAMERAS)))
    assert words[0] == (
        "Asked: 16 requests a second by camera (40 of them), with 250,000 bytes to who answers and "
        "0 back."
    )
    assert words[3].endswith("25 requests a second at most, as many as come over its roads.")
    assert any(line.startswith("Chosen: edge ") for line in words)
    assert any(line.startswith("Rejected: all on camera: 1.41 s a request, ") for line in words)
    assert any(line.startswith("One more cloud: ") and "sooner" in line for line in words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_s": 9}, r"which is 86.1 a second \(camera 44.4, edge 16.7, cloud 25\), found 360"),
        ({"per_s": 3, "seconds": {"edge": 0.1}}, r"which is 20 a second \(edge 20\), found 120"),
    ],
)
def test_more_than_all_can_answer_is_refused_with_what_they_can(
    changes: dict[str, object], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        place(asking(**changes))


def test_a_cluster_that_nobody_asks_is_refused() -> None:
    with pytest.raises(JobError, match="expected requests that the cluster is to answer"):
        place(CAMERAS.model_copy(update={"requests": None}))


ANY = st.sampled_from([1e-300, 1e-9, 0.01, 1.0, 30.0, 1e6, 1e15])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_described_is_answered_or_refused_in_a_sentence(data: st.DataObject) -> None:
    draw = data.draw
    seconds = draw(st.one_of(ANY, st.dictionaries(st.sampled_from("abc"), ANY, min_size=1)))
    described = {
        "machines": [
            {"name": name, "count": draw(st.integers(1, 40)), "speed": draw(ANY)} for name in "abc"
        ],
        "links": {"default": {"mbit_per_s": draw(ANY), "latency_ms": draw(ANY)}},
        "requests": {
            "asked_by": "a",
            "per_s": draw(ANY),
            "seconds": seconds,
            "in_bytes": draw(ANY),
        },
    }
    try:
        told = place(checked(described, "cluster.yaml"))
    except JobError:  # and nothing else
        return
    assert sum(told.parts.values()) == pytest.approx(1.0)
    assert told.expected_s > 0
    assert all(told.busy(spot) <= 1 for spot in told.spots)
    assert "nan" not in " ".join(sentences(told))

"""What is known of a run, as others ask for it."""

from __future__ import annotations

import pytest

from coterie.coordinator.run import Run
from coterie.transport import messages as say


@pytest.fixture
def begun(play):
    return play(until={"epochs": 4.0, "steps": 1000.0, "minutes": 100.0}).until_training()


def test_a_run_is_as_far_as_the_first_of_its_limits(begun):
    begun.until_true(lambda: begun.run.ledger.num_epochs == 2)
    run = begun.run
    assert run.fraction() == pytest.approx(run.ledger.epochs_done / 4)
    assert run.fraction() > run.ledger.num_steps / 1000
    assert run.reached() == ""


def test_a_metric_alone_says_nothing_ahead(job):
    run = Run(job(until={"accuracy": 0.9}), num_agents=3)
    assert run.fraction() == 0.0
    run.scores = say.Scores(round=1, metrics={"accuracy": 0.95}, seconds=1.0)
    assert run.reached() == "accuracy 0.95 reached 0.9"


def test_a_metric_below_its_value_reaches_nothing(job):
    run = Run(job(until={"accuracy": 0.9}), num_agents=3)
    run.scores = say.Scores(round=1, metrics={"accuracy": 0.89, "other": 5.0}, seconds=1.0)
    assert run.reached() == ""


def test_the_world_is_of_the_living_and_in_the_order_of_names(begun):
    begun.kill("b")
    world = begun.run.world
    assert [device.name for device in world.devices] == ["a", "c"]
    assert [(link.a, link.b) for link in world.links] == [("a", "c")]
    assert (world.batch, world.num_train) == (32, 640)


def test_devices_are_on_as_many_cores_as_their_machines_said_last(begun):
    run = begun.run
    name = min(run.members)
    assert run.world.device(name).cores == run.members[name].hello.cores
    run.members[name].cores = 0.25
    assert run.world.device(name).cores == 0.25


@pytest.mark.parametrize(("batch", "sizes"), [(32, (4, 32)), (3, (1, 3)), (8, (1, 8))])
def test_steps_are_timed_at_two_sizes_the_larger_being_the_whole_batch(job, batch, sizes):
    assert Run(job(batch=batch), num_agents=3).probe().sizes == sizes


def test_a_term_is_told_to_its_living_members_only(begun):
    begun.hello("d")
    begun.run.members.pop("b")
    begun.run.tell_term(say.ProbeLinks(term=1))
    assert [name for name, _ in begun.run.outbox] == ["a", "c"]
    begun.run.outbox.clear()
    begun.run.tell_all(say.Stop(reason="x"))
    assert [name for name, _ in begun.run.outbox] == ["a", "c", "d"]


def test_only_the_first_failure_is_told_and_none_after_the_end(job):
    run = Run(job(), num_agents=3)
    run.fail("one")
    run.fail("two")
    assert (run.failure, run.log) == ("one", [("error", {"text": "one"})])
    ended = Run(job(), num_agents=3)
    ended.done = True
    ended.fail("late")
    assert ended.failure == ""


def test_the_clock_of_a_run_starts_with_its_plan(play):
    p = play(2)
    p.enter("a")
    p.wait(30.0)
    assert p.run.elapsed_s == 0.0
    p.enter("b")
    p.until(say.Block)
    p.wait(2.0)
    assert p.run.elapsed_s == pytest.approx(2.0)

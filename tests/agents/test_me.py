"""A script that was started by Python: nothing stands between it and PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import coterie
from coterie.agents import me as room
from coterie.errors import CheckpointError, JobError

PAIRS = TensorDataset(torch.eye(4), torch.arange(4))


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "best_device", lambda: "cpu")


def things() -> tuple[Any, ...]:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    return model, optimizer, DataLoader(PAIRS, batch_size=2), StepLR(optimizer, 1, 0.5)


def test_alone_each_thing_comes_back_itself_so_that_it_costs_nothing() -> None:
    given = things()
    prepared = coterie.join().prepare(*given)
    assert all(back is thing for back, thing in zip(prepared, given, strict=True))


def test_alone_no_step_calls_anything_of_ours() -> None:
    me = coterie.join()
    model, optimizer, loader, scheduler = me.prepare(*things())
    ours, called = str(Path(coterie.__file__).parent), set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            called.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        for x, y in loader:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    finally:
        sys.setprofile(None)
    assert any("torch" in file for file in called)
    assert not [file for file in called if file.startswith(ours)]


def test_alone_there_is_one_agent_who_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    me = coterie.join()
    assert (me.is_first, me.should_stop, me.device) == (True, False, "cpu")
    me.tell(0.5)
    me.print("loss", 0.5)
    assert capsys.readouterr().out == "loss 0.5\n"
    assert list(me.passes(3)) == [0, 1, 2]


def test_alone_gradients_are_clipped_before_every_step_from_then_on() -> None:
    me = coterie.join()
    model, optimizer, *_ = me.prepare(*things())
    me.clip_grad_norm_(0.25)
    me.clip_grad_norm_(0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
        assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(0.5, rel=1e-5)


def test_what_was_saved_is_gone_on_from(tmp_path: Path) -> None:
    me, path = coterie.join(), tmp_path / "deep" / "state"
    model, optimizer, _, scheduler = me.prepare(*things())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    me.save(path, epoch=3)
    other = coterie.join()
    new, stepper, _, schedule = other.prepare(*things())
    assert other.load(path) == {"epoch": 3}
    assert all(torch.equal(a, b) for a, b in zip(new.parameters(), model.parameters(), strict=True))
    assert str(stepper.state_dict()) == str(optimizer.state_dict())
    assert schedule.get_last_lr() == [0.5]
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_a_file_of_another_model_and_wrong_use_are_sentences(tmp_path: Path) -> None:
    me = coterie.join()
    with pytest.raises(JobError, match=r"expected me.prepare before"):
        me.save(tmp_path / "state")
    with pytest.raises(JobError, match="accumulate of 1 or more"):
        me.prepare(*things(), accumulate=0)
    me.prepare(*things())
    with pytest.raises(JobError, match=r"expected one me.prepare in a script, found another"):
        me.prepare(*things())
    (tmp_path / "state").write_bytes(b"no state")
    with pytest.raises(CheckpointError):
        me.load(tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"expected in .* what me.save wrote"):
        me.load(tmp_path / "none")

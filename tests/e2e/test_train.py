from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

pytestmark = pytest.mark.processes


def shop(**parts: object) -> dict[str, Any]:
    return {"model": "shop:net", "train": "shop:from_disk", "test": "shop:samples", **parts}


@pytest.fixture(scope="module")
def until_accurate(shared_desk: Any) -> Any:
    """Two agents, a schedule and a meter of torch's kind, ended by its metric."""
    with (shared_desk.folder / "shop.py").open("a") as module:
        module.write(METER)
    job = shared_desk.job(
        task=shop(metrics={"hits": "shop:Hits"}),
        scheduler={"call": "torch.optim.lr_scheduler:StepLR", "with": {"step_size": 2}},
        until={"accuracy": 0.5},
    )
    return shared_desk.train(
        job, "--set", "until={hits: 0.6, minutes: 2}", "--set", "strategy=local-sgd(4)"
    )


METER = """

class Hits:
    def __init__(self):
        self.reset()

    def reset(self):
        self.num, self.num_right = 0, 0

    def update(self, predictions, targets):
        self.num += len(targets)
        self.num_right += (predictions.argmax(dim=1) == targets).sum()

    def compute(self):
        return self.num_right / self.num
"""


def test_a_run_ends_once_its_metric_is_reached(until_accurate: Any, shared_desk: Any) -> None:
    assert until_accurate.code == 0, until_accurate.err
    assert until_accurate.answer["metrics"]["hits"] >= 0.6
    stopped = shared_desk.events()[-1]
    assert (stopped["kind"], stopped["ok"]) == ("stopped", True)
    assert stopped["reason"].startswith("hits ")


def test_what_is_set_lies_over_the_file(until_accurate: Any) -> None:
    assert until_accurate.answer["strategy"] == "chain(Every(4), Reduce(), Outer(1.0))"


def test_the_model_of_a_checkpoint_is_one_that_plain_torch_loads(until_accurate: Any) -> None:
    file = Path(until_accurate.answer["checkpoint"], "model.safetensors")
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model.load_state_dict(safetensors.torch.load_file(file))
    inputs = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    right = model(inputs).argmax(dim=1) == inputs[:, :4].argmax(dim=1)
    assert float(right.float().mean()) == pytest.approx(until_accurate.answer["metrics"]["hits"])


def test_two_agents_that_reduce_learn_what_one_device_learns(desk: Any) -> None:
    runs = []
    for agents in (1, 2):
        job = desk.job(
            f"job-{agents}",
            name=f"on-{agents}",
            agents=agents,
            until={"steps": 20},
            scheduler=SCHEDULER,
        )
        runs.append(desk.start("train", job, "--json", "--runs", desk.runs))
    weights = []
    for finished in map(desk.finish, runs):
        assert finished.code == 0, finished.err
        file = Path(finished.answer["checkpoint"], "model.safetensors")
        weights.append(safetensors.torch.load_file(file))
    alone, together = weights
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5)


SCHEDULER = {
    "call": "torch.optim.lr_scheduler:ExponentialLR",
    "with": {"gamma": 0.9},
    "every": "step",
}

SCRIPT = """
import functools
import json

import shop
import torch

import coterie

task = coterie.Supervised(
    "small",
    functools.partial(shop.net, width=16),
    shop.from_disk,
    shop.samples,
    metrics={"accuracy": shop.accuracy},
)


def train(**options):
    told = []
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    result = coterie.train(task, sgd, 64, {"steps": 24}, show=told.append, **options)
    kinds = sorted({event["kind"] for event in told})
    return {"code": result.exit_code, "kinds": kinds, **result.summary}


if __name__ == "__main__":
    print(json.dumps(train(agents=2, strategy="chain(Every(8), Reduce(), Outer(0.9))")))
"""


def test_python_trains_on_two_agents_by_the_names_of_functions(desk: Any) -> None:
    (desk.folder / "script.py").write_text(SCRIPT)
    finished = desk.finish(desk.python("script.py"))
    assert finished.code == 0, finished.err
    answer = finished.answer
    assert answer["code"] == 0
    assert answer["strategy"] == "chain(Every(8), Reduce(), Outer(0.9))"
    assert answer["shares"].keys() == {"agent-0", "agent-1"}
    assert answer["steps"] == 24
    assert answer["metrics"].keys() == {"accuracy", "test_loss"}
    assert {"run", "decision", "committed", "checkpoint", "summary"} <= set(answer["kinds"])
    assert not desk.await_empty()

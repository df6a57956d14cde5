"""What one machine needs is there on Windows and macOS too: all of it, with what they lack away.

No such system is at hand in every test run: here a Linux process gives up what they do not have,
after torch and others have been loaded, whose own affair it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"
POORER = """
import importlib, os, pathlib, pkgutil, signal, socket, sys, tempfile, threading
import psutil, pydantic, rich.live, safetensors.torch, scipy.optimize, torch, typer.testing
import sklearn.base, sklearn.utils.validation, torch.distributed, yaml, zmq, zmq.auth.thread
import zmq.utils.monitor
from torch import nn

net = nn.Linear(2, 2)  # torch loads more of itself with the first step
net(torch.ones(1, 2)).sum().backward()
torch.optim.SGD(net.parameters(), lr=0.1).step()

for name in "fcntl grp pty pwd resource termios tty".split():
    sys.modules[name] = None
LACKING = {
    os: "PRIO_PROCESS chown fchmod fork forkpty getegid geteuid getgid getpgid getpriority getuid "
    "killpg nice register_at_fork sched_getaffinity sched_setaffinity setpriority setsid "
    "uname wait3 wait4",
    signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGSTOP SIGUSR1 SIGUSR2 pthread_sigmask "
    "setitimer sigwait",
    socket: "AF_UNIX",
}
for module, names in LACKING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
signal.SIGBREAK, signal.CTRL_BREAK_EVENT = 21, 1
sys.platform = "win32"
open_path = pathlib.Path.open

def without_kernel(path, *args, **options):
    if path.parts[1:2] in (("proc",), ("sys",)):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return open_path(path, *args, **options)

pathlib.Path.open = without_kernel
"""
USES = """
import coterie
for found in pkgutil.walk_packages(coterie.__path__, "coterie."):
    if not found.name.endswith("__main__") and found.name != "coterie.engines.ray":  # an extra's
        importlib.import_module(found.name)

from coterie.agents.learner import Setup
from coterie.cli import app
from coterie.config import Job, TaskSpec
from coterie.doctor import examine
from coterie.engines.processes import Adopted, may_hurry
from coterie.engines.simulated import Simulation
from coterie.engines.throttle import choose
from coterie.machine import perceive
from coterie.parent import die_with_parent
from coterie.transport.secure import JoinKey, Keys
from coterie.watch.events import audit
from coterie.world import Device, Link, World

pairs = torch.utils.data.TensorDataset(torch.eye(8, 2), torch.arange(8) % 2)
task = coterie.Supervised("eye", lambda: nn.Linear(2, 2), pairs, pairs)
spec = TaskSpec(model="m:n", train="m:t", test="m:t")
sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
job = Job(name="x", task=spec, optimizer="m:o", batch=4, until={"epochs": 3}, agents=2,
          strategy="local-sgd(2)")
world = World(tuple(Device(n, 0.01, 0.01, 64) for n in "ab"), (Link("a", "b", 1e-4, 1e8),), 4, 8)
outcome = Simulation(job, Setup(task, sgd), world).run()
told = [{"kind": "task", "num_train": 8}, *outcome.events]
assert audit(told).is_exact and outcome.summary["epochs"] >= 3, outcome.summary

folder = pathlib.Path(tempfile.mkdtemp())
alone = coterie.train(task, sgd, 4, {"steps": 3}, runs=folder, show=lambda event: None)
assert (alone.exit_code, alone.summary["steps"]) == (0, 3)

keys = Keys.make()
keys.join.write(folder / "join.key")
assert JoinKey.read(folder / "join.key") == keys.join
assert perceive().cores >= 1 and choose({"a": 0.5})["a"].duty.fraction == 0.5
assert examine("127.0.0.1:0", spin_s=0.01).as_dict()["facts"]
assert Adopted(os.getpid()).poll() is None and not may_hurry()
die_with_parent()
told = typer.testing.CliRunner().invoke(app, ["top", str(folder / "eye"), "--json"])
assert told.exit_code == 0, told
print("well")
"""


def test_one_machine_does_without_what_linux_alone_has() -> None:
    done = subprocess.run(
        [sys.executable, "-c", POORER + USES],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr

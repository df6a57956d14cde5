from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from coterie.parent import Watch, is_alive

SRC = Path(__file__).parents[1] / "src"


def test_a_process_that_ended_is_not_alive_though_nobody_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # until it has ended
    while is_alive(child.pid):
        os.sched_yield()
    assert child.returncode is None
    child.wait()


def test_who_was_heard_of_late_is_waited_for_though_the_other_is_gone() -> None:
    program = (
        "import time; from coterie.parent import Watch\n"
        "Watch(2**22 + 1, heard_s=lambda: 0.0, patience_s=0.0).start(); time.sleep(60)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(SRC)}, check=False
    )
    assert done.returncode == 1
    patient = Watch(2**22 + 1, heard_s=lambda: float("inf"))
    patient.start()  # it would end this process

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.doctor import (
    CHECKS,
    GIB,
    LOWEST_VERSIONS,
    Diagnosis,
    Facts,
    Finding,
    diagnose,
    examine,
    listen_refusal,
)
from coterie.errors import JobError
from coterie.machine import Gpu, Machine

BOX = Machine("box", None, 4, 16 * GIB, 12 * GIB, ())
GPU_BOX = replace(BOX, gpus=(Gpu("NVIDIA T4", 15 * GIB), Gpu("GB10", None)))
WELL = Facts(
    machine=BOX,
    reported_cores=4,
    achieved_cores=3.9,
    has_nvidia_smi=False,
    can_throttle=True,
    listen="127.0.0.1:0",
    listen_refusal="",
    runs="runs",
    runs_writable=True,
    disk_free_bytes=50 * GIB,
    shm_bytes=8 * GIB,
    python="3.11.9",
    versions=dict(LOWEST_VERSIONS),
)


def versions(**changed: str | None) -> dict[str, str | None]:
    return {**LOWEST_VERSIONS, **changed}


def test_a_good_machine_has_no_finding() -> None:
    assert diagnose(WELL) == ()
    assert Diagnosis(WELL, ()).lines()[-1] == "nothing stands in the way"


# Each check: the smallest change of a good machine that it must see, and a word of what it says.
SICK: list[tuple[dict[str, Any], str, str, str]] = [
    ({"versions": versions(torch=None)}, "error", "not installed: torch", "'torch>=2.9'"),
    ({"versions": versions(torch="2.8.1+cu121")}, "error", "torch 2.8.1", "'torch>=2.9'"),
    ({"listen_refusal": "Address already in use"}, "error", "already in use", "free port"),
    ({"runs_writable": False}, "error", "cannot be written in runs", "write"),
    ({"disk_free_bytes": GIB - 1}, "warning", "disk free", "remove old checkpoints"),
    ({"disk_free_bytes": 0}, "error", "0.0 GiB of disk", "remove old checkpoints"),
    (
        {"machine": replace(BOX, memory_available_bytes=GIB - 1)},
        "warning",
        "of 16.0 GiB granted",
        "memory limit",
    ),
    (
        {"machine": replace(BOX, quota_cores=2.5)},
        "warning",
        "2.5 cores, while torch sees 4",
        "OMP_NUM_THREADS=2",
    ),
    (
        {"machine": replace(BOX, quota_cores=0.25)},
        "warning",
        "0.25 cores",
        "OMP_NUM_THREADS=1",
    ),
    ({"achieved_cores": 2.0}, "warning", "2.00 cores obtained", "neighbours"),
    ({"has_nvidia_smi": True}, "warning", "names no GPU", "nvidia-smi"),
    (
        {"machine": GPU_BOX, "has_nvidia_smi": True, "versions": versions(torch="2.13.0+cpu")},
        "warning",
        "NVIDIA T4 stays idle",
        "CUDA build",
    ),
    ({"shm_bytes": 64 * 1024**2}, "warning", "/dev/shm holds 0.1 GiB", "--shm-size"),
    ({"can_throttle": False}, "note", "rest between steps", "root"),
]


@pytest.mark.parametrize(("change", "severity", "found", "fix"), SICK)
def test_one_ill_one_finding(change: dict[str, Any], severity: str, found: str, fix: str) -> None:
    (finding,) = diagnose(replace(WELL, **change))
    assert finding.severity == severity
    assert found in finding.found
    assert fix in finding.fix


def test_every_check_can_find_something() -> None:
    seen = {check for check in CHECKS for change, *_ in SICK if check(replace(WELL, **change))}
    assert seen == set(CHECKS)


@pytest.mark.parametrize(
    "change",
    [
        {"versions": versions(torch="2.10.0a0+gitf00", pyzmq="26.0.0", numpy="10.0")},
        {"machine": replace(BOX, quota_cores=4.0)},
        {"machine": replace(BOX, affinity_cores=3), "reported_cores": 64},
        {"machine": GPU_BOX, "has_nvidia_smi": True},
        {"versions": versions(torch="2.13.0+cpu")},
        {"shm_bytes": None},
        {"disk_free_bytes": GIB},
    ],
)
def test_what_is_well_is_left_alone(change: dict[str, Any]) -> None:
    assert diagnose(replace(WELL, **change)) == ()


def test_the_lowest_versions_are_those_of_the_package() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    asked = tomllib.loads(project.read_text())["project"]["dependencies"]
    assert sorted(asked) == sorted(
        f"{name}>={version}" for name, version in LOWEST_VERSIONS.items()
    )


def test_the_worst_comes_first() -> None:
    ill = replace(WELL, can_throttle=False, shm_bytes=1, listen_refusal="no", runs_writable=False)
    severities = [finding.severity for finding in diagnose(ill)]
    assert severities == ["error", "error", "warning", "note"]


def test_only_errors_are_unhealthy() -> None:
    note, warning = Finding("note", "a", "b"), Finding("warning", "a", "b")
    assert Diagnosis(WELL, (note, warning)).healthy
    assert not Diagnosis(WELL, (note, Finding("error", "a", "b"))).healthy


def test_lines_tell_facts_then_findings_with_their_cure() -> None:
    facts = replace(WELL, machine=replace(GPU_BOX, quota_cores=0.5))
    text = "\n".join(Diagnosis(facts, (Finding("note", "a spare disk", "use it"),)).lines())
    for part in ("0.5 granted (quota 0.5, affinity 4)", "NVIDIA T4 15.0 GiB, GB10", "torch 2.9"):
        assert part in text
    assert text.endswith("note: a spare disk\n  to do: use it")


def test_as_dict_is_json() -> None:
    facts = replace(WELL, machine=GPU_BOX)
    told = json.loads(json.dumps(Diagnosis(facts, diagnose(facts)).as_dict()))
    assert told["healthy"] is True
    assert told["cores"] == 4
    assert told["facts"]["machine"]["gpus"][0]["name"] == "NVIDIA T4"
    assert told["findings"] == []


class TestListening:
    def test_a_port_in_use_is_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert "in use" in listen_refusal(f"127.0.0.1:{port}").lower()
        assert listen_refusal(f"127.0.0.1:{port}") == ""

    def test_an_address_of_another_machine_is_refused(self) -> None:
        assert listen_refusal("192.0.2.1:0") != ""  # kept for documentation by RFC 5737

    @pytest.mark.parametrize("listen", ["*:0", ":0", "0.0.0.0:0"])
    def test_every_address(self, listen: str) -> None:
        assert listen_refusal(listen) == ""

    @pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 on this machine")
    def test_brackets_of_ipv6(self) -> None:
        assert listen_refusal("[::1]:0") == ""

    @pytest.mark.parametrize("listen", ["", "8900", "localhost:", "localhost:http", "a:70000"])
    def test_refuses_what_is_no_address(self, listen: str) -> None:
        with pytest.raises(JobError, match="expected HOST:PORT"):
            listen_refusal(listen)


class TestExamine:
    def test_this_machine(self, tmp_path: Path) -> None:
        diagnosis = examine(runs=tmp_path / "not" / "yet", spin_s=0.01)
        facts = diagnosis.facts
        assert facts.achieved_cores > 0
        assert facts.disk_free_bytes > 0
        assert facts.versions["psutil"] is not None
        assert diagnosis.findings == diagnose(facts)
        assert not (tmp_path / "not").exists()

    def test_loads_no_torch(self) -> None:
        code = "import sys, coterie.doctor; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0

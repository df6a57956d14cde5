from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.code import MOST_BYTES, check_same, digests, shipped, texts, unpack
from coterie.config import Job, Script, TaskSpec
from coterie.errors import JobError

FILES = {
    "nets.py": "import torch\nimport layers.wide\nfrom shop import parts as p\nimport missing\n",
    "layers/__init__.py": "",
    "layers/wide.py": "from . import deep\nfrom .deep import Deep\nfrom ..shop import parts\n",
    "layers/deep.py": "class Deep: pass\n",
    "shop/__init__.py": "X = 1\n",
    "shop/parts.py": "import nets  # in a circle\n",
    "sets.py": "def train(): pass\n",
    "unused.py": "raise SystemExit\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def job(root: Path, **parts: Any) -> Job:
    task = TaskSpec(**{"model": "nets:net", "train": "sets:train", "test": "sets:test", **parts})
    return Job(
        name="x", task=task, optimizer="torch.optim:SGD", batch=8, until={"epochs": 1.0},
        root=str(root),
    )  # fmt: skip


def test_the_code_of_a_job_is_what_its_names_import_and_nothing_runs(root: Path) -> None:
    assert texts(job(root)).keys() == FILES.keys() - {"unused.py"}
    assert texts(job(root, model="layers.deep:Deep")).keys() == {
        *("layers/__init__.py", "layers/deep.py", "sets.py"),
    }


def test_code_that_this_python_cannot_read_is_still_compared(root: Path) -> None:
    (root / "nets.py").write_text("type X = int; def f(:\n")
    assert "nets.py" in texts(job(root))


def test_the_same_code_passes_and_other_code_is_named(root: Path, tmp_path: Path) -> None:
    wanted = digests(texts(job(root)))
    check_same(root, wanted)
    (root / "sets.py").write_bytes(FILES["sets.py"].replace("\n", "\r\n").encode())
    (root / "unused.py").write_text("of no matter")
    check_same(root, wanted)
    (root / "sets.py").write_text("def train(): return 1\n")
    (root / "layers" / "deep.py").unlink()
    with pytest.raises(JobError, match=r"other or no layers/deep\.py, sets\.py; copy the run's"):
        check_same(root, wanted)


def test_shipped_code_is_the_same_there(root: Path, tmp_path: Path) -> None:
    files = texts(job(root))
    elsewhere = tmp_path / "elsewhere"
    unpack(shipped(files), elsewhere)
    check_same(elsewhere, digests(files))


@pytest.mark.parametrize("name", ["../up.py", "/etc/x.py", "a/../../b.py", "a\\..\\b.py", "run.sh"])
def test_what_would_lie_elsewhere_is_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="expected Python files below a folder"):
        unpack({name: "x"}, tmp_path / "in")
    assert list(tmp_path.rglob("*.*")) == []


def test_nothing_is_made_of_no_code_or_of_too_much() -> None:
    with pytest.raises(JobError, match="begin it with coterie up --ship"):
        unpack({}, Path("nowhere"))
    with pytest.raises(JobError, match="at most 4 MB to ship, found 4 MB"):
        shipped({"big.py": "#" * (MOST_BYTES + 1)})


def test_a_script_with_a_loop_of_its_own_is_code_as_well(root: Path) -> None:
    (root / "train.py").write_text("import sets\n")
    job = Job(name="x", script=Script.of(root / "train.py", []), root=str(root))
    assert texts(job).keys() == {"train.py", "sets.py"}

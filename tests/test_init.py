"""The front door: which names there are, where they come from, and what opening it costs."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import coterie
from coterie import errors

SRC = Path(coterie.__file__).parents[1]
PUBLIC = [
    "Autoencoder",
    "CheckpointError",
    "Clip",
    "Clusters",
    "Contrastive",
    "CoterieError",
    "ErrorFeedback",
    "Every",
    "Fp16",
    "GaussianMixture",
    "Int8",
    "Job",
    "JobError",
    "JoinError",
    "KMeans",
    "KerasCallbacks",
    "KerasNet",
    "LessonError",
    "Lightning",
    "MultiTask",
    "NotFinite",
    "Only",
    "Outer",
    "PerCentre",
    "Prototypes",
    "Reduce",
    "StrategyError",
    "Streamed",
    "Supervised",
    "Table",
    "Torn",
    "TrainingError",
    "Transformed",
    "__version__",
    "chain",
    "join",
    "load_job",
    "own_loss",
    "parse",
    "train",
]


def printed_by(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SRC)},
    )
    return done.stdout.strip()


def test_public_names_are_frozen() -> None:
    assert list(coterie.__all__) == PUBLIC


def test_all_public_names_are_listed() -> None:
    assert set(PUBLIC) <= set(dir(coterie))


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "train"])
def test_every_name_is_there(name: str) -> None:
    assert getattr(coterie, name) is not None


def test_train_is_the_engine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ModuleType("coterie.engines.train")
    engine.train = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    assert coterie.train is engine.train


def test_every_error_is_public() -> None:
    tree = {n for n, e in vars(errors).items() if isinstance(e, type)}
    assert tree <= set(PUBLIC)
    assert all(getattr(coterie, name) is getattr(errors, name) for name in tree)


@pytest.mark.parametrize(
    ("room", "names"),
    [("coterie.sync", coterie.__all__), ("coterie.config", ["Job", "load_job"])],
)
def test_names_are_those_of_the_rooms(room: str, names: list[str]) -> None:
    module = importlib.import_module(room)
    shared = set(names) & set(vars(module)) - {"__version__"}
    assert shared
    assert all(getattr(coterie, name) is getattr(module, name) for name in shared)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        coterie.trian  # noqa: B018


def test_opening_the_door_is_cheap() -> None:
    program = "import sys, coterie; print({'torch', 'pydantic', 'rich'} & sys.modules.keys())"
    assert printed_by(program) == "set()"


def test_a_sentence_needs_no_torch() -> None:
    program = "import sys, coterie; print(coterie.parse('all-reduce'), 'torch' in sys.modules)"
    assert printed_by(program) == "chain(Reduce()) False"


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: f"1.2.3 of {name}")
    assert runpy.run_path(coterie.__file__)["__version__"] == "1.2.3 of coterie"


def test_a_checkout_that_was_never_installed_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert runpy.run_path(coterie.__file__)["__version__"] == "0+unknown"

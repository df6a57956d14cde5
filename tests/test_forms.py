from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from coterie.cluster import Cluster
from coterie.config import Agents, Drill, Job, Ref, Scheduler, load_job
from coterie.errors import CoterieError, JobError
from coterie.forms import schema, write_job
from coterie.specs import AnySpec, MultiSpec
from coterie.yamls import read_file, read_yaml

EXAMPLES = Path(__file__).parents[1] / "examples"
WORDS = (Job, *get_args(AnySpec), Ref, Scheduler, Agents, Drill)


def uncommented(text: str) -> str:
    """The text with every default made a line, as a person would: one # taken away."""
    return re.sub(r"^(\s*)#(?=[^\s#]|  )", r"\1", text, flags=re.MULTILINE)


def faults(value: Any, part: Any, whole: Any) -> list[str]:
    """What a schema has against a value: the keywords that ours use, and no others."""
    if "$ref" in part:
        return faults(value, whole["$defs"][part["$ref"].rpartition("/")[2]], whole)
    if several := part.get("anyOf") or part.get("oneOf"):
        tried = [faults(value, each, whole) for each in several]
        return [] if [] in tried else min(tried, key=len)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kinds |= {"integer": int, "number": int | float}  # type: ignore[dict-item]
    kind = part.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (kind != "boolean" and value is True)):
        return [f"{value!r} is no {kind}"]
    found = [f"{value!r} is no {part['const']}"] if value != part.get("const", value) else []
    found += [f"{value!r} is none of them"] if value not in part.get("enum", [value]) else []
    found += [] if re.search(part.get("pattern", ""), str(value)) else [f"{value!r} is misspelt"]
    if isinstance(value, list):
        return found + [f for each in value for f in faults(each, part.get("items", {}), whole)]
    if not isinstance(value, dict):
        return found
    known, more = part.get("properties", {}), part.get("additionalProperties", {})
    found += [f"{key} is missing" for key in part.get("required", []) if key not in value]
    for key, inner in value.items():
        allowed = known.get(key, more)
        found += [f"{key} is unknown"] if allowed is False else faults(inner, allowed or {}, whole)
    return found


class TestJob:
    def test_loads_as_the_job_that_was_given(self, tmp_path: Path) -> None:
        path = tmp_path / "first.yaml"
        job = write_job(path, "nets", ["task.model=nets:small", "agents.remote=1"], "s.json")
        assert path.read_text().startswith("# yaml-language-server: $schema=s.json\n")
        assert load_job(path) == job.model_copy(update={"root": str(tmp_path)})
        assert (job.name, job.task.model.call, job.task.test.call) == (
            *("first", "nets:small", "nets:test_set"),
        )
        assert job.agents == Agents(remote=1)

    def test_several_tasks_are_written_as_they_were_given(self, tmp_path: Path) -> None:
        head = "tasks: {odd: {model: nets:head}}, train: sets:all, test: sets:all"
        job = write_job(tmp_path / "first.yaml", "nets", [f"task={{trunk: nets:t, {head}}}"], "")
        assert isinstance(job.task, MultiSpec)
        written = schema(Job)
        value = read_yaml((tmp_path / "first.yaml").read_text(), "job")
        assert faults(value, written, written) == []

    def test_every_default_in_it_is_the_one_that_holds(self, tmp_path: Path) -> None:
        job = write_job(tmp_path / "first.yaml", "nets", (), "")
        text = (tmp_path / "first.yaml").read_text()
        data = read_yaml(uncommented(text), "uncommented")
        assert data.keys() == Job.model_fields.keys()  # whatever was added to the job since
        assert data["agents"].keys() == Agents.model_fields.keys()
        assert Job.model_validate(data) == job

    @pytest.mark.parametrize("words", WORDS)
    def test_every_key_says_what_it_means(self, words: type[BaseModel]) -> None:
        silent = [name for name, field in words.model_fields.items() if not field.description]
        assert silent == []

    def test_leaves_a_file_that_is_there_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "first.yaml"
        path.write_text("mine")
        with pytest.raises(JobError, match="found one there; name another"):
            write_job(path, "nets", (), "")
        assert path.read_text() == "mine"
        with pytest.raises(CoterieError, match="found: No such file or directory"):
            write_job(tmp_path / "no" / "first.yaml", "nets", (), "")

    def test_writes_nothing_that_would_be_refused(self, tmp_path: Path) -> None:
        with pytest.raises(JobError, match="did you mean 'batch'"):
            write_job(tmp_path / "first.yaml", "nets", ["bacth=3"], "")
        assert list(tmp_path.iterdir()) == []


class TestSchema:
    @pytest.mark.parametrize(
        ("words", "file"),
        [(Job, "01_digits/job.yaml"), (Cluster, "03_cluster/cluster.yaml")],
    )
    def test_lets_the_examples_pass(self, words: type[BaseModel], file: str) -> None:
        written = schema(words)
        assert faults(read_file(EXAMPLES / file, "file"), written, written) == []
        assert ">>>" not in str(written)

    @pytest.mark.parametrize(
        ("override", "fault"),
        [
            ({"bacth": 3}, "bacth is unknown"),
            ({"batch": "3"}, "'3' is no integer"),
            ({"optimizer": "torch.optim.SGD"}, "'torch.optim.SGD' is misspelt"),
            ({"agents": {"remot": 1}}, "{'remot': 1} is no integer"),
            ({"agents": 3, "scheduler": "torch.optim.lr_scheduler:ConstantLR"}, None),
            ({"agents": "auto", "drill": {"kill": "agent-1"}}, None),
        ],
    )
    def test_refuses_what_the_job_refuses(
        self, override: dict[str, Any], fault: str | None
    ) -> None:
        written = schema(Job)
        value = {**read_file(EXAMPLES / "01_digits" / "job.yaml", "job"), **override}
        assert (faults(value, written, written) == []) == (fault is None)
        assert fault is None or fault in faults(value, written, written)

    def test_lets_pass_what_init_writes(self, tmp_path: Path) -> None:
        written = schema(Job)
        write_job(tmp_path / "first.yaml", "nets", (), "")
        value = read_yaml(uncommented((tmp_path / "first.yaml").read_text()), "job")
        assert faults(value, written, written) == []

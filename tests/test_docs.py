"""Pages that keep up with the code: one for each recipe, and no link that leads nowhere."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from torch.utils.data import TensorDataset

from coterie.cli import app
from coterie.sync import RECIPES, parse

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
RECIPE_PAGES = sorted((DOCS / "recipes").glob("*.md"))


def said(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def example(text: str, name: str) -> str:
    """The first use of a recipe by its name in a page's examples."""
    found = re.search(rf"""parse\((["'])({re.escape(name)}(?:\(.*?\))?)\1\)""", text)
    assert found, f"expected an example such as parse('{name}(8)')"
    return found[2]


def test_every_recipe_has_a_page_and_every_page_a_recipe() -> None:
    assert {page.stem for page in RECIPE_PAGES} == set(RECIPES)


@pytest.mark.parametrize("page", RECIPE_PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_its_recipe_and_the_sentence_it_stands_for(page: Path) -> None:
    title, blank, sentence, *_ = said(page).splitlines()
    assert (title, blank) == (f"# {page.stem}", "")
    recipe = parse(example(said(page), page.stem))
    steps = str(recipe.walk.num_steps) if recipe.walk else ""
    assert parse(re.sub(r"\bH\b", steps, sentence)) == recipe


@pytest.mark.parametrize("page", RECIPE_PAGES, ids=lambda page: page.stem)
@pytest.mark.parametrize("heading", ["Cost of a meeting", "When", "If one dies"])
def test_a_page_says_what_it_costs_when_to_choose_it_and_what_a_death_does(
    page: Path, heading: str
) -> None:
    assert f"**{heading}.**" in said(page)


def test_a_script_of_another_tool_becomes_ours_by_ten_lines_at_most() -> None:
    page = said(DOCS / "own-loop.md")
    ours, *others = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    diffs = re.findall(r"```diff\n(.*?)```", page, flags=re.DOTALL)
    assert len(others) == len(diffs) == 2
    for theirs, diff in zip(others, diffs, strict=True):
        lines = diff.splitlines()
        between = difflib.unified_diff(theirs.splitlines(), ours.splitlines(), lineterm="", n=1000)
        assert lines == list(between)[3:]  # behind the names of files and places
        assert sum(line[0] == "-" for line in lines) <= 10
        assert sum(line[0] == "+" for line in lines) <= 10


def test_the_scripts_of_the_page_are_those_that_were_measured() -> None:
    ours, ddp, *_ = re.findall(r"```python\n(.*?)```", said(DOCS / "own-loop.md"), flags=re.DOTALL)
    folder = ROOT / "benchmarks" / "own_loop"
    assert (ours, ddp) == (said(folder / "ours.py"), said(folder / "ddp.py"))


def test_the_script_of_the_page_runs_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ModuleType("mine")
    pairs = TensorDataset(torch.eye(4), torch.arange(4))
    vars(mine).update(dataset=pairs, net=lambda: torch.nn.Linear(4, 4))
    monkeypatch.setitem(sys.modules, "mine", mine)
    ours, *_ = re.findall(r"```python\n(.*?)```", said(DOCS / "own-loop.md"), flags=re.DOTALL)
    exec(ours, {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list("0123456789")


@pytest.mark.parametrize("folder", ["recipes", "decisions"])
def test_the_index_leads_to_every_page(folder: str) -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", said(DOCS / "index.md")))
    assert {f"{folder}/{page.name}" for page in (DOCS / folder).glob("*.md")} <= links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", said(page), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose)
    near = [target for target in targets if not re.match(r"\w+:", target)]
    assert [target for target in near if not (page.parent / target).exists()] == []


def shown_commands() -> dict[str, set[str]]:
    """Every command that people see, with its options."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {
            word
            for p in command.params
            if not getattr(p, "hidden", False)
            for word in p.opts
            if word.startswith("--")
        }
        for name, command in commands.items()
        if not command.hidden
    }


def test_the_page_of_commands_has_them_all_with_their_options_and_no_others() -> None:
    sections = re.split(r"^## ", said(DOCS / "commands.md"), flags=re.MULTILINE)[1:]
    rows = re.compile(r"^\| `(--[\w-]+)`", re.MULTILINE)
    page = {section.split()[0]: set(rows.findall(section)) for section in sections}
    commands = shown_commands()
    assert page.keys() - {"Exit", "Completion"} == commands.keys()
    assert {name: page[name] for name in commands} == commands

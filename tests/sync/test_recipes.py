"""Named sentences: each can be written, printed and read again."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from coterie.sync.chain import Strategy
from coterie.sync.reading import parse
from coterie.sync.recipes import RECIPES, WORDS

BY_RECIPE: dict[str, tuple[Any, ...]] = {
    "power-sgd": (1,),
    "tiers": (8, 2),
    "pipeline": (8, ("2",)),
    "private": (8, 1.0, 1.1),
}


def written(name: str) -> Strategy:
    """A recipe with arguments that it can be built with."""
    needed = inspect.signature(RECIPES[name]).parameters.values()
    plain = [8 for each in needed if each.default is inspect.Parameter.empty]
    return RECIPES[name](*BY_RECIPE.get(name, plain))


every_recipe = pytest.mark.parametrize("name", RECIPES)


@every_recipe
def test_every_recipe_survives_being_printed(name: str) -> None:
    strategy = written(name)
    assert parse(repr(strategy)) == strategy


@every_recipe
def test_every_recipe_is_read_by_its_name(name: str) -> None:
    arguments = ", ".join(map(repr, BY_RECIPE.get(name, ())))
    needs = arguments or ("8" if "h" in inspect.signature(RECIPES[name]).parameters else "")
    assert parse(f"{name}({needs})") == written(name)


@every_recipe
def test_every_recipe_names_its_paper_or_what_it_does(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.__name__.replace("_", "-") == name
    assert recipe.__doc__ is not None
    assert ">>>" in recipe.__doc__


def test_no_two_recipes_are_one() -> None:
    assert len({written(name) for name in RECIPES}) == len(RECIPES)


def test_every_word_is_spelt_as_it_prints() -> None:
    used = {type(piece).__name__ for name in RECIPES for piece in written(name).pieces}
    assert used <= set(WORDS)
    assert all(word.__name__ == name for name, word in WORDS.items())

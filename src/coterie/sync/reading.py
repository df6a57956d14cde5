"""The reading of a sentence from text; the inverse of a strategy's `repr`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping

from coterie.errors import StrategyError
from coterie.sync.chain import Strategy
from coterie.sync.recipes import RECIPES, WORDS


def parse(text: str) -> Strategy:
    """Read a sentence or a recipe's name; the inverse of a strategy's `repr`.

    Only the names of pieces and recipes are called, with literals as arguments: nothing else is
    evaluated. Raises StrategyError for anything else.

    >>> parse("diloco(32)") == parse("chain(Every(32), Reduce(), Outer(0.7, 0.9, nesterov=True))")
    True
    >>> parse("all-reduce")
    chain(Reduce())
    """
    name, parenthesis, rest = text.strip().partition("(")
    recipe = RECIPES.get(name.strip())
    if recipe is not None:  # a name with a hyphen is no name in an expression
        plain = recipe.__name__
        called = f"{plain}({rest}" if parenthesis else f"{plain}()"
        found = _value(_tree(called, text), {plain: recipe}, text)
    else:
        found = _value(_tree(text.strip(), text), WORDS, text)
    if not isinstance(found, Strategy):
        raise StrategyError(
            f"expected chain(...) or a recipe ({', '.join(RECIPES)}), found {text!r}; "
            "write for example all-reduce or chain(Reduce())"
        )
    return found


def _tree(expression: str, text: str) -> ast.expr:
    try:
        return ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise StrategyError(
            f"expected a sentence such as chain(Reduce()) or a recipe "
            f"({', '.join(RECIPES)}), found {text!r}; check its brackets and commas"
        ) from error


def _value(node: ast.expr, words: Mapping[str, Callable[..., object]], text: str) -> object:
    """The value of a literal, or of a known word called with such values."""
    if not isinstance(node, ast.Call):
        return _literal(node, text)
    if not isinstance(node.func, ast.Name) or node.func.id not in words:
        raise StrategyError(
            f"expected a piece ({', '.join(WORDS)}) or a recipe ({', '.join(RECIPES)}), "
            f"found {ast.unparse(node.func)!r} in {text!r}; check its spelling"
        )
    word = words[node.func.id]
    arguments = [_value(argument, words, text) for argument in node.args]
    named = {str(k.arg): _value(k.value, words, text) for k in node.keywords}
    signature = inspect.signature(word)
    try:
        bound = signature.bind(*arguments, **named)
    except TypeError as error:
        wanted = f"{node.func.id.replace('_', '-')}({', '.join(signature.parameters)})"
        raise StrategyError(f"expected {wanted}, found {text!r}; {error}") from error
    return word(*bound.args, **bound.kwargs)


def _literal(node: ast.expr, text: str) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise StrategyError(
            f"expected a piece, a number or a quoted text, found {ast.unparse(node)!r} "
            f"in {text!r}; write for example chain(Every(8), Reduce(), Outer(1.0))"
        ) from error

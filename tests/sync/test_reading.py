"""The reading of a sentence from text."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from coterie.errors import StrategyError
from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import ErrorFeedback, Fp16, Int8, PowerSGD
from coterie.sync.exchanges import Reduce
from coterie.sync.gossip import Gossip
from coterie.sync.laws import TrimmedMean
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Only
from coterie.sync.reading import parse
from coterie.sync.teams import Islands

NESTEROV = Outer(0.7, 0.9, nesterov=True)


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("all-reduce", chain(Reduce())),
        ("all-reduce()", chain(Reduce())),
        ("all-reduce-fp16", chain(Fp16(), Reduce())),
        ("all-reduce-int8", chain(ErrorFeedback(Int8()), Reduce())),
        (" local-sgd(8)\n", chain(Every(8), Reduce(), Outer(1.0))),
        ("local-sgd (h=8)", chain(Every(8), Reduce(), Outer(1.0))),
        ("diloco(32)", chain(Every(32), Reduce(), NESTEROV)),
        ("diloco-int8(32)", chain(Every(32), ErrorFeedback(Int8()), Reduce(), NESTEROV)),
        ("power-sgd(4)", chain(ErrorFeedback(PowerSGD(4)), Reduce())),
        ("gossip(4, 'ring')", chain(Every(4), Gossip("ring"), Outer(1.0))),
        ("robust(4, trim=2)", chain(Every(4), Reduce(TrimmedMean(2)), Outer(1.0))),
        (
            "chain(Every(4), Islands((('a', 'b'), ('c',))), Reduce(), Outer(1.0))",
            chain(Every(4), Islands((("a", "b"), ("c",))), Reduce(), Outer(1.0)),
        ),
        ("chain(Int8(block=64), Reduce(weighted=False))", chain(Int8(64), Reduce(weighted=False))),
        (
            "chain(\n  Every(4), Clip(1), Only('a.*'), Reduce(),\n  Outer(lr=0.5),\n)",
            chain(Every(4), Clip(1), Only("a.*"), Reduce(), Outer(0.5)),
        ),
    ],
)
def test_parse_reads_recipes_and_sentences(text: str, strategy: Strategy) -> None:
    assert parse(text) == strategy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "check its brackets"),
        ("chain(Reduce()", "check its brackets"),
        ("local-sgd(8", "check its brackets"),
        ("(" * 400, "check its brackets"),
        ("chain(Reduce())\0", "check its brackets"),
        ("all-reduc", "found 'all - reduc'"),
        ("alreduce", "found 'alreduce'"),
        ("Reduce()", "expected chain(...) or a recipe"),
        ("8", "expected chain(...) or a recipe"),
        ("chain(Redcue())", "found 'Redcue'"),
        ("chain(Reduce)", "found 'Reduce'"),
        ("chain(Every(2 + 2), Reduce(), Outer(1.0))", "found '2 + 2'"),
        ("chain(*[1])", "found '*[1]'"),
        ("chain(**{})", "found 'chain(**{})'"),
        ("local-sgd", "expected local-sgd(h), found 'local-sgd'"),
        ("all-reduce(3)", "expected all-reduce(), found 'all-reduce(3)'"),
        ("chain(Reduce(), Outer())", "expected Outer(lr, momentum, nesterov)"),
        ("chain(Clip(size=3), Reduce())", "expected Clip(norm)"),
        ("local-sgd(0)", "at least one"),
        ("chain(Every(4), Reduce())", "did you mean"),
        ("chain(chain(Reduce()))", "expected pieces"),
        ("chain(ErrorFeedback(Reduce()), Reduce())", "a codec inside"),
        ("chain(Int7(), Reduce())", "found 'Int7'"),
        ("chain(Int7(), Reduce())", "Int8, "),
        ("gossip(4, 'star')", "exponential, ring, complete"),
        ("chain(Reduce(Medain()))", "found 'Medain'"),
        ("chain(Reduce(weighted='loss'))", 'weighted=True, False or "score"'),
        ("chain(Every(9, fragments=2), Reduce(), Outer(1.0))", "divides the walk"),
    ],
)
def test_parse_refuses_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(StrategyError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "chain(Every(__import__('os').getpid()), Reduce(), Outer(1.0))",
        "chain(Reduce()).keeps()",
        "local-sgd((lambda: 8)())",
        "[parse][0]('all-reduce')",
    ],
)
def test_parse_calls_nothing_but_pieces(text: str) -> None:
    with pytest.raises(StrategyError, match="check its spelling"):
        parse(text)


def test_reading_and_pricing_a_sentence_does_not_load_torch() -> None:
    code = """
import sys
from coterie.sync import parse
from coterie.types import Layout
from coterie.world import Link

strategy = parse("diloco-int8(32)")
strategy.price(Layout(("w",), ((3, 4),)), 2, [Link("a", "b", 0.001, 1e6)])
strategy.keeps(), repr(strategy)
print(sorted({"torch", "numpy", "ray"} & set(sys.modules)))
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (fresh.stdout.strip(), fresh.stderr) == ("[]", "")

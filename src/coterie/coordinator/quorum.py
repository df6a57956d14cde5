"""A quorum that fewer members than that cannot reach: what rounds wait for until they are back."""

from __future__ import annotations

from coterie.coordinator.run import Run
from coterie.sync.chain import Strategy


def within_reach(asked: Strategy, num_members: int) -> Strategy:
    """The sentence that was asked for, with a quorum that so many members can be.

    >>> from coterie.sync.reading import parse
    >>> within_reach(parse("parameter-server(3)"), 2)
    chain(Reduce(road='star', quorum=2))
    """
    return asked.waiting_for(max(1, min(asked.exchange.quorum, num_members)))


def tell_quorum(run: Run) -> None:
    """Put on record whenever rounds begin to wait for another number of members."""
    if run.asked is None or run.strategy is None:
        return
    asked, waits_for = run.asked.exchange.quorum, run.strategy.exchange.quorum
    if waits_for == (run.waits_for or asked):
        return
    run.waits_for = waits_for
    back = f"rounds wait for {waits_for} members again"
    fewer = f"rounds wait for at most {waits_for} of the {asked} members of the quorum"
    text = back if waits_for == asked else f"{fewer}: no more are here"
    run.event("quorum", members=waits_for, asked=asked, text=text)

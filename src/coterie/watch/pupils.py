"""Who learns apart, as a screen shows it: where each is, what it scores, what it heard."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from coterie.watch.words import BLANK, Event, amount, number_of, numbers_of, text_of

NUM_PUPILS = 12  # rows of the table; the others are counted
LOSS = "test_loss"


def pupils_table(rows: Mapping[str, Event]) -> Table:
    """One row for each learner.

    >>> pupils_table({"greek": {"agent": "pi", "steps": 40, "taken": 3}}).row_count
    1
    """
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim"
    )
    table.add_column("learner", no_wrap=True)
    table.add_column("on", no_wrap=True)
    for heading in ("steps", "loss", "score", "lessons taken", "refused", "sent"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=7)
    for name, row in list(rows.items())[:NUM_PUPILS]:
        sent_bytes = number_of(row, "sent_bytes")
        table.add_row(
            Text(name),
            Text("broken", style="red") if text_of(row, "broken") else Text(text_of(row, "agent")),
            amount(number_of(row, "steps")),
            amount(number_of(row, "loss")),
            score_of(row),
            amount(number_of(row, "taken") or None),
            amount(number_of(row, "refused") or None),
            f"{sent_bytes / 1e3:,.0f} kB" if sent_bytes else BLANK,
        )
    if (num_hidden := len(rows) - NUM_PUPILS) > 0:
        table.add_row(Text(f"and {num_hidden} more", style="dim"))
    return table


def score_of(row: Event) -> str:
    """Its first metric, or the loss on its test set.

    >>> score_of({"metrics": {"accuracy": 0.97, "test_loss": 0.1}})
    '0.97'
    """
    metrics = numbers_of(row, "metrics")
    own = [value for name, value in metrics.items() if name != LOSS]
    return amount(next(iter([*own, *metrics.values()]), None))

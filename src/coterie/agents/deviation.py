"""How a member's own vector lies to what was agreed on: told once a report, so it costs nothing.

Legend: N trainable parameters, K the part of them that a round shares.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from coterie.agents.member import Member
from coterie.agents.tally import Contribution
from coterie.sync import fragments

Norms = tuple[float, float, float, float, float]  # as a Report holds them


def norms(
    member: Member, mine: Contribution, agreed_K: Tensor, weights: Mapping[str, float]
) -> Norms | None:
    """Squared lengths of own and agreed vector, their product, own samples, part of all weight.

    None where the two cannot be compared. To be asked before what was agreed is landed.
    """
    strategy, layout = member.sentence, member.layout
    if not strategy.exchange.agrees or mine.declined or not mine.num_samples:
        return None
    own_N = mine.own_N if strategy.walks else member.learner.computed()
    own_K = fragments.take(own_N, layout, strategy.shared(layout, mine.round))
    heard = {name: weight for name, weight in weights.items() if weight > 0}
    if own_K.shape != agreed_K.shape or member.name not in heard:
        return None
    part = (
        heard[member.name] / sum(heard.values()) if strategy.exchange.weighted else 1 / len(heard)
    )
    return (
        float(own_K.dot(own_K)),
        float(agreed_K.dot(agreed_K)),
        float(own_K.dot(agreed_K)),
        float(mine.num_samples),
        part,
    )

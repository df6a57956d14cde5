"""Matrices agreed on by a few columns each.

Legend of shape suffixes: N values of the delta, n rows and m columns of one parameter's matrix M
(its first dimension by all others), r its rank: M ≈ P Qᵀ, of P (n, r) and Q (m, r).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from coterie.errors import StrategyError, TrainingError
from coterie.sync.codecs.base import PASS_NS, Sketch
from coterie.sync.pieces import TINY, Memory, is_count
from coterie.sync.talk import Talk, Total

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Layout

VALUE_BYTES = 4  # a float32
DEPENDENT = {4: 1e-5, 8: 1e-13}  # share of a column, by bytes of a value, that is rounding alone


@dataclass(frozen=True, repr=False)
class PowerSGD(Sketch):
    """Agree on each matrix by `rank` columns and rows, found by one step of power iteration.

    Vogels et al. 2019, PowerSGD: P = M Q is summed, made orthonormal, and Q = Mᵀ P is summed; the
    next round starts from that Q. Two `Total`s a round whatever the number of members; vectors,
    and matrices that this would not shrink, travel whole with the first (and are all of it where
    nothing shrinks). Wrap it in ErrorFeedback. The memory is the Q of each shrunk matrix, with
    orthonormal columns: only their span matters, and large deltas then cannot overflow it.

    >>> from coterie.types import Layout
    >>> layout = Layout(("weight", "bias"), ((100, 50), (100,)))
    >>> PowerSGD(2).num_bytes(layout), 4 * layout.size
    (1600, 20400)
    """

    rank: int = 2
    num_sums: ClassVar[int] = 3  # who is heard, every P, every Q

    def __post_init__(self) -> None:
        if not is_count(self.rank):
            raise StrategyError(
                f"expected a rank of at least one, found {self}; write for example PowerSGD(2)"
            )

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """A Q (m, r) for each shrunk matrix: the same everywhere, for it is drawn from nothing."""
        shrunk, _ = _plan(layout, self.rank)
        return tuple(_orthonormal(_noise(like, num, self.rank)) for _, (_, num) in shrunk)

    def talk(
        self, mine_N: Tensor, share: float, memory: Memory, layout: Layout, ctx: Ctx
    ) -> Talk[tuple[Tensor, Memory]]:
        """A `Total` of every P and of what travels whole, then one of every Q.

        What is agreed is P Qᵀ for each shrunk matrix: the projection of the mean on the span of P.
        Raises TrainingError for a delta, or a sum, that is not finite.
        """
        _refuse_unless_finite(mine_N, "a delta", self)
        shrunk, whole = _plan(layout, self.rank)
        part_N = mine_N * share
        matrices = [part_N[where].view(shape) for where, shape in shrunk]
        old_q = cast("tuple[Tensor, ...]", memory)
        p_parts = [matrix @ q for matrix, q in zip(matrices, old_q, strict=True)]
        first = yield Total(_joined([*p_parts, *(part_N[where] for where in whole)], mine_N))
        _refuse_unless_finite(first, "a sum", self)
        p_shapes = [(rows, self.rank) for _, (rows, _) in shrunk]
        *p_sums, rest = _split(first, p_shapes)
        agreed_N, all_p = mine_N.new_empty(mine_N.shape), [_orthonormal(p) for p in p_sums]
        for where in whole:
            agreed_N[where], rest = rest.tensor_split([where.stop - where.start])
        if not shrunk:
            return agreed_N, memory
        q_parts = [matrix.mT @ p for matrix, p in zip(matrices, all_p, strict=True)]
        second = yield Total(_joined(q_parts, mine_N))
        _refuse_unless_finite(second, "a sum", self)
        *q_sums, _ = _split(second, [(columns, self.rank) for _, (_, columns) in shrunk])
        for (where, _), p, q in zip(shrunk, all_p, q_sums, strict=True):
            agreed_N[where] = (p @ q.mT).flatten()
        return agreed_N, tuple(_orthonormal(q) for q in q_sums)

    def num_bytes(self, layout: Layout) -> int:
        """Bytes of both `Total`s, of float32 parameters."""
        shrunk, whole = _plan(layout, self.rank)
        factors = sum(self.rank * (rows + columns) for _, (rows, columns) in shrunk)
        others: int = sum(where.stop - where.start for where in whole)
        return VALUE_BYTES * (factors + others)

    def takes_ns(self) -> tuple[float, float]:
        """Two products with r columns to shrink a matrix, one to open it: 2r operations each."""
        return 4 * self.rank * PASS_NS / 2, self.rank * PASS_NS

    def keeps(self) -> float:
        """1 − 1.4/(1 + r): a prior.

        Rank 2 kept SGD's accuracy in long runs (Vogels et al. 2019). In runs of 150 to 300 steps
        rank 2 kept 0.52 of the progress and rank 4 0.63 (docs/deciding.md, benchmarks/sync.md).
        """
        return 1 - 1.4 / (1 + self.rank)


Shrunk = list[tuple[slice, tuple[int, int]]]


def _plan(layout: Layout, rank: int) -> tuple[Shrunk, list[slice]]:
    """Where the matrices lie that shrink, with their shapes; where the others do."""
    shrunk: Shrunk = []
    whole: list[slice] = []
    for (_, where), shape in zip(layout.slices(), layout.shapes, strict=True):
        rows = shape[0] if shape else 1
        columns = math.prod(shape[1:])
        if rank * (rows + columns) < rows * columns:  # hence rank < rows, columns
            shrunk.append((where, (rows, columns)))
        else:
            whole.append(where)
    return shrunk, whole


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Tensors flattened end to end, as a new vector."""
    joined = like.new_empty(sum(part.numel() for part in parts))
    start = 0
    for part in parts:
        joined[start : start + part.numel()] = part.flatten()
        start += part.numel()
    return joined


def _split(vector: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """A matrix of each shape, as views into the vector, and what is left of it."""
    parts: list[Tensor] = []
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        parts.append(vector[start:stop].view(shape))
        start = stop
    return [*parts, vector[start:]]


def _orthonormal(matrix_nr: Tensor) -> Tensor:
    """Orthonormal columns whose span holds the matrix's: a new (n, r) matrix, with r < n.

    Gram–Schmidt, twice, for once is not enough in floating point (Giraud et al. 2005). A column
    of zeros, or one that its elders explain, gives way to noise: a dead column would stay dead.
    """
    basis_nr = matrix_nr.new_empty(matrix_nr.shape)
    noise_nr = _noise(matrix_nr, *matrix_nr.shape)
    for i in range(matrix_nr.shape[1]):
        elders_ni = basis_nr[:, :i]
        column_n = _project(_unit(matrix_nr[:, i]), elders_ni)
        explained = column_n.norm() < DEPENDENT[max(4, column_n.element_size())]
        column_n = _project(_unit(noise_nr[:, i].where(explained, column_n)), elders_ni)
        basis_nr[:, i] = _unit(_project(_unit(column_n), elders_ni))
    return basis_nr


def _project(column_n: Tensor, basis_ni: Tensor) -> Tensor:
    """What a column has beyond the span of an orthonormal basis."""
    return column_n - basis_ni @ (basis_ni.mT @ column_n)


def _unit(column_n: Tensor) -> Tensor:
    """The column at length one; zeros stay zeros."""
    # Squares of large and of small values leave float32, so the norm is taken of unit-size ones.
    column_n = column_n / column_n.abs().amax().clamp_min(TINY)
    length: Tensor = column_n.norm().clamp_min(TINY)
    return column_n / length


def _noise(like: Tensor, rows: int, columns: int) -> Tensor:
    """A (rows, columns) matrix that looks drawn from [−1, 1), the same bit for bit everywhere.

    A hash of the place, in whole numbers of 31 bits: no generator has to be shared or seeded.
    """
    hash_ = like[:0].flatten().long().new_ones(rows * columns).cumsum(0)
    for _ in range(3):
        hash_ = ((hash_ ^ (hash_ >> 15)) * 0x2C1B3C6D + 0x297A2D39) & 0x7FFFFFFF
    return ((hash_ >> 7).to(like) / 2**23 - 1).view(rows, columns)


def _refuse_unless_finite(vector: Tensor, what: str, piece: PowerSGD) -> None:
    if vector.numel() and not all(math.isfinite(end) for end in vector.aminmax()):
        raise TrainingError(
            f"expected {what} of finite values to agree on with {piece}, found NaN, infinity or a "
            "value beyond the parameters' dtype; lower the learning rate"
        )

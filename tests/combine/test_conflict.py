"""The laws for rows that conflict: what each promises, and its paper written out plainly.

Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from coterie.combine import aligned_mtl, cagrad, imtl_g, mean, mgda, nash_mtl, pcgrad, upgrad
from coterie.errors import TrainingError

Combine = Callable[[Sequence[Tensor], Sequence[float]], Tensor]
LAWS: dict[str, Combine] = {
    law.__name__: law for law in (pcgrad, upgrad, mgda, cagrad, nash_mtl, aligned_mtl, imtl_g)
}
PROJECTING = {name: LAWS[name] for name in ("pcgrad", "upgrad")}
HARMLESS: dict[str, Combine] = {
    **{name: LAWS[name] for name in ("upgrad", "mgda", "nash_mtl")},
    "cagrad(1)": lambda rows, weight_M: cagrad(rows, weight_M, c=1.0),
}


def each(laws: dict[str, Combine]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("law", laws.values(), ids=laws)


def matrix(seed: int, num: int = 5, size: int = 9, lengths: float = 1.0) -> Tensor:
    """Rows that conflict, some up to e^(2·lengths) times as long as others."""
    generator = torch.Generator().manual_seed(seed)
    rows_MN = torch.randn(num, size, generator=generator, dtype=torch.float64)
    return rows_MN * torch.linspace(-lengths, lengths, num, dtype=torch.float64).exp()[:, None]


def values(*rows: Sequence[float]) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def equally(law: Combine, rows_MN: Tensor) -> Tensor:
    return law(list(rows_MN), [1.0] * len(rows_MN))


def further(law: Combine) -> float:
    """CAGrad goes its c further where nothing conflicts, along the same line."""
    return 1.5 if law is cagrad else 1.0


def close(found_N: Tensor, expected_N: Tensor, within: float = 1e-9) -> None:
    torch.testing.assert_close(found_N, expected_N, rtol=0, atol=within)


@each(LAWS)
def test_one_row_is_itself(law: Combine) -> None:
    row_N = matrix(0)[0]
    close(law([row_N], [3.0]), further(law) * row_N, 1e-12)


@each(LAWS)
def test_equal_rows_give_that_row(law: Combine) -> None:
    row_N = matrix(0)[1]
    close(law([row_N] * 4, [1.0, 2.0, 3.0, 1.0]), further(law) * row_N, 1e-9)


@each(LAWS)
def test_opposed_rows_of_one_length_come_to_rest(law: Combine) -> None:
    row_N = matrix(0)[0]
    close(law([row_N, -row_N], [1.0, 1.0]), torch.zeros(9, dtype=torch.float64), 1e-9)


@each({name: law for name, law in LAWS.items() if name != "cagrad"})
def test_orthogonal_rows_of_one_length_give_their_mean(law: Combine) -> None:
    rows_MN = 3 * torch.eye(4, 9, dtype=torch.float64)
    close(equally(law, rows_MN), rows_MN.mean(0), 1e-9)


@each(LAWS)
def test_a_row_of_zeros_is_no_reason_to_fail(law: Combine) -> None:
    rows_MN = torch.cat([matrix(3, num=3), torch.zeros(1, 9, dtype=torch.float64)])
    found_N = equally(law, rows_MN)
    assert found_N.isfinite().all()
    if law in (mgda, imtl_g, nash_mtl):
        rest_N = torch.zeros_like(found_N) if law is mgda else equally(law, rows_MN[:3])
        close(found_N, rest_N, 1e-9)
    close(equally(law, 0 * rows_MN), 0 * found_N, 0)
    assert law([torch.zeros(0)] * 3, [1.0] * 3).shape == (0,)


@each(LAWS)
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_does_not_matter(law: Combine, seed: int) -> None:
    rows_MN, weight_M = matrix(seed), [3.0, 1.0, 4.0, 1.0, 5.0]
    order = [3, 0, 4, 1, 2]
    shuffled_N = law(list(rows_MN[order]), [weight_M[i] for i in order])
    close(shuffled_N, law(list(rows_MN), weight_M), 1e-8)


@each(LAWS)
@pytest.mark.parametrize("factor", [1e-12, 7.0, 1e12])
def test_scaled_rows_give_the_scaled_result(law: Combine, factor: float) -> None:
    rows_MN = matrix(1)
    torch.testing.assert_close(
        equally(law, factor * rows_MN), factor * equally(law, rows_MN), rtol=1e-7, atol=0
    )


@each(LAWS)
def test_weights_are_read_by_proportion_and_zero_not_at_all(law: Combine) -> None:
    rows, weight_M = list(matrix(2)), [3.0, 1.0, 4.0, 1.0, 5.0]
    before = [row_N.clone() for row_N in rows]
    found_N = law(rows, weight_M)
    close(law(rows, [2 * weight for weight in weight_M]), found_N, 1e-12)
    assert torch.equal(law([*rows, torch.full((9,), math.nan)], [*weight_M, 0.0]), found_N)
    assert all(map(torch.equal, rows, before))
    with pytest.raises(TrainingError, match="finite and at least zero"):
        law(rows, [1.0, 1.0, 1.0, 1.0, math.nan])


@each(PROJECTING)
def test_where_nothing_conflicts_it_is_the_weighted_mean(law: Combine) -> None:
    rows, weight_M = list(matrix(4).abs()), [3.0, 1.0, 4.0, 1.0, 5.0]
    close(law(rows, weight_M), mean(rows, weight_M), 1e-12)


@each(HARMLESS)
@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_no_row_is_opposed(law: Combine, num: int) -> None:
    """The mean fails this: it is what these laws are for."""
    opposed = 0
    for seed in range(8):
        rows_MN = matrix(seed, num, size=num + 1, lengths=1.5)
        found_N = equally(law, rows_MN)
        slack = 1e-6 * float(found_N.norm()) * rows_MN.norm(dim=1)
        assert (rows_MN @ found_N >= -slack).all()
        opposed += int((rows_MN @ equally(mean, rows_MN) < -slack).any())
    assert opposed


@pytest.mark.parametrize("seed", range(6))
def test_pcgrad_is_one_of_the_orders_the_paper_may_draw(seed: int) -> None:
    rows = list(matrix(seed, num=4, size=4))

    def projected(i: int, order: Sequence[int]) -> Tensor:
        out_N = rows[i]
        for j in order:
            if j != i and (dot := float(out_N @ rows[j])) < 0:
                out_N = out_N - dot / (rows[j] @ rows[j]) * rows[j]
        return out_N

    possible = [
        [projected(i, order) for order in itertools.permutations(range(4))] for i in range(4)
    ]
    alone = [pcgrad(rows, [1.0 if j == i else 1e-12 for j in range(4)]) for i in range(4)]
    for found_N, candidates in zip(alone, possible, strict=True):
        assert min(float((found_N - each_N).norm()) for each_N in candidates) < 1e-9


def test_two_opposed_rows_by_hand() -> None:
    """g = (1, 0) and h = (−1, 2): cosine −1/√5; each closed form on paper."""
    rows = values([1, 0], [-1, 2])
    expected = {
        "pcgrad": [0.4, 1.2],  # halves of (1, 0) + (−1, 2)/5 and (0, 2)
        "upgrad": [0.4, 1.2],
        "mgda": [0.5, 0.5],  # shares (3, 1)/4
    }
    for name, numbers in expected.items():
        close(LAWS[name](rows, [1, 1]), torch.tensor(numbers, dtype=torch.float64), 1e-12)
    share = 1 / (1 + 1 / math.sqrt(5))  # equally far along both: (g + h/√5) times this
    halfway_N = share * (rows[0] + rows[1] / math.sqrt(5))
    close(imtl_g(rows, [1, 1]), halfway_N)
    close(nash_mtl(rows, [1, 1]), halfway_N)  # two bargain for halves of the angle


@pytest.mark.parametrize("seed", range(4))
def test_upgrad_projects_each_row_as_a_general_solver_does(seed: int) -> None:
    rows_MN = matrix(seed)
    weight_M = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    projected = []
    for row_N in rows_MN.numpy():
        done = minimize(
            lambda x, to=row_N: ((x - to) ** 2).sum(),
            row_N,
            jac=lambda x, to=row_N: 2 * (x - to),
            constraints={"type": "ineq", "fun": lambda x: rows_MN.numpy() @ x},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        projected.append(done.x)
    expected_N = torch.from_numpy(weight_M @ np.array(projected) / weight_M.sum())
    close(upgrad(list(rows_MN), weight_M.tolist()), expected_N, 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_mgda_is_the_shortest_of_all_means(seed: int) -> None:
    rows_MN = matrix(seed)
    found_N = equally(mgda, rows_MN)
    square = float(found_N @ found_N)
    assert (rows_MN @ found_N >= square * (1 - 1e-9)).all()  # the condition of the optimum
    share_M = torch.linalg.lstsq(rows_MN.T, found_N[:, None]).solution[:, 0]
    assert (share_M >= -1e-9).all()
    assert float(share_M.sum()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("c", [0.3, 0.7])
def test_cagrad_finds_the_least_of_the_paper_s_dual(seed: int, c: float) -> None:
    rows_MN, part_M = matrix(seed), torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0]).double() / 14
    centre_N = part_M @ rows_MN
    radius = c * float(centre_N.norm())

    def dual(share_M: np.ndarray) -> float:
        sum_N = torch.from_numpy(share_M) @ rows_MN
        return float(sum_N @ centre_N + radius * sum_N.norm())

    best = min(
        minimize(
            dual,
            start_M,
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda share_M: share_M.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-13},
        ).fun
        for start_M in (np.full(5, 0.2), *np.eye(5))
    )
    found_N = cagrad(list(rows_MN), part_M.tolist(), c)
    assert float((found_N - centre_N).norm()) == pytest.approx(radius)
    assert float((rows_MN @ found_N).min()) == pytest.approx(best, abs=1e-7)  # no duality gap
    close(cagrad(list(rows_MN), part_M.tolist(), 0.0), centre_N, 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_nash_bargains_until_gains_and_shares_agree(seed: int) -> None:
    rows_MN, weight_M = matrix(seed), torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0], dtype=torch.float64)
    found_N = nash_mtl(list(rows_MN), weight_M.tolist())
    share_M = torch.linalg.lstsq(rows_MN.T, found_N[:, None]).solution[:, 0]
    product_M = share_M * (rows_MN @ found_N) / weight_M  # αᵢ·(Gα)ᵢ/pᵢ, alike for all
    torch.testing.assert_close(product_M, product_M.mean().expand(5), rtol=1e-7, atol=0)
    assert (share_M > 0).all()
    assert float(share_M.sum()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_aligned_mtl_is_the_mean_of_the_paper_s_orthogonal_rows(seed: int) -> None:
    rows_MN, part_M = matrix(seed), torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0]).double() / 14
    left_MM, sigma_M, right_MN = torch.linalg.svd(rows_MN, full_matrices=False)
    expected_N = part_M @ (sigma_M.min() * left_MM @ right_MN)
    close(aligned_mtl(list(rows_MN), part_M.tolist()), expected_N, 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_imtl_goes_equally_far_along_each_row(seed: int) -> None:
    rows_MN = matrix(seed)
    along_M = rows_MN @ equally(imtl_g, rows_MN) / rows_MN.norm(dim=1)
    torch.testing.assert_close(along_M, along_M.mean().expand(5), rtol=1e-7, atol=0)


def test_a_c_below_zero_is_refused() -> None:
    with pytest.raises(TrainingError, match="c of at least zero, found -1"):
        cagrad(values([1.0]), [1.0], c=-1)

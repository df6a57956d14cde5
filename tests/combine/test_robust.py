"""The laws of combining rows.

Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.combine import centred_clip, kin, krum, mean, median, multi_krum, trimmed_mean
from coterie.errors import TrainingError

GENERATOR = torch.Generator().manual_seed(0)
ROWS = list(torch.randn(4, 7, generator=GENERATOR, dtype=torch.float64))
WEIGHTS = [60.0, 40.0, 20.0, 1.0]
MANY = [*ROWS, *torch.randn(3, 7, generator=GENERATOR, dtype=torch.float64)]
HONEST = [1.0 + 0.1 * row_N for row_N in MANY[:6]]

Combine = Callable[[Sequence[torch.Tensor], Sequence[float]], torch.Tensor]
ROBUST: dict[str, Combine] = {
    "median": median,
    "trimmed_mean": lambda rows, weight_M: trimmed_mean(rows, weight_M, 1),
    "krum": lambda rows, weight_M: krum(rows, weight_M, 1),
    "multi_krum": lambda rows, weight_M: multi_krum(rows, weight_M, 1),
    "centred_clip": centred_clip,
}
LAWS: dict[str, Combine] = {"mean": mean, **ROBUST, "kin": kin}
COORDINATEWISE = {name: LAWS[name] for name in ("mean", "median", "trimmed_mean")}


def each(laws: dict[str, Combine]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("law", laws.values(), ids=laws)


def values(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor([number], dtype=torch.float64) for number in numbers]


def test_mean_is_the_weighted_sum_over_the_sum_of_weights() -> None:
    weight_M = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected_N = (weight_M[:, None] * torch.stack(ROWS)).sum(0) / weight_M.sum()
    torch.testing.assert_close(mean(ROWS, WEIGHTS), expected_N, rtol=0, atol=1e-15)


def test_doubled_weights_change_nothing() -> None:
    assert torch.equal(mean(ROWS, WEIGHTS), mean(ROWS, [2 * weight for weight in WEIGHTS]))


def test_a_row_of_weight_zero_is_not_read() -> None:
    broken_N = torch.full((7,), math.nan, dtype=torch.float64)
    assert torch.equal(mean([*ROWS, broken_N], [*WEIGHTS, 0]), mean(ROWS, WEIGHTS))


def test_rows_are_not_written_to() -> None:
    before = [row_N.clone() for row_N in ROWS]
    mean(ROWS, WEIGHTS)
    assert all(map(torch.equal, ROWS, before))


def test_one_row_comes_back_as_a_new_tensor() -> None:
    row_N = torch.ones(3)
    out_N = mean([row_N], [5])
    assert torch.equal(out_N, row_N)
    assert out_N.data_ptr() != row_N.data_ptr()


def test_huge_values_and_weights_do_not_overflow() -> None:
    rows = [torch.full((2,), 3e38), torch.full((2,), 3e38)]
    assert mean(rows, [1e308, 1e308]).isfinite().all()


def test_influence_of_one_row_is_not_bounded() -> None:
    """Known and wanted: robust laws exist because the mean is not one."""
    liar_N = torch.full((7,), 1e30, dtype=torch.float64)
    assert mean([*ROWS, liar_N], [1.0] * 5).abs().max() > 1e29


@pytest.mark.parametrize("weight", [math.nan, -1.0, math.inf, -math.inf])
def test_a_weight_that_cannot_be_is_refused(weight: float) -> None:
    with pytest.raises(TrainingError, match="finite and at least zero"):
        mean(ROWS, [1.0, 1.0, weight, 1.0])


def test_weights_of_zero_alone_are_refused() -> None:
    with pytest.raises(TrainingError, match="only zeros"):
        mean(ROWS, [0.0] * 4)


def test_no_row_is_refused() -> None:
    with pytest.raises(TrainingError, match="found none"):
        mean([], [])


def test_a_missing_weight_is_refused() -> None:
    with pytest.raises(TrainingError, match="one weight for each of 4 rows, found 3"):
        mean(ROWS, [1.0] * 3)


def test_rows_of_two_lengths_are_refused() -> None:
    with pytest.raises(TrainingError, match="one shape"):
        mean([torch.ones(3), torch.ones(1)], [1.0, 1.0])


@each(LAWS)
def test_equal_rows_give_that_row(law: Combine) -> None:
    torch.testing.assert_close(law([ROWS[0]] * 6, [3.0, 1, 4, 1, 5, 9]), ROWS[0])


@each(LAWS)
def test_order_matters_in_the_last_bit_at_most(law: Combine) -> None:
    weight_M = [60.0, 40.0, 20.0, 1.0, 7.0, 7.0, 30.0]
    order = [4, 0, 6, 2, 5, 1, 3]
    shuffled = law([MANY[i] for i in order], [weight_M[i] for i in order])
    torch.testing.assert_close(shuffled, law(MANY, weight_M), rtol=0, atol=1e-12)


@each(LAWS)
def test_no_law_reads_a_row_of_weight_zero_or_writes_to_any(law: Combine) -> None:
    broken_N = torch.full((7,), math.nan, dtype=torch.float64)
    before = [row_N.clone() for row_N in MANY]
    found_N = law([broken_N, *MANY], [0.0, *[1.0] * 7])
    assert torch.equal(found_N, law(MANY, [1.0] * 7))
    assert all(map(torch.equal, MANY, before))
    assert found_N.data_ptr() not in {row_N.data_ptr() for row_N in MANY}


@each(LAWS)
def test_doubled_rows_give_the_double(law: Combine) -> None:
    weight_M = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    doubled_N = law([2 * row_N for row_N in MANY], weight_M)
    torch.testing.assert_close(doubled_N, 2 * law(MANY, weight_M), rtol=1e-12, atol=0)


@each(COORDINATEWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_combined_one_by_one_are_the_whole(law: Combine, dtype: torch.dtype) -> None:
    """Members may own a part each: no column may feel where its block begins."""
    rows = list(torch.randn(9, 40_000, generator=GENERATOR, dtype=dtype))
    weight_M = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 0.3]
    parts = [law([r[i : i + 9_999] for r in rows], weight_M) for i in range(0, 40_000, 9_999)]
    assert torch.equal(torch.cat(parts), law(rows, weight_M))


@each(LAWS)
def test_rows_without_values_are_no_reason_to_fail(law: Combine) -> None:
    assert law([torch.zeros(0)] * 5, [1.0] * 5).shape == (0,)


@each(ROBUST)
@pytest.mark.parametrize("lie", [1e6, -1e30, 3e38])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_arbitrary_row_stays_within_the_honest(law: Combine, lie: float, place: int) -> None:
    honest_MN = torch.stack(HONEST).float()
    rows = list(honest_MN)
    rows.insert(place, torch.full((7,), lie))
    found_N = law(rows, [1.0] * 7)
    slack = 1e-6 if law is not centred_clip else float(honest_MN.std(0).norm())
    assert (found_N >= honest_MN.amin(0) - slack).all()
    assert (found_N <= honest_MN.amax(0) + slack).all()


def test_the_pull_of_one_row_on_a_clipped_centre_is_bounded() -> None:
    lie_N = torch.full((7,), 1e9, dtype=torch.float64)
    for num_steps in (1, 3):
        calm_N = median([*HONEST, lie_N], [1.0] * 7)
        found_N = centred_clip([*HONEST, lie_N], [1.0] * 7, radius=0.01, num_steps=num_steps)
        assert 0 < float((found_N - calm_N).norm()) <= num_steps * 0.01


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(1, 6)), min_size=1, max_size=7))
def test_weighted_median_is_the_median_of_repeated_values(pairs: list[tuple[float, int]]) -> None:
    repeated = [number for number, weight in pairs for _ in range(weight)]
    middle = torch.tensor(repeated, dtype=torch.float64).quantile(0.5, interpolation="midpoint")
    found = median(values(*(number for number, _ in pairs)), [float(w) for _, w in pairs])
    torch.testing.assert_close(found[0], middle, rtol=1e-12, atol=0)


@pytest.mark.parametrize("num", [1, 2, 3, 6, 7, 11])
def test_median_of_equal_weights_is_plain_whatever_the_weight(num: int) -> None:
    rows = values(*[float((5 * i) % num) for i in range(num)])
    expected = torch.arange(num, dtype=torch.float64).quantile(0.5, interpolation="midpoint")
    assert float(median(rows, [0.1] * num)) == float(expected)


@pytest.mark.parametrize("weight_M", [(0.1, 0.7, 0.2, 0.6), (0.4, 0.6, 0.3, 0.7)])
def test_median_halves_weights_whose_sums_are_rounded(weight_M: tuple[float, ...]) -> None:
    assert median(values(1, 2, 4, 9), weight_M).tolist() == [3.0]


def test_median_of_huge_opposites_does_not_overflow() -> None:
    assert median([torch.tensor([3e38]), torch.tensor([-3e38])], [1, 1]).tolist() == [0.0]


def test_median_belongs_to_whoever_holds_most_of_the_weight() -> None:
    """Known and wanted: where members could lie about samples, give equal weights."""
    assert median(values(1, 2, 9e9), [1, 1, 3]).tolist() == [9e9]


def test_trimming_nothing_is_the_mean() -> None:
    assert torch.equal(trimmed_mean(ROWS, WEIGHTS, 0), mean(ROWS, WEIGHTS))


def test_trimmed_mean_weighs_what_is_left() -> None:
    assert trimmed_mean(values(5, -9, 2, 99), [3, 100, 1, 100], 1).tolist() == [17 / 4]


def test_trimming_all_but_the_middle_is_the_median() -> None:
    assert torch.equal(trimmed_mean(MANY, [1.0] * 7, 3), median(MANY, [1.0] * 7))


def test_krum_takes_a_row_from_the_cluster() -> None:
    rows = values(0.0, 50.0, 51.0, 52.5, 50.2)
    assert krum(rows, [9.0, 1, 1, 1, 1], 1).tolist() == [50.2]


def test_krum_tells_near_rows_apart_far_from_zero() -> None:
    """Distances are of differences: a Gram matrix would drown them in what rows share."""
    near = [torch.full((3,), 1e4) + shift for shift in (0.0, 0.01, 0.03, 0.011, 5.0)]
    assert torch.equal(krum(near, [1.0] * 5, 1), near[1])


def test_krum_takes_the_first_of_equals() -> None:
    assert krum(values(2, 1, 2, 1, 2, 1), [1.0] * 6, 0).tolist() == [2.0]


def test_multi_krum_that_keeps_all_is_the_mean_and_one_is_krum() -> None:
    weight_M = [60.0, 40.0, 20.0, 1.0, 7.0, 7.0, 30.0]
    assert torch.equal(multi_krum(MANY, weight_M, 2, keep=7), mean(MANY, weight_M))
    assert torch.equal(multi_krum(MANY, weight_M, 2, keep=1), krum(MANY, weight_M, 2))


def test_centred_clip_with_room_for_all_is_the_mean() -> None:
    torch.testing.assert_close(centred_clip(ROWS, WEIGHTS, 1e9, 1), mean(ROWS, WEIGHTS))


def test_centred_clip_measures_anew_from_where_each_step_ends() -> None:
    # By hand: from 0.1 to 0.1 + (−0.1 + 0 + 0.2)/3, then by (−4 − 1 + 6)/90 on.
    found_N = centred_clip(values(0.0, 0.1, 1.0), [1.0] * 3, radius=0.2, num_steps=2)
    assert found_N.tolist() == pytest.approx([13 / 90])


def test_centred_clip_bears_values_whose_squares_overflow() -> None:
    small = [row_N.float() for row_N in MANY]
    large_N = centred_clip([row_N * 2.0**90 for row_N in small], [1.0] * 7)
    torch.testing.assert_close(large_N / 2.0**90, centred_clip(small, [1.0] * 7))


def test_centred_clip_stays_where_most_agree_to_the_bit() -> None:
    assert centred_clip(values(2, 2, 2, 99), [1.0] * 4).tolist() == [2.0]


def test_kin_weighs_by_samples_and_agreement() -> None:
    rows = [torch.tensor(pair, dtype=torch.float64) for pair in ([1, 0], [2, 2], [0, 3])]
    half, full = math.sqrt(0.5) / 2, math.sqrt(0.5)
    assert torch.allclose(kin(rows, [4, 1, 1]), mean(rows, [4 * half, full, half]))


def test_kin_does_not_listen_to_who_opposes_or_is_silent() -> None:
    rows = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0])]
    rows += [torch.tensor([3.0, 3.0]), torch.zeros(2)]
    assert kin(rows, [1.0] * 5).tolist() == pytest.approx([5 / 3, 5 / 3])


@pytest.mark.parametrize("rows", [values(1, -4), values(0, 0), values(3)])
def test_kin_without_agreement_is_the_mean(rows: list[torch.Tensor]) -> None:
    weight_M = [2.0, 1.0][: len(rows)]
    assert torch.equal(kin(rows, weight_M), mean(rows, weight_M))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda w: trimmed_mean(ROWS, w, 2), "at least 5 rows for a mean with trim=2, found 4"),
        (lambda w: trimmed_mean(ROWS, [1, 1, 0, 0], 1), "at least 3 rows .* found 2"),
        (lambda w: trimmed_mean(ROWS, w, -1), "at least zero"),
        (lambda w: krum(ROWS, w, 1), "at least 5 rows for Krum with faulty=1, found 4"),
        (lambda w: multi_krum(ROWS, w, 1), "at least 5 rows"),
        (lambda w: multi_krum(ROWS, w, 0, keep=5), "keep 1 to 4 rows"),
        (lambda w: multi_krum(ROWS, w, 0, keep=0), "keep 1 to 4 rows"),
        (lambda w: centred_clip(ROWS, w, radius=0.0), "radius above zero"),
        (lambda w: centred_clip(ROWS, w, num_steps=0), "at least one step"),
    ],
)
def test_too_few_rows_are_refused(law: Callable[[list[float]], object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        law([1.0] * 4)


@each(LAWS)
def test_every_law_refuses_weights_that_cannot_be(law: Combine) -> None:
    with pytest.raises(TrainingError, match="finite and at least zero"):
        law(MANY, [1.0] * 6 + [math.nan])
    with pytest.raises(TrainingError, match="found none"):
        law([], [])

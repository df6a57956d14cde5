"""Small quadratic problems over M numbers that must not be negative, solved exactly.

Rows are known by their inner products alone, so that a problem is as small as there are tasks.
Legend of shape suffixes: M rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SLACK = 1e-13  # relative: a slope that small is rounding
MAX_EXCHANGES = 8  # of whole sets: few are needed, or it goes round in circles


def lift(square_MM: Array, slope_M: Array) -> Array:
    """The x ≥ 0 that makes ½·xᵀQx + cᵀx least, for a Q of inner products and a c in its range.

    All numbers that should be let go from zero, or held there, are so at once (Júdice and Pires
    1994, block pivoting). That arrives in a few exchanges, or not at all, and then they move one
    by one (Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23): a number is let go
    while that descends, and held again where it would become negative.

    >>> lift(np.eye(2), np.array([-3.0, 1.0]))
    array([3., 0.])
    """
    slack = SLACK * max(1.0, float(np.abs(slope_M).max()))
    free_M = slope_M < -slack
    for _ in range(MAX_EXCHANGES):
        x_M = _least(square_MM, slope_M, free_M)
        descent_M = -(square_MM @ x_M + slope_M)
        wanted_M = np.where(free_M, x_M > 0, descent_M > slack)
        if (wanted_M == free_M).all():
            return x_M
        free_M = wanted_M
    return _one_by_one(square_MM, slope_M, slack)


def _least(square_MM: Array, slope_M: Array, free_M: Mask) -> Array:
    """Where ½·xᵀQx + cᵀx is least of those x that are zero but where they are free."""
    x_M = np.zeros_like(slope_M)
    if free_M.any():
        inside_MM = square_MM[free_M][:, free_M]
        x_M[free_M] = np.linalg.lstsq(inside_MM, -slope_M[free_M], rcond=None)[0]
    return x_M


def _one_by_one(square_MM: Array, slope_M: Array, slack: float) -> Array:
    x_M, free_M = np.zeros(len(slope_M)), np.zeros(len(slope_M), dtype=bool)
    for _ in range(3 * len(slope_M)):  # more are never needed but for rounding
        descent_M = np.where(free_M, 0.0, -(square_MM @ x_M + slope_M))
        if descent_M.max() <= slack:
            break
        free_M[descent_M.argmax()] = True
        while free_M.any():
            best_M = _least(square_MM, slope_M, free_M)
            below_M = free_M & (best_M <= 0)
            if not below_M.any():
                x_M = best_M
                break
            part_M = x_M[below_M] / (x_M[below_M] - best_M[below_M])
            x_M = x_M + part_M.min() * (best_M - x_M)
            held = np.flatnonzero(below_M)[part_M.argmin()]
            x_M[held], free_M[held] = 0.0, False
    return x_M


def nearest(gram_MM: Array) -> Array:
    """Shares that add up to one, for the shortest vector that rows of these products can make.

    The one problem of MGDA. With a penalty on 1 − Σx instead of the condition the shares keep
    their proportions, for the square grows as (Σx)²; so `lift` solves it.

    >>> nearest(np.array([[1.0, 0.0], [0.0, 3.0]]))
    array([0.75, 0.25])
    """
    scale = float(gram_MM.diagonal().max())
    if scale == 0:
        return np.full(len(gram_MM), 1 / len(gram_MM))
    share_M = lift(gram_MM / scale + 1.0, np.full(len(gram_MM), -1.0))
    shares: Array = share_M / share_M.sum()
    return shares


def bargain(gram_MM: Array, part_M: Array) -> Array:
    """The α > 0 with (Gα)ᵢ = pᵢ/αᵢ: where ½·αᵀGα − Σ pᵢ·log αᵢ is least, by damped Newton steps.

    The function is self-concordant, so steps shortened by its own measure always arrive
    (Nesterov and Nemirovskii 1994). Needs a G that is positive definite.

    >>> bargain(np.diag([1.0, 4.0]), np.ones(2))
    array([1. , 0.5])
    """
    alpha_M = np.sqrt(part_M / gram_MM.diagonal())
    for _ in range(200):
        slope_M = gram_MM @ alpha_M - part_M / alpha_M
        step_M = np.linalg.solve(gram_MM + np.diag(part_M / alpha_M**2), slope_M)
        measure = float(np.sqrt(max(0.0, slope_M @ step_M) / part_M.min()))
        alpha_M = alpha_M - step_M / (1 + measure if measure > 0.25 else 1)
        if measure < 1e-9:  # the next step would square it
            break
    return alpha_M


def root(function: Callable[[float], float], lower: float, upper: float) -> float:
    """Where a function that changes its sign between two numbers is zero.

    >>> round(root(lambda x: x * x - 2, 0.0, 2.0), 12)
    1.414213562373
    """
    from scipy.optimize import brentq  # late: it takes longer to load than all of this room

    return float(brentq(function, lower, upper, xtol=1e-15 * upper, rtol=1e-14))

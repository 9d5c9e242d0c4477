"""Intervals: percentile bootstrap over conversations, the unit that was sampled; t over runs.

Queries of one conversation share a seeker and are not independent, so whole conversations are
drawn with replacement (Efron & Tibshirani 1993, chapters 8 and 13). Equal seeds draw equal
conversations: intervals of different systems on the same queries move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seedtalk.errors import InputError

LEVEL = 0.95
DIGITS = 6  # written numbers: far below any interval's width, above the noise of summation
_CHUNK = 4_000_000  # drawn counts held at a time


class Interval(TypedDict):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap_means(
    values: ArrayLike,
    weights: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weighted means and their values over resampled clusters.

    Parameters
    ----------
    values
        (Q, M): one row per query, one column per metric.
    weights
        (Q, M): how much a query counts; zero nowhere.
    clusters
        (Q,): the conversation of each query. Their order does not matter.
    resamples
        Number B of bootstrap draws.
    seed
        Of the draws.

    Returns
    -------
    means, draws
        (M,) sum(weight * value) / sum(weight), and (B, M) the same over each draw.

    Raises
    ------
    InputError
        With fewer than two clusters: nothing to resample.
    """
    value = np.asarray(values, dtype=np.float64)
    weight = np.asarray(weights, dtype=np.float64)
    names, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count = len(names)
    if count < 2:
        raise InputError(
            f"an interval needs at least 2 conversations, found {count}; "
            "evaluate more (ingest.eval_users, evaluate.max_conversations)"
        )
    total = np.zeros((count, value.shape[1]))
    size = np.zeros_like(total)
    np.add.at(total, member, value * weight)
    np.add.at(size, member, weight)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // count)
    draws = []
    for start in range(0, resamples, step):
        times = rng.multinomial(
            count, np.full(count, 1 / count), size=min(step, resamples - start)
        ).astype(np.float64)
        draws.append((times @ total) / (times @ size))
    return total.sum(axis=0) / size.sum(axis=0), np.concatenate(draws)


def intervals(
    values: ArrayLike,
    weights: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int,
    seed: int,
) -> list[Interval]:
    """Return mean and 95% percentile interval of each column of `values`.

    Arguments and errors as of `bootstrap_means`.
    """
    means, draws = bootstrap_means(values, weights, clusters, resamples=resamples, seed=seed)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return [
        Interval(mean=_rounded(m), low=_rounded(a), high=_rounded(b))
        for m, a, b in zip(means, low, high, strict=True)
    ]


def paired(
    a: ArrayLike,
    b: ArrayLike,
    weights: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int,
    seed: int,
) -> list[Interval]:
    """Return, for each column, the mean of ``a - b`` and its 95% interval.

    Row i of `a` and of `b` is the same query, so that what makes a query hard for both cancels.
    Shapes and errors as `bootstrap_means`.

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"paired scores need equal shapes, got {left.shape} and {right.shape}")
    return intervals(left - right, weights, clusters, resamples=resamples, seed=seed)


def over_runs(values: ArrayLike) -> list[Interval]:
    """Return, for each column, the mean over runs and its 95% t-interval.

    The mean of R runs, plus and minus Student's t at R - 1 degrees of freedom times the sample's
    deviation over the root of R. It covers what the runs differ in, such as the seed of
    selection, training and sampling, and not the choice of conversations.

    Parameters
    ----------
    values
        (R, M): one row per run, one column per metric.

    Raises
    ------
    InputError
        With fewer than two runs.
    """
    from scipy.stats import t

    value = np.asarray(values, dtype=np.float64)
    count = len(value)
    if count < 2:
        raise InputError(f"an interval over runs needs at least 2 of them, got {count}")
    mean = value.mean(axis=0)
    half = t.ppf((1 + LEVEL) / 2, count - 1) * value.std(axis=0, ddof=1) / np.sqrt(count)
    return [
        Interval(mean=_rounded(m), low=_rounded(m - h), high=_rounded(m + h))
        for m, h in zip(mean, half, strict=True)
    ]


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # + 0.0 makes -0.0 plain

"""Diversity and information together: a convex combination of two rankings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seedtalk.progress import bar
from seedtalk.selection import fisher, js
from seedtalk.selection.pool import Floats, Pool, Rows, lowest_best


def greedy(
    X: NDArray[np.floating],
    p: Floats,
    budget: int,
    pool: Pool,
    *,
    ridge: float,
    criterion: str,
    entropy_weight: float,
    hybrid_weight: float,
    warm_start: Rows,
    block: int = 65536,
    device: str = "cpu",
) -> tuple[Rows, Floats]:
    """Pick rows by w rank(js gain) + (1 - w) rank(fisher gain), ranked anew at every pick.

    The two gains have different units; a rank is the share of the other open rows that gain
    strictly less (0 to 1, equal gains share a rank).

    Parameters
    ----------
    X, p
        (N, d) rows and their (N, K) memberships.
    hybrid_weight
        w, the share of js, from 0 to 1.
    budget, pool, ridge, criterion, entropy_weight, warm_start, block, device
        As `js.greedy` and `fisher.greedy`.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order, and the float64 combined ranks.
    """
    divergences = js.Divergences(p, entropy_weight, block, device)
    total, count = p[warm_start].sum(axis=0), len(warm_start)
    information = fisher.Gains(X, ridge, criterion, warm_start, block, device)
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    with bar("select", budget) as shown:
        for pick in range(budget):
            at = np.flatnonzero(pool.open)
            informative, noise = information.values(pool.open)
            if count:
                divergences.meet(total / count, count)
                divergent = divergences.values(at)
            else:
                divergent = divergences.entropies[at]
            score = hybrid_weight * ranks(divergent, divergences.tie)
            score += (1.0 - hybrid_weight) * ranks(informative[at], noise)
            row, gains[pick] = lowest_best(at, score)
            rows[pick] = row
            pool.take(row)
            information.take(row, pool.open)
            total, count = total + p[row], count + 1
            shown.advance()
    return rows, gains


def ranks(values: Floats, tolerance: float) -> Floats:
    """Return the share of the other values that each one exceeds by more than `tolerance`."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.r_[True, np.diff(ordered) > tolerance]
    below = np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))
    share = np.empty(len(values))
    share[order] = below / max(len(values) - 1, 1)
    return share

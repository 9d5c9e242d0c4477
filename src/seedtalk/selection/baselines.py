"""What any clever selection must beat: chance, and the most popular items."""

from __future__ import annotations

import numpy as np

from seedtalk.selection.pool import Floats, Pool, Rows


def random(n: int, budget: int, pool: Pool, seed: int) -> tuple[Rows, Floats]:
    """Pick rows in the order of a seeded permutation; gains are 0 (nothing is scored)."""
    order = np.random.default_rng(seed).permutation(n)
    return _in_order(order, budget, pool), np.zeros(budget)


def popularity(counts: Floats, budget: int, pool: Pool) -> tuple[Rows, Floats]:
    """Pick the rows of the most popular items first; ties go to the lowest row.

    Parameters
    ----------
    counts
        (N,) popularity of each row's item, such as its number of interactions; the gain.
    """
    rows = _in_order(np.argsort(-counts, kind="stable"), budget, pool)
    return rows, counts[rows]


def _in_order(order: Rows, budget: int, pool: Pool) -> Rows:
    rows: list[int] = []
    for row in order:
        if len(rows) == budget:
            break
        if pool.open[row]:
            rows.append(int(row))
            pool.take(int(row))
    return np.array(rows, dtype=np.int64)

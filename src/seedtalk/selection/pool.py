"""The rows still open to selection, and the search for the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

# Gains closer than this are equal: what is left is rounding, and the lowest row id wins.
TIE = 1e-12
_BATCH = 16  # rows evaluated first; doubles as long as the search goes on


class Pool:
    """Which rows may still be picked.

    Parameters
    ----------
    n
        Rows in the pool.
    items
        (n,) item of each row, or None where there is no quota.
    max_per_item
        Rows of one item at most; 0 sets no limit.
    taken
        Rows picked before (a warm start): closed, and counted against the quota.
    """

    def __init__(
        self,
        n: int,
        items: NDArray[np.generic] | None = None,
        max_per_item: int = 0,
        taken: Sequence[int] | Rows = (),
    ) -> None:
        self.open = np.ones(n, dtype=bool)
        self._rows_of: list[Rows] | None = None
        if max_per_item and items is not None:
            _, codes = np.unique(items, return_inverse=True)
            self._codes = codes
            self._left = np.full(int(codes.max(initial=-1)) + 1, max_per_item, dtype=np.int64)
            order = np.argsort(codes, kind="stable").astype(np.int64)
            self._rows_of = np.split(order, np.cumsum(np.bincount(codes))[:-1])
        for row in taken:
            self.take(int(row))

    def take(self, row: int) -> None:
        """Close `row`, and with it every row of its item once the quota is used up."""
        self.open[row] = False
        if self._rows_of is not None:
            code = int(self._codes[row])
            self._left[code] -= 1
            if self._left[code] <= 0:
                self.open[self._rows_of[code]] = False

    def reachable(self) -> int:
        """Return how many more rows can be picked before the pool or the quota runs out."""
        if self._rows_of is None:
            return int(self.open.sum())
        free = np.bincount(self._codes[self.open], minlength=len(self._left))
        return int(np.minimum(free, np.maximum(self._left, 0)).sum())


def lowest_best(rows: Rows, values: Floats, tolerance: float = TIE) -> tuple[int, float]:
    """Return the lowest row whose value ties with the best, and that value."""
    near = np.flatnonzero(values >= values.max() - tolerance)
    lowest = near[np.argmin(rows[near])]
    return int(rows[lowest]), float(values[lowest])


def contenders(
    upper: Floats, evaluate: Callable[[Rows], Floats], absolute: float, relative: float = 0.0
) -> tuple[Rows, Floats]:
    """Find every row whose value is within a slack of the best, evaluating few of them.

    The rows with the highest bounds are evaluated first; the search ends when no bound left
    reaches the best value found (Minoux's accelerated greedy, in batches).

    Parameters
    ----------
    upper
        (n,) upper bound of each row's value; ``-inf`` closes a row. At least one is open.
    evaluate
        Returns the values of the rows it is given.
    absolute, relative
        The slack is ``absolute + relative * |best|``.

    Returns
    -------
    rows, values
        The rows within the slack of the best, unordered, and their values.
    """
    upper = upper.copy()
    found_rows: list[Rows] = []
    found_values: list[Floats] = []
    best, size = -np.inf, _BATCH
    while True:
        bound = best - absolute - relative * abs(best) if found_rows else -np.inf
        rows = np.flatnonzero((upper >= bound) & (upper > -np.inf))
        if not len(rows):
            break
        if len(rows) > size:
            rows = rows[np.argpartition(-upper[rows], size)[:size]]
        values = evaluate(rows)
        upper[rows] = -np.inf
        found_rows.append(rows)
        found_values.append(values)
        best = max(best, float(values.max()))
        size *= 2
    rows, values = np.concatenate(found_rows), np.concatenate(found_values)
    near = values >= best - absolute - relative * abs(best)
    return rows[near], values[near]

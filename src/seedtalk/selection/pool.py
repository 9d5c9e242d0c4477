"""The rows still open to selection, and the search for the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

# Gains closer than this are equal: what is left is rounding, and the lowest row id wins.
TIE = 1e-12
_BATCH = 256  # rows evaluated first; doubles as long as the search goes on


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

    Attributes
    ----------
    open
        (n,) bool, the rows that the next pick may be. A closed row never opens again.
    """

    def __init__(
        self,
        n: int,
        items: NDArray[np.generic] | None = None,
        max_per_item: int = 0,
        taken: Sequence[int] | Rows = (),
    ) -> None:
        self.open = np.ones(n, dtype=bool)
        self._items: Rows | None = None
        if max_per_item and items is not None:
            _, self._items = np.unique(items, return_inverse=True)
            self._left = np.full(int(self._items.max(initial=-1)) + 1, max_per_item)
            self._order = np.argsort(self._items, kind="stable")
            self._starts = np.r_[0, np.cumsum(np.bincount(self._items))]
        self._groups: Rows | None = None
        self._taken = np.asarray(taken, dtype=np.int64)
        for row in self._taken:
            self.take(int(row))

    def take(self, row: int) -> None:
        """Close `row`, the rest of its item once that is used up, and what a reserve shuts out."""
        self.open[row] = False
        if self._items is not None:
            item = self._items[row]
            self._left[item] -= 1
            if self._left[item] <= 0:
                self.open[self._order[self._starts[item] : self._starts[item + 1]]] = False
        if self._groups is not None:
            self._budget -= 1
            self._needs[self._groups[row]] -= 1
            self._keep()

    def reachable(self) -> int:
        """Return how many more rows can be picked before the pool or the quota runs out."""
        return int(self._capacity(np.zeros(len(self.open), dtype=np.int64)).sum())

    def reserve(
        self,
        groups: NDArray[np.generic],
        least: int,
        budget: int,
        items: NDArray[np.generic] | None = None,
    ) -> None:
        """Keep places so that the next `budget` picks leave every group `least` rows or more.

        Once the picks left are no more than what the groups still lack, only rows of groups
        that lack some stay open. An item lies in one group, so that what can be picked of a group
        falls only by its own picks: what can be met at first can be met to the end, whatever
        is picked.

        Parameters
        ----------
        groups
            (n,) group of each row.
        least
            Rows of each group at least, those picked before counted in.
        budget
            Picks to come.
        items
            (n,) item of each row, where there are items.

        Raises
        ------
        InputError
            When an item's rows lie in two groups, a group cannot give `least` rows, or the
            groups lack more than `budget`; names group and numbers.
        """
        names, codes = np.unique(groups, return_inverse=True)
        if items is not None:
            _, first, of_item = np.unique(items, return_index=True, return_inverse=True)
            odd = np.flatnonzero(codes != codes[first][of_item])
            if len(odd):
                row, other = int(odd[0]), int(first[of_item[odd[0]]])
                raise InputError(
                    f"groups: item '{items[row]}' has group '{groups[other]}' in row {other + 1} "
                    f"and '{groups[row]}' in row {row + 1}; give all rows of an item one group"
                )
        had = np.bincount(codes[self._taken], minlength=len(names))
        needs = np.maximum(least - had, 0)
        capacity = self._capacity(codes)
        short = np.flatnonzero(needs > capacity)
        if len(short):
            group = short[0]
            raise InputError(
                f"select.min_per_group: {least} seeds of group '{names[group]}' are asked for, "
                f"but it has {had[group]} and can give {capacity[group]} more; lower "
                "select.min_per_group or raise select.max_per_item"
            )
        if needs.sum() > budget:
            lacking = ", ".join(f"'{names[g]}' {needs[g]}" for g in np.flatnonzero(needs)[:5])
            raise InputError(
                f"select.min_per_group: the groups lack {needs.sum()} seeds ({lacking}"
                f"{', ...' if (needs > 0).sum() > 5 else ''}), over the budget of {budget}; "
                "lower select.min_per_group or raise select.budget"
            )
        self._groups, self._needs, self._budget = codes, needs, budget
        self._keep()

    def _capacity(self, groups: Rows) -> Rows:
        """Return how many rows of each group can still be picked."""
        size = int(groups.max(initial=-1)) + 1
        if self._items is None:
            return np.bincount(groups[self.open], minlength=size)
        free = np.bincount(self._items[self.open], minlength=len(self._left))
        total = np.zeros(size, dtype=np.int64)
        firsts = self._order[self._starts[:-1]]
        np.add.at(total, groups[firsts], np.minimum(free, np.maximum(self._left, 0)))
        return total

    def _keep(self) -> None:
        lacking = self._needs > 0
        if self._budget <= int(self._needs[lacking].sum()) and not lacking.all():
            assert self._groups is not None
            self.open &= lacking[self._groups]


def lowest_best(rows: Rows, values: Floats, tolerance: float = TIE) -> tuple[int, float]:
    """Return the lowest row whose value ties with the best, and that value."""
    near = np.flatnonzero(values >= values.max() - tolerance)
    lowest = near[np.argmin(rows[near])]
    return int(rows[lowest]), float(values[lowest])


def contenders(
    upper: Floats,
    evaluate: Callable[[Rows], Floats],
    absolute: float,
    relative: float = 0.0,
    best: float = -np.inf,
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
    best
        A value that an open row is known to have.

    Returns
    -------
    rows, values
        The rows within the slack of the best, unordered, and their values.
    """
    upper = upper.copy()
    found_rows: list[Rows] = []
    found_values: list[Floats] = []
    size = _BATCH
    while True:
        least = best - absolute - relative * abs(best) if best > -np.inf else best
        rows = np.flatnonzero((upper >= least) & (upper > -np.inf))
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


class Front:
    """The rows whose bounds lead, so that a pick looks at few of many.

    The bounds of the others are summed up in one limit. Only where the best value found does
    not beat the limit are all rows looked at, and the front is chosen anew.

    Parameters
    ----------
    bounds
        Upper bounds of the values of some rows, as known at the time of the call.
    evaluate
        Values of some rows, which are their bounds from then on.
    n
        Rows of the pool.
    """

    def __init__(
        self,
        bounds: Callable[[Rows | slice], Floats],
        evaluate: Callable[[Rows], Floats],
        n: int,
    ) -> None:
        self._bounds, self._evaluate = bounds, evaluate
        self._size = max(_FRONT, n // 16)
        self._rows = np.empty(0, dtype=np.int64)
        self._limit = np.inf  # of the bounds outside, when the front was chosen

    def contenders(
        self,
        open_rows: NDArray[np.bool_],
        outside: Callable[[float], float],
        absolute: float,
        relative: float = 0.0,
    ) -> tuple[Rows, Floats, bool]:
        """Find every open row whose value is within a slack of the best, as `contenders`.

        Parameters
        ----------
        open_rows
            (n,) bool; at least one is set. Rows only ever close.
        outside
            The highest that a bound can be by now that was at most so high when the front was
            chosen.
        absolute, relative
            As of `contenders`.

        Returns
        -------
        rows, values, renewed
            Those of `contenders`, and whether the front was chosen anew.
        """
        best = -np.inf
        upper = np.where(open_rows[self._rows], self._bounds(self._rows), -np.inf)
        if upper.max(initial=-np.inf) > -np.inf:
            front = self._rows
            at, values = contenders(upper, lambda i: self._evaluate(front[i]), absolute, relative)
            best = float(values.max())
            if outside(self._limit) < best - absolute - relative * abs(best):
                return front[at], values, False
        upper = np.where(open_rows, self._bounds(slice(None)), -np.inf)
        rows, values = contenders(upper, self._evaluate, absolute, relative, best)
        upper = np.where(open_rows, self._bounds(slice(None)), -np.inf)
        n, size = len(upper), self._size
        if n > size:
            order = np.argpartition(upper, n - size)
            self._rows = np.sort(order[n - size :])
            self._limit = float(upper[order[: n - size]].max())
        else:
            self._rows, self._limit = np.arange(n), -np.inf
        return rows, values, True


_FRONT = 4096  # rows of a front, or a sixteenth of the pool

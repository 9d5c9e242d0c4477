"""Fisher-information selection: greedy optimal design on a linear last layer.

A = lambda I + sum of x x' over the selected rows is the information of the last layer.
``logdet`` (D-optimal) picks the largest growth of log det A; ``trace`` (A-optimal) the largest
fall of tr(A^-1 F), where F is the mean of x x' over the pool: the Fisher information ratio.
docs/method.md derives the rank-one updates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seedtalk.selection.pool import TIE, Floats, Pool, Rows, contenders, lowest_best

CRITERIA = ("logdet", "trace")
# Updated values carry rounding. Rows this close to the best are evaluated anew before the tie is
# decided; all values are renewed once the best has fallen by _FALL, because a rounding error keeps
# the size of the value it was made at, and whenever a solution's residual is over _RESIDUAL.
_NEAR = 1e-8
_FALL = 0.1
_RESIDUAL = 1e-13
_CHUNK = 4096


class Information:
    """A, its inverse, and what a row would add to it.

    Parameters
    ----------
    X
        (N, d) the pool.
    ridge
        lambda, above 0.
    criterion
        ``logdet`` or ``trace``.
    warm_start
        Rows that count as selected before.
    """

    def __init__(
        self, X: NDArray[np.floating], ridge: float, criterion: str, warm_start: Rows
    ) -> None:
        d = X.shape[1]
        start = np.asarray(X[warm_start], dtype=np.float64)
        self.matrix = ridge * np.eye(d) + start.T @ start
        self.inverse: Floats  # set by `terms`
        self.pool: Floats | None = None
        if criterion == "trace":
            self.pool = np.zeros((d, d))
            for begin in range(0, len(X), _CHUNK):
                part = np.asarray(X[begin : begin + _CHUNK], dtype=np.float64)
                self.pool += part.T @ part
            self.pool /= len(X)

    def solve(self, v: Floats) -> tuple[Floats, bool]:
        """Return A^-1 v, refined once, and whether its residual is down to rounding."""
        u = self.inverse @ v
        u += self.inverse @ (v - self.matrix @ u)
        residual = float(np.linalg.norm(v - self.matrix @ u))
        return u, residual <= _RESIDUAL * float(np.linalg.norm(v))

    def add(self, x: Floats, u: Floats) -> None:
        """Add x x' to A, with u = A^-1 x, and update the inverse (Sherman and Morrison 1950)."""
        self.matrix += np.outer(x, x)
        self.inverse -= np.outer(u, u / (1.0 + x @ u))

    def terms(self, rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Return g = x' A^-1 x and q = x' A^-1 F A^-1 x of each row (q = 0 without F).

        From a fresh factorisation of A, which also renews the inverse.
        """
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(self.matrix, lower=True)
        self.inverse = cho_solve(factor, np.eye(len(self.matrix)))
        g, q = np.empty(len(rows)), np.zeros(len(rows))
        for begin in range(0, len(rows), _CHUNK):
            part = np.asarray(rows[begin : begin + _CHUNK], dtype=np.float64)
            solved = cho_solve(factor, part.T).T
            at = slice(begin, begin + len(part))
            g[at] = np.einsum("ij,ij->i", part, solved)
            if self.pool is not None:
                q[at] = np.einsum("ij,ij->i", solved @ self.pool, solved)
        return g, q

    def settle(self, X: NDArray[np.floating], rows: Rows, values: Floats) -> tuple[int, float]:
        """Return the best of `rows`, close in value, and its value; the lowest of ties."""
        if len(rows) > 1:
            values = _values(*self.terms(X[rows]), self.pool)
        return lowest_best(rows, values, TIE * float(values.max()))


class Gains:
    """The value of every row, kept up to date by rank-one updates in O(N d) a pick.

    The value is x' A^-1 x (``logdet``, whose gain is log(1 + value)) or
    q / (1 + x' A^-1 x) (``trace``, the fall of tr(A^-1 F)). Parameters as `Information`.
    """

    def __init__(
        self, X: NDArray[np.floating], ridge: float, criterion: str, warm_start: Rows
    ) -> None:
        self._x = np.asarray(X, dtype=np.float64)
        self._information = Information(X, ridge, criterion, warm_start)
        self._renew(np.ones(len(X), dtype=bool))

    def values(self, open_rows: NDArray[np.bool_]) -> tuple[Floats, float]:
        """Return (N,) values, -inf where closed, and the size of their rounding."""
        for _ in range(2):
            values = _values(self._g, self._q, self._information.pool)
            values = np.where(open_rows, values, -np.inf)
            if values.max() >= _FALL * self._scale:
                break
            self._renew(open_rows)
        return values, TIE * self._scale

    def best(self, open_rows: NDArray[np.bool_]) -> tuple[int, float]:
        """Return the open row of largest value, the lowest of ties, and its value."""
        values, _ = self.values(open_rows)
        rows = np.flatnonzero(values >= values.max() * (1.0 - _NEAR))
        return self._information.settle(self._x, rows, values[rows])

    def take(self, row: int, open_rows: NDArray[np.bool_]) -> None:
        """Add `row` to A and update every value."""
        x, information = self._x[row], self._information
        u, sound = information.solve(x)
        delta = 1.0 + float(x @ u)
        # einsum sums each row alike wherever it lies, so that equal rows keep equal values.
        along_u = np.einsum("ij,j->i", self._x, u)
        if information.pool is not None:
            fu = information.pool @ u
            w, also_sound = information.solve(fu)
            sound &= also_sound
            along_w = np.einsum("ij,j->i", self._x, w)
            self._q += along_u * (along_u * (float(u @ fu) / delta) - 2.0 * along_w) / delta
        self._g -= along_u**2 / delta
        information.add(x, u)
        if not sound:
            self._renew(open_rows)

    def _renew(self, open_rows: NDArray[np.bool_]) -> None:
        self._g, self._q = self._information.terms(self._x)
        values = _values(self._g, self._q, self._information.pool)
        self._scale = float(values[open_rows].max(initial=0.0))


def greedy(
    X: NDArray[np.floating],
    budget: int,
    pool: Pool,
    ridge: float,
    criterion: str,
    warm_start: Rows,
) -> tuple[Rows, Floats]:
    """Pick rows by the growth of information, exactly.

    Parameters
    ----------
    X
        (N, d) rows, or a memory map.
    budget
        Rows to pick; the pool must hold as many.
    pool
        Open rows; its rows are closed as they are picked.
    ridge, criterion, warm_start
        As `Information`.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order; float64 growth of log det A in nats, or fall of
        tr(A^-1 F).
    """
    if criterion == "logdet":
        return _greedy_logdet(X, budget, pool, Information(X, ridge, criterion, warm_start))
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    state = Gains(X, ridge, criterion, warm_start)
    for pick in range(budget):
        row, gains[pick] = state.best(pool.open)
        rows[pick] = row
        pool.take(row)
        state.take(row, pool.open)
    return rows, gains


def _greedy_logdet(
    X: NDArray[np.floating], budget: int, pool: Pool, information: Information
) -> tuple[Rows, Floats]:
    """D-optimal greedy with lazy updates: a row catches up only when its bound is in the lead.

    x' A^-1 x never grows, so an old value is an upper bound; the rank-one updates a row has
    missed are applied together when it is looked at.
    """
    n, d = X.shape
    value = np.empty(n)
    stamp = np.empty(n, dtype=np.int64)  # picks that `value` knows of
    directions = np.empty((d, budget))
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)

    def renew(pick: int) -> float:
        value[:], _ = information.terms(X)
        stamp[:] = pick
        return float(value[pool.open].max(initial=0.0))

    def lead(pick: int) -> tuple[Rows, Floats]:
        def evaluate(at: Rows) -> Floats:
            first = int(stamp[at].min())
            along = np.asarray(X[at], dtype=np.float64) @ directions[:, first:pick]
            along[np.arange(first, pick) < stamp[at, None]] = 0.0
            value[at] -= np.einsum("ij,ij->i", along, along)
            stamp[at] = pick
            return value[at]

        return contenders(np.where(pool.open, value, -np.inf), evaluate, 0.0, _NEAR)

    scale = renew(0)
    for pick in range(budget):
        near, values = lead(pick)
        if values.max() < _FALL * scale:
            scale = renew(pick)
            near, values = lead(pick)
        row, best = information.settle(X, near, values)
        rows[pick], gains[pick] = row, np.log1p(best)
        x = np.asarray(X[row], dtype=np.float64)
        u, sound = information.solve(x)
        information.add(x, u)
        pool.take(row)
        if sound:
            directions[:, pick] = u / np.sqrt(1.0 + x @ u)
        else:
            scale = renew(pick + 1)
    return rows, gains


def _values(g: Floats, q: Floats, pool: Floats | None) -> Floats:
    return g if pool is None else q / (1.0 + g)

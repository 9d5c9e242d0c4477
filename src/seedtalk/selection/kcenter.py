"""k-centre: the row farthest from every row selected so far.

Farthest-first traversal covers the pool within twice the smallest possible radius (Gonzalez 1985);
as core-set selection in Sener and Savarese (2018).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seedtalk.progress import bar
from seedtalk.selection.pool import TIE, Floats, Front, Pool, Rows, lowest_best
from seedtalk.selection.tables import power_of_two

_CHUNK = 1024  # rows of one exact sum: fixed, so that `block` changes no bit of it
_BYTES = 64 * 2**20  # of float64 worked on at once
_UNIT = 2.0**-53  # unit roundoff of float64


class _Radii:
    """Squared distance of every row to its nearest centre, renewed only where it is asked for.

    Parameters
    ----------
    X
        (N, d) rows, or a memory map.
    most
        Centres there will be.
    block
        Rows read at once.
    """

    def __init__(self, X: NDArray[np.floating], most: int, block: int) -> None:
        n, d = X.shape
        self._x, self._block = X, block
        self.scale = power_of_two(X)  # of all that is kept here, so that squares fit float64
        self._rows = np.empty(most, dtype=np.int64)
        self._centres, self._count = np.empty((most, d)), 0
        self._lengths = np.empty(n)  # squared, of the rows
        for begin in range(0, n, _CHUNK):
            part = np.asarray(X[begin : begin + _CHUNK], dtype=np.float64) * self.scale
            self._lengths[begin : begin + _CHUNK] = np.einsum("ij,ij->i", part, part)
        # |fl(x x - 2 x c + c c) - |x - c|^2|, whatever the order in which a product is summed.
        self.slack = 8 * (d + 4) * _UNIT * float(self._lengths.max())
        self.near = np.full(n, np.inf)  # known so far, within `slack`: never less than it is
        self._known = np.zeros(n, dtype=np.int64)  # centres that `near` knows of

    def add(self, row: int) -> None:
        """Make `row` a centre."""
        self._rows[self._count] = row
        self._centres[self._count] = self._wide(row)
        self._count += 1

    def catch_up(self, at: Rows) -> Floats:
        """Let the rows `at` know of every centre; return their squared distances."""
        order = at[np.argsort(self._known[at], kind="stable")]  # those that missed most first
        begin = 0
        while begin < len(order):
            first = int(self._known[order[begin]])
            if first == self._count:
                break
            width = 8 * (self._x.shape[1] + self._count - first)
            part = order[begin : begin + max(1, min(self._block, _BYTES // width))]
            begin += len(part)
            inner = self._wide(part) @ self._centres[first : self._count].T
            inner *= -2.0
            inner += self._lengths[self._rows[first : self._count]]
            self.near[part] = np.minimum(self.near[part], inner.min(axis=1) + self._lengths[part])
            self._known[part] = self._count
        return self.near[at]

    def exact(self, row: int) -> float:
        """Return the squared distance of `row` to its nearest centre, by direct differences."""
        x = self._wide(row)
        centres = self._centres[: self._count]
        rough = self._lengths[self._rows[: self._count]] - 2.0 * (centres @ x)
        near = np.flatnonzero(rough <= rough.min() + 2 * self.slack)
        return float(_squares(centres[near], x).min())

    def _wide(self, at: Rows | int) -> Floats:
        wide: Floats = np.multiply(self._x[at], self.scale, dtype=np.float64)  # in one go
        return wide


def greedy(
    X: NDArray[np.floating], budget: int, pool: Pool, warm_start: Rows, *, block: int
) -> tuple[Rows, Floats]:
    """Pick the open row farthest from every selected row, exactly.

    The first pick, with nothing selected, is the row nearest the pool's mean. A distance to the
    nearest centre never grows, so that an old one bounds the new one from above: a row is held
    against the centres it has missed only when its bound is in the lead, all of them in one
    product of matrices. The lead is settled by direct differences in float64.

    Parameters
    ----------
    X
        (N, d) rows, or a memory map.
    budget
        Rows to pick; the pool must hold as many.
    pool
        Open rows; its rows are closed as they are picked.
    warm_start
        Rows that count as selected before.
    block
        Rows read at once; changes memory and time, never a pick.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order; float64 distance of each pick to the nearest row selected
        before it, in the units of X: the covering radius of the open rows until then. Of a
        first pick: the radius of the pool about its mean.
    """
    n = len(X)
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    radii = _Radii(X, budget + len(warm_start), block)
    for row in warm_start:
        radii.add(int(row))
    start = 0
    if not len(warm_start):
        rows[0], gains[0] = _middle(X, pool, radii.scale)
        pool.take(int(rows[0]))
        radii.add(int(rows[0]))
        start = 1
    front = Front(lambda at: radii.near[at], radii.catch_up, n)
    zero = np.zeros(n, dtype=bool)  # equal to a centre, for good
    with bar("farthest first", budget) as shown:
        for pick in range(start, budget):
            if pick == start:
                radii.catch_up(np.arange(n))  # in the order of the file
            row, square = -1, 0.0
            while square == 0.0:
                apart = pool.open & ~zero
                if not apart.any():  # copies of what is selected are all that is left
                    row = int(pool.open.argmax())
                    break
                lead, _, _ = front.contenders(apart, lambda limit: limit, 2 * radii.slack, TIE)
                squares = np.array([radii.exact(int(at)) for at in lead])
                zero[lead[squares == 0.0]] = True
                row, square = lowest_best(lead, squares, TIE * float(squares.max()))
            rows[pick], gains[pick] = row, np.sqrt(square) / radii.scale
            pool.take(row)
            radii.add(row)
            shown.advance()
    return rows, gains


def _middle(X: NDArray[np.floating], pool: Pool, scale: float) -> tuple[int, float]:
    """Return the open row nearest the mean of all rows, and the largest distance to the mean.

    `scale` is a power of two that rows are multiplied by.
    """
    n, d = X.shape
    mean = np.zeros(d)
    for begin in range(0, n, _CHUNK):
        mean += (np.asarray(X[begin : begin + _CHUNK], dtype=np.float64) * scale).sum(axis=0)
    mean /= n
    away = np.empty(n)
    for begin in range(0, n, _CHUNK):
        part = np.asarray(X[begin : begin + _CHUNK], dtype=np.float64) * scale
        away[begin : begin + _CHUNK] = _squares(part, mean)
    at = np.flatnonzero(pool.open)
    row, _ = lowest_best(at, -away[at], TIE * float(away.max()))
    return row, float(np.sqrt(away.max())) / scale


def _squares(rows: NDArray[np.floating], x: Floats) -> Floats:
    """Return |row - x|^2 of each row."""
    away = np.asarray(rows, dtype=np.float64) - x
    squares: Floats = np.einsum("ij,ij->i", away, away)
    return squares

"""Facility location: every review of the pool has a seed like it.

f(S) = sum over the pool of max_{j in S} s_ij with s_ij = max(0, cos(x_i, x_j)), which is monotone
and submodular: greedy reaches 1 - 1/e of the best value (Nemhauser, Wolsey and Fisher 1978).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from seedtalk.progress import bar
from seedtalk.selection.pool import TIE, Floats, Pool, Rows, lowest_best
from seedtalk.selection.tables import power_of_two, threads

HELD_BYTES = 4 * 2**30  # similarities that are kept; a larger matrix is made anew where needed
_TILE = 512  # rows and columns of similarities made at once
_STRIP_BYTES = 2**20  # of whole rows of similarities worked on at once: a core's own cache
_MADE_BYTES = 64 * 2**20  # likewise where they are made anew: enough rows for a fast product
_SPARSE = 1 / 16  # share of the similarities that still count, under which only they are kept
_SAMPLE = 64  # rows that the share is estimated from
_CHUNK = 1024  # rows of one exact product: fixed, so that `block` changes no bit of it
_UNIT = 2.0**-24  # unit roundoff of float32
_DRIFT = 1e-9  # of the gains kept in float64 by additions, per unit of the first: far above it
# Times N: gains closer than that are equal. A gain is a sum of up to N differences of cosines,
# each of which rounds to about 1e-16 however small it is; once the pool is covered, nothing but
# that is left.
_FLOOR = 1e-13
MANY_ROWS = 100_000  # a larger pool is warned of: the time grows with its square

Singles = NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Sparse:
    """The similarities that still count, row by row (compressed sparse rows)."""

    start: Rows  # (U + 1,)
    columns: NDArray[np.int32]
    values: Singles
    read: int = 0  # entries read since the last clearing

    def entries(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the places of the entries of `rows`, and how many each row has."""
        counts = self.start[rows + 1] - self.start[rows]
        before = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(self.start[rows] - before, counts), counts


class _Coverage:
    """How well each distinct row is covered, and what selecting one would add.

    The gains are kept up to date in float32 similarities, as upper bounds that allow for all
    rounding: an entry counts against a floor a little under the true cover. A pick changes the
    floor of ever fewer rows, and ever fewer entries are over it. What decides comes from float64
    similarities, made where the float32 ones cannot tell.

    Parameters
    ----------
    X
        (N, d) rows, or a memory map.
    first
        (U,) rows that are distinct.
    weights
        (U,) copies of each.
    block
        Rows read at once.
    """

    def __init__(self, X: NDArray[np.floating], first: Rows, weights: Floats, block: int) -> None:
        u, d = len(first), X.shape[1]
        self._x, self._first, self._weights = X, first, weights
        self._scale = power_of_two(X)  # changes no cosine, and keeps squares within float64
        self._lengths = np.empty(u)
        self._unit = np.zeros((u, d), dtype=np.float32)
        for begin in range(0, u, _CHUNK):
            at = slice(begin, begin + _CHUNK)
            part = np.asarray(X[first[at]], dtype=np.float64) * self._scale
            self._lengths[at] = length = np.sqrt(np.einsum("ij,ij->i", part, part))
            part /= np.where(length > 0, length, 1.0)[:, None]
            self._unit[at] = part
        # |float32 similarity - similarity|: the rounding of both rows and of the product, in
        # whatever order it is summed, of vectors of length 1; and of the subtraction of a floor.
        self._slack = 1.01 * (d + 8) * _UNIT
        # Of a float32 sum, in any order, over the rows of a strip or a tile.
        self._tile = min(_TILE, block)
        self._error = 1.01 * (self._tile + 4) * _UNIT
        self._covered = np.zeros(u)  # max over the selected of s_ij
        self._floor = self._below(self._covered)
        self._w = weights.astype(np.float32)
        self._held: Singles | None = None
        self._sparse: _Sparse | None = None
        self._gains: Floats = np.zeros(u)
        self._margin: Floats = np.zeros(u)

    def start(self) -> None:
        """Make every gain, and hold the similarities if they fit."""
        u, size = len(self._first), self._tile
        held = np.empty((u, u), dtype=np.float32) if 4 * u * u <= HELD_BYTES else None

        def tile(corner: tuple[int, int]) -> tuple[slice, Singles, slice, Singles | None]:
            rows, columns = (slice(at, at + size) for at in corner)
            made = self._unit[rows] @ self._unit[columns].T
            if held is not None:
                held[rows, columns] = made
                held[columns, rows] = made.T
            over = made - self._floor[rows, None]
            down = self._w[rows] @ np.maximum(over, 0.0, out=over)
            if rows == columns:
                return rows, down, columns, None
            np.subtract(made, self._floor[columns], out=over)
            return rows, down, columns, np.maximum(over, 0.0, out=over) @ self._w[columns]

        steps = range(0, u, size)
        corners = [(a, b) for a in steps for b in steps if a <= b]
        with bar("similarities", len(corners)) as shown:
            for rows, down, columns, along in _parallel(tile, corners):
                self._gains[columns] += down
                if along is not None:
                    self._gains[rows] += along
                shown.advance()
        self._margin = self._gains * self._error
        self._held = held

    def bounds(self) -> Floats:
        """Return an upper bound of every gain."""
        return self._gains + self._margin

    def gain(self, candidate: int) -> float:
        """Return a gain, rounded once."""
        at, similar = self._improved(candidate)
        more = (similar - self._covered[at]).clip(min=0.0)
        return math.fsum((self._weights[at] * more).tolist())

    def select(self, candidate: int, started: bool = True) -> None:
        """Cover the rows like a candidate and lower the gains of what is like them."""
        at, similar = self._improved(candidate)
        better = similar > self._covered[at]
        at, similar = at[better], similar[better]
        old, new = self._floor[at], self._below(similar)
        self._covered[at], self._floor[at] = similar, new
        if not started:
            return
        if self._sparse is None:
            self._lower_dense(at, old, new)
            self._thin()
        else:
            self._lower_sparse(self._sparse, at, old, new)

    def _lower_dense(self, at: Rows, old: Singles, new: Singles) -> None:
        def fall(part: slice) -> Singles:
            lost = self._similarities(at[part])
            np.minimum(lost, new[part, None], out=lost)
            lost -= old[part, None]
            total: Singles = self._w[at[part]] @ np.maximum(lost, 0.0, out=lost)
            return total

        for lost in _parallel(fall, self._strips(len(at))):
            self._gains -= lost
            self._margin += lost * self._error

    def _lower_sparse(self, sparse: _Sparse, at: Rows, old: Singles, new: Singles) -> None:
        places, counts = sparse.entries(at)
        values = sparse.values[places].astype(np.float64)
        lost = np.minimum(values, np.repeat(new, counts)) - np.repeat(old, counts)
        lost = np.maximum(lost, 0.0) * np.repeat(self._weights[at], counts)
        self._gains -= np.bincount(sparse.columns[places], lost, minlength=len(self._gains))
        sparse.read += len(places)
        if sparse.read > len(sparse.values):  # as long as reading them: clear what counts no more
            of = np.repeat(np.arange(len(self._first)), np.diff(sparse.start))
            keep = sparse.values > self._floor[of]
            counts = np.bincount(of[keep], minlength=len(self._first))
            self._sparse = _Sparse(
                np.concatenate(([0], np.cumsum(counts))), sparse.columns[keep], sparse.values[keep]
            )

    def _thin(self) -> None:
        """Keep only the similarities that still count, once they are few."""
        u = len(self._first)
        sample = np.unique(np.linspace(0, u - 1, min(u, _SAMPLE)).astype(np.int64))
        count = sum(
            np.count_nonzero(self._similarities(sample[part]) > self._floor[sample[part], None])
            for part in self._strips(len(sample))
        )
        if count / len(sample) > min(_SPARSE * u, HELD_BYTES / (16 * u)):
            return

        def left(part: slice) -> tuple[Rows, NDArray[np.int32], Singles]:
            at = np.arange(u)[part]
            made = self._similarities(at)
            over = made > self._floor[part, None]
            counts = np.count_nonzero(over, axis=1)
            places = np.flatnonzero(over)
            columns = (places - np.repeat((at - at[0]) * u, counts)).astype(np.int32)
            return counts, columns, made.ravel()[places]

        found = list(_parallel(left, self._strips(u)))
        counts, columns, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self._sparse = _Sparse(np.concatenate(([0], np.cumsum(counts))), columns, values)
        more = values - np.repeat(self._floor.astype(np.float64), counts)
        more *= np.repeat(self._weights, counts)
        self._gains = np.bincount(columns, more, minlength=u).astype(np.float64, copy=False)
        self._margin = self._gains * _DRIFT

    def _strips(self, count: int) -> Iterator[slice]:
        """Cut `count` rows of similarities into what is worked on at once."""
        room = _MADE_BYTES if self._held is None else _STRIP_BYTES
        size = max(1, min(self._tile, room // (4 * len(self._first))))
        for begin in range(0, count, size):
            yield slice(begin, begin + size)

    def _similarities(self, at: Rows) -> Singles:
        """Return (len(at), U) float32 cosines, a copy."""
        made: Singles = self._unit[at] @ self._unit.T if self._held is None else self._held[at]
        return made

    def _improved(self, candidate: int) -> tuple[Rows, Floats]:
        """Return what a candidate may cover better, and its similarity to it."""
        row = self._unit @ self._unit[candidate] if self._held is None else self._held[candidate]
        at = np.flatnonzero(row > self._floor)
        similar = np.zeros(len(at))
        if self._lengths[candidate] > 0:
            x = np.asarray(self._x[self._first[candidate]], dtype=np.float64) * self._scale
            for begin in range(0, len(at), _CHUNK):
                part = at[begin : begin + _CHUNK]
                # einsum sums each row alike wherever it lies.
                rows = np.multiply(self._x[self._first[part]], self._scale, dtype=np.float64)
                inner = np.einsum("ij,j->i", rows, x)
                length = self._lengths[part] * self._lengths[candidate]
                np.divide(inner, length, out=similar[begin : begin + _CHUNK], where=length > 0)
        return at, similar

    def _below(self, covered: Floats) -> Singles:
        lower: Singles = (covered - self._slack).astype(np.float32)
        return np.nextafter(lower, np.float32(-np.inf), dtype=np.float32)


def greedy(
    X: NDArray[np.floating], budget: int, pool: Pool, warm_start: Rows, *, block: int
) -> tuple[Rows, Floats]:
    """Pick the open row that adds most to f, exactly.

    Only rows whose upper bound reaches the best gain found are settled, in float64, so that no
    pick depends on the rounding of the bounds. Copies of a row have one gain, and count as one
    row with a weight.

    A row of zeros is like no row, itself included.

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
        (budget,) int64 in pick order; float64 growth of f, in rows of the pool (at most N in
        all).

    Notes
    -----
    O(N^2 d) time for the similarities (over `MANY_ROWS` rows a `RuntimeWarning` says so), then
    about O(N^2) for all picks together, since the rows that a pick covers better become few
    (docs/method.md). The similarities are held (4 N^2 bytes) up to `HELD_BYTES`; over it they are
    made where they are needed. The distinct rows are held in float32, 4 N d bytes.
    """
    if len(X) > MANY_ROWS:
        warnings.warn(
            f"facility compares all pairs of {len(X)} rows (O(N^2 d) time, and a copy of the rows "
            "in float32); another select.method, or a smaller pool, is far faster",
            RuntimeWarning,
            stacklevel=2,
        )
    group, first = copies(X)
    coverage = _Coverage(X, first, np.bincount(group).astype(np.float64), block)
    for row in warm_start:
        coverage.select(int(group[row]), started=False)
    coverage.start()
    settled = np.full(len(first), np.inf)  # gains as they once were: bounds, like the others
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    with bar("facility location", budget) as shown:
        for pick in range(budget):
            left = np.flatnonzero(pool.open)[::-1]
            lowest = np.full(len(first), -1)
            lowest[group[left]] = left  # of rows of one group the last assigned stays
            row, gains[pick] = _lead(coverage, settled, lowest, _FLOOR * len(X))
            rows[pick] = row
            pool.take(row)
            coverage.select(int(group[row]))
            shown.advance()
    return rows, gains


def _lead(coverage: _Coverage, settled: Floats, rows: Rows, floor: float) -> tuple[int, float]:
    """Return the lowest row of largest gain, and the gain.

    Gains tie within `TIE` of the largest, and within `floor`.

    Parameters
    ----------
    coverage
        What the candidates would add.
    settled
        Gain of each candidate when it was last settled; renewed on the way.
    rows
        Row of each candidate, -1 where it is closed.
    floor
        What rounding alone can make a gain differ by.
    """
    upper = np.minimum(coverage.bounds(), settled)
    upper[rows < 0] = -np.inf
    found: list[int] = []
    best = 0.0
    while (bound := upper.max()) > -np.inf and bound >= best - max(TIE * best, floor):
        if max(best, bound) <= floor:  # nothing left gains more than rounding: all of it ties
            left = np.flatnonzero(rows >= 0)
            lowest = int(left[np.argmin(rows[left])])
            return int(rows[lowest]), coverage.gain(lowest)
        top = int(upper.argmax())
        settled[top] = coverage.gain(top)
        upper[top] = -np.inf
        found.append(top)
        best = max(best, settled[top])
    return lowest_best(rows[found], settled[found], max(TIE * best, floor))


def copies(X: NDArray[np.floating]) -> tuple[Rows, Rows]:
    """Number the distinct rows, in order of their first copy.

    Copies are equal bit for bit. Rows of one hash (sum of word times factor, modulo 2^64) are
    compared; where two differ after all, other factors are drawn.

    Returns
    -------
    group, first
        (N,) int64 number of each row, and the (U,) int64 first row of each number.
    """
    attempt, same = 0, False
    while not same:
        hashes = np.empty(len(X), dtype=np.uint64)
        factors = _factors(_words(X[:1]).shape[1], attempt)
        for begin in range(0, len(X), _CHUNK):
            words = _words(X[begin : begin + _CHUNK]).astype(np.uint64)
            np.einsum("ij,j->i", words, factors, out=hashes[begin : begin + _CHUNK])
        _, found, group = np.unique(hashes, return_index=True, return_inverse=True)
        order = np.argsort(found)
        first, group = found[order], np.argsort(order)[group]
        others = np.flatnonzero(first[group] != np.arange(len(X)))
        same = all(
            np.array_equal(_words(X[rows]), _words(X[first[group[rows]]]))
            for rows in np.split(others, range(_CHUNK, len(others), _CHUNK))
        )
        attempt += 1
    return group, first


def _words(X: NDArray[np.floating]) -> NDArray[np.unsignedinteger]:
    """Return rows as whole numbers, bit for bit."""
    return np.ascontiguousarray(X).view(np.uint32 if X.itemsize % 4 == 0 else np.uint16)


def _factors(count: int, attempt: int) -> NDArray[np.uint64]:
    return np.random.default_rng(attempt).integers(2**64, size=count, dtype=np.uint64)


def _parallel(function: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
    """Yield the results in order, made by as many threads as there are cores.

    NumPy lets go of the interpreter. One thread a product waits for no other, which pays where
    cores are shared.
    """
    with ThreadPoolExecutor(threads()) as pool:
        yield from pool.map(function, parts)

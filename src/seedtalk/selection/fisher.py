"""Fisher-information selection: greedy optimal design on a linear last layer.

A = lambda I + sum of x x' over the selected rows is the information of the last layer.
``logdet`` (D-optimal) picks the largest growth of log det A; ``trace`` (A-optimal) the largest
fall of tr(A^-1 F), where F is the mean of x x' over the pool: the Fisher information ratio.
docs/method.md derives the rank-one updates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.progress import bar
from seedtalk.selection.pool import TIE, Floats, Front, Pool, Rows, lowest_best
from seedtalk.selection.tables import Table, table

CRITERIA = ("logdet", "trace")
# Updated values carry rounding. Rows this close to the best are evaluated anew before the tie is
# decided. A rounding error keeps the size of the value it was made at, so that a value that has
# fallen by _FALL is made anew; so are all of them whenever a solution's residual is over _RESIDUAL.
_NEAR = 1e-8
_FALL = 0.1
_RESIDUAL = 1e-13
# x'x / lambda over which lambda is lost beside x x' in float64.
_RANGE = 1e13


class Information:
    """A, its inverse, and what a row would add to it.

    Parameters
    ----------
    X
        (N, d) the pool.
    rows
        The table of X.
    ridge
        lambda, above 0.
    criterion
        ``logdet`` or ``trace``.
    warm_start
        Rows that count as selected before.

    Raises
    ------
    InputError
        When lambda is lost in rounding beside the rows.
    """

    def __init__(
        self,
        X: NDArray[np.floating],
        rows: Table,
        ridge: float,
        criterion: str,
        warm_start: Rows,
    ) -> None:
        self._x = np.asarray(X)
        start = self._wide(warm_start)
        self.squares = rows.squares()
        most = float(self.squares.max())
        if not most <= _RANGE * ridge:
            raise InputError(
                f"select.ridge: {ridge:g} is lost in rounding beside rows of length "
                f"{np.sqrt(most):.3g}; set it to {most / _RANGE:.1g} or more, or scale the rows "
                "(embed.normalize)"
            )
        self.matrix = np.asfortranarray(ridge * np.eye(rows.d) + start.T @ start)
        self.pool = rows.gram() / rows.n if criterion == "trace" else None
        self._factor: Floats | None = None
        self.inverse: Floats
        self._renew()

    @property
    def factored(self) -> bool:
        """Whether `factor` is at hand."""
        return self._factor is not None

    def factor(self) -> Floats:
        """Return the inverse of the Cholesky factor of A: x' A^-1 x = |factor x|^2."""
        from scipy.linalg.lapack import dtrtri

        if self._factor is None:
            self._factor, _ = dtrtri(np.linalg.cholesky(self.matrix), lower=1)
        return self._factor

    def solve(self, x: Floats) -> tuple[Floats, bool]:
        """Return A^-1 x, refined, and whether its residual is down to rounding."""
        u, sound = self._refined(x)
        if not sound:
            self._renew()
            u, sound = self._refined(x)
        return u, sound

    def add(self, x: Floats, u: Floats) -> None:
        """Add x x' to A, with u = A^-1 x, and update the inverse (Sherman and Morrison 1950)."""
        from scipy.linalg.blas import dger

        # In place: both are in Fortran's order.
        self.matrix = dger(1.0, x, x, a=self.matrix, overwrite_a=1)
        self.inverse = dger(-1.0 / (1.0 + x @ u), u, u, a=self.inverse, overwrite_a=1)
        self._factor = None

    def settle(self, rows: Rows, values: Floats) -> int:
        """Return the best of `rows`, close in value; the lowest of ties."""
        if len(rows) > 1:
            # Of equal rows the lowest is enough.
            rows = np.sort(rows)
            first = {self._x[row].tobytes(): row for row in rows[::-1].tolist()}
            rows = np.array(sorted(first.values()), dtype=np.int64)
            values = self.values(rows)
        return lowest_best(rows, values, TIE * float(values.max()))[0]

    def values(self, rows: Rows) -> Floats:
        """Return x' A^-1 x of some rows (``logdet``) or the fall of tr(A^-1 F) (``trace``)."""
        half = self._wide(rows) @ self.factor().T
        g: Floats = np.einsum("ij,ij->i", half, half)
        if self.pool is None:
            return g
        solved = half @ self.factor()
        fall: Floats = np.einsum("ij,ij->i", solved @ self.pool, solved) / (1.0 + g)
        return fall

    def _wide(self, rows: Rows) -> Floats:
        return self._x[rows].astype(np.float64, copy=False)

    def _refined(self, x: Floats) -> tuple[Floats, bool]:
        u = self.inverse @ x
        u += self.inverse @ (x - self.matrix @ u)
        residual = float(np.linalg.norm(x - self.matrix @ u))
        return u, residual <= _RESIDUAL * float(np.linalg.norm(x))

    def _renew(self) -> None:
        factor = self.factor()
        self.inverse = np.asfortranarray(factor.T @ factor)


class Gains:
    """The value of every row, kept up to date by rank-one updates in O(N d) a pick.

    The value is x' A^-1 x (``logdet``, whose gain is log(1 + value)) or
    q / (1 + x' A^-1 x) (``trace``, the fall of tr(A^-1 F)). Parameters as `greedy`.
    """

    def __init__(
        self,
        X: NDArray[np.floating],
        ridge: float,
        criterion: str,
        warm_start: Rows,
        block: int = 65536,
        device: str = "cpu",
    ) -> None:
        self._x = np.asarray(X)
        self._table = table(X, block, device)
        self._information = Information(X, self._table, ridge, criterion, warm_start)
        self._renew(np.ones(len(X), dtype=bool))

    def values(self, open_rows: NDArray[np.bool_]) -> tuple[Floats, float]:
        """Return (N,) values, -inf where closed, and the size of their rounding."""
        for _ in range(2):
            values = np.where(open_rows, self._current(), -np.inf)
            if values.max() >= _FALL * self._scale:
                break
            self._renew(open_rows)
        return values, TIE * self._scale

    def best(self, open_rows: NDArray[np.bool_]) -> int:
        """Return the open row of largest value, the lowest of ties."""
        values, _ = self.values(open_rows)
        rows = np.flatnonzero(values >= values.max() * (1.0 - _NEAR))
        return self._information.settle(rows, values[rows])

    def take(self, row: int, open_rows: NDArray[np.bool_]) -> float:
        """Add `row` to A, update every value, and return what the row gained."""
        x, information = self._x[row].astype(np.float64), self._information
        u, sound = information.solve(x)
        g = float(x @ u)
        delta = 1.0 + g
        gained = float(np.log1p(g))
        if information.pool is None:
            (along_u,) = self._table.products(u[None])
        else:
            fu = information.pool @ u
            w, also_sound = information.solve(fu)
            sound &= also_sound
            along_u, along_w = self._table.products(np.stack([u, w]))
            shrink = float(u @ fu) / delta
            gained = shrink
            along_w *= -2.0
            along_w += along_u * shrink
            along_w *= along_u
            along_w /= delta
            self._q += along_w
        along_u *= along_u
        along_u /= delta
        self._g -= along_u
        information.add(x, u)
        if not sound:
            self._renew(open_rows)
        return gained

    def _current(self) -> Floats:
        return self._g if self._information.pool is None else self._q / (1.0 + self._g)

    def _renew(self, open_rows: NDArray[np.bool_]) -> None:
        information = self._information
        factor = information.factor()
        self._g = self._table.spread(factor)
        if information.pool is not None:
            # x' A^-1 F A^-1 x with F = L L', by an eigendecomposition: F may be singular.
            power, axes = np.linalg.eigh(information.pool)
            root = np.sqrt(np.maximum(power, 0.0))[:, None] * axes.T
            self._q = self._table.spread(root @ factor.T @ factor)
        self._scale = float(self._current()[open_rows].max(initial=0.0))


def greedy(
    X: NDArray[np.floating],
    budget: int,
    pool: Pool,
    ridge: float,
    criterion: str,
    warm_start: Rows,
    *,
    block: int = 65536,
    device: str = "cpu",
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
    block, device
        As `select`.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order; float64 growth of log det A in nats, or fall of
        tr(A^-1 F).
    """
    if criterion == "logdet":
        return _greedy_logdet(X, budget, pool, ridge, warm_start, table(X, block, device))
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    state = Gains(X, ridge, criterion, warm_start, block, device)
    with bar("select", budget) as shown:
        for pick in range(budget):
            rows[pick] = row = state.best(pool.open)
            pool.take(row)
            gains[pick] = state.take(row, pool.open)
            shown.advance()
    return rows, gains


def _greedy_logdet(
    X: NDArray[np.floating],
    budget: int,
    pool: Pool,
    ridge: float,
    warm_start: Rows,
    every: Table,
) -> tuple[Rows, Floats]:
    """D-optimal greedy with lazy updates: a row catches up only when its bound is in the lead.

    x' A^-1 x never grows, so an old value is an upper bound; the rank-one updates a row has
    missed are applied together when it is looked at, or, where it has missed many, the value
    is made anew.
    """
    n, d = X.shape
    information = Information(X, every, ridge, "logdet", warm_start)
    value = every.spread(information.factor()) if len(warm_start) else information.squares / ridge
    made = value.copy()  # as last computed from A itself
    stamp = np.zeros(n, dtype=np.int64)  # picks that `value` knows of
    directions = np.empty((budget, d))
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    pick, valid = 0, 0  # directions before `valid` are not to be used

    def bounds(at: Rows | slice) -> Floats:
        return value[at]

    def evaluate(at: Rows) -> Floats:
        missed = pick - stamp[at]
        anew = missed > d
        # Factoring A costs as much as d further updates of d rows.
        if not information.factored and (missed[anew] - d).sum() < d * d:
            anew[:] = False
        anew |= stamp[at] < valid
        late = at[~anew & (missed > 0)]
        if len(late):
            first = int(stamp[late].min())
            value[late] -= every.along(directions[first:pick], stamp[late] - first, late)
            anew |= value[at] < _FALL * made[at]
        lost = at[anew]
        if len(lost):
            value[lost] = made[lost] = every.spread(information.factor(), lost)
        stamp[at] = pick
        return value[at]

    front = Front(bounds, evaluate, n)
    with bar("select", budget) as shown:
        for pick in range(budget):
            at, values, _ = front.contenders(pool.open, lambda bound: bound, 0.0, _NEAR)
            rows[pick] = row = information.settle(at, values)
            x = np.asarray(X[row], dtype=np.float64)
            u, sound = information.solve(x)
            g = float(x @ u)
            gains[pick] = np.log1p(g)
            information.add(x, u)
            pool.take(row)
            directions[pick] = u / np.sqrt(1.0 + g)
            valid = valid if sound else pick + 1
            shown.advance()
    return rows, gains

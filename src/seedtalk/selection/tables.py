"""Arithmetic on many rows: a piece at a time, in float64, on the processor or on a GPU.

A table is held as it comes (float32, mapped from a file); pieces of it are widened to float64.
Threads share the pieces, each of which is computed by one thread, so that no result depends on
their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.selection.pool import Floats, Rows

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda")
_GATHERED = 256  # rows in a piece of rows picked from all over the table
_CACHED = 2**18  # float64 numbers in a piece that is read twice
_PRODUCT = 2048  # rows in a piece of a product of matrices
_TINY = 1e-300  # x ln x is 0 here and below


class Table(Protocol):
    """(n, d) rows, and what selection computes of them. Results are float64, on the host."""

    n: int
    d: int

    def squares(self) -> Floats:
        """Return (n,) squared lengths."""

    def gram(self) -> Floats:
        """Return (d, d), the sum of x x' over the rows."""

    def spread(self, factor: Floats, at: Rows | None = None) -> Floats:
        """Return |factor x|^2 of the rows `at` (None: of all)."""

    def along(self, directions: Floats, known: Rows, at: Rows) -> Floats:
        """Return the sum of (x z)^2 over the rows z of `directions` from the `known`-th on.

        `known` holds one number for each of the rows `at`.
        """

    def products(self, vectors: Floats) -> Floats:
        """Return (c, n) products of the rows with (c, d) vectors."""

    def distances(self, centres: Floats) -> Floats:
        """Return (n, K) Euclidean distances to (K, d) centres, by direct differences."""

    def entropy(self, at: Rows | None = None, mean: Floats | None = None) -> Floats:
        """Return H of the rows `at` (None: all), or of their midpoints with `mean`, in nats."""


def table(X: NDArray[np.floating], block: int, device: str) -> Table:
    """Return the table of X on `device`, of which at most `block` rows are worked on at once.

    Raises
    ------
    InputError
        When the device is unknown, or is ``cuda`` and there is none.
    """
    check_device(device)
    return HostTable(X, block) if device == "cpu" else TorchTable(X, block, _cuda())


def check_device(device: str) -> None:
    """Refuse a device of no such name.

    Raises
    ------
    InputError
        When it is none of `DEVICES`.
    """
    if device not in DEVICES:
        raise InputError(f"device: '{device}' is none of {', '.join(DEVICES)}")


def power_of_two(X: NDArray[np.floating]) -> float:
    """Return a power of two that brings the largest entry of X to about 1; it changes no digit.

    1 for what float64 squares without running over or under as it is: float32 and shorter.
    """
    if X.dtype.itemsize < 8 or not X.size:
        return 1.0
    exponent = int(np.frexp(max(float(X.max()), -float(X.min())))[1])
    return 2.0 ** -min(max(exponent, -1000), 1000)


def threads() -> int:
    """Return how many threads to use: the cores allowed, or fewer by ``OMP_NUM_THREADS``."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) else cores


class HostTable:
    """A `Table` in memory or mapped from a file, computed by NumPy.

    Parameters
    ----------
    X
        (n, d) rows.
    block
        Rows in a piece at most.
    """

    def __init__(self, X: NDArray[np.floating], block: int) -> None:
        self._x = np.asarray(X)
        self.n, self.d = self._x.shape
        self._block = block
        self._threads = threads()
        self._crew = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def squares(self) -> Floats:  # noqa: D102 - as `Table`
        out = np.empty(self.n)

        def work(begin: int, end: int) -> None:
            part = self._wide(begin, end)
            np.einsum("ij,ij->i", part, part, out=out[begin:end])

        self._each(work, self.n, self._cached())
        return out

    def gram(self) -> Floats:  # noqa: D102
        # Sums are joined in the order of the pieces, which `block` must not change.
        pieces = -(-self.n // _PRODUCT)
        total, share = np.zeros((self.d, self.d)), 4 * self._threads
        for first in range(0, pieces, share):
            sums: list[Floats] = [total] * min(share, pieces - first)

            def work(begin: int, end: int, first: int = first, sums: list[Floats] = sums) -> None:
                for piece in range(begin, end):
                    at = (first + piece) * _PRODUCT
                    part = self._wide(at, min(at + _PRODUCT, self.n))
                    sums[piece] = part.T @ part

            self._each(work, len(sums), 1)
            for one in sums:
                total += one
        return total

    def spread(self, factor: Floats, at: Rows | None = None) -> Floats:  # noqa: D102
        out = np.empty(self.n if at is None else len(at))

        def work(begin: int, end: int) -> None:
            part = self._wide(begin, end, at) @ factor.T
            np.einsum("ij,ij->i", part, part, out=out[begin:end])

        self._each(work, len(out), min(self._block, _PRODUCT))
        return out

    def along(self, directions: Floats, known: Rows, at: Rows) -> Floats:  # noqa: D102
        out = np.empty(len(at))
        order = np.argsort(known, kind="stable")
        columns = np.arange(len(directions))

        def work(begin: int, end: int) -> None:
            here = order[begin:end]
            first = int(known[here[0]])
            part = self._x[at[here]].astype(np.float64, copy=False) @ directions[first:].T
            if known[here[-1]] > first:
                part *= columns[first:] >= known[here, None]
            out[here] = np.einsum("ij,ij->i", part, part)

        # The rows of a piece lack as many directions, within a factor of two.
        _, octave = np.frexp(len(directions) - known[order])
        ends = [*(np.flatnonzero(np.diff(octave)) + 1).tolist(), len(at)]
        step, pieces = min(self._block, _GATHERED), []
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            pieces += [(at, min(at + step, end)) for at in range(begin, end, step)]
        self._share(work, pieces)
        return out

    def products(self, vectors: Floats) -> Floats:  # noqa: D102
        out = np.empty((len(vectors), self.n))

        def work(begin: int, end: int) -> None:
            part = self._wide(begin, end)
            for vector, line in zip(vectors, out, strict=True):
                np.dot(part, vector, out=line[begin:end])

        self._each(work, self.n, self._cached())
        return out

    def distances(self, centres: Floats) -> Floats:  # noqa: D102
        from scipy.spatial.distance import cdist

        out = np.empty((self.n, len(centres)))

        def work(begin: int, end: int) -> None:
            cdist(self._wide(begin, end), centres, out=out[begin:end])

        self._each(work, self.n, min(self._block, _PRODUCT))
        return out

    def entropy(self, at: Rows | None = None, mean: Floats | None = None) -> Floats:  # noqa: D102
        out = np.empty(self.n if at is None else len(at))

        def work(begin: int, end: int) -> None:
            part = self._wide(begin, end, at)
            if mean is not None:
                part = part + mean
                part *= 0.5
            part = np.maximum(part, _TINY)
            np.einsum("ij,ij->i", part, np.log(part), out=out[begin:end])

        self._each(work, len(out), self._cached())
        return np.negative(out, out=out)

    def _cached(self) -> int:
        return int(min(self._block, max(1, _CACHED // self.d)))

    def _wide(self, begin: int, end: int, at: Rows | None = None) -> Floats:
        part = self._x[begin:end] if at is None else self._x[at[begin:end]]
        return part.astype(np.float64, copy=False)

    def _each(self, work: Callable[[int, int], None], n: int, piece: int) -> None:
        """Call ``work(begin, end)`` for pieces of `n`."""
        self._share(work, [(begin, min(begin + piece, n)) for begin in range(0, n, piece)])

    def _share(self, work: Callable[[int, int], None], pieces: list[tuple[int, int]]) -> None:
        """Call ``work`` for every piece; the threads take them in turn."""

        def run(share: list[tuple[int, int]]) -> None:
            for begin, end in share:
                work(begin, end)

        if self._crew is None or len(pieces) < 2:
            run(pieces)
            return
        list(
            self._crew.map(run, (pieces[first :: self._threads] for first in range(self._threads)))
        )


class TorchTable:
    """A `Table` computed by torch; it lies on the device where it fits, else rows are sent.

    Parameters
    ----------
    X
        (n, d) rows.
    block
        Rows in a piece at most.
    device
        Where to compute.
    """

    def __init__(self, X: NDArray[np.floating], block: int, device: torch.device) -> None:
        import torch

        self._torch, self._device = torch, device
        self._x = np.asarray(X)
        self.n, self.d = self._x.shape
        self._block = block
        self._held: torch.Tensor | None = None
        if self._x.nbytes <= _room(device):
            self._held = torch.empty(
                self._x.shape, dtype=self._send(self._x[:1]).dtype, device=device
            )
            for begin in range(0, self.n, block):
                self._held[begin : begin + block] = self._send(self._x[begin : begin + block])

    def squares(self) -> Floats:  # noqa: D102 - as `Table`
        return self._rowwise(lambda part, _: (part * part).sum(1))

    def gram(self) -> Floats:  # noqa: D102
        total = self._torch.zeros((self.d, self.d), dtype=self._torch.float64, device=self._device)
        for begin in range(0, self.n, _PRODUCT):
            part = self._wide(slice(begin, begin + _PRODUCT))
            total += part.T @ part
        return self._host(total)

    def spread(self, factor: Floats, at: Rows | None = None) -> Floats:  # noqa: D102
        across = self._send(factor).T
        return self._rowwise(lambda part, _: (part @ across).square_().sum(1), at)

    def along(self, directions: Floats, known: Rows, at: Rows) -> Floats:  # noqa: D102
        across = self._send(directions).T
        since = self._send(known)
        columns = self._torch.arange(len(directions), device=self._device)

        def one(part: torch.Tensor, span: slice) -> torch.Tensor:
            along = part @ across
            along *= columns >= since[span, None]
            return along.square_().sum(1)

        return self._rowwise(one, at)

    def products(self, vectors: Floats) -> Floats:  # noqa: D102
        across = self._send(vectors).T
        return np.ascontiguousarray(self._rowwise(lambda part, _: part @ across).T)

    def distances(self, centres: Floats) -> Floats:  # noqa: D102
        there, direct = self._send(centres), "donot_use_mm_for_euclid_dist"
        return self._rowwise(lambda part, _: self._torch.cdist(part, there, compute_mode=direct))

    def entropy(self, at: Rows | None = None, mean: Floats | None = None) -> Floats:  # noqa: D102
        middle = None if mean is None else self._send(mean)

        def one(part: torch.Tensor, _: slice) -> torch.Tensor:
            mixed = part if middle is None else (part + middle) / 2
            total: torch.Tensor = self._torch.special.entr(mixed).sum(1)
            return total

        return self._rowwise(one, at)

    def _rowwise(
        self, one: Callable[[torch.Tensor, slice], torch.Tensor], at: Rows | None = None
    ) -> Floats:
        n = self.n if at is None else len(at)
        spans = [slice(begin, min(begin + self._block, n)) for begin in range(0, n, self._block)]
        parts = [one(self._wide(span if at is None else at[span]), span) for span in spans]
        return self._host(self._torch.cat(parts))

    def _wide(self, rows: slice | Rows) -> torch.Tensor:
        if self._held is None:
            part = self._send(self._x[rows])
        elif isinstance(rows, slice):
            part = self._held[rows]
        else:
            part = self._held[self._send(rows)]
        wide: torch.Tensor = part.double()
        return wide

    def _send(self, values: NDArray[np.generic]) -> torch.Tensor:
        # A file mapped for reading is copied first: torch warns of memory it must not write.
        whole = values if values.flags.writeable else values.copy()
        there = self._torch.from_numpy(np.ascontiguousarray(whole))
        return there.to(self._device)

    def _host(self, values: torch.Tensor) -> Floats:
        made: Floats = values.cpu().numpy()
        return made


def _cuda() -> torch.device:
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "device: cuda is asked for, but torch sees no CUDA device; set device: cpu"
        )
    return torch.device("cuda")


def _room(device: torch.device) -> int:
    """Return the bytes of a table that may lie on the device: half of what is free."""
    import torch

    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**62

"""One side of benchmarks/selection.py, run by the interpreter under measure.

    python selection_sides.py SIDE X.npy BUDGET THREADS OUT.json

It needs NumPy and what the side needs, nothing else, so that the peers' environment runs it
without seedtalk. The time is of the selection alone, without imports and reading; where a
library compiles at its first call, a small call comes before the clock.
"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

SIDE, PATH, BUDGET, THREADS, OUT = sys.argv[1:6]
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = THREADS

import numpy as np  # noqa: E402 - the threads are set first

RIDGE = 1.0
CLUSTERS = 32


def similarity(X):
    """Cosine similarity of unit rows, negative ones cut to zero: what both libraries are given."""
    return np.maximum(X @ X.T, 0.0)


def seedtalk(method, **options):
    def run(X, budget):
        from seedtalk.selection import select

        return select(X, budget, method, 0, **options).indices

    return run


def js_profile(X):
    from seedtalk.selection import js

    return js.profile(X, CLUSTERS, 0.0, 0)


def seedtalk_js(X, budget):
    """The picks given the memberships, as the naive side has them."""
    from seedtalk.selection import select

    return lambda given: select(X, budget, "js", 0, clusters=CLUSTERS, profile=given).indices


def apricot(X, budget):
    from apricot import FacilityLocationSelection

    chosen = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy")
    return chosen.fit(similarity(X).astype(np.float64)).ranking


def submodlib_facility(X, budget):
    from submodlib import FacilityLocationFunction

    kernel = similarity(X)
    function = FacilityLocationFunction(n=len(X), mode="dense", sijs=kernel, separate_rep=False)
    return _maximised(function, budget)


def submodlib_logdet(X, budget):
    from submodlib import LogDeterminantFunction

    # det(I + K / ridge) over the rows is det(I + X'X / ridge) over the features.
    kernel = (X @ X.T) / RIDGE
    return _maximised(
        LogDeterminantFunction(n=len(X), mode="dense", sijs=kernel, lambdaVal=1.0), budget
    )


def _maximised(function, budget):
    with contextlib.redirect_stdout(io.StringIO()):
        picks = function.maximize(
            budget=budget,
            optimizer="LazyGreedy",
            stopIfZeroGain=False,
            stopIfNegativeGain=False,
            verbose=False,
        )
    return [pick for pick, _ in picks]


def naive_logdet(X, budget):
    """D-optimal greedy that inverts A anew for every pick."""
    X = X.astype(np.float64)
    A = RIDGE * np.eye(X.shape[1])
    open_rows = np.ones(len(X), dtype=bool)
    picks = []
    for _ in range(budget):
        inverse = np.linalg.inv(A)
        gains = np.einsum("ij,ij->i", X @ inverse, X)
        gains[~open_rows] = -np.inf
        pick = int(gains.argmax())
        picks.append(pick)
        open_rows[pick] = False
        A += np.outer(X[pick], X[pick])
    return picks


def bait(X, budget):
    """BAIT's forward greedy (Ash et al. 2021, algorithm 1), as published, rank-one case.

    Per pick and candidate, batched in torch: tr((I + x'A^-1 x)^-1 x'A^-1 F A^-1 x), all terms
    computed anew from the current inverse, which Woodbury's identity updates.
    """
    import torch

    torch.set_num_threads(int(THREADS))
    rows = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32))[:, None, :]
    fisher = (rows.transpose(1, 2) @ rows).mean(dim=0)
    inverse = torch.eye(X.shape[1]) / RIDGE
    picks = []
    for _ in range(budget):
        estimates = []
        for chunk in rows.split(1000):
            inner = torch.linalg.inv(1.0 + chunk @ inverse @ chunk.transpose(1, 2))
            middle = chunk @ inverse @ fisher @ inverse @ chunk.transpose(1, 2)
            estimates.append(torch.diagonal(middle @ inner, dim1=-2, dim2=-1).sum(-1))
        values = torch.cat(estimates)
        values[picks] = -torch.inf
        pick = int(values.argmax())
        picks.append(pick)
        x = rows[pick]
        gain = torch.linalg.inv(1.0 + x @ inverse @ x.T)
        inverse = inverse - inverse @ x.T @ gain @ x @ inverse
    return picks


def naive_js(X, budget):
    """Score every candidate by itself at every pick, with SciPy's Jensen-Shannon distance."""
    from scipy.spatial.distance import jensenshannon

    def run(profile):
        p = profile.p
        entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(axis=1)
        picks = [int(entropy.argmax())]
        while len(picks) < budget:
            mean = p[picks].mean(axis=0)
            best, place = -np.inf, -1
            for row in range(len(p)):
                if row in picks:
                    continue
                value = jensenshannon(p[row], mean) ** 2 + 0.1 * entropy[row]
                if value > best + 1e-12:
                    best, place = value, row
            picks.append(place)
        return picks

    return run


def vector_js(X, budget):
    """Score the whole pool with array operations at every pick, without bounds."""

    def run(profile):
        p = profile.p

        def entropy(q):
            return -np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0)), 0.0).sum(axis=-1)

        own = entropy(p)
        closed = np.zeros(len(p), dtype=bool)
        picks = [int(own.argmax())]
        closed[picks] = True
        while len(picks) < budget:
            mean = p[picks].mean(axis=0)
            value = entropy((p + mean) / 2) - own / 2 - entropy(mean) / 2 + 0.1 * own
            value[closed] = -np.inf
            picks.append(int(np.flatnonzero(value >= value.max() - 1e-12)[0]))
            closed[picks[-1]] = True
        return picks

    return run


SIDES = {
    "seedtalk facility": seedtalk("facility"),
    "apricot facility": apricot,
    "submodlib facility": submodlib_facility,
    "seedtalk logdet": seedtalk("fisher", ridge=RIDGE),
    "inverse logdet": naive_logdet,
    "submodlib logdet": submodlib_logdet,
    "seedtalk trace": seedtalk("fisher", ridge=RIDGE, criterion="trace"),
    "BAIT trace": bait,
    "seedtalk js": seedtalk_js,
    "per-candidate js": naive_js,
    "whole-pool js": vector_js,
}
WITH_PROFILE = {"seedtalk js", "per-candidate js", "whole-pool js"}


def main():
    X, budget, run = np.load(PATH), int(BUDGET), SIDES[SIDE]
    if SIDE in WITH_PROFILE:  # all three are given the same memberships
        given = js_profile(X)
        run(X[:60], 3)(js_profile(X[:60]))
        start = time.perf_counter()
        picks = run(X, budget)(given)
    else:
        run(X[:60], 3)
        start = time.perf_counter()
        picks = run(X, budget)
    seconds = time.perf_counter() - start
    with Path(OUT).open("w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "picks": [int(pick) for pick in picks]}, file)


if __name__ == "__main__":
    main()

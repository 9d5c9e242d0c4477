"""The hybrid's ranks and picks against a plain reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedtalk.selection import hybrid, js, select
from seedtalk.selection.pool import Pool

NONE = np.array([], dtype=np.int64)


def plain_ranks(values):
    return [sum(b < a - 1e-12 for b in values) / max(len(values) - 1, 1) for a in values]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_a_rank_is_the_share_of_lower_values(values):
    assert hybrid.ranks(np.array(values, float), 1e-12).tolist() == plain_ranks(values)


def test_rounding_does_not_part_equal_gains():
    noisy = np.array([1.0, 1.0 + 1e-15, 2.0, 1.0 - 1e-15])
    assert hybrid.ranks(noisy, 1e-12) == pytest.approx([0, 0, 1, 0])


def reference(X, p, budget, w, entropy_weight, ridge, criterion, warm):
    X = X.astype(np.float64)
    A = ridge * np.eye(X.shape[1]) + X[warm].T @ X[warm]
    F = X.T @ X / len(X)
    taken, rows = list(warm), []
    for _ in range(budget):
        left = [i for i in range(len(X)) if i not in taken]
        entropies = js.entropy(p[left])
        first = entropies
        if taken:
            first = js.divergence(p[left], p[taken].mean(axis=0)) + entropy_weight * entropies
        solved = np.linalg.solve(A, X[left].T).T
        second = (X[left] * solved).sum(axis=1)
        if criterion == "trace":
            second = (solved @ F * solved).sum(axis=1) / (1 + second)
        score = [
            w * a + (1 - w) * b
            for a, b in zip(plain_ranks(first), plain_ranks(second), strict=True)
        ]
        row = left[int(np.argmax(np.round(score, 11)))]
        rows.append(row)
        taken.append(row)
        A = A + np.outer(X[row], X[row])
    return rows


@pytest.mark.parametrize("criterion", ["logdet", "trace"])
@pytest.mark.parametrize("seed", range(6))
def test_picks_follow_the_reference(seed, criterion):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 5)).astype(np.float32)
    if seed % 2:  # copies
        X = X[rng.integers(0, 15, 40)]
    p = js.profile(X, 4).p
    warm = [2, 7] if seed in (2, 3) else []
    w = [0.0, 0.3, 0.5, 1.0][seed % 4]  # with a warm start: 0.5 and 1
    rows, gains = hybrid.greedy(
        X,
        p,
        20,
        Pool(40, taken=warm),
        ridge=1.0,
        criterion=criterion,
        entropy_weight=0.1,
        hybrid_weight=w,
        warm_start=np.array(warm, dtype=np.int64),
    )
    assert rows.tolist() == reference(X, p, 20, w, 0.1, 1.0, criterion, warm)
    assert ((gains >= 0) & (gains <= 1)).all()


@pytest.mark.parametrize(("weight", "pure"), [(1.0, "js"), (0.0, "fisher")])
def test_the_ends_of_the_combination_are_the_pure_strategies(weight, pure):
    X = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    mixed = select(X, 50, "hybrid", hybrid_weight=weight, clusters=5)
    assert mixed.indices.tolist() == select(X, 50, pure, clusters=5).indices.tolist()

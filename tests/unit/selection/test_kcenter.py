"""k-centre against a plain reference that measures every distance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from seedtalk.selection import kcenter
from seedtalk.selection.pool import Pool


def reference(X, budget, items=None, quota=0, warm=()):
    """Measure every open row against every selected one at every pick."""
    X = np.asarray(X, np.float64)
    taken, rows, gains = list(warm), [], []
    from_mean = ((X - X.mean(axis=0)) ** 2).sum(axis=1)
    for _ in range(budget):
        best, row = -math.inf, -1
        for i in range(len(X)):
            if i in taken or (quota and sum(items[j] == items[i] for j in taken) >= quota):
                continue
            value = -from_mean[i]
            if taken:
                value = min(float(((X[i] - X[j]) ** 2).sum()) for j in taken)
            if row < 0 or value > best + 1e-11 * max(1.0, abs(best)):
                best, row = value, i
        rows.append(row)
        gains.append(math.sqrt(best if taken else from_mean.max()))
        taken.append(row)
    return rows, gains


def run(X, budget, items=None, quota=0, warm=(), block=1024):
    warm = np.array(warm, dtype=np.int64)
    rows, gains = kcenter.greedy(X, budget, Pool(len(X), items, quota, warm), warm, block=block)
    return rows.tolist(), gains


def cloud(n, d, seed):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(5, d))
    return (centres[rng.integers(0, 5, n)] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_the_picks_are_those_of_the_reference(seed):
    X = cloud(60 + seed, 2 + 3 * seed, seed)
    expected, gains = reference(X, 30)
    rows, found = run(X, 30)
    assert rows == expected
    assert found == pytest.approx(gains)


def test_by_hand():
    X = np.array([[0], [4], [5], [11]], np.float32)  # mean 5
    rows, gains = run(X, 4)
    assert rows == [2, 3, 0, 1]
    assert gains.tolist() == [6.0, 6.0, 5.0, 1.0]


ADVERSARIAL = {
    "copies": np.tile(np.eye(3, dtype=np.float32), (6, 1)),
    "constant": np.full((12, 4), 0.1, np.float32),
    "zeros": np.zeros((9, 3), np.float32),
    "zeros among others": np.vstack([np.zeros((4, 3)), np.eye(3), np.zeros((2, 3))]).astype("f4"),
    "a square": np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 3, np.float32),
    "a line": np.arange(17, dtype=np.float32)[:, None],
    "one row": np.array([[1, 2]], np.float32),
    "far away": (1000 + 1e-3 * np.arange(20)[:, None] % 0.007).astype(np.float32),
    "an outlier": np.vstack([1e-4 * cloud(15, 3, 0), [[1e6, 0, 0]]]).astype(np.float32),
    "small": (1e-18 * cloud(15, 4, 0)).astype(np.float32),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(name):
    X = ADVERSARIAL[name]
    scale = 1e18 if name == "small" else 1.0  # the reference's tolerance is absolute
    expected, gains = reference(X * np.float32(scale), len(X))
    rows, found = run(X, len(X))
    assert rows == expected
    assert found * scale == pytest.approx(gains, rel=1e-6, abs=1e-12)


def test_hundreds_of_ties_go_to_the_lowest_row():
    X = np.vstack([np.eye(100), -np.eye(100)]).astype(np.float32)
    X = X[np.random.default_rng(0).permutation(200)]
    assert run(X, 12)[0] == reference(X, 12)[0]
    near = X * (1 + 1e-14 * np.random.default_rng(1).normal(size=(200, 1)))  # ties but for rounding
    assert run(near, 12)[0] == reference(X, 12)[0]


@pytest.mark.parametrize("seed", range(4))
def test_far_from_the_origin_the_products_of_matrices_do_not_decide(seed):
    """|x|^2 is 1e16 times a distance here: what the quick sums say of distances is all rounding."""
    X = 1e6 + 1e-2 * np.random.default_rng(seed).normal(size=(60, 3))
    rows, gains = run(X, 30)
    taken = rows[:1]
    for row, gain in zip(rows[1:], gains[1:], strict=True):
        squares = [min(((X[i] - X[j]) ** 2).sum() for j in taken) for i in range(60)]
        assert row == int(np.argmax(squares))
        assert gain == pytest.approx(math.sqrt(max(squares)))
        taken.append(row)


@pytest.mark.parametrize("seed", range(3))
def test_copies_go_to_the_lowest_row(seed):
    X = cloud(12, 5, seed)[np.random.default_rng(seed).integers(0, 12, 60)]
    assert run(X, 60)[0] == reference(X, 60)[0]


def test_a_warm_start_covers_and_is_not_picked():
    X = cloud(60, 6, 1)
    whole, gains = run(X, 25)
    rows, found = run(X, 20, warm=whole[:5])
    assert rows == whole[5:]
    assert (found == gains[5:]).all()
    assert run(X, 20, warm=[40, 3])[0] == reference(X, 20, warm=[40, 3])[0]


def test_a_quota_closes_an_item():
    X, items = cloud(60, 6, 2), np.random.default_rng(0).integers(0, 9, 60)
    assert run(X, 18, items, 2)[0] == reference(X, 18, items, 2)[0]


def test_the_radius_is_within_twice_the_best():
    """Gonzalez (1985), Theorem 2.2: against every choice of three centres of nine rows."""
    from itertools import combinations

    for seed in range(5):
        X = np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float32)
        away = np.linalg.norm(X[:, None] - X[None], axis=2)

        def radius(rows, away=away):
            return away[:, list(rows)].min(axis=1).max()

        rows, _ = run(X, 3)
        assert radius(rows) <= 2 * min(map(radius, combinations(range(9), 3))) + 1e-6


@given(
    st.integers(2, 30),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_prefix_block_and_falling_radius(n, d, seed, block, whole_numbers):
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, (n, d)) if whole_numbers else rng.normal(size=(n, d))
    X = X.astype(np.float32)
    rows, gains = run(X, n)
    assert sorted(rows) == list(range(n))
    for budget in {1, n // 2 or 1}:
        assert run(X, budget)[0] == rows[:budget]
    other, same = run(X, n, block=block)
    assert other == rows
    assert (same == gains).all()  # to the bit
    assert (np.diff(gains[1:]) <= 1e-12).all()


def test_threads_and_memory_maps_change_nothing(tmp_path):
    X = cloud(1200, 24, 5)
    np.save(tmp_path / "x.npy", X)
    rows, gains = run(X, 150)
    with threadpool_limits(2):
        other, same = run(np.load(tmp_path / "x.npy", mmap_mode="r"), 150, block=100)
    assert other == rows
    assert (same == gains).all()


def test_a_part_of_the_distances_is_measured(monkeypatch):
    X = cloud(4000, 8, 0)
    measured = []
    real = kcenter._Radii.catch_up
    monkeypatch.setattr(
        kcenter._Radii, "catch_up", lambda self, at: measured.append(len(at)) or real(self, at)
    )
    run(X, 200)
    assert sum(measured) < 0.2 * 4000 * 200

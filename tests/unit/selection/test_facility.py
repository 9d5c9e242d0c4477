"""Facility location against a plain reference that evaluates everything."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from seedtalk.selection import facility
from seedtalk.selection.pool import Pool


def cosines(X):
    X = np.asarray(X, np.float64)
    lengths = np.linalg.norm(X, axis=1)
    unit = X / np.where(lengths > 0, lengths, 1)[:, None]
    return np.maximum(unit @ unit.T, 0)


def reference(X, budget, items=None, quota=0, warm=()):
    """Evaluate every open row at every pick, in float64, from the whole matrix."""
    S = cosines(X)
    taken, rows, gains = list(warm), [], []
    covered = S[:, taken].max(axis=1, initial=0)
    for _ in range(budget):
        best, row = -math.inf, -1
        for i in range(len(X)):
            used = quota and sum(items[j] == items[i] for j in taken) >= quota
            if i in taken or used:
                continue
            gain = math.fsum(np.maximum(S[:, i] - covered, 0))
            if gain > best + 1e-13 * len(X):
                best, row = gain, i
        rows.append(row)
        gains.append(best)
        taken.append(row)
        covered = np.maximum(covered, S[:, row])
    return rows, gains


def run(X, budget, items=None, quota=0, warm=(), block=1024):
    warm = np.array(warm, dtype=np.int64)
    rows, gains = facility.greedy(X, budget, Pool(len(X), items, quota, warm), warm, block=block)
    return rows.tolist(), gains


def cloud(n, d, seed, shift=0.0):
    """Rows around a few centres, away from the origin by `shift`."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, d)) + shift
    return (centres[rng.integers(0, 5, n)] + 0.5 * rng.normal(size=(n, d))).astype(np.float32)


@pytest.fixture(params=["held", "made anew", "thin"])
def memory(request, monkeypatch):
    """Run with the similarities held, made anew, and thinned out from the first pick."""
    if request.param == "made anew":
        monkeypatch.setattr(facility, "HELD_BYTES", 0)
    if request.param == "thin":
        monkeypatch.setattr(facility, "_SPARSE", 1.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_picks_are_those_of_the_reference(seed, shift, memory):
    X = cloud(70 + seed, 3 + 2 * seed, seed, shift)
    expected, gains = reference(X, 40)
    rows, found = run(X, 40)
    assert rows == expected
    assert found == pytest.approx(gains, abs=1e-9)


def test_by_hand():
    X = np.array([[1, 0], [3, 4], [0, 2], [0, -1]], np.float32)
    rows, gains = run(X, 4)
    # cosines: 0-1 0.6, 1-2 0.8, 0-2 none, 3 is like itself only
    assert rows == [1, 3, 0, 2]
    assert gains == pytest.approx([0.6 + 1 + 0.8, 1.0, 0.4, 0.2])


def test_the_objective_is_that_of_the_libraries_on_the_same_similarities():
    """apricot and submodlib sum the largest similarity to a selected row, from 0 on."""
    X = cloud(90, 6, 3)
    rows, gains = run(X, 20)
    assert gains.sum() == pytest.approx(cosines(X)[:, rows].max(axis=1).sum())


ADVERSARIAL = {
    "copies": np.tile(np.eye(3, dtype=np.float32), (6, 1)),
    "constant": np.ones((12, 4), np.float32),
    "zeros": np.zeros((9, 3), np.float32),
    "zeros among others": np.vstack([np.zeros((4, 3)), np.eye(3), np.zeros((2, 3))]).astype("f4"),
    "one direction": np.outer(np.arange(1, 11), [1, 2, 2]).astype(np.float32),
    "opposite": np.outer([1, -1] * 6, [1, 0.5]).astype(np.float32),
    "one feature": np.array([[1], [-2], [3], [0]], np.float32),
    "one row": np.array([[1, 2]], np.float32),
    "far from one": (1e20 * cloud(15, 4, 0)).astype(np.float32),
    "next to nothing": (1e-20 * cloud(15, 4, 0)).astype(np.float32),
    "orthogonal": np.eye(12, dtype=np.float32),
    "nearly equal": (1 + 1e-6 * np.random.default_rng(0).normal(size=(14, 5))).astype(np.float32),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(name, memory):
    X = ADVERSARIAL[name]
    expected, gains = reference(X, len(X))
    rows, found = run(X, len(X))
    assert rows == expected
    assert sorted(rows) == list(range(len(X)))
    assert found == pytest.approx(gains, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_covered_goes_by_row_and_not_by_rounding(seed, memory):
    """One direction: the first pick covers the pool, and the rest gain nothing."""
    X = np.outer(np.random.default_rng(seed).integers(1, 9, 20), [1.3, 2.1, 0.7]).astype(np.float32)
    rows, gains = run(X, 20)
    assert rows == list(range(20))
    assert gains == pytest.approx([20] + [0] * 19, abs=1e-12)


def test_a_covered_pool_is_not_settled_over_and_over(monkeypatch):
    settled = []
    real = facility._Coverage.gain
    monkeypatch.setattr(
        facility._Coverage, "gain", lambda self, at: settled.append(at) or real(self, at)
    )
    run(np.outer(np.arange(1, 201), [1.3, 2.1, 0.7]).astype(np.float32), 200)
    assert len(settled) <= 3 * 200


def test_the_bounds_hold_the_sum_that_is_kept_by_additions(monkeypatch):
    """Additions in float64 round: without a margin a bound falls under the sum it stands for."""
    monkeypatch.setattr(facility, "_SPARSE", 1.0)
    # Similarities of many magnitudes, or the sums of float32 numbers are exact in float64.
    X = (10.0 ** np.random.default_rng(3).uniform(-20, 0, (300, 12))).astype(np.float32)
    _, first = facility.copies(X)
    coverage = facility._Coverage(X, first, np.ones(300), 1024)
    coverage.start()
    unit = coverage._unit
    held = (unit @ unit.T if coverage._held is None else coverage._held).astype(np.float64)
    for row in run(X, 100)[0]:
        coverage.select(row)
        over = np.maximum(held - coverage._floor.astype(np.float64)[:, None], 0.0)
        assert (coverage.bounds() >= [math.fsum(column) for column in over.T]).all()


def test_a_large_pool_is_warned_of(monkeypatch):
    monkeypatch.setattr(facility, "MANY_ROWS", 29)
    with pytest.warns(RuntimeWarning, match=r"all pairs of 30 rows \(O\(N\^2 d\) time"):
        run(cloud(30, 3, 0), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(cloud(29, 3, 0), 2)


@pytest.mark.parametrize("seed", range(3))
def test_copies_count_as_rows_and_the_lowest_goes_first(seed, memory):
    rng = np.random.default_rng(seed)
    X = cloud(15, 5, seed)[rng.integers(0, 15, 60)]
    assert run(X, 14)[0] == reference(X, 14)[0]


def test_a_warm_start_covers_and_is_not_picked(memory):
    X = cloud(60, 6, 1)
    whole, gains = run(X, 25)
    assert run(X, 20, warm=whole[:5])[0] == whole[5:]
    assert run(X, 20, warm=whole[:5])[1] == pytest.approx(gains[5:])
    assert run(X, 20, warm=[40, 3])[0] == reference(X, 20, warm=[40, 3])[0]


def test_a_quota_closes_an_item(memory):
    X, items = cloud(60, 6, 2), np.random.default_rng(0).integers(0, 9, 60)
    expected, _ = reference(X, 18, items, 2)
    assert run(X, 18, items, 2)[0] == expected


def test_a_quota_leaves_the_copies_of_other_items():
    X = np.tile(cloud(6, 4, 0), (4, 1))
    items = np.arange(24) // 6 % 2
    assert run(X, 12, items, 6)[0] == reference(X, 12, items, 6)[0]


@given(
    st.integers(2, 30),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_prefix_block_and_scale(n, d, seed, block, whole_numbers):
    """The first picks are those of a smaller budget; blocks and scale change nothing."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, (n, d)) if whole_numbers else rng.normal(size=(n, d))
    X = X.astype(np.float32)
    rows, gains = run(X, n)
    for budget in {1, n // 2 or 1}:
        assert run(X, budget)[0] == rows[:budget]
    other, same = run(X, n, block=block)
    assert other == rows
    assert (same == gains).all()  # to the bit
    assert (np.diff(gains) <= 1e-12 * max(1.0, gains[0])).all()  # submodular
    assert run(4 * X, n)[0] == rows
    assert gains.sum() == pytest.approx(cosines(X).max(axis=1).sum(), abs=1e-9)


def test_threads_and_memory_change_nothing(monkeypatch):
    X = cloud(500, 24, 5)
    results = []
    for cores, held, tile in ((1, 2**32, 512), (2, 2**32, 100), (2, 0, 512)):
        monkeypatch.setattr(facility, "threads", lambda cores=cores: cores)
        monkeypatch.setattr(facility, "HELD_BYTES", held)
        monkeypatch.setattr(facility, "_TILE", tile)
        with threadpool_limits(cores):
            rows, gains = run(X, 80)
        results.append((rows, gains.tolist()))
    assert results[0] == results[1] == results[2]


def test_a_memory_map_gives_the_same_picks(tmp_path):
    X = cloud(80, 5, 0)
    np.save(tmp_path / "x.npy", X)
    assert run(np.load(tmp_path / "x.npy", mmap_mode="r"), 30, block=7)[0] == run(X, 30)[0]


@pytest.mark.parametrize("distinct", [900, 300])
def test_the_bounds_are_close_and_few_rows_are_settled(monkeypatch, distinct):
    X = cloud(distinct, 16, 4)[np.random.default_rng(0).permutation(900) % distinct]
    settled = []
    real = facility._Coverage.gain

    def gain(self, candidate):
        value = real(self, candidate)
        bound = self.bounds()[candidate]
        assert value <= bound <= 1.01 * value + 0.01
        settled.append(candidate)
        return value

    monkeypatch.setattr(facility._Coverage, "gain", gain)
    run(X, 150)
    assert len(settled) < 2 * 150


def test_distinct_rows_are_numbered_by_their_first_copy():
    X = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]], np.float32)
    group, first = facility.copies(X)
    assert group.tolist() == [0, 1, 0, 2, 1]
    assert first.tolist() == [0, 1, 3]


@given(st.integers(0, 10**6), st.sampled_from([np.float16, np.float32, np.float64]))
def test_copies_are_those_of_a_dictionary_of_bytes(number, dtype):
    rng = np.random.default_rng(number)
    X = rng.integers(-1, 2, (rng.integers(1, 40), rng.integers(1, 4))).astype(dtype)
    X[rng.random(X.shape) < 0.3] *= dtype(-1)  # zeros of both signs are no copies of each other
    seen = {}
    group = [seen.setdefault(row.tobytes(), len(seen)) for row in X]
    found, first = facility.copies(X[:, ::-1][:, ::-1])  # not contiguous
    assert found.tolist() == group and found.dtype == first.dtype == np.int64
    assert first.tolist() == [group.index(n) for n in range(len(seen))]


def test_rows_of_one_hash_are_told_apart(monkeypatch):
    drawn, tried = facility._factors, []

    def poor(count, attempt):
        tried.append(attempt)
        return drawn(count, attempt) * np.uint64(attempt > 1)  # all rows have one hash at first

    monkeypatch.setattr(facility, "_factors", poor)
    X = np.repeat(np.arange(3000, dtype=np.float32), 2)[:, None] + np.zeros(4, np.float32)
    group, first = facility.copies(X)
    assert group.tolist() == np.repeat(np.arange(3000), 2).tolist() and tried == [0, 1, 2]
    assert first.tolist() == list(range(0, 6000, 2))

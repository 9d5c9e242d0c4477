import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.evaluation.intervals import bootstrap_means, intervals, over_runs, paired


def simulated(clusters=40, per=3, seed=0):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"c{n:03d}" for n in range(clusters)], per)
    effect = np.repeat(rng.normal(size=clusters), per)
    values = np.stack([effect + rng.normal(size=clusters * per), rng.random(clusters * per)], 1)
    weights = rng.integers(1, 5, size=values.shape).astype(float)
    return values, weights, names


def test_draws_equal_a_loop_over_the_same_counts():
    values, weights, names = simulated(clusters=7, per=2)
    means, draws = bootstrap_means(values, weights, names, resamples=50, seed=3)
    assert means == pytest.approx((values * weights).sum(0) / weights.sum(0))
    counts = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), size=50)
    order = sorted(set(names))
    for draw, times in zip(draws, counts, strict=True):
        rows = [
            row
            for name, count in zip(order, times, strict=True)
            for _ in range(count)
            for row in np.flatnonzero(names == name)
        ]
        wanted = (values[rows] * weights[rows]).sum(0) / weights[rows].sum(0)
        assert draw == pytest.approx(wanted)


def test_whole_conversations_are_drawn():
    # Two clusters of equal values: a draw is one of them, or their mean, never in between.
    values = np.repeat([[0.0], [1.0]], 50, axis=0)
    _, draws = bootstrap_means(
        values, np.ones_like(values), ["a"] * 50 + ["b"] * 50, resamples=200, seed=0
    )
    assert set(draws[:, 0]) == {0.0, 0.5, 1.0}


def test_agrees_with_the_normal_interval_of_many_conversations():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 1))
    names = [f"c{n}" for n in range(2000)]
    (found,) = intervals(values, np.ones_like(values), names, resamples=4000, seed=0)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.06)
    assert found["mean"] - found["low"] == pytest.approx(half, rel=0.06)


def test_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        values, _, names = simulated(clusters=40, per=3, seed=seed)
        (found,) = intervals(
            values[:, :1], np.ones((len(names), 1)), names, resamples=400, seed=seed
        )
        hits += found["low"] <= 0 <= found["high"]
    assert 0.89 <= hits / 200 <= 0.99  # ignoring the clusters covers about 0.8


def test_seeded_and_blind_to_row_order():
    values, weights, names = simulated()
    options = {"resamples": 300, "seed": 5}
    first = intervals(values, weights, names, **options)
    assert intervals(values, weights, names, **options) == first
    assert intervals(values, weights, names, resamples=300, seed=6) != first
    order = np.random.default_rng(0).permutation(len(names))
    assert intervals(values[order], weights[order], names[order], **options) == first


def test_memory_chunks_do_not_change_the_draws(monkeypatch):
    values, weights, names = simulated()
    whole = bootstrap_means(values, weights, names, resamples=100, seed=0)[1]
    monkeypatch.setattr("seedtalk.evaluation.intervals._CHUNK", 500)
    assert np.allclose(bootstrap_means(values, weights, names, resamples=100, seed=0)[1], whole)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(0, 9))
def test_stays_within_the_values(values, seed):
    column = np.array(values)[:, None]
    (found,) = intervals(
        column,
        np.ones_like(column),
        [f"c{n}" for n in range(len(values))],
        resamples=100,
        seed=seed,
    )
    assert min(values) - 1e-6 <= found["low"] <= found["high"] <= max(values) + 1e-6


def test_pairing_removes_what_both_share():
    values, weights, names = simulated()
    shifted = values + 0.1
    for found in paired(shifted, values, np.ones_like(weights), names, resamples=200, seed=0):
        assert found == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


def test_pairing_refuses_other_shapes():
    with pytest.raises(ValueError, match="equal shapes"):
        paired(
            np.ones((2, 1)),
            np.ones((3, 1)),
            np.ones((3, 1)),
            ["a", "b", "c"],
            resamples=100,
            seed=0,
        )


def test_one_conversation_has_no_interval():
    with pytest.raises(InputError, match="at least 2 conversations, found 1"):
        intervals(np.ones((3, 1)), np.ones((3, 1)), ["a"] * 3, resamples=100, seed=0)


def test_over_runs_by_hand():
    """Of 1, 2 and 3: mean 2, deviation 1, t(.975, 2) = 4.302653."""
    (found, constant) = over_runs([[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]])
    half = 4.302653 / 3**0.5
    assert found["mean"] == 2.0
    assert found["low"] == pytest.approx(2 - half, abs=1e-5)
    assert found["high"] == pytest.approx(2 + half, abs=1e-5)
    assert constant == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_over_runs_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    found = over_runs(rng.normal(1.0, 2.0, size=(5, 2000)))
    covered = np.mean([one["low"] <= 1.0 <= one["high"] for one in found])
    assert 0.93 < covered < 0.97


def test_one_run_has_no_interval_over_runs():
    with pytest.raises(InputError, match="at least 2 of them, got 1"):
        over_runs([[1.0]])

"""Jensen–Shannon selection against a plain reference that evaluates everything."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seedtalk.errors import InputError
from seedtalk.selection import js, select
from seedtalk.selection.pool import Pool


def kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def plain_js(p, q):
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def plain_entropy(p):
    return -math.fsum(a * math.log(a) for a in p if a > 0)


def reference(p, budget, weight, closed=(), warm=()):
    """Evaluate every open row at every pick, by KL divergences instead of entropies."""
    chosen, gains, taken = [], [], list(warm)
    for _ in range(budget):
        best, row = -math.inf, -1
        for i in range(len(p)):
            if i in taken or i in closed:
                continue
            value = plain_entropy(p[i])
            if taken:
                mean = p[taken].mean(axis=0)
                value = plain_js(p[i], mean) + weight * plain_entropy(p[i])
            if value > best + 1e-12:
                best, row = value, i
        chosen.append(row)
        gains.append(best)
        taken.append(row)
    return chosen, gains


def memberships(seed, n, k, sharp=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(k, sharp), size=n)


def run(p, budget, weight, warm=()):
    warm = np.array(warm, dtype=np.int64)
    rows, gains = js.greedy(p, budget, Pool(len(p), taken=warm), weight, warm)
    return rows.tolist(), gains


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_the_lazy_search_picks_what_the_reference_picks(seed, weight):
    p = memberships(seed, n=60 + seed, k=2 + seed % 5, sharp=[0.05, 0.5, 3.0][seed % 3])
    expected, gains = reference(p, 40, weight)
    rows, found = run(p, 40, weight)
    assert rows == expected
    assert found == pytest.approx(gains, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_ties_between_copies_go_to_the_lowest_row(seed):
    few = memberships(seed, 7, 3)
    p = few[np.random.default_rng(seed).integers(0, 7, 50)]
    assert run(p, 50, 0.1)[0] == reference(p, 50, 0.1)[0]


def test_one_hot_and_constant_rows():
    one_hot = np.eye(4)[[0, 0, 1, 2, 3, 3]]
    assert run(one_hot, 6, 0.0)[0] == reference(one_hot, 6, 0.0)[0]
    constant = np.full((6, 3), 1 / 3)
    rows, gains = run(constant, 6, 0.1)
    assert rows == [0, 1, 2, 3, 4, 5]
    assert gains[0] == pytest.approx(math.log(3))
    assert gains[1:] == pytest.approx(0.1 * math.log(3))


def test_a_warm_start_shapes_the_mean_and_is_not_picked():
    p = memberships(3, 30, 4)
    assert run(p, 10, 0.1, warm=[5, 17])[0] == reference(p, 10, 0.1, warm=[5, 17])[0]
    whole = run(p, 12, 0.1)[0]
    assert run(p, 10, 0.1, warm=whole[:2])[0] == whole[2:]


def test_by_hand():
    # One-hot against uniform over two: JS = (ln(4/3) + 1/2 ln(2/3) + 1/2 ln 2) / 2.
    by_hand = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    one_hot, uniform = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert js.divergence(one_hot, uniform) == pytest.approx(by_hand)
    assert js.divergence(one_hot, one_hot[::-1]) == pytest.approx(math.log(2))
    assert js.divergence(one_hot, one_hot) == 0.0
    assert js.entropy(uniform) == pytest.approx(math.log(2))


simplex = arrays(np.float64, (3, 5), elements=st.floats(0, 1)).map(
    lambda a: (a + 1e-9) / (a + 1e-9).sum(axis=1, keepdims=True)
)


@given(simplex)
@settings(max_examples=200, deadline=None)
def test_the_divergence_is_symmetric_and_bounded(rows):
    p, q, _ = rows
    assert 0 <= js.divergence(p, q) <= math.log(2)
    assert js.divergence(p, q) == pytest.approx(float(js.divergence(q, p)), abs=1e-15)
    assert js.divergence(p, q) == pytest.approx(plain_js(p, q), abs=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([0.05, 0.5, 5.0]))
@settings(max_examples=100, deadline=None)
def test_the_bound_the_lazy_search_rests_on(seed, k, sharp):
    """t (ln 2 - JS(p || mean of t)) never falls, whatever is added to the mean."""
    picked = memberships(seed, 30, k, sharp)
    rows = memberships(seed + 1, 20, k, sharp)
    short = np.zeros(20)
    for t in range(1, 31):
        now = t * (math.log(2) - js.divergence(rows, picked[:t].mean(axis=0)))
        assert (now >= short - 1e-12).all()
        short = now


def test_an_old_evaluation_bounds_what_comes():
    p = memberships(5, 200, 6, 0.3)
    state = js.Divergences(p, 0.2, 64, "cpu")
    total, everything = p[0].copy(), np.arange(200)
    state.meet(total, 1)
    state.values(everything)
    highest = float(state.bounds(everything).max())
    for count in range(2, 40):
        total += p[count]
        state.meet(total / count, count)
        bounds = state.bounds(everything)
        assert bounds.max() <= state.later(highest, 1) + 1e-12
        exact = [plain_js(row, total / count) + 0.2 * plain_entropy(row) for row in p]
        assert (bounds >= np.array(exact) - 1e-12).all()
        found = state.values(everything[::3])
        assert found == pytest.approx(exact[::3], abs=1e-12)


def test_the_lazy_search_evaluates_a_part_of_the_pool(monkeypatch):
    p = memberships(0, 4000, 16, sharp=0.3)
    seen = []
    real = js.Divergences.values
    monkeypatch.setattr(
        js.Divergences, "values", lambda self, at: seen.append(len(at)) or real(self, at)
    )
    run(p, 300, 0.1)
    assert 300 < sum(seen) < 0.15 * 4000 * 300


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_a_small_front_misses_no_pick(monkeypatch, weight):
    from seedtalk.selection import pool

    monkeypatch.setattr(pool, "_FRONT", 8)
    p = memberships(1, 300, 5, sharp=0.4)
    assert run(p, 120, weight)[0] == reference(p, 120, weight)[0]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_picks_are_those_of_the_reference_on_a_coarse_grid(data):
    """Fourths: copies, one-hot rows and exact ties abound."""
    n, k = data.draw(st.integers(2, 14)), data.draw(st.integers(1, 4))
    parts = data.draw(
        st.lists(st.lists(st.integers(0, k - 1), min_size=4, max_size=4), min_size=n, max_size=n)
    )
    p = np.array([np.bincount(row, minlength=k) / 4 for row in parts])
    weight = data.draw(st.sampled_from([0.0, 0.1, 3.0]))
    assert run(p, n, weight)[0] == reference(p, n, weight)[0]


def test_a_large_entropy_weight_does_not_turn_rounding_into_picks():
    p = memberships(2, 12, 4)[np.random.default_rng(0).integers(0, 12, 60)]
    rows, _ = run(p, 60, 1e6)
    first = {p[row].tobytes(): row for row in reversed(range(60))}
    order = [first[p[row].tobytes()] for row in rows]
    seen = set()
    for row, lowest in zip(rows, order, strict=True):  # of copies the lowest comes first
        assert lowest in seen or row == lowest
        seen.add(row)


def test_memberships_are_a_softmax_over_the_distances():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 5)).astype(np.float32)
    made = js.profile(X, clusters=3, temperature=0.7, seed=1)
    from sklearn.cluster import KMeans

    centres = KMeans(3, n_init=3, random_state=1).fit(X).cluster_centers_
    for x, p, label in zip(X, made.p, made.labels, strict=True):
        d = [math.dist(x, c) for c in centres]
        weights = [math.exp(-v / 0.7) for v in d]
        assert p == pytest.approx([w / sum(weights) for w in weights], rel=1e-4)
        assert label == int(np.argmin(d)) == int(np.argmax(p))
    assert made.temperature == 0.7
    assert made.mean_entropy == pytest.approx(float(js.entropy(made.p).mean()))


@pytest.mark.parametrize(("scale", "k"), [(1e-3, 4), (1.0, 8), (1e4, 32)])
def test_the_temperature_from_the_data_gives_half_the_entropy_at_any_scale(scale, k):
    X = (scale * np.random.default_rng(0).normal(size=(200, 6))).astype(np.float32)
    made = js.profile(X, k)
    assert made.mean_entropy / math.log(k) == pytest.approx(js.TARGET_ENTROPY, abs=1e-6)


def test_the_temperature_where_no_choice_is_left():
    assert js.balanced_temperature(np.zeros((4, 1))) == 1.0
    assert js.balanced_temperature(np.full((4, 3), 2.0)) == 1.0
    two_of_three = np.array([[0.0, 0.0, 1.0]] * 4)  # ln 2 / ln 3 > 1/2 however cold
    assert 0 < js.balanced_temperature(two_of_three) < 1e-3


def test_equal_rows_get_equal_memberships_even_where_every_row_is_a_centre():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(6, 40)).astype(np.float32)
    doubled = np.vstack([X, X])[rng.permutation(12)]
    made = js.profile(doubled, clusters=12)  # fewer distinct rows than clusters
    first = {row.tobytes(): p for row, p in zip(doubled, made.p, strict=True)}
    for row, p in zip(doubled, made.p, strict=True):
        assert (p == first[row.tobytes()]).all()


def test_small_distances_far_from_the_origin_are_not_lost():
    X = (100 + np.random.default_rng(0).normal(size=(8, 30)) * 1e-2).astype(np.float32)
    made = js.profile(X, clusters=8, temperature=0.05)  # every row is a centre
    for x, p in zip(X, made.p, strict=True):
        weights = [math.exp(-math.dist(x, c) / 0.05) for c in X]
        assert sorted(p) == pytest.approx(sorted(w / sum(weights) for w in weights), rel=1e-6)


def test_a_large_pool_gets_its_centres_from_a_seeded_sample(monkeypatch):
    monkeypatch.setattr(js, "SAMPLE", 60)
    monkeypatch.setattr(js, "SAMPLE_PER_CLUSTER", 10)
    X = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    made = js.profile(X, clusters=8, temperature=0.4, seed=3)
    from sklearn.cluster import KMeans

    sample = X[np.sort(np.random.default_rng(3).choice(400, 80, replace=False))]
    centres = KMeans(8, n_init=3, random_state=3).fit(sample).cluster_centers_
    distances = np.linalg.norm(X[:, None].astype(float) - centres, axis=2)
    assert made.labels.tolist() == distances.argmin(axis=1).tolist()
    weights = np.exp(-distances / 0.4)
    assert made.p == pytest.approx(weights / weights.sum(axis=1, keepdims=True), rel=1e-5)
    assert (js.profile(X, 8, 0.4, 3).p == made.p).all()
    assert (js.profile(X, 8, 0.4, 4).p != made.p).any()


def test_extreme_shapes():
    X = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    for k in (1, 9):  # one cluster; every row its own
        chosen = select(X, 9, "js", clusters=k)
        assert sorted(chosen.indices.tolist()) == list(range(9))
    assert select(X, 9, "js", clusters=1).indices.tolist() == list(range(9))
    constant = select(np.ones((5, 3), np.float32), 5, "js", clusters=2)
    assert constant.indices.tolist() == list(range(5))


def test_k_over_n_is_refused():
    with pytest.raises(InputError, match=r"select\.clusters: 4 clusters are over the 3 reviews"):
        js.profile(np.ones((3, 2), np.float32), clusters=4)

"""Diagnostics against plain counts, closed forms and the libraries that have them."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.selection import Selection, describing, diagnostics, js, select


def cloud(n=80, d=6, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) + shift).astype(np.float32)


def cosines(X):
    X = np.asarray(X, np.float64)
    lengths = np.linalg.norm(X, axis=1)
    unit = X / np.where(lengths > 0, lengths, 1)[:, None]
    return unit @ unit.T


def profile_of(p):
    p = np.asarray(p, np.float64)
    return js.Profile(p, p.argmax(axis=1), 0.1)


# --- the sample -------------------------------------------------------------------------------


def test_a_small_pool_is_its_own_sample_with_its_nearest_rows():
    X = cloud()
    drawn = diagnostics.sample(X, 0)
    assert drawn.rows.tolist() == list(range(80))
    for row, similar in enumerate(cosines(X)):
        order = [i for i in np.argsort(-similar, kind="stable") if i != row][:10]
        assert drawn.neighbours[row].tolist() == order
        assert drawn.reach[row] == pytest.approx(1 - similar[order[-1]], abs=2e-6)


def test_a_large_pool_is_sampled_by_the_seed(monkeypatch):
    monkeypatch.setattr(diagnostics, "SAMPLE", 30)
    X = cloud(900)
    drawn = diagnostics.sample(X, 3)
    assert len(drawn.rows) == 30 == len(np.unique(drawn.rows))
    assert (np.diff(drawn.rows) > 0).all()
    assert drawn.rows.tolist() == diagnostics.sample(X, 3).rows.tolist()
    assert drawn.rows.tolist() != diagnostics.sample(X, 4).rows.tolist()
    assert drawn.neighbours.max() < 30


def test_the_border_leaves_a_twentieth_outside():
    drawn = diagnostics.sample(cloud(400), 0)
    assert (drawn.reach > drawn.border).mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_tiny_pool_has_numbers(n):
    X = cloud(n, 3)
    drawn, profile = diagnostics.sample(X, 0), js.profile(X, 1)
    diagnostics.cluster_quality(X, profile, drawn)
    diagnostics.embedding_audit(X, drawn)
    scorer = diagnostics.Scorer(X, drawn, profile, np.arange(n), np.zeros(n), 1.0)
    for size in range(1, n + 1):
        numbers = scorer.numbers(np.arange(size))
        assert all(math.isfinite(value) for value in numbers.values())


# --- clusters ---------------------------------------------------------------------------------


def test_cluster_quality_by_hand():
    X = np.array([[0], [1], [10], [11]], np.float32)
    profile = profile_of([[0.96, 0.04], [0.5, 0.5], [0.1, 0.9], [0.0, 1.0]])
    profile = js.Profile(profile.p, np.array([0, 0, 1, 1]), 0.1)
    found = diagnostics.cluster_quality(X, profile, diagnostics.sample(X, 0))
    # a = 1 everywhere; b = 10.5 for the outer rows, 9.5 for the inner ones
    assert found["silhouette"] == pytest.approx((9.5 / 10.5 + 8.5 / 9.5) / 2, abs=1e-6)
    assert found["occupied"] == pytest.approx(2.0)
    assert (found["smallest"], found["largest"]) == (2, 2)
    assert found["one_hot_share"] == 0.5
    entropy = [-sum(v * math.log(v) for v in p if v) for p in profile.p]
    assert found["mean_entropy"] == pytest.approx(np.mean(entropy), abs=1e-6)
    assert found["entropy_share"] == pytest.approx(np.mean(entropy) / math.log(2), abs=1e-6)


def test_empty_clusters_count_and_one_cluster_has_no_silhouette():
    X = cloud(9, 2)
    empty = js.Profile(np.full((9, 3), 1 / 3), np.zeros(9, np.int64), 1.0)
    found = diagnostics.cluster_quality(X, empty, diagnostics.sample(X, 0))
    assert found["silhouette"] is None
    assert (found["smallest"], found["largest"], found["occupied"]) == (0, 9, 1.0)
    assert found["entropy_share"] == 1.0
    one = js.Profile(np.ones((9, 1)), np.zeros(9, np.int64), 1.0)
    assert diagnostics.cluster_quality(X, one, diagnostics.sample(X, 0))["entropy_share"] == 0.0


# --- the embedding ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(60, 5), (5, 60)])
def test_the_embedding_audit_against_its_definitions(n, d):
    from scipy.stats import skew

    X = cloud(n, d, shift=0.5)
    found = diagnostics.embedding_audit(X, diagnostics.sample(X, 0))
    S = cosines(X)
    assert found["mean_cosine"] == pytest.approx(S[~np.eye(n, dtype=bool)].mean(), abs=1e-5)
    values = np.linalg.eigvalsh(np.cov(X.T.astype(np.float64)))
    assert found["effective_rank"] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-5)
    assert found["features"] == d
    np.fill_diagonal(S, -2)
    k = min(10, n - 1)
    seen = np.bincount(np.argsort(-S, axis=1, kind="stable")[:, :k].ravel(), minlength=n)
    if k < n - 1:
        assert found["hubness"] == pytest.approx(skew(seen), abs=1e-5)
    else:
        assert found["hubness"] is None  # every row is near every other
    assert found["duplicate_share"] == 0.0


def test_extreme_embeddings():
    one_direction = np.outer(np.arange(1, 21), [1, 2]).astype(np.float32)
    found = diagnostics.embedding_audit(one_direction, diagnostics.sample(one_direction, 0))
    assert found["mean_cosine"] == pytest.approx(1.0)
    assert found["effective_rank"] == pytest.approx(1.0)
    constant = np.ones((20, 3), np.float32)
    found = diagnostics.embedding_audit(constant, diagnostics.sample(constant, 0))
    assert found["effective_rank"] == 0.0
    assert found["duplicate_share"] == 0.95
    isotropic = cloud(3000, 8)
    found = diagnostics.embedding_audit(isotropic, diagnostics.sample(isotropic, 0))
    assert abs(found["mean_cosine"]) < 0.01
    assert found["effective_rank"] == pytest.approx(8, rel=0.02)


def test_a_hub_is_seen():
    """A row near the centre of a high-dimensional cloud is the neighbour of most others."""
    X = cloud(300, 60, shift=1.0)
    usual = diagnostics.embedding_audit(X, diagnostics.sample(X, 0))["hubness"]
    X[7] = 1.0
    hub = diagnostics.embedding_audit(X, diagnostics.sample(X, 0))["hubness"]
    assert hub > usual + 3


# --- a selection ------------------------------------------------------------------------------


def scorer_of(X, items=None, groups=None, ridge=0.5, clusters=4):
    n = len(X)
    items = np.arange(n) % 7 if items is None else items
    groups = np.asarray(items) % 3 if groups is None else groups
    profile = js.profile(X, clusters)
    return diagnostics.Scorer(X, diagnostics.sample(X, 0), profile, items, groups, ridge)


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_a_selection_against_their_definitions(seed):
    X = cloud(seed=seed)
    scorer = scorer_of(X)
    rows = np.random.default_rng(seed).choice(80, 12, replace=False)
    found = scorer.numbers(rows)
    picked = X[rows].astype(np.float64)
    A = 0.5 * np.eye(6) + picked.T @ picked
    expected = np.linalg.slogdet(A)[1] - 6 * math.log(0.5)
    assert found["log_det"] == pytest.approx(expected, abs=1e-5)
    S = cosines(X)
    assert found["coverage"] == pytest.approx(S[:, rows].max(axis=1).clip(0).mean(), abs=1e-5)
    assert found["radius"] == pytest.approx(1 - S[:, rows].max(axis=1).min(), abs=1e-5)
    outlying = scorer.drawn.reach > scorer.drawn.border
    assert found["outlier_share"] == pytest.approx(outlying[rows].mean(), abs=1e-6)
    counts = np.bincount(rows % 7, minlength=7)
    assert found["distinct_items"] == (counts > 0).sum()
    assert found["most_per_item"] == counts.max()
    assert found["groups"] == len({row % 7 % 3 for row in rows})
    share = counts[counts > 0] / 12
    entropy = -(share * np.log(share)).sum()
    assert found["item_entropy"] == pytest.approx(entropy / math.log(7), abs=1e-5)
    gini = np.abs(counts[:, None] - counts[None]).sum() / (2 * 7 * counts.sum())
    assert found["item_gini"] == pytest.approx(gini, abs=1e-5)
    p = scorer.profile.p
    expected = js.divergence(p[rows].mean(axis=0), p.mean(axis=0))
    assert found["js_to_pool"] == pytest.approx(expected, abs=1e-5)


def test_log_det_and_coverage_are_what_fisher_and_facility_gain():
    X = cloud()
    scorer = scorer_of(X)
    fisher = select(X, 20, "fisher", ridge=0.5)
    assert scorer.numbers(fisher.indices)["log_det"] == pytest.approx(fisher.gains.sum(), abs=1e-5)
    facility = select(X, 20, "facility")
    share = facility.gains.sum() / 80
    assert scorer.numbers(facility.indices)["coverage"] == pytest.approx(share, abs=1e-5)


def test_the_whole_pool_leaves_nothing_uncovered():
    X = cloud(60)
    found = scorer_of(X).numbers(np.arange(60))
    assert found["coverage"] == pytest.approx(1.0, abs=1e-5)
    assert found["radius"] == pytest.approx(0.0, abs=1e-5)
    assert found["js_to_pool"] == 0.0
    assert found["outlier_share"] == pytest.approx(0.05, abs=0.02)


def test_far_rows_are_outliers_inside_the_sample_and_out_of_it(monkeypatch):
    X = np.abs(cloud(400, 4, shift=3.0))
    X[[5, 200, 399]] = [[-9, 1, 1, 1], [1, -9, 1, 1], [1, 1, -9, 1]]
    assert scorer_of(X).numbers(np.array([5, 200, 399]))["outlier_share"] == 1.0
    monkeypatch.setattr(diagnostics, "SAMPLE", 100)
    scorer = scorer_of(X)
    outside = np.setdiff1d([5, 200, 399], scorer.drawn.rows)
    assert len(outside)
    assert scorer.numbers(outside)["outlier_share"] == 1.0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 9))
@settings(deadline=None)
def test_the_gini_coefficient_is_the_mean_difference(counts, more):
    values = np.array(counts + [0] * more)
    plain = np.abs(values[:, None] - values[None]).sum() / (2 * len(values) * values.sum())
    assert diagnostics._gini(np.array(counts), len(values)) == pytest.approx(plain, abs=1e-12)


# --- strategies -------------------------------------------------------------------------------

OPTIONS = {"budget": 10, "clusters": 4, "popularity": np.arange(80), "seed": 0}


def test_strategies_are_run_as_the_chosen_one_was():
    X = cloud()
    chosen = select(X, method="js", **OPTIONS)
    found, skipped = diagnostics.strategies(chosen, X, "js", ["random", "facility"], **OPTIONS)
    assert list(found) == ["js", "facility", "random"]
    assert found["js"] is chosen
    assert found["facility"].indices.tolist() == select(X, 10, "facility").indices.tolist()
    assert skipped == {}


def test_what_takes_too_long_is_left_out_with_its_reason(monkeypatch):
    X = cloud()
    monkeypatch.setattr(diagnostics, "FACILITY_ROWS", 79)
    chosen = select(X, method="facility", **OPTIONS)
    compare = ["js", "facility", "fisher", "random", "popularity"]
    found, skipped = diagnostics.strategies(chosen, X, "facility", compare, **OPTIONS)
    assert "facility" in found  # what chose is never left out
    found, skipped = diagnostics.strategies(chosen, X, "js", compare, **OPTIONS)
    assert list(skipped) == ["facility"] and "79 rows" in skipped["facility"]
    monkeypatch.setattr(diagnostics, "COMPARED_STEPS", 799)
    found, skipped = diagnostics.strategies(chosen, X, "js", compare, **OPTIONS)
    assert list(found) == ["js", "random", "popularity"]
    assert list(skipped) == ["fisher", "facility"]


def test_the_random_interval_is_that_of_its_seeds():
    X = cloud()
    scorer = scorer_of(X)
    warm = np.array([3, 50])
    found = diagnostics.random_interval(scorer, warm, 5, budget=10)
    made = [
        scorer.numbers(np.r_[warm, select(X, 10, "random", seed, warm_start=warm).indices])
        for seed in range(6, 26)
    ]
    for name, bounds in found.items():
        expected = np.quantile([one[name] for one in made], [0.025, 0.975])
        assert bounds == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_pool_is_not_read_again_for_every_random_selection(monkeypatch):
    scorer, checked = scorer_of(cloud()), []
    monkeypatch.setattr("seedtalk.selection.check_matrix", lambda X: checked.append(X.size))
    diagnostics.random_interval(scorer, np.array([3]), 5, budget=10)
    assert checked == [80] * 20


def chosen_of(*rows):
    return Selection(np.array(rows), np.linspace(1, 0.1, len(rows)))


def test_overlap_by_hand():
    table = diagnostics.overlap(
        {"a": chosen_of(0, 1, 2, 3), "b": chosen_of(3, 1, 7, 8), "c": chosen_of(0, 1, 2, 3)}
    )
    assert table.columns.tolist() == ["a", "b", "budget", "shared", "jaccard"]
    assert table["budget"].tolist() == [1, 2, 3, 4] * 3
    assert table["shared"].tolist() == [0, 1, 1, 2, 1, 2, 3, 4, 0, 1, 1, 2]
    assert table["jaccard"][3] == pytest.approx(2 / 6)
    assert set(zip(table["a"], table["b"], strict=True)) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_random_selections_overlap_by_chance():
    rng = np.random.default_rng(0)
    found = diagnostics.overlap(
        {str(n): chosen_of(*rng.choice(500, 100, replace=False)) for n in range(12)}
    )
    whole = found[found["budget"] == 100]["jaccard"].mean()
    assert whole == pytest.approx(diagnostics.chance_overlap(100, 500), abs=0.01)


# --- gains ------------------------------------------------------------------------------------


def test_the_reference_is_the_first_gain_of_its_kind():
    gains = np.array([3.0, 0.5, 0.2])
    for method, cold, warm in (
        ("js", 0.5, 3.0),
        ("kcenter", 0.5, 3.0),
        ("fisher", 3.0, 3.0),
        ("facility", 3.0, 3.0),
        ("hybrid", None, None),
        ("random", None, None),
        ("popularity", None, None),
    ):
        assert diagnostics.reference_gain(method, gains) == cold
        assert diagnostics.reference_gain(method, gains, warm=True) == warm
    assert diagnostics.reference_gain("js", gains[:1]) is None
    assert diagnostics.reference_gain("facility", np.zeros(3)) is None


@pytest.mark.parametrize("method", ["js", "fisher", "kcenter", "facility"])
@pytest.mark.parametrize("cut", [1, 2, 7])
def test_going_on_is_held_against_the_same_gain_as_the_whole_selection(method, cut):
    X = cloud()
    whole = select(X, 30, method, clusters=4)
    rest = select(X, 30 - cut, method, clusters=4, warm_start=whole.indices[:cut])
    at = 1 if method in ("js", "kcenter") else 0
    for share in (0.2, 0.5, 0.9):
        expected = diagnostics.stopping(method, whole.gains, share)
        found = diagnostics.stopping(method, rest.gains, share, True, whole.gains[:cut])
        assert found["reference"] == pytest.approx(whole.gains[at], abs=1e-6)
        if expected["budget"] is None:
            assert found["budget"] is None
        else:
            assert found["budget"] == max(0, expected["budget"] - cut)
    name = diagnostics.gain_curves({method: rest}, True, {method: whole.gains[:cut]})
    assert name["share"].to_numpy() == pytest.approx(rest.gains / whole.gains[at], abs=1e-6)


def test_a_diagnosis_holds_the_chosen_strategy_against_its_old_gains():
    X, zeros = cloud(), np.zeros(80)
    warm, options = np.array([3, 50]), {"max_per_item": 0, "min_per_group": 0, "ridge": 1.0}
    profile = js.profile(X, 4)
    chosen = select(X, 10, "fisher", warm_start=warm)
    found = describing.diagnose(
        X,
        chosen,
        profile,
        method="fisher",
        compare=["facility"],
        stop_share=0.1,
        seed=0,
        items=np.arange(80),
        groups=zeros,
        popularity=zeros,
        warm_start=warm,
        before=[100.0, 60.0],
        budget=10,
        clusters=4,
        **options,
    )
    assert found.numbers["stopping"]["reference"] == 100.0
    assert found.numbers["stopping"]["budget"] == 0
    shares = found.gains.set_index("method")["share"]
    assert shares["fisher"].to_numpy() == pytest.approx(chosen.gains / 100, abs=1e-9)
    assert shares["facility"].iloc[0] == 1.0  # nobody knows what it had gained before


def test_a_diagnosis_sums_on_one_thread(monkeypatch):
    from threadpoolctl import threadpool_info, threadpool_limits

    def sample(*_):
        seen = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
        raise InterruptedError(seen)

    X, zeros = cloud(), np.zeros(80)
    monkeypatch.setattr(diagnostics, "sample", sample)
    with threadpool_limits(2), pytest.raises(InterruptedError) as caught:
        describing.diagnose(
            X,
            select(X, 5, "random"),
            js.profile(X, 4),
            method="random",
            compare=[],
            stop_share=0.1,
            seed=0,
            items=np.arange(80),
            groups=zeros,
            popularity=zeros,
            warm_start=np.array([], dtype=np.int64),
            budget=5,
        )
    assert caught.value.args == ({1},)


def test_gains_of_the_trace_may_rise():
    """Why a dip alone does not count: the fall of tr(A^-1 F) is not submodular."""
    X = np.array([[-2, -4, 0], [4, -4, 1], [0, -4, 0], [2, 2, 4], [0, 1, 4]], np.float32)
    gains = select(X, 5, "fisher", criterion="trace", ridge=10.0).gains
    assert gains[1] > 1.01 * gains[0]
    assert (np.diff(select(X, 5, "fisher", ridge=10.0).gains) <= 0).all()


@pytest.mark.parametrize(
    ("method", "gains", "share", "budget"),
    [
        ("fisher", [1, 0.5, 0.1, 0.09, 0.02], 0.1, 3),
        ("fisher", [1, 0.5, 0.1, 0.09, 0.02], 0.5, 2),
        ("fisher", [1, 0.5, 0.4], 0.1, None),
        ("fisher", [1, 0.5, 0.4], 0.0, None),
        ("js", [3, 0.6, 0.05, 0.5, 0.02, 0.01], 0.1, 4),  # a dip alone does not count
        ("js", [3, 0.6], 0.1, None),
        ("random", [0, 0, 0], 0.1, None),
        ("facility", [1], 0.1, None),
    ],
)
def test_stopping_is_where_no_later_pick_gains_the_share(method, gains, share, budget):
    found = diagnostics.stopping(method, np.array(gains, float), share)
    assert found["budget"] == budget
    assert found["share"] == share
    if method == "random":
        assert found["reference"] is None and found["last_share"] is None


def test_gain_curves_are_shares_of_the_reference():
    curves = diagnostics.gain_curves(
        {
            "js": Selection(np.arange(3), np.array([3.0, 0.5, 0.25])),
            "random": Selection(np.arange(3), np.zeros(3)),
        }
    )
    assert curves["method"].tolist() == ["js"] * 3 + ["random"] * 3
    assert curves["rank"].tolist() == [0, 1, 2] * 2
    assert curves["share"][:3].tolist() == [6.0, 1.0, 0.5]
    assert curves["share"][3:].isna().all()
    assert isinstance(curves, pd.DataFrame)


def test_a_sweep_is_one_selection_cut_short():
    X = cloud()
    scorer, warm = scorer_of(X), np.array([70])
    chosen = select(X, 40, "fisher", warm_start=warm)
    found = diagnostics.sweep(scorer, warm, chosen)
    assert [one["budget"] for one in found] == [4, 10, 20, 30, 40]
    for one in found:
        part = select(X, one["budget"], "fisher", warm_start=warm)
        assert one["gain"] == pytest.approx(part.gains.sum(), abs=1e-5)
        numbers = scorer.numbers(np.r_[warm, part.indices])
        assert {name: one[name] for name in numbers} == numbers
    assert diagnostics.budgets(1) == [1]
    assert diagnostics.budgets(3) == [1, 2, 3]


def test_group_counts():
    groups = np.array(["b", "a", "b", "c"])
    assert diagnostics.group_counts(groups, np.array([0, 1, 2])) == {
        "a": {"pool": 1, "picks": 1},
        "b": {"pool": 2, "picks": 2},
        "c": {"pool": 1, "picks": 0},
    }

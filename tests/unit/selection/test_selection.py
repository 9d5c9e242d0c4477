"""What holds for every strategy: prefix, quota, ties, errors, pinned picks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.params import Select
from seedtalk.selection import METHODS, describing, js, select
from seedtalk.selection.pool import Pool, contenders

EACH = pytest.mark.parametrize("method", METHODS)


def pool(n=60, d=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    items = np.array([f"i{v}" for v in rng.integers(0, 12, n)])
    counts = rng.integers(1, 40, 12)
    return X, items, counts[np.unique(items, return_inverse=True)[1]]


def run(X, budget, method, items=None, popularity=None, **options):
    return select(
        X, budget, method, items=items, popularity=popularity, **({"clusters": 5} | options)
    )


def test_the_methods_are_those_of_the_params():
    assert set(METHODS) == set(Select.model_fields["method"].annotation.__args__)


@EACH
@pytest.mark.parametrize("quota", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_smaller_budget_is_a_prefix(method, quota, seed):
    X, items, popularity = pool(seed=seed)
    whole = run(X, 30, method, items, popularity, max_per_item=quota, seed=seed)
    for budget in (1, 2, 13):
        part = run(X, budget, method, items, popularity, max_per_item=quota, seed=seed)
        assert part.indices.tolist() == whole.indices[:budget].tolist()
        assert part.gains == pytest.approx(whole.gains[:budget])


@EACH
def test_selection_is_a_set_of_rows_in_the_promised_types_and_repeats_itself(method):
    X, items, popularity = pool()
    chosen = run(X, 60, method, items, popularity)
    assert sorted(chosen.indices.tolist()) == list(range(60))
    assert chosen.indices.dtype == np.int64
    assert chosen.gains.dtype == np.float64
    again = run(X, 60, method, items, popularity)
    assert (again.indices == chosen.indices).all()
    assert (again.gains == chosen.gains).all()


@EACH
@given(n=st.integers(6, 40), quota=st.integers(1, 4), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_quota_holds_and_every_budget_it_allows_is_met(method, n, quota, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    X = rng.integers(-2, 3, size=(n, 2)).astype(np.float32)  # copies, zeros and ties abound
    items = rng.integers(0, 5, n)
    most = int(np.minimum(np.bincount(items), quota).sum())
    settings_ = {"max_per_item": quota, "clusters": 3}
    chosen = run(X, most, method, items, rng.integers(0, 3, n), **settings_)
    assert len(set(chosen.indices.tolist())) == most
    assert np.bincount(items[chosen.indices]).max() <= quota
    if most < n:
        with pytest.raises(InputError, match=f"max_per_item={quota} leaves {most} of {n}"):
            run(X, most + 1, method, items, rng.integers(0, 3, n), **settings_)


@EACH
def test_warm_rows_stay_out_and_use_up_the_quota(method):
    X, items, popularity = pool()
    warm = np.flatnonzero(items == items[0])[:2]
    chosen = run(X, 10, method, items, popularity, warm_start=warm, max_per_item=2)
    assert not set(warm) & set(chosen.indices)
    assert items[0] not in items[chosen.indices]


@EACH
def test_a_memory_map_gives_the_same_picks(method, tmp_path):
    X, items, popularity = pool()
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one, other = (run(rows, 20, method, items, popularity) for rows in (X, mapped))
    assert (one.indices == other.indices).all()


PINNED = {  # js and fisher as the references of test_js.py and test_fisher.py pick, too
    "js": [10, 0, 21, 20, 3, 23, 1, 44, 46, 43],
    "fisher": [20, 3, 22, 9, 43, 5, 26, 45, 32, 1],
    "hybrid": [10, 20, 22, 3, 1, 21, 43, 26, 4, 44],
    "random": [16, 27, 20, 8, 42, 34, 51, 4, 52, 57],
    "popularity": [2, 9, 16, 23, 4, 11, 18, 25, 6, 13],
}


@EACH
def test_pinned_picks(method):
    n = 60
    X = np.array([[(7 * i * (j + 3) + i * i) % 23 for j in range(5)] for i in range(n)], np.float32)
    items = np.arange(n) % 7
    chosen = run(X / 23, 10, method, items, (items * 5) % 11, max_per_item=4, temperature=0.2)
    assert chosen.indices.tolist() == PINNED[method]


def test_random_is_a_seeded_permutation():
    X, _, _ = pool()
    order = np.random.default_rng(7).permutation(60)
    assert run(X, 60, "random", seed=7).indices.tolist() == order.tolist()
    assert run(X, 60, "random", seed=8).indices.tolist() != order.tolist()


def test_popularity_goes_by_count_then_row():
    counts = [3, 9, 3, 9, 1]
    chosen = run(np.ones((5, 2), np.float32), 5, "popularity", popularity=counts)
    assert chosen.indices.tolist() == [1, 3, 0, 2, 4]
    assert chosen.gains.tolist() == [9, 9, 3, 3, 1]
    with pytest.raises(InputError, match="popularity"):
        run(np.ones((5, 2), np.float32), 5, "popularity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 61}, r"select\.budget: 61 seeds are over the pool of 60 reviews.*min_rating"),
        ({"budget": 59, "warm_start": [0, 1]}, r"59 seeds are over the pool of 58"),
        ({"budget": 0}, r"select\.budget: must be at least 1, got 0"),
        ({"clusters": 61}, r"select\.clusters: 61 clusters are over the 60 reviews"),
        ({"clusters": 61, "method": "hybrid"}, r"61 clusters"),
        ({"clusters": 0}, r"select\.clusters: must be at least 1"),
        ({"ridge": 0.0}, r"select\.ridge: must be above 0"),
        ({"entropy_weight": -1.0}, r"select\.entropy_weight"),
        ({"entropy_weight": float("nan")}, r"select\.entropy_weight"),
        ({"temperature": float("inf")}, r"select\.temperature"),
        ({"hybrid_weight": 1.5}, r"select\.hybrid_weight: must be from 0 to 1"),
        ({"max_per_item": -1}, r"select\.max_per_item"),
        ({"max_per_item": 2, "items": None}, "pass items"),
        ({"method": "best"}, r"select\.method: 'best' is none of js"),
        ({"criterion": "rank"}, r"select\.criterion: 'rank' is none of logdet"),
        ({"items": ["a"]}, r"items: expected one value for each of 60 rows, got \(1,\)"),
        ({"warm_start": [60]}, "warm_start"),
        ({"warm_start": [1, 1]}, "warm_start"),
    ],
)
def test_bad_input_names_what_is_wrong(change, message):
    X, items, popularity = pool()
    settings_ = {"budget": 10, "method": "js", "items": items, "popularity": popularity} | change
    with pytest.raises(InputError, match=message) as caught:
        run(X, **settings_)
    assert caught.value.exit_code == 2


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(method, bad):
    X, items, popularity = pool()
    X[41, 2] = bad
    with pytest.raises(InputError, match="X, row 42: holds NaN or infinity"):
        run(X, 5, method, items, popularity)


def test_x_must_be_a_table():
    with pytest.raises(InputError, match="1 dimension"):
        select(np.ones(4, np.float32), 2, "random")


def test_a_profile_of_other_rows_is_refused():
    X, _, _ = pool()
    with pytest.raises(InputError, match="profile: made of 30 rows, but X has 60"):
        select(X, 5, "js", clusters=5, profile=js.profile(X[:30], 5))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200), st.integers(0, 5))
def test_the_lazy_search_finds_every_row_near_the_best(values, slack):
    exact = np.array(values, float)
    upper = exact + np.random.default_rng(0).random(len(exact)) * 3
    rows, found = contenders(upper, lambda at: exact[at], float(slack))
    assert sorted(rows.tolist()) == np.flatnonzero(exact >= exact.max() - slack).tolist()
    assert (found == exact[rows]).all()


def test_reachable_counts_what_quota_and_pool_leave():
    rows = Pool(7, np.array(list("aaabbcc")), max_per_item=2, taken=[0, 3])
    assert rows.reachable() == 1 + 1 + 2
    rows.take(1)
    assert rows.open.tolist() == [False, False, False, False, True, True, True]
    assert Pool(7).reachable() == 7


def test_summary_and_curve():
    X, items, _ = pool()
    profile = js.profile(X, 5)
    chosen = select(X, 20, "js", clusters=5, profile=profile)
    numbers = describing.summary(chosen, profile, items)
    assert numbers["pool"] == 60
    assert sum(numbers["picks_per_cluster"]) == 20
    assert sum(numbers["pool_per_cluster"]) == 60
    assert numbers["distinct_items"] == len(set(items[chosen.indices]))
    assert numbers["entropy_share"] == pytest.approx(0.5, abs=1e-6)
    curve = describing.gain_curve(chosen)
    assert curve["cumulative"].iloc[-1] == pytest.approx(chosen.gains.sum())


def test_the_map_shows_a_sample_of_the_pool_and_every_seed(monkeypatch):
    monkeypatch.setattr(describing, "MAP_ROWS", 25)
    X, _, _ = pool()
    ids = np.array([f"r{i:02d}" for i in range(60)])
    profile = js.profile(X, 5)
    chosen = select(X, 20, "js", clusters=5, profile=profile)
    drawn = describing.cluster_map(X, ids, chosen, profile, seed=0)
    seeds = drawn.dropna(subset=["rank"]).sort_values("rank")
    assert seeds["review_id"].tolist() == ids[chosen.indices].tolist()
    assert 25 <= len(drawn) <= 45
    assert drawn["review_id"].is_monotonic_increasing
    again = describing.cluster_map(X, ids, chosen, profile, seed=0)
    assert drawn.equals(again)


def test_the_map_of_the_whole_pool_is_its_principal_components():
    X, _, _ = pool()
    profile = js.profile(X, 5)
    chosen = select(X, 3, "random")
    drawn = describing.cluster_map(X, np.arange(60).astype(str), chosen, profile, 0)
    centred = X - X.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    for column, axis in zip(("x", "y"), axes, strict=False):
        assert np.abs(drawn[column]).to_numpy() == pytest.approx(np.abs(centred @ axis), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (2, 2)])
def test_the_map_of_a_tiny_pool(shape):
    X = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    chosen = select(X, 1, "random")
    drawn = describing.cluster_map(X, np.arange(shape[0]).astype(str), chosen, js.profile(X, 1), 0)
    assert np.isfinite(drawn[["x", "y"]].to_numpy()).all()


def test_the_core_reads_no_params_and_no_fixed_path():
    import seedtalk.selection

    for file in Path(seedtalk.selection.__file__).parent.glob("*.py"):
        text = file.read_text()
        assert "load_params" not in text and "artifacts/" not in text

"""What holds for every strategy: prefix, quota, ties, errors, pinned picks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.params import Select
from seedtalk.selection import METHODS, describing, js, select

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
    "kcenter": [10, 0, 20, 4, 3, 2, 18, 22, 15, 6],
    "facility": [10, 16, 14, 21, 6, 20, 5, 3, 22, 2],
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


def adversarial(name):
    """Return rows that tie, repeat, vanish, crowd or span many orders of magnitude."""
    rng = np.random.default_rng(11)
    base = rng.normal(size=(48, 5))
    rows = {
        "copies": base[rng.integers(0, 9, 48)],
        "zeros": base * (rng.random((48, 1)) < 0.5),
        "constant": np.ones((48, 5)),
        "grid": rng.integers(-1, 2, (48, 5)),
        "signs": np.vstack([base[:24], -base[:24]]),
        "one apart": np.nextafter(np.ones((48, 5)), 2 * rng.random((48, 5)), dtype=np.float32),
        "far away": 1000 + 1e-2 * base,
        "spread": base * 10.0 ** rng.integers(-3, 3, (48, 1)),
        "line": np.outer(np.arange(48.0), base[0]),
    }[name]
    return rows.astype(np.float32)


CASES = ("copies", "zeros", "constant", "grid", "signs", "one apart", "far away", "spread", "line")


@EACH
@pytest.mark.parametrize("name", CASES)
def test_going_on_from_a_selection_is_the_larger_selection(method, name):
    X, items = adversarial(name), np.arange(48) % 11
    given_ = {"clusters": 4, "max_per_item": 3, "popularity": items, "items": items, "ridge": 2.0}
    whole = run(X, 24, method, **given_)
    rest = run(X, 17, method, warm_start=whole.indices[:7], **given_)
    assert rest.indices.tolist() == whole.indices[7:].tolist()
    assert rest.gains == pytest.approx(whole.gains[7:], rel=1e-6, abs=1e-9)


@EACH
@pytest.mark.parametrize("name", CASES)
def test_no_pick_depends_on_the_block(method, name):
    X = adversarial(name)
    one, other = (run(X, 30, method, popularity=X[:, 0], block=block) for block in (7, 65536))
    assert one.indices.tolist() == other.indices.tolist()
    assert one.gains.tolist() == other.gains.tolist()


@pytest.mark.parametrize("exponent", [-66, 66])  # about 1e-20 and 1e20
@EACH
def test_the_scale_of_the_rows_changes_no_pick(method, exponent):
    X, _, popularity = pool()
    scale = 2.0**exponent
    large = (X * np.float32(scale)).astype(np.float32)
    one = run(X, 30, method, popularity=popularity, ridge=0.5)
    other = run(large, 30, method, popularity=popularity, ridge=0.5 * scale**2)
    assert one.indices.tolist() == other.indices.tolist()


def test_a_temperature_is_in_the_units_of_the_rows():
    X, _, _ = pool()
    one = js.profile(X, 4, 0.3)
    other = js.profile(X * np.float32(2.0**70), 4, 0.3 * 2.0**70)
    assert (one.p == other.p).all()


def allowed(taken, row, left, items, groups, most, least):
    """Whether the quotas can be met after `row`: the definition, as in test_pool.py."""
    after = {*taken, row}
    if most and sum(items[r] == items[row] for r in after) > most:
        return False
    needs = [max(0, least - sum(groups[r] == g for r in after)) for g in set(groups)]
    return sum(needs) <= left


def js_values(X, taken, rows):
    p = js.profile(X, 3).p
    entropies = js.entropy(p[rows])
    if not taken:
        return entropies
    return js.divergence(p[rows], p[taken].mean(axis=0)) + 0.1 * entropies


def fisher_values(X, taken, rows):
    X = X.astype(np.float64)
    A = np.eye(X.shape[1]) + X[taken].T @ X[taken]
    return np.einsum("ij,ji->i", X[rows], np.linalg.solve(A, X[rows].T))


def trace_values(X, taken, rows):
    X = X.astype(np.float64)
    A = np.eye(X.shape[1]) + X[taken].T @ X[taken]
    solved = np.linalg.solve(A, X[rows].T).T
    fall = np.einsum("ij,jk,ik->i", solved, X.T @ X / len(X), solved)
    return fall / (1 + fisher_values(X, taken, rows))


def kcenter_values(X, taken, rows):
    X = X.astype(np.float64)
    if not taken:
        return -((X[rows] - X.mean(axis=0)) ** 2).sum(axis=1)
    return ((X[rows][:, None] - X[taken][None]) ** 2).sum(axis=2).min(axis=1)


def facility_values(X, taken, rows):
    unit = X / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    similar = np.maximum(unit @ unit.T, 0)
    covered = similar[:, taken].max(axis=1, initial=0)
    return np.maximum(similar[:, rows] - covered[:, None], 0).sum(axis=0)


def hybrid_values(X, taken, rows):
    def ranks(values):
        return (values[None] < values[:, None] - 1e-11).sum(axis=1) / max(len(values) - 1, 1)

    return (ranks(js_values(X, taken, rows)) + ranks(fisher_values(X, taken, rows))) / 2


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("js", js_values),
        ("fisher", fisher_values),
        ("trace", trace_values),
        ("kcenter", kcenter_values),
        ("facility", facility_values),
        ("hybrid", hybrid_values),
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_all_quotas_together_pick_what_the_definition_picks(method, values, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 4)).astype(np.float32)
    if seed % 2:
        X = X[rng.integers(0, 12, 40)]
    items = rng.integers(0, 14, 40)
    groups = np.array(["drama", "horror", "western"])[(items > 8).astype(int) + (items > 11)]
    warm, most, least, budget = [4, 9][: seed % 3], 2, 3, 9 + seed
    chosen = run(
        X,
        budget,
        "fisher" if method == "trace" else method,
        items,
        clusters=3,
        criterion="trace" if method == "trace" else "logdet",
        warm_start=warm,
        max_per_item=most,
        groups=groups,
        min_per_group=least,
    )
    taken = list(warm)
    for pick in range(budget):
        open_rows = [
            row
            for row in range(40)
            if row not in taken
            and allowed(taken, row, budget - pick - 1, items, groups, most, least)
        ]
        found = values(X, taken, open_rows)
        taken.append(open_rows[int(np.flatnonzero(found >= found.max() - 1e-11)[0])])
    assert chosen.indices.tolist() == taken[len(warm) :]
    assert min(np.unique(groups[taken], return_counts=True)[1]) >= least


@EACH
def test_every_method_keeps_places_for_groups(method):
    X, items, popularity = pool()
    groups = np.where(items == items[0], "rare", "common")
    chosen = run(X, 8, method, items, popularity, groups=groups, min_per_group=3)
    assert (groups[chosen.indices] == "rare").sum() >= 3
    free = run(X, 8, method, items, popularity)
    if (groups[free.indices] == "rare").sum() >= 3:
        assert free.indices.tolist() == chosen.indices.tolist()


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
        ({"min_per_group": -1}, r"select\.min_per_group: must be at least 0"),
        ({"min_per_group": 2}, "pass groups"),
        ({"min_per_group": 2, "groups": ["a"]}, r"groups: expected one value for each of 60 rows"),
        ({"min_per_group": 9, "groups": ["a"] * 30 + ["b"] * 30, "items": None}, "lack 18 seeds"),
        ({"min_per_group": 1, "groups": ["a"] * 30 + ["b"] * 30}, "one group"),
        ({"block": 0}, r"select\.block: must be at least 1"),
        ({"device": "tpu"}, "device: 'tpu' is none of cpu, cuda"),
        ({"method": "best"}, r"select\.method: 'best' is none of js"),
        ({"criterion": "rank"}, r"select\.criterion: 'rank' is none of logdet"),
        ({"items": ["a"]}, r"items: expected one value for each of 60 rows, got \(1,\)"),
        ({"budget": 3.0}, r"select\.budget: must be a whole number, got 3\.0"),
        ({"clusters": 5.0}, r"select\.clusters: must be a whole number, got 5\.0"),
        ({"seed": -1, "method": "random"}, r"select\.seed: must be at least 0, got -1"),
        ({"warm_start": [60]}, r"warm_start: row 60 is not from 0 to 59"),
        ({"warm_start": [-1]}, r"warm_start: row -1 is not from 0 to 59"),
        ({"warm_start": [4, 1, 7, 1]}, r"warm_start: row 1 is named twice; drop one"),
        ({"warm_start": 3}, r"warm_start: expected a list of whole row numbers, got 3"),
        ({"warm_start": [1.7]}, r"warm_start: expected a list of whole row numbers, got \[1\.7\]"),
        ({"items": ["a", None] * 30}, r"items: row 1 has none \(None\); give every row one"),
        ({"items": [1.0, np.nan] * 30}, r"items: row 1 has none \(nan\)"),
        ({"items": np.array(["a", 1] * 30, object)}, r"items: .* several types \(int, str\)"),
        (
            {"groups": [None] * 60, "min_per_group": 1, "items": None},
            r"groups: row 0 has none \(None\)",
        ),
        (
            {"method": "popularity", "popularity": [1.0] * 59 + [np.nan]},
            "popularity: row 59 is NaN; set it to 0",
        ),
        ({"method": "popularity", "popularity": ["many"] * 60}, "popularity: expected numbers"),
        *[
            ({"method": method, "device": "tpu"}, "device: 'tpu' is none of cpu, cuda")
            for method in METHODS
        ],
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


@EACH
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]] * 60, r"X: expected a NumPy array, got list; pass np\.asarray"),
        (np.arange(120).reshape(60, 2), r"X: expected float32 or float64, got int64; convert"),
        (np.zeros((60, 2), complex), r"X: expected float32 or float64, got complex128"),
        (np.zeros((60, 0), np.float32), r"X: rows of no numbers; give every row one or more"),
    ],
)
def test_rows_of_another_kind_are_refused(method, rows, message):
    with pytest.raises(InputError, match=message):
        run(rows, 5, method, np.arange(60), np.arange(60))


@pytest.mark.parametrize("method", ["js", "hybrid"])
def test_a_profile_of_another_number_of_clusters_is_refused(method):
    X, _, _ = pool()
    with pytest.raises(InputError, match="profile: made with 4 clusters, but clusters=5"):
        select(X, 5, method, clusters=5, profile=js.profile(X, 4))


@pytest.mark.parametrize("exponent", [-664, 664])  # about 1e-200 and 1e200
@pytest.mark.parametrize("method", ["js", "kcenter", "facility"])
def test_rows_that_float64_cannot_square_are_scaled(method, exponent):
    X = pool()[0].astype(np.float64)
    one, other = run(X, 30, method), run(X * 2.0**exponent, 30, method)
    assert one.indices.tolist() == other.indices.tolist()
    unit = 2.0**exponent if method == "kcenter" else 1.0
    assert other.gains / unit == pytest.approx(one.gains, rel=1e-12)


def plain_js(X, clusters, budget):
    p = js.profile(X, clusters).p
    taken = []
    for _ in range(budget):
        rows = [row for row in range(len(X)) if row not in taken]
        found = js.entropy(p[rows])
        if taken:
            found = js.divergence(p[rows], p[taken].mean(axis=0)) + 0.1 * found
        taken.append(rows[int(np.flatnonzero(found >= found.max() - 1e-11)[0])])
    return taken


@pytest.mark.parametrize("name", ["normal", "copies", "constant", "grid"])
def test_as_many_clusters_as_rows(name):
    X = pool(24)[0] if name == "normal" else adversarial(name)[:24]
    assert run(X, 24, "js", clusters=24).indices.tolist() == plain_js(X, 24, 24)
    assert sorted(run(X, 24, "hybrid", clusters=24).indices.tolist()) == list(range(24))


@EACH
def test_sums_are_taken_on_one_thread(method, monkeypatch):
    from threadpoolctl import threadpool_info, threadpool_limits

    from seedtalk.selection import baselines, facility, fisher, hybrid, kcenter

    seen = []

    def spy(*_, **__):
        seen.append({one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"})
        return np.arange(5), np.zeros(5)

    for module in (facility, fisher, hybrid, js, kcenter):
        monkeypatch.setattr(module, "greedy", spy)
    monkeypatch.setattr(baselines, "random", spy)
    monkeypatch.setattr(baselines, "popularity", spy)
    X, items, popularity = pool()
    with threadpool_limits(2):
        run(X, 5, method, items, popularity)
    assert seen == [{1}]


def test_a_profile_of_other_rows_is_refused():
    X, _, _ = pool()
    with pytest.raises(InputError, match="profile: made of 30 rows, but X has 60"):
        select(X, 5, "js", clusters=5, profile=js.profile(X[:30], 5))


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

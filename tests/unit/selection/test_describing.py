"""What is said about a selection: every warning where its numbers call for it, and only there."""

import json

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from seedtalk.selection import Selection, describing, diagnostics, js, select

BUDGET = 12


def pool(n=90, d=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    items = np.array([f"i{v:02d}" for v in rng.integers(0, 15, n)])
    groups = np.array([f"g{int(name[1:]) % 3}" for name in items])
    _, codes, counts = np.unique(items, return_inverse=True, return_counts=True)
    return X, items, groups, counts[codes]


def diagnose(X, items, groups, popularity, method="fisher", warm=(), compare=("random",), **change):
    profile = js.profile(X, 4)
    given = {"budget": BUDGET, "clusters": 4, "items": items, "groups": groups, "seed": 0}
    given |= {"popularity": popularity, "warm_start": np.array(warm, np.int64), "ridge": 1.0}
    given |= {"max_per_item": 0, "min_per_group": 0} | change
    chosen = select(X, method=method, profile=profile, **given)
    return chosen, describing.diagnose(
        X, chosen, profile, method=method, compare=compare, stop_share=0.3, **given
    )


def test_a_diagnosis_holds_everything_and_is_json():
    X, items, groups, popularity = pool()
    chosen, found = diagnose(X, items, groups, popularity, compare=("js", "random"))
    json.dumps(found.numbers, allow_nan=False)
    assert list(found.numbers) == [
        "diagnostics",
        "stopping",
        "sweep",
        "strategies",
        "random_interval",
        "skipped",
        "groups",
    ]
    assert list(found.numbers["diagnostics"]) == [
        "clusters",
        "embedding",
        "sample",
        "chance_overlap",
        "warnings",
    ]
    assert found.numbers["diagnostics"]["sample"] == 90
    assert list(found.numbers["strategies"]) == ["js", "fisher", "random"]
    counted = {name: int((groups[chosen.indices] == name).sum()) for name in ("g0", "g1", "g2")}
    assert {name: one["picks"] for name, one in found.numbers["groups"].items()} == counted
    assert set(found.gains["method"]) == {"js", "fisher", "random"}
    assert len(found.overlap) == 3 * len(diagnostics.budgets(BUDGET))
    expected = diagnostics.stopping("fisher", chosen.gains, 0.3)
    assert found.numbers["stopping"] == expected


def test_seeds_before_are_measured_along_and_shared_by_all():
    X, items, groups, popularity = pool()
    warm = (3, 8, 40)
    chosen, found = diagnose(X, items, groups, popularity, warm=warm)
    rows = np.r_[warm, chosen.indices]
    numbers = found.numbers
    assert numbers["strategies"]["fisher"]["distinct_items"] == len(set(items[rows]))
    assert sum(one["picks"] for one in numbers["groups"].values()) == 3 + BUDGET
    other = select(X, BUDGET, "random", items=items, warm_start=warm)
    rows = np.r_[warm, other.indices]
    assert numbers["strategies"]["random"]["distinct_items"] == len(set(items[rows]))


def test_quotas_bind_the_strategies_beside():
    X, items, groups, popularity = pool()
    _, found = diagnose(
        X, items, groups, popularity, compare=("popularity", "kcenter"), max_per_item=1
    )
    assert all(one["most_per_item"] == 1 for one in found.numbers["strategies"].values())
    assert found.numbers["random_interval"]["most_per_item"] == [1.0, 1.0]


def test_threads_change_nothing():
    X, items, groups, popularity = pool(200, 20)
    results = []
    for cores in (1, 2):
        with threadpool_limits(cores):
            results.append(diagnose(X, items, groups, popularity)[1])
    assert results[0].numbers == results[1].numbers
    assert results[0].overlap.equals(results[1].overlap)


# --- warnings ---------------------------------------------------------------------------------

NUMBERS = {"coverage": 0.8, "log_det": 50.0, "distinct_items": 40, "outlier_share": 0.05}
CHANCE = {"coverage": [0.6, 0.7], "log_det": [30.0, 40.0], "distinct_items": [20.0, 30.0]}
PROFILE = js.Profile(np.full((1000, 8), 0.125), np.zeros(1000, np.int64), 1.0)


def said(
    clusters=(), embedding=(), own=(), chance_overlap=0.05, groups=(), shared=(), k=8, by="js"
):
    numbers = {
        "diagnostics": {
            "clusters": {
                "silhouette": 0.2,
                "smallest": 80,
                "largest": 200,
                "entropy_share": 0.5,
                "one_hot_share": 0.1,
            }
            | dict(clusters),
            "embedding": {
                "mean_cosine": 0.1,
                "effective_rank": 60.0,
                "features": 384,
                "hubness": 1.0,
                "duplicate_share": 0.0,
            }
            | dict(embedding),
            "chance_overlap": chance_overlap,
        },
        "strategies": {by: NUMBERS | dict(own)},
        "random_interval": CHANCE,
        "groups": dict(groups),
    }
    overlap = pd.DataFrame(shared, columns=["a", "b", "budget", "jaccard"])
    profile = js.Profile(PROFILE.p[:, :k], PROFILE.labels, 1.0)
    return describing.warnings(by, 1000, profile, numbers, overlap)


def test_nothing_is_said_where_nothing_is_wrong():
    assert said() == []
    assert said(embedding={"mean_cosine": None, "hubness": None}) == []
    assert said(clusters={"silhouette": None}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"clusters": {"one_hot_share": 0.8, "entropy_share": 0.03}},
            ["one-hot", "80%", "3% of ln K", "select.temperature"],
        ),
        ({"clusters": {"entropy_share": 0.99}}, ["nearly uniform", "99%", "select.temperature"]),
        ({"clusters": {"silhouette": 0.01}}, ["8 clusters", "silhouette 0.01", "select.clusters"]),
        ({"clusters": {"smallest": 2}}, ["smallest of 8 clusters has 2 of 1000"]),
        ({"embedding": {"mean_cosine": 0.83}}, ["anisotropic", "0.83", "embed.encoder"]),
        ({"embedding": {"effective_rank": 4.2}}, ["about 4.2 of 384 directions"]),
        ({"embedding": {"hubness": 5.0}}, ["hubs", "skewness 5.0"]),
        ({"embedding": {"duplicate_share": 0.2}}, ["20% of the pool are copies"]),
        ({"own": {"outlier_share": 0.15}}, ["outliers 3.0 times as often", "15%"]),
        (
            {"own": {"coverage": 0.65}},
            ["js is no better than chance in coverage 0.65", "0.6 to 0.7"],
        ),
        ({"own": {"log_det": 20.0}}, ["js is worse than chance in log_det 20", "30 to 40"]),
        ({"chance_overlap": 0.4}, ["1000", "two random selections share 40%", "select.budget"]),
        (
            {"groups": {"Horror": {"pool": 80, "picks": 0}, "War": {"pool": 9, "picks": 0}}},
            ["no seed from Horror (8% of the pool);", "select.min_per_group"],
        ),
        (
            {"shared": [("js", "hybrid", 6, 0.2), ("js", "hybrid", 12, 0.95)]},
            ["js and hybrid pick nearly the same (Jaccard 0.95)"],
        ),
    ],
)
def test_each_warning_shows_its_numbers(change, words):
    told = said(**change)
    assert len(told) == 1
    assert all(word in told[0] for word in words), told


def test_who_is_not_warned():
    assert said(shared=[("fisher", "hybrid", 12, 0.95)]) == []  # none of them chose
    assert said(shared=[("js", "hybrid", 6, 0.95), ("js", "hybrid", 12, 0.2)]) == []
    assert said(own={"coverage": 0.0}, by="random") == []
    assert said(clusters={"one_hot_share": 1.0, "entropy_share": 0.0}, k=1) == []
    assert said(groups={"War": {"pool": 500, "picks": 1}}) == []


def test_a_collapsed_temperature_is_told_of_real_picks():
    X, items, groups, popularity = pool()
    profile = js.profile(X, 4, 1e-3)
    chosen = select(X, BUDGET, "js", clusters=4, profile=profile)
    found = describing.diagnose(
        X,
        chosen,
        profile,
        method="js",
        compare=(),
        stop_share=0.1,
        seed=0,
        items=items,
        groups=groups,
        popularity=popularity,
        warm_start=np.empty(0, np.int64),
        budget=BUDGET,
        max_per_item=0,
        min_per_group=0,
        ridge=1.0,
    )
    assert any("one-hot" in one for one in found.numbers["diagnostics"]["warnings"])


# --- records and curve ------------------------------------------------------------------------


def test_seeds_carry_rank_ids_and_score():
    chosen = Selection(np.array([2, 0]), np.array([1.5, 0.25]))
    made = describing.seeds(chosen, np.array(["a", "b", "c"]), np.array(["i", "j", "k"]))
    assert [tuple(seed.model_dump().values()) for seed in made] == [
        (0, "c", "k", 1.5),
        (1, "a", "i", 0.25),
    ]


def test_the_curve_of_a_warm_start_goes_on_in_rank():
    curve = describing.gain_curve(Selection(np.array([2, 0]), np.array([1.5, 0.25])), 7)
    assert curve["rank"].tolist() == [7, 8]
    assert curve["cumulative"].tolist() == [1.5, 1.75]

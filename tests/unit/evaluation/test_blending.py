import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError, RunError
from seedtalk.evaluation import blending, priors
from seedtalk.evaluation.protocols import Query
from seedtalk.records import SIGNALS, write_table

WIDTH = len(blending.FEATURES)


def query(candidates, targets=None, name="c1", turn=1):
    return Query(name, turn, [], [], targets or candidates[:1], sorted(candidates))


def signals(*columns, count):
    """Return (count, SIGNALS) values, the first columns as given."""
    values = np.zeros((count, len(SIGNALS)), dtype=np.float32)
    for place, column in enumerate(columns):
        values[:, place] = column
    return values


def write_pools(path, *rows):
    frame = pd.DataFrame(
        [("s", "c1", 1, *row) if len(row) == 2 else ("s", *row) for row in rows],
        columns=["system", "conversation_id", "query", "items", "scores"],
    )
    write_table(path, frame, "pools")
    return path


def test_signals_are_read_back_as_they_were_computed(tmp_path):
    posed = [query("ab"), query("cde", name="c0", turn=3)]
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(len(q.candidates), len(SIGNALS))).astype("f4") for q in posed]
    path = tmp_path / "priors.parquet"
    write_table(path, priors.table(posed, values), "priors")
    for told, found in zip(values, blending.read_signals(path, posed), strict=True):
        np.testing.assert_array_equal(told, found)
    with pytest.raises(InputError, match=r"lacks conversation c1, turn 2; .*dvc repro baseline"):
        blending.read_signals(path, [query("ab", turn=2)])
    with pytest.raises(InputError, match="row 2: its candidates are others"):
        blending.read_signals(path, [query("abc")])


@pytest.mark.parametrize("broken", [np.nan, np.inf, None])
def test_a_broken_signal_is_named(tmp_path, broken):
    values = signals(count=2)
    frame = priors.table([query("ab")], [values])
    short = broken is None
    frame["content"] = pd.Series([[1.0] if short else [1.0, broken]])
    write_table(tmp_path / "p.parquet", frame, "priors")
    with pytest.raises(InputError, match="row 1, 'content': not one finite number a candidate"):
        blending.read_signals(tmp_path / "p.parquet", [query("ab")])


def test_what_the_student_did_not_score_has_the_pools_floor(tmp_path):
    path = write_pools(
        tmp_path / "p.parquet", (["b", "elsewhere"], [-1.5, -7.0]), ("c2", 4, [], [])
    )
    told, empty = blending.read_student(path, [query("abc"), query("ab", name="c2", turn=4)])
    np.testing.assert_array_equal(told, [-7, -1.5, -7])
    np.testing.assert_array_equal(empty, [0, 0])
    with pytest.raises(InputError, match="lacks conversation c3, turn 1; .*dvc repro evaluate"):
        blending.read_student(path, [query("ab", name="c3")])


@pytest.mark.parametrize("scores", [[1.0, np.nan], [1.0]])
def test_a_broken_score_is_named(tmp_path, scores):
    path = write_pools(tmp_path / "p.parquet", (["a", "b"], scores))
    with pytest.raises(InputError, match="row 1, 'scores': not one finite number an item"):
        blending.read_student(path, [query("ab")])


def test_ranks_by_the_weighted_sum_and_ties_by_id():
    asked = query("abcd")
    values = blending.joined([signals([0, 1, 2, 0], count=4)], [np.array([1, 0, 0, 1], "f4")])
    assert values[0].shape == (4, WIDTH)
    weights = np.zeros(WIDTH)
    weights[:2] = 3, 1
    assert blending.rank_all([asked], values, weights, None) == [["a", "d", "c", "b"]]
    assert blending.rank_all([asked], values, weights, 2) == [["a", "d"]]
    alone = blending.without_student(weights)
    assert blending.rank_all([asked], values, alone, None) == [["c", "b", "a", "d"]]
    assert weights[0] == 3
    none = blending.joined([signals([0, 1, 2, 0], count=4)], None)
    assert blending.rank_all([asked], none, weights, None) == [["c", "b", "a", "d"]]


def test_a_score_that_is_no_number_ends_the_run():
    values = blending.joined([signals([1e38, 1], count=2)], None)
    with pytest.raises(RunError, match="conversation c1, turn 1 is not a finite number"):
        blending.rank_all([query("ab")], values, np.full(WIDTH, np.nan), None)


def test_weights_stand_in_the_order_of_the_features():
    blend = {name: float(place) for place, name in enumerate(reversed(blending.FEATURES))}
    found = blending.weights_of(blend)
    assert found.tolist() == list(range(WIDTH))[::-1]


def random_choices(seed, queries=7, features=3):
    rng = np.random.default_rng(seed)
    posed, values = [], []
    for number in range(queries):
        ids = [f"i{n:02d}" for n in range(rng.integers(2, 9))]
        targets = list(rng.choice(ids, size=rng.integers(1, 3), replace=False))
        posed.append(query(ids, targets, name=f"c{number % 5}", turn=number))
        values.append(rng.normal(size=(len(ids), features)))
    return posed, values, blending.choices(posed, values)


def test_loss_by_hand():
    values = [np.array([[1.0], [3.0]]), np.array([[0.0], [0.0], [2.0]])]
    posed = [query("ab", ["b"]), query("abc", ["a", "c"], name="c2")]
    told = blending.choices(posed, values)
    assert told.starts.tolist() == [0, 2]
    assert told.chosen.tolist() == [1, 2, 4]
    found, _ = blending.loss(np.array([0.5]), told)
    first = 1.5 - math.log(math.exp(0.5) + math.exp(1.5))
    total = math.log(2 + math.e)
    assert found == pytest.approx(-(first + (0 - total) + (1 - total)))


@given(st.integers(0, 10_000), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_gradient_equals_finite_differences(seed, weights):
    _, _, told = random_choices(seed)
    at = np.array(weights)
    _, gradient = blending.loss(at, told)
    for column in range(3):
        step = np.zeros(3)
        step[column] = 1e-5
        rise = blending.loss(at + step, told)[0] - blending.loss(at - step, told)[0]
        assert gradient[column] == pytest.approx(rise / 2e-5, abs=1e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_loss_is_convex_and_blind_to_what_a_query_shares(seed):
    posed, values, told = random_choices(seed)
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, 3))
    middle = blending.loss((one + other) / 2, told)[0]
    assert middle <= (blending.loss(one, told)[0] + blending.loss(other, told)[0]) / 2 + 1e-9
    moved = blending.choices(posed, [v + rng.normal(size=3) * 50 for v in values])
    assert blending.loss(one, moved)[0] == pytest.approx(blending.loss(one, told)[0], abs=1e-6)
    np.testing.assert_allclose(blending.scales(moved), blending.scales(told), rtol=1e-6)


def test_large_scores_do_not_overflow():
    _, _, told = random_choices(1)
    value, gradient = blending.loss(np.array([1e4, -1e4, 0]), told)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_fit_finds_the_weights_that_made_the_choices():
    rng = np.random.default_rng(0)
    truth = np.array([1.5, -0.02, 0.0])
    posed, values = [], []
    for number in range(3000):
        told = rng.normal(size=(12, 3)) * [1, 50, 1]
        score = told @ truth + rng.gumbel(size=12)  # the choice model's own noise
        ids = [f"i{n:02d}" for n in range(12)]
        posed.append(query(ids, [ids[score.argmax()]], name=f"c{number}"))
        values.append(told.astype("f4"))
    told = blending.choices(posed, values)
    found = blending.fit(told, [0, 1, 2], 1.0, blending.scales(told))
    assert (np.abs(found - truth) < [0.1, 0.002, 0.1]).all()
    part = blending.fit(told, [1], 1.0, blending.scales(told))
    assert part[0] == part[2] == 0
    assert part[1] < 0


def test_fit_is_where_the_penalised_gradient_vanishes():
    _, _, told = random_choices(3, queries=40)
    spread = blending.scales(told)
    for l2 in (0.5, 10.0):
        found = blending.fit(told, [0, 1, 2], l2, spread)
        _, gradient = blending.loss(found, told)
        np.testing.assert_allclose(gradient + l2 * found * spread**2, 0, atol=2e-3)
    assert np.abs(found).max() < np.abs(blending.fit(told, [0, 1, 2], 0.5, spread)).max()


def test_a_scale_does_not_change_what_is_fit():
    posed, values, told = random_choices(5, queries=40)
    factor = np.array([1, 1000, 0.01])
    scaled = blending.choices(posed, [v * factor for v in values])
    one = blending.fit(told, [0, 1, 2], 1.0, blending.scales(told))
    other = blending.fit(scaled, [0, 1, 2], 1.0, blending.scales(scaled))
    np.testing.assert_allclose(one, other * factor, rtol=1e-3, atol=1e-4)


def test_a_feature_that_tells_nothing_apart_has_no_weight():
    posed, values, _ = random_choices(2)
    told = blending.choices(posed, [np.column_stack([v, np.full(len(v), 7.3)]) for v in values])
    assert blending.scales(told)[3] == 1.0
    assert abs(blending.fit(told, range(4), 1.0, blending.scales(told))[3]) < 1e-6


def test_folds_keep_conversations_whole_and_are_of_like_size():
    posed = [query("ab", name=f"c{n // 3}", turn=n) for n in range(60)]
    fold = blending.folds(posed, 5)
    assert np.bincount(fold).tolist() == [12] * 5
    for start in range(0, 60, 3):
        assert len(set(fold[start : start + 3])) == 1
    back = blending.folds(posed[::-1], 5)[::-1]
    np.testing.assert_array_equal(fold, back)
    with pytest.raises(InputError, match="3 folds need as many conversations, there are 2"):
        blending.folds(posed[:6], 3)


def test_cross_fitting_never_learns_from_what_it_ranks():
    rng = np.random.default_rng(0)
    ids = [f"i{n:02d}" for n in range(30)]
    posed, values = [], []
    for number in range(40):
        told = rng.normal(size=(30, 4)).astype("f4")
        posed.append(query(ids, [ids[rng.integers(30)]], name=f"c{number}"))
        values.append(told)
    told = blending.choices(posed, values)
    fold = blending.folds(posed, 4)
    found = blending.cross_fitted(posed, values, told, range(4), 1.0, fold, 10)
    assert all(len(ranking) == 10 for ranking in found)
    # Another target of one query leaves the rankings of its own fold as they were.
    other = [*posed]
    other[0] = query(ids, [next(i for i in ids if i != posed[0].targets[0])], name="c0")
    changed = blending.cross_fitted(
        other, values, blending.choices(other, values), range(4), 1.0, fold, 10
    )
    for number in range(40):
        if fold[number] == fold[0]:
            assert changed[number] == found[number]
    assert changed != found


def tuned(**options):
    rng = np.random.default_rng(0)
    ids = [f"i{n:02d}" for n in range(40)]
    posed, values = [], []
    for number in range(150):
        told = rng.normal(size=(40, len(SIGNALS))).astype("f4")
        student = rng.normal(size=40).astype("f4")
        score = 2 * told[:, 0] + student + 0.0 * told[:, 1] + rng.gumbel(size=40)
        posed.append(query(ids, [ids[score.argmax()]], name=f"c{number}"))
        values.append(blending.joined([told], [student])[0])
    names = options.pop("names", ["student", *SIGNALS])
    settings = {"l2": 1.0, "fold_count": 3, "cutoffs": [1, 10], "resamples": 100, "seed": 0}
    cut = options.pop("cut", 150)  # queries of the first benchmark
    sets = {"a": slice(cut), "b": slice(cut, None)}
    return blending.tune(
        {name: posed[rows] for name, rows in sets.items() if posed[rows]},
        {name: values[rows] for name, rows in sets.items() if posed[rows]},
        names,
        **{**settings, **options},
    )


def test_tune_reports_what_it_fits():
    found = tuned()
    assert list(found.weights) == list(blending.FEATURES)
    assert found.weights[SIGNALS[0]] == pytest.approx(2, abs=0.4)
    assert found.weights["student"] == pytest.approx(1, abs=0.3)
    assert abs(found.weights[SIGNALS[1]]) < 0.3
    assert list(found.recalls["a"]) == ["student", *SIGNALS, "signals", "blend"]
    recall = {name: metrics["recall@10"]["mean"] for name, metrics in found.recalls["a"].items()}
    assert recall["blend"] > recall["signals"] > recall[SIGNALS[1]]
    assert recall["blend"] >= recall[SIGNALS[0]]
    assert found.chance == pytest.approx(-math.log(40))
    assert found.likelihood > found.chance


def test_tune_of_some_signals_leaves_the_others_out():
    found = tuned(names=[SIGNALS[0], SIGNALS[2]])
    assert found.weights["student"] == found.weights[SIGNALS[1]] == 0
    assert list(found.recalls["a"]) == [SIGNALS[0], SIGNALS[2], "blend"]
    assert abs(tuned(l2=1e6).weights[SIGNALS[0]]) < 0.01


def test_tune_says_how_far_the_blend_is_ahead_of_each():
    found = tuned()
    recall, leads = found.recalls["a"], found.leads["a"]
    assert list(leads) == ["student", *SIGNALS, "signals"]
    for name, lead in leads.items():
        gap = recall["blend"]["recall@1"]["mean"] - recall[name]["recall@1"]["mean"]
        assert lead["recall@1"]["mean"] == pytest.approx(gap, abs=2e-6)
    assert leads[SIGNALS[1]]["recall@1"]["low"] > 0


def test_tune_on_two_benchmarks_is_one_fit_and_two_measurements():
    one, two = tuned(), tuned(cut=60)
    assert two.weights == pytest.approx(one.weights, rel=1e-3, abs=1e-3)
    assert list(two.recalls) == list(two.leads) == ["a", "b"]
    for name in ("student", SIGNALS[0]):
        both = [two.recalls[each][name]["recall@10"]["mean"] for each in "ab"]
        assert 0.4 * both[0] + 0.6 * both[1] == pytest.approx(
            one.recalls["a"][name]["recall@10"]["mean"], abs=2e-6
        )


def test_two_benchmarks_may_name_their_conversations_alike():
    ids = ["i0", "i1"]
    values = np.zeros((2, WIDTH), dtype=np.float32)
    values[1, blending.FEATURES.index("bm25")] = 1
    posed = [query(ids, ["i1"], name=f"c{n}") for n in range(2)]
    settings = {"l2": 1.0, "fold_count": 4, "cutoffs": [1], "resamples": 100, "seed": 0}
    sets = {"a": posed, "b": posed}
    found = blending.tune(sets, {"a": [values] * 2, "b": [values] * 2}, ["bm25"], **settings)
    assert [found.recalls[each]["blend"]["recall@1"]["mean"] for each in "ab"] == [1, 1]


def test_popularity_breaks_the_ties_of_a_feature_by_itself():
    ids = [f"i{n}" for n in range(5)]
    posed = [query(ids, ["i3"], name=f"c{n}") for n in range(4)]
    values = np.zeros((5, WIDTH), dtype=np.float32)
    values[:, blending.FEATURES.index("popularity")] = [0, 1, 0, 2, 0]
    values[:, blending.FEATURES.index("bm25")] = [0, 1, 0, 1, 0]
    settings = {"l2": 1.0, "fold_count": 2, "cutoffs": [1], "resamples": 100, "seed": 0}
    found = blending.tune({"a": posed}, {"a": [values] * 4}, ["bm25"], **settings)
    assert found.recalls["a"]["bm25"]["recall@1"]["mean"] == 1.0

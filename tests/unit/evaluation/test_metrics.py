import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError, RunError
from seedtalk.evaluation.metrics import (
    metric_names,
    paired_difference,
    per_query_metrics,
    query_metrics,
    rank,
    summarise,
)

CUTOFFS = (1, 2, 5)


def frame(*rows):
    return pd.DataFrame(rows, columns=["system", "conversation_id", "query", "targets", "ranking"])


def test_hand_worked_query():
    found = query_metrics(["a", "b", "c", "d", "e"], ["b", "e"], CUTOFFS)
    assert found["recall@1"] == 0
    assert found["recall@2"] == 0.5
    assert found["recall@5"] == 1
    # b at rank 2, e at rank 5; a perfect ranking has them at 1 and 2.
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg@1"] == 0
    assert found["ndcg@2"] == pytest.approx((1 / math.log2(3)) / ideal)
    assert found["ndcg@5"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(6)) / ideal)
    assert found["mrr"] == 0.5


def test_ndcg_at_1_is_perfect_with_one_of_many_targets_in_front():
    found = query_metrics(["b", "a", "e"], ["e", "b"], [1])
    assert found["ndcg@1"] == 1
    assert found["recall@1"] == 0.5


def test_a_target_that_is_not_ranked_is_missed_everywhere():
    found = query_metrics(["a", "b"], ["x"], CUTOFFS)
    assert set(found.values()) == {0.0}
    assert query_metrics([], ["x"], CUTOFFS) == found


def brute(ranking, targets, k):
    """The definitions, read off the docstring with loops."""
    hits = [1 if item in targets else 0 for item in ranking]
    dcg = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits[:k]))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(targets))))
    first = hits.index(1) + 1 if 1 in hits else math.inf
    return sum(hits[:k]) / len(targets), dcg / ideal, 1 / first


ids = st.lists(st.sampled_from([f"i{n}" for n in range(12)]), unique=True, min_size=1)


@given(ids, ids, st.integers(1, 14))
def test_equals_brute_force(ranking, targets, k):
    found = query_metrics(ranking, targets, [k])
    recall, ndcg, mrr = brute(ranking, targets, k)
    assert found == pytest.approx({f"recall@{k}": recall, f"ndcg@{k}": ndcg, "mrr": mrr})


@given(ids, st.data())
def test_properties(ranking, data):
    targets = data.draw(st.lists(st.sampled_from(ranking), unique=True, min_size=1))
    cutoffs = list(range(1, len(ranking) + 1))
    found = query_metrics(ranking, targets, cutoffs)
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())
    recalls = [found[f"recall@{k}"] for k in cutoffs]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1
    perfect = query_metrics(
        [*targets, *(item for item in ranking if item not in targets)], targets, cutoffs
    )
    assert perfect["mrr"] == 1
    assert all(perfect[f"ndcg@{k}"] == pytest.approx(1) for k in cutoffs)
    assert all(perfect[f"recall@{k}"] == min(k, len(targets)) / len(targets) for k in cutoffs)
    assert all(found[f"recall@{k}"] <= perfect[f"recall@{k}"] for k in cutoffs)


def test_ties_go_to_the_lowest_id():
    assert rank(["c", "a", "b"], np.array([1.0, 1.0, 2.0])) == ["b", "a", "c"]


def test_later_scores_break_ties_of_earlier_ones():
    first, second = np.array([1.0, 1.0, 0.0]), np.array([0.0, 5.0, 9.0])
    assert rank(["a", "b", "c"], first, second) == ["b", "a", "c"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_rank_equals_a_sort(pairs):
    names = [f"i{n:02d}" for n in range(len(pairs))]
    first, second = np.array(pairs, dtype=float).T
    wanted = sorted(names, key=lambda n: (*(-v for v in pairs[names.index(n)]), n))
    assert rank(names, first, second) == wanted
    assert rank(names[::-1], first[::-1], second[::-1]) == wanted


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_score_is_no_ranking(bad):
    with pytest.raises(RunError, match="not a finite number"):
        rank(["a", "b"], np.array([0.0, bad]))


def test_recall_is_over_targets_and_the_rest_over_queries():
    # Query 1: one target, found. Query 2: three targets, none in front.
    predictions = frame(
        ["s", "c1", 1, ["a"], ["a", "b", "c", "d"]],
        ["s", "c2", 1, ["b", "c", "d"], ["a", "b", "c", "d"]],
    )
    found = summarise(per_query_metrics(predictions, [1]), resamples=200, seed=0)["s"]
    assert found["recall@1"]["mean"] == 0.25  # 1 of 4 (query, target) rows
    assert found["ndcg@1"]["mean"] == 0.5
    assert found["mrr"]["mean"] == 0.75
    assert list(found) == metric_names([1])


def test_per_query_keeps_rows_and_order():
    predictions = frame(
        ["s", "c2", 3, ["a"], ["b", "a"]],
        ["t", "c1", 1, np.array(["a", "b"], dtype=object), np.array(["a", "b"], dtype=object)],
    )
    found = per_query_metrics(predictions, [1])
    assert found[["system", "conversation_id", "query"]].values.tolist() == [
        ["s", "c2", 3],
        ["t", "c1", 1],
    ]
    assert found["targets"].tolist() == [1, 2]
    assert found["ranked"].tolist() == [2, 2]
    assert found["recall@1"].tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["s", "c9", 4, [], ["a"]], "c9, turn 4: no targets"),
        (["s", "c9", 4, ["a"], ["a", "b", "a"]], "c9, turn 4: an item is twice in its ranking"),
        (["s", "c9", 4, ["a", "a"], ["a"]], "c9, turn 4: an item is twice in its targets"),
    ],
)
def test_bad_predictions_are_named(row, message):
    with pytest.raises(InputError, match=message):
        per_query_metrics(frame(row), CUTOFFS)


def test_a_query_twice_is_named():
    row = ["s", "c9", 4, ["a"], ["a"]]
    with pytest.raises(InputError, match="c9, turn 4 is there twice"):
        per_query_metrics(frame(row, row), CUTOFFS)


def systems():
    rng = np.random.default_rng(1)
    names = [f"i{n}" for n in range(10)]
    rows = [
        [system, f"c{c:02d}", q, names[: 1 + c % 3], list(rng.permutation(names))]
        for system in ("a", "b")
        for c in range(20)
        for q in (1, 3)
    ]
    found = per_query_metrics(frame(*rows), CUTOFFS)
    return [found[found["system"] == name] for name in ("a", "b")]


def test_paired_difference_is_the_difference_of_the_means():
    a, b = systems()
    options = {"resamples": 300, "seed": 0}
    means = {**summarise(a, **options), **summarise(b, **options)}
    found = paired_difference(a, b.sample(frac=1, random_state=0), **options)
    for metric, difference in found.items():
        wanted = means["a"][metric]["mean"] - means["b"][metric]["mean"]
        assert difference["mean"] == pytest.approx(wanted, abs=2e-6)
        assert difference["low"] <= difference["mean"] <= difference["high"]
    back = paired_difference(b, a, **options)
    for metric in found:
        assert back[metric]["low"] == pytest.approx(-found[metric]["high"], abs=2e-6)


def test_a_system_does_not_differ_from_itself():
    a, _ = systems()
    for interval in paired_difference(a, a, resamples=200, seed=0).values():
        assert interval == {"mean": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("column", ["conversation_id", "query", "targets"])
def test_paired_difference_refuses_other_queries(column):
    a, b = systems()
    changed = b.copy()
    changed[column] = changed[column] + (1 if column != "conversation_id" else "x")
    with pytest.raises(InputError, match="not scored on the same queries"):
        paired_difference(a, changed, resamples=200, seed=0)
    with pytest.raises(InputError, match="not scored on the same queries"):
        paired_difference(a, b.iloc[1:], resamples=200, seed=0)


def test_a_search_may_rank_fewer_than_a_score_of_every_candidate():
    a, b = systems()
    options = {"resamples": 200, "seed": 0}
    fewer = a.assign(ranked=3)
    assert paired_difference(fewer, b, **options) == paired_difference(a, b, **options)


@settings(max_examples=150, deadline=None)
@given(
    st.permutations("abcdefgh"),
    st.integers(0, 8),
    st.sets(st.sampled_from("abcdefghxy"), min_size=1),
)
def test_query_metrics_are_brute_force(order, depth, targets):
    """Short rankings, and targets that are not in them, by the definitions with plain loops."""
    ranking, wanted = list(order[:depth]), sorted(targets)
    found = query_metrics(ranking, wanted, [1, 3, 8])
    for k in (1, 3, 8):
        top = ranking[:k]
        assert found[f"recall@{k}"] == pytest.approx(sum(t in top for t in wanted) / len(wanted))
        gain = sum(1 / math.log2(2 + n) for n, item in enumerate(top) if item in targets)
        best = sum(1 / math.log2(2 + n) for n in range(min(k, len(wanted))))
        assert found[f"ndcg@{k}"] == pytest.approx(gain / best)
    first = [1 / (1 + n) for n, item in enumerate(ranking) if item in targets]
    assert found["mrr"] == pytest.approx(first[0] if first else 0.0)


def test_paired_difference_refuses_other_metrics_and_several_systems():
    a, b = systems()
    with pytest.raises(InputError, match="different metrics"):
        paired_difference(a, b.drop(columns="recall@5"), resamples=200, seed=0)
    with pytest.raises(InputError, match="compares two systems"):
        paired_difference(pd.concat([a, b]), b, resamples=200, seed=0)

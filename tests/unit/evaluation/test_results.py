from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.evaluation import results
from seedtalk.evaluation.protocols import Query, digest
from seedtalk.params import load_params

DEFAULT = load_params(Path(__file__).parents[3] / "params.yaml").evaluate

QUERIES = [
    Query("c1", 1, [], [], ["a"], ["a", "b", "c"]),
    Query("c2", 1, [], [], ["b"], ["a", "b", "c"]),
    Query("c2", 3, [], ["b"], ["a", "c"], ["a", "c", "d"]),
]
RANKINGS = {
    "good": [["a", "b", "c"], ["b", "a", "c"], ["a", "c", "d"]],
    "bad": [["c", "b", "a"], ["c", "a", "b"], ["d", "c", "a"]],
}


def options(candidates):
    return DEFAULT.model_copy(
        update={
            "candidates": candidates,
            "decoding": "beam",
            "cutoffs": (1, 2),
            "bootstrap": 100,
        }
    )


def score(table, posed=QUERIES, candidates=3, reviewed=("a",), how="sum"):
    return results.scores(
        "talk", posed, table, options(candidates), seed=0, score=how, reviewed=reviewed
    )


def test_one_row_for_each_system_and_query():
    found = results.predictions(QUERIES, RANKINGS)
    assert found["system"].tolist() == ["good"] * 3 + ["bad"] * 3
    assert found["query"].tolist() == [1, 1, 3] * 2
    assert found["targets"].tolist() == [["a"], ["b"], ["a", "c"]] * 2
    assert found["ranking"].tolist() == RANKINGS["good"] + RANKINGS["bad"]


def test_a_missing_ranking_is_no_answer():
    with pytest.raises(ValueError, match="shorter"):
        results.predictions(QUERIES, {"short": [["a"]]})


@pytest.mark.parametrize(("candidates", "name"), [(3, "sampled-3"), (0, "strict")])
def test_scores(candidates, name):
    table = results.predictions(QUERIES, RANKINGS)
    found = score(table, candidates=candidates)
    assert found["benchmark"] == "talk"
    assert found["digest"] == digest(QUERIES)
    assert found["protocol"] == {
        "name": name,
        "condition": "recommendation",
        "candidates": candidates,
        "decoding": "beam",
        "score": "sum",
        "queries": 3,
        "conversations": 2,
        "targets": 4,
        "chance": {"recall@1": pytest.approx(1 / 3, abs=1e-6), "recall@2": 0.666667},
        "bootstrap": 100,
    }
    assert found["systems"]["good"]["mrr"] == {"mean": 1, "low": 1, "high": 1}
    assert found["systems"]["good"]["recall@1"]["mean"] == 0.75
    assert found["systems"]["bad"]["recall@1"]["mean"] == 0
    assert found["systems"]["bad"]["mrr"]["mean"] == pytest.approx(
        (1 / 3 + 1 / 3 + 1 / 2) / 3, abs=1e-6
    )
    assert score(table, how=None)["protocol"]["decoding"] is None  # of systems without a student


def test_chance_is_capped_and_weighs_by_targets():
    posed = [Query("c1", 1, [], [], ["a"], ["a"]), Query("c2", 1, [], [], ["a", "b"], list("abcd"))]
    table = results.predictions(posed, {"s": [["a"], list("abcd")]})
    # one target of one candidate, which every order finds, and two of four
    chance = score(table, posed)["protocol"]["chance"]
    assert chance == {"recall@1": 0.5, "recall@2": 0.666667}


def test_slices_are_by_target():
    """c2's second query has a reviewed target and another: each counts where it belongs."""
    table = results.predictions(QUERIES, RANKINGS)
    slices = score(table)["slices"]
    counts = {name: [part[k] for k in ("queries", "conversations", "targets")]
              for name, part in slices.items()}  # fmt: skip
    assert counts == {"with_reviews": [2, 2, 2], "without_reviews": [2, 1, 2]}
    found = slices["with_reviews"]["systems"]
    assert set(found["good"]) == {"recall@1", "recall@2"}
    assert found["good"]["recall@1"]["mean"] == 1.0  # a is first in both
    assert found["bad"]["recall@2"]["mean"] == 0.0
    assert slices["without_reviews"]["systems"] == {}  # one conversation: no interval


@pytest.mark.parametrize(("reviewed", "name"), [((), "with_reviews"), ("abcd", "without_reviews")])
def test_a_slice_may_be_empty(reviewed, name):
    part = score(results.predictions(QUERIES, RANKINGS), reviewed=reviewed)["slices"][name]
    assert part == {"queries": 0, "conversations": 0, "targets": 0, "systems": {}}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from("abcdefgh"), max_size=8))
def test_slices_are_brute_force(seed, reviewed):
    rng = np.random.default_rng(seed)
    posed, rankings = [], []
    for number in range(6):
        items = sorted(rng.permutation(list("abcdefgh"))[:6].tolist())
        targets = rng.permutation(items)[: rng.integers(1, 4)].tolist()
        posed.append(Query(f"c{number % 4}", number, [], [], targets, items))
        # A search ranks fewer than all candidates.
        rankings.append(rng.permutation(items)[: rng.integers(1, 7)].tolist())
    slices = score(results.predictions(posed, {"s": rankings}), posed, reviewed=reviewed)["slices"]
    for name, inside in (("with_reviews", True), ("without_reviews", False)):
        rows = [
            (query.conversation_id, target in ranking[:2])
            for query, ranking in zip(posed, rankings, strict=True)
            for target in query.targets
            if (target in reviewed) == inside
        ]
        assert slices[name]["targets"] == len(rows)
        assert slices[name]["conversations"] == len({name for name, _ in rows})
        if slices[name]["conversations"] > 1:
            mean = slices[name]["systems"]["s"]["recall@2"]["mean"]
            assert mean == pytest.approx(np.mean([hit for _, hit in rows]), abs=1e-6)
        else:
            assert slices[name]["systems"] == {}

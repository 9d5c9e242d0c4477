import pytest

from seedtalk.evaluation import results
from seedtalk.evaluation.protocols import Query, digest
from seedtalk.params import Evaluate

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
    return Evaluate(
        candidates=candidates, score="mean", max_conversations=0, cutoffs=(1, 2), bootstrap=100
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


@pytest.mark.parametrize(("candidates", "name"), [(3, "sampled-3"), (0, "full")])
def test_scores(candidates, name):
    table = results.predictions(QUERIES, RANKINGS)
    found = results.scores("talk", QUERIES, table, options(candidates), seed=0, score="sum")
    assert found["benchmark"] == "talk"
    assert found["digest"] == digest(QUERIES)
    assert found["protocol"] == {
        "name": name,
        "condition": "recommendation",
        "candidates": candidates,
        "score": "sum",
        "queries": 3,
        "conversations": 2,
        "targets": 4,
        "bootstrap": 100,
    }
    assert found["systems"]["good"]["mrr"] == {"mean": 1, "low": 1, "high": 1}
    assert found["systems"]["good"]["recall@1"]["mean"] == 0.75
    assert found["systems"]["bad"]["recall@1"]["mean"] == 0
    assert found["systems"]["bad"]["mrr"]["mean"] == pytest.approx(
        (1 / 3 + 1 / 3 + 1 / 2) / 3, abs=1e-6
    )

import json

import numpy as np
import pytest

from seedtalk.evaluation.protocols import Query
from seedtalk.evaluation.scoring import partial_name, rank_all

QUERIES = [Query(f"c{n}", 1, [], [], ["a"], ["a", "b", "c"]) for n in range(6)]


class Model:
    """Scores a query, counts how often, and dies on demand."""

    def __init__(self, shift=0.0, dies_at=None):
        self.shift, self.dies_at, self.calls = shift, dies_at, []

    def __call__(self, query):
        if query.conversation_id == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(query.conversation_id)
        number = int(query.conversation_id[1:])
        return np.roll([0.1, 0.2, 1 / 3], number) + self.shift


def test_ranks_by_score_and_leaves_nothing(tmp_path):
    partial = tmp_path / "deep" / "p.jsonl"
    found = rank_all(QUERIES[:2], Model(), partial)
    assert found == [["c", "b", "a"], ["a", "c", "b"]]
    assert not partial.exists()


def test_goes_on_where_it_was_killed(tmp_path):
    partial = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rank_all(QUERIES, Model(dies_at="c4"), partial)
    assert len(partial.read_text().splitlines()) == 4
    with partial.open("a") as file:
        file.write('["c4", 1, [0.1, 0.')  # torn
    again = Model()
    assert rank_all(QUERIES, again, partial) == rank_all(QUERIES, Model(), tmp_path / "q")
    assert again.calls == ["c0", "c4", "c5"]  # the first one to see that the model is the same


def test_killed_twice_keeps_the_first_part(tmp_path):
    partial = tmp_path / "p.jsonl"
    for stop in ("c2", "c4"):
        with pytest.raises(KeyboardInterrupt):
            rank_all(QUERIES, Model(dies_at=stop), partial)
    assert [json.loads(line)[0] for line in partial.read_text().splitlines()] == [
        "c0",
        "c1",
        "c2",
        "c3",
    ]


def test_scores_of_another_model_are_not_used(tmp_path):
    partial = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rank_all(QUERIES, Model(shift=np.array([1, 0, 0]), dies_at="c4"), partial)
    again = Model()
    assert rank_all(QUERIES, again, partial) == rank_all(QUERIES, Model(), tmp_path / "q")
    assert set(again.calls) == {q.conversation_id for q in QUERIES}


def test_scores_of_other_candidates_are_not_used(tmp_path):
    partial = tmp_path / "p.jsonl"
    partial.write_text('["c0", 1, [0.5, 0.6]]\n[1]\n"no"\n')
    model = Model()
    rank_all(QUERIES[:1], model, partial)
    assert model.calls == ["c0"]


def test_a_partial_is_of_its_queries_model_and_score(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_text("one")
    names = {
        partial_name(QUERIES, tmp_path, "mean"),
        partial_name(QUERIES, tmp_path, "sum"),
        partial_name(QUERIES[:5], tmp_path, "mean"),
    }
    assert partial_name(QUERIES, tmp_path, "mean") in names
    (tmp_path / "deep" / "weights").write_text("two")
    assert len({*names, partial_name(QUERIES, tmp_path, "mean")}) == 4

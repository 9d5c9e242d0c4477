"""Answers to queries: their kinds, and that a killed run goes on."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError, RunError
from seedtalk.evaluation.protocols import Query
from seedtalk.evaluation.scoring import (
    Answer,
    answer_all,
    listed_answers,
    partial_name,
    pools,
    shortlists,
    student_answers,
)
from seedtalk.records import POOLS, SIGNALS
from seedtalk.students.decoding import Found

QUERIES = [Query(f"c{n}", 1, [], [], ["a"], ["a", "b", "c"]) for n in range(6)]
PARTS = [[1, 0], [4, 2], [3, 5]]


class Model:
    """Answers queries, keeps whom it was asked for, and dies on demand."""

    def __init__(self, dies_at=None):
        self.dies_at, self.calls = dies_at, []

    def __call__(self, posed):
        names = [query.conversation_id for query in posed]
        if self.dies_at in names:
            raise KeyboardInterrupt
        self.calls.append(names)
        return [Answer(["b", "a"], ["b", "a"], [1 / 3, float(name[1:])]) for name in names]


def test_answers_come_in_the_order_of_the_queries_and_leave_nothing(tmp_path):
    partial = tmp_path / "deep" / "p.jsonl"
    found = answer_all(QUERIES, PARTS, Model(), partial)
    assert [answer.scores[1] for answer in found] == [0, 1, 2, 3, 4, 5]
    assert not partial.exists()


def test_goes_on_where_it_was_killed(tmp_path):
    partial = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_all(QUERIES, PARTS, Model(dies_at="c3"), partial)
    assert len(partial.read_text().splitlines()) == 2
    with partial.open("a") as file:
        file.write('[2, [3, 5], [{"rank')  # torn
    again = Model()
    assert answer_all(QUERIES, PARTS, again, partial) == answer_all(
        QUERIES, PARTS, Model(), tmp_path / "q"
    )
    assert again.calls == [["c3", "c5"]]


def test_killed_twice_keeps_the_first_part(tmp_path):
    partial = tmp_path / "p.jsonl"
    for stop in ("c2", "c5"):
        with pytest.raises(KeyboardInterrupt):
            answer_all(QUERIES, PARTS, Model(dies_at=stop), partial)
    assert [json.loads(line)[1] for line in partial.read_text().splitlines()] == PARTS[:2]


def test_lines_of_other_parts_are_not_used(tmp_path):
    partial = tmp_path / "p.jsonl"
    partial.write_text(
        '[0, [0, 1], [{}, {}]]\n[9, [1], []]\n[1]\n"no"\n[1, [4, 2], [{"x": 1}, 2]]\n'
    )
    model = Model()
    answer_all(QUERIES, PARTS, model, partial)
    assert len(model.calls) == 3


def test_a_partial_is_of_its_queries_student_options_and_shortlists():
    options = SimpleNamespace(model_dump_json=lambda exclude: '{"beam": 3}')
    other = SimpleNamespace(model_dump_json=lambda exclude: '{"beam": 4}')
    names = {
        partial_name(QUERIES, "one", options, {}.items()),
        partial_name(QUERIES[:5], "one", options, {}.items()),
        partial_name(QUERIES, "two", options, {}.items()),
        partial_name(QUERIES, "one", other, {}.items()),
        partial_name(QUERIES, "one", options, {("c0", 1): ["a"]}.items()),
    }
    assert len(names) == 5
    assert partial_name(QUERIES, "one", options, {}.items()) in names


def priors(posed):
    rows = [
        {
            "conversation_id": query.conversation_id,
            "query": query.turn,
            "candidates": np.array(query.candidates, dtype=object),
            **{name: np.zeros(len(query.candidates), dtype=np.float32) for name in SIGNALS},
        }
        for query in posed
    ]
    return pd.DataFrame(rows)


def test_a_shortlist_has_the_first_of_each_signal_once():
    table = priors(QUERIES[:2])
    table.at[0, "reviews"] = np.array([0, 1, 2], dtype=np.float32)
    found = shortlists(QUERIES[:2], table, 1)
    assert found == {("c0", 1): ["a", "c"], ("c1", 1): ["a"]}  # equal values: the lowest id
    assert shortlists(QUERIES[:2], table, 0) == {("c0", 1): [], ("c1", 1): []}
    assert shortlists(QUERIES[:1], table, 9)["c0", 1] == ["a", "b", "c"]


def test_priors_of_other_queries_are_refused():
    with pytest.raises(InputError, match="conversation c2, turn 1"):
        shortlists(QUERIES[:3], priors(QUERIES[:2]), 1)
    other = [Query("c0", 1, [], [], ["a"], ["a", "b"])]
    with pytest.raises(InputError, match="dvc repro baseline"):
        shortlists(QUERIES[:1], priors(other), 1)


class Scorer:
    """Titles x, a, b and c; scores and finds what it is told."""

    IDS = ("x", "a", "b", "c")

    def score(self, requests, rows):
        self.rows = rows
        return [np.array([0.5, 0.5, 0.9]) for _ in requests]

    def search(self, requests, depth, *, beam, exclude, also):
        self.asked = depth, beam, exclude, also
        found = Found(np.array([3, 1]), np.array([-1.0, -2.0]), np.array([-1.5, -2.5]))
        return [found for _ in requests]


def test_exact_answers_rank_every_candidate():
    scorer = Scorer()
    answer = student_answers(scorer, Scorer.IDS, SimpleNamespace(decoding="exact"), {})
    assert answer(QUERIES[:1]) == [Answer(["c", "a", "b"], ["a", "b", "c"], [0.5, 0.5, 0.9])]
    assert scorer.rows == [[1, 2, 3]]


def test_a_score_that_is_no_number_is_a_failed_run():
    scorer = SimpleNamespace(score=lambda requests, rows: [np.array([0.5, np.nan, 0.9])])
    answer = student_answers(scorer, Scorer.IDS, SimpleNamespace(decoding="exact"), {})
    with pytest.raises(RunError, match="not a finite number"):
        answer(QUERIES[:1])


def test_a_search_ranks_its_finds_alone_and_pools_the_shortlist():
    scorer = Scorer()
    options = SimpleNamespace(decoding="beam", depth=7, beam=5)
    answer = student_answers(scorer, Scorer.IDS, options, {("c0", 1): ["b", "c"]})
    assert answer(QUERIES[:1]) == [Answer(["c", "a"], ["b", "c", "a"], [-1.5, -1.0, -2.0])]
    assert scorer.asked == (7, 5, [[0]], [[2, 3]])


def test_a_free_list_is_linked_and_counted():
    items = pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "z"],
            "title": ["The Copper Lantern", "Zeppelin", "Harbour of Crows", "Seven Winters"],
            "year": [1987, 2003, 1994, 1956],
        }
    )
    text = (
        "1. Harbour of Crows (1994)\n2. No Such Film\n3. Harbor of Crows\n4. no such film\n"
        "5. Seven Winters\n6. Copper Lantern\n7. Zeppelin"
    )
    lister = SimpleNamespace(count=6, write=lambda requests: [text])
    (answer,) = listed_answers(lister, Catalogue(items))(QUERIES[:1])
    # Seven Winters is no candidate, Zeppelin stands beyond the list's end.
    assert answer == Answer(["c", "a"], ["c", "a"], [-1.0, -2.0], 6, 4, 2)
    silent = SimpleNamespace(count=6, write=lambda requests: ["1. "])
    assert listed_answers(silent, Catalogue(items))(QUERIES[:1]) == [Answer([], [], [])]


def test_pools_have_the_columns_of_their_table():
    table = pools(QUERIES[:1], [Answer(["b"], ["b", "a"], [1.0, 0.5])], "s")
    assert table.columns.tolist() == POOLS.names
    assert table.iloc[0].tolist() == ["s", "c0", 1, ["b", "a"], [1.0, 0.5]]

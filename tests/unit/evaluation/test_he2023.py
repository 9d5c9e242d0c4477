"""The protocol of He et al., rule by rule on records written for it, and on their own where here.

The published records and names lie outside the project (SHARED); without them that test skips.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.evaluation import he2023
from seedtalk.evaluation.answers import (
    Hit,
    Listed,
    by_condition,
    hits,
    read_answers,
    summary,
    titles,
    values,
)

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
FIXTURE = SHARED / "conformance" / "he2023_inspired_gpt35_first100"
SETTINGS = [(filtered, seen) for filtered in (False, True) for seen in (False, True)]


def entry(name, distance=0, title=None):
    return {"movie_name": title or name, "min_edit_distance": distance, "nearest_movie": name}


def record(names, targets, before=(), **more):
    listed = [name if isinstance(name, dict) else entry(name) for name in names]
    return {"rec_list": listed, "gt_list": list(targets), "prev_list": list(before), **more}


def write(path, *records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def score(tmp_path, *records, **options):
    path = write(tmp_path / "answers.jsonl", *records)
    return he2023.score(path, read_answers(path), **options)


# --- conformance


@pytest.mark.skipif(
    not FIXTURE.with_suffix(".jsonl").is_file(),
    reason="the published records are not here (../shared/conformance)",
)
@pytest.mark.parametrize(("filtered", "exclude_seen"), SETTINGS)
@pytest.mark.parametrize("raw", [False, True])
def test_conforms_to_the_published_numbers(filtered, exclude_seen, raw):
    path = FIXTURE.with_suffix(".jsonl")
    answers = read_answers(path)
    if raw:
        entities = SHARED / "data/inspired/he2023_entity2id.json"
        if not entities.is_file():
            pytest.skip("the names are not here (../shared/data)")
        names = he2023.entity_names(entities)
        mapped = he2023.with_names(answers, names)
        for mine, theirs in zip(mapped, answers, strict=True):
            assert [(one.title, one.distance) for one in mine.listed] == [
                (one.title, one.distance) for one in theirs.listed
            ]
        answers = mapped
    found = he2023.score(path, answers, filtered=filtered, exclude_seen=exclude_seen)
    published = json.loads(FIXTURE.with_suffix(".expected.json").read_text())
    wanted = published[f"filtered={filtered},exclude_seen={exclude_seen}"]
    assert list(found) == list(wanted)
    for condition, numbers in wanted.items():
        assert list(found[condition]) == list(numbers)
        for name, value in numbers.items():
            assert found[condition][name] == pytest.approx(value, abs=1e-9), (condition, name)


# --- from text to titles


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. Heat\n2. Up\n3. It", ["Heat", "Up", "It"]),
        (
            "Sure, try these: \n1. Heat \n2) Up\n3、It\n4 - Us\n5. — Her",
            ["Heat", "Up", "It", "Us", "Her"],
        ),
        (
            "1.Heat (1995)\n2.  Blade   Runner (The (Final) Cut) ",
            ["Heat", "Blade Runner (The Cut)"],
        ),
        ("Heat, Up, and It", ["Heat", "Up", "and It"]),  # no "1.": at the commas
        ("Heat\nUp, It", ["Heat", "Up", "It"]),
        ("1. One, Two\n2. Three", ["One, Two", "Three"]),  # commas stay where there is a "1."
        ("1. Heat\n\n2. Up\n", ["Heat", "", "Up", ""]),  # blank lines are entries
        ("I give it 1.5 stars\n1. Heat", ["stars", "Heat"]),  # split once, at the first
        ("1. 12 Angry Men\n2. 12 Angry Men", ["Angry Men", "12 Angry Men"]),  # as the original
        ("", [""]),
    ],
)
def test_titles_of_a_completion(text, found):
    assert titles(text, brackets=False) == found


def test_brackets_may_stay():
    assert titles("1. Heat (1995)\n2. Up", brackets=True) == ["Heat (1995)", "Up"]


# --- from titles to names


def test_names_of_entities(tmp_path):
    entities = {
        "<http://dbpedia.org/resource/Goldfinger_(film)>": 1,
        "<http://dbpedia.org/resource/50/50_(2011_film)>": 2,
        "<http://dbpedia.org/resource/Spider-Man_(2002_film)>": 3,
        "<http://dbpedia.org/resource/Goldfinger>": 4,
    }
    path = tmp_path / "entity2id.json"
    path.write_text(json.dumps(entities))
    assert he2023.entity_names(path) == ["50", "Goldfinger", "Spider Man"]


@pytest.mark.parametrize("content", ["[]", "{}", '"x"'])
def test_entities_that_are_none(tmp_path, content):
    path = tmp_path / "entity2id.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"entity2id.json: expected an object of entities"):
        he2023.entity_names(path)


def test_the_nearest_name_is_by_lower_case():
    names = sorted(["The Heat", "Heat", "Up", "RZA", "Rza"])
    found = he2023.nearest(["HEAT", "The Heatt", "rza", "Rza", "", "uP"], names)
    assert found == [
        Listed("HEAT", "Heat", 0),
        Listed("The Heatt", "The Heat", 1),
        Listed("rza", "RZA", 0),  # of equal forms the first in code points
        Listed("Rza", "Rza", 0),  # but the one as written before
        Listed("", "Up", 2),
        Listed("uP", "Up", 0),
    ]


def test_ties_go_to_the_first_name():
    assert he2023.nearest(["Cat"], sorted(["Rat", "Bat", "Hat"])) == [Listed("Cat", "Bat", 1)]
    assert he2023.nearest(["Cat"], sorted(["Rat", "bat", "Hat"])) == [Listed("Cat", "Hat", 1)]


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
    return row[-1]


WORD = st.text("abAB ", max_size=6)


@settings(max_examples=80, deadline=None)
@given(st.lists(WORD, max_size=6), st.lists(WORD, min_size=1, max_size=12, unique=True))
def test_nearest_is_brute_force(written, names):
    names = sorted(names)
    for title, found in zip(written, he2023.nearest(written, names), strict=True):
        best = min(
            names,
            key=lambda name: (levenshtein(title.lower(), name.lower()), name != title, name),
        )
        assert found == Listed(title, best, levenshtein(title.lower(), best.lower()))


def test_more_titles_than_a_block():
    names = [f"name {n:04d}" for n in range(50)]
    written = [f"namE {n:04d}x" for n in range(he2023._BLOCK + 30)]
    found = he2023.nearest(written, names)
    assert [one.name for one in found[:50]] == names
    assert all(one.distance == 1 for one in found[:50])
    assert [one.title for one in found] == written


def test_entities_map_completions_and_titles_without_one(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"completion": "1. Heet\n2. Up", "gt_list": ["Heat"], "prev_list": []},
        record([entry("Odd", 9, title="heat")], ["Heat"]),
    )
    mapped = he2023.with_names(read_answers(path), ["Heat", "Up"])
    assert mapped[0].listed == [Listed("Heet", "Heat", 1), Listed("Up", "Up", 0)]
    assert mapped[1].listed == [Listed("heat", "Heat", 0)]


# --- from names to rows


def test_a_row_for_each_target_and_its_condition(tmp_path):
    found = score(tmp_path, record(["A", "B", "C"], ["B", "C", "Z"], ["C"]))
    assert {name: one["n"] for name, one in found.items()} == {
        "recommendation": 2,
        "discussion": 1,
        "all": 3,
    }
    assert found["recommendation"]["recall@5_mean"] == 0.5  # B, not Z
    assert found["discussion"]["recall@5_mean"] == 1.0  # C
    assert found["discussion"]["recall@1_mean"] == 0.0
    assert found["all"]["recall@5_mean"] == pytest.approx(2 / 3)


def test_a_target_listed_twice_is_two_rows(tmp_path):
    assert score(tmp_path, record(["A"], ["A", "A"]))["all"]["n"] == 2


def test_ranks_count_from_nought(tmp_path):
    numbers = score(tmp_path, record(["A", "B", "C"], ["A"]), record(["A", "B", "C"], ["C"]))["all"]
    assert numbers["ndcg@5_mean"] == pytest.approx((1 + 1 / math.log2(4)) / 2)
    assert numbers["mrr@5_mean"] == pytest.approx((1 + 1 / 3) / 2)
    assert numbers["mrr@1_mean"] == 0.5


def test_names_are_not_joined_where_they_repeat(tmp_path):
    """A repeated name takes a place of its own, and the first one counts."""
    numbers = score(tmp_path, record(["A", "A", "A", "A", "A", "B", "A"], ["B", "A"]))["all"]
    assert numbers["recall@5_mean"] == 0.5 and numbers["recall@10_mean"] == 1.0
    assert numbers["mrr@10_mean"] == pytest.approx((1 / 6 + 1) / 2)


def test_filtered_keeps_two_edits(tmp_path):
    listed = [entry("A", 3), entry("B", 2), entry("C", 0)]
    plain = score(tmp_path, record(listed, ["A", "B"]))["all"]
    kept = score(tmp_path, record(listed, ["A", "B"]), filtered=True)["all"]
    assert plain["recall@1_mean"] == 0.5 and plain["recall@5_mean"] == 1.0
    assert kept["recall@1_mean"] == 0.5 and kept["recall@5_mean"] == 0.5  # B moved up, A is gone
    assert kept["mrr@5_mean"] == 0.5


def test_excluding_seen_drops_names_but_no_row(tmp_path):
    one = record(["A", "B"], ["A", "B"], ["A"])
    found = score(tmp_path, one, exclude_seen=True)
    assert found["recommendation"]["recall@1_mean"] == 1.0
    assert found["discussion"] == {**found["discussion"], "n": 1, "recall@20_mean": 0.0}


def test_only_twenty_count(tmp_path):
    names = [f"n{place}" for place in range(25)]
    numbers = score(tmp_path, record(names, ["n19", "n20"]))["all"]
    assert numbers["recall@20_mean"] == 0.5 and numbers["recall@10_mean"] == 0.0


def test_error_and_interval_by_hand(tmp_path):
    numbers = score(tmp_path, record(["A"], ["A"]), record(["A"], ["B"]), record(["A"], ["C"]))
    # hits 1, 0, 0: variance 1/3 at n - 1, over n
    assert numbers["all"]["recall@1_se"] == pytest.approx(1 / 3)
    assert numbers["all"]["recall@1_ci"] == pytest.approx(1.96 / 3)


def test_too_few_rows_have_no_error(tmp_path):
    found = score(tmp_path, record(["A"], ["A"]))
    assert (found["all"]["recall@1_mean"], found["all"]["recall@1_se"]) == (1.0, None)
    assert found["discussion"]["n"] == 0
    assert {v for k, v in found["discussion"].items() if k != "n"} == {None}


NAMES = st.sampled_from("ABCDEFGH")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(NAMES, st.integers(0, 4)), max_size=24),
            st.lists(NAMES, max_size=4),
            st.lists(NAMES, max_size=4),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
    st.booleans(),
)
def test_the_whole_count_is_brute_force(tmp_path_factory, turns, filtered, exclude_seen):
    """Against the definition, target by target, with list slices and `index`."""
    path = tmp_path_factory.getbasetemp() / "brute.jsonl"
    records = [
        record([entry(name, distance) for name, distance in listed], targets, before)
        for listed, targets, before in turns
    ]
    found = he2023.score(
        path, read_answers(write(path, *records)), filtered=filtered, exclude_seen=exclude_seen
    )
    rows = {name: [] for name in ("recommendation", "discussion", "all")}
    for listed, targets, before in turns:
        names = [name for name, distance in listed if not filtered or distance <= 2]
        names = [name for name in names if not exclude_seen or name not in before]
        for target in targets:
            row = {}
            for k in (1, 5, 10, 20):
                hit = target in names[:k]
                place = names[:k].index(target) if hit else 0
                row[f"recall@{k}"] = int(hit)
                row[f"ndcg@{k}"] = hit / math.log2(place + 2)
                row[f"mrr@{k}"] = hit / (place + 1)
            rows["discussion" if target in before else "recommendation"].append(row)
            rows["all"].append(row)
    for condition, expected in rows.items():
        assert found[condition]["n"] == len(expected)
        for metric in expected[0] if expected else ():
            column = np.array([row[metric] for row in expected])
            assert found[condition][f"{metric}_mean"] == pytest.approx(column.mean(), abs=1e-12)
            if len(column) > 1:
                error = column.std(ddof=1) / len(column) ** 0.5
                assert found[condition][f"{metric}_se"] == pytest.approx(error, abs=1e-12)
                assert found[condition][f"{metric}_ci"] == pytest.approx(1.96 * error, abs=1e-12)


def test_the_parts_fit_together():
    rows = hits([(["a", "b"], ["b"])], [["x", "a"]])
    assert rows == [Hit(0, False, 1), Hit(0, True, None)]
    assert by_condition(rows)["discussion"] == [rows[1]]
    assert values(rows, [2])["recall@2"] == [1.0, 0.0]
    assert summary({"x": []}) == {"n": 0, "x_mean": None, "x_se": None, "x_ci": None}


# --- faults

GOOD = record(["A"], ["A"])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([], r"row 2: expected an object, got list"),
        ({**GOOD, "rec_list": None}, r"row 2, field 'rec_list': missing, and no completion"),
        ({**GOOD, "rec_list": "A"}, r"row 2, field 'rec_list': expected a list, got str"),
        ({**GOOD, "rec_list": ["A"]}, r"field 'rec_list.0': expected an object, got str"),
        (
            {**GOOD, "rec_list": [entry("A"), {"movie_name": "B"}]},
            r"row 2, field 'rec_list.1.nearest_movie': expected a text, got nothing",
        ),
        (
            record([{**entry("A"), "min_edit_distance": "0"}], []),
            r"'rec_list.0.min_edit_distance': expected a whole number, got str",
        ),
        (
            record([{**entry("A"), "min_edit_distance": -1}], []),
            r"'rec_list.0.min_edit_distance': expected a whole number",
        ),
        (record([{**entry("A"), "min_edit_distance": True}], []), r"whole number, got bool"),
        (
            record([{**entry("A"), "movie_name": 3}], []),
            r"'rec_list.0.movie_name': expected a text",
        ),
        ({**GOOD, "completion": 3}, r"field 'completion': expected a text, got int"),
        ({"rec_list": [], "prev_list": []}, r"row 2, field 'gt_list': missing"),
        ({"rec_list": [], "gt_list": []}, r"row 2, field 'prev_list': missing"),
        ({**GOOD, "gt_list": "A"}, r"'gt_list': expected a list of names, got str"),
        ({**GOOD, "prev_list": ["A", 3]}, r"'prev_list.1': expected a text, got int"),
        ({**GOOD, "conversation_id": []}, r"'conversation_id': expected a text, got list"),
        (
            {**GOOD, "conversation_id": "c1"},
            r"row 1, field 'conversation_id': missing, though row 2",
        ),
    ],
)
def test_faults_are_named(tmp_path, bad, said):
    path = write(tmp_path / "answers.jsonl", GOOD, bad)
    with pytest.raises(InputError, match=said):
        read_answers(path)


def test_an_empty_file_is_no_answer(tmp_path):
    with pytest.raises(InputError, match="no record"):
        read_answers(write(tmp_path / "answers.jsonl"))


def test_a_completion_alone_needs_names(tmp_path):
    with pytest.raises(InputError, match=r"row 1, field 'rec_list': missing; give --entities"):
        score(tmp_path, {"completion": "1. Heat", "gt_list": ["Heat"], "prev_list": []})


def test_neither_pandas_nor_torch_is_needed(tmp_path):
    """A score is answered at once: what takes long to import stays out."""
    path = write(tmp_path / "answers.jsonl", {**GOOD, "completion": "1. A"})
    entities = tmp_path / "entity2id.json"
    entities.write_text('{"<x/A>": 0}')
    program = (
        "import sys; from seedtalk.cli import main\n"
        f"main(['score', {str(path)!r}, '--entities', {str(entities)!r}, '--json'], "
        "standalone_mode=False)\n"
        "slow = {'pandas', 'torch', 'pyarrow', 'scipy', 'sklearn', 'mlflow'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["all"]["recall@1_mean"] == 1.0

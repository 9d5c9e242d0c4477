import math

import numpy as np
import pandas as pd
import pytest

from seedtalk.errors import InputError
from seedtalk.evaluation import baselines
from seedtalk.evaluation.protocols import Query
from seedtalk.records import SIGNALS, Dialogue, Message

CATALOGUE = ["a", "b", "c", "d", "e", "f"]


def turn(role, text, *items):
    return {"role": role, "text": text, "items": list(items)}


def query(candidates, mentioned=(), text="hello", name="c1"):
    context = [turn("seeker", text, *mentioned)]
    return Query(name, 1, context, list(mentioned), [candidates[0]], sorted(candidates))


def told(*, count=6, **columns):
    """Return the signals of one query's candidates, 0 where not given."""
    values = np.zeros((count, len(SIGNALS)), dtype=np.float32)
    for name, column in columns.items():
        values[:, SIGNALS.index(name)] = column
    return values


def test_each_signal_is_a_baseline_and_popularity_breaks_its_ties():
    asked = [query(["a", "b", "c", "d"]), query(["e", "f"], name="c2")]
    signals = [
        told(count=4, popularity=[0, 1, 3, 1], bm25=[2, 1, 2, 1], year=[-4, -1, -2, -3]),
        told(count=2, factors=[-1, -2]),
    ]
    found = baselines.by_signals(asked, signals)
    assert set(baselines.OF_SIGNAL) == set(SIGNALS)
    assert list(found) == [baselines.OF_SIGNAL[name] for name in SIGNALS]
    assert found["popularity"] == [["c", "b", "d", "a"], ["e", "f"]]
    assert found["bm25"][0] == ["c", "a", "b", "d"]
    assert found["newest"][0] == ["b", "c", "d", "a"]
    assert found["item-item"][0] == found["popularity"][0]
    assert found["factors"][1] == ["e", "f"]


def test_chance_is_seeded_and_each_querys_own():
    asked = [query(CATALOGUE, name=f"c{n}") for n in range(400)]
    found = baselines.by_chance(asked, 0)
    assert found == baselines.by_chance(asked, 0)
    assert found[7] == baselines.by_chance(asked[7:8], 0)[0]
    assert found != baselines.by_chance(asked, 1)
    first = pd.Series([ranking[0] for ranking in found]).value_counts()
    assert len(first) == 6
    assert first.min() > 400 / 6 - 35


TITLES = {
    "a": "Heat",
    "b": "Dead Heat",
    "c": "Up",
    "d": "Dr. Strangelove: How I Learned",
    "e": "Heat",
    "f": "...",
}


def copied(text, candidates=CATALOGUE):
    return baselines.by_copying([query(candidates, text=text)], TITLES, 0)[0]


def test_copies_the_title_named_last_first():
    assert copied("Up was fine, then Dr Strangelove; Up to me? dr. strangelove")[0] == "c"
    found = copied("First Up, then Dr. Strangelove: How I Learned.")
    assert found[:2] == ["d", "c"]


def test_a_longer_title_is_not_taken_for_a_shorter_one():
    assert copied("I saw Dead Heat")[0] == "b"
    assert set(copied("I saw Dead Heat, and Heat")[:3]) == {"a", "b", "e"}
    assert copied("I saw Heat, and Dead Heat")[0] == "b"


def test_what_is_not_copied_is_in_random_order():
    asked = query(CATALOGUE, text="nothing is up")
    assert baselines.by_copying([asked], TITLES, 3) == baselines.by_chance([asked], 3)
    found = copied("Up")
    chance = baselines.by_chance([query(CATALOGUE, text="Up")], 0)[0]
    assert found == ["c", *(item for item in chance if item != "c")]


def test_neighbours_by_hand():
    corpus = np.array([[2, 0], [0.6, 0.8], [0, 3], [-1, 0]], dtype=np.float32)
    votes = [["b", "a"], ["c"], ["d"], ["e"]]
    asked = np.array([[5, 0]], dtype=np.float32)
    one = query(CATALOGUE)
    options = {"popularity": [np.array([0, 0, 0, 0, 0, 9])]}
    # Nearest two: cosine 1 gives b 1 and a 1/log2(3) = .63; cosine .6 gives c .6.
    (found,) = baselines.by_neighbours([one], asked, corpus, votes, neighbours=2, **options)
    assert found == ["b", "a", "c", "f", "d", "e"]
    # All four: a cosine of 0 or below gives nothing.
    (found,) = baselines.by_neighbours([one], asked, corpus, votes, neighbours=9, **options)
    assert found == ["b", "a", "c", "f", "d", "e"]
    (found,) = baselines.by_neighbours([one], asked, corpus, votes, neighbours=1, **options)
    assert found == ["b", "a", "f", "c", "d", "e"]


def test_neighbours_add_up_and_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    asked = rng.normal(size=(7, 5)).astype(np.float32)
    corpus = rng.normal(size=(30, 5)).astype(np.float32)
    votes = [list(rng.choice(CATALOGUE, size=2, replace=False)) for _ in range(30)]
    queries = [query(CATALOGUE, name=f"c{n}") for n in range(7)]
    none = [np.zeros(6)] * 7
    found = baselines.by_neighbours(queries, asked, corpus, votes, none, neighbours=5)
    for row, ranking in enumerate(found):
        cosines = [
            float(asked[row] @ c / np.linalg.norm(asked[row]) / np.linalg.norm(c)) for c in corpus
        ]
        scores = dict.fromkeys(CATALOGUE, 0.0)
        for near in sorted(range(30), key=lambda n: -cosines[n])[:5]:
            for place, item in enumerate(votes[near]):
                scores[item] += max(cosines[near], 0) / math.log2(place + 2)
        assert ranking == sorted(CATALOGUE, key=lambda i: (-scores[i], i))
    monkeypatch.setattr(baselines, "_BLOCK", 2)
    assert baselines.by_neighbours(queries, asked, corpus, votes, none, neighbours=5) == found


def test_neighbours_of_a_zero_vector_leave_it_to_popularity():
    one = query(CATALOGUE)
    (found,) = baselines.by_neighbours(
        [one], np.zeros((1, 2)), np.eye(2), [["a"], ["b"]], [np.eye(6)[5]], neighbours=2
    )
    assert found[0] == "f"


def test_no_text_to_search():
    with pytest.raises(InputError, match="no text to search"):
        baselines.by_neighbours(
            [query(CATALOGUE)], np.ones((1, 2)), np.empty((0, 2)), [], [np.ones(6)], neighbours=2
        )


def test_last_words():
    context = [
        turn("seeker", "one"),
        turn("recommender", "two"),
        turn("seeker", "three"),
        turn("seeker", "four"),
        turn("recommender", "five"),
    ]
    asked = Query("c", 5, context, [], ["a"], ["a", "b"])
    assert baselines.last_words(asked) == "three\nfour"


def dialogue(words, *targets):
    messages = [("system", "s"), ("user", words), ("assistant", "1. X"), ("user", "more")]
    return Dialogue(
        dialogue_id=words,
        review_id="r",
        item_id=targets[0],
        style="plain",
        teacher="t",
        messages=[Message(role=role, content=text) for role, text in messages],
        targets=list(targets),
    )


def vectors(texts):
    """Return the counts of two words in each text."""
    return np.array([[t.count("sea"), t.count("war")] for t in texts], dtype=np.float32)


def all_baselines(dialogues, depth=None):
    return baselines.rank_baselines(
        [query(CATALOGUE, text="the sea")],
        pd.DataFrame({"item_id": CATALOGUE, "title": list(TITLES.values())}),
        [told(popularity=[0, 0, 0, 0, 0, 1], reviews=[0, 0, 0, 0.5, 0.9, 0])],
        dialogues,
        vectors,
        neighbours=1,
        seed=0,
        depth=depth,
    )


def test_every_baseline_ranks_every_candidate():
    dialogues = [dialogue("sea, sea", "c", "a"), dialogue("war", "b")]
    found = all_baselines(dialogues)
    assert sorted(found) == sorted(
        ["random", "copy-context", "neighbours-dialogues", *baselines.OF_SIGNAL.values()]
    )
    assert all(sorted(ranking) == CATALOGUE for (ranking,) in found.values())
    assert found["popularity"][0][0] == "f"
    assert found["neighbours-dialogues"][0][:3] == ["c", "a", "f"]
    assert found["neighbours-reviews"][0][:3] == ["e", "d", "f"]
    cut = all_baselines(dialogues, depth=2)
    assert cut == {name: [ranking[:2]] for name, (ranking,) in found.items()}


def test_no_training_dialogues():
    with pytest.raises(InputError, match="no training dialogues"):
        all_baselines([])

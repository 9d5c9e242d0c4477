import math

import numpy as np
import pandas as pd
import pytest

from seedtalk.errors import InputError
from seedtalk.evaluation import baselines
from seedtalk.evaluation.protocols import Query
from seedtalk.records import Dialogue, Message

CATALOGUE = ["a", "b", "c", "d", "e", "f"]


def turn(role, text, *items):
    return {"role": role, "text": text, "items": list(items)}


def query(candidates, mentioned=(), text="hello", name="c1"):
    context = [turn("seeker", text, *mentioned)]
    return Query(name, 1, context, list(mentioned), [candidates[0]], sorted(candidates))


def interactions(*pairs, disliked=()):
    rows = [(u, i, True) for u, i in pairs] + [(u, i, False) for u, i in disliked]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "liked"])


def test_likes_count_users_once_and_likes_only():
    frame = interactions(("u", "a"), ("u", "a"), ("v", "a"), ("v", "b"), disliked=[("w", "b")])
    assert baselines.likes(frame) == {"a": 2, "b": 1}


def test_popularity():
    (found,) = baselines.by_popularity([query(["a", "b", "c", "d"])], {"c": 3, "b": 1})
    assert found == ["c", "b", "a", "d"]


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


def test_item_item_by_hand():
    # a and b share both fans of a; a and c share one of two and one.
    frame = interactions(("u", "a"), ("v", "a"), ("u", "b"), ("v", "b"), ("v", "c"), ("w", "d"))
    asked = query(["b", "c", "d", "e"], mentioned=["a"])
    (found,) = baselines.by_items([asked], frame, CATALOGUE, baselines.likes(frame))
    assert found == ["b", "c", "d", "e"]  # 1, 1/sqrt(2), 0 and liked once, 0


def test_item_item_equals_brute_force():
    rng = np.random.default_rng(0)
    names = [f"i{n:02d}" for n in range(15)]
    matrix = rng.random((40, 15)) < 0.25
    matrix[:, 14] = False  # nobody likes the last one
    frame = interactions(
        *((f"u{u}", names[i]) for u, i in np.argwhere(matrix)), ("u0", "gone"), ("u0", "i00")
    )
    matrix[0, 0] = True
    popularity = baselines.likes(frame)
    asked = [
        query(
            [n for n in names if n not in chosen],
            mentioned=[*chosen, "unknown"],
            name=f"c{k}",
        )
        for k in range(10)
        for chosen in [list(rng.choice(names, size=k % 4, replace=False))]
    ]
    found = baselines.by_items(asked, frame, names, popularity)

    def cosine(i, j):
        x, y = matrix[:, names.index(i)], matrix[:, names.index(j)]
        norm = math.sqrt(x.sum() * y.sum())
        return (x & y).sum() / norm if norm else 0.0

    for one, ranking in zip(asked, found, strict=True):
        scores = {c: sum(cosine(c, m) for m in one.mentioned[:-1]) for c in one.candidates}
        wanted = sorted(
            one.candidates, key=lambda c: (-round(scores[c], 9), -popularity.get(c, 0), c)
        )
        assert ranking == wanted


def test_item_item_without_any_like_is_by_id():
    (found,) = baselines.by_items(
        [query(["b", "a"], mentioned=["c"])], interactions(), CATALOGUE, {}
    )
    assert found == ["a", "b"]


def test_neighbours_by_hand():
    corpus = np.array([[2, 0], [0.6, 0.8], [0, 3], [-1, 0]], dtype=np.float32)
    votes = [["b", "a"], ["c"], ["d"], ["e"]]
    asked = np.array([[5, 0]], dtype=np.float32)
    one = query(CATALOGUE)
    options = {"popularity": {"f": 9}}
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
    found = baselines.by_neighbours(queries, asked, corpus, votes, {}, neighbours=5)
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
    assert baselines.by_neighbours(queries, asked, corpus, votes, {}, neighbours=5) == found


def test_neighbours_of_a_zero_vector_leave_it_to_popularity():
    one = query(CATALOGUE)
    (found,) = baselines.by_neighbours(
        [one], np.zeros((1, 2)), np.eye(2), [["a"], ["b"]], {"f": 1}, neighbours=2
    )
    assert found[0] == "f"


def test_no_text_to_search():
    with pytest.raises(InputError, match="no text to search"):
        baselines.by_neighbours(
            [query(CATALOGUE)], np.ones((1, 2)), np.empty((0, 2)), [], {}, neighbours=2
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


def all_baselines(dialogues):
    return baselines.rank_baselines(
        [query(CATALOGUE, text="the sea")],
        pd.DataFrame({"item_id": CATALOGUE, "title": list(TITLES.values())}),
        interactions(("u", "f")),
        dialogues,
        ["d", "e"],
        vectors(["war", "sea"]),
        vectors,
        neighbours=1,
        seed=0,
    )


def test_every_baseline_ranks_every_candidate():
    found = all_baselines([dialogue("sea, sea", "c", "a"), dialogue("war", "b")])
    assert list(found) == [
        "random",
        "popularity",
        "copy-context",
        "item-item",
        "neighbours-dialogues",
        "neighbours-reviews",
    ]
    assert all(sorted(ranking) == CATALOGUE for (ranking,) in found.values())
    assert found["popularity"][0][0] == "f"
    assert found["neighbours-dialogues"][0][:3] == ["c", "a", "f"]
    assert found["neighbours-reviews"][0][:2] == ["e", "f"]


def test_no_training_dialogues():
    with pytest.raises(InputError, match="no training dialogues"):
        all_baselines([])

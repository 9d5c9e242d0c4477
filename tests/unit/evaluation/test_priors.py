import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.content import content_vectors
from seedtalk.errors import InputError
from seedtalk.evaluation import priors
from seedtalk.evaluation.protocols import Query
from seedtalk.records import PRIORS, SIGNALS, read_table, write_json, write_table
from seedtalk.signals import Blocks, item_texts, review_rows, write_blocks

FILMS = [
    ("a", "Heat", 1995, ["Crime"], "A thief and a detective.\nDirected by Ada Moss."),
    ("b", "Up", 2009, ["Animation"], "A house flies."),
    ("c", "Cold Heat", 1999, ["Crime"], "Another thief.\nDirected by Ada Moss."),
    ("d", "Seven Oaks", None, ["Drama"], ""),
    ("e", "Long Summer", 2018, ["Drama"], "A summer by the sea."),
]
IDS = [film[0] for film in FILMS]
ROW = {item: row for row, item in enumerate(IDS)}


def items():
    frame = pd.DataFrame(FILMS, columns=["item_id", "title", "year", "genres", "description"])
    return frame.assign(year=frame["year"].astype("Int32"))


def interactions(*rows):
    """Rows are (user, item, liked, timestamp or None)."""
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "liked", "timestamp"])
    return frame.assign(timestamp=frame["timestamp"].astype("Int64"))


def reviews(*pairs):
    frame = pd.DataFrame(pairs, columns=["item_id", "text"])
    return frame.assign(review_id=[f"r{n}" for n in range(len(pairs))], user_id=None, rating=None)


def turn(role, text, *named):
    return {"role": role, "text": text, "items": list(named)}


def query(*turns, name="c1", candidates=None):
    named = list(dict.fromkeys(item for t in turns for item in t["items"]))
    rest = [item for item in IDS if item not in named]
    return Query(name, len(turns), list(turns), named, rest[:1], candidates or rest)


def vectors(texts):
    """Return how often two words stand in each text."""
    return np.array([[t.count("thief"), t.count("sea")] for t in texts], dtype=np.float32)


def compute(posed, likes=None, told=None, seed=0):
    likes = interactions() if likes is None else likes
    told = reviews() if told is None else told
    return priors.compute(
        posed,
        items(),
        likes,
        told,
        vectors([priors.seeker_words(q) for q in posed]),
        vectors(item_texts(items())),
        told["item_id"].tolist(),
        vectors(told["text"]).reshape(-1, 2),
        seed=seed,
    )


def of(values, name):
    return values[:, SIGNALS.index(name)]


def test_seeker_words_are_all_of_the_seekers_and_the_last_ones_if_too_many():
    asked = query(turn("seeker", "one"), turn("recommender", "two"), turn("seeker", "three"))
    assert priors.seeker_words(asked) == "one\nthree"
    long = query(turn("seeker", "x" * 900), turn("seeker", "end"))
    assert len(priors.seeker_words(long)) == priors.WORDS
    assert priors.seeker_words(long).endswith("x\nend")


def test_popularity_recency_and_year():
    day = 86_400
    last = 10_000 * day
    likes = interactions(
        ("u", "b", True, last),
        ("u", "b", True, last),  # told twice, liked once
        ("v", "b", True, last - 800 * day),
        ("v", "c", False, last - 700 * day),
        ("w", "d", True, None),
        ("w", "gone", True, last + 9000 * day),  # no item: its time does not count
    )
    asked = query(turn("seeker", "hello"))
    (found,) = compute([asked], likes)
    assert asked.candidates == IDS
    np.testing.assert_allclose(of(found, "popularity"), np.log([1, 3, 1, 2, 1]), atol=1e-5)
    np.testing.assert_allclose(of(found, "recency"), np.log([1, 3, 2, 1, 1]), atol=1e-5)
    # d has the median of 1995, 1999, 2009 and 2018.
    np.testing.assert_allclose(of(found, "year"), -np.log([24, 10, 20, 15, 1]), atol=1e-5)


def test_without_times_or_years_nothing_is_told_apart():
    likes = interactions(("u", "b", True, None))
    (found,) = compute([query(turn("seeker", "hello"))], likes)
    assert not of(found, "recency").any()
    assert not priors.ages(items().assign(year=pd.array([pd.NA] * 5, dtype="Int32"))).any()


def test_item_item_by_hand():
    likes = interactions(
        *((user, item, True, None) for user, item in ["ua", "ub", "va", "vb", "vc", "wd"])
    )
    asked = query(turn("seeker", "hello", "a"))
    (found,) = compute([asked], likes)
    # a and b: 2 of 2 and 2 users; a and c: 1 of 2 and 1; d and e: nobody.
    wanted = np.log(0.01 + np.array([2 / (2 + 5), 1 / (math.sqrt(2) + 5), 0, 0]))
    np.testing.assert_allclose(of(found, "item_item"), wanted, atol=1e-5)


def brute_cosine(matrix, i, j):
    x, y = matrix[:, i], matrix[:, j]
    return (x & y).sum() / (math.sqrt(x.sum() * y.sum()) + priors.SHRINKAGE)


def test_item_item_equals_brute_force():
    rng = np.random.default_rng(0)
    names = [f"i{n:02d}" for n in range(15)]
    row_of = {name: row for row, name in enumerate(names)}
    matrix = rng.random((40, 15)) < 0.25
    matrix[:, 14] = False
    frame = interactions(*((f"u{u:02d}", names[i], True, None) for u, i in np.argwhere(matrix)))
    posed = [
        query(turn("seeker", "x", *rng.choice([*names, "unknown"], size=size, replace=False)))
        for size in (0, 1, 2, 5, 9)
    ]
    weights = priors.mention_weights(posed, row_of)
    liked = priors.like_matrix(frame, names)
    likes = np.asarray(liked.sum(axis=0)).ravel()
    np.testing.assert_array_equal(likes, matrix.sum(axis=0))
    found = priors.item_cosines(weights, liked, likes)
    for row in range(len(posed)):
        told = weights[[row], :].toarray()[0]
        wanted = [sum(told[j] * brute_cosine(matrix, i, j) for j in range(15)) for i in range(15)]
        np.testing.assert_allclose(found[row], wanted, atol=1e-12)


def test_later_mentions_weigh_more_and_every_row_sums_to_one():
    asked = query(
        turn("seeker", "x", "a", "b"),
        turn("recommender", "y", "c", "gone"),
        turn("seeker", "z", "a"),
    )
    weights = priors.mention_weights([asked, query(turn("seeker", "nothing"))], ROW).toarray()
    raw = np.array([1, 0.64, 0.8, 0, 0])  # a is mentioned last, before it c, before it b
    np.testing.assert_allclose(weights[0], raw / raw.sum())
    assert not weights[1].any()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 6)), min_size=1, max_size=60, unique=True
    ),
    st.integers(1, 9),
)
def test_factors_are_a_projection_on_the_best_subspace(pairs, rank):
    names = [f"i{n}" for n in range(7)]
    frame = interactions(*((f"u{u:02d}", names[i], True, None) for u, i in pairs))
    liked = priors.like_matrix(frame, names)
    directions = priors.right_vectors(liked, rank, 0)
    dense = liked.toarray()
    users, fans = dense.sum(axis=1, keepdims=True), dense.sum(axis=0, keepdims=True)
    scaled = np.divide(dense, users**0.5 * fans**0.25, out=np.zeros_like(dense), where=dense > 0)
    projector = directions @ directions.T
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-6)
    left = np.linalg.svd(scaled, compute_uv=False)[directions.shape[1] :]
    lost = np.linalg.norm(scaled - scaled @ projector)
    assert lost == pytest.approx(np.sqrt((left**2).sum()), abs=1e-5)


def test_factors_of_the_mentioned_items_are_never_negative():
    likes = interactions(
        *((user, item, True, None) for user, item in ["ua", "uc", "va", "vc", "wb", "we", "xe"])
    )
    asked = query(turn("seeker", "x", "a"))
    (found,) = compute([asked], likes)
    directions = priors.right_vectors(priors.like_matrix(likes, IDS), priors.RANK, 0)
    wanted = np.sqrt((directions @ directions[0]).clip(0))[1:]
    np.testing.assert_allclose(of(found, "factors"), wanted, atol=1e-5)
    assert asked.candidates[of(found, "factors").argmax()] == "c"


def test_factors_without_likes():
    assert not priors.right_vectors(priors.like_matrix(interactions(), IDS), 4, 0).any()


def test_content_is_the_root_of_the_mean_cosine():
    asked = query(turn("seeker", "x", "a"), turn("recommender", "y", "e"))
    (found,) = compute([asked])
    unit = content_vectors(items()).toarray()
    share = np.array([0.8, 1]) / 1.8
    wanted = [
        math.sqrt(share[0] * unit[ROW[i]] @ unit[ROW["a"]] + share[1] * unit[ROW[i]] @ unit[4])
        for i in asked.candidates
    ]
    np.testing.assert_allclose(of(found, "content"), wanted, atol=1e-5)
    assert of(found, "content")[1] == max(of(found, "content"))  # the same director and genre


def test_metadata_and_reviews_are_cosines():
    told = reviews(("b", "the sea, a thief"), ("e", "sea sea"), ("b", "thief thief"), ("gone", "x"))
    asked = query(turn("seeker", "a thief, please"), turn("recommender", "sea sea sea"))
    (found,) = compute([asked], told=told)
    # a: thief; b: neither word; c: thief; d: no text; e: sea.
    np.testing.assert_allclose(of(found, "metadata"), [1, 0, 1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(of(found, "reviews"), [0, 1, 0, 0, 0], atol=1e-5)


def test_best_of_is_the_highest_of_each_items_and_never_negative():
    cosines = np.array([[-0.5, -0.2, 0.3, 0.1], [0.9, 0.1, -0.4, -0.1]], dtype=np.float32)
    found = priors.best_of(cosines, np.array([1, 1, 3, 3]), 5)
    np.testing.assert_allclose(found, [[0, 0, 0, 0.3, 0], [0, 0.9, 0, 0, 0]])
    assert not priors.best_of(np.zeros((2, 0), np.float32), np.array([], np.int64), 3).any()


def bm25(request, documents):
    """Score as the formula stands, word by word."""
    split = [text.lower().split() for text in documents]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for word in request.lower().split():  # a repeated word counts as often
            having = sum(word in other for other in split)
            if word in words:
                idf = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
                count = words.count(word)
                score += idf * count * 2.2 / (count + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean))
        scores.append(score)
    return scores


WORDS = st.lists(st.sampled_from(["crow", "river", "lantern", "ferry", "x"]), max_size=12)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=6))
def test_bm25_equals_the_formula(requests, documents):
    asked, told = [" ".join(r) for r in requests], [" ".join(d) for d in documents]
    words, weights = priors.bm25_weights(asked, told)
    found = (words @ weights).toarray()
    if not any(documents):
        assert not found.any()
        return
    np.testing.assert_allclose(found, [bm25(request, told) for request in asked], atol=1e-5)


def test_bm25_reads_reviews_and_the_metadata_of_mentioned_items():
    told = reviews(("d", "Full of lighthouses."), ("gone", "lighthouses"))
    (words, named) = compute(
        [
            query(turn("seeker", "Any lighthouses?")),
            query(turn("seeker", "like that", "a"), name="c2"),
        ],
        told=told,
    )
    assert of(words, "bm25").argmax() == ROW["d"]
    assert (of(words, "bm25") > 0).sum() == 1
    assert of(named, "bm25").argmax() == 1  # c, which has a's director
    # "of" is a stop word: the reviews' texts have 0, 0, 0, 2 and 0 words.
    score = bm25("lighthouses", ["", "", "", "full lighthouses", ""])[3]
    assert of(words, "bm25")[3] == pytest.approx(math.log1p(0.25 * score), abs=1e-5)


def test_values_follow_the_candidates_and_blocks_do_not_matter(monkeypatch):
    likes = interactions(*((u, i, True, None) for u, i in ["ua", "ub", "vb", "vc", "wd", "wb"]))
    posed = [
        query(turn("seeker", "a thief at sea", *IDS[:n]), name=f"c{n}", candidates=IDS[n::2])
        for n in range(4)
    ]
    found = compute(posed, likes)
    assert [values.shape for values in found] == [(len(q.candidates), len(SIGNALS)) for q in posed]
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in found)
    full = compute([Query("c", 1, q.context, q.mentioned, [], IDS) for q in posed], likes)
    for asked, own, everything in zip(posed, found, full, strict=True):
        np.testing.assert_array_equal(own, everything[[ROW[i] for i in asked.candidates]])
    monkeypatch.setattr(priors, "_BLOCK", 1)
    for one, other in zip(found, compute(posed, likes), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_table_is_written_and_read_back(tmp_path):
    posed = [query(turn("seeker", "a thief", "b"))]
    values = compute(posed)
    write_table(tmp_path / "p.parquet", priors.table(posed, values), "priors")
    frame = read_table(tmp_path / "p.parquet", "priors")
    assert list(frame.columns) == PRIORS.names
    assert list(frame["candidates"][0]) == posed[0].candidates
    for column, name in enumerate(SIGNALS):
        np.testing.assert_array_equal(frame[name][0], values[0][:, column])


def embeddings(folder, **info):
    told = reviews(("b", "the sea"), ("a", "thief"))
    rows = review_rows(told, items(), interactions())
    blocks = Blocks(
        review=vectors(told["text"]), metadata=vectors(IDS), user=np.zeros((5, 1), "f4"), rows=rows
    )
    write_blocks(folder, blocks, {"encoder": "small", "pooling": "mean", **info})
    return told


def never(_texts):
    raise AssertionError("encoded again")


def test_vectors_are_those_of_embed_where_they_are_of_the_same_encoder(tmp_path):
    told = embeddings(tmp_path / "e")
    metadata, reviewed, voices = priors.text_vectors(tmp_path / "e", items(), told, "small", never)
    assert reviewed == ["b", "a"]
    assert metadata.shape == (5, 2)
    np.testing.assert_array_equal(voices, [[0, 1], [1, 0]])
    metadata, reviewed, voices = priors.text_vectors(
        tmp_path / "e", items(), told, "other", vectors
    )
    np.testing.assert_array_equal(metadata, vectors(item_texts(items())))
    assert reviewed == ["b", "a"]


@pytest.mark.parametrize("change", [{"pooling": "last"}, {"encoder": "large"}])
def test_vectors_of_another_kind_are_made_anew(tmp_path, change):
    told = embeddings(tmp_path / "e", **change)
    with pytest.raises(AssertionError, match="encoded again"):
        priors.text_vectors(tmp_path / "e", items(), told, "small", never)


def test_embeddings_that_do_not_fit_are_named(tmp_path):
    told = embeddings(tmp_path / "e")
    with pytest.raises(InputError, match="holds 5 items and 2 reviews, the corpus 4 and 2"):
        priors.text_vectors(tmp_path / "e", items()[:4], told, "small", never)
    write_json(tmp_path / "x" / "other.json", {})
    with pytest.raises(InputError, match=r"encoder\.json: no such file; run `dvc repro embed`"):
        priors.text_vectors(tmp_path / "x", items(), told, "small", never)

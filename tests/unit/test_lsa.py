"""Latent semantic analysis: the vectors by hand, what is left out, and how it repeats itself."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from tests.toy import toy_corpus

from seedtalk import lsa
from seedtalk.encoders import encode, load
from seedtalk.errors import InputError

SHIPS = ["the ship sails by night", "a ship sails in fog", "old ship and night fog", "fog, ship"]
CAKES = ["sweet cake and tea", "cake with tea in bed", "tea and a sweet bun", "bun with cake"]
TEXTS = [*SHIPS, *CAKES]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = toy_corpus(tmp_path_factory.mktemp("toys"))
    return [json.loads(line)["text"] for line in (folder / "reviews.jsonl").open()]


def by_hand(texts):
    """Return the weighted terms of the texts, (n, V), and the terms, by dense sums."""
    listed = []
    for text in texts:
        found = lsa.words(text)
        listed.append(found + [f"{a} {b}" for a, b in itertools.pairwise(found)])
    df = Counter(term for terms in listed for term in set(terms))
    least, most = max(2, int(0.001 * len(texts))), 0.5 * len(texts)
    terms = sorted(term for term, count in df.items() if least <= count <= most)
    rows = np.zeros((len(texts), len(terms)))
    for row, counted in zip(rows, map(Counter, listed), strict=True):
        for place, term in enumerate(terms):
            if counted[term]:
                idf = 1 + math.log((1 + len(texts)) / (1 + df[term]))
                row[place] = (1 + math.log(counted[term])) * idf
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1), terms


def test_words_are_of_two_letters_or_more_and_lower_case():
    assert lsa.words("I saw Amélie's 2nd film -- a JOY") == ["saw", "amélie", "2nd", "film", "joy"]


def test_vectors_have_the_cosines_of_a_full_svd(reviews):
    texts = reviews[:80]
    rows, terms = by_hand(texts)
    fitted = lsa.fit(texts)
    assert sorted(fitted.terms.vocabulary_) == terms
    _, scale, right = np.linalg.svd(rows, full_matrices=False)
    k = fitted.dimensions
    assert k == min(rows.shape) - 1 or scale[k] <= 1e-5 * scale[0]
    expected = rows @ right[:k].T
    found = fitted.transform(texts, 999).astype(np.float64)
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-5)
    # Each direction's largest entry is positive, so that signs are no chance.
    largest = np.argmax(np.abs(fitted.directions), axis=1)
    assert (fitted.directions[np.arange(k), largest] > 0).all()
    assert fitted.directions @ fitted.directions.T == pytest.approx(np.eye(k), abs=1e-9)


def test_fewer_dimensions_are_the_first_of_more(reviews, monkeypatch):
    whole = lsa.fit(reviews)
    monkeypatch.setattr(lsa, "DIMENSIONS", 5)
    few = lsa.fit(reviews)
    assert few.dimensions == 5
    assert few.directions == pytest.approx(whole.directions[:5], abs=1e-9)


def test_the_start_of_the_iteration_does_not_matter(reviews, monkeypatch):
    first = lsa.fit(reviews).transform(reviews, 999).astype(np.float64)
    monkeypatch.setattr(lsa, "START", 7)
    second = lsa.fit(reviews).transform(reviews, 999).astype(np.float64)
    assert first @ first.T == pytest.approx(second @ second.T, abs=1e-5)


def test_two_fits_on_the_same_texts_are_equal(reviews):
    assert (lsa.fit(reviews).directions == lsa.fit(list(reviews)).directions).all()


def test_texts_of_one_subject_are_nearer_than_of_two():
    vectors = encode(TEXTS, lsa.fit(TEXTS), cache_dir=None)
    cosines = vectors @ vectors.T
    within = [cosines[i, j] for i in range(8) for j in range(i) if i // 4 == j // 4]
    across = [cosines[i, j] for i in range(4) for j in range(4, 8)]
    assert np.mean(within) > np.mean(across) + 0.3


def test_repeated_texts_give_no_directions_of_rounding():
    fitted = lsa.fit(["a horse ran", "two dogs ran far"] * 40)
    assert fitted.dimensions == 2  # there are eight terms or so, but two texts


def test_encode_reads_the_first_words_and_scales(tmp_path):
    fitted = lsa.fit(TEXTS)
    places = {"cache_dir": tmp_path}
    cut = encode(["sweet cake and old ship"], fitted, max_tokens=2, **places)
    assert (cut == encode(["sweet cake"], fitted, **places)).all()
    assert np.linalg.norm(cut) == pytest.approx(1)
    raw = encode(TEXTS, fitted, normalize=False, **places)
    unit = encode(TEXTS, fitted, **places)
    assert unit == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-6)
    strange = encode(["zzz qqq", "", "ship"], fitted, **places)
    assert not strange[:2].any() and strange[2].any()
    assert encode([], fitted, **places).shape == (0, fitted.dimensions)
    # There is nothing to pool and no batch of tokens.
    assert (encode(TEXTS, fitted, pooling="last", batch_tokens=9, **places) == unit).all()


def test_parts_and_streaming_change_nothing(reviews, tmp_path, monkeypatch):
    from seedtalk import encoders

    fitted = lsa.fit(reviews)
    whole = encode(reviews, fitted, cache_dir=tmp_path)
    monkeypatch.setattr(encoders, "_PROJECTED", 7)
    streamed = encode(reviews, fitted, cache_dir=tmp_path, out=tmp_path / "x.npy")
    assert isinstance(streamed, np.memmap) and (np.asarray(streamed) == whole).all()


def test_load_fits_on_the_corpus_and_refuses_to_go_without(tmp_path):
    fitted = load("lsa", cache_dir=tmp_path, corpus=TEXTS)
    assert (fitted.directions == lsa.fit(TEXTS).directions).all()
    told = r"'lsa' is no model but is fitted on the reviews.*embed\.encoder and baseline\.encoder"
    with pytest.raises(InputError, match=told):
        encode(TEXTS, "lsa", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "texts", [[], ["one text"], ["no word", "of these"], ["", "", ""], ["same words"] * 9]
)
def test_texts_that_share_too_little_are_refused(texts):
    with pytest.raises(InputError, match=rf"too few words that some of the {len(texts)} texts"):
        lsa.fit(texts)

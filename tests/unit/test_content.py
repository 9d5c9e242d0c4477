import numpy as np
import pandas as pd
import pytest

from seedtalk.content import content_vectors, describe, item_tokens


def items(*rows):
    return pd.DataFrame(rows, columns=["title", "genres", "description"])


def test_tokens_tell_people_keywords_genres_and_title_words_apart():
    told = describe(
        "A cook, a thief.", directors=["Ann Lee"], stars=["Ann Lee", "Bo"], keywords=["road trip"]
    )
    assert item_tokens("The Long Road II", ["Drama"], told) == [
        "genre drama",
        "directors ann lee",
        "stars ann lee",
        "stars bo",
        "keywords road trip",
        "title long",
        "title road",
    ]


def test_prose_gives_no_token():
    assert item_tokens("Up", [], "Drama about Keywords: none, Starring nobody.") == []


def test_similar_items_share_tokens_and_rare_ones_count_more():
    table = items(
        ("Aaaa", ["Drama"], describe(directors=["X"])),
        ("Bbbb", ["Drama"], describe(directors=["X"])),
        ("Cccc", ["Drama"], describe(directors=["Y"])),
        ("Dddd", ["Comedy"], ""),
    )
    vectors = content_vectors(table)
    cosine = (vectors @ vectors.T).toarray()
    assert np.diag(cosine) == pytest.approx(np.ones(4))
    assert cosine[0, 1] > cosine[0, 2] > cosine[0, 3] == 0


def test_items_that_tell_nothing_have_zero_rows():
    vectors = content_vectors(items(("Up", [], ""), ("It", [], "")))
    assert vectors.shape[0] == 2
    assert vectors.nnz == 0
    mixed = content_vectors(items(("Up", [], ""), ("Heat", ["Crime"], "")))
    assert mixed[[0]].nnz == 0 < mixed[[1]].nnz

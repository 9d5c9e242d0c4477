"""Recommendations that go by the metadata: `prompt.neighbours` metadata and both."""

import numpy as np
import pytest
from tests import domain

from seedtalk import prompting
from seedtalk.content import describe


def items():
    table = domain.items()
    people = ["Ann"] * 4 + ["Bob"] * (len(table) - 4)
    table["description"] = [describe(directors=[name]) for name in people]
    table["genres"] = [[] for _ in range(len(table))]
    table["title"] = [f"Film{'abcdefghijklmnop'[i]}" for i in range(len(table))]
    return table


def built(neighbours, table=None, **keys):
    options = domain.params(prompt={"neighbours": neighbours, **keys}).prompt
    return prompting.build(
        domain.seeds(),
        domain.reviews(),
        items() if table is None else table,
        domain.interactions(),
        options,
        model="m",
        temperature=0.5,
        max_tokens=99,
    )[1]


def test_metadata_keeps_to_films_that_share_something():
    table = items()
    group = dict(zip(table["item_id"], table["description"], strict=True))
    for record in built("metadata", table):
        assert record.targets[0] == record.item_id
        told = [*record.targets, *record.liked]
        assert len(set(told)) == len(told)
        assert {group[item] for item in told} == {group[record.item_id]}


def test_both_adds_what_users_like_together():
    alone = {item for r in built("metadata") if r.item_id == "f01" for item in r.targets + r.liked}
    both = built("both", recommendations=8)
    joined = {item for r in both if r.item_id == "f01" for item in r.targets + r.liked}
    assert alone < joined
    assert any(r.targets != o.targets for r, o in zip(both, built("interactions"), strict=True))


def test_an_item_without_metadata_and_likes_stands_alone():
    table = items()
    table["description"] = ""
    table["title"] = ["x"] * len(table)
    for record in built("metadata", table):
        assert (record.targets, record.liked) == ([record.item_id], [])


def test_nearness_matches_brute_force():
    table = items()
    table["genres"] = [["Drama"] if i % 3 else ["Comedy"] for i in range(len(table))]
    shared = prompting.Shared(table)
    from seedtalk.content import content_vectors

    dense = content_vectors(table).toarray()
    cosine = dense @ dense.T
    np.fill_diagonal(cosine, 0.0)
    for row in range(len(table)):
        assert shared.similar(row) == pytest.approx(cosine[row])

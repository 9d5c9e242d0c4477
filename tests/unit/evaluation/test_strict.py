import pandas as pd
import pytest

from seedtalk.catalogue import Catalogue
from seedtalk.evaluation import strict
from seedtalk.evaluation.answers import Answer, Listed

ITEMS = pd.DataFrame(
    [
        ("i1", "Heat", 1995),
        ("i2", "The Thing", 1982),
        ("i3", "The Thing", 2011),
        ("i4", "Up", 2009),
        ("i5", "Seven Samurai", 1954),
    ],
    columns=["item_id", "title", "year"],
)
CATALOGUE = Catalogue(ITEMS)


def answer(completion, targets, before=(), conversation=None, listed=None):
    return Answer(1, completion, listed, list(targets), list(before), conversation)


def score(*answers, **options):
    linked = strict.link(answers, CATALOGUE)
    return strict.score(linked, [one.conversation for one in answers], **options)


def test_a_year_tells_a_remake():
    linked = strict.link(
        [answer("1. The Thing (1982)\n2. The Thing (2011)\n3. Thing, The", ["The Thing (1982)"])],
        CATALOGUE,
    )
    assert linked.rankings == [["i2", "i3"]]  # without a year the newest, which is there already
    assert linked.turns == [(["i2"], [])]


def test_what_is_no_item_is_dropped_and_counted():
    one = answer("1. Nowhere (2001)\n2. Heat\n3. Heat (1995)\n\n4. Up", ["Up", "Nobody"], ["Heat"])
    linked = strict.link([one], CATALOGUE)
    assert linked.rankings == [["i1", "i4"]]
    assert (linked.listed, linked.unlinked, linked.asked, linked.unknown) == (4, 1, 2, 1)
    plain = strict.score(linked, [None])
    assert plain["all"]["n"] == 1
    assert plain["all"]["mrr@5_mean"] == 0.5  # behind Heat
    fresh = strict.score(linked, [None], exclude_seen=True)
    assert fresh["all"]["mrr@5_mean"] == 1.0


def test_a_list_is_read_by_the_titles_as_written():
    listed = [Listed("The Thing (1982)", "Something else", 9), Listed("Heat", "Heat", 0)]
    linked = strict.link([answer(None, ["Heat"], listed=listed)], CATALOGUE)
    assert linked.rankings == [["i2", "i1"]]


def test_conditions_are_of_items_not_of_spellings():
    found = score(answer("1. Heat", ["Heat (1995)", "Up"], ["heat"]))
    assert found["discussion"]["n"] == 1 and found["discussion"]["recall@1_mean"] == 1.0
    assert found["recommendation"]["n"] == 1 and found["recommendation"]["recall@50_mean"] == 0.0


def test_dialogues_are_resampled_where_they_are_known():
    answers = [
        answer("1. Heat", ["Heat" if n % 3 else "Up"], conversation=f"c{n // 2}") for n in range(40)
    ]
    numbers = score(*answers)["recommendation"]
    low, mean, high = (numbers[f"recall@1_{part}"] for part in ("low", "mean", "high"))
    assert low < mean < high and mean == pytest.approx(26 / 40)
    assert score(*answers)["recommendation"] == numbers  # seeded
    assert "recall@50_low" in numbers and "mrr@1_high" in numbers


def test_one_dialogue_or_none_known_has_no_such_interval():
    for name in (None, "c1"):
        numbers = score(*[answer("1. Heat", ["Heat"], conversation=name)] * 2)["all"]
        assert "recall@1_low" not in numbers and numbers["recall@1_se"] == 0.0

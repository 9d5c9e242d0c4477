import json

import pytest

from seedtalk.errors import InputError
from seedtalk.sources.jsonl import load_jsonl

ITEMS = [
    {"item_id": "a", "title": "Alder Road", "year": 1990, "genres": ["Drama"]},
    {"item_id": "b", "title": "Birch Lane"},
]
REVIEWS = [
    {"review_id": "r1", "item_id": "a", "text": "Good.", "rating": 1, "user_id": "u"},
    {"review_id": "r2", "item_id": "b", "text": "Bad."},
]
INTERACTIONS = [
    {"user_id": "u", "item_id": "a", "rating": 4.5, "timestamp": 12},
    {"user_id": "u", "item_id": "b", "rating": 2},
    {"user_id": "v", "item_id": "a"},
    {"user_id": "v", "item_id": "b", "rating": 5.0, "liked": False},
]
CONVERSATIONS = [
    {
        "conversation_id": "c",
        "benchmark": "own",
        "turns": [
            {"role": "seeker", "text": "Something like Alder Road?", "items": ["a"]},
            {"role": "recommender", "text": "Birch Lane.", "items": ["b"]},
        ],
    }
]


@pytest.fixture
def corpus(tmp_path):
    write(tmp_path / "items.jsonl", ITEMS)
    write(tmp_path / "reviews.jsonl", REVIEWS)
    write(tmp_path / "interactions.jsonl", INTERACTIONS)
    write(tmp_path / "conversations.jsonl", CONVERSATIONS)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load(path, eval_users=1):
    return load_jsonl(path, like_threshold=4.0, eval_users=eval_users)


def test_a_corpus_is_read_whole(corpus):
    raw = load(corpus)
    assert raw.items["item_id"].tolist() == ["a", "b"]
    assert raw.items["description"].tolist() == ["", ""]
    assert raw.items["year"].isna().tolist() == [False, True]
    assert raw.reviews["rating"].isna().tolist() == [False, True]
    assert raw.interactions["liked"].tolist() == [True, False, True, False]
    assert raw.conversations["turns"][0][1]["items"] == ["b"]
    assert raw.conversations["seen"].tolist() == [[]]
    assert raw.read == {"items": 2, "reviews": 2, "interactions": 4}
    assert raw.origin["reviews.jsonl"] == 2


def test_optional_files_may_be_absent(corpus):
    (corpus / "conversations.jsonl").unlink()
    (corpus / "interactions.jsonl").unlink()
    raw = load(corpus, eval_users=0)
    assert raw.interactions.empty
    assert raw.conversations.empty
    (corpus / "interactions.jsonl").write_text("")
    assert load(corpus, eval_users=0).interactions.empty


def test_a_byte_order_mark_blank_lines_and_crlf_are_fine(corpus):
    path = corpus / "items.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert len(load(corpus).items) == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("items", [{"title": "X"}], "items.jsonl, row 1, field 'item_id': missing"),
        (
            "items",
            [*ITEMS, {"item_id": "c", "titel": "X", "title": "X"}],
            "items.jsonl, row 3, field 'titel': unknown field; did you mean 'title'?",
        ),
        (
            "items",
            [*ITEMS, ITEMS[0]],
            "items.jsonl, row 3, field 'item_id': 'a' is on row 1 already",
        ),
        ("items", [{**ITEMS[0], "year": "1990"}], "row 1, field 'year': input should be a valid"),
        ("items", [{**ITEMS[0], "item_id": 7}], "row 1, field 'item_id': input should be a valid"),
        ("items", [{**ITEMS[0], "title": "  "}], "row 1, field 'title': is blank"),
        ("items", [{**ITEMS[0], "title": "A\nB"}], "row 1, field 'title': holds a line break"),
        ("items", [{**ITEMS[0], "title": "A\u2028"}], "row 1, field 'title': holds a line break"),
        ("items", [{**ITEMS[0], "title": "?! …"}], "row 1, field 'title': has no letter or digit"),
        (
            "items",
            [*ITEMS, {"item_id": "c", "title": "ÁLDER road!", "year": 1990}],
            "items.jsonl, row 3, field 'title': 'ÁLDER road! (1990)' is the title and year of row "
            "1 ('Alder Road (1990)') already; drop one",
        ),
        (
            "items",
            [*ITEMS, {"item_id": "c", "title": "birch lane"}],
            "items.jsonl, row 3, field 'title': 'birch lane' is the title and year of row 2 ",
        ),
        ("items", [{**ITEMS[0], "genres": ["x", 1]}], "row 1, field 'genres.1': input should"),
        ("items", [], "items.jsonl: empty"),
        ("items", ["just text"], "items.jsonl, row 1: expected a JSON object, got str"),
        ("reviews", [], "reviews.jsonl: empty"),
        (
            "reviews",
            [{**REVIEWS[0], "item_id": "alder"}],
            "reviews.jsonl, row 1, field 'item_id': 'alder' is not in items.jsonl",
        ),
        (
            "reviews",
            [*REVIEWS, {**REVIEWS[1], "text": "More."}],
            "reviews.jsonl, row 3, field 'review_id': 'r2' is on row 2 already",
        ),
        ("reviews", [{**REVIEWS[0], "rating": 4}], "field 'rating': input should be less than"),
        ("reviews", [{**REVIEWS[0], "rating": float("nan")}], "field 'rating': input should be"),
        ("reviews", [{**REVIEWS[0], "rating": True}], "field 'rating': input should be a valid"),
        ("reviews", [{**REVIEWS[0], "text": "a\x00b"}], "field 'text': holds a NUL character"),
        ("reviews", [{**REVIEWS[0], "text": "\ud800"}], "field 'text': holds half of a surrogate"),
        ("interactions", [], "interactions.jsonl: empty"),
        (
            "interactions",
            [*INTERACTIONS, INTERACTIONS[0]],
            "interactions.jsonl, row 5, field 'item_id': ('u', 'a') is on row 1 already",
        ),
        ("interactions", [{"user_id": "u", "item_id": "z"}], "row 1, field 'item_id': 'z' is not"),
        ("interactions", [{**INTERACTIONS[0], "timestamp": 1.5}], "field 'timestamp': input"),
        ("conversations", [{**CONVERSATIONS[0], "turns": []}], "row 1, field 'turns': list should"),
        (
            "conversations",
            [{**CONVERSATIONS[0], "turns": [{"role": "user", "text": "Hi"}]}],
            "row 1, field 'turns.0.role': input should be 'seeker' or 'recommender'",
        ),
        (
            "conversations",
            [{**CONVERSATIONS[0], "turns": [{"role": "seeker", "text": "", "items": ["z"]}]}],
            "row 1, field 'turns.0.items': 'z' is not in items.jsonl",
        ),
        ("conversations", [{**CONVERSATIONS[0], "seen": ["z"]}], "field 'seen': 'z' is not in"),
        (
            "conversations",
            [{**CONVERSATIONS[0], "benchmark": "likes"}],
            "row 1, field 'benchmark': 'likes' is the name of the benchmark made of held-out",
        ),
    ],
)
def test_a_fault_names_file_row_and_field(corpus, name, change, message):
    write(corpus / f"{name}.jsonl", change)
    with pytest.raises(InputError) as error:
        load(corpus)
    assert message in error.value.message
    assert error.value.exit_code == 2


def test_titles_that_differ_by_year_or_in_another_script_are_two_items(corpus):
    more = [
        {"item_id": "c", "title": "Alder Road", "year": 1991},
        {"item_id": "d", "title": "Alder Road"},
        {"item_id": "e", "title": "七人の侍 2", "year": 1954},
        {"item_id": "f", "title": "羅生門 2", "year": 1954},
    ]
    write(corpus / "items.jsonl", [*ITEMS, *more])
    assert len(load(corpus).items) == 6


def test_broken_encoding_and_json_name_the_row(corpus):
    path = corpus / "reviews.jsonl"
    path.write_bytes(path.read_bytes() + b'{"review_id": "\xff"}\n')
    with pytest.raises(InputError, match="row 3: not UTF-8"):
        load(corpus)
    path.write_text('{"review_id": \n')
    with pytest.raises(InputError, match="row 1: not JSON"):
        load(corpus)


@pytest.mark.parametrize("name", ["items", "reviews", "interactions"])
def test_a_missing_file_is_named(corpus, name):
    (corpus / f"{name}.jsonl").unlink()
    with pytest.raises(InputError, match=rf"{name}\.jsonl: not there"):
        load(corpus)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder; set ingest.path"):
        load(tmp_path / "none")

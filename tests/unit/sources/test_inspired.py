import gzip
import json

import pytest

from seedtalk.errors import InputError
from seedtalk.sources import inspired


def turn(role, text, *films):
    return {"role": role, "text": text, "movie": list(films), "movie_name": [], "entity_link": []}


DIALOGUE = [
    turn("RECOMMENDER", "Hi &quot;you&quot;"),
    turn("SEEKER", "I loved Lantern", "Lantern  (1987)", ""),
    turn("RECOMMENDER", "Heron or Crow?", "Heron (2001), Crow (1999)", "Heron (2001"),
]
TABLE = (
    "dialog_id\tutt_id\tspeaker\tturn_id\ttext\tmovies\tgenres\n"
    "a.pkl\t1\tRECOMMENDER\t1\tHi\t\t\n"
    "a.pkl\t2\tSEEKER\t1\tI loved QUOTATION_MARKLanternQUOTATION_MARK\tLantern (1987)\tcrime\n"
    'a.pkl\t3\tSEEKER\t1\tand "Owl\tOwl, The (2001);Lantern (1987)\t\n'
    "b.pkl\t1\tRECOMMENDER\t1\tHello\t\t\n"
)


def load(folder, *dialogues, name="valid.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in dialogues))
    return inspired.load(folder, [name])


def turns(part, row=0):
    return [
        (turn["role"], turn["text"], list(turn["items"]))
        for turn in part.conversations["turns"].iloc[row]
    ]


def test_the_form_of_unicrs(tmp_path):
    part = load(tmp_path, DIALOGUE)
    assert turns(part) == [
        ("recommender", 'Hi "you"', []),
        ("seeker", "I loved Lantern", ["Lantern (1987)"]),
        ("recommender", "Heron or Crow?", ["Heron (2001)", "Crow (1999)"]),
    ]
    assert part.dropped == {"mentions": {"no_title": 1}}
    assert part.items[["key", "title", "year"]].values.tolist() == [
        ["Crow (1999)", "Crow", 1999],
        ["Heron (2001)", "Heron", 2001],
        ["Lantern (1987)", "Lantern", 1987],
    ]


def test_an_id_hangs_on_the_words_alone(tmp_path):
    alone = load(tmp_path, DIALOGUE).conversations["conversation_id"].tolist()
    other = [turn("SEEKER", "Hello")]
    both = load(tmp_path, other, DIALOGUE, name="train.jsonl").conversations
    assert both["conversation_id"].tolist()[1:] == alone
    assert both["benchmark"].tolist() == ["inspired-train"] * 2
    assert both["conversation_id"].is_unique
    assert len(load(tmp_path, DIALOGUE, DIALOGUE).conversations) == 1


def test_the_official_table(tmp_path):
    (tmp_path / "dev.tsv").write_text(TABLE)
    part = inspired.load(tmp_path, ["dev.tsv"])
    assert turns(part) == [
        ("recommender", "Hi", []),
        ("seeker", 'I loved "Lantern" and "Owl', ["Lantern (1987)", "The Owl (2001)"]),
    ]
    assert part.conversations["conversation_id"].tolist() == ["a.pkl", "b.pkl"]
    assert part.conversations["benchmark"].unique().tolist() == ["inspired-dev"]
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(TABLE.encode()))
    assert turns(inspired.load(tmp_path, ["dev.tsv.gz"])) == turns(part)


def test_crslabs_form(tmp_path):
    row = {"conv_id": "9", "dialog": [{"role": "Seeker", "text": "Hi", "movies": ["Owl (2001)"]}]}
    part = load(tmp_path, row)
    assert turns(part) == [("seeker", "Hi", ["Owl (2001)"])]
    assert part.conversations["conversation_id"].tolist() == ["9"]


def test_the_catalogues_beside_join_in(tmp_path):
    (tmp_path / inspired.DATABASE).write_text(
        "title\tyear\tgenre\tactors\tdirector\tshort_plot\tvideo_id\n"
        "Lantern\t1987\tCrime, Drama\tBo Be, Cy Ce\tAnn Ame\tA lamp.\tx1\n"
        "Raven\t\t\t\t\t\tx2\n"
    )
    entities = ["Lantern_(1987_film)", "Heron_(film)", "Magpie", "Crow_(1980_film)"]
    (tmp_path / inspired.ENTITIES).write_text(
        json.dumps({f"<http://dbpedia.org/resource/{name}>": n for n, name in enumerate(entities)})
    )
    (tmp_path / inspired.CATALOGUE).write_text("[0, 1, 2, 3]")
    part = load(tmp_path, DIALOGUE)
    items = part.items.set_index("key")
    assert sorted(items.index) == [
        *("Crow (1980)", "Crow (1999)", "Heron (2001)", "Lantern (1987)", "Magpie", "Raven")
    ]
    assert items.loc["Lantern (1987)", "genres"] == ["Crime", "Drama"]
    assert items.loc["Lantern (1987)", "description"].startswith("A lamp.\nDirected by Ann Ame.")
    assert part.origin == {"movie_database.tsv": 2, "he2023_item_ids.json": 4, "valid.jsonl": 1}


@pytest.mark.parametrize(
    ("ids", "entities", "said"),
    [
        ("[5]", '{"<http://dbpedia.org/resource/A>": 0}', "entity 5 is not in"),
        ('["x"]', "{}", "expected a list of entity numbers"),
        ("[0]", "[]", "expected an object"),
        ("[", "{}", "not a readable JSON"),
    ],
)
def test_a_wrong_catalogue_is_named(tmp_path, ids, entities, said):
    (tmp_path / inspired.CATALOGUE).write_text(ids)
    (tmp_path / inspired.ENTITIES).write_text(entities)
    with pytest.raises(InputError, match=said):
        load(tmp_path, DIALOGUE)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([{"text": "Hi", "movie": []}], "row 1, field 'role': missing"),
        ([{"role": "SEEKER", "text": "Hi"}], "row 1, field 'movie': missing"),
        ([{"role": "BOT", "text": "Hi", "movie": []}], "'BOT' is neither"),
        ([{"role": "SEEKER", "text": 1, "movie": []}], "field 'text': expected str"),
        (["x"], r"field '\[0\]': expected a turn"),
        ({"messages": []}, "field 'dialog': missing"),
    ],
)
def test_a_wrong_dialogue_is_named(tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        load(tmp_path, row)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TABLE.replace("movies", "films"), "field 'movies': column missing"),
        (TABLE + "b.pkl\t2\n", "row 6: 2 cells, but the header has 7"),
        (TABLE.replace("SEEKER", "BOT"), "row 3, field 'speaker': 'BOT'"),
        (TABLE + "\t2\tSEEKER\t1\tHi\t\t\n", "row 6, field 'dialog_id': empty"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, said):
    (tmp_path / "dev.tsv").write_text(text)
    with pytest.raises(InputError, match=said):
        inspired.load(tmp_path, ["dev.tsv"])


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path):
    with pytest.raises(InputError, match="not there"):
        inspired.load(tmp_path, ["dev.tsv"])
    (tmp_path / "dev.tsv").write_bytes(TABLE.encode() + b"b\t\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        inspired.load(tmp_path, ["dev.tsv"])
    (tmp_path / "dev.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        inspired.load(tmp_path, ["dev.jsonl"])

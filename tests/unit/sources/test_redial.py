import gzip
import json

import pytest

from seedtalk.errors import InputError
from seedtalk.sources import redial

FILMS = "movieId,movieName,nbMentions\n11,Lantern  (1987),90\n12,The Heron,7\n13,(2007),1\n"


def dialogue(name="7", **changes):
    """A dialogue in the official form: worker 1 seeks, worker 2 recommends."""
    return {
        "conversationId": name,
        "initiatorWorkerId": 1,
        "respondentWorkerId": 2,
        "movieMentions": {"11": "Lantern  (1987)", "12": "The Heron"},
        "initiatorQuestions": {},
        "respondentQuestions": [],
        "messages": [
            said(1, "Hi! I loved @11 &amp; birds"),
            said(1, "Anything like it?"),
            said(2, "Try @12 ."),
            said(2, "Or @11 again, or @12"),
            said(1, "  "),
            said(1, "Thanks"),
        ],
    } | changes


def said(worker, text):
    return {"timeOffset": 0, "text": text, "senderWorkerId": worker, "messageId": 1}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / redial.MOVIES).write_text(FILMS)
    return tmp_path


def write(folder, *rows, name="dev.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def load(folder, *rows):
    return redial.load(folder, [write(folder, *rows)])


def turns(part, row=0):
    return [
        (turn["role"], turn["text"], list(turn["items"]))
        for turn in part.conversations["turns"].iloc[row]
    ]


def test_the_official_form(folder):
    part = load(folder, dialogue())
    assert turns(part) == [
        ("seeker", "Hi! I loved Lantern (1987) & birds Anything like it?", ["11"]),
        ("recommender", "Try The Heron . Or Lantern (1987) again, or The Heron", ["12", "11"]),
        ("seeker", "Thanks", []),
    ]
    row = part.conversations.iloc[0]
    assert (row["conversation_id"], row["benchmark"], row["seen"]) == ("7", "redial-dev", [])
    assert part.read["conversations"] == 1
    assert part.read["mentions"] == 4
    assert part.dropped == {"messages": {"empty": 1}}


def test_the_catalogue_has_titles_and_years_and_no_count_of_mentions(folder):
    part = load(folder, dialogue())
    assert part.items[["key", "title"]].values.tolist() == [["11", "Lantern"], ["12", "The Heron"]]
    assert part.items["year"].tolist()[0] == 1987
    assert part.items["year"].isna().tolist() == [False, True]
    assert "90" not in part.items.to_json() + json.dumps(part.origin)


def test_an_empty_dictionary_may_be_a_list(folder):
    part = load(folder, dialogue(movieMentions=[], messages=[said(1, "Hi @11")]))
    assert turns(part) == [("seeker", "Hi Lantern (1987)", ["11"])]


def test_a_film_only_a_dialogue_names_joins_the_catalogue(folder):
    part = load(folder, dialogue(movieMentions={"99": "Crow (1999)", "98": None}))
    assert "99" in set(part.items["key"])
    assert "98" not in set(part.items["key"])


def test_an_unknown_id_stays_in_the_text_and_is_counted(folder):
    part = load(folder, dialogue(messages=[said(1, "I saw @77 and @The Heron, and@12")]))
    assert turns(part) == [("seeker", "I saw @77 and @The Heron, andThe Heron", ["12"])]
    assert part.dropped["mentions"] == {"unknown_id": 1}


def test_annotated_messages_are_read_alike(folder):
    message = {
        "senderWorkerId": 2,
        "text": "See @11",
        "turn_id": 0,
        "entity": ["x"],
        "movie": ["<http://dbpedia.org/resource/Lantern>"],
    }
    assert turns(load(folder, dialogue(messages=[message]))) == [
        ("recommender", "See Lantern (1987)", ["11"])
    ]


def test_crslabs_form_in_lines_and_as_one_array(folder):
    row = {
        "conv_id": 3,
        "dialog": [
            {"role": "Seeker", "text": ["I", "like", "@11"], "movies": ["<http://x>"]},
            {
                "role": "Recommender",
                "text": "The Crow Road then",
                "movies": ["<http://dbpedia.org/resource/Crow_Road_(1999_film)>", "12"],
            },
        ],
    }
    expected = [
        ("seeker", "I like Lantern (1987)", ["11"]),
        ("recommender", "The Crow Road then", ["Crow Road (1999)", "12"]),
    ]
    part = load(folder, row)
    assert turns(part) == expected
    assert part.conversations["conversation_id"].tolist() == ["3"]
    for text in (json.dumps([row, dialogue()]), json.dumps([row, dialogue()], indent=1)):
        (folder / "train_data.json").write_text(text)
        part = redial.load(folder, ["train_data.json"])
        assert turns(part) == expected
        assert part.conversations["conversation_id"].tolist() == ["3", "7"]


def test_gzipped_files_and_several_files(folder):
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(json.dumps(dialogue("1")).encode()))
    part = redial.load(folder, [write(folder, dialogue("2")), "train.jsonl.gz"])
    assert part.conversations["benchmark"].tolist() == ["redial-dev", "redial-train"]


def test_without_the_catalogue_the_dialogues_are_it(tmp_path):
    part = load(tmp_path, dialogue())
    assert part.items["key"].tolist() == ["11", "12"]


def test_a_dialogue_twice_counts_once_and_another_of_its_id_is_refused(folder):
    part = load(folder, dialogue(), dialogue())
    assert len(part.conversations) == 1
    assert part.dropped["conversations"] == {"same_dialogue": 1}
    with pytest.raises(
        InputError, match=r"dev.jsonl, row 2: another dialogue of the id '7'.*row 1"
    ):
        load(folder, dialogue(), dialogue(messages=[said(1, "Hello")]))


def test_nothing_said_and_one_person_are_dropped(folder):
    part = load(folder, dialogue("1", messages=[]), dialogue("2", respondentWorkerId=1))
    assert len(part.conversations) == 0
    assert part.dropped["conversations"] == {"nothing_said": 2, "one_person": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"turns": []}, "row 1, field 'messages': missing"),
        ([{"text": "x"}], "row 1, field 'messages': missing"),
        ("word", "row 1: expected a dialogue, got str"),
        (dialogue(conversationId=None), "field 'conversationId': expected str or int"),
        (dialogue(messages="x"), "field 'messages': expected list"),
        (dialogue(messages=["x"]), r"field 'messages\[0\]': expected an object"),
        (
            dialogue(messages=[said(3, "Hi")]),
            r"messages\[0\].senderWorkerId'.*neither the initiator",
        ),
        (dialogue(messages=[said(1, 5)]), "field 'text': expected str"),
        (dialogue(movieMentions=["11"]), "field 'movieMentions': expected an object"),
        ({"conv_id": 1, "dialog": [{"role": "Bot", "text": ""}]}, "'Bot' is neither seeker nor"),
        ({"conv_id": 1, "dialog": ["x"]}, r"field 'dialog\[0\]': expected an object"),
    ],
)
def test_a_wrong_dialogue_is_named(folder, row, said):
    with pytest.raises(InputError, match=said):
        load(folder, row)


def test_a_missing_or_torn_file_is_named(folder):
    with pytest.raises(InputError, match=r"none.jsonl: not there; run `seedtalk fetch redial`"):
        redial.load(folder, ["none.jsonl"])
    (folder / "dev.jsonl").write_text(json.dumps(dialogue()) + "\n{")
    with pytest.raises(InputError, match="row 2: not JSON"):
        redial.load(folder, ["dev.jsonl"])
    (folder / "dev.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        redial.load(folder, ["dev.jsonl.gz"])


@pytest.mark.parametrize(
    ("films", "said"),
    [
        ("movieId,movieName\nx,Heron\n", "row 2, field 'movieId': 'x' is no number"),
        ("movieId,movieName\n1,Heron\n1,Crow\n", "row 3, field 'movieId': 1 is listed before"),
        ("movieId\n1\n", "field 'movieName': column missing"),
    ],
)
def test_a_wrong_catalogue_is_named(folder, films, said):
    (folder / redial.MOVIES).write_text(films)
    with pytest.raises(InputError, match=said):
        load(folder, dialogue())


def test_what_others_found_out_about_the_films(folder):
    (folder / redial.MOVIES).write_text(
        "movieId,movieName\n11,Lantern (1987)\n12,The Heron\n14,Crow (1999)\n15,Owl (2001)\n"
    )
    (folder / redial.METADATA).write_text(
        ",title,databaseId,imdbID,genres,directors,actors,movielensID,year\n"
        '0,Lantern,11,123,Crime|Sci-Fi,Ann Ame,"Bo Be, Cy Ce",5,1951.0\n'  # another film's
        '1,The Heron,12,456,Drama,Di De,"Ed Ef, Fy Fe",6.0,1990.0\n'
        "2,Owl,15,789,,,,,\n"
    )
    (folder / redial.MOVIELENS).write_text(
        'index,movieName,databaseId,movieId\n0,"Lantern (1987)",11,50\n1,"Raven (1999)",14,51\n'
        "2,Owl (2001),15,-1\n"
    )
    (folder / redial.INFO).write_text(
        json.dumps(
            {
                "11": {
                    "plot": "A lamp.",
                    "genre": ["crime", "sci-fi"],
                    "director": ["Gus Ge"],
                    "writer": ["Hal He"],
                    "star": ["Ira Ie"],
                    "imdb_id": "tt0000321",
                }
            }
        )
    )
    part = load(folder, dialogue())
    items = part.items.set_index("key")
    lantern, heron, crow, owl = (items.loc[key] for key in ("11", "12", "14", "15"))
    assert (lantern["movielens"], lantern["imdb"], lantern["year"]) == ("50", "0000321", 1987)
    assert lantern["genres"] == ["Crime", "Sci-Fi"]
    assert lantern["description"].split("\n") == [
        *("A lamp.", "Directed by Gus Ge.", "Written by Hal He.", "Starring Ira Ie.")
    ]
    assert (heron["movielens"], heron["imdb"], heron["year"]) == ("6", "0000456", 1990)
    assert heron["description"].split("\n") == ["Directed by Di De.", "Starring Ed Ef, Fy Fe."]
    assert crow[["movielens", "imdb"]].isna().all()
    assert owl["imdb"] == "0000789"
    assert part.dropped["ids"] == {
        "combined_metadata.csv: another year": 1,
        "movies_merged_movielens.csv: another film": 1,
    }


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("[]", "expected an object of objects"),
        ("{", "not a readable JSON file"),
        ('{"11": {"genre": "crime"}}', "row 11, field 'genre': expected a list of strings"),
        ('{"11": {"plot": 3}}', "row 11, field 'plot': expected a string"),
    ],
)
def test_a_wrong_table_of_films_is_named(folder, info, said):
    (folder / redial.INFO).write_text(info)
    with pytest.raises(InputError, match=said):
        load(folder, dialogue())


def test_what_is_not_seen_goes(folder):
    part = load(folder, dialogue(messages=[said(1, "Hi\x1b[31m &#27;you\u202e @11\u200b")]))
    assert turns(part) == [("seeker", "Hi[31m you Lantern (1987)", ["11"])]


def test_a_terminals_commands_do_not_come_back_in_an_error(folder):
    with pytest.raises(InputError) as caught:
        load(folder, dialogue("7\x1b]0;x"), dialogue("7\x1b]0;x", messages=[said(1, "Hello")]))
    assert "\x1b" not in str(caught.value)


def test_question_marks_of_names_are_written_out(folder):
    (folder / redial.MOVIES).write_text(FILMS + "14,Why Wait%3F (2016),3\n")
    row = dialogue(
        movieMentions={"14": "Why Wait%3F (2016)", "15": "Who Goes%3F (2001)"},
        messages=[said(1, "Seen @14 , 100%3F"), said(2, "Yes, and @15")],
    )
    part = load(folder, row)
    assert [text for _, text, _ in turns(part)] == [
        "Seen Why Wait? (2016) , 100%3F",
        "Yes, and Who Goes? (2001)",
    ]
    assert {"Why Wait?", "Who Goes?"} <= set(part.items["title"])

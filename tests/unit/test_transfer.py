"""Another domain's dialogues: what is read, marked as foreign, left out and counted."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from tests import domain
from tests.unit.test_curation import QUERIES, embed, good, run

from seedtalk import transfer
from seedtalk.errors import InputError, RunError
from seedtalk.records import Dialogue, Message, write_jsonl
from seedtalk.reporting import words
from seedtalk.students.templates import SYSTEM

BOOKS = [
    "Is there a novel about lighthouse keepers which takes its time and is not sad?",
    "I would like a cookbook memoir with a lot of family quarrels and some recipes.",
    "Which biography of a botanist is the one to read first, the shorter the better?",
    "My book club wants a comic novel about offices, but nothing mean and no satire.",
    "A thick fantasy with merchants and maps, please, and without any chosen children.",
    "Poems to read aloud on a walk: could you name some that are plain and cheerful?",
]


def book(number, text=None, **changes):
    said = [
        ("system", "An older run's words."),
        ("user", text or BOOKS[number]),
        ("assistant", f"1. The Tide Clerk {number}\n2. Almanac of Doors"),
    ]
    fields = {
        "dialogue_id": f"r{number}",
        "review_id": f"r{number}",
        "item_id": f"f{number:02d}",  # ids that this domain has, too
        "style": "terse",
        "teacher": "books-teacher",
        "messages": [Message(role=role, content=content) for role, content in said],
        "targets": ["f01", "f02"],
    }
    return Dialogue(**(fields | changes))


def written(tmp_path, *dialogues):
    path = tmp_path / "books.jsonl"
    write_jsonl(path, dialogues)
    return path


def transferred(tmp_path, *dialogues, conversations=None, seed=0, **curate):
    wanted = {"train_on": "transfer", "transfer": "books.jsonl"} | curate
    curated, _ = run(good(), curate=wanted)
    return transfer.transferred(
        curated,
        transfer.read(written(tmp_path, *dialogues)),
        domain.conversations() if conversations is None else conversations,
        domain.items(),
        domain.params(curate=wanted).curate,
        seed=seed,
        encode=embed,
    )


def shelf(count=6):
    return [book(number) for number in range(count)]


def test_nothing_of_the_other_catalogue_can_be_taken_for_this_ones(tmp_path):
    first, second = transfer.read(written(tmp_path, book(1), book(2)))
    assert (first.dialogue_id, second.dialogue_id) == ("transfer-r1", "transfer-r2")
    assert first.item_id == "transfer-f01" and first.review_id == "" and first.targets == []
    assert (first.style, first.teacher) == ("terse", "books-teacher")
    ids = set(domain.items()["item_id"]) | set(domain.reviews()["review_id"])
    assert not ids & {first.item_id, first.review_id, *first.targets}
    assert [(m.role, m.content) for m in first.messages] == [
        ("system", SYSTEM),  # what this run's students are asked with
        ("user", BOOKS[1]),
        ("assistant", "1. The Tide Clerk 1\n2. Almanac of Doors"),
    ]


def test_what_cannot_be_seen_goes_and_lines_stay(tmp_path):
    said = [
        Message(role="user", content="A sea\u200b novel\x1b[2J,\nplease."),
        Message(role="assistant", content="1. Keel\u202e\n\n2.  Mast\t"),
    ]
    (found,) = transfer.read(written(tmp_path, book(0, messages=said)))
    assert [m.content for m in found.messages[1:]] == [
        "A sea novel[2J,\nplease.",
        "1. Keel\n2. Mast",
    ]


def test_students_learn_these_and_nothing_of_this_domain(tmp_path):
    curated = transferred(tmp_path, *shelf())
    kept = [*curated.train, *curated.valid]
    assert sorted(d.dialogue_id for d in kept) == [f"transfer-r{n}" for n in range(6)]
    assert curated.train and curated.valid
    assert {r.reason for r in curated.rejected} == {"left_out"}
    assert {r.detail for r in curated.rejected} == {"curate.train_on is transfer"}
    assert {p.verdict for p in curated.provenance} == {"quarantined"}
    summary = curated.summary
    assert (summary["train_on"], summary["kept"], summary["train"]) == ("transfer", 0, 0)
    assert summary["quarantined"]["left_out"] == len(QUERIES)
    assert summary["transfer"] == {
        "read": 6,
        "dropped": {"contaminated": 0, "near_duplicate": 0},
        "kept": 6,
        "train": len(curated.train),
        "valid": len(curated.valid),
        "items": 6,
        "teachers": {"books-teacher": 6},
    }
    assert summary["real"] is None


def test_an_item_is_on_one_side_only(tmp_path):
    twice = [book(n, item_id=f"b{n // 2}") for n in range(6)]
    for seed in range(4):
        curated = transferred(tmp_path, *twice, seed=seed, valid_fraction=0.4)
        sides = [{d.item_id for d in part} for part in (curated.train, curated.valid)]
        assert all(sides) and not sides[0] & sides[1]


def conversation(text):
    turns = [
        {"role": "seeker", "text": text, "items": []},
        {"role": "recommender", "text": "Zeppelin.", "items": ["f04"]},
    ]
    row = {"conversation_id": "c9", "benchmark": "likes", "turns": turns, "seen": []}
    return pd.DataFrame([row])


def test_what_an_evaluation_says_is_dropped(tmp_path):
    shared = " ".join(BOOKS[2].split()[:11])
    theirs = conversation(f"Hello there. {shared}, if you ask me, anyway.")
    curated = transferred(tmp_path, *shelf(), conversations=theirs)
    (dropped,) = [r for r in curated.rejected if r.reason == "contaminated"]
    assert dropped.dialogue_id == "transfer-r2" and "is in c9" in dropped.detail
    assert dropped.text == f"seeker: {BOOKS[2]}"
    assert curated.summary["transfer"]["dropped"]["contaminated"] == 1
    by_meaning = {"contamination_similarity": 0.9, "contamination_ngram": 99}
    said = conversation(" ".join(reversed(BOOKS[3].split())))
    curated = transferred(tmp_path, *shelf(), conversations=said, **by_meaning)
    (dropped,) = [r for r in curated.rejected if r.reason == "contaminated"]
    assert dropped.dialogue_id == "transfer-r3" and "cosine" in dropped.detail


def test_what_repeats_another_is_dropped(tmp_path):
    again = book(9, BOOKS[4])
    curated = transferred(tmp_path, *shelf(), again)
    (dropped,) = [r for r in curated.rejected if r.reason == "near_duplicate"]
    assert dropped.dialogue_id == "transfer-r9"
    assert dropped.detail == "of transfer-r4, similarity 1.00"


def test_too_few_left_is_a_failed_run_that_says_why(tmp_path):
    with pytest.raises(RunError, match=r"1 of 2 transferred .*'near_duplicate': 1.*larger run"):
        transferred(tmp_path, book(0), book(1, BOOKS[0]))


def test_a_file_that_is_missing_or_empty_says_how_one_is_made(tmp_path):
    made = r"artifacts/dialogues/train\.jsonl under another name and set curate\.transfer"
    with pytest.raises(InputError, match=rf"curate\.transfer: .*none\.jsonl: no such file.*{made}"):
        transfer.read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=rf"curate\.transfer: .* holds no dialogues.*{made}"):
        transfer.read(written(tmp_path))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "expected the assistant's answer at the end"),
        ([("user", "hello")], "expected the assistant's answer at the end"),
        ([("user", "hello"), ("assistant", "\u200b")], "expected the assistant's answer"),
        ([("system", "x"), ("assistant", "1. Keel")], "the seeker says nothing"),
        ([("user", "\u200b"), ("assistant", "1. Keel")], "the seeker says nothing"),
    ],
)
def test_what_is_no_example_is_refused_with_its_row(tmp_path, messages, message):
    said = [Message(role=role, content=text) for role, text in messages]
    path = written(tmp_path, book(0), book(1, messages=said))
    with pytest.raises(InputError, match=rf"books\.jsonl.*row 2.*messages.*{message}"):
        transfer.read(path)


def test_an_id_twice_and_a_torn_line_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"row 2.*dialogue_id.*'r1' again"):
        transfer.read(written(tmp_path, book(1), book(1)))
    path = written(tmp_path, book(1))
    path.write_text(path.read_text() + json.dumps({"dialogue_id": "r2"}) + "\n")
    with pytest.raises(InputError, match=r"row 2.*review_id"):
        transfer.read(path)


def test_two_runs_are_equal(tmp_path):
    one, two = (transferred(tmp_path, *shelf()) for _ in range(2))
    assert one == two and one.summary == two.summary


def test_the_report_says_whose_dialogues_were_learnt(tmp_path):
    summary = transferred(tmp_path, *shelf()).summary
    evidence = SimpleNamespace(corpus={"source": "films"}, teacher={}, synthesis=summary)
    told = words.teacher(evidence)
    assert told.startswith(f"The {summary['transfer']['train']} training dialogues are another ")
    assert "by the teacher books-teacher. Nothing made of this domain's reviews (films)" in told

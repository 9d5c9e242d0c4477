"""examples/books.py on invented sets in the published forms; and on the real ones where here."""

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from seedtalk.sources.jsonl import load_jsonl

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/data/books"

spec = importlib.util.spec_from_file_location("books", ROOT / "examples/books.py")
books = importlib.util.module_from_spec(spec)
spec.loader.exec_module(books)

GOODBOOKS = """\
book_id,isbn,authors,original_publication_year,original_title,title,ratings_count
1,1111111,"Ada Quill, Bo Ink",1951.0,Le Phare,"The Lighthouse (Coast Saga, #1)",900
2,,Cy Moss,,,Moors,500
3,3333333333,Dee Fern,-720.0,,Moors,20
4,4444444444,Ada Quill,1960.0,,Coast: A Novel,10
"""
CROSSING = (
    "Book_ID\tISBN\tBook-Title\tBook-Author\tYear-Of-Publication\tPublisher\n"
    "1\t0001111111\tPhare (Paperback)\tA. Quill\t1999\tX\n"  # by its ISBN
    "2\t5555555555\tThe Lighthouse\tADA QUILL\t2001\tX\n"  # by title and author
    "3\t6666666666\tSalt &amp\t Sand: A History\tEd Dune\t1990\tX &amp\t Co\n"
    "4\t7777777777\tNobody Reads This\tFay Lone\t1991\tX\n"
    "5\t8888888888\tSalt &amp\t Sand\tEd Dune\t1995\tX\n"
)
RATINGS = "user\titem\trating\n" + "".join(
    f"{user}\t{item}\t{rating:.6f}\n"
    for user, item, rating in [(1, 1, 7), (1, 2, 9), (2, 2, 5), (1, 3, 8), (2, 3, 8), (1, 4, 10)]
)
REVIEW = """<review>
<unique_id>
{asin}:x
</unique_id>
<asin>
{asin}
</asin>
<product_name>
{name}
</product_name>
<rating>
{rating}
</rating>
<reviewer>
Gil
</reviewer>
<review_text>
{text}
</review_text>
</review>
"""
DIALOGUE = [
    {"role": "user", "text": "Anything like Moors?", "item": ["Moors"]},
    {"role": "assistant", "text": "A good mystery: le phare", "item": ["Mystery", "Le Phare"]},
    {"role": "user", "text": "And new?", "item": []},
    {"role": "assistant", "text": "Try Unheard Of.", "item": ["Unheard Of"]},
]


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "from"
    (folder / "sorted/books").mkdir(parents=True)
    (folder / "sorted/dvd").mkdir()
    (folder / "books.csv").write_text(GOODBOOKS)
    with zipfile.ZipFile(folder / "crossing.zip", "w") as archive:
        archive.writestr("b/items_info.dat", CROSSING)
        archive.writestr("b/book_ratings.dat", RATINGS)
    rows = [
        ("9999999999", "Salt & Sand: Books: Ed Dune", "5.0", "Grand &amp; true."),
        ("9999999999", "Salt & Sand: Books: Ed Dune", "1.0", "Dull."),
        ("8888800000", "Odd One: Books", "2.0", "Odd."),
    ]
    told = [REVIEW.format(asin=a, name=n, rating=r, text=t) for a, n, r, t in rows]
    (folder / "sorted/books/positive.review").write_text("\n".join(["<reviews>", *told]))
    (folder / "sorted/dvd/positive.review").write_text("<review>\nno book\n</review>")
    quiet = [{"role": "user", "text": "Hello, Moors.", "item": ["Moors"]}]
    lines = [
        DIALOGUE,
        quiet,
        *([{**t, "text": f"{t['text']} {n}"} for t in DIALOGUE] for n in "ab"),
    ]
    (folder / "dialog_Books.jsonl").write_text("".join(json.dumps(d) + "\n" for d in lines))
    return folder


def made(sets, *options):
    out = sets.parent / "out"
    result = CliRunner().invoke(books.main, ["--from", str(sets), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    read = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in out.iterdir()
    }
    return read, result.output, out


def test_editions_are_one_book_and_namesakes_are_two(sets):
    tables, told, _ = made(sets, "--min-readers", "2")
    items = {row["item_id"]: row for row in tables["items"]}
    assert {i: (row["title"], row.get("year")) for i, row in items.items()} == {
        "gr-1": ("The Lighthouse", 1951),
        "gr-2": ("Moors", None),
        "gr-3": ("Moors by Dee Fern", None),
        "gr-4": ("Coast", 1960),
        "bx-3": ("Salt & Sand: A History", None),
        "az-8888800000": ("Odd One", None),
        "kg-unheard-of": ("Unheard Of", None),
    }
    assert items["gr-1"]["description"] == "Written by Ada Quill."
    assert "1 rows of bx linked: isbn" in told
    assert "1 rows of bx linked: title and author" in told
    assert "1 rows of bx linked: title less subtitle" in told


def test_ratings_are_of_books_and_the_best_of_several_editions_counts(sets):
    tables, _, _ = made(sets, "--min-readers", "2")
    assert [tuple(row.values()) for row in tables["interactions"]] == [
        ("bx-1", "bx-3", 8.0),
        ("bx-1", "gr-1", 9.0),
        ("bx-2", "bx-3", 8.0),
        ("bx-2", "gr-1", 5.0),
    ]
    assert "bx-4" in {row["item_id"] for row in made(sets, "--min-readers", "1")[0]["items"]}


def test_reviews_are_rated_from_nought_to_one(sets):
    reviews = made(sets)[0]["reviews"]
    assert [(r["review_id"], r["item_id"], r["rating"], r["text"]) for r in reviews] == [
        ("9999999999-1", "bx-3", 1.0, "Grand & true."),
        ("9999999999-2", "bx-3", 0.0, "Dull."),
        ("8888800000-1", "az-8888800000", 0.25, "Odd."),
    ]
    assert {r["user_id"] for r in reviews} == {"az-Gil"}


def test_dialogues_name_the_most_rated_namesake_and_words_are_no_titles(sets):
    tables, told, _ = made(sets)
    first, *others = tables["conversations"]
    assert len(others) == 2  # the one without a recommendation is left out
    assert [turn["role"] for turn in first["turns"]] == ["seeker", "recommender"] * 2
    assert [turn["items"] for turn in first["turns"]] == [
        ["gr-2"],
        ["gr-1"],  # by its original title; "mystery" is no title here
        [],
        ["kg-unheard-of"],
    ]
    assert "3 words that are no titles" in told
    assert {row["benchmark"] for row in tables["conversations"]} <= {
        "opendialkg-dev",
        "opendialkg-valid",
    }


def test_the_split_hangs_on_each_dialogue_alone(sets):
    before = {r["conversation_id"]: r["benchmark"] for r in made(sets)[0]["conversations"]}
    path = sets / "dialog_Books.jsonl"
    path.write_text(path.read_text() + json.dumps([*DIALOGUE, DIALOGUE[0]]) + "\n")
    after = {r["conversation_id"]: r["benchmark"] for r in made(sets)[0]["conversations"]}
    assert before.items() < after.items()


def test_the_corpus_is_what_the_source_reads_and_the_same_every_time(sets):
    _, told, out = made(sets)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert made(sets)[1] == told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    raw = load_jsonl(out, 7.0, 0)
    assert raw.origin["conversations.jsonl"] == 3


def test_what_is_optional_may_be_absent(sets):
    made(sets)  # what an earlier run wrote does not stay
    for name in ("books.csv", "crossing.zip", "dialog_Books.jsonl"):
        (sets / name).unlink()
    tables, _, out = made(sets)
    assert {name: len(rows) for name, rows in tables.items()} == {"items": 2, "reviews": 3}
    assert len(load_jsonl(out, 7.0, 0).items) == 2


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("sorted/books/positive.review", "<asin>", "<isbn>", "row 1, field 'asin'"),
        ("books.csv", "ratings_count", "count", "row 1, field 'ratings_count'"),
        ("dialog_Books.jsonl", '"item"', '"items"', "row 1, field 'item'"),
        ("dialog_Books.jsonl", "[{", "{", "row 1"),
    ],
)
def test_a_file_of_another_form_is_named(sets, name, old, new, said):
    path = sets / name
    path.write_text(path.read_text().replace(old, new))
    result = CliRunner().invoke(books.main, ["--from", str(sets), "--out", str(sets / "out")])
    assert result.exit_code == 2
    assert said in result.output and path.name in result.output


def test_a_folder_without_reviews(tmp_path):
    result = CliRunner().invoke(books.main, ["--from", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 2 and "no review of a book" in result.output


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("The Villa (Random House Large Print)", "The Villa"),
        ("Burning (Suspense Novels (Paperback))", "Burning"),
        ("Gone: A Novel", "Gone"),
        ("Dry: A Memoir (Vintage)", "Dry"),
        ("The Isle : A True Story", "The Isle: A True Story"),
        ("(Un)seen", "(Un)seen"),
        ("Salt &amp; Sand.", "Salt & Sand"),
    ],
)
def test_titles_as_readers_say_them(written, said):
    assert books.clean(written) == said


@pytest.mark.parametrize(
    ("authors", "name"),
    [
        ("Mehmet Oz M.D.,Dean Ornish", "oz"),
        ("E. J. W. Barber", "barber"),
        ("Kurt Vonnegut Jr.", "vonnegut"),
        ("Gabriel García Márquez", "marquez"),
        ("", ""),
    ],
)
def test_surnames(authors, name):
    assert books.surname(authors) == name


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published sets are not here (../shared/data)")
def test_on_the_published_sets(tmp_path):
    out = tmp_path / "books"
    result = CliRunner().invoke(books.main, ["--from", str(SHARED), "--out", str(out)])
    assert result.exit_code == 0, result.output
    raw = load_jsonl(out, 7.0, 0)
    assert len(raw.reviews) == 2000
    assert len(raw.items) > 14_000 and len(raw.interactions) > 40_000
    known = [
        item
        for turns in raw.conversations["turns"]
        for turn in turns
        for item in turn["items"]
        if not item.startswith("kg-")
    ]
    assert len(known) > 4_500  # of 4,809 mentions

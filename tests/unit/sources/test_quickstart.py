import pytest
from tests.unit.sources.quickstart_toy import write_quickstart

from seedtalk.errors import InputError
from seedtalk.sources.quickstart import clean_text, load_quickstart, read_and_link


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("quickstart")
    write_quickstart(path)
    return path


@pytest.fixture(scope="module")
def raw(folder):
    return load_quickstart(folder, "balanced", 4.0)


def test_titles_are_natural_and_doubles_are_one_item(raw):
    assert raw.items["title"].str.startswith("The ").sum() == 15
    assert not raw.items["title"].str.contains(r"\(").any()
    assert raw.dropped["items"] == {"no_title": 1, "same_title_and_year": 1}
    genres = raw.items.set_index("item_id")["genres"]
    assert genres["ml-1"] == ["Drama", "Comedy"]
    assert genres["ml-902"] == []


def test_interactions_of_a_double_are_merged_to_the_latest(raw):
    rows = raw.interactions.set_index(["user_id", "item_id"])
    assert rows.index.is_unique
    assert rows.loc[("u1", "ml-1"), "rating"] == 4.0
    assert rows.loc[("u1", "ml-1"), "timestamp"] == 2000
    assert set(raw.interactions["item_id"]) <= set(raw.items["item_id"])
    assert (raw.interactions["liked"] == (raw.interactions["rating"] >= 4)).all()


def test_reviews_are_linked_and_every_row_is_accounted_for(folder, raw, tmp_path):
    about = write_quickstart(tmp_path)
    linked = {int(row.review_id[5:]): row.item_id for row in raw.reviews.itertuples()}
    right = [about[row] == int(item[3:]) - 1 for row, item in linked.items()]
    assert len(right) > 60
    assert sum(right) / len(right) > 0.97
    dropped = raw.dropped["reviews"]
    assert dropped["other_source"] == 1
    assert dropped["film_without_ratings"] > 60
    assert sum(dropped.values()) + len(raw.reviews) == raw.read["reviews"]
    assert raw.linking["linked_to_rated"] == len(raw.reviews)
    assert set(raw.reviews["rating"]) == {1.0}
    assert not raw.reviews["text"].str.contains("<").any()


def test_strict_links_are_among_the_balanced_ones(folder, raw):
    strict = load_quickstart(folder, "strict", 4.0)
    assert set(strict.reviews["review_id"]) <= set(raw.reviews["review_id"])


@pytest.mark.parametrize(
    ("raw_text", "text"),
    [
        ("One.<br /><br />Two.<BR/>Three", "One.\nTwo.\nThree"),
        ("It\x92s \x93fine\x94 \x96 really\x85", "It’s “fine” – really…"),
        ("caf&eacute; &#345; &amp; more", "café ř & more"),
        ("<i>so</i> <em>good</em> <grin>", "so good <grin>"),
        ("nul\x00 tab\t bell\x07 undefined\x81", "nul  tab  bell  undefined"),
        ("e\u0301", "é"),
    ],
)
def test_review_text_is_cleaned(raw_text, text):
    assert clean_text(raw_text) == text


def test_faults_of_the_files_are_named(tmp_path):
    write_quickstart(tmp_path, films=4)
    ratings = tmp_path / "movielens/ratings.csv"
    whole = ratings.read_bytes()
    for content, message in (
        (whole.replace(b"timestamp", b"time", 1), "field 'timestamp'"),
        (b"", "ratings.csv: empty"),
        (b"userId,movieId,rating,timestamp\n", "ratings.csv: no rows"),
        (b"userId,movieId,rating,timestamp\n1,x,3,4\n", "ratings.csv"),
        (b"userId,movieId,rating,timestamp\n1,\xff,3,4\n", "ratings.csv: not UTF-8"),
    ):
        ratings.write_bytes(content)
        with pytest.raises(InputError, match=message) as error:
            read_and_link(tmp_path)
        assert "seedtalk fetch quickstart" in error.value.message
    ratings.unlink()
    with pytest.raises(InputError, match=r"ratings\.csv: not there"):
        read_and_link(tmp_path)

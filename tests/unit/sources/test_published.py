"""The published forms: MovieLens, IMDb, Rotten Tomatoes and Amazon, sound and broken."""

import gzip
import shutil

import pandas as pd
import pytest
from tests.unit.sources import corpora_toy as toy

from seedtalk.errors import InputError
from seedtalk.sources import amazon2023, imdb, movielens, rt


def by_key(part):
    return {row["key"]: row for row in part.items.to_dict("records")}


def broken(path, old, new):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert old in data
    data = data.replace(old, new, 1)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


# --- MovieLens ---


def test_movielens_films_ids_and_tags(tmp_path):
    part = movielens.load(toy.movielens(tmp_path))
    films = by_key(part)
    assert [films[k]["title"] for k in "123"] == [
        "The Copper Lantern",
        "Harbour of Crows",
        "Zeppelin",
    ]
    assert films["2"]["aliases"] == ["Crow Bay"] and films["2"]["year"] == 1994
    assert films["4"]["genres"] == [] and pd.isna(films["4"]["tmdb"])
    assert (films["1"]["movielens"], films["1"]["imdb"], films["1"]["tmdb"]) == (
        "1",
        "0000011",
        "901",
    )
    assert pd.isna(films["6"]["year"])
    assert films["2"]["description"] == "Keywords: slow burn, birds."  # by how many gave it
    assert part.interactions.iloc[0].to_dict() == {
        "key": "1",
        "user_id": "1",
        "rating": 4.0,
        "timestamp": 1000000000,
    }
    assert part.read == {"items": 6, "reviews": 0, "interactions": 5}


def test_movielens_as_the_zip_unpacks_and_without_tags(tmp_path):
    toy.movielens(tmp_path / "ml-latest-small")
    (tmp_path / "ml-latest-small" / "tags.csv").unlink()
    assert len(movielens.load(tmp_path).items) == 6
    shutil.copytree(tmp_path / "ml-latest-small", tmp_path / "ml-25m")
    with pytest.raises(InputError, match=r"several releases \(ml-25m, ml-latest-small\)"):
        movielens.load(tmp_path)


def test_movielens_takes_a_wider_catalogue_beside_it(tmp_path):
    toy.movielens(tmp_path)
    toy.text(
        tmp_path / "ml-25m_movies_w_keywords.csv",
        """movieId,title,genres,keyword
        2,Another Name (1994),Crime,river|slow burn
        70,Marigold Street (2008),Comedy,""",
    )
    toy.text(tmp_path / "ml-25m_links.csv", "movieId,imdbId,tmdbId\n2,0009999,1\n70,0000070,970")
    films = by_key(movielens.load(tmp_path))
    assert films["2"]["title"] == "Harbour of Crows" and films["2"]["imdb"] == "0000012"
    assert films["2"]["description"] == "Keywords: river, slow burn, birds."
    assert films["70"]["imdb"] == "0000070" and films["70"]["year"] == 2008


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("movies.csv", b"genres", b"genre", r"movies.csv, field 'genres': column missing"),
        ("movies.csv", b"\n5,", b"\n1,", r"movies.csv, row 6, field 'movieId': 1 is listed before"),
        ("movies.csv", "É".encode(), b"\xc9", r"movies.csv: not UTF-8"),
        ("ratings.csv", b"4.0", b"good", r"ratings.csv, row 2, field 'rating': 'good' is no"),
        ("ratings.csv", b"4.0", b"6.0", r"ratings.csv, row 2, field 'rating': 6.0 is not within"),
        ("ratings.csv", b"2,4,", b"2,44,", r"row 6, field 'movieId': 44 is not in movies.csv"),
        ("links.csv", b"\n2,", b"\n1,", r"links.csv, row 3, field 'movieId': 1 is listed before"),
        ("ratings.csv", b"1000000200", b"", r"row 5, field 'timestamp': '' is no int64"),
    ],
)
def test_faults_of_movielens_are_named(tmp_path, file, old, new, fault):
    broken(toy.movielens(tmp_path) / file, old, new)
    with pytest.raises(InputError, match=fault):
        movielens.load(tmp_path)


@pytest.mark.parametrize("file", ["movies.csv", "ratings.csv", "links.csv"])
def test_a_missing_or_empty_table_says_how_to_get_it(tmp_path, file):
    (toy.movielens(tmp_path) / file).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{file}: empty; run `seedtalk fetch movielens`"):
        movielens.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=rf"{file}: not there; run `seedtalk fetch movielens`"):
        movielens.load(tmp_path)


# --- IMDb ---


def test_imdb_lines(tmp_path):
    toy.lines(tmp_path / "reviews.jsonl.gz", toy.imdb_rows())
    part = imdb.load(tmp_path)
    films = by_key(part)
    assert films["0000011"]["title"] == "The Copper Lantern"
    assert films["0000011"]["movielens"] == "1" and films["0000011"]["year"] == 1987
    assert films["0000012"]["title"] == "" and films["0000012"]["genres"] == []
    assert part.reviews["rating"].tolist() == pytest.approx([1.0, 0.0, 1 / 3])
    assert part.reviews["text"].iloc[0] == f"{toy.PRAISE}\nTwice."
    assert part.reviews["user_id"].isna().all()


def acl(folder, urls=True):
    for split, side, name in (
        ("train", "pos", "0_8.txt"),
        ("train", "neg", "1_2.txt"),
        ("test", "pos", "1_9.txt"),
    ):
        toy.text(folder / split / side / name, toy.PRAISE)
        if urls:
            address = "http://www.imdb.com/title/tt00000{}/usercomments"
            toy.text(
                folder / split / f"urls_{side}.txt",
                f"{address.format(11)}\n{address.format(12)}",
            )
    toy.text(folder / "train" / "unsup" / "0_0.txt", toy.BLAME)
    return folder


@pytest.mark.parametrize("below", ["", "aclImdb"])
def test_imdb_in_the_official_folders(tmp_path, below):
    acl(tmp_path / below)
    part = imdb.load(tmp_path)
    found = part.reviews.set_index("review_id")
    assert found["key"].to_dict() == {
        "train/neg/1_2.txt": "0000012",
        "train/pos/0_8.txt": "0000011",
        "test/pos/1_9.txt": "0000012",
    }
    assert found.loc["test/pos/1_9.txt", "rating"] == pytest.approx(8 / 9)


def test_the_same_review_in_two_forms_counts_once(tmp_path):
    acl(tmp_path)
    row = toy.imdb_rows()[0] | {"review_id": "train/pos/0_8.txt"}
    toy.lines(tmp_path / "reviews.jsonl", [row])
    part = imdb.load(tmp_path)
    assert part.dropped == {"reviews": {"same_review_in_two_files": 1}}
    assert part.read["reviews"] == 4 and len(part.reviews) == 3
    assert by_key(part)["0000011"]["title"] == "The Copper Lantern"


def test_imdb_tables_are_unrated(tmp_path):
    table = pd.DataFrame(
        {
            "movie": ["The Copper Lantern"],
            "user_review_permalink": ["https://imdb.example/review/rw1/"],
            "user_review": [toy.PRAISE],
            "movie_id": ["/title/tt0000011/"],
        }
    )
    table.to_parquet(tmp_path / "top.parquet")
    part = imdb.load(tmp_path)
    assert part.reviews["review_id"].tolist() == ["rw1"] and part.reviews["rating"].isna().all()
    table.drop(columns="movie_id").to_parquet(tmp_path / "top.parquet")
    with pytest.raises(InputError, match=r"top.parquet, field 'movie_id': column missing"):
        imdb.load(tmp_path)
    table.assign(movie_id="nm7").to_parquet(tmp_path / "top.parquet")
    with pytest.raises(InputError, match=r"row 1, field 'movie_id': 'nm7' names no IMDb title"):
        imdb.load(tmp_path)
    (tmp_path / "top.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"top.parquet: not a readable Parquet file"):
        imdb.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rating": 11}, r"row 2, field 'rating': 11 is not within 1 to 10"),
        ({"rating": "9"}, r"row 2, field 'rating': expected int or float, got str"),
        ({"rating": True}, r"row 2, field 'rating': expected int or float, got bool"),
        ({"imdbId": "none"}, r"row 2, field 'imdbId': 'none' is no IMDb id"),
        ({"text": None}, r"row 2, field 'text': expected str, got NoneType"),
        ({"review_id": "test/pos/0_10.txt"}, r"row 2, field 'review_id': .* is on row 1 already"),
    ],
)
def test_faults_of_imdb_lines_are_named(tmp_path, change, fault):
    first, second, _ = toy.imdb_rows()
    toy.lines(tmp_path / "reviews.jsonl", [first, second | change])
    with pytest.raises(InputError, match=f"reviews.jsonl, {fault}"):
        imdb.load(tmp_path)


def test_other_faults_of_imdb_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no reviews there .*run `seedtalk fetch imdb`"):
        imdb.load(tmp_path)
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"review_id": "1"}\n{oops\n')
    with pytest.raises(InputError, match=r"reviews.jsonl, row 1, field 'rating': missing"):
        imdb.load(tmp_path)
    path.write_text("[1]\n")
    with pytest.raises(InputError, match=r"row 1: expected a JSON object, got list"):
        imdb.load(tmp_path)
    path.write_text("\n{oops\n")
    with pytest.raises(InputError, match=r"row 2: not JSON"):
        imdb.load(tmp_path)
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"row 1: not UTF-8"):
        imdb.load(tmp_path)
    path.unlink()
    (tmp_path / "reviews.jsonl.gz").write_bytes(gzip.compress(b"\n" * 50)[:-9])
    with pytest.raises(InputError, match=r"reviews.jsonl.gz: a broken gzip file"):
        imdb.load(tmp_path)


def test_faults_of_the_official_folders_are_named(tmp_path):
    acl(tmp_path, urls=False)
    with pytest.raises(InputError, match=r"urls_neg.txt: not there"):
        imdb.load(tmp_path)
    acl(tmp_path)
    toy.text(tmp_path / "train" / "neg" / "2_3.txt", toy.BLAME)
    with pytest.raises(InputError, match=r"2_3.txt: urls_neg.txt has 2 lines"):
        imdb.load(tmp_path)
    (tmp_path / "train" / "neg" / "2_3.txt").rename(tmp_path / "train" / "neg" / "odd.txt")
    with pytest.raises(InputError, match=r"odd.txt: expected a name such as 123_8.txt"):
        imdb.load(tmp_path)
    (tmp_path / "train" / "neg" / "odd.txt").rename(tmp_path / "train" / "neg" / "0_0.txt")
    with pytest.raises(InputError, match=r"0_0.txt: the rating 0 is not within 1 to 10"):
        imdb.load(tmp_path)
    (tmp_path / "train" / "neg" / "0_0.txt").unlink()
    (tmp_path / "train" / "urls_neg.txt").write_text("http://example.org/\n")
    with pytest.raises(InputError, match=r"urls_neg.txt, row 1: no address of an IMDb title"):
        imdb.load(tmp_path)


# --- Rotten Tomatoes ---


def test_rt_reviews_are_ratings_of_their_critics_too(tmp_path):
    part = rt.load(toy.rt(tmp_path))
    assert part.reviews["text"].tolist() == [
        "A déjà vu of lamps.",
        "Dull as oil.",
        "Crows, crows.",
    ]
    assert part.reviews["review_id"].tolist() == ["000001", "000002", "000004"]
    assert part.reviews["user_id"].fillna("").tolist() == ["J. Doe", "M. Roe", ""]
    assert part.reviews["rating"].tolist() == pytest.approx([0.8, 7 / 12, rt.ROTTEN])
    given = part.interactions
    assert given["rating"].tolist() == pytest.approx([4.0, 5 * 7 / 12, 5 * rt.FRESH])
    assert given["timestamp"].iloc[0] == pd.Timestamp("2010-01-02", tz="UTC").timestamp()
    film = by_key(part)["7"]
    assert film["description"] == (
        'A keeper of lamps, "the last", waits.\nDirected by Ada Vane.\nWritten by O\'Day, C. Lee.'
    )
    assert (film["imdb"], film["movielens"], film["year"]) == ("0000011", "1", 1987)
    assert part.dropped == {
        "items": {"without_title": 1},
        "reviews": {"film_without_title": 1, "no_text": 1},
        "interactions": {"film_without_title": 1, "no_critic": 1},
    }


def test_rt_may_be_gzipped(tmp_path):
    plain = rt.load(toy.rt(tmp_path / "plain"))
    toy.rt(tmp_path / "packed")
    for name in (rt.REVIEWS, rt.MOVIES):
        path = tmp_path / "packed" / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    pd.testing.assert_frame_equal(rt.load(tmp_path / "packed").reviews, plain.reviews)


@pytest.mark.parametrize(
    ("rating", "fresh", "wanted"),
    [
        ("3/4", "fresh", 0.75),
        (" 7.5 / 10 ", "fresh", 0.75),
        ("0/5", "rotten", 0.0),
        ("6/5", "rotten", rt.ROTTEN),  # out of its own scale
        ("1/0", "fresh", rt.FRESH),
        ("A+", "fresh", 1.0),
        ("F", "rotten", 0.0),
        ("C", "rotten", 5 / 12),
        ("8", "fresh", rt.FRESH),  # of 10, or of 100
        ("", "rotten", rt.ROTTEN),
    ],
)
def test_scores_of_critics(rating, fresh, wanted):
    assert rt.score(rating, fresh) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("rt.reviews.tsv", b"critic\t", b"author\t", r"field 'critic': column missing"),
        ("rt.reviews.tsv", b"\tfresh\tJ", b"\tripe\tJ", r"row 2, field 'fresh': 'ripe' is neither"),
        ("rt.reviews.tsv", b"March 3, 2011", b"2011-03-03", r"row 3, field 'date': '2011-03-03'"),
        ("rt_title_match.csv", b"\n8,", b"\n7,", r"row 3, field 'rt_id': '7' is listed before"),
        ("rt_title_match.csv", b"rt_id", b"id", r"field 'rt_id': column missing"),
    ],
)
def test_faults_of_rt_are_named(tmp_path, file, old, new, fault):
    broken(toy.rt(tmp_path) / file, old, new)
    with pytest.raises(InputError, match=rf"{file}.*{fault}"):
        rt.load(tmp_path)


def test_rt_without_any_linked_review_is_refused(tmp_path):
    toy.rt(tmp_path)
    toy.text(
        tmp_path / "rt_title_match.csv",
        "rt_id,imdbId,how,movieId,title,genres\n70,1,meta,1,Else (1990),Drama",
    )
    with pytest.raises(InputError, match=r"no review is of a film in rt_title_match.csv"):
        rt.load(tmp_path)


# --- Amazon ---


def test_amazon_reviews_and_products(tmp_path):
    part = amazon2023.load(toy.amazon(tmp_path))
    films = by_key(part)
    assert (films["B01"]["title"], films["B01"]["year"]) == ("Zeppelin", 1953)
    assert films["B01"]["genres"] == ["Adventure"]
    assert films["B01"]["description"] == (
        "Airships. And storms.\nDirected by Ida Storm.\nStarring A. B., C. D."
    )
    assert films["B02"]["title"] == "" and films["B03"]["title"] == "Crow Bay"
    assert part.reviews["rating"].tolist() == [1.0, 0.5, 0.0]
    assert part.reviews["review_id"].tolist() == [
        "Movies-00000001",
        "Movies-00000004",
        "Movies-00000005",
    ]
    assert part.reviews["text"].iloc[2] == f"{toy.BLAME} \N{REPLACEMENT CHARACTER}"
    assert part.interactions["rating"].tolist() == [5.0, 2.0, 3.0, 1.0]
    assert part.interactions["timestamp"].tolist()[0] == 1_500_000_000
    assert part.dropped == {
        "items": {"listed_twice": 0},
        "reviews": {"item_not_listed": 1, "same_row": 1, "no_text": 1},
        "interactions": {"item_not_listed": 1, "same_row": 1},
    }
    assert part.read["reviews"] == len(part.reviews) + 3


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("Heat [Blu-ray]", "Heat"),
        ("Heat (Two-Disc Special Edition) [DVD] [1995]", "Heat"),
        ("Departures (Okuribito)", "Departures (Okuribito)"),
        ("[REC]", "[REC]"),
        ("Heat (1995)", "Heat (1995)"),
        ("The Ferry: A Novel (Paperback)", "The Ferry: A Novel"),
    ],
)
def test_titles_of_products(written, title):
    assert amazon2023.work_title(written) == title


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("Movies.jsonl.gz", b'"rating": 5.0', b'"rating": 0', r"row 1, field 'rating': 0 is not"),
        ("Movies.jsonl.gz", b'"user_id"', b'"user"', r"row 1, field 'user_id': missing"),
        ("Movies.jsonl.gz", b"1500000001000", b'"now"', r"row 3, field 'timestamp': expected int"),
        ("meta_Movies.jsonl", b'"parent_asin"', b'"asin"', r"row 1, field 'parent_asin': missing"),
        ("meta_Movies.jsonl", b'["Airships.", "And storms."]', b'"x"', r"'description': expected"),
        ("meta_Movies.jsonl", b"{", b"", r"meta_Movies.jsonl, row 1: not JSON"),
    ],
)
def test_faults_of_amazon_are_named(tmp_path, file, old, new, fault):
    broken(toy.amazon(tmp_path) / file, old, new)
    with pytest.raises(InputError, match=rf"{file}.*{fault}|{fault}"):
        amazon2023.load(tmp_path)


def test_amazon_needs_both_kinds_of_file(tmp_path):
    toy.amazon(tmp_path)
    (tmp_path / "Movies.jsonl.gz").unlink()
    with pytest.raises(InputError, match=r"no <Category>.jsonl there; run `seedtalk fetch"):
        amazon2023.load(tmp_path)
    toy.amazon(tmp_path)
    (tmp_path / "meta_Movies.jsonl").unlink()
    with pytest.raises(InputError, match=r"no meta_<Category>.jsonl there"):
        amazon2023.load(tmp_path)

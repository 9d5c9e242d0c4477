"""Joining catalogues: which rows are one film, and what becomes of all that names them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sources import corpora_toy as toy

from seedtalk import records
from seedtalk.content import describe
from seedtalk.errors import InputError
from seedtalk.params import Ingest
from seedtalk.sources import corpora, load_corpus
from seedtalk.sources.corpora import join, merged_description, merged_genres
from seedtalk.sources.table import benchmark_name, imdb_id

SHARED = Path(__file__).parents[4] / "shared" / "data"


def joined(*parts):
    """Return each row's item id, by part and key, and the catalogue."""
    found = join(list(parts))
    ids = {row: found.films[place].item_id for row, place in found.film_of.items()}
    return ids, found


def movielens(*rows):
    return toy.part("movielens", [{"movielens": row["key"], **row} for row in rows])


def redial(*rows):
    return toy.part("redial", list(rows))


HEAT = {"key": "6", "title": "Zeppelin", "year": 1995, "imdb": "0000006"}


# --- by ids ---


@pytest.mark.parametrize(
    ("ids", "how"),
    [
        ({"movielens": "6"}, "movielens"),
        ({"imdb": "0000006"}, "imdb"),
        ({"movielens": "6", "imdb": "0000007"}, "movielens"),
    ],
)
def test_an_id_links_whatever_the_spelling(ids, how):
    film, found = joined(movielens(HEAT), redial({"key": "1", "title": "Zepelin", **ids}))
    assert film["redial", "1"] == "ml-6"
    assert found.links["redial"] == {how: 1}
    assert found.conflicts["redial"] == {"id_of_another_title": 1}


def test_of_two_films_the_ids_name_the_one_of_the_title_is_meant():
    other = {"key": "7", "title": "Crow Bay", "year": 1990, "imdb": "0000007"}
    row = {"key": "1", "title": "Zeppelin", "year": 1995, "movielens": "7", "imdb": "0000006"}
    film, found = joined(movielens(HEAT, other), redial(row))
    assert film["redial", "1"] == "ml-6"
    assert found.conflicts["redial"] == {"ids_of_several_films": 1}


def test_title_and_year_overrule_an_id_of_another_film():
    remake = {"key": "7", "title": "Zeppelin", "year": 2017, "imdb": "0000007"}
    wrong = {"key": "1", "title": "Zeppelin", "year": 1995, "imdb": "0000007"}
    near = {"key": "2", "title": "Zeppelin", "year": 1996, "imdb": "0000007"}
    film, found = joined(movielens(HEAT, remake), redial(wrong, near))
    assert film["redial", "1"] == film["redial", "2"] == "ml-6"
    assert found.conflicts["redial"] == {"id_overruled_by_title_and_year": 2}


@pytest.mark.parametrize(("year", "item"), [(1998, "ml-6"), (1992, "ml-6"), (1999, "redial-1")])
def test_an_id_is_believed_three_years_off(year, item):
    row = {"key": "1", "title": "Zeppelin", "year": year, "imdb": "0000006"}
    film, found = joined(movielens(HEAT), redial(row))
    assert film["redial", "1"] == item
    conflict = "id_of_another_year" if item == "ml-6" else "id_refused"
    assert found.conflicts["redial"] == {conflict: 1}


def test_a_tmdb_id_two_films_share_joins_neither():
    one = {"key": "1", "title": "Blackout", "year": 2007, "imdb": "0000001", "tmdb": "5"}
    two = {"key": "2", "title": "Blackout", "year": 2008, "imdb": "0000002", "tmdb": "5"}
    film, _ = joined(movielens(one, two))
    assert len(set(film.values())) == 2
    film, _ = joined(movielens(one), redial({"key": "9", "title": "Kuro", "tmdb": "5"}))
    assert film["redial", "9"] == "ml-1"


def test_a_row_without_a_title_needs_an_id_somebody_names():
    untitled = toy.part(
        "imdb",
        [{"key": "0000006", "imdb": "0000006"}, {"key": "0000008", "imdb": "0000008"}],
    )
    named = {"key": "5", "title": "Crow Bay", "imdb": "0000008"}
    film, found = joined(untitled, movielens(HEAT))
    assert film == {("movielens", "6"): "ml-6", ("imdb", "0000006"): "ml-6"}
    assert found.links["imdb"] == {"imdb": 1, "no_title": 1}
    # The one who names it comes later in the order of the parts.
    film, found = joined(untitled, movielens(HEAT), redial(named))
    assert film["imdb", "0000008"] == "redial-5"


# --- by titles ---


@pytest.mark.parametrize(
    ("title", "year", "how"),
    [
        ("The Copper Lantern", 1987, "title_and_year"),
        ("the copper LANTERN", 1987, "title_and_year"),
        ("Copper Lantern", 1987, "title_near_year"),
        ("The Copper Lantern", 1988, "title_near_year"),
        ("Lampara", 1987, "title_near_year"),
        ("Copper Lantern", None, "title_alone"),
        ("Lampara", None, "title_alone"),
        ("The Copper Lantern", 1989, "new"),  # a remake
        ("Lampara", 1988, "title_near_year"),
        ("Copper Lanterns", 1987, "new"),
    ],
)
def test_titles_link_with_their_year(title, year, how):
    film = {"key": "1", "title": "The Copper Lantern", "year": 1987, "aliases": ["Lampara"]}
    ids, found = joined(movielens(film), redial({"key": "9", "title": title, "year": year}))
    assert found.links["redial"] == {how: 1}
    assert (ids["redial", "9"] == "ml-1") == (how != "new")


def test_another_title_must_be_of_the_same_year():
    film = {"key": "1", "title": "The Copper Lantern", "year": 1987}
    row = {"key": "9", "title": "Lampara", "aliases": ["Copper Lantern"]}
    assert joined(movielens(film), redial(row | {"year": 1987}))[0]["redial", "9"] == "ml-1"
    assert joined(movielens(film), redial(row | {"year": 1988}))[0]["redial", "9"] == "redial-9"


def test_a_title_without_year_links_only_where_one_film_has_it():
    films = [
        {"key": str(n), "title": "Zeppelin", "year": year} for n, year in enumerate((1953, 2003))
    ]
    ids, found = joined(movielens(*films), redial({"key": "9", "title": "Zeppelin"}))
    assert ids["redial", "9"] == "redial-9"
    assert found.conflicts["redial"] == {"several_films_of_the_title": 1}


def test_a_film_without_year_learns_it():
    undated = {"key": "1", "title": "Zeppelin"}
    _, found = joined(movielens(undated), redial({"key": "9", "title": "Zeppelin", "year": 2003}))
    (film,) = found.films
    assert (film.item_id, film.year) == ("ml-1", 2003)


def test_one_title_and_year_is_one_item_though_ids_differ():
    films = [{"key": k, "title": "Frost", "year": 2010, "imdb": f"000000{k}"} for k in "12"]
    ids, found = joined(movielens(*films))
    assert set(ids.values()) == {"ml-1"}
    assert found.conflicts["movielens"] == {"same_title_and_year_other_id": 1}
    # The id of the second is known from now on.
    ids, _ = joined(movielens(*films), toy.part("imdb", [{"key": "x", "imdb": "0000002"}]))
    assert ids["imdb", "x"] == "ml-1"


def test_ids_tell_films_of_neighbouring_years_apart():
    films = [
        {"key": "1", "title": "Frost", "year": 2010},
        {"key": "2", "title": "Frost", "year": 2011},
    ]
    assert len(set(joined(movielens(*films))[0].values())) == 2
    rows = [
        {"key": "1", "title": "Frost", "year": 2010},
        {"key": "2", "title": "Frost", "year": 2011},
    ]
    assert len(set(joined(redial(*rows))[0].values())) == 1


def test_one_set_may_list_a_film_twice():
    rows = [
        {"key": "1", "title": "Crow Bay"},
        {"key": "2", "title": "Crow Bay", "year": 1977},
        {"key": "3", "title": "The Crow Bay", "year": 1977},
    ]
    ids, _ = joined(redial(*rows))
    assert set(ids.values()) == {"redial-2"}


def test_titles_in_other_scripts_stay_apart():
    rows = [
        {"key": "1", "title": "Брат 2", "year": 2000},
        {"key": "2", "title": "Сестра 2", "year": 2000},
    ]
    assert len(set(joined(redial(*rows))[0].values())) == 2


def test_other_titles_are_learnt_from_an_id():
    row = {"key": "1", "title": "Air Ship", "year": 1995, "imdb": "0000006"}
    by_name = {"key": "x", "title": "Air Ship", "year": 1995}
    ids, _ = joined(movielens(HEAT), redial(row), toy.part("inspired", [by_name]))
    assert ids["inspired", "x"] == "ml-6"
    # Not where nothing but the id says so: neither a year nor a word in common.
    ids, _ = joined(movielens(HEAT), redial(row | {"year": None}), toy.part("inspired", [by_name]))
    assert ids["inspired", "x"] == "inspired-x"


def test_a_film_bears_the_title_most_sets_know():
    ids = {"imdb": "0000006"}
    parts = [
        movielens(HEAT),
        redial({"key": "1", "title": "Air Ship", "year": 1995, **ids}),
        toy.part("inspired", [{"key": "x", "title": "Air Ship", "year": 1995}]),
    ]
    assert [film.title for film in join(parts[:2]).films] == ["Zeppelin"]  # even
    assert [film.title for film in join(parts).films] == ["Air Ship"]
    taken = {"key": "7", "title": "Air Ship", "year": 1995, "imdb": "0000007"}
    films = join([movielens(HEAT, taken), *parts[1:]]).films
    assert sorted(film.title for film in films) == ["Air Ship", "Zeppelin"]
    unnamed = HEAT | {"title": "Untitled Airship Project"}
    assert [film.title for film in join([movielens(unnamed), parts[1]]).films] == ["Air Ship"]
    assert [film.title for film in join([movielens(unnamed)]).films] == [unnamed["title"]]


# --- properties ---

TITLES = ("Frost", "The Frost", "Frost II", "Frost 2", "Crow Bay", "Брат 2", "Lampara")
ROWS = st.fixed_dictionaries(
    {
        "title": st.sampled_from(("", *TITLES)),
        "year": st.sampled_from((None, 1990, 1991, 1992, 2000)),
        "imdb": st.sampled_from((None, "0000001", "0000002", "0000003")),
        "tmdb": st.sampled_from((None, "1", "2")),
        "movielens": st.sampled_from((None, "1", "2", "3")),
        "aliases": st.lists(st.sampled_from(TITLES), max_size=2),
    }
)
PARTS = st.dictionaries(
    st.sampled_from(list(corpora.PREFIXES)), st.lists(ROWS, max_size=6), min_size=1
)


def keyed(rows):
    return [{**row, "key": str(number)} for number, row in enumerate(rows)]


@settings(max_examples=30, deadline=None)
@given(PARTS, st.randoms(use_true_random=False))
def test_the_order_of_parts_and_rows_does_not_matter(sets, rng):
    parts = [toy.part(name, keyed(rows)) for name, rows in sets.items()]
    shuffled = []
    for name, rows in sets.items():
        mixed = keyed(rows)
        rng.shuffle(mixed)
        shuffled.append(toy.part(name, mixed))
    rng.shuffle(shuffled)
    one, two = join(parts), join(shuffled)
    assert one.films == two.films and one.film_of == two.film_of
    assert one.links == two.links and one.conflicts == two.conflicts


@settings(max_examples=30, deadline=None)
@given(PARTS)
def test_every_row_with_a_title_has_a_film_and_every_film_a_name_of_its_own(sets):
    parts = [toy.part(name, keyed(rows)) for name, rows in sets.items()]
    ids, found = joined(*parts)
    for name, rows in sets.items():
        for row in keyed(rows):
            assert not row["title"] or (name, row["key"]) in ids
    names = [(corpora._key(film.title), film.year) for film in found.films]
    assert len(set(names)) == len(names)
    assert len({film.item_id for film in found.films}) == len(found.films)
    assert set(found.film_of.values()) == set(range(len(found.films)))
    total = sum(sum(counts.values()) for counts in found.links.values())
    assert total == sum(len(rows) for rows in sets.values())


@settings(max_examples=30, deadline=None)
@given(st.lists(ROWS.filter(lambda row: row["title"]), max_size=8))
def test_what_is_joined_stays_as_it_is_when_joined_again(rows):
    found = join([toy.part("redial", keyed(rows))])
    again = [
        {"key": film.item_id, "title": film.title, "year": film.year, "movielens": film.item_id}
        for film in found.films
    ]
    twice = join([toy.part("movielens", again)])
    shown = [(film.title, film.year) for film in found.films]
    assert sorted(shown, key=str) == sorted(((f.title, f.year) for f in twice.films), key=str)
    # And a second listing of the same names adds nothing.
    more = join([toy.part("movielens", again), toy.part("imdb", again)])
    assert len(more.films) == len(found.films)


# --- merging ---


def test_genres_and_descriptions_are_merged():
    assert merged_genres(["Sci-Fi", "drama", "sci-fi", " ", "Drama"]) == ["Sci-Fi", "Drama"]
    one = describe("A short plot.", stars=["A. B."], keywords=["river"])
    two = describe("A somewhat longer plot.", directors=["Ida", "Ida", ""])
    wanted = "A somewhat longer plot.\nDirected by Ida.\nStarring A. B.\nKeywords: river."
    assert merged_description([one, two]) == merged_description([two, one]) == wanted
    assert merged_description(["", ""]) == ""
    assert merged_description([wanted, one]) == wanted


def test_ids_and_names_of_benchmarks():
    assert imdb_id("tt0114709") == imdb_id(114709) == imdb_id(" 114709.0 ") == "0114709"
    assert imdb_id("tt10189514") == "10189514"
    assert imdb_id("") is imdb_id(None) is imdb_id("0") is imdb_id(float("nan")) is None
    assert benchmark_name("redial", "dev.jsonl") == "redial-dev"
    assert benchmark_name("inspired", "raw/test.tsv.gz") == "inspired-raw-test"


# --- the source ---


@pytest.fixture
def folder(tmp_path):
    toy.movielens(tmp_path / "movielens")
    toy.lines(tmp_path / "imdb" / "reviews.jsonl", toy.imdb_rows())
    toy.rt(tmp_path / "rt")
    toy.amazon(tmp_path / "amazon2023")
    toy.redial(tmp_path / "redial")
    return tmp_path


def params(folder, **changed):
    known = {
        "source": "corpora",
        "path": folder,
        "linking": "balanced",
        "parts": ("movielens", "imdb", "rt", "amazon2023", "redial"),
        "ratings": (),
        "conversations": ("redial/dev.jsonl",),
        "catalogue": "all",
        "min_item_ratings": 0,
        "min_reviewed_item_ratings": 0,
        "min_review_chars": 0,
        "max_review_chars": 6000,
        "max_reviews": 0,
        "like_threshold": 4.0,
        "eval_users": 0,
        "context_likes": 1,
        "target_likes": 1,
    }
    return Ingest(**(known | changed))


def test_the_five_sets_become_one_corpus(folder):
    corpus = load_corpus(params(folder), seed=0)
    titles = {row.item_id: (row.title, row.year) for row in corpus.items.itertuples()}
    assert titles["ml-1"] == ("The Copper Lantern", 1987) and "ml-5" not in titles
    assert {"ml-2", "ml-3", "ml-4", "ml-6", "redial-103"} < set(titles)
    assert "redial-102" not in titles  # a second id of the film
    assert titles["redial-104"][0] == "Zeppelin"  # of which there are two
    by_review = corpus.reviews.set_index("review_id")["item_id"].to_dict()
    assert by_review == {
        "imdb-test/pos/0_10.txt": "ml-1",
        "imdb-test/neg/1_1.txt": "ml-2",
        "rt-000001": "ml-1",
        "rt-000002": "ml-1",
        "rt-000004": "ml-2",
        "amazon-Movies-00000001": "ml-3",
        "amazon-Movies-00000005": "ml-2",
    }
    lantern = corpus.items.set_index("item_id").loc["ml-1"]
    assert lantern["description"].startswith('A keeper of lamps, "the last", waits.\nDirected by')
    assert lantern["genres"] == ["Drama", "Romance", "Children"]


def test_ratings_of_all_sets_are_on_one_scale_and_in_time(folder):
    corpus = load_corpus(params(folder), seed=0)
    given = corpus.interactions.set_index(["user_id", "item_id"])
    assert given.loc[("ml-1", "ml-1"), "rating"] == 2.5  # the later of two
    assert given.loc[("ml-1", "ml-1"), "timestamp"] == 1000000500
    assert bool(given.loc[("rt-J. Doe", "ml-1"), "liked"])  # 4/5
    assert not given.loc[("amazon-u2", "ml-3"), "liked"]
    report = corpus.report["interactions"]
    assert report["read"] == 5 + 5 + 6
    assert report["read"] == report["kept"] + sum(report["dropped"].values())
    assert report["dropped"]["rated_again_later"] == 1


def test_the_report_adds_up_and_says_how_rows_were_linked(folder):
    report = load_corpus(params(folder, catalogue="conversations"), seed=0).report
    for table in ("items", "reviews", "interactions"):
        row = report[table]
        held_out = row.get("held_out", 0)
        assert row["read"] == row["kept"] + held_out + sum(row["dropped"].values()), table
    parts = report["linking"]["parts"]
    assert parts["rt"]["linked"] == {"movielens": 2}
    assert parts["imdb"]["linked"] == {"movielens": 1, "imdb": 1, "no_title": 1}
    assert parts["redial"]["linked"] == {"title_and_year": 1, "title_alone": 1, "new": 2}
    assert report["linking"]["mentions"]["redial-dev"] == {
        "mentions": 8,
        "linked": 8,
        "in_movielens": 4,
        "rated": 4,
        "reviewed": 4,
    }


def test_conversations_name_joined_items_once_a_turn(folder):
    corpus = load_corpus(params(folder), seed=0)
    one, _ = corpus.conversations.to_dict("records")
    assert (one["benchmark"], one["conversation_id"]) == ("redial-dev", "0")
    assert [list(turn["items"]) for turn in one["turns"]] == [
        ["ml-1"],
        ["redial-103", "redial-104"],
    ]
    assert one["turns"][0]["text"] == "I liked The Copper Lantern (1987) and Copper Lantern !"
    assert list(one["seen"]) == []


def test_the_catalogue_may_be_that_of_the_conversations(folder):
    corpus = load_corpus(params(folder, catalogue="conversations"), seed=0)
    assert set(corpus.items["item_id"]) == {"ml-1", "redial-103", "redial-104"}
    assert set(corpus.interactions["item_id"]) == {"ml-1"}
    with pytest.raises(InputError, match=r"ingest.parts has none; add redial or inspired"):
        load_corpus(
            params(folder, catalogue="conversations", parts=("movielens",), conversations=()), 0
        )


def test_only_the_ratings_asked_for_count(folder):
    every = load_corpus(params(folder), seed=0)
    corpus = load_corpus(params(folder, ratings=("movielens",)), seed=0)
    assert {user.split("-")[0] for user in corpus.interactions["user_id"]} == {"ml"}
    left_out = corpus.report["interactions"]["dropped"]["not_in_ratings"]
    others = ~every.interactions["user_id"].str.startswith("ml-")
    assert left_out >= others.sum() > 0
    assert len(corpus.reviews) == len(every.reviews)


def test_users_may_be_held_out(folder):
    corpus = load_corpus(params(folder, eval_users=1, like_threshold=2.5), seed=0)
    assert corpus.report["conversations"] == {"likes": 1, "redial-dev": 2}
    assert corpus.report["interactions"]["held_out_users"] == 1
    row = corpus.report["interactions"]
    assert row["read"] == row["kept"] + row["held_out"] + sum(row["dropped"].values())


def test_the_tables_fit_their_schemas_and_two_runs_give_the_same_bytes(folder, tmp_path):
    for run in ("one", "two"):
        corpus = load_corpus(params(folder, eval_users=1, like_threshold=2.5), seed=0)
        for table in ("items", "reviews", "interactions", "conversations"):
            records.write_table(tmp_path / run / f"{table}.parquet", getattr(corpus, table), table)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_reviews_alone_are_enough(folder):
    corpus = load_corpus(params(folder, parts=("imdb",), conversations=()), seed=0)
    assert corpus.items["item_id"].tolist() == ["imdb-0000011"]
    assert corpus.interactions.empty and corpus.report["conversations"] == {}
    records.write_table(folder / "interactions.parquet", corpus.interactions, "interactions")


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"parts": ()}, r"ingest.parts: empty"),
        ({"parts": ("inspired",), "conversations": ()}, r"inspired: no such folder; run `seedtalk"),
        ({"conversations": ("dev.jsonl",)}, r"'dev.jsonl' is not below the folder of redial"),
        ({"conversations": ("inspired/dev.tsv",)}, r"list the part in ingest.parts"),
        ({"conversations": ("rt/dev.jsonl",)}, r"'rt/dev.jsonl' is not below the folder of redial"),
        ({"conversations": ("redial",)}, r"'redial' is not below"),
        ({"conversations": ("redial/none.jsonl",)}, r"none.jsonl: not there"),
        ({"parts": ("movielens",), "conversations": ()}, r"no review is left after the filters"),
        (
            {"parts": ("movielens",)},
            r"not below the folder of a part with conversations, redial or inspired",
        ),
    ],
)
def test_faults_of_the_parameters_are_named(folder, changed, fault):
    with pytest.raises(InputError, match=fault):
        load_corpus(params(folder, **changed), seed=0)


def test_sets_that_list_nothing_are_refused(folder):
    row = toy.imdb_rows()[2]  # without a title
    toy.lines(folder / "imdb" / "reviews.jsonl", [row])
    with pytest.raises(InputError, match=r"none of imdb lists an item"):
        load_corpus(params(folder, parts=("imdb",), conversations=()), seed=0)


# --- real data, where it is ---


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not SHARED.is_dir():
        pytest.skip("the published sets are not on this machine (../shared/data)")
    folder = tmp_path_factory.mktemp("movies")
    (folder / "movielens").mkdir()
    for path in (
        *(SHARED / "movies/ratings").glob("*.csv"),
        *(SHARED / "movies/catalogue").iterdir(),
    ):
        (folder / "movielens" / path.name).symlink_to(path)
    (folder / "imdb").mkdir()
    for path in (SHARED / "movies/reviews").glob("imdb*"):
        (folder / "imdb" / path.name).symlink_to(path)
    (folder / "rt").mkdir()
    for path in (SHARED / "movies/reviews").glob("rt*"):
        (folder / "rt" / path.name).symlink_to(path)
    for name in ("redial", "inspired"):
        (folder / name).symlink_to(SHARED / name)
    return load_corpus(
        params(
            folder,
            parts=("movielens", "imdb", "rt", "redial", "inspired"),
            conversations=("redial/train_data_partial.jsonl", "inspired/valid.jsonl"),
            catalogue="conversations",
        ),
        seed=0,
    )


@pytest.mark.slow
def test_the_real_sets_are_linked_as_well_as_measured(real):
    linking = real.report["linking"]
    mentions = linking["mentions"]["redial-train_data_partial"]
    assert mentions["in_movielens"] / mentions["mentions"] > 0.96
    assert mentions["rated"] / mentions["mentions"] > 0.88
    assert mentions["reviewed"] / mentions["mentions"] > 0.30
    assert linking["parts"]["rt"]["linked"] == {"movielens": 553}


@pytest.mark.slow
def test_no_two_real_items_share_a_name(real):
    shown = [
        records.display_title(*pair).casefold()
        for pair in zip(real.items["title"], real.items["year"], strict=True)
    ]
    assert len(set(shown)) == len(shown) > 7000

import pandas as pd
import pytest
from tests import domain

from seedtalk.catalogue import Catalogue


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue(domain.items())


def of(*films):
    frame = pd.DataFrame(films, columns=["item_id", "title", "year"])
    return Catalogue(frame.assign(year=frame["year"].astype("Int32")))


@pytest.mark.parametrize(
    ("written", "item"),
    [
        ("The Copper Lantern (1987)", "f01"),
        ("the copper lantern", "f01"),
        ("Copper Lantern", "f01"),
        ("  The  Copper Lantern, 1987 ", "f01"),
        ("The Copper Lantern (1988)", "f01"),  # a year off is the release date
        ("The Copper Lantern (2017)", None),  # a remake the catalogue lacks
        ("The Coper Lantern", "f01"),
        ("The Copper Latnern (1987)", "f01"),
        ("Harbour of Crows II", "f03"),
        ("Harbour of Crows 2 (1998)", "f03"),
        ("Harbour of Crows III", None),  # a number is no misspelling
        ("Harbour of Crows", "f02"),
        ("Elan Vital", "f11"),
        ("ÉLAN VITAL (1999)", "f11"),
        ("The Velvet Compass (1971)", "f08"),  # its year is unknown
        ("Marigold Street (1965)", "f09"),
        ("Marigold Street (2008)", "f10"),
        ("Marigold Street", "f10"),  # no year: the newest
        ("It", "f07"),
        ("Is", None),  # too short to be misspelt
        ("Zepelin", None),  # seven letters leave no edit to spare
        ("Zeppelin", "f04"),
        ("A Film Nobody Made", None),
        ("", None),
        ("(1987)", None),
    ],
)
def test_a_written_title_means_one_item_or_none(catalogue, written, item):
    assert catalogue.link(written) == item


def test_every_display_title_links_to_its_item(catalogue):
    for item, *_ in domain.FILMS:
        assert catalogue.link(catalogue.display(item)) == item


def test_titles_in_another_script_link():
    catalogue = of(("a", "Зеркало", 1975), ("b", "七人の侍", 1954))
    assert catalogue.link("зеркало (1975)") == "a"
    assert catalogue.link("七人の侍") == "b"


def test_equal_titles_of_a_year_go_to_the_lowest_id():
    assert of(("b", "Twins Apart", 1980), ("a", "Twins Apart", 1980)).link("Twins Apart") == "a"


def test_a_number_in_the_title_is_not_its_year():
    catalogue = of(("a", "Orbit 2049", 2017), ("b", "1917", 2019))
    assert catalogue.link("Orbit 2049") == "a"
    assert catalogue.link("Orbit 2049 (2017)") == "a"
    assert catalogue.link("1917 (2019)") == "b"


@pytest.mark.parametrize(
    ("text", "item", "named"),
    [
        ("have you got the copper lantern?", "f01", True),
        ("like Copper Lantern's ending", "f01", True),
        ("a copper kettle and a lantern", "f01", False),
        ("COPPER LANTERN!", "f01", True),
        ("is copperlantern any good", "f01", True),
        ("night ferry was it?", "f06", True),  # without its subtitle
        ("a ferry at night", "f06", False),
        ("zeppelin films", "f04", True),
        ("It was good. It made me laugh.", "f07", False),  # just a word
        ("I loved watching It last week.", "f07", True),
        ("Harbour of Crows II", "f03", True),
        ("harbour of crows 2", "f03", True),
        ("elan vital", "f11", True),
    ],
)
def test_a_text_names_an_item_by_its_title(catalogue, text, item, named):
    assert catalogue.names(text, item) is named


def test_masking_cuts_titles_with_their_years(catalogue):
    text = "I liked Harbour of Crows II (1998), Zeppelin and a quiet orchard. It is."
    assert catalogue.mask(text) == "I liked |, | and a quiet orchard. | is."


def test_masking_leaves_a_text_without_titles(catalogue):
    assert catalogue.mask("nothing of the kind") == "nothing of the kind"


def test_masking_reads_an_ampersand_and_takes_a_titles_own_mark():
    catalogue = of(("a", "Salt & Ember", 1971), ("b", "Overboard!", 1980))
    assert (
        catalogue.mask("I liked Salt & Ember (1971) and Overboard! (1980).") == "I liked | and |."
    )
    assert catalogue.mask("Salt and Ember") == "|"


@pytest.mark.parametrize(
    ("title", "item", "exact"),
    [
        ("Harbour of Crows (1994)", "f02", True),
        ("HARBOUR OF CROWS", "f02", True),
        ("Harbuor of Crows (1994)", "f02", False),
        ("The Coper Lantern", "f01", False),
    ],
)
def test_a_match_says_whether_letters_differ(catalogue, title, item, exact):
    found = catalogue.match(title)
    assert (found.item_id, found.exact) == (item, exact)
    assert catalogue.link(title) == item


@pytest.mark.parametrize(
    ("title", "item"),
    [
        ("Harbour of Crows (1950)", "f02"),  # another year
        ("Harbour of the Crows (1994)", "f02"),
        ("Harbour of Crows III", "f03"),  # a sequel it lacks
        ("The Copper Kettles of Ash", None),
        ("Marigold Streets (1930)", "f10"),  # of two, the newest
        ("Nothing Like Them", None),
        ("???", None),
        ("", None),
    ],
)
def test_what_links_to_nothing_may_be_near_a_title(catalogue, title, item):
    assert catalogue.nearest(title) == item


@pytest.mark.parametrize(
    ("written", "item"),
    [
        ("Heron, The (1987)", "a"),
        ("The Heron (1987 film)", "a"),
        ("Heron (Der Reiher) (1987)", "a"),
        ("Reiher (The Heron)", "b"),  # no year: the newest
        ("The Heron (2011)", "b"),
        ("The Heron (2000)", None),  # neither the original nor the remake
        ("Crow 2", "d"),
        ("Crow: Chapter Two", "d"),
        ("Crow: Part 2 (1999)", "d"),
        ("Crow Volume One", "c"),
        ("Crow 3", None),
    ],
)
def test_moved_articles_alternative_titles_remakes_and_parts_are_told(written, item):
    films = of(
        ("a", "The Heron", 1987),
        ("b", "The Heron", 2011),
        ("c", "Crow: Vol. 1", 1997),
        ("d", "Crow: Vol. 2", 1999),
    )
    assert films.link(written) == item


def test_an_equal_title_goes_before_a_misspelt_one_of_another_reading():
    films = of(("a", "Silent Harbours", 1980), ("b", "Silent Harbour", 1990))
    assert films.match("Silent Harbour (1990)").exact
    assert films.link("Silent Harbour") == "b"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedtalk.titles import (
    fold,
    match_key,
    natural_title,
    split_title,
    title_and_year,
    title_key,
)


@pytest.mark.parametrize(
    ("filed", "natural"),
    [
        ("Lantern, The", "The Lantern"),
        ("Quiet Harbour, A", "A Quiet Harbour"),
        ("Honest Owl, An", "An Honest Owl"),
        ("Nuit des chats, La", "La Nuit des chats"),
        ("Heure bleue, L'", "L'Heure bleue"),
        ("Heure bleue, L’", "L'Heure bleue"),
        ("Hunde von Ulm, Die", "Die Hunde von Ulm"),
        ("Perro verde, El", "El Perro verde"),
        ("Lupi, I", "I Lupi"),
        ("Lille hus, Det", "Det Lille hus"),
        ("Grote brug, De", "De Grote brug"),
        ("Barco, O", "O Barco"),
        ("  Spaced   Out, The ", "The Spaced Out"),
        ("Go, Dog, Go", "Go, Dog, Go"),
        ("Oh, Well!", "Oh, Well!"),
        ("Give, or Take", "Give, or Take"),
    ],
)
def test_a_moved_article_comes_back_to_the_front(filed, natural):
    assert natural_title(filed) == natural


@pytest.mark.parametrize(
    ("filed", "title", "alternatives"),
    [
        ("Departed Owls (Fukurou)", "Departed Owls", ("Fukurou",)),
        ("Mill, The (Mühle, Die)", "The Mill", ("Die Mühle",)),
        ("Fog.com (a.k.a. Fog) (a.k.a. Fog Dot)", "Fog.com", ("Fog", "Fog Dot")),
        ("To Stay (Rester (ou pas))", "To Stay", ("Rester (ou pas)",)),
        ("(300) Nights of Rain", "(300) Nights of Rain", ()),
        ("Moo(n)", "Moo(n)", ()),
        ("(Only)", "(Only)", ()),
        ("Half) Open", "Half) Open", ()),
        ("Broken)", "Broken)", ()),
        ("Empty ()", "Empty", ()),
        ("Owl AKA (aka: Night Bird)", "Owl AKA", ("Night Bird",)),
    ],
)
def test_alternatives_are_split_off(filed, title, alternatives):
    assert split_title(filed) == (title, alternatives)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Aimée & Jules", "aimee and jules"),
        ("Storm II", "STORM 2"),
        ("Storm: Part IV", "storm part 4"),
        ("A Goat's Life", "A Goats Life"),
        ("Don’t Look", "Don't look"),
        ("Smørrebrød", "Smorrebrod"),
        ("Straße", "strasse"),
        ("Wait… What?", "wait what"),
        ("Spider-Goat", "Spider Goat"),
        ("Owl³", "Owl3"),
    ],
)
def test_spellings_of_one_title_share_a_key(one, other):
    assert title_key(one) == title_key(other) != ()


def test_a_single_roman_letter_stays_a_letter():
    assert title_key("I, Gardener") == ("i", "gardener")
    assert title_key("V for Vole") == ("v", "for", "vole")
    assert title_key("Vikings II") != title_key("Vikings III")


def test_other_scripts_fold_to_nothing():
    assert title_key("千と千尋") == ()
    assert fold("naïve — “fjörd”") == 'naive - "fjord"'


@given(st.text(max_size=40))
def test_folding_and_keys_are_stable(text):
    assert fold(text).isascii()
    assert fold(fold(text)) == fold(text)
    title, alternatives = split_title(text)
    assert all(alternatives)
    assert natural_title(title).split() or not title.split()
    assert all(token.isascii() and token.isalnum() for token in title_key(text))


@pytest.mark.parametrize(
    ("written", "taken_apart"),
    [
        ("Lantern, The (1987)", ("The Lantern", 1987, ())),
        ("Lantern, The (Laterne, Die) (1987)", ("The Lantern", 1987, ("Die Laterne",))),
        ("Sept (a.k.a. S7pt) (1995)", ("Sept", 1995, ("S7pt",))),
        ("Heron  (2009)", ("Heron", 2009, ())),
        ("Heron (2009", ("Heron", 2009, ())),  # cut off
        ("Heron (2017 film", ("Heron", 2017, ())),
        ("Heron (2014 Latvian film)", ("Heron", 2014, ())),
        ("Heron (TV series)", ("Heron", None, ())),
        ("Heron (film)", ("Heron", None, ())),
        ("Heron (I) (2009)", ("Heron", 2009, ())),
        ("Heron (1999/II)", ("Heron", 1999, ())),
        ("Heron (2006–2007)", ("Heron", 2006, ())),
        ("Heron (2013- )", ("Heron", 2013, ())),
        ("Heron (2012) (TV)", ("Heron", 2012, ())),
        ("Heron [2012]", ("Heron", 2012, ())),
        ("2049 (1956)", ("2049", 1956, ())),
        ("Heron 2049 (2017)", ("Heron 2049", 2017, ())),
        ("Heron 2049", ("Heron 2049", None, ())),
        ("1917", ("1917", None, ())),
        ("(300) Nights (2009)", ("(300) Nights", 2009, ())),
        ("Moo(n) (2000)", ("Moo(n)", 2000, ())),
        ("Heron (A Bird's Tale)", ("Heron", None, ("A Bird's Tale",))),
        ("Heron (3000)", ("Heron", None, ("3000",))),  # no year
        ("M (1931)", ("M", 1931, ())),
        ("(2007)", ("", 2007, ())),
        ("What Now%3F (2016)", ("What Now?", 2016, ())),
        ("100% Heron (2020)", ("100% Heron", 2020, ())),
        ("", ("", None, ())),
    ],
)
def test_a_title_is_taken_apart_from_its_year(written, taken_apart):
    assert title_and_year(written) == taken_apart


@given(st.text(max_size=40))
def test_any_text_can_be_taken_apart(text):
    title, year, aliases = title_and_year(text)
    assert title == " ".join(title.split())
    assert year is None or 1870 <= year <= 2099
    assert title_and_year(title)[0] == title or year is None
    assert all(aliases)
    match_key(title)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Heron", "Heron"),
        ("Heron: Part II", "Heron 2"),
        ("Heron: Vol. 2", "Heron Volume Two"),
        ("Heron Chapter Two", "Heron 2"),
        ("Heron V", "Heron 5"),
        ("Heron: Episode I - Dawn", "Heron 1: Dawn"),
        ("Heron vs. Crow", "Heron v Crow"),
        ("Heron Versus Crow", "Heron vs Crow"),
        ("Heron's Twelve", "Herons 12"),
        ("Heron 3D", "Heron"),
        ("千と千尋", "千と千尋"),
    ],
)
def test_spellings_of_one_title_match(one, other):
    assert match_key(one) == match_key(other) != ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Heron II", "Heron III"),
        ("Heron X", "Heron 10"),  # a name, not a number
        ("V for Vole", "5 for Vole"),
        ("The", "A"),
        ("千と千尋 2", "七人 2"),  # what ASCII cannot hold tells them apart
        ("Part Two", "Two"),  # the whole title
        ("3D", "Heron"),
    ],
)
def test_other_titles_do_not_match(one, other):
    assert match_key(one) != match_key(other)

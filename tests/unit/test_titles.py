import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedtalk.titles import fold, natural_title, split_title, title_key


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

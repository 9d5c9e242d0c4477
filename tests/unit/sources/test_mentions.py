import pytest

from seedtalk.sources.mentions import Film, alias_table, find_mentions, unlisted_titles

FILMS = [
    Film("The Umbrella Auditors", (), 1983, 10.0),
    Film("Moth Liturgy", ("Liturgie des mites",), 1990, 10.0),
    Film("Storm", (), 1985, 10.0),
    Film("Storm II", (), 1988, 10.0),
    Film("Pudding Season: Return of the Whisk", (), 2001, 10.0),
    Film("1999", (), 1998, 10.0),
    Film("Half a Light Year Home", (), 1979, 10.0),
]
ALIASES = alias_table(FILMS)


def named(text):
    """Return {film number: (quoted, plain)} of what `text` names."""
    return {
        film: (mention.quoted, mention.plain)
        for alias, mention in find_mentions(text, ALIASES).items()
        for film, _ in ALIASES.films[alias]
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We saw The Umbrella Auditors twice.", {0: (0, 1)}),
        ("We saw Umbrella Auditors, and THE UMBRELLA AUDITORS again.", {0: (0, 1)}),
        ('"The umbrella auditors" is a gem.', {0: (1, 0)}),
        ("'Moth Liturgy', then \"Moth Liturgy.\"", {1: (2, 0)}),
        ("I prefer Liturgie des Mites.", {1: (0, 1)}),
        ("the umbrella auditors went home", {}),
        ("A light year home is far; Half a Light Year Home is farther.", {6: (0, 1)}),
        ("In Storm a boat sinks.", {2: (0, 1)}),
        ("Storm's captain", {}),
        ("Storm is loud.", {2: (0, 1)}),
        ("Storm clouds gather.", {}),
        ("We liked Storm II more", {3: (0, 1)}),
        ("We liked Storm 2 more", {3: (0, 1)}),
        ("We liked Storm III less", {}),
        ("Captain Storm came", {}),
        ("with Storm Petersen", {}),
        ("back in 1999 we", {}),
        ('seen "1999" twice', {5: (1, 0)}),
        ("then Return of the Whisk began", {4: (0, 1)}),
        ("nothing of the kind", {}),
        ("", {}),
    ],
)
def test_titles_are_found_where_they_stand_as_names(text, expected):
    assert named(text) == expected


def test_shouted_text_names_nothing_by_its_capitals():
    assert named("I SAW MOTH LITURGY AND IT WAS BAD BAD BAD") == {}
    assert named('I SAW "MOTH LITURGY" AND IT WAS BAD BAD BAD') == {1: (1, 0)}


def test_a_mention_carries_its_surroundings():
    (mention,) = find_mentions(
        'Well. Last week I saw "Moth Liturgy" (1990) with friends.', ALIASES
    ).values()
    assert (mention.before, mention.after, mention.year) == ("saw", "(", 1990)
    assert mention.position == 7  # quotation mark and full stop included
    (first,) = find_mentions("Moth Liturgy", ALIASES).values()
    assert (first.before, first.after, first.position, first.year) == ("", "", 0, None)


def test_titles_quoted_nearby_but_unlisted_are_learnt():
    texts = ['I saw "Goose Parade" today', "fine", 'Yes, "Goose Parade," is good', '"Moth Liturgy"']
    assert [film.title for film in unlisted_titles(texts, ALIASES, span=2)] == ["goose parade"]
    assert unlisted_titles(texts, ALIASES, span=1) == []
    assert unlisted_titles(['"Goose Parade" and "Goose Parade"'], ALIASES, span=5) == []
    assert unlisted_titles(['"Not that he cared"'] * 2, ALIASES, span=5) == []

"""Titles as catalogues file them, as people write them, and as they compare.

Film catalogues move a leading article to the end (``Matrix, The``), append alternative titles
in parentheses (``Departures (Okuribito)``), and after them the year, which alone tells a remake
from its original. `title_and_year` takes the three apart; `title_key` folds what writers vary
(case, accents, punctuation, numerals), and `match_key` the article before it, too.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

_ARTICLES = (
    "the a an "  # English
    "le la les l' un une des "  # French
    "el los las una "  # Spanish
    "il lo i gli uno "  # Italian
    "der die das den dem ein eine "  # German
    "det de en ett et "  # Scandinavian languages
    "het een 't "  # Dutch
    "o os as um uma"  # Portuguese
)
ARTICLES = frozenset(_ARTICLES.split())
LEADING_ARTICLES = frozenset({"the", "a", "an"})  # those that English writers drop or add

_MOVED_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>[^\s,]{1,4})$", re.DOTALL)
_KNOWN_AS = re.compile(r"^a\.?\s?k\.?\s?a\.?:?\s+", re.IGNORECASE)
_YEAR = r"(?:18[7-9]\d|19\d\d|20\d\d)"
# What stands behind a title to tell it from its namesakes: "(1995)", "(2006-2007)", "(2013- )",
# "(1999/II)" and "(I)" of IMDb, "(2017 film)" and "(TV series)" of Wikipedia; the last bracket
# is missing where a title was cut.
_MARK = re.compile(
    rf"""\s* [(\[] \s*
    (?: (?P<year>{_YEAR})
        (?: \s* [-\u2013\u2014/] \s* (?: {_YEAR} | [IVX]+ )? )?
        (?: \s [^()\[\]]* \b (?: film | movie | series | miniseries | special ) )?
      | film | (?: TV | web )? \s? (?: mini-? )? (?: movie | series ) | miniseries | TV (?:\sfilm)?
      | V | VG | [IVX]{{1,4}}
    ) \s* [)\]]? \s* $""",
    re.IGNORECASE | re.VERBOSE,
)
_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
# "i", "v" and "x" stay: "I, Robot", "V for Vendetta", "American History X".
ROMAN = {
    "ii": "2",
    "iii": "3",
    "iv": "4",
    "vi": "6",
    "vii": "7",
    "viii": "8",
    "ix": "9",
}
_ONE_LETTER = {"i": "1", "v": "5", "x": "10"}
_PART_WORDS = frozenset({"part", "pt", "volume", "vol", "chapter", "episode"})
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen twenty".split(),
        start=1,
    )
}
_LETTERS = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "Æ": "AE",
        "œ": "oe",
        "Œ": "OE",
        "ø": "o",
        "Ø": "O",
        "đ": "d",
        "Đ": "D",
        "ł": "l",
        "Ł": "L",
        "ı": "i",
        "ð": "d",
        "þ": "th",
        "’": "'",
        "‘": "'",
        "`": "'",
        "´": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "«": '"',
        "»": '"',
        "–": "-",
        "—": "-",
    }
)


def fold(text: str) -> str:
    """Return `text` in ASCII: accents dropped, ligatures opened, quotes and dashes plain.

    Case is kept. Characters of other scripts become spaces, so that words stay apart.
    """
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(
        char if char.isascii() else " "
        for char in decomposed.translate(_LETTERS)
        if not unicodedata.combining(char)
    )


def natural_title(title: str) -> str:
    """Move an article from the end to the front: ``Matrix, The`` becomes ``The Matrix``."""
    stripped = " ".join(title.split())
    match = _MOVED_ARTICLE.match(stripped)
    if match is None:
        return stripped
    article = match["article"].replace("’", "'")
    if article.lower() not in ARTICLES:
        return stripped
    return article + ("" if article.endswith("'") else " ") + match["rest"]


def split_title(title: str) -> tuple[str, tuple[str, ...]]:
    """Split a catalogue's title into its natural form and its alternative titles.

    Trailing groups in parentheses after a space are alternatives, nested ones included, with
    ``a.k.a.`` removed: ``FearDotCom (a.k.a. Fear.com) (a.k.a. Fear Dot Com)``. A group that
    opens the title belongs to it: ``(500) Days of Summer``.

    Returns
    -------
    (title, alternatives)
        All in natural order. The alternatives keep the order of the catalogue.
    """
    rest = " ".join(title.split())
    alternatives: list[str] = []
    while rest.endswith(")"):
        start = _opening(rest)
        if start < 1 or rest[start - 1] != " ":
            break
        inside = _KNOWN_AS.sub("", rest[start + 1 : -1].strip())
        if inside:
            alternatives.append(natural_title(inside))
        rest = rest[:start].rstrip()
    return natural_title(rest), tuple(reversed(alternatives))


def title_and_year(written: str) -> tuple[str, int | None, tuple[str, ...]]:
    """Take a catalogue's title apart: ``Seven (a.k.a. Se7en) (1995)``.

    The year is the last one that stands in brackets behind the title, of a span the first. A
    year of the title's own (``Blade Runner 2049``, ``1984 (1956)``) belongs to the title. Where
    nothing but a year in brackets is written, there is no title.

    Returns
    -------
    (title, year, alternatives)
        In natural order, as of `split_title`; the year is None where none is written.
    """
    rest = " ".join(unquote(written).split())  # ReDial's names are cut out of addresses
    year: int | None = None
    while (found := _MARK.search(rest)) and (found.start() > 0 or found["year"]):
        if found["year"] and year is None:
            year = int(found["year"])
        rest = rest[: found.start()]
    title, alternatives = split_title(rest)
    return title, year, alternatives


def title_key(title: str) -> tuple[str, ...]:
    """Return the tokens two spellings of one title share.

    Lower-case ASCII words and numbers; ``&`` reads ``and``, apostrophes vanish, Roman numerals
    after the first word become digits. Empty where nothing of it can be written in ASCII.
    """
    return tuple(key_tokens(_TOKEN.findall(fold(title).lower().replace("&", " and "))))


def match_key(title: str) -> tuple[str, ...]:
    """Return the key by which titles of several catalogues are held against each other.

    As `title_key`, and beyond it: without a leading English article or a closing ``3D``; numbers
    up to twenty written out, and Roman ones wherever they number a part, are digits, and the word
    before them goes (``Kill Bill: Vol. 2``, ``It Chapter Two``, ``Rocky V``); ``v`` and ``versus``
    read ``vs``. A title that cannot be written in ASCII is compared as it stands, case aside; only
    a title without any letter or digit has no key.
    """
    if any(char.isalnum() and not fold(char).strip() for char in title):
        return tuple(title.casefold().split())
    tokens = list(without_article(title_key(title)))
    if len(tokens) > 1 and tokens[-1] == "3d":
        tokens.pop()
    last = len(tokens) - 1
    key: list[str] = []
    for place, word in enumerate(tokens):
        counted = bool(key) and key[-1] in _PART_WORDS
        if counted or (word == "v" and place == last > 0):
            word = _ONE_LETTER.get(word, word)
        word = _NUMBER_WORDS.get(word, word)
        if counted and word.isdigit() and len(key) > 1:
            key.pop()
        key.append("vs" if word in {"v", "versus"} and 0 < place < last else word)
    return tuple(key)


def without_article(key: tuple[str, ...]) -> tuple[str, ...]:
    """Return a key without its leading English article, where more than that is left."""
    return key[1:] if len(key) > 1 and key[0] in LEADING_ARTICLES else key


def key_tokens(tokens: list[str]) -> list[str]:
    """Fold lower-case ASCII tokens (words, possibly with apostrophes) as `title_key` does."""
    return [
        ROMAN.get(token, token) if place else token
        for place, token in enumerate(token.replace("'", "") for token in tokens)
    ]


def _opening(text: str) -> int:
    """Return where the group closed by the last character opens; -1 when it never does."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] == ")") - (text[place] == "(")
        if depth == 0:
            return place
    return -1

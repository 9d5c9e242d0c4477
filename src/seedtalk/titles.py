"""Titles as catalogues file them, as people write them, and as they compare.

Film catalogues move a leading article to the end (``Matrix, The``) and append alternative titles
in parentheses (``Departures (Okuribito)``). `split_title` gives the natural form and the
alternatives; `title_key` folds what writers vary (case, accents, punctuation, numerals).
"""

from __future__ import annotations

import re
import unicodedata

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


def title_key(title: str) -> tuple[str, ...]:
    """Return the tokens two spellings of one title share.

    Lower-case ASCII words and numbers; ``&`` reads ``and``, apostrophes vanish, Roman numerals
    after the first word become digits. Empty where nothing of it can be written in ASCII.
    """
    return tuple(key_tokens(_TOKEN.findall(fold(title).lower().replace("&", " and "))))


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

"""Find catalogue titles that a review names.

A title is matched on its folded tokens (`titles.title_key`), the longest first, where it is
quoted or capitalised like a name. What surrounds it (the words next to it, how early and how
often it comes) is kept as evidence for `linking`: "I saw Heat" and "a film like Heat" differ.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from seedtalk.titles import LEADING_ARTICLES, ROMAN, fold, title_key

# How surely a form of a title names its film, against the whole title (1.0). Rough on purpose:
# the evidence of the corpus outweighs them.
FULL, ALTERNATIVE, SUBTITLE, BARE, HEAD = 1.0, 0.7, 0.5, 0.5, 0.3

SMALL_WORDS = frozenset(
    (
        "a an and as at but by for from in into is it of off on or the to up with vs de la le du "
        "des et der die das von und el los las y il di"
    ).split()
)
# A sentence's first word is capitalised anyway; with one of these after it, it may be a title.
_SUBJECT_VERBS = frozenset("is was has had isn't wasn't tells stars follows starts begins".split())
_SEQUEL_MARKS = frozenset({"II", "III", "IV", "V", "VI", "Part", "part"})
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:'[A-Za-z0-9]+)*|[^\sA-Za-z0-9]")
_SUBTITLE = re.compile(r":\s|\s-\s")
_QUOTED = re.compile(r'"([A-Z0-9][^"\n]{1,70}?)[,.!?]?"')
_YEAR = re.compile(r"(?:19|20)\d\d")
_QUOTES = "\"'"
_STOPS = ".!?"
_INSIDE = ":,-.!'\"/"  # punctuation a title may hold
_SHOUTED = 0.3  # share of all-capital tokens above which capitals say nothing
_LONGEST_QUOTE = 9  # words; longer quotations are lines of dialogue


@dataclass(frozen=True)
class Film:
    """A title of the catalogue.

    Attributes
    ----------
    title, alternatives
        In natural order.
    year
        Of release, or None.
    popularity
        Any count that grows with how often people write about the film (votes, ratings).
    """

    title: str
    alternatives: tuple[str, ...]
    year: int | None
    popularity: float


class Mention(NamedTuple):
    """How one review names one alias."""

    quoted: int  # times in quotation marks
    plain: int  # times capitalised only
    position: int  # of the first, in tokens (words and signs) from the start
    before: str  # lower-case word or sign before the first; "" at a sentence's start
    after: str  # the same after it; "" at the end of the text
    year: int | None  # directly after a mention: "Heat" (1995)


@dataclass(frozen=True)
class Aliases:
    """Spellings of titles and the films they may mean.

    Attributes
    ----------
    ids
        Alias number of every key.
    films
        For each alias the (film, weight) pairs it may mean.
    lengths
        For a key's first token the lengths of all keys that start with it, longest first.
    """

    ids: dict[tuple[str, ...], int]
    films: list[list[tuple[int, float]]]
    lengths: dict[str, list[int]]


def alias_table(films: Sequence[Film]) -> Aliases:
    """Index every spelling of every film."""
    table: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for number, film in enumerate(films):
        for key, weight in _spellings(film).items():
            table.setdefault(key, []).append((number, weight))
    lengths: dict[str, set[int]] = defaultdict(set)
    for key in table:
        lengths[key[0]].add(len(key))
    return Aliases(
        ids={key: number for number, key in enumerate(table)},
        films=list(table.values()),
        lengths={first: sorted(found, reverse=True) for first, found in lengths.items()},
    )


def unlisted_titles(texts: Iterable[str], listed: Aliases, span: int) -> list[Film]:
    """Return quoted phrases that look like titles and are in no catalogue.

    A film that the catalogue lacks would otherwise lose its reviews to a film they compare it
    with. A phrase counts when two reviews no more than `span` rows apart quote it.
    """
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, text in enumerate(texts):
        for match in _QUOTED.finditer(fold(text)):
            words = match[1].split()
            if len(words) > _LONGEST_QUOTE or not all(map(_titled, words)):
                continue
            key = title_key(match[1])
            if len("".join(key)) > 2 and key not in listed.ids:
                seen = rows.setdefault(key, [])
                if not seen or seen[-1] != row:
                    seen.append(row)
    return [
        Film(" ".join(key), (), None, 0.0)
        for key, seen in rows.items()
        if any(b - a <= span for a, b in pairwise(seen))
    ]


def find_mentions(text: str, aliases: Aliases) -> dict[int, Mention]:
    """Return the aliases that `text` names, each with its evidence."""
    tokens = _TOKEN.findall(fold(text).replace("&", " and "))
    words = [token.lower().replace("'", "") for token in tokens]
    shouted = sum(t.isupper() and len(t) > 1 for t in tokens) > _SHOUTED * len(tokens)
    found: dict[int, Mention] = {}
    free = 0  # tokens before it belong to a mention already
    for start, word in enumerate(words):
        lengths = aliases.lengths.get(word)
        if lengths is None or start < free:
            continue
        opened = start > 0 and tokens[start - 1] in _QUOTES
        if not opened and (shouted or not _capital(tokens[start])):
            continue
        match = _match(tokens, words, start, lengths, aliases.ids)
        if match is None:
            continue
        alias, last = match
        end = last + 1
        quoted = opened and _closes(tokens, end, tokens[start - 1])
        if not quoted and (shouted or not _names(tokens, words, start, end)):
            continue
        free = end
        known = found.get(alias)
        if known is None:
            known = Mention(
                0,
                0,
                start,
                _neighbour(tokens, start - 1, -1),
                _neighbour(tokens, end, 1),
                None,
            )
        found[alias] = known._replace(
            quoted=known.quoted + quoted,
            plain=known.plain + (not quoted),
            year=_year_after(tokens, end) or known.year,
        )
    return found


def _spellings(film: Film) -> dict[tuple[str, ...], float]:
    """Return every key a writer may use for `film`, with the surest weight of each."""
    found: dict[tuple[str, ...], float] = {}

    def add(key: tuple[str, ...], weight: float) -> None:
        if key:
            found.setdefault(key, weight)

    titles = (film.title, *film.alternatives)
    add(title_key(film.title), FULL)
    for alternative in film.alternatives:
        add(title_key(alternative), ALTERNATIVE)
    for title in titles:
        parts = _SUBTITLE.split(title)
        if len(parts) > 1:
            add(title_key(parts[0]), HEAD)
            if len(title_key(parts[-1])) > 1:
                add(title_key(parts[-1]), SUBTITLE)
    for key, weight in list(found.items()):
        if len(key) > 1 and key[0] in LEADING_ARTICLES:
            add(key[1:], weight if len(key) > 2 else weight * BARE)
    return found


def _match(
    tokens: list[str],
    words: list[str],
    start: int,
    lengths: list[int],
    ids: dict[tuple[str, ...], int],
) -> tuple[int, int] | None:
    """Return (alias, its last token) of the longest title that starts at `start`."""
    places = [start]
    for place in range(start + 1, min(len(tokens), start + 2 * lengths[0] + 2)):
        if len(places) == lengths[0]:
            break
        if tokens[place][0].isalnum():
            places.append(place)
        elif tokens[place] not in _INSIDE:
            break
    key = [words[start], *(ROMAN.get(words[place], words[place]) for place in places[1:])]
    for length in lengths:
        if length > len(places):
            continue
        last = places[length - 1]
        alias = ids.get(tuple(key[:length]))
        if alias is None and tokens[last].endswith("'s"):
            alias = ids.get((*key[: length - 1], tokens[last][:-2].lower().replace("'", "")))
        if alias is not None:
            return alias, last
    return None


def _names(tokens: list[str], words: list[str], start: int, end: int) -> bool:
    """Tell whether the unquoted tokens [start, end) stand as a name of their own."""
    span = range(start, end)
    parts = [place for place in span if tokens[place][0].isalnum()]
    if not all(_capital(tokens[place]) or words[place] in SMALL_WORDS for place in parts):
        return False
    if any(tokens[place] in '.!"' for place in span):
        return False
    following = tokens[end] if end < len(tokens) else ""
    first = start == 0 or tokens[start - 1] in _STOPS
    if len(parts) == 1:
        if tokens[start][0].isdigit():
            return False
        if first and following.lower() not in _SUBJECT_VERBS:
            return False
    if following in _SEQUEL_MARKS or (following.isdigit() and len(following) < 3):
        return False
    if following[:1].isupper():  # within a longer name
        return False
    return first or not tokens[start - 1][0].isupper() or words[start - 1] in SMALL_WORDS


def _capital(token: str) -> bool:
    return token[0].isupper() or token[0].isdigit()


def _titled(word: str) -> bool:
    bare = word.strip(",:;-")
    return not bare or not bare[0].isalnum() or _capital(bare) or bare.lower() in SMALL_WORDS


def _closes(tokens: list[str], place: int, quote: str) -> bool:
    while place < len(tokens) and tokens[place] in ",.!?":
        place += 1
    return place < len(tokens) and tokens[place] == quote


def _neighbour(tokens: list[str], place: int, step: int) -> str:
    while 0 <= place < len(tokens) and tokens[place] in _QUOTES:
        place += step
    if not 0 <= place < len(tokens):
        return ""
    token = tokens[place]
    return "" if step < 0 and token in _STOPS else token.lower()


def _year_after(tokens: list[str], end: int) -> int | None:
    after = [token for token in tokens[end : end + 3] if token not in _QUOTES]
    if len(after) > 1 and after[0] == "(" and _YEAR.fullmatch(after[1]):
        return int(after[1])
    return None

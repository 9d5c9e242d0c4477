"""A catalogue of titles: which item a written title means, and which titles a text names."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from seedtalk.records import display_title
from seedtalk.titles import (
    fold,
    key_tokens,
    match_key,
    title_and_year,
    title_key,
    without_article,
)

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, ...]

YEAR_SLACK = 1  # sources differ by a year on release dates; a remake is further away
LETTERS_PER_EDIT = 8  # one wrong letter in eight, two in sixteen or more
MAX_EDITS = 2
NEAR = 80.0  # per cent of two titles' letters in common (indel ratio), of a near miss

_YEAR = re.compile(r"\s*[\[(,]\s*(1[89]\d\d|20\d\d)\s*[\])]?\s*$")
_WORD = re.compile(r"[A-Za-z0-9]+(?:'[A-Za-z0-9]+)*")
_YEAR_AFTER = re.compile(r"[!?.]*\s*\(\d{4}\)")
_SUBTITLE = re.compile(r"\s*:\s+|\s+-\s+")
_SENTENCE_END = re.compile(r"(?:^|[.!?:][\"')\]]*)\s*[\"'(\[]*$")


@dataclass(frozen=True)
class Link:
    """The item a written title means."""

    item_id: str
    exact: bool  # the same title once folded; else a letter or two differ


class Catalogue:
    """The items of a domain, looked up by title.

    Parameters
    ----------
    items
        Table with item_id, title and year (see `seedtalk.records.ITEMS`).
    """

    def __init__(self, items: pd.DataFrame) -> None:
        import pandas as pd

        self._items: dict[str, tuple[str, int | None]] = {}
        self._by_key: defaultdict[Key, list[str]] = defaultdict(list)
        self._by_match: defaultdict[Key, list[str]] = defaultdict(list)
        for item, title, year in zip(items["item_id"], items["title"], items["year"], strict=True):
            known = None if pd.isna(year) else int(year)
            self._items[item] = (title, known)
            for key in {_key(title), without_article(_key(title))}:
                self._by_key[key].append(item)
            self._by_match[match_key(title)].append(item)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    def display(self, item_id: str) -> str:
        """Return the title as it is shown and generated: ``Heat (1995)``."""
        return display_title(*self._items[item_id])

    def link(self, title: str) -> str | None:
        """Return the item `title` means, or None where the catalogue has no such title."""
        found = self.match(title)
        return found.item_id if found else None

    def match(self, title: str) -> Link | None:
        """Return the item `title` means and how surely, or None.

        The title is compared folded (case, accents, punctuation, leading article), then by
        `titles.match_key`, a moved article and alternatives in brackets taken off. A written
        year must agree within a year: a remake is another film. What has no equal is compared
        by edit distance, one letter in eight; numbers must agree (``Rocky II`` is not
        ``Rocky III``). Ties: the nearest year, else the newest, then the lowest id.
        """
        readings = _readings(title)
        for name, year in readings:
            if item := self._equal(name, year):
                return Link(item, exact=True)
        for name, year in readings:
            if item := self._misspelt(_key(name), year):
                return Link(item, exact=False)
        return None

    def nearest(self, title: str) -> str | None:
        """Return the item a title that links to none may have been meant for: a near miss.

        That is one of the same title from another year, or else the one with most letters in
        common, `NEAR` per cent at least.
        """
        from rapidfuzz import fuzz, process

        written = _YEAR.sub("", " ".join(title.split())) or title
        item = self._equal(written, None) or self._misspelt(_key(written), None)
        if item is not None:
            return item
        near = process.extractOne(
            " ".join(_key(written)), self._spelt, scorer=fuzz.ratio, score_cutoff=NEAR
        )
        return min(self._by_key[tuple(near[0].split())]) if near else None

    def names(self, text: str, item_id: str) -> bool:
        """Tell whether `text` names the item: by its title or the part before its subtitle.

        Titles of several words count in any case. One word counts where it has four letters or
        more, or stands capitalised within a sentence: a shorter one (``It``, ``Her``) is
        mostly just a word.
        """
        title = self._items[item_id][0]
        variants = set(_spellings(title))
        main = _SUBTITLE.split(title, maxsplit=1)[0]
        for key in _spellings(main):
            if len(key) > 1 or (key and len(key[0]) > 4):
                variants.add(key)
        # "spiderman", "starwars": people run words together.
        variants |= {("".join(key),) for key in variants if len(key) > 1}
        folded = fold(text).replace("&", " and ")
        for possessive in (False, True):
            plain = re.sub(r"'s\b", "", folded) if possessive else folded
            words = list(_WORD.finditer(plain))
            tokens = key_tokens([w[0].lower() for w in words])
            for key in variants:
                for start in _occurrences(tokens, key):
                    if len(key) > 1 or len(key[0]) > 3 or _proper(plain, words[start]):
                        return True
        return False

    def mask(self, text: str) -> str:
        """Return `text` folded to ASCII with every title of the catalogue cut out as ``|``.

        A title must begin with a capital (or digit) to count, the longest one wins, a year in
        brackets goes with it, and ``&`` reads "and". Used before texts are compared: two people
        who name the same five titles have not copied from each other.
        """
        folded = fold(text).replace("&", " and ")
        words = list(_WORD.finditer(folded))
        tokens = key_tokens([w[0].lower() for w in words])
        pieces, last, place = [], 0, 0
        while place < len(words):
            length = 0
            if not words[place][0][0].islower():
                length = next(
                    (
                        size
                        for size in self._sizes.get(tokens[place], ())
                        if place + size <= len(words)
                        and tuple(tokens[place : place + size]) in self._forms
                    ),
                    0,
                )
            if not length:
                place += 1
                continue
            pieces += [folded[last : words[place].start()], "|"]
            last = words[place + length - 1].end()
            if year := _YEAR_AFTER.match(folded, last):
                last = year.end()
            place += length
            while place < len(words) and words[place].start() < last:
                place += 1
        return "".join([*pieces, folded[last:]])

    @cached_property
    def _forms(self) -> frozenset[Key]:
        # Within a text a numeral is folded wherever it stands; so is the first word here.
        folded = (tuple(key_tokens(["", *key])[1:]) for key in self._by_key)
        return frozenset(form for form in (*self._by_key, *folded) if form)

    @cached_property
    def _sizes(self) -> dict[str, list[int]]:
        """Words of the titles that begin with a word, the most first."""
        index: defaultdict[str, set[int]] = defaultdict(set)
        for form in self._forms:
            index[form[0]].add(len(form))
        return {first: sorted(sizes, reverse=True) for first, sizes in index.items()}

    def _equal(self, name: str, year: int | None) -> str | None:
        """Return the item of an equal title: as written before as `match_key` reads it."""
        key = _key(name)
        for found in (
            self._by_key.get(key),
            self._by_key.get(without_article(key)),
            self._by_match.get(match_key(name)),
        ):
            if found and (item := self._nearest_year(found, year)):
                return item
        return None

    def _nearest_year(self, found: list[str], year: int | None) -> str | None:
        """Return the best of the items of one title, by the year written."""

        def rank(item: str) -> tuple[int, int, str]:
            own = self._items[item][1]
            away = YEAR_SLACK + 1 if own is None or year is None else abs(own - year)
            return away, -(own or 0), item

        fitting = [
            item
            for item in found
            if year is None
            or (own := self._items[item][1]) is None
            or abs(own - year) <= YEAR_SLACK
        ]
        return min(fitting, key=rank, default=None)

    def _misspelt(self, key: Key, year: int | None) -> str | None:
        from rapidfuzz import process
        from rapidfuzz.distance import DamerauLevenshtein

        written = " ".join(key)
        edits = min(MAX_EDITS, len(written) // LETTERS_PER_EDIT)
        if edits == 0:
            return None
        near = process.extract(
            written,
            self._spelt,
            scorer=DamerauLevenshtein.distance,
            score_cutoff=edits,
            limit=None,
        )
        ranked = sorted((int(distance), spelling) for spelling, distance, _ in near)
        for _, spelling in ranked:
            candidate = tuple(spelling.split())
            same_numbers = _numbers(candidate) == _numbers(key)
            if same_numbers and (item := self._nearest_year(self._by_key[candidate], year)):
                return item
        return None

    @cached_property
    def _spelt(self) -> list[str]:
        return sorted(" ".join(key) for key in self._by_key)


def _key(title: str) -> Key:
    # Titles in other scripts have no ASCII form: compared as they stand.
    return title_key(title) or tuple(title.casefold().split())


def _readings(title: str) -> list[tuple[str, int | None]]:
    """Return what a written title may mean, likeliest first: name and year."""
    written = " ".join(title.split())
    found = _YEAR.search(written)
    readings: list[tuple[str, int | None]] = []
    if found and found.start() > 0:
        readings.append((written[: found.start()], int(found[1])))
    # The year may be the title's own: "Death Race, 2000".
    readings.append((written, None))
    name, year, others = title_and_year(written)
    readings += [(other, year) for other in (name, *others) if other]
    return list(dict.fromkeys(readings))


def _spellings(title: str) -> list[Key]:
    keys = [_key(title), _key(re.sub(r"['’]s\b", "", title))]
    return [form for key in keys for form in (key, without_article(key)) if form]


def _occurrences(tokens: list[str], key: Key) -> list[int]:
    size = len(key)
    return [i for i in range(len(tokens) - size + 1) if tuple(tokens[i : i + size]) == key]


def _proper(text: str, word: re.Match[str]) -> bool:
    """Tell whether a word is capitalised where no sentence begins."""
    return word[0][0].isupper() and not _SENTENCE_END.search(text[: word.start()])


def _numbers(key: Key) -> list[str]:
    return [token for token in key if any(c.isdigit() for c in token)]

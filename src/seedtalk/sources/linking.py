"""Link reviews that carry no item id to the films they are about.

The rows of the corpus keep an order in which neighbours are mostly about one film, and a review
names its film often, but other films too: sequels, remakes, comparisons. The linker is a hidden
Markov model over the rows. Its state is the film a row is about, or none that is named nearby.

*Staying.* Whether rows t-1 and t are about one film shows in the rare names they share
(characters, actors). The probability of staying is learnt for each level of that overlap.

*Emission.* A film's own title is named otherwise than a title in passing: quoted, early, often,
after "saw", before "is". For each of these features F the tables P(F | own) and P(F | passing)
are learnt; their product ratio is the evidence of one mention. What matters is not that a rare
title is named at all: a sequel's reviews name the first film in a burst. So a mention is set
against the rate at which the neighbouring rows of the same run name that title, and a row that
does not name it counts against it.

*Entering.* A burst of mentions is a film's own in few cases: at most a run or two in the
corpus. The odds fall with the number of bursts, and films that share a title share them by
popularity.

All tables are learnt on the corpus itself by expectation-maximisation (Baum-Welch); no labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from seedtalk.progress import bar, track
from seedtalk.sources.mentions import (
    Aliases,
    Film,
    Mention,
    alias_table,
    find_mentions,
    unlisted_titles,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

# Posterior a link must reach. Strict aims at 97% right links and balanced at 90%.
THRESHOLDS = {"strict": 0.999, "balanced": 0.9}

ROUNDS = 4  # of expectation-maximisation; the tables move little after the third
RUN = 30  # the corpus holds at most 30 reviews of a film and polarity, so no run is longer
BLOCK = 150  # rows decided at once; the margins on both sides hold a whole run
MARGIN = RUN + 10
NAMES_WINDOW = 3  # rows on each side whose names are compared across a border
BURST_GAP = 5  # rows without a mention that end a burst
COMMON_NAME = 0.01  # share of the reviews above which a name tells nothing
COMMON_TITLE = 0.02  # share above which an unquoted title is a plain word ("It", "Hollywood")
FEWEST = 2 * RUN  # floor of both limits in small corpora: one film's reviews may all name it
CONTEXT_WORDS = 60  # neighbouring words told apart, the most frequent ones
OWN_BURSTS = 0.1  # bursts of a title that are its own film's, over all bursts in the corpus
OWN_YEAR = 0.1  # share of reviews that state their film's year
YEAR_EVIDENCE = 3.0  # at most; a remake's reviews also state the year of the first film
# Names shared across a border, in nats of rarity: the first bin is none at all.
OVERLAPS = (0.01, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
_POSITIONS = (9, 26, 80)  # tokens from the start: opening sentence, opening lines, first third
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]{2,}\b")
_YEAR = re.compile(r"(?<!\d)(19\d\d|20[01]\d)(?!\d)")


@dataclass(frozen=True)
class Links:
    """What the linker believes of each row.

    Attributes
    ----------
    film : (N,) int64
        The likeliest film of each row (its place in the catalogue); -1 where no film is named
        nearby or the likeliest is an unlisted one.
    posterior : (N,) float64
        Probability of that film.
    named : (N,) float64
        Probability that the row is about any film named nearby.
    """

    film: Integers
    posterior: Array
    named: Array

    def accepted(self, linking: str) -> npt.NDArray[np.bool_]:
        """Return which rows are linked at the level `linking` (a key of `THRESHOLDS`)."""
        return (self.film >= 0) & (self.posterior >= THRESHOLDS[linking])


class _Evidence(NamedTuple):
    """One mention in one row: its features and the films it may mean."""

    features: tuple[int, ...]
    films: list[tuple[int, float]]


@dataclass
class _Tables:
    """What expectation-maximisation learns."""

    own: list[Array]  # P(feature | the film's own title)
    passing: list[Array]  # P(feature | another film's title)
    naming: float  # P(a review names its film)
    stay: Array  # (N,) P(row is about the film of the row before it)


def link(texts: Sequence[str], films: Sequence[Film]) -> Links:
    """Link reviews, in the corpus's order, to films.

    Parameters
    ----------
    texts
        N plain-text reviews; neighbours are likely about one film.
    films
        The catalogue, competitor titles included: a film that is not to be kept still keeps
        its reviews from being linked to another.
    """
    import numpy as np

    if not texts:
        none = np.zeros(0)
        return Links(none.astype(np.int64), none, none)
    films = [*films, *(unlisted := unlisted_titles(texts, alias_table(films), RUN))]
    listed = len(films) - len(unlisted)
    aliases = alias_table(films)
    mentions = [find_mentions(text, aliases) for text in track(texts, "finding titles")]
    rows, entering = _evidence(mentions, aliases, films, listed)
    years = [sorted(set(map(int, _YEAR.findall(text)))) for text in texts]
    overlap = np.digitize(_overlaps(texts), OVERLAPS)
    tables = _start(overlap)
    film_years = np.array([film.year or 0 for film in films])
    year_evidence = {
        year: float(min(max(OWN_YEAR * len(texts) / count, 1.0), YEAR_EVIDENCE))
        for year, count in Counter(year for found in years for year in found).items()
    }
    with bar("linking reviews", ROUNDS * len(texts)) as shown:
        for _ in range(ROUNDS):
            pass_ = _Pass(len(texts), tables)
            for start in range(0, len(texts), BLOCK):
                pass_.block(start, rows, entering, years, film_years, year_evidence, overlap)
                shown.advance(min(BLOCK, len(texts) - start))
            tables = pass_.learnt(overlap)
    film = pass_.film
    film[film >= listed] = -1
    return Links(film, pass_.posterior, pass_.named)


def _evidence(
    mentions: Sequence[dict[int, Mention]],
    aliases: Aliases,
    films: Sequence[Film],
    listed: int,
) -> tuple[list[list[_Evidence]], dict[int, float]]:
    """Turn mentions into features, and give each named film its probability of entering."""
    import numpy as np

    before = _frequent(mention.before for found in mentions for mention in found.values())
    after = _frequent(mention.after for found in mentions for mention in found.values())
    plain = Counter(
        alias for found in mentions for alias, mention in found.items() if not mention.quoted
    )
    limit = max(COMMON_TITLE * len(mentions), FEWEST)
    popularity = np.sqrt([film.popularity + 1.0 for film in films])
    popularity[listed:] = np.median(popularity[:listed]) if listed else 1.0
    rows: list[list[_Evidence]] = []
    bursts: Counter[int] = Counter()
    latest: dict[int, int] = {}
    for row, found in enumerate(mentions):
        kept = []
        for alias, mention in found.items():
            if not mention.quoted and plain[alias] > limit:
                continue
            if row - latest.get(alias, -BURST_GAP - 1) > BURST_GAP:
                bursts[alias] += 1
            latest[alias] = row
            meant = [
                (film, weight)
                for film, weight in aliases.films[alias]
                if not _contradicts(mention.year, films[film].year)
            ]
            if meant:
                kept.append(_Evidence(_features(mention, before, after), meant))
        rows.append(kept)
    entering: dict[int, float] = {}
    for alias, count in bursts.items():
        shared = sum(popularity[film] for film, _ in aliases.films[alias])
        for film, weight in aliases.films[alias]:
            share = weight * OWN_BURSTS / count * popularity[film] / shared
            entering[film] = max(entering.get(film, 0.0), float(share))
    return rows, entering


def _contradicts(stated: int | None, year: int | None) -> bool:
    """Tell whether a title's stated year is another film's; catalogues differ by a year."""
    return stated is not None and year is not None and abs(stated - year) > 1


def _frequent(words: object) -> dict[str, int]:
    """Number the most frequent words from 1; ties in alphabetical order."""
    counts = Counter(words)  # type: ignore[call-overload]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:CONTEXT_WORDS]
    return {word: number for number, word in enumerate(ranked, start=1)}


_SIZES = (6, len(_POSITIONS) + 1, CONTEXT_WORDS + 1, CONTEXT_WORDS + 1)


def _features(
    mention: Mention, before: dict[str, int], after: dict[str, int]
) -> tuple[int, int, int, int]:
    times = min(mention.quoted + mention.plain, 3) - 1
    return (
        times + (3 if mention.quoted else 0),
        sum(mention.position >= limit for limit in _POSITIONS),
        before.get(mention.before, 0),
        after.get(mention.after, 0),
    )


def _overlaps(texts: Sequence[str]) -> Array:
    """Return, for each row, the rarity of the names shared across the border before it.

    The best pair among the `NAMES_WINDOW` rows on each side, so that one review without names
    does not cut a run.
    """
    import numpy as np

    names = [{name.lower() for name in _NAME.findall(text)} for text in texts]
    counts = Counter(name for found in names for name in found)
    limit = max(COMMON_NAME * len(texts), FEWEST)
    rarity = {n: float(np.log(limit / c)) + 0.5 for n, c in counts.items() if 2 <= c <= limit}
    rare = [found & rarity.keys() for found in names]
    overlap = np.zeros(len(texts))
    for row in range(1, len(texts)):
        overlap[row] = max(
            sum(rarity[name] for name in sorted(left & right))
            for left in rare[max(0, row - NAMES_WINDOW) : row]
            for right in rare[row : row + NAMES_WINDOW]
        )
    return overlap


def _start(overlap: Integers) -> _Tables:
    """Return first guesses: repeated or quoted titles and shared names speak for one film."""
    import numpy as np

    own = [np.full(size, 1 / size) for size in _SIZES]
    passing = [np.full(size, 1 / size) for size in _SIZES]
    own[0] = np.array([1.0, 2.0, 4.0, 3.0, 6.0, 12.0]) / 28.0
    passing[0] = np.array([6.0, 1.0, 0.5, 3.0, 0.5, 0.3]) / 11.3
    guess = 1 - np.exp(-0.4 * (np.arange(len(OVERLAPS) + 1) + 0.4))
    stay = guess[overlap]
    stay[0] = 0.0
    return _Tables(own, passing, 0.5, stay)


class _Pass:
    """One round: decide every row with `tables`, and count what the next tables are made of."""

    def __init__(self, length: int, tables: _Tables) -> None:
        import numpy as np

        self.tables = tables
        self.film = np.full(length, -1, dtype=np.int64)
        self.posterior = np.zeros(length)
        self.named = np.zeros(length)
        # A count of one each keeps an unseen feature from deciding alone.
        self._own = [np.ones(size) for size in _SIZES]
        self._passing = [np.ones(size) for size in _SIZES]
        self._stays = np.ones(len(OVERLAPS) + 1)
        self._borders = np.full(len(OVERLAPS) + 1, 2.0)
        self._naming = [1.0, 2.0]  # rows that name their film, rows about a named film

    def block(
        self,
        start: int,
        rows: Sequence[Sequence[_Evidence]],
        entering: dict[int, float],
        years: Sequence[Sequence[int]],
        film_years: Integers,
        year_evidence: dict[int, float],
        overlap: Integers,
    ) -> None:
        """Decide rows [start, start + BLOCK) by forward-backward over them and their margins."""
        import numpy as np

        length = len(self.film)
        low, high = max(0, start - MARGIN), min(length, start + BLOCK + MARGIN)
        films = sorted({f for row in rows[low:high] for seen in row for f, _ in seen.films})
        column = {film: place for place, film in enumerate(films)}
        stay = self.tables.stay[low:high].copy()
        stay[0] = 0.0
        named = np.zeros((high - low, len(films)))
        ratio = np.zeros((high - low, len(films)))
        for place, row in enumerate(rows[low:high]):
            for seen in row:
                evidence = self._ratio(seen.features)
                for film, weight in seen.films:
                    at = column[film]
                    named[place, at] = 1.0
                    ratio[place, at] = max(ratio[place, at], weight * evidence)
        emission = np.ones((high - low, len(films) + 1))  # the last state: no film named nearby
        rate, near = _neighbourhood(named, stay)
        naming = self.tables.naming
        emission[:, :-1] = np.where(
            named > 0, naming * ratio / rate, (1 - naming) / (1 - np.minimum(rate, 0.8))
        )
        where = film_years[films]
        for place, found in enumerate(years[low:high]):
            for year in found:
                emission[place, :-1][where == year] *= year_evidence[year]
        entry = np.ones((high - low, len(films) + 1))
        entry[:, :-1] = near * [entering[film] for film in films]
        entry /= entry.sum(axis=1, keepdims=True)
        posterior, stays = _forward_backward(emission, entry, stay)

        inner = slice(start - low, min(start + BLOCK, length) - low)
        self.named[start : start + BLOCK] = 1 - posterior[inner, -1]
        for place in range(start, min(start + BLOCK, length)):
            believed = posterior[place - low]
            if films:
                best = int(believed[:-1].argmax())
                self.film[place] = films[best]
                self.posterior[place] = believed[best]
            if place:
                self._stays[overlap[place]] += stays[place - low]
                self._borders[overlap[place]] += 1
            self._naming[0] += float(believed[:-1] @ named[place - low])
            self._naming[1] += float(believed[:-1].sum())
            for seen in rows[place]:
                share = max(believed[column[film]] for film, _ in seen.films)
                for table, other, value in zip(
                    self._own, self._passing, seen.features, strict=True
                ):
                    table[value] += share
                    other[value] += 1 - share

    def learnt(self, overlap: Integers) -> _Tables:
        """Return the tables that this round's posteriors make likeliest."""
        stay = (self._stays / self._borders)[overlap]
        stay[0] = 0.0
        return _Tables(
            own=[table / table.sum() for table in self._own],
            passing=[table / table.sum() for table in self._passing],
            naming=self._naming[0] / self._naming[1],
            stay=stay,
        )

    def _ratio(self, features: tuple[int, ...]) -> float:
        product = 1.0
        for own, passing, value in zip(self.tables.own, self.tables.passing, features, strict=True):
            product *= float(own[value] / passing[value])
        return product


def _neighbourhood(named: Array, stay: Array) -> tuple[Array, Array]:
    """Return how often, and whether at all, the other rows of a row's run name each film.

    Parameters
    ----------
    named : (T, S)
        1 where a row names a film.
    stay : (T,)
        Probability that a row continues the run of the row before it; other rows count with
        the product of these along the way.

    Returns
    -------
    rate : (T, S)
        Of the other rows of the run, smoothed by half a mention in one row.
    near : (T, S)
        Weight of the nearest row that names the film, the row itself included.
    """
    import numpy as np

    length = len(named)
    mentions = np.zeros_like(named)
    weight = np.zeros(length)
    near = named.copy()
    sweeps = (
        (range(1, length), -1, stay),
        (range(length - 2, -1, -1), 1, np.append(stay[1:], 0.0)),
    )
    for order, step, border in sweeps:
        total, rows = np.zeros(named.shape[1]), 0.0
        for row in order:
            total = border[row] * (total + named[row + step])
            rows = border[row] * (rows + 1.0)
            mentions[row] += total
            weight[row] += rows
            near[row] = np.maximum(near[row], border[row] * near[row + step])
    rate = (mentions + 0.5) / (weight[:, None] + 1.0)
    return np.clip(rate, 0.02, 0.95), near


def _forward_backward(emission: Array, entry: Array, stay: Array) -> tuple[Array, Array]:
    """Return the posteriors of a chain that stays or enters a state anew.

    Parameters
    ----------
    emission, entry : (T, S)
        Likelihood of a row under a state; probability of the state where a run begins.
    stay : (T,)
        Probability that a row keeps the state of the row before it.

    Returns
    -------
    posterior : (T, S)
        Rows sum to one.
    stays : (T,)
        Posterior probability that the row kept the state.
    """
    import numpy as np

    length = len(emission)
    forward = np.empty_like(emission)
    backward = np.ones_like(emission)
    stays = np.zeros(length)
    forward[0] = entry[0] * emission[0]
    forward[0] /= forward[0].sum()
    for row in range(1, length):
        forward[row] = (stay[row] * forward[row - 1] + (1 - stay[row]) * entry[row]) * emission[row]
        forward[row] /= forward[row].sum()
    for row in range(length - 1, 0, -1):
        ahead = emission[row] * backward[row]
        kept = stay[row] * (forward[row - 1] @ ahead)
        anew = (1 - stay[row]) * (entry[row] @ ahead)
        stays[row] = kept / (kept + anew)
        backward[row - 1] = stay[row] * ahead + anew
        backward[row - 1] /= backward[row - 1].max()
    posterior = forward * backward
    return posterior / posterior.sum(axis=1, keepdims=True), stays

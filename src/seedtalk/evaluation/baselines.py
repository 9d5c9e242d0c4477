"""What stands beside every student: rankings without a language model's judgement.

Each baseline ranks the same candidates of the same queries: by one of the domain's own signals
(`priors`), by the votes of the training dialogues, by copying, or by chance. Ties go by popularity
(except for `random` and `copy-context`), then by the lowest item id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.evaluation.metrics import rank
from seedtalk.evaluation.protocols import Query, generator
from seedtalk.records import SIGNALS, Dialogue

if TYPE_CHECKING:
    import pandas as pd

Scores = NDArray[np.float64]
Ranking = list[str]

OF_SIGNAL = {  # name of the baseline that ranks by it
    "popularity": "popularity",
    "recency": "recency",
    "year": "newest",
    "item_item": "item-item",
    "factors": "factors",
    "content": "content",
    "metadata": "neighbours-metadata",
    "reviews": "neighbours-reviews",
    "bm25": "bm25",
}

_WORD = re.compile(r"\w+")
_BLOCK = 256  # queries compared with the whole corpus at a time


def by_signals(
    posed: Sequence[Query], signals: Sequence[NDArray[np.float32]]
) -> dict[str, list[Ranking]]:
    """Return the rankings by each of the domain's own signals, by the baseline's name.

    Parameters
    ----------
    posed
        Q queries.
    signals
        Q arrays (C, `SIGNALS`), from `priors.compute`.
    """
    popularity = SIGNALS.index("popularity")
    return {
        OF_SIGNAL[name]: [
            _ranked(query, values[:, column], values[:, popularity])
            for query, values in zip(posed, signals, strict=True)
        ]
        for column, name in enumerate(SIGNALS)
    }


def by_chance(posed: Sequence[Query], seed: int) -> list[Ranking]:
    """Rank in a seeded random order, each query's own: the floor."""
    return [rank(query.candidates, _chance(query, seed)) for query in posed]


def by_copying(posed: Sequence[Query], titles: Mapping[str, str], seed: int) -> list[Ranking]:
    """Rank the candidates whose title stands in the context first, the last one named foremost.

    A title stands in a text where its words do, in order and in its case; words of a longer
    catalogue title are not taken for a shorter one's. Items the conversation is known to have
    mentioned are no candidates under the condition `recommendation`, so that what is left to
    copy is what the annotation missed. The rest is in random order, as `by_chance`: the
    baseline shows what copying alone gives.

    Parameters
    ----------
    posed
        Queries.
    titles
        Bare title, without year, of every catalogue item.
    seed
        Of the random order.
    """
    named: dict[tuple[str, ...], list[str]] = {}
    for item, title in titles.items():
        if words := tuple(_WORD.findall(title)):
            named.setdefault(words, []).append(item)
    longest = max(map(len, named), default=0)
    rankings: list[Ranking] = []
    for query in posed:
        last = _copies(" ".join(turn["text"] for turn in query.context), named, longest)
        copied = np.array([last.get(item, -1) for item in query.candidates], dtype=np.float64)
        rankings.append(rank(query.candidates, copied, _chance(query, seed)))
    return rankings


def by_neighbours(
    posed: Sequence[Query],
    asked: NDArray[np.float32],
    corpus: NDArray[np.float32],
    votes: Sequence[Sequence[str]],
    popularity: Sequence[NDArray[np.float32]],
    *,
    neighbours: int,
) -> list[Ranking]:
    """Rank by the votes of the nearest texts.

    Each of the `neighbours` texts of highest cosine to the query gives its cosine (0 where
    negative) times 1/log2(1 + rank) to the items it votes for, in their order.

    Parameters
    ----------
    posed
        Q queries.
    asked
        (Q, d) vectors of what their seekers said last (`last_words`).
    corpus
        (N, d) vectors of the texts.
    votes
        N lists of item ids, best first.
    popularity
        Q arrays (C,), which break the ties of the query's candidates.
    neighbours
        How many texts vote; all where there are fewer.

    Raises
    ------
    InputError
        When there is no text.
    """
    if not len(corpus):
        raise InputError("a nearest-neighbour baseline has no text to search; the input is empty")
    units = _unit(corpus)
    rankings = []
    for start in range(0, len(posed), _BLOCK):
        cosines = _unit(asked[start : start + _BLOCK]) @ units.T
        # Stable, so that of equally near texts the first votes.
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
        for number, query in enumerate(posed[start : start + _BLOCK]):
            given: dict[str, float] = {}
            for row in nearest[number]:
                weight = max(float(cosines[number, row]), 0.0)
                for place, item in enumerate(votes[row], start=1):
                    given[item] = given.get(item, 0.0) + weight / np.log2(1 + place)
            scores = np.array([given.get(item, 0.0) for item in query.candidates])
            rankings.append(_ranked(query, scores, popularity[start + number]))
    return rankings


def last_words(query: Query) -> str:
    """Return what the seeker said last: the turns since the recommender last spoke."""
    words: list[str] = []
    for turn in reversed(query.context):
        if turn["role"] == "seeker":
            words.insert(0, turn["text"])
        elif words:
            break
    return "\n".join(words)


def rank_baselines(
    posed: Sequence[Query],
    items: pd.DataFrame,
    signals: Sequence[NDArray[np.float32]],
    dialogues: Sequence[Dialogue],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    *,
    neighbours: int,
    seed: int,
    depth: int | None,
) -> dict[str, list[Ranking]]:
    """Return the rankings of every baseline, by its name.

    Parameters
    ----------
    posed
        Queries.
    items
        `records.ITEMS`.
    signals
        One array (C, `SIGNALS`) a query, from `priors.compute`.
    dialogues
        Training dialogues: their user messages are searched, their targets vote.
    embed
        Turns texts into vectors.
    neighbours
        Dialogues that vote.
    seed
        Of random orders.
    depth
        Items ranked at most; None ranks every candidate.

    Raises
    ------
    InputError
        When there are no dialogues.
    """
    if not dialogues:
        raise InputError("neighbours-dialogues: there are no training dialogues; see curate")
    titles = dict(zip(items["item_id"].astype(str), items["title"].astype(str), strict=True))
    wanted = [
        "\n".join(m.content for m in dialogue.messages if m.role == "user")
        for dialogue in dialogues
    ]
    rankings = {
        "random": by_chance(posed, seed),
        "copy-context": by_copying(posed, titles, seed),
        **by_signals(posed, signals),
        "neighbours-dialogues": by_neighbours(
            posed,
            embed([last_words(query) for query in posed]),
            embed(wanted),
            [dialogue.targets for dialogue in dialogues],
            [values[:, SIGNALS.index("popularity")] for values in signals],
            neighbours=neighbours,
        ),
    }
    return {
        name: [ranking[:depth] for ranking in of_queries] for name, of_queries in rankings.items()
    }


def _ranked(query: Query, scores: NDArray[np.floating], popularity: NDArray[np.float32]) -> Ranking:
    # Candidates are sorted by id, and what is still tied keeps that order.
    return [query.candidates[place] for place in np.lexsort([-popularity, -scores])]


def _chance(query: Query, seed: int) -> Scores:
    # The stream that drew the candidates must not also order them.
    return generator(seed, query, "order").random(len(query.candidates))


def _copies(
    text: str, named: Mapping[tuple[str, ...], Sequence[str]], longest: int
) -> dict[str, int]:
    words = _WORD.findall(text)
    last: dict[str, int] = {}
    place = 0
    while place < len(words):
        for size in range(min(longest, len(words) - place), 0, -1):
            if found := named.get(tuple(words[place : place + size])):
                last.update(dict.fromkeys(found, place))
                place += size
                break
        else:
            place += 1
    return last


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1.0)

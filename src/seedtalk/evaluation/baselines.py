"""What stands beside every student: rankings without a language model's judgement.

Each baseline ranks the same candidates of the same queries. Ties go by popularity (except for
`random` and `copy-context`), then by the lowest item id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.evaluation.metrics import rank
from seedtalk.evaluation.protocols import Query, generator
from seedtalk.records import Dialogue, read_json
from seedtalk.signals import read_blocks

if TYPE_CHECKING:
    import pandas as pd

Scores = NDArray[np.float64]
Ranking = list[str]

_WORD = re.compile(r"\w+")
_BLOCK = 256  # queries compared with the whole corpus at a time


def likes(interactions: pd.DataFrame) -> dict[str, int]:
    """Return how many users like each item (records.INTERACTIONS; each pair counts once)."""
    liked = interactions.loc[interactions["liked"], ["user_id", "item_id"]].drop_duplicates()
    return {str(item): int(count) for item, count in liked["item_id"].value_counts().items()}


def by_popularity(posed: Sequence[Query], popularity: Mapping[str, int]) -> list[Ranking]:
    """Rank by number of likes."""
    return [rank(query.candidates, _popular(query, popularity)) for query in posed]


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


def by_items(
    posed: Sequence[Query],
    interactions: pd.DataFrame,
    catalogue: Sequence[str],
    popularity: Mapping[str, int],
) -> list[Ranking]:
    """Rank by item-item collaborative filtering on the mentioned items.

    A candidate's score is the sum of its cosines to the mentioned items, each item being the
    binary vector of the users who like it (Sarwar et al. 2001). No mentioned item, no score:
    then popularity decides.
    """
    from scipy.sparse import csc_array
    from sklearn.preprocessing import normalize

    column_of = {item: column for column, item in enumerate(catalogue)}
    liked = interactions.loc[interactions["liked"], ["user_id", "item_id"]].drop_duplicates()
    liked = liked[liked["item_id"].isin(column_of)]
    rows = liked["user_id"].factorize()[0]
    columns = [column_of[item] for item in liked["item_id"]]
    counts = csc_array(
        (np.ones(len(liked)), (rows, columns)), shape=(max(rows, default=0) + 1, len(catalogue))
    )
    unit = normalize(counts, axis=0)
    rankings = []
    for query in posed:
        mentioned = [column_of[item] for item in query.mentioned if item in column_of]
        profile = unit[:, mentioned].sum(axis=1)
        cosines = unit[:, [column_of[item] for item in query.candidates]].T @ profile
        # Rounded so that sums of the same cosines in another order stay tied.
        rankings.append(rank(query.candidates, cosines.round(9), _popular(query, popularity)))
    return rankings


def by_neighbours(
    posed: Sequence[Query],
    asked: NDArray[np.float32],
    corpus: NDArray[np.float32],
    votes: Sequence[Sequence[str]],
    popularity: Mapping[str, int],
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
        Likes, which break ties.
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
            rankings.append(rank(query.candidates, scores, _popular(query, popularity)))
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


def review_vectors(
    embeddings: Path,
    reviews: pd.DataFrame,
    encoder: str,
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the item of each review and the vectors of their texts.

    Parameters
    ----------
    embeddings
        Folder written by embed: its vectors are used where they are of `encoder` and
        mean-pooled.
    reviews
        `records.REVIEWS`, encoded anew by `embed` where they are not.
    encoder
        Name of the encoder that `embed` uses.
    embed
        Turns N texts into (N, d) mean-pooled vectors.

    Raises
    ------
    InputError
        When the folder is incomplete.
    """
    path = embeddings / "encoder.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro embed`")
    made = read_json(path)
    if (made.get("encoder"), made.get("pooling")) == (encoder, "mean"):
        blocks = read_blocks(embeddings)
        return blocks.rows["item_id"].astype(str).tolist(), blocks.review
    return reviews["item_id"].astype(str).tolist(), embed(reviews["text"].tolist())


def rank_baselines(
    posed: Sequence[Query],
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    dialogues: Sequence[Dialogue],
    reviewed: Sequence[str],
    review_vectors: NDArray[np.float32],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    *,
    neighbours: int,
    seed: int,
) -> dict[str, list[Ranking]]:
    """Return the rankings of every baseline, by its name.

    Parameters
    ----------
    posed
        Queries.
    items, interactions
        `records.ITEMS` and `records.INTERACTIONS`; the latter without held-out users.
    dialogues
        Training dialogues: their user messages are searched, their targets vote.
    reviewed, review_vectors
        The item of each of N reviews and the (N, d) vectors of their texts.
    embed
        Turns texts into vectors of the same space as `review_vectors`.
    neighbours
        Texts that vote in the nearest-neighbour baselines.
    seed
        Of random orders.

    Raises
    ------
    InputError
        When there are no dialogues or no reviews.
    """
    if not dialogues:
        raise InputError("neighbours-dialogues: there are no training dialogues; see curate")
    popularity = likes(interactions)
    catalogue = sorted(map(str, items["item_id"]))
    titles = dict(zip(items["item_id"].astype(str), items["title"].astype(str), strict=True))
    asked = embed([last_words(query) for query in posed])
    wanted = [
        "\n".join(m.content for m in dialogue.messages if m.role == "user")
        for dialogue in dialogues
    ]
    return {
        "random": by_chance(posed, seed),
        "popularity": by_popularity(posed, popularity),
        "copy-context": by_copying(posed, titles, seed),
        "item-item": by_items(posed, interactions, catalogue, popularity),
        "neighbours-dialogues": by_neighbours(
            posed,
            asked,
            embed(wanted),
            [dialogue.targets for dialogue in dialogues],
            popularity,
            neighbours=neighbours,
        ),
        "neighbours-reviews": by_neighbours(
            posed,
            asked,
            review_vectors,
            [[item] for item in reviewed],
            popularity,
            neighbours=neighbours,
        ),
    }


def _popular(query: Query, popularity: Mapping[str, int]) -> Scores:
    return np.array([popularity.get(item, 0) for item in query.candidates], dtype=np.float64)


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

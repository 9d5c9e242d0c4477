"""What the domain's own data says of every candidate of a query, without a language model.

One value a candidate for each of `records.SIGNALS`, on scales that add up log-linearly: logs of
counts and of summed similarities, and cosines. `baselines` ranks by each of them, `blending` by
their weighted sum.

A query asks with the seeker's words, of the whole context, and with the items mentioned in it by
either side, later ones weighing more. Whether a mentioned item is liked or disliked cannot be told
reliably from the text, so all of them count as liked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.content import content_vectors
from seedtalk.errors import InputError
from seedtalk.evaluation.protocols import Query
from seedtalk.progress import bar
from seedtalk.records import SIGNALS, read_json
from seedtalk.signals import item_texts, read_blocks, unit_rows

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float32]

RECENT_SECONDS = 2 * 365 * 86_400  # two years
DECAY = 0.8  # of a mentioned item's weight with every item mentioned after it
SHRINKAGE = 5.0  # of item-item cosines, in likes: a pair of rarely liked items proves little
FLOOR = 0.01  # of cosines before their log
RANK = 32  # of the matrix factorisation
BM25_K1, BM25_B = 1.2, 0.75  # Robertson & Zaragoza 2009, section 3.5
REVIEWS_SHARE = 0.25  # of BM25 over an item's reviews, beside its metadata
WORDS = 800  # last characters of the seeker's words that are read
_POWER_ITERATIONS = 10  # of the randomised SVD
_WORD = r"\w+"
_FLAT = 1e-6  # of a singular value, against the first
_BLOCK = 128  # queries at a time
_DIGITS = 5  # far below any difference that means something, above the noise of summation


def seeker_words(query: Query) -> str:
    """Return what the seeker said in the whole context, its last `WORDS` characters.

    An encoder reads a limited number of tokens, and the oldest words are the ones to lose.
    """
    said = [turn["text"] for turn in query.context if turn["role"] == "seeker"]
    return "\n".join(said)[-WORDS:]


def text_vectors(
    embeddings: Path,
    items: pd.DataFrame,
    reviews: pd.DataFrame,
    encoder: str,
    embed: Callable[[Sequence[str]], Values],
) -> tuple[Values, list[str], Values]:
    """Return the vectors of the items' metadata, the item of each review, and the reviews' vectors.

    Parameters
    ----------
    embeddings
        Folder written by embed: its vectors are used where they are of `encoder` and
        mean-pooled.
    items, reviews
        `records.ITEMS` and `records.REVIEWS`, encoded anew by `embed` where they are not.
    encoder
        Name of the encoder that `embed` uses.
    embed
        Turns N texts into (N, d) mean-pooled vectors.

    Returns
    -------
    metadata, reviewed, vectors
        (M, d) in the order of `items`, N item ids, (N, d).

    Raises
    ------
    InputError
        When the folder is incomplete or of another catalogue.
    """
    path = embeddings / "encoder.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro embed`")
    made = read_json(path)
    if (made.get("encoder"), made.get("pooling")) != (encoder, "mean"):
        reviewed = reviews["item_id"].astype(str).tolist()
        return embed(item_texts(items)), reviewed, embed(reviews["text"].tolist())
    blocks = read_blocks(embeddings)
    if len(blocks.metadata) != len(items) or len(blocks.rows) != len(reviews):
        raise InputError(
            f"{embeddings}: holds {len(blocks.metadata)} items and {len(blocks.rows)} reviews, the "
            f"corpus {len(items)} and {len(reviews)}; run `dvc repro embed`"
        )
    return blocks.metadata, blocks.rows["item_id"].astype(str).tolist(), blocks.review


def compute(
    posed: Sequence[Query],
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    reviews: pd.DataFrame,
    asked: Values,
    metadata: Values,
    reviewed: Sequence[str],
    review_vectors: Values,
    *,
    seed: int,
) -> list[Values]:
    """Return every signal of every candidate.

    - ``popularity``: log(1 + users who like the item).
    - ``recency``: log(1 + ratings in the last two years of the interactions); 0 for all where
      they carry no time.
    - ``year``: -log(1 + the catalogue's last year - the item's); the median year where unknown.
    - ``item_item``: log(0.01 + mean of the shrunk cosines to the mentioned items). An item is
      the binary vector of the users who like it, cos = n_ij / (sqrt(n_i n_j) + 5) with n_ij the
      users who like both (Sarwar et al. 2001; shrunk as in Bell & Koren 2007).
    - ``factors``: square root of the mean of the mentioned items projected on the 32 first
      right singular vectors V of the likes, p V V' (PureSVD, Cremonesi et al. 2010), 0 where
      that is negative.
    - ``content``: square root of the mean cosine of `content.content_vectors` to the mentioned
      items' (genres, people, keywords, words of the title).
    - ``metadata``: cosine of the vectors of the seeker's words and of the item's title, year,
      genres and description.
    - ``reviews``: the highest cosine of the seeker's words and a review of the item; 0 without a
      review or where none is above it.
    - ``bm25``: log(1 + BM25 of the item's metadata + BM25 of its reviews / 4); the former for the
      seeker's words and the metadata of the mentioned items, the latter for the seeker's words.

    The means over mentioned items weigh one by 0.8 to the number of items mentioned after it;
    without any the signal is the same for all.

    Parameters
    ----------
    posed
        Q queries.
    items
        `records.ITEMS`, M items.
    interactions, reviews
        `records.INTERACTIONS`, without held-out users, and `records.REVIEWS`; rows about other
        items are left out.
    asked
        (Q, d) vectors of `seeker_words`.
    metadata
        (M, d) vectors of the items' metadata.
    reviewed, review_vectors
        The item of each of N reviews and the (N, d) vectors of their texts.
    seed
        Of the randomised SVD.

    Returns
    -------
    list
        Q arrays (C, `SIGNALS`), float32, in the order of the query's candidates.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    ids = [str(item) for item in items["item_id"]]
    row_of = {item: row for row, item in enumerate(ids)}
    known = interactions[interactions["item_id"].isin(row_of)]
    liked = like_matrix(known, ids)
    likes = np.asarray(liked.sum(axis=0)).ravel()
    mentions = mention_weights(posed, row_of)
    texts = item_texts(items)
    # One order of summation, whatever the number of cores.
    with threadpool_limits(1), bar("signals", len(posed)) as shown:
        same = [np.log1p(likes), np.log1p(recent_ratings(known, row_of)), -ages(items)]
        directions = right_vectors(liked, RANK, seed)
        content = content_vectors(items)
        request, described = unit_rows(asked), unit_rows(metadata)
        order, spoken = _by_item(reviewed, row_of)
        voices = unit_rows(np.asarray(review_vectors)[order])
        words = [seeker_words(query) for query in posed]
        requests = [_request(query, texts, row_of) for query in posed]
        by_metadata = bm25_weights(requests, texts)
        by_reviews = bm25_weights(words, _review_texts(reviews, row_of))
        values = []
        for begin in range(0, len(posed), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            mentioned = mentions[part]
            of_signal = {
                **dict(zip(("popularity", "recency", "year"), same, strict=True)),
                "item_item": np.log(FLOOR + item_cosines(mentioned, liked, likes)),
                "factors": np.sqrt(((mentioned @ directions) @ directions.T).clip(0)),
                "content": np.sqrt((mentioned @ content @ content.T).toarray().clip(0)),
                "metadata": request[part] @ described.T,
                "reviews": best_of(request[part] @ voices.T, spoken, len(ids)),
                "bm25": np.log1p(
                    _product(by_metadata, part) + REVIEWS_SHARE * _product(by_reviews, part)
                ),
            }
            block = np.empty((mentioned.shape[0], len(ids), len(SIGNALS)), dtype=np.float32)
            for column, name in enumerate(SIGNALS):
                block[:, :, column] = of_signal[name]
            # Rounded, so that sums of the same numbers in another order stay tied.
            for query, told in zip(posed[part], block.round(_DIGITS), strict=True):
                values.append(told[[row_of[item] for item in query.candidates]])
                shown.advance()
    return values


def table(posed: Sequence[Query], values: Sequence[Values]) -> pd.DataFrame:
    """Return `records.PRIORS` of what `compute` returned."""
    import pandas as pd

    return pd.DataFrame(
        {
            "conversation_id": [query.conversation_id for query in posed],
            "query": [query.turn for query in posed],
            "candidates": [query.candidates for query in posed],
            **{name: [told[:, column] for told in values] for column, name in enumerate(SIGNALS)},
        }
    )


def like_matrix(interactions: pd.DataFrame, ids: Sequence[str]) -> Any:
    """Return the (users, M) sparse matrix of who likes what; 1 for a like, however often told.

    Parameters
    ----------
    interactions
        Columns ``user_id``, ``item_id`` and ``liked``; items are among `ids`.
    ids
        M items, the columns.
    """
    from scipy.sparse import csr_array

    pairs = interactions.loc[interactions["liked"].astype(bool), ["user_id", "item_id"]]
    pairs = pairs.drop_duplicates()
    row_of = {item: row for row, item in enumerate(ids)}
    users = pairs["user_id"].factorize(sort=True)[0]
    columns = np.array([row_of[item] for item in pairs["item_id"]], dtype=np.int64)
    shape = (int(max(users, default=0)) + 1, len(ids))
    return csr_array((np.ones(len(pairs)), (users, columns)), shape=shape)


def mention_weights(posed: Sequence[Query], row_of: Mapping[str, int]) -> Any:
    """Return the (Q, M) sparse weights of the items that each context mentions.

    An item weighs `DECAY` to the number of items whose last mention comes after its own, and a
    row sums to 1; without a mentioned item of the catalogue it is zero.
    """
    from scipy.sparse import csr_array

    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for row, query in enumerate(posed):
        named = (item for turn in reversed(query.context) for item in reversed(turn["items"]))
        last_first = [row_of[item] for item in dict.fromkeys(named) if item in row_of]
        shares = DECAY ** np.arange(len(last_first))
        rows += [row] * len(last_first)
        columns += last_first
        weights += list(shares / shares.sum())
    return csr_array((weights, (rows, columns)), shape=(len(posed), len(row_of)), dtype=float)


def recent_ratings(interactions: pd.DataFrame, row_of: Mapping[str, int]) -> NDArray[np.float64]:
    """Return (M,) how many ratings each item has in the two years up to the last rating."""
    counts = np.zeros(len(row_of))
    timed = interactions[interactions["timestamp"].notna()]
    if len(timed):
        times = timed["timestamp"].to_numpy(dtype=np.int64)
        late = timed.loc[times > times.max() - RECENT_SECONDS, "item_id"].value_counts()
        for item, count in late.items():
            counts[row_of[str(item)]] = count
    return counts


def ages(items: pd.DataFrame) -> NDArray[np.float64]:
    """Return (M,) log(1 + years before the catalogue's last); the median year where unknown."""
    years = items["year"].to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(years).all():
        return np.zeros(len(years))
    years = np.where(np.isnan(years), np.nanmedian(years), years)
    found: NDArray[np.float64] = np.log1p(years.max() - years)
    return found


def item_cosines(mentioned: Any, liked: Any, likes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted sum of the shrunk cosines of all items to each row's items.

    Parameters
    ----------
    mentioned
        (B, M) sparse `mention_weights`.
    liked
        (users, M) sparse `like_matrix`.
    likes
        (M,) its column sums.

    Returns
    -------
    numpy.ndarray
        (B, M).
    """
    from scipy.sparse import csr_array

    named = np.unique(mentioned.indices)
    common = csr_array(liked[:, named].T @ liked)  # users who like both, (named, M)
    of = np.repeat(likes[named], np.diff(common.indptr))
    common.data = common.data / (np.sqrt(of * likes[common.indices]) + SHRINKAGE)
    sums: NDArray[np.float64] = (mentioned[:, named] @ common).toarray()
    return sums


def right_vectors(liked: Any, rank: int, seed: int) -> NDArray[np.float64]:
    """Return the first right singular vectors of the scaled likes, (M, f); without likes zeros.

    A like is divided by the square root of its user's number of likes and by the fourth root of
    its item's, so that neither heavy users nor popular items dominate.
    """
    from scipy.sparse import csr_array
    from sklearn.utils.extmath import randomized_svd

    cells = liked.tocoo()
    if not cells.nnz:
        return np.zeros((liked.shape[1], 1))
    of_user = np.asarray(liked.sum(axis=1)).ravel()
    of_item = np.asarray(liked.sum(axis=0)).ravel()
    rows, columns = cells.coords
    weights = cells.data / (of_user[rows] ** 0.5 * of_item[columns] ** 0.25)
    _, strength, directions = randomized_svd(
        csr_array((weights, (rows, columns)), shape=liked.shape),
        n_components=min(rank, *liked.shape),
        n_iter=_POWER_ITERATIONS,
        random_state=seed,
    )
    # A direction of no strength is none of the likes': it could be any.
    found: NDArray[np.float64] = directions[strength > _FLAT * strength[0]].T
    return found


def best_of(cosines: Values, spoken: NDArray[np.int64], count: int) -> Values:
    """Return the highest of each item's cosines, 0 at least.

    Parameters
    ----------
    cosines
        (B, N), one column a review, those of an item beside each other.
    spoken
        (N,) the item of each, rising.
    count
        Number M of items.

    Returns
    -------
    numpy.ndarray
        (B, M); 0 for an item without a review.
    """
    best = np.zeros((len(cosines), count), dtype=np.float32)
    if len(spoken):
        which, starts = np.unique(spoken, return_index=True)
        best[:, which] = np.maximum(np.maximum.reduceat(cosines, starts, axis=1), 0)
    return best


def bm25_weights(requests: Sequence[str], documents: Sequence[str]) -> tuple[Any, Any]:
    """Return two sparse matrices whose product is the BM25 score of each document.

    score(q, d) = sum over the words of q of f_q * idf * f_d (k1 + 1) / (f_d + k1 (1 - b + b
    |d| / mean |d|)), with k1 = 1.2, b = 0.75 and idf = log(1 + (N - n + 0.5) / (n + 0.5)), which
    is never negative (Robertson & Zaragoza 2009; the idf is Lucene's). A word that the request
    repeats, as a genre that several mentioned items share, counts as often.

    Parameters
    ----------
    requests
        Q texts.
    documents
        M texts.

    Returns
    -------
    words, weights
        (Q, V) counts of the words in each request, and (V, M) weights of the words in each
        document.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=_WORD, stop_words="english", dtype=np.float32)
    try:
        counted = csr_array(counter.fit_transform(documents))
    except ValueError:  # not a word in any document
        return csr_array((len(requests), 1)), csr_array((1, len(documents)))
    lengths = np.asarray(counted.sum(axis=1)).ravel()
    having = np.bincount(counted.indices, minlength=counted.shape[1])
    idf = np.log1p((len(documents) - having + 0.5) / (having + 0.5))
    relative = np.repeat(lengths / lengths.mean(), np.diff(counted.indptr))
    counted.data = (
        idf[counted.indices]
        * counted.data
        * (BM25_K1 + 1)
        / (counted.data + BM25_K1 * (1 - BM25_B + BM25_B * relative))
    ).astype(np.float32)
    return csr_array(counter.transform(requests)), csr_array(counted.T)


def _request(query: Query, texts: Sequence[str], row_of: Mapping[str, int]) -> str:
    named = [texts[row_of[item]] for item in query.mentioned if item in row_of]
    return "\n".join([seeker_words(query), *named])


def _review_texts(reviews: pd.DataFrame, row_of: Mapping[str, int]) -> list[str]:
    """Return the reviews of each item as one text, empty where it has none."""
    parts: list[list[str]] = [[] for _ in row_of]
    for item, text in zip(reviews["item_id"], reviews["text"], strict=True):
        if (row := row_of.get(str(item))) is not None:
            parts[row].append(str(text))
    return ["\n".join(part) for part in parts]


def _product(factors: tuple[Any, Any], part: slice) -> NDArray[np.float64]:
    product: NDArray[np.float64] = (factors[0][part] @ factors[1]).toarray()
    return product


def _by_item(
    reviewed: Sequence[str], row_of: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the reviews of catalogue items by item, and the item's row of each."""
    rows = np.array([row_of.get(item, -1) for item in reviewed], dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    return order, rows[order]

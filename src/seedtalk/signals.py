"""What selection sees beside the review: metadata as text, and collaborative item factors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError, at

if TYPE_CHECKING:
    import pandas as pd

SIGNALS = ("review", "metadata", "user")  # each has a block of vectors in `Blocks`
_REMAKE = "run `dvc repro --force embed`"
HELD_BYTES = 2**31  # of composed rows that are kept in memory; more go to a file
_CHUNK = 8192  # rows looked at at once
_POWER_ITERATIONS = 10  # of the randomised SVD; more do not change the factors visibly


@dataclass(frozen=True)
class Blocks:
    """What ``embed`` writes and ``select`` reads, one folder.

    Attributes
    ----------
    review
        (N, d) float32, one row a review, in the order of `rows`.
    metadata, user
        (M, d) and (M, f) float32, one row an item, in the order of its id.
    rows
        ``review_id``, ``item_id``, ``rating`` (null where unknown), ``item_row`` (into
        `metadata` and `user`), ``popularity`` (interactions of the item) and ``genre`` (the
        item's first, empty where it has none).
    """

    review: NDArray[np.float32]
    metadata: NDArray[np.float32]
    user: NDArray[np.float32]
    rows: pd.DataFrame


def review_rows(
    reviews: pd.DataFrame, items: pd.DataFrame, interactions: pd.DataFrame
) -> pd.DataFrame:
    """Return the table `Blocks.rows` of reviews sorted by id.

    Raises
    ------
    InputError
        When a review's item is not among the items.
    """
    import pandas as pd

    item_row = pd.Index(items["item_id"]).get_indexer(reviews["item_id"])
    if (item_row < 0).any():
        bad = reviews.iloc[int(np.argmax(item_row < 0))]
        raise InputError(
            f"{at('reviews', bad['review_id'], 'item_id')}: '{bad['item_id']}' is not among the "
            "items; run `dvc repro ingest`"
        )
    counts = interactions["item_id"].value_counts()
    genres = np.array([str(names[0]) if len(names) else "" for names in items["genres"]], object)
    return pd.DataFrame(
        {
            "review_id": reviews["review_id"],
            "item_id": reviews["item_id"],
            "rating": reviews["rating"].astype("float32"),
            "item_row": item_row.astype("int32"),
            "popularity": reviews["item_id"].map(counts).fillna(0).astype("int32"),
            "genre": genres[item_row],
        }
    )


def write_blocks(folder: Path, blocks: Blocks, info: Mapping[str, Any]) -> None:
    """Write the blocks, and `info` with their sizes as ``encoder.json``, in place of `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seedtalk.records import atomic_dir, write_json

    arrow = pa.Table.from_pandas(blocks.rows, schema=_rows_schema(), preserve_index=False)
    sizes = {name: list(getattr(blocks, name).shape) for name in SIGNALS}
    with atomic_dir(folder) as fresh:
        for name in SIGNALS:
            np.save(fresh / f"{name}.npy", getattr(blocks, name), allow_pickle=False)
        pq.write_table(arrow.replace_schema_metadata(None), fresh / "rows.parquet")
        write_json(fresh / "encoder.json", {**info, "shapes": sizes})


def read_blocks(folder: Path) -> Blocks:
    """Read what `write_blocks` wrote; the arrays are memory maps.

    Raises
    ------
    InputError
        When a file is missing or unreadable, sizes do not fit together, or a vector is not
        finite; names file and row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name in SIGNALS:
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {_REMAKE}") from error
        check_matrix(arrays[name], str(path))
    path = folder / "rows.parquet"
    try:
        rows = pq.read_table(path, columns=_rows_schema().names).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_REMAKE}") from error
    blocks = Blocks(**arrays, rows=rows)
    items = len(blocks.metadata)
    if len(rows) != len(blocks.review) or len(blocks.user) != items:
        raise InputError(f"{folder}: the blocks are of different sizes; {_REMAKE}")
    if len(rows) and not 0 <= rows["item_row"].min() <= rows["item_row"].max() < items:
        raise InputError(f"{at(path, field='item_row')}: outside the {items} items; {_REMAKE}")
    return blocks


def pool_rows(rows: pd.DataFrame, min_rating: float) -> NDArray[np.int64]:
    """Return which of `Blocks.rows` may become seeds: unrated, or rated `min_rating` or better.

    Raises
    ------
    InputError
        When there is none.
    """
    rating = rows["rating"].to_numpy(dtype=np.float64, na_value=np.nan)
    # Ratings are stored as float32: 0.1 there is not 0.1 here.
    pool = np.flatnonzero(np.isnan(rating) | (rating >= np.float32(min_rating)))
    if not len(pool):
        raise InputError(
            f"select.min_rating: none of {len(rows)} reviews is unrated or rated {min_rating} or "
            "better; lower select.min_rating"
        )
    return pool


def item_groups(rows: pd.DataFrame, by: str) -> NDArray[np.str_]:
    """Return the group of each row's item.

    Parameters
    ----------
    rows
        `Blocks.rows`, or some of them.
    by
        ``genre``: the item's first, "unknown" where it has none. ``popularity``: "head",
        "middle" or "tail", split where a third and two thirds of the items in `rows` have no
        more interactions; items of equal popularity share a group.
    """
    if by == "genre":
        genre = rows["genre"].to_numpy(dtype=str)
        return np.where(genre == "", "unknown", genre)
    counts = rows["popularity"].to_numpy()
    of_items = rows.drop_duplicates("item_row")["popularity"].to_numpy()
    cuts = np.quantile(of_items, [1 / 3, 2 / 3], method="inverted_cdf")
    return np.array(["tail", "middle", "head"])[np.searchsorted(cuts, counts, side="left")]


def rows_of(rows: pd.DataFrame, review_ids: Sequence[str], path: str | Path) -> NDArray[np.int64]:
    """Return where among `rows` the reviews of a warm start lie.

    Parameters
    ----------
    rows
        `Blocks.rows`, or some of them.
    review_ids
        Distinct ids, in the order of the file.
    path
        The file, for messages.

    Raises
    ------
    InputError
        When a review is named twice or is not among `rows`; names file, row and id.
    """
    import pandas as pd

    found = pd.Index(rows["review_id"]).get_indexer(np.array(review_ids, dtype=object))
    seen: set[str] = set()
    for number, (review_id, row) in enumerate(zip(review_ids, found, strict=True), start=1):
        place = at(path, number, "review_id")
        if review_id in seen:
            raise InputError(f"{place}: '{review_id}' stands in the file twice; drop one")
        if row < 0:
            raise InputError(
                f"{place}: '{review_id}' is not in the pool; select.warm_start goes on from "
                "seeds of this corpus that select.min_rating admits"
            )
        seen.add(review_id)
    return np.asarray(found, dtype=np.int64)


def _rows_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("review_id", pa.string(), nullable=False),
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("rating", pa.float32()),
            pa.field("item_row", pa.int32(), nullable=False),
            pa.field("popularity", pa.int32(), nullable=False),
            pa.field("genre", pa.string(), nullable=False),
        ]
    )


def item_texts(items: pd.DataFrame) -> list[str]:
    """Return one text an item for the metadata block: title, year, genres and description."""
    from seedtalk.records import display_title

    texts = []
    for title, year, genres, description in zip(
        items["title"], items["year"], items["genres"], items["description"], strict=True
    ):
        parts = [display_title(title, year)]
        if len(genres):
            parts.append(", ".join(genres))
        if description:
            parts.append(description)
        texts.append(". ".join(parts))
    return texts


def item_factors(
    interactions: pd.DataFrame, items: pd.DataFrame, rank: int, seed: int
) -> NDArray[np.float32]:
    """Return collaborative factors of the items from who liked what.

    The binary user-item matrix of likes is scaled by 1 / sqrt(likes of the user) and
    1 / sqrt(likes of the item), so that neither heavy users nor popular items dominate, and
    factorised by a truncated SVD, R = U S V'. Row j is (V S)_j: the inner product of two rows
    is their cosine co-occurrence, up to the truncation (docs/method.md).

    Parameters
    ----------
    interactions
        Table with ``user_id``, ``item_id`` and ``liked``; rows about other items are left out.
    items
        Table with ``item_id``; gives the order of the rows.
    rank
        Factors, capped by the number of items and of users.
    seed
        Of the randomised SVD.

    Returns
    -------
    numpy.ndarray
        (M, f) float32; the sign of each factor is fixed, and an item nobody liked has a row of
        zeros.
    """
    import pandas as pd
    from scipy.sparse import csr_array
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    column = pd.Index(items["item_id"]).get_indexer(interactions["item_id"])
    liked = interactions["liked"].to_numpy(dtype=bool) & (column >= 0)
    users, row = np.unique(interactions["user_id"].to_numpy(dtype=str)[liked], return_inverse=True)
    if not len(users):
        return np.zeros((len(items), 1), dtype=np.float32)
    pairs = np.unique(np.column_stack([row, column[liked]]), axis=0)
    of_user = np.bincount(pairs[:, 0], minlength=len(users))
    of_item = np.bincount(pairs[:, 1], minlength=len(items))
    weights = 1.0 / np.sqrt(of_user[pairs[:, 0]] * of_item[pairs[:, 1]])
    matrix = csr_array((weights, (pairs[:, 0], pairs[:, 1])), shape=(len(users), len(items)))
    with threadpool_limits(1):  # one order of summation, whatever the number of cores
        _, scale, directions = randomized_svd(
            matrix,
            n_components=min(rank, *matrix.shape),
            n_iter=_POWER_ITERATIONS,
            random_state=seed,
        )
    factors: NDArray[np.float32] = (directions.T * scale).astype(np.float32)
    factors[of_item == 0] = 0.0
    return factors


def compose(
    review: NDArray[np.float32],
    metadata: NDArray[np.float32],
    user: NDArray[np.float32],
    rows: NDArray[np.integer],
    item_rows: NDArray[np.integer],
    signal: str,
    weight: float,
    folder: Path | None = None,
) -> NDArray[np.float32]:
    """Return the rows that selection sees.

    ``review`` is the review's vector as it is. ``metadata`` and ``user`` put a block of the
    review's item beside it, [e; w b], each scaled to length 1 before weighting, so that w
    means the same whatever made the blocks. A row of zeros (unknown) stays zero.

    Parameters
    ----------
    review
        (R, d) vectors of the reviews, or a memory map.
    metadata, user
        (M, d) and (M, f) vectors of the items.
    rows
        (N,) distinct rows of `review` to compose, in rising order.
    item_rows
        (N,) row of each one's item in `metadata` and `user`.
    signal
        ``review``, ``metadata`` or ``user``.
    weight
        w, at least 0.
    folder
        Where a result over `HELD_BYTES` is kept, in a file without a name that ends with the
        process (default: the system's temporary folder).

    Returns
    -------
    numpy.ndarray
        (N, d), (N, d + d) or (N, d + f) float32; `review` itself where nothing is left out
        or added.

    Raises
    ------
    InputError
        When the signal is unknown.
    """
    if signal not in SIGNALS:
        raise InputError(f"select.signal: '{signal}' is none of {', '.join(SIGNALS)}")
    if signal == "review" and len(rows) == len(review):
        return review
    block = {"review": review[:0], "metadata": metadata, "user": user}[signal]
    d, added = review.shape[1], 0 if signal == "review" else block.shape[1]
    out = _table((len(rows), d + added), folder)
    for begin in range(0, len(rows), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        own = review[rows[part]]
        if signal == "review":
            out[part] = own
        else:
            out[part, :d] = unit_rows(own)
            out[part, d:] = np.float32(weight) * unit_rows(block[item_rows[part]])
    return out


def _table(shape: tuple[int, int], folder: Path | None) -> NDArray[np.float32]:
    """Return an unset table in memory, or in a file that nobody else sees where it is large."""
    if 4 * shape[0] * shape[1] <= HELD_BYTES:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps it
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def unit_rows(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to Euclidean length 1, float32; rows of zeros stay zero."""
    length = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))[:, None]
    unit: NDArray[np.float64] = np.divide(
        block, length, out=np.zeros(block.shape), where=length > 0
    )
    return unit.astype(np.float32)


def check_matrix(X: NDArray[np.generic], place: str = "X") -> None:
    """Refuse what is not a table of finite numbers; names the first bad row.

    Raises
    ------
    InputError
        When X is no array of floats, not two-dimensional, without columns, or holds NaN or
        infinity.
    """
    if not isinstance(X, np.ndarray):
        raise InputError(
            f"{place}: expected a NumPy array, got {type(X).__name__}; "
            "pass np.asarray(rows, dtype=np.float32)"
        )
    if X.ndim != 2:
        raise InputError(f"{place}: expected rows of vectors, got {X.ndim} dimension(s)")
    if not np.issubdtype(X.dtype, np.floating):
        raise InputError(
            f"{place}: expected float32 or float64, got {X.dtype}; convert the rows, such as by "
            "astype(np.float32)"
        )
    if not X.shape[1]:
        raise InputError(f"{place}: rows of no numbers; give every row one or more")
    for start in range(0, len(X), _CHUNK):
        bad = np.flatnonzero(~np.isfinite(X[start : start + _CHUNK]).all(axis=1))
        if len(bad):
            raise InputError(
                f"{at(place, start + int(bad[0]) + 1)}: holds NaN or infinity; remake it from "
                "clean input (`dvc repro --force embed`)"
            )

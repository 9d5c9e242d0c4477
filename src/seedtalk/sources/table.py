"""What a source hands over before the common filters, and what becomes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_IMDB = re.compile(r"(?:tt)?(\d+)(?:\.0)?")


@dataclass(frozen=True)
class Raw:
    """A source's rows in the columns of `records`, unfiltered.

    Attributes
    ----------
    items, reviews, interactions, conversations
        Frames with at least the columns of the table's schema.
    origin
        Names and versions of what was read.
    read
        Rows read, by table.
    dropped
        Rows the source itself dropped, by table and reason.
    linking
        What the linker reports, where there was something to link.
    """

    items: pd.DataFrame
    reviews: pd.DataFrame
    interactions: pd.DataFrame
    conversations: pd.DataFrame
    origin: dict[str, Any]
    read: dict[str, int]
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    linking: dict[str, Any] | None = None


@dataclass(frozen=True)
class Part:
    """One published set of a corpus, before its items are joined with those of the others.

    Attributes
    ----------
    name
        Of the part and of its folder, such as ``movielens``.
    items
        `ITEM_COLUMNS`, one row a `key`. `key` is the set's own id as a string; `title` is in
        natural order ("" where the set has none: such an item can only be joined by an id) and
        `aliases` lists its other titles; `year` is Int32, missing where unknown; `genres` is a
        list, `description` is what `describe` returns ("" where nothing is known); `movielens`,
        `imdb` (see `imdb_id`) and `tmdb` are ids of other catalogues as strings, None where
        unknown.
    reviews
        `REVIEW_COLUMNS`; the rating goes from 0 (worst) to 1 (best), NaN where unknown, `user_id`
        is None where unknown. Review ids and users need to be unique within the part only.
    interactions
        `INTERACTION_COLUMNS`; the rating goes from 0.5 to 5, the timestamp is Int64 Unix seconds.
    conversations
        `CONVERSATION_COLUMNS`, with keys of this part in the turns' `items`. The benchmark is
        `benchmark_name` of part and file.
    read, dropped
        Rows read by table, and rows dropped by table and reason.
    origin
        What was read: files and their rows, or names and versions.
    """

    name: str
    items: pd.DataFrame
    reviews: pd.DataFrame
    interactions: pd.DataFrame
    conversations: pd.DataFrame
    read: dict[str, int]
    dropped: dict[str, dict[str, int]]
    origin: dict[str, Any]


ITEM_COLUMNS = (
    "key",
    "title",
    "year",
    "genres",
    "description",
    "movielens",
    "imdb",
    "tmdb",
    "aliases",
)
REVIEW_COLUMNS = ("key", "user_id", "rating", "text", "review_id")
INTERACTION_COLUMNS = ("key", "user_id", "rating", "timestamp")
CONVERSATION_COLUMNS = ("conversation_id", "benchmark", "turns", "seen")


def benchmark_name(part: str, file: str) -> str:
    """Return the benchmark of a file below a part's folder: redial, dev.jsonl is redial-dev.

    The suffixes go (`.jsonl`, `.tsv`, `.gz`), and folders are joined with dashes.
    """
    path = PurePosixPath(file)
    stem = path.name.split(".", 1)[0]
    return "-".join((part, *path.parent.parts, stem))


def imdb_id(written: object) -> str | None:
    """Return an IMDb id as seven digits or more (``tt0114709``, ``114709`` are ``0114709``).

    None where there is no number in it, or it is missing.
    """
    found = _IMDB.fullmatch(str(written).strip())
    number = found[1].lstrip("0") if found else ""
    return number.zfill(7) if number else None


@dataclass(frozen=True)
class Corpus:
    """The four tables of `records` as `ingest` writes them, and the report on them."""

    items: pd.DataFrame
    reviews: pd.DataFrame
    interactions: pd.DataFrame
    conversations: pd.DataFrame
    report: dict[str, Any]

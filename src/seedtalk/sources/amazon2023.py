"""Amazon Reviews 2023: any category's reviews and metadata in their published JSON lines.

Hou et al., Bridging Language and Items for Retrieval and Recommendation, arXiv 2403.03952.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.content import describe
from seedtalk.errors import InputError, at
from seedtalk.progress import track
from seedtalk.sources.files import of_type, read_json_rows, whole
from seedtalk.sources.quickstart import clean_text
from seedtalk.sources.table import (
    CONVERSATION_COLUMNS,
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    REVIEW_COLUMNS,
    Part,
)
from seedtalk.titles import title_and_year

if TYPE_CHECKING:
    import pandas as pd

NAME = "amazon2023"
MEND = "run `seedtalk fetch amazon2023`, or put <Category>.jsonl and meta_<Category>.jsonl there"

META = "meta_"
FORMS = (".jsonl", ".jsonl.gz")

# What sellers put behind a title: the medium and the edition, never the work itself.
_MEDIA = (
    r"blu-?ray|dvd|vhs|4k|uhd|ultra hd|digital|hd|cd|region|import|ntsc|pal|edition|version|"
    r"widescreen|full ?screen|collection|paperback|hardcover|audiobook|kindle"
)
_SQUARE = re.compile(r"\s*\[[^\[\]]*\]\s*$")
_ROUND = re.compile(rf"\s*\((?=[^()]*\b(?:{_MEDIA})\b)[^()]*\)\s*$", re.IGNORECASE)
_SHELF = re.compile(r"categor|special|format|blu-?ray|dvd|store|boxed set|top sellers", re.I)


def load(folder: Path) -> Part:
    """Read one or more categories.

    Parameters
    ----------
    folder
        Holds `<Category>.jsonl` (rating, title, text, asin, parent_asin, user_id, timestamp in
        milliseconds) and `meta_<Category>.jsonl` (title, parent_asin, categories, description,
        details), plain or gzipped. An item is a `parent_asin`: all editions of a product.

    Raises
    ------
    InputError
        When a file of either kind is missing, or a row is unfit; names file, row and field.
    """
    import pandas as pd

    files = sorted(p for p in folder.iterdir() if p.name.endswith(FORMS)) if folder.is_dir() else []
    metas = [path for path in files if path.name.startswith(META)]
    texts = [path for path in files if not path.name.startswith(META)]
    if not metas or not texts:
        lacking = f"meta_<Category>{FORMS[0]}" if texts else f"<Category>{FORMS[0]}"
        raise InputError(f"{folder}: no {lacking} there; {MEND}")
    items: dict[str, dict[str, Any]] = {}
    origin: dict[str, int] = {}
    listed = 0
    for path in metas:
        rows = 0
        for number, row in track(read_json_rows(path, MEND), f"reading {path.name}"):
            item = _item(path, number, row)
            items.setdefault(item["key"], item)
            rows += 1
        origin[path.name] = rows
        listed += rows
    reviews: list[tuple[Any, ...]] = []
    unlisted = 0
    for path in texts:
        rows = 0
        stem = path.name.split(".", 1)[0]
        for number, row in track(read_json_rows(path, MEND), f"reading {path.name}"):
            rows += 1
            review = _review(path, number, row)
            if review[0] in items:
                reviews.append((*review, f"{stem}-{number:08d}"))
            else:
                unlisted += 1
        origin[path.name] = rows
    frame = pd.DataFrame(
        reviews, columns=["key", "user_id", "rating", "timestamp", "text", "review_id"]
    )
    twice = frame.duplicated(["key", "user_id", "timestamp", "text"])
    kept = frame[~twice]
    written = kept[kept["text"] != ""]
    read = len(frame) + unlisted
    return Part(
        name=NAME,
        items=_frame(items),
        reviews=written.assign(rating=(written["rating"] - 1) / 4)[list(REVIEW_COLUMNS)],
        interactions=kept.assign(timestamp=kept["timestamp"].astype("Int64") // 1000)[
            list(INTERACTION_COLUMNS)
        ],
        conversations=pd.DataFrame(columns=list(CONVERSATION_COLUMNS)),
        read={"items": listed, "reviews": read, "interactions": read},
        dropped={
            "items": {"listed_twice": listed - len(items)},
            "reviews": {
                "item_not_listed": unlisted,
                "same_row": int(twice.sum()),
                "no_text": len(kept) - len(written),
            },
            "interactions": {"item_not_listed": unlisted, "same_row": int(twice.sum())},
        },
        origin=origin,
    )


def work_title(written: str) -> str:
    """Return a product's title without the medium: ``Heat [Blu-ray]`` is ``Heat``."""
    title = " ".join(written.split())
    while True:
        shorter = _ROUND.sub("", _SQUARE.sub("", title))
        if shorter in ("", title):
            return title
        title = shorter


def _item(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    title, year, aliases = title_and_year(
        work_title(of_type(path, number, row, "title", str, type(None)) or "")
    )
    details = _either(path, number, row, "details", dict)
    plot = _either(path, number, row, "description", list)
    shelves = _either(path, number, row, "categories", list)
    return {
        "key": of_type(path, number, row, "parent_asin", str),
        "title": title,
        "year": year,
        "genres": [whole(str(shelf)) for shelf in shelves[1:] if not _SHELF.search(str(shelf))],
        "description": describe(
            clean_text(whole(" ".join(map(str, plot)))),
            directors=_names(details, "Director", "Directors"),
            writers=_names(details, "Author", "Writer"),
            stars=_names(details, "Actors", "Starring"),
        ),
        "movielens": None,
        "imdb": None,
        "tmdb": None,
        "aliases": list(aliases),
    }


def _either(path: Path, number: int, row: dict[str, Any], field: str, kind: type) -> Any:
    """Return a field that may be missing or null, empty then."""
    if row.get(field) is None:
        return kind()
    return of_type(path, number, row, field, kind)


def _names(details: dict[str, Any], *fields: str) -> list[str]:
    values = (details.get(field) for field in fields)
    found = next((value for value in values if isinstance(value, str | list)), [])
    return whole(found).split(",") if isinstance(found, str) else [whole(str(n)) for n in found]


def _review(path: Path, number: int, row: dict[str, Any]) -> tuple[str, str, float, int, str]:
    stars = of_type(path, number, row, "rating", int, float)
    if not 1 <= stars <= 5:
        raise InputError(f"{at(path, number, 'rating')}: {stars} is not within 1 to 5")
    return (
        of_type(path, number, row, "parent_asin", str),
        of_type(path, number, row, "user_id", str),
        float(stars),
        of_type(path, number, row, "timestamp", int),
        clean_text(of_type(path, number, row, "text", str)),
    )


def _frame(items: dict[str, dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(items.values(), columns=list(ITEM_COLUMNS))
    return frame.assign(year=frame["year"].astype("Int32"))

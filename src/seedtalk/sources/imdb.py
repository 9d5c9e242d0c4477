"""IMDb reviews with the film of each: Maas et al., Learning Word Vectors, ACL 2011.

Three forms are read, whichever the folder holds: JSON lines with the film's ids, the official
folders of aclImdb, and tables of users' reviews.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, at
from seedtalk.progress import track
from seedtalk.sources.files import of_type, read_json_rows
from seedtalk.sources.quickstart import clean_text
from seedtalk.sources.table import (
    CONVERSATION_COLUMNS,
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    REVIEW_COLUMNS,
    Part,
    imdb_id,
)
from seedtalk.titles import title_and_year

NAME = "imdb"
MEND = "run `seedtalk fetch imdb`"

LINES = ("*.jsonl", "*.jsonl.gz")
SPLITS = ("train", "test")
POLARITIES = ("neg", "pos")  # `unsup` has no rating and belongs to no benchmark
TABLES = "*.parquet"

_FILE = re.compile(r"(\d+)_(\d+)\.txt")
_URL = re.compile(r"/title/(tt\d+)")


def load(folder: Path) -> Part:
    """Read IMDb reviews.

    Parameters
    ----------
    folder
        Holds at least one of: JSON lines with review_id, rating (1 to 10), imdbId, movieId,
        title, genres and text (title and movieId may be null); `train/` and `test/` of aclImdb
        with `urls_pos.txt` and `urls_neg.txt`, itself or in `aclImdb/`; Parquet files with
        movie, movie_id, user_review and user_review_permalink, unrated.

    Raises
    ------
    InputError
        When there is none of them, or one is unfit; names file, row and field.
    """
    import pandas as pd

    films: dict[str, dict[str, Any]] = {}
    reviews: list[dict[str, Any]] = []
    origin: dict[str, int] = {}
    for path in sorted(path for form in LINES for path in folder.glob(form)):
        before = len(reviews)
        _read_lines(path, films, reviews)
        origin[path.name] = len(reviews) - before
    if official := next((path for path in (folder, folder / "aclImdb") if _is_acl(path)), None):
        before = len(reviews)
        _read_acl(official, films, reviews)
        origin["aclImdb"] = len(reviews) - before
    for path in sorted(folder.glob(TABLES)):
        before = len(reviews)
        _read_table(path, films, reviews)
        origin[path.name] = len(reviews) - before
    if not origin:
        raise InputError(f"{folder}: no reviews there (docs/data.md has the forms); {MEND}")
    frame = pd.DataFrame(reviews, columns=list(REVIEW_COLUMNS))
    twice = frame["review_id"].duplicated()
    items = pd.DataFrame(films.values(), columns=list(ITEM_COLUMNS))
    return Part(
        name=NAME,
        items=items.assign(year=items["year"].astype("Int32")),
        reviews=frame[~twice],
        interactions=pd.DataFrame(columns=list(INTERACTION_COLUMNS)),
        conversations=pd.DataFrame(columns=list(CONVERSATION_COLUMNS)),
        read={"items": len(items), "reviews": len(frame), "interactions": 0},
        dropped={"reviews": {"same_review_in_two_files": int(twice.sum())}},
        origin=origin,
    )


def _film(films: dict[str, dict[str, Any]], imdb: str, title: str, **known: Any) -> None:
    """Enter a film under its IMDb id, or fill what was not known of it."""
    name, year, aliases = title_and_year(title)
    film = films.setdefault(
        imdb,
        {
            "key": imdb,
            "title": name,
            "year": year,
            "genres": [],
            "description": "",
            "movielens": None,
            "imdb": imdb,
            "tmdb": None,
            "aliases": list(aliases),
        },
    )
    if not film["title"]:
        film.update(title=name, year=year, aliases=list(aliases))
    film.update({field: value for field, value in known.items() if value and not film[field]})


def _rating(stars: float) -> float:
    return (stars - 1) / 9


def _read_lines(
    path: Path, films: dict[str, dict[str, Any]], reviews: list[dict[str, Any]]
) -> None:
    first: dict[str, int] = {}
    for number, row in track(read_json_rows(path, MEND), f"reading {path.name}"):
        review = of_type(path, number, row, "review_id", str)
        before = first.setdefault(review, number)
        if before != number:
            raise InputError(
                f"{at(path, number, 'review_id')}: '{review}' is on row {before} already; "
                "keep one of them"
            )
        stars = of_type(path, number, row, "rating", int, float)
        if not 1 <= stars <= 10:
            raise InputError(f"{at(path, number, 'rating')}: {stars} is not within 1 to 10")
        imdb = imdb_id(of_type(path, number, row, "imdbId", str, int))
        if imdb is None:
            raise InputError(f"{at(path, number, 'imdbId')}: '{row['imdbId']}' is no IMDb id")
        film = of_type(path, number, row, "movieId", int, str, type(None))
        _film(
            films,
            imdb,
            of_type(path, number, row, "title", str, type(None)) or "",
            movielens=None if film is None else str(film),
            genres=_genres(of_type(path, number, row, "genres", str, type(None))),
        )
        reviews.append(
            {
                "key": imdb,
                "user_id": None,
                "rating": _rating(stars),
                "text": clean_text(of_type(path, number, row, "text", str)),
                "review_id": review,
            }
        )


def _genres(written: str | None) -> list[str]:
    return [] if not written or written.startswith("(") else written.split("|")


def _is_acl(folder: Path) -> bool:
    return any((folder / split / side).is_dir() for split in SPLITS for side in POLARITIES)


def _read_acl(
    folder: Path, films: dict[str, dict[str, Any]], reviews: list[dict[str, Any]]
) -> None:
    """Read `<split>/<side>/<number>_<stars>.txt`; line `number` of the urls names the film."""
    for split in SPLITS:
        for side in POLARITIES:
            if not (folder / split / side).is_dir():
                continue
            urls = _urls(folder / split / f"urls_{side}.txt")
            paths = list((folder / split / side).iterdir())
            for path in track(sorted(paths), f"reading {split}/{side}"):
                found = _FILE.fullmatch(path.name)
                if found is None:
                    raise InputError(f"{path}: expected a name such as 123_8.txt; {MEND}")
                number, stars = int(found[1]), int(found[2])
                if number >= len(urls) or not 1 <= stars <= 10:
                    fault = (
                        f"urls_{side}.txt has {len(urls)} lines"
                        if 1 <= stars <= 10
                        else (f"the rating {stars} is not within 1 to 10")
                    )
                    raise InputError(f"{path}: {fault}; {MEND}")
                _film(films, urls[number], "")
                reviews.append(
                    {
                        "key": urls[number],
                        "user_id": None,
                        "rating": _rating(stars),
                        "text": clean_text(_text(path)),
                        "review_id": f"{split}/{side}/{path.name}",
                    }
                )


def _urls(path: Path) -> list[str]:
    ids = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        found = _URL.search(line)
        key = imdb_id(found[1]) if found else None
        if key is None:
            raise InputError(f"{at(path, number)}: no address of an IMDb title; {MEND}")
        ids.append(key)
    return ids


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; {MEND}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; {MEND}") from error


def _read_table(
    path: Path, films: dict[str, dict[str, Any]], reviews: list[dict[str, Any]]
) -> None:
    import pandas as pd
    import pyarrow as pa

    columns = ["movie", "movie_id", "user_review", "user_review_permalink"]
    try:
        frame = pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    for name in columns:
        if name not in frame.columns:
            raise InputError(f"{at(path, field=name)}: column missing; {MEND}")
    rows = frame[columns].itertuples(index=False, name=None)
    for number, (title, film, text, address) in enumerate(rows, start=1):
        found = _URL.search(str(film))
        key = imdb_id(found[1]) if found else None
        if key is None:
            raise InputError(f"{at(path, number, 'movie_id')}: '{film}' names no IMDb title")
        _film(films, key, str(title))
        reviews.append(
            {
                "key": key,
                "user_id": None,
                "rating": float("nan"),
                "text": clean_text(str(text)),
                "review_id": str(address).rstrip("/").rsplit("/", 1)[-1],
            }
        )

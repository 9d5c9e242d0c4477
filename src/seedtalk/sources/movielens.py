"""MovieLens in the layout of its zips (ml-latest-small, ml-25m, ml-32m): the corpus's hub of ids.

Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from seedtalk.content import describe
from seedtalk.errors import InputError, at
from seedtalk.sources.files import read_csv
from seedtalk.sources.table import CONVERSATION_COLUMNS, ITEM_COLUMNS, REVIEW_COLUMNS, Part, imdb_id
from seedtalk.titles import title_and_year

if TYPE_CHECKING:
    import pandas as pd

NAME = "movielens"
MEND = "run `seedtalk fetch movielens`, or unpack the zip of MovieLens there"

MOVIES = "movies.csv"
RATINGS = "ratings.csv"
LINKS = "links.csv"
TAGS = "tags.csv"
# A later release's catalogue beside a smaller one's ratings: more films, more ids, keywords.
WIDER_LINKS = "*_links.csv"
WIDER_MOVIES = "*_movies_w_keywords.csv"

MAX_KEYWORDS = 12

_NO_GENRES = "(no genres listed)"


def load(folder: Path) -> Part:
    """Read a MovieLens release.

    Parameters
    ----------
    folder
        Holds movies.csv, ratings.csv and links.csv, itself or in one folder below, as the zip
        unpacks; tags.csv is optional. `*_links.csv` and `*_movies_w_keywords.csv` (columns
        movieId, title, genres, keyword) add the catalogue of a larger release.

    Raises
    ------
    InputError
        When a file is missing or unfit, a film is listed twice in one file, or a rating is of
        no listed film or not within 0.5 to 5.
    """
    import pandas as pd

    folder = _layout(folder)
    movies = read_csv(folder / MOVIES, {"movieId": "int64", "title": "str", "genres": "str"}, MEND)
    _unique(movies, folder / MOVIES)
    read = {MOVIES: len(movies)}
    catalogues = [movies]
    for path in sorted(folder.glob(WIDER_MOVIES)):
        wider = read_csv(
            path,
            {"movieId": "int64", "title": "str", "genres": "str"},
            MEND,
            optional={"keyword": "str"},
        )
        _unique(wider, path)
        catalogues.append(wider)
        read[path.name] = len(wider)
    films = pd.concat(catalogues, ignore_index=True)
    keywords = _keywords(films)
    films = films.drop_duplicates("movieId").sort_values("movieId", ignore_index=True)
    ids = _ids(folder, read)
    tags = _tags(folder, read)
    parsed = [title_and_year(title) for title in films["title"]]
    items = pd.DataFrame(
        {
            "key": films["movieId"].astype(str),
            "title": [title for title, _, _ in parsed],
            "year": pd.array([year for _, year, _ in parsed], dtype="Int32"),
            "genres": [
                [] if genres in ("", _NO_GENRES) else genres.split("|")
                for genres in films["genres"]
            ],
            "description": [
                describe(keywords=_ranked(keywords.get(film, []), tags.get(film, Counter())))
                for film in films["movieId"]
            ],
            "movielens": films["movieId"].astype(str),
            "imdb": [ids.get(film, (None, None))[0] for film in films["movieId"]],
            "tmdb": [ids.get(film, (None, None))[1] for film in films["movieId"]],
            "aliases": [list(aliases) for _, _, aliases in parsed],
        },
        columns=list(ITEM_COLUMNS),
    )
    return Part(
        name=NAME,
        items=items,
        reviews=pd.DataFrame(columns=list(REVIEW_COLUMNS)),
        interactions=_ratings(folder / RATINGS, set(films["movieId"]), read),
        conversations=pd.DataFrame(columns=list(CONVERSATION_COLUMNS)),
        read={"items": len(films), "reviews": 0, "interactions": read[RATINGS]},
        dropped={},
        origin=read,
    )


def _layout(folder: Path) -> Path:
    if (folder / MOVIES).is_file():
        return folder
    below = sorted(path.parent for path in folder.glob(f"*/{MOVIES}"))
    if len(below) > 1:
        names = ", ".join(path.name for path in below)
        raise InputError(f"{folder}: holds several releases ({names}); keep one of them")
    return below[0] if below else folder


def _unique(films: pd.DataFrame, path: Path) -> None:
    twice = films["movieId"].duplicated()
    if twice.any():
        row = int(twice.to_numpy().argmax())
        film = films["movieId"].iloc[row]
        raise InputError(f"{at(path, row + 2, 'movieId')}: {film} is listed before; {MEND}")


def _ids(folder: Path, read: dict[str, int]) -> dict[int, tuple[str | None, str | None]]:
    """Return IMDb and TMDb id by film; the release's own file wins over a wider one."""
    columns = {"movieId": "int64", "imdbId": "str", "tmdbId": "str"}
    ids: dict[int, tuple[str | None, str | None]] = {}
    for path in (folder / LINKS, *sorted(folder.glob(WIDER_LINKS))):
        links = read_csv(path, columns, MEND)
        _unique(links, path)
        read[path.name] = len(links)
        rows = zip(links["movieId"], links["imdbId"], links["tmdbId"], strict=True)
        for film, imdb, tmdb in rows:
            ids.setdefault(film, (imdb_id(imdb), tmdb.strip().removesuffix(".0") or None))
    return ids


def _keywords(films: pd.DataFrame) -> dict[int, list[str]]:
    if "keyword" not in films.columns:
        return {}
    rows = films[films["keyword"].fillna("") != ""]
    return {
        film: words.split("|") for film, words in zip(rows["movieId"], rows["keyword"], strict=True)
    }


def _tags(folder: Path, read: dict[str, int]) -> dict[int, Counter[str]]:
    """Return the users' tags of each film and how many users gave each."""
    if not (folder / TAGS).is_file():
        return {}
    rows = read_csv(folder / TAGS, {"userId": "int64", "movieId": "int64", "tag": "str"}, MEND)
    read[TAGS] = len(rows)
    tags: dict[int, Counter[str]] = {}
    for film, tag in zip(rows["movieId"], rows["tag"], strict=True):
        tags.setdefault(film, Counter())[" ".join(tag.casefold().split())] += 1
    return tags


def _ranked(keywords: list[str], tags: Counter[str]) -> list[str]:
    """Return keywords in their order, then tags from the most given; the first few of them."""
    given = sorted(tags.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [word for word in (*keywords, *(tag for tag, _ in given)) if word.strip()]
    return list(dict.fromkeys(words))[:MAX_KEYWORDS]


def _ratings(path: Path, films: set[int], read: dict[str, int]) -> pd.DataFrame:
    import pandas as pd

    rows = read_csv(
        path,
        {"userId": "int64", "movieId": "int64", "rating": "float32", "timestamp": "int64"},
        MEND,
    )
    read[RATINGS] = len(rows)
    for field, wrong in (
        ("movieId", ~rows["movieId"].isin(films)),
        ("rating", ~rows["rating"].between(0.5, 5.0)),
    ):
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            value = rows[field].iloc[row]
            fault = f"is not in {MOVIES}" if field == "movieId" else "is not within 0.5 to 5"
            raise InputError(f"{at(path, row + 2, field)}: {value} {fault}; {MEND}")
    return pd.DataFrame(
        {
            "key": rows["movieId"].astype(str),
            "user_id": rows["userId"].astype(str),
            "rating": rows["rating"],
            "timestamp": rows["timestamp"].astype("Int64"),
        }
    )

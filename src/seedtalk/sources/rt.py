"""Rotten Tomatoes: critics' reviews, each of a known critic, with their scores.

The tables are those of the Flatiron School's movie data set: they name no titles, so that a
third table says which film an id is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from seedtalk.content import describe
from seedtalk.errors import InputError, at
from seedtalk.sources.files import read_csv
from seedtalk.sources.quickstart import clean_text
from seedtalk.sources.table import CONVERSATION_COLUMNS, ITEM_COLUMNS, Part, imdb_id
from seedtalk.titles import title_and_year

if TYPE_CHECKING:
    import pandas as pd

NAME = "rt"
MEND = "run `seedtalk fetch rt`"

REVIEWS = "rt.reviews.tsv"
MOVIES = "rt.movie_info.tsv"
TITLES = "rt_title_match.csv"
MEND_TITLES = "the published tables name no films: say which film each id is (docs/data.md)"
ENCODING = "latin-1"

FRESH, ROTTEN = 0.8, 0.3  # of a review without a score: a like and none, on any scale
GRADES = {
    grade: place / 12
    for place, grade in enumerate(
        ("F", "D-", "D", "D+", "C-", "C", "C+", "B-", "B", "B+", "A-", "A", "A+")
    )
}
LOWEST = 0.5  # of an interaction, on the scale of five stars

_CREDIT = re.compile(r"\s*(?:--|-)?\s*\([Cc]\)[^.]{0,60}$")  # whose synopsis it is
_SCORE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)")


def load(folder: Path) -> Part:
    """Read the critics' reviews; each is a rating of its critic, too.

    Parameters
    ----------
    folder
        Holds `rt.reviews.tsv` and `rt.movie_info.tsv` (Latin-1, gzipped or not) and
        `rt_title_match.csv` (rt_id, imdbId, movieId, title, genres). Reviews of films that the
        latter lacks are dropped and counted.

    Raises
    ------
    InputError
        When a file is missing or unfit, or no review is of a film with a title.
    """
    import pandas as pd

    titles = read_csv(
        folder / TITLES,
        {"rt_id": "str", "imdbId": "str", "movieId": "str", "title": "str", "genres": "str"},
        MEND_TITLES,
    )
    twice = titles["rt_id"].duplicated()
    if twice.any():
        row = int(twice.to_numpy().argmax())
        place = at(folder / TITLES, row + 2, "rt_id")
        raise InputError(f"{place}: '{titles['rt_id'].iloc[row]}' is listed before; {MEND_TITLES}")
    texts = dict.fromkeys(("synopsis", "director", "writer"), "str")
    info = read_csv(
        _table(folder, MOVIES), {"id": "str", **texts}, MEND, separator="\t", encoding=ENCODING
    ).set_index("id")
    path = _table(folder, REVIEWS)
    columns = dict.fromkeys(("id", "review", "rating", "fresh", "critic", "date"), "str")
    rows = read_csv(path, columns, MEND, separator="\t", encoding=ENCODING)
    wrong = ~rows["fresh"].isin(["fresh", "rotten"])
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        place = at(path, row + 2, "fresh")
        raise InputError(f"{place}: '{rows['fresh'].iloc[row]}' is neither fresh nor rotten")
    linked = rows["id"].isin(titles["rt_id"])
    kept = rows[linked].copy()
    if kept.empty:
        raise InputError(f"{path}: no review is of a film in {TITLES}; {MEND}")
    kept["score"] = [score(*pair) for pair in zip(kept["rating"], kept["fresh"], strict=True)]
    kept["text"] = [clean_text(text) for text in kept["review"]]
    kept["critic"] = kept["critic"].str.strip()
    named = kept[kept["critic"] != ""]
    written = kept[kept["text"] != ""]
    return Part(
        name=NAME,
        items=_items(titles, info),
        reviews=pd.DataFrame(
            {
                "key": written["id"],
                "user_id": written["critic"].where(written["critic"] != "", None),
                "rating": written["score"],
                "text": written["text"],
                "review_id": [f"{row + 1:06d}" for row in written.index],
            }
        ),
        interactions=pd.DataFrame(
            {
                "key": named["id"],
                "user_id": named["critic"],
                "rating": (5 * named["score"]).clip(lower=LOWEST),
                "timestamp": _seconds(named["date"], path),
            }
        ),
        conversations=pd.DataFrame(columns=list(CONVERSATION_COLUMNS)),
        read={"items": len(info), "reviews": len(rows), "interactions": len(rows)},
        dropped={
            "items": {"without_title": int((~info.index.isin(titles["rt_id"])).sum())},
            "reviews": {
                "film_without_title": int((~linked).sum()),
                "no_text": len(kept) - len(written),
            },
            "interactions": {
                "film_without_title": int((~linked).sum()),
                "no_critic": len(kept) - len(named),
            },
        },
        origin={MOVIES: len(info), REVIEWS: len(rows), TITLES: len(titles)},
    )


def score(rating: str, fresh: str) -> float:
    """Return a review's score from 0 to 1.

    ``3/4`` and letter grades (F is 0, A+ is 1, even steps) are taken as they are. A score without
    its scale says nothing: then, as without one, fresh is 0.8 and rotten 0.3.
    """
    written = rating.strip()
    found = _SCORE.fullmatch(written)
    if found and 0 <= float(found[1]) <= float(found[2]) and float(found[2]) > 0:
        return float(found[1]) / float(found[2])
    if written in GRADES:
        return GRADES[written]
    return FRESH if fresh == "fresh" else ROTTEN


def _table(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name


def _seconds(dates: pd.Series[str], path: Path) -> pd.Series[int]:
    """Return ``November 10, 2018`` as Unix seconds of that day's start in UTC."""
    import pandas as pd

    days = pd.to_datetime(dates.replace("", None), format="%B %d, %Y", errors="coerce", utc=True)
    wrong = days.isna() & (dates != "")
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        place = at(path, int(dates.index.to_numpy()[row]) + 2, "date")
        raise InputError(
            f"{place}: '{dates.iloc[row]}' is no date such as November 10, 2018; {MEND}"
        )
    since = (days - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    return since.astype("Int64")


def _items(titles: pd.DataFrame, info: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    parsed = [title_and_year(title) for title in titles["title"]]
    known = info.reindex(titles["rt_id"]).fillna("")
    return pd.DataFrame(
        {
            "key": titles["rt_id"],
            "title": [title for title, _, _ in parsed],
            "year": pd.array([year for _, year, _ in parsed], dtype="Int32"),
            "genres": [
                [] if not genres or genres.startswith("(") else genres.split("|")
                for genres in titles["genres"]
            ],
            "description": [
                describe(
                    _CREDIT.sub("", clean_text(plot)),
                    directors=directors.split("|"),
                    writers=writers.split("|"),
                )
                for plot, directors, writers in zip(
                    known["synopsis"], known["director"], known["writer"], strict=True
                )
            ],
            "movielens": titles["movieId"].replace("", None),
            "imdb": [imdb_id(imdb) for imdb in titles["imdbId"]],
            "tmdb": None,
            "aliases": [list(aliases) for _, _, aliases in parsed],
        },
        columns=list(ITEM_COLUMNS),
    )

"""A small made-up domain in the published forms: every film, user and sentence is invented."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd

from seedtalk.sources.table import (
    CONVERSATION_COLUMNS,
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    REVIEW_COLUMNS,
    Part,
)

PRAISE = "A tale told with patience, and the ferry scenes are worth the wait in every frame."
BLAME = "The plot drowns half-way over the river, and nobody on board seems to mind at all."


def movielens(folder: Path) -> Path:
    """Write a release: six films, one of them twice, two users."""
    text(
        folder / "movies.csv",
        """movieId,title,genres
        1,"Copper Lantern, The (1987)",Drama|Romance
        2,Harbour of Crows (a.k.a. Crow Bay) (1994),Crime
        3,Zeppelin (1953),Adventure
        4,Zeppelin (2003),(no genres listed)
        5,"Copper Lantern, The (1987)",Children
        6,Élan Vital,Drama""",
    )
    text(
        folder / "ratings.csv",
        """userId,movieId,rating,timestamp
        1,1,4.0,1000000000
        1,5,2.5,1000000500
        1,2,5.0,1000000100
        2,1,0.5,1000000200
        2,4,3.5,1000000300""",
    )
    text(
        folder / "links.csv",
        """movieId,imdbId,tmdbId
        1,0000011,901
        2,0000012,902
        3,0000013,903
        4,0000014,
        5,0000015,905
        6,0000016,906""",
    )
    text(
        folder / "tags.csv",
        """userId,movieId,tag,timestamp
        1,2,Slow Burn,1000000000
        2,2,slow  burn,1000000000
        2,2,birds,1000000000""",
    )
    return folder


def text(path: Path, lines: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stripped = "\n".join(line.lstrip(" ") for line in lines.splitlines()) + "\n"
    path.write_bytes(stripped.encode(encoding))


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def imdb_rows() -> list[dict[str, Any]]:
    """Return reviews of a film by both ids, by one, and of one nobody else lists."""
    known = {"split": "test", "label": "pos"}
    return [
        known
        | {
            "review_id": "test/pos/0_10.txt",
            "rating": 10,
            "imdbId": "0000011",
            "movieId": 1,
            "title": "Copper Lantern, The (1987)",
            "genres": "Drama|Romance",
            "text": f"{PRAISE}<br /><br />Twice.",
        },
        known
        | {
            "review_id": "test/neg/1_1.txt",
            "rating": 1,
            "imdbId": "tt0000012",
            "movieId": None,
            "title": None,
            "genres": None,
            "text": BLAME,
        },
        known
        | {
            "review_id": "test/neg/2_4.txt",
            "rating": 4,
            "imdbId": "0000099",
            "movieId": None,
            "title": None,
            "genres": None,
            "text": f"{BLAME} Again.",
        },
    ]


def rt(folder: Path) -> Path:
    """Write critics' tables: three films, one without a title; Latin-1 as published."""
    text(
        folder / "rt.movie_info.tsv",
        """id\tsynopsis\trating\tgenre\tdirector\twriter
        7\t"A keeper of lamps, ""the last"", waits. -- (C) Films"\tR\tDrama\tAda Vane\tO'Day|C. Lee
        8\t\tPG\tCrime\t\t
        9\tNobody knows what it is called.\tPG\tCrime\t\t""",
    )
    text(
        folder / "rt.reviews.tsv",
        """id\treview\trating\tfresh\tcritic\ttop_critic\tpublisher\tdate
        7\tA déjà vu of lamps.\t4/5\tfresh\tJ. Doe\t0\tThe Daily\tJanuary 2, 2010
        7\tDull as oil.\tB-\trotten\tM. Roe\t1\tThe Weekly\tMarch 3, 2011
        8\t\t3.5\tfresh\tJ. Doe\t0\tThe Daily\tApril 4, 2012
        8\tCrows, crows.\t\trotten\t\t0\tThe Daily\tApril 5, 2012
        9\tFine.\t5/5\tfresh\tJ. Doe\t0\tThe Daily\tMay 6, 2013""",
        encoding="latin-1",
    )
    text(
        folder / "rt_title_match.csv",
        """rt_id,imdbId,how,movieId,title,genres
        7,0000011,meta,1,"Copper Lantern, The (1987)",Drama
        8,0000012,text,2,Harbour of Crows (1994),Crime""",
    )
    return folder


def amazon(folder: Path) -> Path:
    """Write a category: two editions of a film, and a product without a title."""
    lines(
        folder / "meta_Movies.jsonl",
        [
            {
                "parent_asin": "B01",
                "title": "Zeppelin (1953) [Blu-ray] (Special Edition)",
                "categories": ["Movies & TV", "Genre for Featured Categories", "Adventure"],
                "description": ["Airships.", "And storms."],
                "details": {"Director": "Ida Storm", "Actors": "A. B., C. D."},
                "average_rating": 4.5,
            },
            {"parent_asin": "B02", "title": None, "categories": [], "description": []},
            {"parent_asin": "B03", "title": "Crow Bay (DVD)", "details": None},
        ],
    )
    rows = [
        ("B01", "u1", 5.0, 1_500_000_000_000, PRAISE),
        ("B01", "u1", 5.0, 1_500_000_000_000, PRAISE),
        ("B01", "u2", 2, 1_500_000_001_000, ""),
        ("B02", "u2", 3.0, 1_500_000_002_000, BLAME),
        ("B03", "u1", 1.0, 1_500_000_003_000, BLAME + " \ud83d"),
        ("B04", "u1", 1.0, 1_500_000_004_000, BLAME),
    ]
    lines(
        folder / "Movies.jsonl.gz",
        [
            {
                "rating": stars,
                "title": "Words",
                "text": said,
                "images": [],
                "asin": f"{key}x",
                "parent_asin": key,
                "user_id": user,
                "timestamp": when,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
            for key, user, stars, when, said in rows
        ],
    )
    return folder


def redial(folder: Path) -> Path:
    """Write the official catalogue and two dialogues: a film under two ids, one only here."""
    text(
        folder / "movies_with_mentions.csv",
        """movieId,movieName,nbMentions
        101,The Copper Lantern  (1987),5
        102,Copper Lantern,1
        103,Marigold Street (2008),2
        104,Zeppelin,7""",
    )
    lines(
        folder / "dev.jsonl",
        [
            {
                "conversationId": str(number),
                "initiatorWorkerId": 1,
                "respondentWorkerId": 2,
                "movieMentions": {"101": "The Copper Lantern  (1987)"},
                "messages": [
                    {"senderWorkerId": 1, "text": "I liked @101 and @102 !"},
                    {"senderWorkerId": 2, "text": "Then see @103 or @104"},
                ],
            }
            for number in range(2)
        ],
    )
    return folder


def part(name: str, rows: list[dict[str, Any]]) -> Part:
    """Make a part of items alone."""
    empty: dict[str, Any] = {
        "title": "",
        "year": None,
        "genres": [],
        "description": "",
        "movielens": None,
        "imdb": None,
        "tmdb": None,
        "aliases": [],
    }
    items = pd.DataFrame([empty | row for row in rows], columns=list(ITEM_COLUMNS))
    return Part(
        name=name,
        items=items.assign(year=items["year"].astype("Int32")),
        reviews=pd.DataFrame(columns=list(REVIEW_COLUMNS)),
        interactions=pd.DataFrame(columns=list(INTERACTION_COLUMNS)),
        conversations=pd.DataFrame(columns=list(CONVERSATION_COLUMNS)),
        read={"items": len(rows), "reviews": 0, "interactions": 0},
        dropped={},
        origin={},
    )

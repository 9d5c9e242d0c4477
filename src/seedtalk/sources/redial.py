"""ReDial: dialogues in which one person recommends films to another.

Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018. The one who opens a
dialogue (initiator) seeks, the other (respondent) recommends; a film is written ``@`` and its id.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedtalk.content import describe
from seedtalk.errors import InputError, at
from seedtalk.sources.dialogues import (
    Dialogues,
    Message,
    crslab_messages,
    item,
    items_frame,
    named_film,
    plain,
    read_dialogues,
)
from seedtalk.sources.files import of_type, read_csv
from seedtalk.sources.table import INTERACTION_COLUMNS, REVIEW_COLUMNS, Part, imdb_id
from seedtalk.texts import visible
from seedtalk.titles import match_key, title_and_year

NAME = "redial"
MEND = "run `seedtalk fetch redial`, or see docs/data.md for the forms that are read"

MOVIES = "movies_with_mentions.csv"
MOVIELENS = "movies_merged_movielens.csv"
METADATA = "combined_metadata.csv"
INFO = "id2info.json"

YEAR_SLACK = 1  # sources differ by a year on release dates; a remake is further away

_MENTION = re.compile(r"@(\d+)")
_GENRE_PART = re.compile(r"[^\W\d_]+")


def load(folder: Path, files: list[str]) -> Part:
    """Read ReDial's catalogue and dialogues.

    Parameters
    ----------
    folder
        Holds `movies_with_mentions.csv` (movieId, movieName; its third column counts mentions in
        the test dialogues too, and is never read) and, each optional, what others found out about
        the films: `movies_merged_movielens.csv` (databaseId, movieId, movieName),
        `combined_metadata.csv` (databaseId, imdbID, movielensID, year, genres, directors, actors)
        and `id2info.json` (id to imdb_id, genre, plot, director, writer, star). Without the first
        the catalogue is the films that `files` name.
    files
        Dialogue files below the folder, plain or gzipped, in any of three forms: the official JSON
        lines, the same with annotations (UniCRS), or CRSLab's ``{"dialog": [...]}``.

    Returns
    -------
    Part
        The key of an item is ReDial's id, or title and year where a form has no id. An id of
        another catalogue is left out, and counted, where the film it stands for there has another
        year. A mention of an id that no file names is no item, and counted.

    Raises
    ------
    InputError
        When a file is missing or unfit; names file, row and field.
    """
    import pandas as pd

    names = _catalogue(folder / MOVIES)
    dialogues = Dialogues(NAME)
    extra: dict[str, dict[str, Any]] = {}
    for file in files:
        path = folder / file
        for number, row in read_dialogues(path, MEND):
            if not isinstance(row, dict) or not {"messages", "dialog"} & set(row):
                raise InputError(
                    f"{at(path, number, 'messages')}: missing; this is no dialogue of ReDial; "
                    f"{MEND}"
                )
            if "dialog" in row:
                name, messages = _crslab(path, number, row, names, extra, dialogues)
            else:
                name, messages = _official(path, number, row, names, dialogues)
            dialogues.add(path, number, file, name, messages)
    items, ids_dropped = _items(folder, names)
    items |= extra
    return Part(
        name=NAME,
        items=items_frame(items),
        reviews=pd.DataFrame(columns=list(REVIEW_COLUMNS)),
        interactions=pd.DataFrame(columns=list(INTERACTION_COLUMNS)),
        conversations=dialogues.frame(),
        read={"items": len(items), "reviews": 0, "interactions": 0, **dialogues.read},
        dropped=dialogues.dropped() | ({"ids": dict(ids_dropped)} if ids_dropped else {}),
        origin={**_present(folder), **dialogues.origin},
    )


def _catalogue(path: Path) -> dict[str, str]:
    """Return id to name of the official catalogue; empty where the file is not there."""
    if not path.is_file():
        return {}
    frame = read_csv(path, {"movieId": "str", "movieName": "str"}, MEND)
    names: dict[str, str] = {}
    for row, (film, name) in enumerate(
        zip(frame["movieId"], frame["movieName"], strict=True), start=2
    ):
        if not film.strip().isdigit():
            raise InputError(f"{at(path, row, 'movieId')}: '{visible(film)}' is no number; {MEND}")
        if film in names:
            raise InputError(f"{at(path, row, 'movieId')}: {film} is listed before; {MEND}")
        if title_and_year(name)[0]:
            names[film.strip()] = _plain(name)
    return names


def _plain(name: str) -> str:
    # The published names have every question mark, and nothing else, written as in an address.
    return visible(name).replace("%3F", "?")


def _official(
    path: Path, number: int, row: Mapping[str, Any], names: dict[str, str], dialogues: Dialogues
) -> tuple[str, list[Message]]:
    """Return id and messages of a dialogue, and enter films that the catalogue lacks."""
    name = str(of_type(path, number, row, "conversationId", str, int))
    roles = {
        of_type(path, number, row, "initiatorWorkerId", int, str): "seeker",
        of_type(path, number, row, "respondentWorkerId", int, str): "recommender",
    }
    if len(roles) < 2:
        dialogues.conversations["one_person"] += 1
        return name, []
    # An empty dictionary is written as an empty list in the official files.
    mentioned = of_type(path, number, row, "movieMentions", dict, list, type(None)) or {}
    if not isinstance(mentioned, dict):
        raise InputError(f"{at(path, number, 'movieMentions')}: expected an object; {MEND}")
    for film, title in mentioned.items():
        if isinstance(title, str) and title_and_year(title)[0]:
            names.setdefault(film, _plain(title))
    messages = []
    for place, message in enumerate(of_type(path, number, row, "messages", list)):
        within = f"messages[{place}]"
        if not isinstance(message, dict):
            raise InputError(f"{at(path, number, within)}: expected an object; {MEND}")
        sender = of_type(path, number, message, "senderWorkerId", int, str)
        if sender not in roles:
            raise InputError(
                f"{at(path, number, f'{within}.senderWorkerId')}: {visible(str(sender))} is "
                "neither the initiator nor the respondent"
            )
        text = of_type(path, number, message, "text", str)
        shown, items = _resolved(text, names, dialogues)
        messages.append(Message(roles[sender], shown, items))
    return name, messages


def _crslab(
    path: Path,
    number: int,
    row: Mapping[str, Any],
    names: Mapping[str, str],
    extra: dict[str, dict[str, Any]],
    dialogues: Dialogues,
) -> tuple[str, list[Message]]:
    """As `_official` for CRSLab's form, whose films are ids in the text or DBpedia resources."""
    name = str(of_type(path, number, row, "conv_id", str, int))
    messages = []
    for role, text, films in crslab_messages(path, number, row):
        shown, items = _resolved(text, names, dialogues)
        if not items:
            for written in films:
                film = named_film(names.get(written, written))
                if film is None:
                    dialogues.mentions["no_title"] += 1
                    continue
                key, known = (written, None) if written in names else film
                if known is not None:
                    extra.setdefault(key, known)
                items.append(key)
        messages.append(Message(role, shown, items))
    return name, messages


def _resolved(text: str, names: Mapping[str, str], dialogues: Dialogues) -> tuple[str, list[str]]:
    """Return a text with the titles in the place of the ids, and the ids."""
    items = []

    def title(match: re.Match[str]) -> str:
        name = names.get(match[1])
        if name is None:
            dialogues.mentions["unknown_id"] += 1
            return match[0]
        items.append(match[1])
        return name

    return plain(_MENTION.sub(title, text)), items


def _present(folder: Path) -> dict[str, str]:
    return {
        name: "catalogue"
        for name in (MOVIES, MOVIELENS, METADATA, INFO)
        if (folder / name).is_file()
    }


def _items(
    folder: Path, names: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
    """Return every film with what the optional files know of it, and the ids left out."""
    dropped: Counter[str] = Counter()
    metadata = _metadata(folder / METADATA)
    movielens = _movielens(folder / MOVIELENS)
    info = _info(folder / INFO)
    items = {}
    for film, name in names.items():
        title, year, aliases = title_and_year(name)
        known = metadata.get(film, {})
        told = info.get(film, {})
        if known and not _near(year, known["year"]):
            # The metadata's titles were linked without a look at the year: another film's.
            dropped[f"{METADATA}: another year"] += 1
            known = {}
        other, written = movielens.get(film, (None, ""))
        if other is not None and not _same_film(name, written):
            dropped[f"{MOVIELENS}: another film"] += 1
            other = None
        items[film] = item(
            title=title,
            year=year if year is not None else known.get("year"),
            aliases=list(aliases),
            genres=_genres(told.get("genre") or known.get("genres") or []),
            description=describe(
                told.get("plot") or "",
                directors=told.get("director") or known.get("directors") or [],
                writers=told.get("writer") or [],
                stars=told.get("star") or known.get("actors") or [],
            ),
            movielens=other or known.get("movielens"),
            imdb=known.get("imdb") or imdb_id(told.get("imdb_id")),
        )
    return items, dropped


def _near(one: int | None, other: int | None) -> bool:
    return one is None or other is None or abs(one - other) <= YEAR_SLACK


def _same_film(one: str, other: str) -> bool:
    """Tell whether two written titles have a name in common and no two different years."""
    title, year, aliases = title_and_year(one)
    others, other_year, other_aliases = title_and_year(other)
    keys = {match_key(form) for form in (title, *aliases)}
    return _near(year, other_year) and bool(
        keys & {match_key(form) for form in (others, *other_aliases)}
    )


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    columns = ("databaseId", "imdbID", "movielensID", "year", "genres", "directors", "actors")
    frame = read_csv(path, dict.fromkeys(columns, "str") | {"year": "Float64"}, MEND)
    return {
        row["databaseId"].strip(): {
            "imdb": imdb_id(row["imdbID"]),
            "movielens": row["movielensID"].strip().removesuffix(".0") or None,
            "year": None if row["year"] != row["year"] else _whole(row["year"]),
            "genres": _list(row["genres"], "|"),
            "directors": _list(row["directors"], ","),
            "actors": _list(row["actors"], ","),
        }
        for row in frame.to_dict("records")
    }


def _whole(number: Any) -> int | None:
    import pandas as pd

    return None if pd.isna(number) else int(number)


def _list(written: str, separator: str) -> list[str]:
    return [part.strip() for part in written.split(separator) if part.strip()]


def _movielens(path: Path) -> dict[str, tuple[str | None, str]]:
    """Return MovieLens id and title by ReDial id; -1 stands for no film."""
    if not path.is_file():
        return {}
    frame = read_csv(path, {"databaseId": "str", "movieId": "str", "movieName": "str"}, MEND)
    rows = zip(frame["databaseId"], frame["movieId"], frame["movieName"], strict=True)
    return {
        film.strip(): (other.strip().removesuffix(".0"), _plain(name))
        for film, other, name in rows
        if other.strip().removesuffix(".0").isdigit()
    }


def _info(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); {MEND}") from error
    if not isinstance(info, dict) or not all(isinstance(row, dict) for row in info.values()):
        raise InputError(f"{path}: expected an object of objects, by ReDial's id; {MEND}")
    for film, row in info.items():
        for field, kind in (
            ("plot", str),
            ("genre", list),
            ("director", list),
            ("writer", list),
            ("star", list),
            ("imdb_id", str),
        ):
            value = row.get(field)
            wrong = value is not None and not isinstance(value, kind)
            if wrong or (kind is list and not all(isinstance(part, str) for part in value or [])):
                wanted = "a list of strings" if kind is list else "a string"
                raise InputError(f"{at(path, film, field)}: expected {wanted}; {MEND}")
    return info


def _genres(genres: list[str]) -> list[str]:
    """Return genres spelt as MovieLens does: ``sci-fi`` is Sci-Fi."""
    kept = [genre for genre in genres if any(char.isalpha() for char in genre)]
    return [_GENRE_PART.sub(lambda part: part[0].capitalize(), genre.strip()) for genre in kept]

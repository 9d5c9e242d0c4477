"""INSPIRED: dialogues in which a recommender is to persuade a seeker to watch a trailer.

Hayati et al., INSPIRED: Toward Sociable Recommendation Dialog Systems, EMNLP 2020.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seedtalk.content import describe
from seedtalk.errors import InputError, at
from seedtalk.records import display_title
from seedtalk.sources.dialogues import (
    Dialogues,
    Message,
    crslab_messages,
    item,
    items_frame,
    named_film,
    opened,
    plain,
    read_dialogues,
    role,
)
from seedtalk.sources.files import of_type, read_csv
from seedtalk.sources.table import INTERACTION_COLUMNS, REVIEW_COLUMNS, Part, imdb_id
from seedtalk.titles import match_key, title_and_year

NAME = "inspired"
MEND = "run `seedtalk fetch inspired`, or see docs/data.md for the forms that are read"

DATABASE = "movie_database.tsv"
ENTITIES = "he2023_entity2id.json"
CATALOGUE = "he2023_item_ids.json"

COLUMNS = ("dialog_id", "speaker", "text", "movies")
_LISTED = re.compile(r"(?<=\d\))\s*[,;]\s*")
_QUOTE = "QUOTATION_MARK"  # stands for a double quote in the official files


def load(folder: Path, files: list[str]) -> Part:
    """Read INSPIRED's dialogues and the films they and its catalogues name.

    Parameters
    ----------
    folder
        May hold `movie_database.tsv` (title, year, genre, actors, director, plot) and the
        catalogue of He et al. (`he2023_item_ids.json` with `he2023_entity2id.json`): their films
        join those that `files` name.
    files
        Dialogue files below the folder, plain or gzipped, in any of three forms: the official
        table (dialog_id, speaker, text, movies), UniCRS' JSON lines (a list of turns a line:
        text, role, movie), or CRSLab's ``{"dialog": [...]}``.

    Returns
    -------
    Part
        The key of an item is its title and year. A dialogue's id is the official one, or a hash
        of its words where a form has none.

    Raises
    ------
    InputError
        When a file is missing or unfit; names file, row and field.
    """
    import pandas as pd

    items: dict[str, dict[str, Any]] = {}
    dialogues = Dialogues(NAME)
    for file in files:
        path = folder / file
        if is_table(path):
            _read_table(path, file, items, dialogues)
        else:
            _read_lines(path, file, items, dialogues)
    origin: dict[str, Any] = {}
    for name, films in ((DATABASE, _database(folder)), (CATALOGUE, _he2023(folder))):
        if films:
            origin[name] = len(films)
        _complete(items, films)
    return Part(
        name=NAME,
        items=items_frame(items),
        reviews=pd.DataFrame(columns=list(REVIEW_COLUMNS)),
        interactions=pd.DataFrame(columns=list(INTERACTION_COLUMNS)),
        conversations=dialogues.frame(),
        read={"items": len(items), "reviews": 0, "interactions": 0, **dialogues.read},
        dropped=dialogues.dropped(),
        origin={**origin, **dialogues.origin},
    )


def _complete(items: dict[str, dict[str, Any]], films: Mapping[str, dict[str, Any]]) -> None:
    """Add a catalogue's films to those known, or what it says of them.

    A film without a year is taken for the only one of its title.
    """
    titles: defaultdict[Any, list[str]] = defaultdict(list)
    for key, film in items.items():
        titles[match_key(film["title"])].append(key)
    for key, film in films.items():
        alike = titles[match_key(film["title"])]
        known = key
        if key not in items and len(alike) == 1 and None in (film["year"], items[alike[0]]["year"]):
            known = alike[0]
        found = {field: value for field, value in items.get(known, {}).items() if value}
        items[known] = film | found


def is_table(path: Path) -> bool:
    """Tell whether a file is the official table: its first line names the columns.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; {MEND}")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return file.readline().removeprefix(b"\xef\xbb\xbf").startswith(b"dialog_id")
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {MEND}") from error


def _read_table(
    path: Path, file: str, items: dict[str, dict[str, Any]], dialogues: Dialogues
) -> None:
    said: dict[str, tuple[int, list[Message]]] = {}
    for number, row in _table(path):
        name = row["dialog_id"].strip()
        if not name:
            raise InputError(f"{at(path, number, 'dialog_id')}: empty; {MEND}")
        films = [film for film in row["movies"].split(";") if film.strip()]
        message = Message(
            role(path, number, row, "speaker"),
            plain(row["text"].replace(_QUOTE, '"')),
            _keys(films, items, dialogues),
        )
        said.setdefault(name, (number, []))[1].append(message)
    for name, (number, messages) in said.items():
        dialogues.add(path, number, file, name, messages)


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row from 2, cells by column) of a tab-separated file without quoting."""
    with opened(path) as file:
        try:
            header = file.readline().removeprefix("\ufeff").rstrip("\r\n").split("\t")
            for name in COLUMNS:
                if name not in header:
                    raise InputError(f"{at(path, field=name)}: column missing; {MEND}")
            for number, line in enumerate(file, start=2):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) != len(header):
                    raise InputError(
                        f"{at(path, number)}: {len(cells)} cells, but the header has "
                        f"{len(header)}; {MEND}"
                    )
                yield number, dict(zip(header, cells, strict=True))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 at byte {error.start}; {MEND}") from error
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {MEND}") from error


def _read_lines(
    path: Path, file: str, items: dict[str, dict[str, Any]], dialogues: Dialogues
) -> None:
    for number, row in read_dialogues(path, MEND):
        if isinstance(row, dict):
            if "dialog" not in row:
                raise InputError(
                    f"{at(path, number, 'dialog')}: missing; this is no dialogue of INSPIRED; "
                    f"{MEND}"
                )
            said = crslab_messages(path, number, row)
            name = str(row.get("conv_id", ""))
        else:
            said = [_turn(path, number, place, turn) for place, turn in enumerate(row)]
            name = ""
        messages = [
            Message(who, plain(text), _keys(films, items, dialogues)) for who, text, films in said
        ]
        dialogues.add(path, number, file, name or _digest(messages), messages)


def _turn(path: Path, number: int, place: int, turn: Any) -> tuple[str, str, list[str]]:
    if not isinstance(turn, dict):
        raise InputError(f"{at(path, number, f'[{place}]')}: expected a turn (object); {MEND}")
    films = of_type(path, number, turn, "movie", list)
    return (
        role(path, number, turn, "role"),
        of_type(path, number, turn, "text", str),
        [str(film) for film in films],
    )


def _keys(films: list[str], items: dict[str, dict[str, Any]], dialogues: Dialogues) -> list[str]:
    """Return the keys of films as a turn names them, and enter those that are new."""
    keys = []
    # Some cells list films in one string: "Foo (2014), Bar (2017)".
    for written in (name for cell in films for name in _LISTED.split(cell)):
        found = named_film(written)
        if found is None:
            dialogues.mentions["no_title"] += 1
            continue
        key, film = found
        items.setdefault(key, film)
        keys.append(key)
    return keys


def _digest(messages: list[Message]) -> str:
    """Return an id that the dialogue's words give it, whatever file it stands in."""
    words = json.dumps([[message.role, message.text] for message in messages], ensure_ascii=False)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _database(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the films of the official database by key."""
    path = folder / DATABASE
    if not path.is_file():
        return {}
    optional = ("year", "genre", "actors", "director", "short_plot", "long_plot", "imdb_id")
    rows = read_csv(
        path, {"title": "str"}, MEND, separator="\t", optional=dict.fromkeys(optional, "str")
    )
    films: dict[str, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        title, year, aliases = title_and_year(row["title"])
        if not title:
            continue
        written = row.get("year", "").strip()[:4]
        year = year if year is not None else int(written) if written.isdigit() else None
        films.setdefault(
            display_title(title, year),
            item(
                title=title,
                year=year,
                aliases=list(aliases),
                genres=_list(row, "genre"),
                imdb=imdb_id(row.get("imdb_id", "")),
                description=describe(
                    row.get("short_plot") or row.get("long_plot") or "",
                    directors=_list(row, "director"),
                    stars=_list(row, "actors"),
                ),
            ),
        )
    return films


def _list(row: Mapping[Any, Any], field: str) -> list[str]:
    parts = str(row.get(field, "")).replace("|", ",").split(",")
    return [part.strip() for part in parts if part.strip()]


def _he2023(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the films of He et al.'s catalogue by key, from their DBpedia resources."""
    paths = folder / CATALOGUE, folder / ENTITIES
    if not all(path.is_file() for path in paths):
        return {}
    ids, entities = (_json(path) for path in paths)
    if not isinstance(ids, list) or not all(isinstance(number, int) for number in ids):
        raise InputError(f"{paths[0]}: expected a list of entity numbers; {MEND}")
    if not isinstance(entities, dict):
        raise InputError(f"{paths[1]}: expected an object of entity to number; {MEND}")
    names = {number: name for name, number in entities.items()}
    films = {}
    for number in ids:
        if number not in names:
            raise InputError(f"{paths[0]}: entity {number} is not in {ENTITIES}; {MEND}")
        found = named_film(names[number])
        if found is not None:
            films[found[0]] = found[1]
    return films


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); {MEND}") from error

"""A student with its catalogue in one folder: a chat request in, titles of the catalogue out.

It is what the registry holds and ``mlflow models serve`` serves. Answers are found as in
`seedtalk.chatting`, so that every title is an item; the items' ids stand beside them.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from seedtalk.catalogue import Catalogue
from seedtalk.chatting import reply
from seedtalk.errors import InputError, at
from seedtalk.params import Years
from seedtalk.records import answer_titles, read_json, read_table, write_json
from seedtalk.students.decoding import TitleScorer
from seedtalk.students.loading import load_student, save_whole
from seedtalk.students.templates import format_answer, parse_answer

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.tracking import Served

STUDENT, ITEMS, OPTIONS = "student", "items.parquet", "recommender.json"
TITLES = 5  # of an answer that asks for no number
MOST_TITLES = 100
ROLES = {"user": "seeker", "assistant": "recommender"}
IGNORED_ROLES = ("system", "developer")  # the student brings its own
NOTHING_LEFT = "There is nothing else in the catalogue."


class Options(BaseModel):
    """How a recommender speaks: ``recommender.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # what the student was made of, as answers name it
    years: Years  # as in curate.years: the titles the student has learnt


def save_recommender(
    folder: Path, student: Path, items: Path, *, years: Years, cache_dir: Path
) -> None:
    """Write the merged student, its tokenizer and its catalogue into an existing folder.

    Parameters
    ----------
    folder
        Existing and empty.
    student
        ``models/<student>-<tuning>``; an adapter is merged into its base.
    items
        The catalogue, ``artifacts/items.parquet``.
    years
        ``curate.years`` of the run that made the student.
    cache_dir
        As for `students.loading.load_student`.

    Raises
    ------
    InputError
        When the student or the catalogue cannot be read.
    """
    read_table(items, "items")  # a table of another kind is refused now, not when it is served
    model, tokenizer = load_student(student, cache_dir=cache_dir)
    inside = folder / STUDENT
    inside.mkdir()
    save_whole(model, tokenizer, inside, base=student.name)
    (folder / ITEMS).write_bytes(items.read_bytes())
    write_json(folder / OPTIONS, Options(name=student.name, years=years).model_dump())


class Recommender:
    """Answers chat requests; safe to share between threads, one request at a time.

    Parameters
    ----------
    folder
        As `save_recommender` writes it.
    cache_dir
        As for `students.loading.load_student`.

    Raises
    ------
    InputError
        When a part of the folder is missing or unreadable.
    """

    def __init__(self, folder: Path, *, cache_dir: Path) -> None:
        path = folder / OPTIONS
        try:
            self._options = Options.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError(f"{at(path)}: {error.errors()[0]['msg']}") from error
        items: pd.DataFrame = read_table(folder / ITEMS, "items")
        self._catalogue = Catalogue(items)
        self._ids = [str(item) for item in items["item_id"]]
        self._rows = {item: row for row, item in enumerate(self._ids)}
        self._titles = answer_titles(items, self._options.years)
        model, tokenizer = load_student(folder / STUDENT, cache_dir=cache_dir)
        self._scorer = TitleScorer(model, tokenizer, self._titles)
        self._lock = threading.Lock()

    def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request in the form of OpenAI's chat completions.

        Parameters
        ----------
        request
            ``messages`` (role and content; the last is the user's), and where wanted ``titles``
            (how many, 1 to 100) and ``exclude`` (item ids not to be named). Titles that the
            messages name, by either side, are not named again. The student brings its own
            system message; one of the request is passed over, as is any other field: decoding
            is exact, there is no sampling to set.

        Returns
        -------
        dict
            A ``chat.completion``; ``choices[0].message.content`` is a numbered list of titles,
            ``custom_outputs.items`` has the items' ids and titles in the same order.

        Raises
        ------
        InputError
            When the request is not of that form; names the field.
        """
        history = _history(request.get("messages"))
        count = _count(request.get("titles"))
        named = self._named(history) | self._excluded(request.get("exclude"))
        rows: list[int] = []
        if len(named) < len(self._ids):
            with self._lock:
                rows = reply(self._scorer, history, count, sorted(named))
        titles = [self._titles[row] for row in rows]
        found = [{"item_id": self._ids[row], "title": self._titles[row]} for row in rows]
        content = format_answer(titles) if titles else NOTHING_LEFT
        message = {"role": "assistant", "content": content}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._options.name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "custom_outputs": {"items": found},
        }

    def _named(self, history: Sequence[Mapping[str, str]]) -> set[int]:
        """Return the rows of the titles that the conversation has named."""
        named: set[int] = set()
        for turn in history:
            if turn["role"] == "recommender":
                listed = (self._catalogue.link(title) for title in parse_answer(turn["text"]))
                named |= {self._rows[item] for item in listed if item is not None}
            if "|" in self._catalogue.mask(turn["text"]):
                named |= {
                    row
                    for row, item in enumerate(self._ids)
                    if self._catalogue.names(turn["text"], item)
                }
        return named

    def _excluded(self, items: Any) -> set[int]:
        if not isinstance(items, Sequence) or isinstance(items, str):
            if items is None:
                return set()
            raise InputError("field 'exclude': expected a list of item ids")
        for item in items:
            if not isinstance(item, str) or item not in self._rows:
                raise InputError(f"field 'exclude': {item!r} is no item of the catalogue")
        return {self._rows[item] for item in items}


def _load_pyfunc(path: str) -> Served:
    """Load a registered recommender; MLflow calls this by its name."""
    from seedtalk.tracking import Served

    folder = Path(path)
    return Served(Recommender(folder, cache_dir=folder).complete)


def _history(messages: Any) -> list[dict[str, str]]:
    """Return a request's messages as turns of seeker and recommender."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError("field 'messages': expected a list of messages with role and content")
    turns = []
    for number, message in enumerate(messages, start=1):
        place = f"field 'messages', message {number}"
        if not isinstance(message, Mapping):
            raise InputError(f"{place}: expected an object with role and content")
        role = message.get("role")
        if role in IGNORED_ROLES:
            continue
        if role not in ROLES:
            raise InputError(f"{place}, field 'role': {role!r} is none of system, user, assistant")
        turns.append({"role": ROLES[role], "text": _text(message.get("content"), place)})
    if not turns or turns[-1]["role"] != "seeker" or not turns[-1]["text"].strip():
        raise InputError("field 'messages': the last message must be the user's, with words in it")
    return turns


def _text(content: Any, place: str) -> str:
    """Return a message's text: a string, or OpenAI's list of parts that are all text."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and content:
        found = [part.get("text") for part in content if isinstance(part, Mapping)]
        parts = [part for part in found if isinstance(part, str)]
        if len(parts) == len(content):
            return "\n".join(parts)
    raise InputError(f"{place}, field 'content': expected a text")


def _count(titles: Any) -> int:
    if titles is None:
        return TITLES
    if isinstance(titles, bool) or not isinstance(titles, int) or not 1 <= titles <= MOST_TITLES:
        raise InputError(f"field 'titles': expected a whole number from 1 to {MOST_TITLES}")
    return titles

"""Answers of any system, as `seedtalk score` reads them, and the counting of their hits.

A file has one JSON object a line, the form in which He et al. (CIKM 2023) published theirs:
``rec_list`` or ``completion`` (what was answered), ``gt_list`` (what should have been), and
``prev_list`` (what was mentioned before).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seedtalk.errors import InputError, at
from seedtalk.lines import read_json_lines

if TYPE_CHECKING:
    import pandas as pd

CONDITIONS = ("recommendation", "discussion", "all")
GAINS: dict[str, Callable[[int], float]] = {  # by the 0-based place of a target
    "recall": lambda place: 1.0,
    "ndcg": lambda place: 1 / math.log2(place + 2),
    "mrr": lambda place: 1 / (place + 1),
}
NORMAL = 1.96  # half-width of a normal 95% interval, in standard errors

_INNERMOST = re.compile(r"\([^()]*\)")
# "3. ", "3) ", "3 - ", and, as in the original, the number that opens a title itself.
_NUMBER = re.compile(r"\d+[.)、]?\s*[-–—]?\s*")


@dataclass(frozen=True)
class Listed:
    """An entry of a ``rec_list``: the title as written, its nearest name, and how far that is."""

    title: str
    name: str
    distance: int


@dataclass(frozen=True)
class Answer:
    """One turn of a recommender: what a system answered and what should have been found.

    Attributes
    ----------
    row
        Its line in the file, from 1.
    completion
        The answer's text, where the record has it.
    listed
        Its ``rec_list``, best first, where the record has it.
    targets, mentioned
        Names that the turn mentions (``gt_list``) and that were mentioned before (``prev_list``).
    conversation
        Its ``conversation_id``, where the record has one.
    """

    row: int
    completion: str | None
    listed: list[Listed] | None
    targets: list[str]
    mentioned: list[str]
    conversation: str | None


@dataclass(frozen=True)
class Hit:
    """One row of the count, for one turn and target.

    Attributes
    ----------
    turn
        Place of the answer in its file, from 0.
    discussed
        Whether the target was mentioned before (condition ``discussion``).
    place
        0-based place of the target in the ranking, None where it is missed.
    """

    turn: int
    discussed: bool
    place: int | None


def read_answers(path: Path) -> list[Answer]:
    """Read a file of answers.

    Raises
    ------
    InputError
        When it cannot be read, is empty, or a record lacks a field or holds another kind of
        value; names file, row and field.
    """
    answers = [_answer(path, row, record) for row, record in read_json_lines(path)]
    if not answers:
        raise InputError(f"{path}: no record; expected one JSON object a line")
    known = [answer for answer in answers if answer.conversation is not None]
    if known and len(known) < len(answers):
        bare = next(answer for answer in answers if answer.conversation is None)
        raise InputError(
            f"{at(path, bare.row, 'conversation_id')}: missing, though row {known[0].row} has one; "
            "give one to every record or to none"
        )
    return answers


def titles(completion: str, *, brackets: bool) -> list[str]:
    """Return the titles of a completion, in order, blank lines as empty titles.

    What stands before the first ``1.`` goes; a text without ``1.`` is split at its commas
    instead. Then each line is a title: space collapses and the line's number goes.

    Parameters
    ----------
    completion
        The text.
    brackets
        Keep what stands in round brackets, such as a year; without, as He et al. did, it goes.
    """
    _, numbered, rest = completion.partition("1.")
    lines = (rest if numbered else completion.replace(",", "\n")).split("\n")
    found = []
    for line in lines:
        title = " ".join((line if brackets else _INNERMOST.sub("", line)).split())
        number = _NUMBER.match(title)
        found.append(title[number.end() :] if number else title)
    return found


def hits(
    answers: Sequence[tuple[Sequence[str], Sequence[str]]], rankings: Sequence[Sequence[str]]
) -> list[Hit]:
    """Return one row per turn and target.

    Parameters
    ----------
    answers
        The targets and the mentioned names (or ids) of each turn.
    rankings
        What each turn ranked, best first; the first of equal names counts.
    """
    rows = []
    for turn, ((targets, mentioned), ranking) in enumerate(zip(answers, rankings, strict=True)):
        places: dict[str, int] = {}
        for place, name in enumerate(ranking):
            places.setdefault(name, place)
        before = set(mentioned)
        rows += [Hit(turn, target in before, places.get(target)) for target in targets]
    return rows


def by_condition(rows: Sequence[Hit]) -> dict[str, list[Hit]]:
    """Return the rows of each of `CONDITIONS`."""
    return {
        "recommendation": [row for row in rows if not row.discussed],
        "discussion": [row for row in rows if row.discussed],
        "all": list(rows),
    }


def values(rows: Sequence[Hit], cutoffs: Sequence[int]) -> dict[str, list[float]]:
    """Return each metric of each row, by name: ``recall@1``, ``ndcg@1``, ``mrr@1``, ….

    With the 0-based place r of a target among the first k: recall 1, ndcg 1/log2(r + 2), mrr
    1/(r + 1); 0 where it is not among them.
    """
    return {
        f"{metric}@{k}": [
            0.0 if row.place is None or row.place >= k else GAINS[metric](row.place) for row in rows
        ]
        for k in cutoffs
        for metric in GAINS
    }


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, float | int | None]:
    """Return ``n``, and of each metric ``_mean``, ``_se`` and ``_ci``.

    The standard error is the sample's deviation (n - 1) over the root of n, the interval 1.96
    of it to each side. Without a row every value is None; with one, se and ci are.
    """
    count = len(next(iter(found.values())))
    numbers: dict[str, float | int | None] = {"n": count}
    for name, column in found.items():
        array = np.asarray(column, dtype=np.float64)
        error = float(array.std(ddof=1) / np.sqrt(count)) if count > 1 else None
        numbers[f"{name}_mean"] = float(array.mean()) if count else None
        numbers[f"{name}_se"] = error
        numbers[f"{name}_ci"] = None if error is None else NORMAL * error
    return numbers


def from_predictions(
    predicted: pd.DataFrame,
    items: pd.DataFrame,
    conversations: pd.DataFrame,
    *,
    depth: int,
) -> Generator[dict[str, Any], None, None]:
    """Yield the rankings of one system as records that `read_answers` reads.

    One record per recommender turn, after the seeker's first, that mentions a catalogue item, in
    the conversations that `predicted` is about. A turn that only repeats items was never ranked
    for: its ``rec_list`` is empty.

    Parameters
    ----------
    predicted
        `records.PREDICTIONS` of one system.
    items
        The catalogue, `records.ITEMS`; titles are shown with their year.
    conversations
        `records.CONVERSATIONS` of one benchmark.
    depth
        Titles listed in a record.

    Raises
    ------
    InputError
        When a ranked query is not among the conversations, or an item not in the catalogue.
    """
    from seedtalk.evaluation.protocols import asked_turns, read_turns
    from seedtalk.records import display_title

    shown = {
        str(item): display_title(title, year)
        for item, title, year in zip(items["item_id"], items["title"], items["year"], strict=True)
    }
    rankings = {
        (str(name), int(turn)): ranking
        for name, turn, ranking in zip(
            predicted["conversation_id"], predicted["query"], predicted["ranking"], strict=True
        )
    }
    wanted = {name for name, _ in rankings}
    index = 0
    ordered = conversations.sort_values("conversation_id", kind="stable")
    for name, raw in zip(ordered["conversation_id"].astype(str), ordered["turns"], strict=True):
        if name not in wanted:
            continue
        for asked in asked_turns(read_turns(raw), shown.keys()):
            ranking = rankings.pop((name, asked.turn), ())
            listed = [_shown(shown, str(item)) for item in islice(ranking, depth)]
            yield {
                "index": index,
                "conversation_id": name,
                "turn": asked.turn,
                "rec_list": [
                    {"movie_name": title, "min_edit_distance": 0, "nearest_movie": title}
                    for title in listed
                ],
                "gt_list": [shown[item] for item in (*asked.fresh, *asked.repeated)],
                "prev_list": [shown[item] for item in asked.mentioned if item in shown],
            }
            index += 1
    if rankings:
        name, turn = min(rankings)
        raise InputError(
            f"predictions of conversation {name}, turn {turn}: no such query among the "
            "conversations; give the files of one run"
        )


def _shown(titles_of: Mapping[str, str], item: str) -> str:
    try:
        return titles_of[item]
    except KeyError:
        raise InputError(
            f"predictions: item '{item}' is not in the catalogue; give the files of one run"
        ) from None


def _answer(path: Path, row: int, record: Any) -> Answer:
    if not isinstance(record, dict):
        raise InputError(f"{at(path, row)}: expected an object, got {type(record).__name__}")
    completion = record.get("completion")
    if not isinstance(completion, str | None):
        raise _wrong(path, row, "completion", "a text", completion)
    if completion is None and record.get("rec_list") is None:
        raise InputError(
            f"{at(path, row, 'rec_list')}: missing, and no completion either; "
            "a record needs one of the two"
        )
    conversation = record.get("conversation_id")
    if not isinstance(conversation, str | int | None):
        raise _wrong(path, row, "conversation_id", "a text", conversation)
    return Answer(
        row,
        completion,
        _rec_list(path, row, record.get("rec_list")),
        _names(path, row, record, "gt_list"),
        _names(path, row, record, "prev_list"),
        None if conversation is None else str(conversation),
    )


def _rec_list(path: Path, row: int, entries: Any) -> list[Listed] | None:
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise _wrong(path, row, "rec_list", "a list", entries)
    listed = []
    for place, entry in enumerate(entries):
        field = f"rec_list.{place}"
        if not isinstance(entry, dict):
            raise _wrong(path, row, field, "an object", entry)
        name = entry.get("nearest_movie")
        if not isinstance(name, str):
            raise _wrong(path, row, f"{field}.nearest_movie", "a text", name)
        title = entry.get("movie_name", name)
        if not isinstance(title, str):
            raise _wrong(path, row, f"{field}.movie_name", "a text", title)
        distance = entry.get("min_edit_distance")
        if not isinstance(distance, int) or isinstance(distance, bool) or distance < 0:
            raise _wrong(path, row, f"{field}.min_edit_distance", "a whole number", distance)
        listed.append(Listed(title, name, distance))
    return listed


def _names(path: Path, row: int, record: Mapping[str, Any], field: str) -> list[str]:
    if field not in record:
        raise InputError(f"{at(path, row, field)}: missing; give a list of names, [] for none")
    found = record[field]
    if not isinstance(found, list):
        raise _wrong(path, row, field, "a list of names", found)
    for place, name in enumerate(found):
        if not isinstance(name, str):
            raise _wrong(path, row, f"{field}.{place}", "a text", name)
    return found


def _wrong(path: Path, row: int, field: str, wanted: str, got: Any) -> InputError:
    kind = "nothing" if got is None else type(got).__name__
    return InputError(f"{at(path, row, field)}: expected {wanted}, got {kind}")

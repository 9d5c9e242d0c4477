"""Score every candidate of every query, and go on where a killed run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from seedtalk.evaluation.metrics import rank
from seedtalk.evaluation.protocols import Query, digest
from seedtalk.progress import track
from seedtalk.records import display_title, sha256_file, sha256_text
from seedtalk.students.decoding import TitleScorer
from seedtalk.students.templates import context_messages

if TYPE_CHECKING:
    import pandas as pd

Scores = NDArray[np.float64]


def student_score(
    model: Any, tokenizer: Any, items: pd.DataFrame, normalise: Literal["mean", "sum"]
) -> Callable[[Query], Scores]:
    """Return the function that scores a query's candidates by a student's likelihood.

    Parameters
    ----------
    model, tokenizer
        As of `students.loading.load_student`.
    items
        The catalogue, `records.ITEMS`.
    normalise
        Whether a title's score is the mean or the sum of its tokens' log-probabilities as the
        first item of the student's answer (`students.decoding.TitleScorer`).
    """
    row_of = {str(item): row for row, item in enumerate(items["item_id"])}
    titles = [display_title(*pair) for pair in zip(items["title"], items["year"], strict=True)]
    scorer = TitleScorer(model, tokenizer, titles)

    def score(query: Query) -> Scores:
        rows = [row_of[item] for item in query.candidates]
        return scorer.score(context_messages(query.context), rows, normalise)

    return score


def partial_name(posed: Sequence[Query], model: Path, normalise: str) -> str:
    """Return a file name that tells apart the work on other queries, models or scores."""
    files = [f for f in sorted(model.rglob("*")) if f.is_file()]
    parts = [part for f in files for part in (str(f.relative_to(model)), sha256_file(f))]
    return f"{sha256_text([digest(posed), normalise, *parts])}.jsonl"


def rank_all(
    posed: Sequence[Query], score: Callable[[Query], Scores], partial: Path
) -> list[list[str]]:
    """Return the ranking of each query, keeping finished ones in `partial` until all are done.

    Parameters
    ----------
    posed
        Queries.
    score
        Gives a query's candidates their scores, higher is better; shape (candidates,).
    partial
        A JSON-lines file of the scores so far, named by `partial_name`. The first query it
        holds is scored again: where the scores differ it belongs to another base model or
        another way of scoring, and is not used. Deleted at the end.
    """
    from filelock import FileLock

    partial.parent.mkdir(parents=True, exist_ok=True)
    # Two experiments that differ further down may score the same student at the same time.
    lock = partial.parent.parent / "locks" / partial.stem
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        return _rank_all(posed, score, partial)


def _rank_all(
    posed: Sequence[Query], score: Callable[[Query], Scores], partial: Path
) -> list[list[str]]:
    done = _read(partial)
    known = next((query for query in posed if _key(query) in done), None)
    if known is not None and not _agree(done[_key(known)], score(known)):
        done = {}
    rankings = []
    with partial.open("w", encoding="utf-8") as file:
        for query in posed:
            if _key(query) in done:
                file.write(_line(query, done[_key(query)]))
        file.flush()
        for query in track(posed, "evaluate"):
            values = done.get(_key(query))
            if values is None:
                values = np.asarray(score(query), dtype=np.float64)
                file.write(_line(query, values))
                file.flush()
            rankings.append(rank(query.candidates, values))
    partial.unlink(missing_ok=True)
    return rankings


def _key(query: Query) -> tuple[str, int, int]:
    return query.conversation_id, query.turn, len(query.candidates)


def _line(query: Query, values: Scores) -> str:
    return json.dumps([query.conversation_id, query.turn, values.tolist()]) + "\n"


def _read(partial: Path) -> dict[tuple[str, int, int], Scores]:
    done = {}
    if partial.is_file():
        for line in partial.read_bytes().splitlines():
            try:
                conversation_id, turn, values = json.loads(line)
            except ValueError:  # a line torn by the kill
                continue
            done[conversation_id, turn, len(values)] = np.asarray(values, dtype=np.float64)
    return done


def _agree(kept: Scores, fresh: Scores) -> bool:
    return bool(np.allclose(kept, fresh, rtol=0.0, atol=1e-4))

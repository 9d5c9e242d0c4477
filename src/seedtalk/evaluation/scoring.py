"""Ask a student every query of a benchmark, and go on where a killed run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError
from seedtalk.evaluation.metrics import rank
from seedtalk.evaluation.protocols import Query, digest
from seedtalk.params import Evaluate, Years
from seedtalk.progress import bar
from seedtalk.records import SIGNALS, answer_titles, sha256_text
from seedtalk.students.decoding import TitleScorer, groups
from seedtalk.students.listing import Lister
from seedtalk.students.templates import context_messages, parse_answer

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, int]  # conversation and turn of a query

LIST = 20  # titles of a free list, as He et al. (CIKM 2023) asked for


@dataclass(frozen=True)
class Answer:
    """What a student says to a query.

    Attributes
    ----------
    ranking
        Item ids, best first: every candidate, or those that were found.
    items, scores
        Item ids and the student's scores of them: those of the ranking, and with a search also
        those that the domain's own signals put first.
    listed, linked, repeated
        Titles of a free list: how many, how many of the catalogue, how many said before in it.
    """

    ranking: list[str]
    items: list[str]
    scores: list[float]
    listed: int = 0
    linked: int = 0
    repeated: int = 0


def ask(
    posed: Sequence[Query],
    student: tuple[Any, Any],
    items: pd.DataFrame,
    priors: pd.DataFrame,
    options: Evaluate,
    years: Years,
    cache_dir: Path,
) -> tuple[list[Answer], dict[str, Any]]:
    """Return a student's answer to each query, and what the results tell of the decoding.

    Parameters
    ----------
    posed
        The queries.
    student
        Model and tokenizer, as of `students.loading.load_student`.
    items
        The catalogue, `records.ITEMS`.
    priors
        `records.PRIORS` of the queries; read where the catalogue is searched.
    options
        The group ``evaluate`` of the parameters.
    years
        ``curate.years``: how the student writes titles.
    cache_dir
        Keeps the work of a killed run, and what a correction needs of the whole catalogue.
    """
    titles = answer_titles(items, years)
    asked: dict[Key, list[str]] = {}
    told: dict[str, Any] = {"years": years}
    asker: TitleScorer | Lister
    if options.decoding == "free":
        asker = Lister(*student, titles, count=min(options.depth, LIST))
        answer = listed_answers(asker, Catalogue(items))
    else:
        asker = TitleScorer(
            *student,
            titles,
            normalise=options.score,
            correction=options.popularity_correction,
            cache_dir=cache_dir,
        )
        told["popularity_correction"] = options.popularity_correction
        if options.decoding == "beam":
            told |= {"beam": options.beam, "depth": options.depth, "pool": options.pool}
            asked = shortlists(posed, priors, options.pool)
        answer = student_answers(asker, list(map(str, items["item_id"])), options, asked)
    lengths = [len(asker.prompt(context_messages(query.context))) for query in posed]
    name = partial_name(posed, asker.fingerprint, options, asked.items())
    answers = answer_all(
        posed, groups(lengths, asker.max_context), answer, cache_dir / "evaluate" / name
    )
    told["prompt_tokens"] = round(float(np.mean(lengths)), 1)
    if isinstance(asker, Lister):
        count = sum(one.listed for one in answers)
        told |= {
            "list": asker.count,
            "listed": round(count / len(answers), 2),
            "linked": round(sum(one.linked for one in answers) / max(count, 1), 4),
            "repeated": round(sum(one.repeated for one in answers) / max(count, 1), 4),
        }
    return answers, told


def student_answers(
    scorer: TitleScorer,
    ids: Sequence[str],
    options: Evaluate,
    shortlist: dict[Key, list[str]],
) -> Callable[[Sequence[Query]], list[Answer]]:
    """Return the function that answers queries, side by side, by scores of titles.

    Parameters
    ----------
    scorer
        The student and the catalogue's titles.
    ids
        Item id of each title.
    options
        The group ``evaluate`` of the parameters: `decoding` (``exact`` or ``beam``), `beam`,
        `depth`.
    shortlist
        Items to score beside those that a search finds, for each query.
    """
    row_of = {item: row for row, item in enumerate(ids)}
    places = np.array(ids, dtype=object)

    def answer(posed: Sequence[Query]) -> list[Answer]:
        requests = [context_messages(query.context) for query in posed]
        if options.decoding == "exact":
            rows = [[row_of[item] for item in query.candidates] for query in posed]
            return [
                Answer(rank(query.candidates, scores), query.candidates, scores.tolist())
                for query, scores in zip(posed, scorer.score(requests, rows), strict=True)
            ]
        barred = []
        for query in posed:
            outside = np.ones(len(ids), dtype=bool)
            outside[[row_of[item] for item in query.candidates]] = False
            barred.append(np.flatnonzero(outside).tolist())
        asked = [shortlist[query.conversation_id, query.turn] for query in posed]
        found = scorer.search(
            requests,
            options.depth,
            beam=options.beam,
            exclude=barred,
            also=[[row_of[item] for item in items] for items in asked],
        )
        answers = []
        for items, one in zip(asked, found, strict=True):
            named = places[one.titles].tolist()
            pool = dict(zip(items, one.also.tolist(), strict=True))
            pool |= dict(zip(named, one.scores.tolist(), strict=True))
            answers.append(Answer(rank(named, one.scores), list(pool), list(pool.values())))
        return answers

    return answer


def listed_answers(
    lister: Lister, catalogue: Catalogue
) -> Callable[[Sequence[Query]], list[Answer]]:
    """Return the function that answers queries with what the student writes freely.

    A title that links to no item, or to none of the candidates, is no recommendation; an item
    counts where it is named first. Scores are minus the rank.
    """

    def answer(posed: Sequence[Query]) -> list[Answer]:
        texts = lister.write([context_messages(query.context) for query in posed])
        answers = []
        for query, text in zip(posed, texts, strict=True):
            titles = parse_answer(text)[: lister.count]
            items = [catalogue.link(title) for title in titles]
            said = [item or title.casefold() for item, title in zip(items, titles, strict=True)]
            allowed = set(query.candidates)
            ranking = [item for item in dict.fromkeys(items) if item in allowed]
            answers.append(
                Answer(
                    ranking,
                    ranking,
                    [-float(place) for place in range(1, len(ranking) + 1)],
                    listed=len(titles),
                    linked=sum(item is not None for item in items),
                    repeated=len(said) - len(set(said)),
                )
            )
        return answers

    return answer


def shortlists(posed: Sequence[Query], priors: pd.DataFrame, size: int) -> dict[Key, list[str]]:
    """Return the first items of each signal of the domain, for each query, sorted by id.

    Parameters
    ----------
    posed
        The queries.
    priors
        `records.PRIORS` of the same queries.
    size
        Items of each signal; equal values go by the lowest id.

    Raises
    ------
    InputError
        When the table is of other queries or candidates.
    """
    keys = zip(priors["conversation_id"].astype(str), priors["query"].astype(int), strict=True)
    row_of = {key: row for row, key in enumerate(keys)}
    found = {}
    for query in posed:
        key = query.conversation_id, query.turn
        row = priors.iloc[row_of[key]] if key in row_of else None
        if row is None or list(row["candidates"]) != query.candidates:
            raise InputError(
                f"the priors are of other queries (conversation {key[0]}, turn {key[1]}); "
                "run `dvc repro baseline`"
            )
        best: set[str] = set()
        for signal in SIGNALS:
            values = np.asarray(row[signal], dtype=np.float64)
            best.update(rank(query.candidates, values)[:size])
        found[key] = sorted(best)
    return found


def pools(posed: Sequence[Query], answers: Sequence[Answer], system: str) -> pd.DataFrame:
    """Return `records.POOLS` of the answers to the queries."""
    import pandas as pd

    rows = [
        {
            "system": system,
            "conversation_id": query.conversation_id,
            "query": query.turn,
            "items": answer.items,
            "scores": answer.scores,
        }
        for query, answer in zip(posed, answers, strict=True)
    ]
    return pd.DataFrame(rows)


def partial_name(posed: Sequence[Query], student: str, options: Evaluate, asked: Any) -> str:
    """Return a file name that tells apart the work on other queries, students or options.

    Parameters
    ----------
    posed
        The queries.
    student
        A hash of the weights and titles (`fingerprint` of a `TitleScorer` or `Lister`).
    options
        The group ``evaluate`` of the parameters.
    asked
        Whatever else the answers depend on: the shortlists.
    """
    told = options.model_dump_json(exclude={"cutoffs", "bootstrap"})
    return f"{sha256_text([digest(posed), student, told, json.dumps(sorted(asked))])}.jsonl"


def answer_all(
    posed: Sequence[Query],
    parts: Sequence[Sequence[int]],
    answer: Callable[[Sequence[Query]], list[Answer]],
    partial: Path,
) -> list[Answer]:
    """Return the answer to each query, keeping finished parts in `partial` until all are done.

    Parameters
    ----------
    posed
        Queries.
    parts
        Places of the queries that are answered together (`groups`). A part that a kill has left
        incomplete is answered anew as a whole: what a query's neighbours are moves the last
        digits of its scores.
    answer
        Answers the queries of a part.
    partial
        A JSON-lines file of the answers so far, named by `partial_name`; deleted at the end.
    """
    from filelock import FileLock

    partial.parent.mkdir(parents=True, exist_ok=True)
    # Two experiments that differ further down may ask the same student at the same time.
    lock = partial.parent.parent / "locks" / partial.stem
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        done = _read(partial, parts)
        started, asked = time.monotonic(), 0
        with partial.open("w", encoding="utf-8") as file, bar("evaluate", len(posed)) as shown:
            for number, answers in done.items():
                file.write(_line(number, parts[number], answers))
                shown.advance(len(answers))
            file.flush()
            for number, group in enumerate(parts):
                if number in done:
                    continue
                done[number] = answer([posed[place] for place in group])
                file.write(_line(number, group, done[number]))
                file.flush()
                asked += len(group)
                rate = asked / (time.monotonic() - started)
                shown.describe(f"evaluate, {rate:.2f} queries a second")
                shown.advance(len(group))
        partial.unlink()
    by_place = {
        place: one
        for number, group in enumerate(parts)
        for place, one in zip(group, done[number], strict=True)
    }
    return [by_place[place] for place in range(len(posed))]


def _line(number: int, group: Sequence[int], answers: Sequence[Answer]) -> str:
    return json.dumps([number, list(group), [asdict(answer) for answer in answers]]) + "\n"


def _read(partial: Path, parts: Sequence[Sequence[int]]) -> dict[int, list[Answer]]:
    done = {}
    if partial.is_file():
        for line in partial.read_bytes().splitlines():
            try:
                number, group, answers = json.loads(line)
                if list(parts[number]) == group and len(group) == len(answers):
                    done[number] = [Answer(**answer) for answer in answers]
            except (ValueError, TypeError, IndexError):  # a line torn by the kill
                continue
    return done

"""The protocol of He et al. (CIKM 2023), exactly, for comparison with published numbers.

Z. He et al., Large Language Models as Zero-Shot Conversational Recommenders. Their names are not
only of items, a target may be found at a name that stands for another item, and a title may be
listed twice: `strict` is the protocol without these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from seedtalk.errors import InputError, at
from seedtalk.evaluation.answers import (
    Answer,
    Listed,
    by_condition,
    hits,
    summary,
    titles,
    values,
)
from seedtalk.lines import read_json

CUTOFFS = (1, 5, 10, 20)
THRESHOLD = 2  # edits up to which a title counts as the name nearest to it, where filtered

_BLOCK = 256  # titles compared with all names at a time
_AS_SPACE = str.maketrans("_->", "   ")
_INNERMOST = re.compile(r"\([^()]*\)")

Numbers = dict[str, dict[str, float | int | None]]


def entity_names(path: Path) -> list[str]:
    """Return the names of an ``entity2id`` file, sorted, each once.

    A name is what follows the last ``/`` of the entity, ``_``, ``-`` and ``>`` read as spaces and
    round brackets dropped with what they hold:
    ``<http://dbpedia.org/resource/Goldfinger_(film)>`` is "Goldfinger".

    Raises
    ------
    InputError
        When the file is no JSON object or empty.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise InputError(
            f"{path}: expected an object of entities and their ids, as entity2id.json has"
        )
    return sorted({_name(entity) for entity in found})


def nearest(written: Sequence[str], names: Sequence[str]) -> list[Listed]:
    """Return the name nearest to each title, by Levenshtein distance of their lower case.

    Ties, left to chance in the original, go to the name that is written as the title is, then
    to the first in the order of code points.

    Parameters
    ----------
    written
        T titles.
    names
        N names, sorted (`entity_names`).
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    lowered = [name.lower() for name in names]
    # One place for each lower-case form, the first: the smallest name, as `names` are sorted.
    first: dict[str, int] = {}
    for place, form in enumerate(lowered):
        first.setdefault(form, place)
    exact = set(names)
    forms, places = list(first), list(first.values())
    distinct = sorted({title.lower() for title in written})
    found = {title: (first[title], 0) for title in distinct if title in first}
    unknown = [title for title in distinct if title not in first]
    for start in range(0, len(unknown), _BLOCK):
        block = unknown[start : start + _BLOCK]
        distances = cdist(block, forms, scorer=Levenshtein.distance, dtype=np.int32, workers=-1)
        for title, row in zip(block, distances, strict=True):
            near = np.flatnonzero(row == row.min())
            found[title] = (min(places[column] for column in near), int(row.min()))
    return [
        Listed(title, title if title in exact else names[place], distance)
        for title in written
        for place, distance in [found[title.lower()]]
    ]


def with_names(answers: Sequence[Answer], names: Sequence[str]) -> list[Answer]:
    """Return the answers with the ``rec_list`` that their completions make against `names`.

    The titles of an answer without a completion are those of its own ``rec_list``.
    """
    written = [
        [entry.title for entry in answer.listed or ()]
        if answer.completion is None
        else titles(answer.completion, brackets=False)
        for answer in answers
    ]
    listed = iter(nearest([title for of_one in written for title in of_one], names))
    return [
        replace(answer, listed=[next(listed) for _ in of_one])
        for answer, of_one in zip(answers, written, strict=True)
    ]


def ranking(answer: Answer, *, filtered: bool, exclude_seen: bool) -> list[str]:
    """Return the names an answer ranks: in order, without joining equal ones.

    Parameters
    ----------
    answer
        With its ``rec_list``.
    filtered
        Keep names `THRESHOLD` edits away at most.
    exclude_seen
        Drop names mentioned before.
    """
    before = set(answer.mentioned) if exclude_seen else set()
    return [
        entry.name
        for entry in answer.listed or ()
        if (not filtered or entry.distance <= THRESHOLD) and entry.name not in before
    ]


def score(
    path: Path, answers: Sequence[Answer], *, filtered: bool = False, exclude_seen: bool = False
) -> Numbers:
    """Return ``{condition: {"n": …, "recall@1_mean": …, "recall@1_se": …, "recall@1_ci": …}}``.

    Parameters
    ----------
    path
        Where the answers are from, for errors.
    answers
        Each with a ``rec_list`` (`with_names` makes them).
    filtered, exclude_seen
        As in `ranking`.

    Raises
    ------
    InputError
        When an answer has no ``rec_list``; names the row.
    """
    for answer in answers:
        if answer.listed is None:
            raise InputError(
                f"{at(path, answer.row, 'rec_list')}: missing; give --entities FILE "
                "(entity2id.json) to map the completion's titles to names"
            )
    rows = hits(
        [(answer.targets, answer.mentioned) for answer in answers],
        [ranking(one, filtered=filtered, exclude_seen=exclude_seen) for one in answers],
    )
    return {
        condition: summary(values(of_one, CUTOFFS))
        for condition, of_one in by_condition(rows).items()
    }


def _name(entity: str) -> str:
    plain = entity.rpartition("/")[2].translate(_AS_SPACE)
    return " ".join(_INNERMOST.sub("", plain).split())

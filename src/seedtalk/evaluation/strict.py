"""The protocol `strict`: what He et al. (CIKM 2023) count, over catalogue items only.

Titles are linked to the catalogue (case, accents, articles, numerals, a letter or two; a year
written must agree), so that a film and its remake are two items. What links to none is dropped, an
item counts once, at its best place, and intervals resample dialogues where they are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seedtalk.catalogue import Catalogue
from seedtalk.evaluation.answers import Answer, by_condition, hits, summary, titles, values
from seedtalk.evaluation.intervals import intervals

CUTOFFS = (1, 5, 10, 20, 50)
RESAMPLES = 2000

Numbers = dict[str, dict[str, float | int | None]]


@dataclass(frozen=True)
class Linked:
    """Answers in catalogue items.

    Attributes
    ----------
    rankings
        Item ids each answer ranks, distinct, best first.
    turns
        The targets and the mentioned items of each, ids.
    listed, unlinked
        Titles in the answers, and how many of them are not in the catalogue.
    asked, unknown
        Targets, and how many of them are not in the catalogue: these are not counted.
    """

    rankings: list[list[str]]
    turns: list[tuple[list[str], list[str]]]
    listed: int
    unlinked: int
    asked: int
    unknown: int


def link(answers: Sequence[Answer], catalogue: Catalogue) -> Linked:
    """Link every title of the answers.

    Those of a completion are read with their years; an answer without one is read from the
    titles of its ``rec_list`` as they were written.
    """
    known: dict[str, str | None] = {}

    def found(title: str) -> str | None:
        if title not in known:
            known[title] = catalogue.link(title) if title else None
        return known[title]

    written = [
        [entry.title for entry in answer.listed or ()]
        if answer.completion is None
        else [title for title in titles(answer.completion, brackets=True) if title]
        for answer in answers
    ]
    listed = [title for of_one in written for title in of_one]
    asked = [title for answer in answers for title in answer.targets]
    return Linked(
        rankings=[_distinct([found(title) for title in of_one]) for of_one in written],
        turns=[
            (
                _distinct([found(title) for title in answer.targets]),
                _distinct([found(title) for title in answer.mentioned]),
            )
            for answer in answers
        ],
        listed=len(listed),
        unlinked=sum(found(title) is None for title in listed),
        asked=len(asked),
        unknown=sum(found(title) is None for title in asked),
    )


def score(
    linked: Linked,
    conversations: Sequence[str | None],
    *,
    exclude_seen: bool = False,
    seed: int = 0,
) -> Numbers:
    """Return what `he2023.score` returns, and ``_low`` and ``_high`` of each metric.

    The latter are the 95% percentile interval of `RESAMPLES` draws of conversations
    (`intervals.intervals`); they are left out where fewer than two conversations are known.

    Parameters
    ----------
    linked
        `link` of A answers.
    conversations
        (A,) the conversation of each, or None.
    exclude_seen
        Drop items mentioned before from the rankings.
    seed
        Of the bootstrap.
    """
    rankings = [
        [item for item in ranking if not exclude_seen or item not in mentioned]
        for ranking, (_, mentioned) in zip(linked.rankings, linked.turns, strict=True)
    ]
    numbers: Numbers = {}
    for condition, rows in by_condition(hits(linked.turns, rankings)).items():
        found = values(rows, CUTOFFS)
        numbers[condition] = summary(found)
        clusters = [conversations[row.turn] for row in rows]
        named = [name for name in clusters if name is not None]
        if len(named) == len(clusters) and len(set(named)) > 1:
            columns = list(zip(*found.values(), strict=True))
            for metric, interval in zip(
                found,
                intervals(
                    columns,
                    [[1.0] * len(found)] * len(columns),
                    named,
                    resamples=RESAMPLES,
                    seed=seed,
                ),
                strict=True,
            ):
                numbers[condition][f"{metric}_low"] = interval["low"]
                numbers[condition][f"{metric}_high"] = interval["high"]
    return numbers


def _distinct(ids: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(item for item in ids if item is not None))

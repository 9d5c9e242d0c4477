"""Real dialogues beside the synthetic ones, or in their place: the low-resource setting.

A conversation becomes one dialogue for each turn in which the recommender names new items: what
was said before it is the context, those items are the answer, as they are a query's targets in
an evaluation (`evaluation.protocols`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from seedtalk.catalogue import Catalogue
from seedtalk.curation import (
    LONGEST_RAW,
    Curated,
    Seen,
    contaminated,
    contaminations,
    held_out,
    told_of,
)
from seedtalk.errors import InputError, RunError
from seedtalk.evaluation.protocols import Turn, asked_turns, read_turns
from seedtalk.params import Curate
from seedtalk.records import Dialogue, Message, Rejected, answer_titles, sha256_text
from seedtalk.students.templates import context_messages, format_answer
from seedtalk.texts import visible

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.curation import Encode

STYLE = TEACHER = "real"  # of a real dialogue's record: nobody was asked for it
LEARNT = ("real", "both")  # of curate.train_on: what is done here
DROPPED = ("contaminated", "near_duplicate")  # as of a synthetic one


@dataclass(frozen=True)
class _Told:
    """A conversation with something to learn from it."""

    name: str
    turns: list[Turn]
    dialogues: list[Dialogue]

    @property
    def text(self) -> str:
        return " ".join(turn["text"] for turn in self.turns)


def parted(conversations: pd.DataFrame, params: Curate) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the conversations that are evaluated on, and those that are learnt from.

    Parameters
    ----------
    conversations
        `records.CONVERSATIONS`.
    params
        With `train_on` ``synthetic`` or ``transfer`` none are learnt from.

    Raises
    ------
    InputError
        When there are no conversations of the name `real`.
    """
    own = conversations["benchmark"] == params.real
    if params.train_on not in LEARNT:
        return conversations, conversations.iloc[:0]
    if not own.any():
        known = ", ".join(sorted(set(conversations["benchmark"]))) or "none"
        raise InputError(
            f"curate.real: there are no conversations '{params.real}'; there are: {known}"
        )
    return conversations[~own], conversations[own]


def mixed(
    curated: Curated,
    own: pd.DataFrame,
    evaluated: pd.DataFrame,
    items: pd.DataFrame,
    params: Curate,
    *,
    seed: int,
    encode: Encode,
) -> Curated:
    """Add real dialogues to what was curated.

    A seeded sample of the conversations that name new items is taken; a smaller one is part of
    a larger one. A conversation that shares a run of words with an evaluation's, or as a whole
    says the same, is dropped; so is one that nearly repeats another. (A single message of a
    real seeker is not held against an evaluation's: many open with the same words.) Training
    and validation have no conversation in common.

    Parameters
    ----------
    curated
        Of `curation.curate`.
    own, evaluated
        The two parts of the conversations, see `parted`.
    items
        The catalogue, `records.ITEMS`.
    params
        The group ``curate`` of the parameters.
    seed
        Of the sample, the split and the MinHash permutations.
    encode
        As of `curation.curate`.

    Raises
    ------
    InputError
        When no conversation names a new item of the catalogue.
    RunError
        When fewer than two conversations are left.
    """
    catalogue = Catalogue(items)
    titles = dict(zip(items["item_id"], answer_titles(items, params.years), strict=True))
    there = [
        told
        for name, raw in zip(own["conversation_id"].astype(str), own["turns"], strict=True)
        if (told := _told(name, read_turns(raw), titles, params.real)).dialogues
    ]
    if not there:
        raise InputError(
            f"curate.real: in no conversation of '{params.real}' does the recommender name a new "
            "item of the catalogue; check its item ids against the catalogue's"
        )
    there.sort(key=lambda told: sha256_text(["real", str(seed), told.name]))
    sample = there[: params.real_conversations or None]
    sample.sort(key=lambda told: told.name)
    kept, rejected = _apart(sample, evaluated, catalogue, params, seed, encode)
    if len(kept) < 2:
        raise RunError(
            f"{len(kept)} of {len(sample)} real conversations are left (dropped: "
            f"{_counts(rejected)}); training and validation need one each: raise "
            "curate.real_conversations or relax the curate parameters"
        )
    groups = [told.name for told in kept for _ in told.dialogues]
    apart = held_out(groups, params.valid_fraction, seed)
    train = [d for told in kept if told.name not in apart for d in told.dialogues]
    valid = [d for told in kept if told.name in apart for d in told.dialogues]
    counts = {
        "conversations": params.real,
        "read": len(own),
        "with_new_items": len(there),
        "sampled": len(sample),
        "dropped": _counts(rejected),
        "kept": len(kept),
        "dialogues": len(groups),
        "train": len(train),
        "valid": len(valid),
    }
    return replace(
        curated,
        train=[*curated.train, *train],
        valid=[*curated.valid, *valid],
        rejected=[*curated.rejected, *rejected],
        summary=curated.summary | {"real": counts},
    )


def _told(name: str, turns: list[Turn], titles: Mapping[str, str], source: str) -> _Told:
    dialogues = []
    for asked in asked_turns(turns, titles):
        if not asked.fresh:
            continue
        context = [
            {"role": turn["role"], "text": visible(turn["text"])} for turn in turns[: asked.turn]
        ]
        answer = format_answer([titles[item] for item in asked.fresh])
        messages = [*context_messages(context), {"role": "assistant", "content": answer}]
        dialogues.append(
            Dialogue(
                dialogue_id=f"{source}-{name}-{asked.turn}",
                review_id="",
                item_id=asked.fresh[0],
                style=STYLE,
                teacher=TEACHER,
                messages=[Message.model_validate(message) for message in messages],
                targets=list(asked.fresh),
            )
        )
    return _Told(name, turns, dialogues)


def _apart(
    sample: Sequence[_Told],
    evaluated: pd.DataFrame,
    catalogue: Catalogue,
    params: Curate,
    seed: int,
    encode: Encode,
) -> tuple[list[_Told], list[Rejected]]:
    """Return the conversations that are neither an evaluation's nor another's, and the rest."""
    spoken: list[list[dict[str, Any]]] = [[dict(turn) for turn in told.turns] for told in sample]
    whole = [
        told_of([" ".join(turn["text"] for turn in turns if turn["role"] == "seeker")], catalogue)
        for turns in spoken
    ]
    measured = contaminations(spoken, whole, evaluated, catalogue, params, encode)
    seen = Seen(params.near_duplicate, seed)
    kept, rejected = [], []
    for told, found in zip(sample, measured, strict=True):
        near = seen.nearest(told.text)
        if detail := contaminated(found, params):
            rejected.append(_rejected(told, params.real, "contaminated", detail))
        elif near and near[1] >= params.near_duplicate:
            detail = f"of {near[0]}, similarity {near[1]:.2f}"
            rejected.append(_rejected(told, params.real, "near_duplicate", detail))
        else:
            seen.add(told.name, told.text)
            kept.append(told)
    return kept, rejected


def _rejected(told: _Told, source: str, reason: str, detail: str) -> Rejected:
    spoken = "\n".join(f"{turn['role']}: {visible(turn['text'])}" for turn in told.turns)
    name = f"{source}-{told.name}"
    return Rejected(dialogue_id=name, reason=reason, detail=detail, text=spoken[:LONGEST_RAW])


def _counts(rejected: Sequence[Rejected]) -> dict[str, int]:
    counts = Counter(record.reason for record in rejected)
    return {reason: counts[reason] for reason in DROPPED}

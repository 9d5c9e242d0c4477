"""Another domain's dialogues in the place of this one's: what grounding gives without selection.

A student that learns the dialogues of books and is scored on conversations about films has learnt
how to ask and answer, and nothing of films: what it scores separates the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from seedtalk.errors import InputError, RunError, at
from seedtalk.params import Curate
from seedtalk.records import Dialogue, Message, Rejected, read_jsonl
from seedtalk.students.templates import ROLES, context_messages
from seedtalk.texts import visible

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.curation import Encode

# Of ids: another catalogue's or run's, whatever this one's are. Numbers are the ids of many.
MARK = "transfer-"
DROPPED = ("contaminated", "near_duplicate")  # as of a dialogue of this domain
_MAKE = (
    "run the pipeline on another domain, then keep its artifacts/dialogues/train.jsonl under "
    "another name and set curate.transfer to it"
)


def read(path: Path) -> list[Dialogue]:
    """Read the training dialogues of a run on another domain, as ones that are not of this one.

    The dialogue's id and item get the prefix `MARK`; its review and its targets, which are of
    another corpus, are left out, so that no count, vote or table can take an id of the other
    catalogue for one of this. Style and teacher stay. Messages are made anew as
    `templates.context_messages` makes them, without what cannot be seen.

    Parameters
    ----------
    path
        JSON lines of `records.Dialogue`, such as the ``train.jsonl`` that curate writes.

    Raises
    ------
    InputError
        When the file is missing or holds none, an id stands there twice, or a dialogue has no
        seeker's words or does not end with an answer; names file and row.
    """
    if not path.is_file():
        raise InputError(f"curate.transfer: {path}: no such file; {_MAKE}")
    found: dict[str, Dialogue] = {}
    for row, dialogue in enumerate(read_jsonl(path, Dialogue), start=1):
        name = MARK + visible(dialogue.dialogue_id)
        if name in found:
            raise InputError(f"{at(path, row, 'dialogue_id')}: {dialogue.dialogue_id!r} again")
        found[name] = Dialogue(
            dialogue_id=name,
            review_id="",
            item_id=MARK + visible(dialogue.item_id),
            style=visible(dialogue.style),
            teacher=visible(dialogue.teacher),
            messages=_messages(dialogue, path, row),
            targets=[],
        )
    if not found:
        raise InputError(f"curate.transfer: {path} holds no dialogues; {_MAKE}")
    return list(found.values())


def transferred(
    curated: Curated,
    others: Sequence[Dialogue],
    conversations: pd.DataFrame,
    items: pd.DataFrame,
    params: Curate,
    *,
    seed: int,
    encode: Encode,
) -> Curated:
    """Put another domain's dialogues in the place of this one's.

    One that shares words or meaning with an evaluation conversation is dropped, and so is one
    that nearly repeats another, both as `curation.curate` does it. No item is on both sides of
    the split.

    Parameters
    ----------
    curated
        Of `curation.curate`, with `train_on` ``transfer``: nothing of it is learnt.
    others
        From `read`.
    conversations
        `records.CONVERSATIONS`; every one is an evaluation's.
    items
        This domain's catalogue, `records.ITEMS`.
    params
        The group ``curate`` of the parameters.
    seed
        Of the split and the MinHash permutations.
    encode
        As of `curation.curate`.

    Raises
    ------
    RunError
        When dialogues of fewer than two items are left.
    """
    kept, rejected = _apart(others, conversations, items, params, seed, encode)
    dropped = Counter(record.reason for record in rejected)
    counts = {reason: dropped[reason] for reason in DROPPED}
    of_items = [dialogue.item_id for dialogue in kept]
    if len(set(of_items)) < 2:
        raise RunError(
            f"{len(kept)} of {len(others)} transferred dialogues of {len(set(of_items))} items are "
            f"left (dropped: {counts}); training and validation need one item each at least: make "
            "curate.transfer of a larger run or relax the curate parameters"
        )
    apart = held_out(of_items, params.valid_fraction, seed)
    train = [dialogue for dialogue in kept if dialogue.item_id not in apart]
    valid = [dialogue for dialogue in kept if dialogue.item_id in apart]
    teachers = Counter(dialogue.teacher for dialogue in kept)
    told = {
        "read": len(others),
        "dropped": counts,
        "kept": len(kept),
        "train": len(train),
        "valid": len(valid),
        "items": len(set(of_items)),
        "teachers": {name: teachers[name] for name in sorted(teachers)},
    }
    return replace(
        curated,
        train=train,
        valid=valid,
        rejected=[*curated.rejected, *rejected],
        summary=curated.summary | {"transfer": told},
    )


def _apart(
    others: Sequence[Dialogue],
    conversations: pd.DataFrame,
    items: pd.DataFrame,
    params: Curate,
    seed: int,
    encode: Encode,
) -> tuple[list[Dialogue], list[Rejected]]:
    """Return the dialogues that are neither an evaluation's nor another's, and the rest."""
    catalogue = Catalogue(items)
    spoken = [_turns(dialogue) for dialogue in others]
    told = [
        told_of([turn["text"] for turn in turns if turn["role"] == "seeker"], catalogue)
        for turns in spoken
    ]
    measured = contaminations(spoken, told, conversations, catalogue, params, encode)
    seen = Seen(params.near_duplicate, seed)
    kept, rejected = [], []
    for dialogue, turns, shared in zip(others, spoken, measured, strict=True):
        text = " ".join(turn["text"] for turn in turns)
        near = seen.nearest(text)
        if detail := contaminated(shared, params):
            rejected.append(_rejected(dialogue, turns, "contaminated", detail))
        elif near and near[1] >= params.near_duplicate:
            detail = f"of {near[0]}, similarity {near[1]:.2f}"
            rejected.append(_rejected(dialogue, turns, "near_duplicate", detail))
        else:
            seen.add(dialogue.dialogue_id, text)
            kept.append(dialogue)
    return kept, rejected


def _messages(dialogue: Dialogue, path: Path, row: int) -> list[Message]:
    """Return the messages as a student is asked and answers, cleaned line by line."""
    said = [message for message in dialogue.messages if message.role != "system"]
    texts = ["\n".join(filter(None, map(visible, m.content.splitlines()))) for m in said]
    place = at(path, row, "messages")
    if not said or said[-1].role != "assistant" or not texts[-1]:
        raise InputError(f"{place}: expected the assistant's answer at the end")
    if not any(text for m, text in zip(said, texts, strict=True) if m.role == "user"):
        raise InputError(f"{place}: the seeker says nothing")
    sides = {role: side for side, role in ROLES.items()}
    turns = [
        {"role": sides[m.role], "text": text} for m, text in zip(said[:-1], texts[:-1], strict=True)
    ]
    asked = [Message.model_validate(message) for message in context_messages(turns)]
    return [*asked, Message(role="assistant", content=texts[-1])]


def _turns(dialogue: Dialogue) -> list[dict[str, str]]:
    """Return what is said before the answer."""
    sides = {role: side for side, role in ROLES.items()}
    return [
        {"role": sides[message.role], "text": message.content}
        for message in dialogue.messages[:-1]
        if message.role in sides
    ]


def _rejected(
    dialogue: Dialogue, turns: Sequence[dict[str, str]], reason: str, detail: str
) -> Rejected:
    spoken = "\n".join(f"{turn['role']}: {turn['text']}" for turn in turns)
    return Rejected(
        dialogue_id=dialogue.dialogue_id, reason=reason, detail=detail, text=spoken[:LONGEST_RAW]
    )

"""From conversations to queries: what a recommender is shown, ranks, and should find.

Condition `recommendation` of He et al. (CIKM 2023): only items that were not mentioned before
are targets, as copying mentioned ones is no recommendation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from seedtalk.errors import InputError
from seedtalk.params import Evaluate

if TYPE_CHECKING:
    import pandas as pd


class Turn(TypedDict):
    """One turn of a conversation; `items` are the ids it mentions, in order."""

    role: Literal["seeker", "recommender"]
    text: str
    items: list[str]


@dataclass(frozen=True)
class Query:
    """One recommender turn to be foreseen."""

    conversation_id: str
    turn: int  # 0-based place of that turn in its conversation
    context: list[Turn]  # the turns before it
    mentioned: list[str]  # item ids in the context, by first mention
    targets: list[str]  # catalogue items the turn mentions for the first time
    candidates: list[str]  # item ids to be ranked, targets among them, sorted by id


@dataclass(frozen=True)
class Asked:
    """A recommender turn, after the seeker's first, that mentions a catalogue item."""

    turn: int  # 0-based place in its conversation
    mentioned: list[str]  # item ids of the turns before it, by first mention
    fresh: list[str]  # catalogue items it mentions for the first time
    repeated: list[str]  # catalogue items it mentions again (He et al.'s condition discussion)


def queries(
    conversations: pd.DataFrame,
    benchmark: str,
    items: pd.DataFrame,
    options: Evaluate,
    seed: int,
) -> list[Query]:
    """Return the queries of a benchmark, by conversation id and turn.

    A recommender turn is a query when the seeker spoke before it and it mentions a catalogue
    item that no earlier turn did.

    Parameters
    ----------
    conversations
        `records.CONVERSATIONS`.
    benchmark
        Which of them.
    items
        The catalogue, `records.ITEMS`.
    options
        The group ``evaluate`` of the parameters. `candidates` are the items to rank in each
        query: its targets and a uniform sample of the catalogue without mentioned and seen
        items. The sample depends on the seed, the conversation's id, the turn and the
        catalogue, not on which other conversations there are. 0 ranks the whole catalogue but
        mentioned and seen items. `max_conversations` is the size of a seeded sample of the
        conversations that have a query; a smaller sample is part of a larger one. 0 takes all.
    seed
        Of both samples.

    Raises
    ------
    InputError
        When the benchmark is not there, has no query, or the catalogue is too small for
        `candidates`.
    """
    known = sorted(set(conversations["benchmark"]))
    if benchmark not in known:
        raise InputError(
            f"benchmarks: '{benchmark}' is not among the conversations; "
            f"there are: {', '.join(known) or 'none'}"
        )
    catalogue = sorted(map(str, items["item_id"]))
    members = set(catalogue)
    found: dict[str, list[Query]] = {}
    mine = conversations[conversations["benchmark"] == benchmark]
    for name, raw, known_items in zip(
        mine["conversation_id"].astype(str), mine["turns"], mine["seen"], strict=True
    ):
        if posed := _posed(name, read_turns(raw), members):
            seen = {str(item) for item in known_items}
            found[name] = [
                _with_candidates(query, seen, catalogue, options.candidates, seed)
                for query in posed
            ]
    if not found:
        raise InputError(
            f"benchmark '{benchmark}': no recommender turn mentions a new catalogue item; "
            "check the conversations' item ids against the catalogue's"
        )
    chosen = sorted(found)
    if options.max_conversations:
        by_chance = sorted(found, key=lambda name: _hash(seed, name))
        chosen = sorted(by_chance[: options.max_conversations])
    return [query for name in chosen for query in found[name]]


def digest(posed: Sequence[Query]) -> str:
    """Return the sha256 of everything a system is asked: equal digests, comparable numbers."""
    names = [field.name for field in fields(Query)]
    hashed = hashlib.sha256()
    for place, query in enumerate(posed):  # piece by piece: candidates may be a whole catalogue
        text = json.dumps({name: getattr(query, name) for name in names}, sort_keys=True)
        hashed.update(("[" if place == 0 else ", ").encode() + text.encode())
    hashed.update(b"]" if posed else b"[]")
    return hashed.hexdigest()


def generator(seed: int, query: Query, purpose: str) -> np.random.Generator:
    """Return a random generator of one query's own, whatever other queries there are."""
    return np.random.default_rng(_hash(seed, query.conversation_id, query.turn, purpose))


def read_turns(raw: Iterable[Mapping[str, Any]]) -> list[Turn]:
    """Return the turns of a row of `records.CONVERSATIONS`, as Parquet gives them back."""
    return [
        {
            "role": turn["role"],
            "text": str(turn["text"]),
            "items": [] if turn["items"] is None else [str(item) for item in turn["items"]],
        }
        for turn in raw
    ]


def asked_turns(turns: Sequence[Turn], catalogue: Collection[str]) -> Generator[Asked, None, None]:
    """Yield the recommender turns that an answer may be held against.

    Those after the seeker's first turn that mention a catalogue item. Each counts by itself where
    the recommender speaks several times in a row: what an earlier one mentioned, either side's
    and whatever the seeker thought of it, is no longer new.
    """
    mentioned: dict[str, None] = {}
    asked = False
    for number, turn in enumerate(turns):
        if turn["role"] == "recommender" and asked:
            known = [i for i in dict.fromkeys(turn["items"]) if i in catalogue]
            if known:
                fresh = [i for i in known if i not in mentioned]
                repeated = [i for i in known if i in mentioned]
                yield Asked(number, list(mentioned), fresh, repeated)
        asked = asked or turn["role"] == "seeker"
        mentioned.update(dict.fromkeys(turn["items"]))


def _posed(conversation_id: str, turns: list[Turn], catalogue: set[str]) -> list[Query]:
    return [
        Query(conversation_id, asked.turn, turns[: asked.turn], asked.mentioned, asked.fresh, [])
        for asked in asked_turns(turns, catalogue)
        if asked.fresh
    ]


def _with_candidates(
    query: Query, seen: set[str], catalogue: list[str], candidates: int, seed: int
) -> Query:
    taken = seen.union(query.mentioned, query.targets)
    others = [item for item in catalogue if item not in taken]
    if candidates:
        wanted = candidates - len(query.targets)
        if wanted < 1 or wanted > len(others):
            raise InputError(
                f"evaluate.candidates: {candidates} cannot be met for conversation "
                f"{query.conversation_id}, turn {query.turn}: {len(query.targets)} targets and "
                f"{len(others)} other catalogue items neither mentioned nor seen; "
                "set another number, or 0 for the whole catalogue"
            )
        chance = generator(seed, query, "candidates")
        picked = chance.choice(len(others), size=wanted, replace=False)
        others = [others[place] for place in picked]
    return Query(
        query.conversation_id,
        query.turn,
        query.context,
        query.mentioned,
        query.targets,
        sorted([*query.targets, *others]),
    )


def _hash(*parts: str | int) -> int:
    # Python's own hash of a string differs from process to process.
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:16], "big")

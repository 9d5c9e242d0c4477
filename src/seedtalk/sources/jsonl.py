"""A user's own corpus: items, reviews, interactions and conversations as JSON lines."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from seedtalk.errors import InputError, at
from seedtalk.records import display_title, read_json_lines
from seedtalk.sources.likes import BENCHMARK
from seedtalk.sources.table import Raw
from seedtalk.titles import fold, title_key

if TYPE_CHECKING:
    import pandas as pd

ITEMS = "items.jsonl"
REVIEWS = "reviews.jsonl"
INTERACTIONS = "interactions.jsonl"
CONVERSATIONS = "conversations.jsonl"


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair; save it as valid UTF-8") from error
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank; give a value or leave the row out")
    return text


def _titled(title: str) -> str:
    if title.splitlines() != [title]:
        raise ValueError("holds a line break; an answer has one title a line: write it in one")
    if not any(char.isalnum() for char in title):
        raise ValueError("has no letter or digit; give a title a person can write and say")
    return title


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[str, AfterValidator(_storable), AfterValidator(_said)]
Title = Annotated[Name, AfterValidator(_titled)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ItemRow(_Row):
    """A line of items.jsonl."""

    item_id: Name
    title: Title
    year: Annotated[int, Field(ge=-9999, le=9999)] | None = None
    genres: list[Name] = []
    description: Text = ""


class ReviewRow(_Row):
    """A line of reviews.jsonl; the rating goes from 0 (worst) to 1 (best)."""

    review_id: Name
    item_id: Name
    user_id: Name | None = None
    rating: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    text: Name


class InteractionRow(_Row):
    """A line of interactions.jsonl; the rating is on the source's own scale."""

    user_id: Name
    item_id: Name
    rating: float | None = None
    liked: bool | None = None
    timestamp: Annotated[int, Field(ge=-(2**62), le=2**62)] | None = None


class TurnRow(_Row):
    """A turn of a conversation."""

    role: Literal["seeker", "recommender"]
    text: Text
    items: list[Name] = []


class ConversationRow(_Row):
    """A line of conversations.jsonl."""

    conversation_id: Name
    benchmark: Name
    turns: Annotated[list[TurnRow], Field(min_length=1)]
    seen: list[Name] = []


R = TypeVar("R", bound=_Row)


def load_jsonl(path: Path, like_threshold: float, eval_users: int) -> Raw:
    """Read a corpus folder; every row is checked.

    Parameters
    ----------
    path
        Folder with items.jsonl, reviews.jsonl and, where users are to be held out,
        interactions.jsonl; conversations.jsonl is optional.
    like_threshold
        Rating at or above which an interaction without `liked` is a like. An interaction with
        neither is one, too: the user chose the item.
    eval_users
        Users to be held out later: none need no interactions.

    Raises
    ------
    InputError
        When a file is missing, empty or not UTF-8, or a row lacks a field, has an unknown one,
        a value of another type, an id or a title and year that came before, or an item that
        items.jsonl lacks; names file, row and field.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; set ingest.path to the folder of {ITEMS}")
    items = _table(path / ITEMS, ItemRow, lambda row: row.item_id, "item_id")
    _distinct(path / ITEMS, items)
    known = {row.item_id for _, row in items}
    reviews = _table(path / REVIEWS, ReviewRow, lambda row: row.review_id, "review_id")
    _refer(path / REVIEWS, known, ((number, "item_id", [row.item_id]) for number, row in reviews))
    interactions: list[tuple[int, InteractionRow]] = []
    if eval_users or (path / INTERACTIONS).exists():
        interactions = _table(
            path / INTERACTIONS,
            InteractionRow,
            lambda row: (row.user_id, row.item_id),
            "item_id",
            empty=not eval_users,
        )
        _refer(
            path / INTERACTIONS,
            known,
            ((number, "item_id", [row.item_id]) for number, row in interactions),
        )
    conversations: list[tuple[int, ConversationRow]] = []
    if (path / CONVERSATIONS).exists():
        conversations = _conversations(path / CONVERSATIONS, known, eval_users)
    return Raw(
        items=_frame(ItemRow, items),
        reviews=_frame(ReviewRow, reviews),
        interactions=_interactions(interactions, like_threshold),
        conversations=_frame(ConversationRow, conversations),
        origin={
            ITEMS: len(items),
            REVIEWS: len(reviews),
            INTERACTIONS: len(interactions),
            CONVERSATIONS: len(conversations),
        },
        read={
            "items": len(items),
            "reviews": len(reviews),
            "interactions": len(interactions),
        },
    )


def _distinct(path: Path, items: list[tuple[int, ItemRow]]) -> None:
    """Refuse items that a reader of an answer cannot tell apart."""
    first: dict[tuple[tuple[str, ...], int | None], tuple[int, str]] = {}
    for number, row in items:
        shown = display_title(row.title, row.year)
        before, same = first.setdefault((_folded(row.title), row.year), (number, shown))
        if before != number:
            raise InputError(
                f"{at(path, number, 'title')}: '{shown}' is the title and year of row {before} "
                f"('{same}') already; drop one of the two, or give them different years or titles"
            )


def _folded(title: str) -> tuple[str, ...]:
    # What has no ASCII form would be lost in the key, and with it the difference.
    kept = not any(char.isalnum() and not fold(char).strip() for char in title)
    return title_key(title) if kept else tuple(title.casefold().split())


def _conversations(
    path: Path, known: set[str], eval_users: int
) -> list[tuple[int, ConversationRow]]:
    rows = _table(
        path, ConversationRow, lambda row: (row.benchmark, row.conversation_id), "conversation_id"
    )
    _refer(path, known, ((number, "seen", row.seen) for number, row in rows))
    _refer(
        path,
        known,
        (
            (number, f"turns.{place}.items", turn.items)
            for number, row in rows
            for place, turn in enumerate(row.turns)
        ),
    )
    for number, row in rows:
        if row.benchmark == BENCHMARK and eval_users:
            raise InputError(
                f"{at(path, number, 'benchmark')}: '{BENCHMARK}' is the name of the benchmark made "
                "of held-out users; use another name, or set ingest.eval_users to 0"
            )
    return rows


def _table(
    path: Path,
    model: type[R],
    key: Callable[[R], Any],
    key_field: str,
    *,
    empty: bool = False,
) -> list[tuple[int, R]]:
    """Read (line number, row) pairs with unique keys."""
    if not path.is_file():
        raise InputError(f"{path}: not there; docs/data.md describes the files of a corpus")
    rows: list[tuple[int, R]] = []
    first: dict[Any, int] = {}
    for number, value in read_json_lines(path):
        row = _checked(path, number, value, model)
        before = first.setdefault(key(row), number)
        if before != number:
            raise InputError(
                f"{at(path, number, key_field)}: {key(row)!r} is on row {before} already; "
                "keep one of them"
            )
        rows.append((number, row))
    if not rows and not empty:
        raise InputError(f"{path}: empty; one JSON object a line is expected (docs/data.md)")
    return rows


def _checked(path: Path, number: int, value: Any, model: type[R]) -> R:
    if not isinstance(value, dict):
        raise InputError(f"{at(path, number)}: expected a JSON object, got {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        place = at(path, number, field or None)
        if fault["type"] == "missing":
            raise InputError(f"{place}: missing; every row needs it") from None
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), model.model_fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "; remove it"
            raise InputError(f"{place}: unknown field{hint}") from None
        message = fault["msg"].removeprefix("Value error, ")
        raise InputError(f"{place}: {message[0].lower()}{message[1:]}") from None


def _refer(path: Path, known: set[str], references: Iterable[tuple[int, str, list[str]]]) -> None:
    for number, field, ids in references:
        for item in ids:
            if item not in known:
                near = difflib.get_close_matches(item, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise InputError(f"{at(path, number, field)}: '{item}' is not in {ITEMS}{hint}")


def _frame(model: type[_Row], rows: Iterable[tuple[int, _Row]]) -> pd.DataFrame:
    import pandas as pd

    columns = list(model.model_fields)
    frame = pd.DataFrame([row.model_dump() for _, row in rows], columns=columns)
    if "year" in columns:
        frame["year"] = frame["year"].astype("Int32")
    return frame


def _interactions(
    rows: Iterable[tuple[int, InteractionRow]], like_threshold: float
) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(
        [{**row.model_dump(), "liked": _liked(row, like_threshold)} for _, row in rows],
        columns=list(InteractionRow.model_fields),
    )
    frame["liked"] = frame["liked"].astype(bool)
    frame["timestamp"] = frame["timestamp"].astype("Int64")
    return frame


def _liked(row: InteractionRow, like_threshold: float) -> bool:
    if row.liked is not None:
        return row.liked
    return row.rating is None or row.rating >= like_threshold

"""The records that flow between stages, and how they are read and written.

Tables are Parquet with a fixed schema; record streams are JSON lines checked by a model. Every
file is written sorted and atomically, so that equal content is equal bytes and a killed run
leaves no torn file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from seedtalk.errors import InputError, at
from seedtalk.lines import read_json as read_json
from seedtalk.lines import read_json_lines as read_json_lines

SIGNALS = (
    "popularity",
    "recency",
    "year",
    "item_item",
    "factors",
    "content",
    "metadata",
    "reviews",
    "bm25",
)

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),  # natural order: "The Matrix"
        pa.field("year", pa.int32()),
        pa.field("genres", pa.list_(pa.string()), nullable=False),
        pa.field("description", pa.string(), nullable=False),  # "" where unknown
    ]
)
REVIEWS = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("rating", pa.float32()),  # 0 (worst) to 1 (best), null where unknown
        pa.field("text", pa.string(), nullable=False),
    ]
)
INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("rating", pa.float32()),  # on the source's own scale
        pa.field("liked", pa.bool_(), nullable=False),  # rating >= ingest.like_threshold
        pa.field("timestamp", pa.int64()),  # Unix seconds, null where unknown
    ]
)
CONVERSATIONS = pa.schema(
    [
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field(
            "turns",
            pa.list_(
                pa.struct(
                    [
                        pa.field("role", pa.string()),  # seeker or recommender
                        pa.field("text", pa.string()),
                        pa.field("items", pa.list_(pa.string())),  # mentioned, in order
                    ]
                )
            ),
            nullable=False,
        ),
        # Known to the seeker outside the conversation: never a sampled candidate.
        pa.field("seen", pa.list_(pa.string()), nullable=False),
    ]
)
PREDICTIONS = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),  # 0-based place of the foreseen turn
        pa.field("targets", pa.list_(pa.string()), nullable=False),
        pa.field("ranking", pa.list_(pa.string()), nullable=False),  # every candidate, best first
    ]
)
# What the domain's own signals say of every candidate of a query (stage baseline).
PRIORS = pa.schema(
    [
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),  # `Query.candidates`
        *(
            pa.field(name, pa.list_(pa.float32()), nullable=False)  # one value a candidate
            for name in SIGNALS
        ),
    ]
)
# What a student says of the items it was asked for or came up with (stage evaluate).
POOLS = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),
        pa.field("items", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float64()), nullable=False),  # higher is likelier
    ]
)

SORT_KEYS = {
    "items": ["item_id"],
    "reviews": ["review_id"],
    "interactions": ["user_id", "item_id"],
    "conversations": ["benchmark", "conversation_id"],
    "predictions": ["system", "conversation_id", "query"],
    "priors": ["conversation_id", "query"],
    "pools": ["system", "conversation_id", "query"],
}
SCHEMAS = {
    "items": ITEMS,
    "reviews": REVIEWS,
    "interactions": INTERACTIONS,
    "conversations": CONVERSATIONS,
    "predictions": PREDICTIONS,
    "priors": PRIORS,
    "pools": POOLS,
}

Table = Literal[
    "items", "reviews", "interactions", "conversations", "predictions", "priors", "pools"
]


class Record(BaseModel):
    """A line of a JSON-lines file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Seed(Record):
    """A review chosen to be turned into a dialogue; `rank` counts from 0 in pick order."""

    rank: int
    review_id: str
    item_id: str
    score: float


class Grounding(Record):
    """What a request was made of, so that an answer can be checked against it."""

    custom_id: str
    review_id: str
    item_id: str
    style: str
    targets: list[str]  # item ids the data itself supports, best first; [] where only the teacher's
    liked: list[str]  # item ids told as liked by the same users
    prompt: str  # sha256 of the template
    messages: str  # sha256 of what was told, style and data included: `prompting.digest`


class Message(Record):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class Dialogue(Record):
    """A training example: a seeker's words and a grounded list of recommendations."""

    dialogue_id: str  # the request's custom_id
    review_id: str
    item_id: str
    style: str
    teacher: str
    messages: list[Message]  # ends with the assistant's
    targets: list[str]  # item ids recommended, best first


class Rejected(Record):
    """A quarantined answer and why."""

    dialogue_id: str
    reason: str
    detail: str
    text: str


Verdict = Literal["train", "valid", "quarantined"]


class Provenance(Record):
    """Where a dialogue, kept or quarantined, comes from, and what its checks measured."""

    dialogue_id: str
    review_id: str
    item_id: str
    style: str
    prompt: str  # sha256 of the template
    messages: str  # sha256 of what was told, style and data included: `prompting.digest`
    request_key: str | None  # the ledger's key of the request that was answered
    backend: str
    model: str  # as the endpoint names it in the answer
    response_digest: str | None  # sha256 of the answer's text
    verdict: Verdict
    reason: str | None
    filters: dict[str, Any]  # name of a check: what it measured, null where it was not reached


R = TypeVar("R", bound=Record)


def display_title(title: str, year: int | None) -> str:
    """Return the one form in which a title is shown and generated: ``Heat (1995)``."""
    return title if year is None or pd.isna(year) else f"{title} ({int(year)})"


def answer_titles(items: pd.DataFrame, years: Literal["always", "ambiguous"]) -> list[str]:
    """Return the title of each row of `ITEMS` as a student writes it in an answer.

    With `years` ``ambiguous`` the year stands only where another item has the same title, case
    aside: half of a short title's tokens are its year's.
    """
    shown = [display_title(*pair) for pair in zip(items["title"], items["year"], strict=True)]
    if years == "always":
        return shown
    plain = [" ".join(str(title).split()) for title in items["title"]]
    counts = Counter(title.casefold() for title in plain)
    return [
        full if counts[title.casefold()] > 1 else title
        for title, full in zip(plain, shown, strict=True)
    ]


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Generator[IO[Any], None, None]:
    """Open a temporary neighbour of `path` and move it there once the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    text = "b" not in mode
    try:
        with os.fdopen(
            handle, mode, encoding="utf-8" if text else None, newline="\n" if text else None
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_dir(path: Path) -> Generator[Path, None, None]:
    """Yield an empty temporary folder that takes the place of `path` once the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield fresh
        fresh.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        fresh.replace(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def write_table(path: Path, frame: pd.DataFrame, table: Table) -> None:
    """Write `frame` as `table`: schema's columns only, sorted by its key, canonical bytes."""
    ordered = frame.sort_values(SORT_KEYS[table], kind="stable", ignore_index=True)
    arrow = pa.Table.from_pandas(
        ordered[SCHEMAS[table].names], schema=SCHEMAS[table], preserve_index=False
    ).replace_schema_metadata(None)
    with atomic_file(path, "wb") as file:
        pq.write_table(arrow, file, compression="zstd")


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read `table` from Parquet.

    Raises
    ------
    InputError
        When the file is no Parquet or lacks a column of the schema.
    """
    try:
        arrow = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    for name in SCHEMAS[table].names:
        if name not in arrow.column_names:
            raise InputError(
                f"{at(path, field=name)}: column missing; run `dvc repro` to remake it"
            )
    frame: pd.DataFrame = arrow.select(SCHEMAS[table].names).to_pandas()
    return frame


def write_jsonl(path: Path, rows: Iterable[Record | dict[str, Any]]) -> None:
    """Write one JSON object per line, keys in the model's order, no escapes beyond JSON's."""
    with atomic_file(path) as file:
        for row in rows:
            data = row.model_dump() if isinstance(row, Record) else row
            file.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: Path, model: type[R]) -> list[R]:
    """Read a JSON-lines file of one kind of record.

    Raises
    ------
    InputError
        When the file cannot be read or a line does not fit the model; names file, row and
        field.
    """
    records = []
    for number, value in read_json_lines(path):
        try:
            records.append(model.model_validate(value))
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"])) or None
            raise InputError(f"{at(path, number, field)}: {fault['msg']}") from error
    return records


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, indented, ending in a newline."""
    with atomic_file(path) as file:
        json.dump(value, file, ensure_ascii=False, allow_nan=False, indent=2)
        file.write("\n")


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(parts: Sequence[str]) -> str:
    """Return the hex sha256 of `parts`, kept apart so that their borders count."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()

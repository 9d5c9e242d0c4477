"""The lines of a batch's files: requests going out, results coming back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedtalk.errors import InputError
from seedtalk.teacher.answers import parsed

ROUTE: Literal["/v1/chat/completions"] = (
    "/v1/chat/completions"  # what every line asks, wherever the endpoint is
)
MOST_BYTES = 200_000_000  # of a file of requests
MOST_LINE = 32 << 20  # bytes of a result: twice what a single call may bring


class BadLineError(ValueError):
    """A line of a file of results that cannot be read."""


@dataclass(frozen=True)
class LineError:
    """Why a request has no response, in the endpoint's words; the status where there was one."""

    code: str | None
    message: str
    kind: str | None = None
    status: int | None = None


@dataclass(frozen=True)
class Result:
    """A line of a file of results: what came back for a request, or why nothing did."""

    custom_id: str
    raw: str | None  # the JSON text of the response's body; the whole line where it has none
    error: LineError | None


def request_line(key: str, body: Mapping[str, Any]) -> bytes:
    """Return a request as a line of a batch's file, known by its key in the ledger."""
    line = {"custom_id": key, "method": "POST", "url": ROUTE, "body": body}
    # In ASCII: half of a surrogate pair has no other form.
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def chunks(sizes: Iterable[tuple[str, int]], most: int, most_bytes: int) -> Iterator[list[str]]:
    """Cut requests, in order, into batches.

    Parameters
    ----------
    sizes
        Key and bytes of each line.
    most, most_bytes
        Lines and bytes in a batch at most.

    Raises
    ------
    InputError
        When one line alone is too long.
    """
    chunk: list[str] = []
    room = most_bytes
    for key, size in sizes:
        if size > most_bytes:
            raise InputError(
                f"a request of {size} bytes is longer than a whole batch may be ({most_bytes} "
                "bytes); shorten its review (ingest.max_review_chars)"
            )
        if len(chunk) == most or size > room:
            yield chunk
            chunk, room = [], most_bytes
        chunk.append(key)
        room -= size
    if chunk:
        yield chunk


def whole_lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Cut what comes in parts into lines, each with its end.

    Of a line over `MOST_LINE` bytes, which no result has, a note is left.
    """
    line, size = bytearray(), 0
    for part in parts:
        *ends, rest = part.split(b"\n")
        for end in ends:
            yield _line(line, size, end) + b"\n"
            line, size = bytearray(), 0
        size += len(rest)
        if size <= MOST_LINE:
            line += rest
    if size:
        yield _line(line, size, b"")


def _line(line: bytearray, size: int, end: bytes) -> bytes:
    size += len(end)
    return bytes(line + end) if size <= MOST_LINE else b"a line of %d bytes was left out" % size


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file of results that are not blank, without holding it in memory."""
    with path.open("rb") as file:
        for raw in file:
            if raw.strip():
                yield raw


def read_result(raw: bytes) -> Result:
    """Read a line of a file of results.

    Bytes that are no UTF-8 are replaced: the answer around them was paid for.

    Raises
    ------
    BadLineError
        When it is no JSON object that names a request and holds a response or an error.
    """
    try:
        line = parsed(raw.decode("utf-8", "replace"))
    except ValueError as error:
        raise BadLineError("not JSON") from error
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        raise BadLineError("no custom_id")
    name = line["custom_id"]
    response = line.get("response")
    if not isinstance(response, dict):
        reason = line.get("error")
        if not isinstance(reason, dict):
            raise BadLineError("neither a response nor an error")
        return Result(name, None, _error(reason, None))
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return Result(name, json.dumps(body, allow_nan=False), None)
        except ValueError:
            # A number too large for any: no answer, as it is none where a single call brings it.
            return Result(name, raw.decode("utf-8", "replace"), None)
    told = body.get("error") if isinstance(body, dict) else None
    known = status if isinstance(status, int) else None
    return Result(name, None, _error(told if isinstance(told, dict) else {}, known))


def _error(told: Mapping[str, Any], status: int | None) -> LineError:
    code, kind = (str(told[name]) if told.get(name) else None for name in ("code", "type"))
    return LineError(code, str(told.get("message") or "no reason given"), kind, status)

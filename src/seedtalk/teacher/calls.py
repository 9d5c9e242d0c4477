"""The calls that were made, read back from the ledger.

Traces are made of them once a run is over: so tracing adds nothing to the calls themselves, and
holds nothing the ledger does not, which has never seen the key.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedtalk.teacher.answers import BadAnswerError, completion, content_of, parse_dialogue
from seedtalk.teacher.ledger import request_key
from seedtalk.teacher.ledger.store import REPAIR

if TYPE_CHECKING:
    from seedtalk.teacher.ledger import Ledger


@dataclass
class Span:
    """A stretch of work, as `tracking` takes it."""

    name: str
    inputs: Any
    outputs: str | None
    error: str | None
    attributes: dict[str, str | int | float | bool]
    tokens: tuple[int, int] | None  # read and written, where they were counted
    begun: float  # Unix seconds
    ended: float | None  # None where no answer came


def latest(ledger: Ledger) -> int:
    """Return the last row of attempts there is, for `touched` to begin after.

    Raises
    ------
    RunError
        When the ledger cannot be read.
    """
    ((row,),) = ledger.rows("SELECT coalesce(max(id), 0) FROM attempts")
    return int(row)


def mean_output(ledger: Ledger, endpoint: str, model: str) -> tuple[float | None, int]:
    """Return the mean tokens of a model's answers at an endpoint and how many they are.

    Raises
    ------
    RunError
        When the ledger cannot be read.
    """
    ((mean, count),) = ledger.rows(
        "SELECT avg(output_tokens), count(output_tokens) FROM attempts "
        "WHERE state = 'received' AND endpoint = ? AND model = ?",
        *(endpoint, model),
    )
    return mean, count


def touched(ledger: Ledger, keys: Container[str], after: int) -> dict[str, list[str]]:
    """Return the requests that a call was made for after a row, in the order they were begun.

    Parameters
    ----------
    ledger
        Kept open by the caller.
    keys
        Of the run's requests.
    after
        What `latest` returned before the run.

    Returns
    -------
    dict
        The keys, each with those of its repairs.

    Raises
    ------
    RunError
        When the ledger cannot be read.
    """
    found: dict[str, list[str]] = {}
    rows = ledger.rows(
        "SELECT key, backend, endpoint, body FROM requests JOIN (SELECT key, min(id) AS first "
        "FROM attempts WHERE id > ? GROUP BY key) USING (key) ORDER BY first",
        after,
    )
    for key, backend, endpoint, body in rows:
        if key in keys:
            found.setdefault(key, [])
        elif (whose := _repaired(backend, endpoint, body)) in keys:
            found.setdefault(whose, []).append(key)
    return found


def asked(ledger: Ledger, requests: Mapping[str, list[str]], after: int) -> Iterator[list[Span]]:
    """Yield each of the `touched` requests as spans, read as they are needed.

    The first is around the request, the others are the attempts at it, repairs included, oldest
    first.

    Raises
    ------
    RunError
        When the ledger cannot be read.
    """
    for key, repairs in requests.items():
        attempts = [
            span for each in (key, *repairs) for span in _attempts(ledger, each, key, after)
        ]
        yield [_whole(key, attempts), *attempts]


def _whole(key: str, attempts: list[Span]) -> Span:
    """Return the span around a request's attempts."""
    outputs = _used(attempts)
    read = [span.tokens[0] for span in attempts if span.tokens]
    written = [span.tokens[1] for span in attempts if span.tokens]
    ends = [span.ended for span in attempts if span.ended is not None]
    return Span(
        "request",
        attempts[0].inputs,
        outputs,
        None if outputs is not None else attempts[-1].error or "no answer",
        {
            "key": key,
            "model": attempts[0].attributes["model"],
            "calls": len(attempts),
            "input_tokens": sum(read),
            "output_tokens": sum(written),
            "usd": sum(float(span.attributes["usd"]) for span in attempts),
        },
        None,
        attempts[0].begun,
        max(ends, default=None),
    )


def _used(attempts: list[Span]) -> str | None:
    """Return the answer that stands: a repair's where it is of the form asked for."""
    told: dict[str, str] = {s.name: s.outputs for s in attempts if s.outputs is not None}
    try:
        parse_dialogue(told.get("repair"))
    except BadAnswerError:
        return told.get("call")
    return told["repair"]


def _repaired(backend: str, endpoint: str, text: str | None) -> str:
    """Return the key of the request that this one would repair, or "".

    A repair holds the messages of the first request, the bad answer and what is wrong with it.
    """
    body = json.loads(text) if text else {}
    first = body.get("messages", [])[:-REPAIR]
    return request_key(backend, endpoint, {**body, "messages": first}) if first else ""


def _attempts(ledger: Ledger, key: str, request: str, after: int) -> Iterator[Span]:
    rows = ledger.rows(
        "SELECT attempts.id, attempt, attempts.endpoint, attempts.model, requests.body, "
        "attempts.body, error, usd, input_tokens, output_tokens, created, settled "
        "FROM attempts JOIN requests USING (key) WHERE key = ? ORDER BY attempt",
        key,
    )
    for row, number, endpoint, model, asked_, response, error, usd, read, written, *times in rows:
        content, fault = _content(response)
        counted = read is not None and written is not None
        yield Span(
            "call" if key == request else "repair",
            json.loads(asked_)["messages"] if asked_ else None,
            content,
            error or fault,
            {
                "key": key,
                "model": model,
                "endpoint": endpoint,
                "attempt": number,
                "usd": usd,
                "cached": row <= after,  # an earlier run's
            },
            (read, written) if counted else None,
            *times,
        )


def _content(response: str | None) -> tuple[str | None, str | None]:
    """Return the text of a raw response, or None and why there is none."""
    if response is None:
        return None, None
    try:
        return content_of(completion(response)), None
    except BadAnswerError as error:
        return None, str(error)

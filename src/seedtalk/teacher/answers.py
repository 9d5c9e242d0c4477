"""What counts as an answer: the raw text of a response, read as a chat completion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


class BadAnswerError(ValueError):
    """A response that came whole but holds no answer: its text says why."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer for good."""

    code: str
    message: str


Outcome = dict[str, Any] | Failure  # a chat completion, or why there is none


@dataclass(frozen=True)
class Usage:
    """Tokens of a completion; None where the endpoint does not say."""

    input: int | None
    output: int | None


def completion(raw: str) -> dict[str, Any]:
    """Return the chat completion in `raw`.

    Raises
    ------
    BadAnswerError
        When it is no JSON object, or its first choice has no text: a truncated body, a proxy's
        page served with status 200, a refusal, a null content.
    """
    body = _object(raw)
    if content_of(body) is None:
        raise BadAnswerError("no text in the first choice")
    # Half of an escaped pair ("\\ud83d") is legal JSON but no text that can be written.
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace").decode()
    clean: dict[str, Any] = json.loads(text)
    return clean


def _object(raw: str) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        start = " ".join(raw[:60].split())
        raise BadAnswerError(f"not JSON: {start!r}") from error
    if not isinstance(body, dict):
        raise BadAnswerError("not a JSON object")
    return body


def content_of(body: dict[str, Any]) -> str | None:
    """Return the text of the first choice; None where there is none."""
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return content if isinstance(content, str) and content.strip() else None


def usage_of(body: dict[str, Any]) -> Usage:
    """Return the tokens the endpoint counted."""
    usage = body.get("usage")
    told = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int | None:
        value = told.get(name)
        return (
            value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
        )

    return Usage(count("prompt_tokens"), count("completion_tokens"))


def usage_in(raw: str) -> Usage:
    """Return the tokens counted in a raw response, which is billed whether it has text or not."""
    try:
        return usage_of(_object(raw))
    except BadAnswerError:
        return Usage(None, None)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")

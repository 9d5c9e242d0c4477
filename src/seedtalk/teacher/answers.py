"""What counts as an answer: a raw response read as a chat completion, its text as a dialogue."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seedtalk.texts import visible

REPAIR = (
    "That is not the JSON object I asked for. Write it again, whole and alone, with no code fence "
    'and no word around it: {"messages": [{"role": "seeker", "content": "..."}], '
    '"recommendations": ["..."]}. Every role is seeker or recommender, and a seeker speaks last.'
)
MOST_TOKENS = 10_000_000  # of one call; what counts more has not counted
MOST_NESTED = 100  # levels of JSON; no answer has as many

FINAL = frozenset({"refusal", "content_filter"})  # reasons that asking again does not change

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n?|\n?```\s*$")
_NUMBER = re.compile(r"^\s*(?:\d{1,3}\s*[.):]|[-*•])\s+")


class BadAnswerError(ValueError):
    """A response that came whole but holds no answer: its text says why.

    Parameters
    ----------
    detail
        What is wrong with it.
    reason
        ``unparsable``; ``no_query`` where a dialogue is read but no seeker speaks last;
        ``refusal`` or ``content_filter`` where the endpoint will not answer, however often asked.
    """

    def __init__(self, detail: str, reason: str = "unparsable") -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer for good."""

    code: str
    message: str


@dataclass(frozen=True)
class Answer:
    """A chat completion, and the request that brought it."""

    body: dict[str, Any]
    key: str  # the ledger's; of the repair, where the repair's answer is used
    repaired: bool = False


Outcome = Answer | Failure


@dataclass(frozen=True)
class ParsedDialogue:
    """What a teacher said: turns of seeker and recommender, and the titles it lists."""

    turns: list[dict[str, str]]  # each has a role (seeker or recommender) and a text
    titles: list[str]


@dataclass(frozen=True)
class Usage:
    """Tokens of a completion; None where the endpoint does not say."""

    input: int | None
    output: int | None
    cached: int = 0  # of the input: what the endpoint had in its prompt cache


def parsed(text: str, **hooks: Any) -> Any:
    """Return what a stranger's JSON says, wherever it is read: no stack's depth decides.

    Parameters
    ----------
    text
        The JSON.
    **hooks
        Of `json.loads`.

    Raises
    ------
    ValueError
        When it is no JSON, or is nested over `MOST_NESTED` levels.
    """
    try:
        value = json.loads(text, **hooks)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    many = text.count("[") + text.count("{") > MOST_NESTED
    level = [value] if many and isinstance(value, dict | list) else []
    for _ in range(MOST_NESTED):
        if not level:
            break
        within = (each.values() if isinstance(each, dict) else each for each in level)
        level = [one for each in within for one in each if isinstance(one, dict | list)]
    if level:
        raise ValueError("nested too deeply")
    return value


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
        raise _no_text(body)
    if not _HALF.search(raw):
        return body
    # Half of an escaped pair ("\\ud83d") is legal JSON but no text that can be written.
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace").decode()
    clean: dict[str, Any] = json.loads(text)
    return clean


def _no_text(body: dict[str, Any]) -> BadAnswerError:
    """Tell why the first choice has no text."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict):
        message = choice.get("message")
        refusal = message.get("refusal") if isinstance(message, dict) else None
        if isinstance(refusal, str) and refusal.strip():
            return BadAnswerError(f"the teacher refused: {visible(refusal)[:200]}", "refusal")
        if choice.get("finish_reason") == "content_filter":
            return BadAnswerError("the endpoint's filter took the answer back", "content_filter")
        if choice.get("finish_reason") == "length":
            return BadAnswerError("teacher.max_tokens ended the answer before any text of it")
    return BadAnswerError("no text in the first choice")


def _object(raw: str) -> dict[str, Any]:
    try:
        body = parsed(raw, parse_constant=_no_number, parse_float=_finite)
    except ValueError as error:
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
    told = body.get("usage")
    usage = told if isinstance(told, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(
        _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), cached or 0
    )


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MOST_TOKENS else None


def usage_in(raw: str) -> Usage:
    """Return the tokens counted in a raw response, which is billed whether it has text or not."""
    try:
        return usage_of(_object(raw))
    except BadAnswerError:
        return Usage(None, None)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999 is JSON, and could not be written as such again
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def has_form(content: str) -> bool:
    """Tell whether a teacher's text reads as a dialogue, see `parse_dialogue`."""
    try:
        parse_dialogue(content)
    except BadAnswerError:
        return False
    return True


def repair_of(body: Mapping[str, Any], content: str) -> dict[str, Any] | None:
    """Return the request that asks for an answer's form once more; None where none is due.

    It is made of the request and the answer alone, so that its key in the ledger does not hang
    on how this version words what is wrong.

    Parameters
    ----------
    body
        Of the chat request; only one that asks for JSON is repaired.
    content
        The text it was answered with.
    """
    asked = body.get("response_format")
    kind = asked.get("type") if isinstance(asked, dict) else None
    if not isinstance(kind, str) or not kind.startswith("json") or has_form(content):
        return None
    told = [{"role": "assistant", "content": content}, {"role": "user", "content": REPAIR}]
    return {**body, "messages": [*body["messages"], *told]}


def parse_dialogue(content: str | None) -> ParsedDialogue:
    """Read a teacher's text as a dialogue.

    A code fence or words around the JSON object are tolerated. Titles may be texts (numbered
    or not) or objects with ``title`` and ``year``.

    Raises
    ------
    BadAnswerError
        When it is of another form; `reason` is ``unparsable`` or ``no_query``.
    """
    if content is None:
        raise BadAnswerError("the response holds no text")
    value = _dialogue_object(content)
    messages = value.get("messages")
    if not isinstance(messages, list):
        raise BadAnswerError("'messages' is no list")
    turns = []
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if role not in ("seeker", "recommender") or not isinstance(text, str):
            raise BadAnswerError(f"message {number} has no role of a dialogue or no text")
        if text.strip():
            turns.append({"role": role, "text": " ".join(text.split())})
    listed = value.get("recommendations", [])
    if not isinstance(listed, list):
        raise BadAnswerError("'recommendations' is no list")
    if not turns or turns[-1]["role"] != "seeker":
        raise BadAnswerError("the seeker does not speak last", "no_query")
    return ParsedDialogue(turns, [title for title in map(_title, listed) if title])


def _dialogue_object(content: str) -> dict[str, Any]:
    text = _FENCE.sub("", content.strip())
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise BadAnswerError("no JSON object in it")
    try:
        value = parsed(text[start : end + 1])
    except ValueError as error:
        raise BadAnswerError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadAnswerError("no JSON object in it")
    return value


def _title(listed: Any) -> str:
    if isinstance(listed, dict):
        title, year = listed.get("title"), listed.get("year")
        if not isinstance(title, str):
            return ""
        return f"{title} ({year})" if isinstance(year, int) and f"({year})" not in title else title
    if not isinstance(listed, str):
        return ""
    return _NUMBER.sub("", listed).strip().strip("\"“”'* ")

"""The teacher: chat requests in, raw responses out, whoever answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seedtalk.errors import InputError, RunError, at
from seedtalk.params import Teacher
from seedtalk.teacher import budget
from seedtalk.teacher.answers import Failure, Outcome, Usage, usage_of

if TYPE_CHECKING:
    from seedtalk.teacher.ledger import Ledger

LEDGER = "ledger.sqlite"


class Backend(Protocol):
    """Who answers for money: a module or object that takes requests and keeps a ledger."""

    def answer_all(
        self, bodies: Sequence[Mapping[str, Any]], params: Teacher, ledger: Ledger
    ) -> list[Outcome]:
        """Return a chat completion, or why there is none, for each request."""
        ...


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Read and check a file of requests in the OpenAI Batch format.

    Raises
    ------
    InputError
        When a line is no request, or an id is there twice; names file, row and field.
    """
    from seedtalk.records import read_json_lines

    requests: list[dict[str, Any]] = []
    rows: dict[str, int] = {}
    for number, line in read_json_lines(path):
        fault = _fault(line)
        if fault:
            raise InputError(f"{at(path, number, fault[0])}: {fault[1]}; run the prompt stage")
        if line["custom_id"] in rows:
            raise InputError(
                f"{at(path, number, 'custom_id')}: '{line['custom_id']}' is also in row "
                f"{rows[line['custom_id']]}"
            )
        rows[line["custom_id"]] = number
        requests.append(line)
    if not requests:
        raise InputError(f"{path}: no request in it; run the prompt stage")
    return requests


def generate(
    requests: Sequence[Mapping[str, Any]], params: Teacher, *, seed: int, cache_dir: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Have every request answered.

    Parameters
    ----------
    requests
        Lines of the OpenAI Batch format, see `read_requests`.
    params
        Who answers and what it may cost.
    seed
        Of the extractive teacher's choices.
    cache_dir
        Folder of the ledger, which only paid backends open.

    Returns
    -------
    (responses, summary)
        One result line of the Batch format for each request, in order: a request that failed
        for good has no response but an error. The summary counts the answers, and their tokens
        and US dollars, whenever they were paid; None where an endpoint did not count tokens or
        the price is unknown.

    Raises
    ------
    InputError, RunError
        See the backends; RunError also when not one request was answered.
    """
    bodies = [request["body"] for request in requests]
    outcomes = _answers(bodies, params, seed, cache_dir)
    answered = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    if not answered:
        last = next(outcome for outcome in outcomes if isinstance(outcome, Failure))
        raise RunError(
            f"not one of {len(requests)} requests was answered (the last: {last.code}: "
            f"{last.message})"
        )
    lines = [
        _line(request["custom_id"], outcome)
        for request, outcome in zip(requests, outcomes, strict=True)
    ]
    usages = [usage_of(answer) for answer in answered]
    tokens = Usage(
        _total([usage.input for usage in usages]), _total([usage.output for usage in usages])
    )
    paid = params.backend != "extractive"
    usd = budget.cost(params, tokens) if paid else 0.0
    summary = {
        "backend": params.backend,
        "model": bodies[0]["model"],
        "requests": len(requests),
        "answered": len(answered),
        "failed": len(requests) - len(answered),
        "tokens": {"input": tokens.input, "output": tokens.output},
        "usd": None if usd is None else round(usd, 6),
    }
    return lines, summary


def _answers(
    bodies: Sequence[Mapping[str, Any]], params: Teacher, seed: int, cache_dir: Path
) -> list[Outcome]:
    if params.backend == "extractive":
        from seedtalk.teacher import extractive

        return extractive.answer_all(bodies, seed)
    from seedtalk.teacher import openai, replay
    from seedtalk.teacher.ledger import Ledger

    backend: Backend = openai if params.backend == "openai" else replay
    with Ledger(cache_dir / LEDGER) as ledger:
        return backend.answer_all(bodies, params, ledger)


def _total(counts: Sequence[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if len(told) == len(counts) else None


def _line(custom_id: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        error = {"code": outcome.code, "message": outcome.message}
        return {"custom_id": custom_id, "response": None, "error": error}
    return {
        "custom_id": custom_id,
        "response": {"status_code": 200, "body": outcome},
        "error": None,
    }


def _fault(line: Any) -> tuple[str, str] | None:
    """Return the field that makes a line no request and what is wrong with it."""
    if not isinstance(line, dict):
        return "custom_id", "the line is no JSON object"
    if not isinstance(line.get("custom_id"), str) or not line["custom_id"]:
        return "custom_id", "expected a text"
    body = line.get("body")
    if not isinstance(body, dict):
        return "body", "expected an object"
    if not isinstance(body.get("model"), str):
        return "body.model", "expected a text"
    if not isinstance(body.get("max_tokens"), int):
        return "body.max_tokens", "expected a whole number"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "body.messages", "expected a list of messages"
    for message in messages:
        if not (
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
        ):
            return "body.messages", "every message needs a role and a content, both texts"
    return None

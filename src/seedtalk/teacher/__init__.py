"""The teacher: chat requests in, raw responses out, whoever answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from seedtalk.errors import InputError, RunError, at
from seedtalk.params import Teacher
from seedtalk.progress import track
from seedtalk.teacher import budget
from seedtalk.teacher.answers import Answer, Failure, Outcome, usage_of
from seedtalk.teacher.prices import Price, price_of

if TYPE_CHECKING:
    from seedtalk.teacher.calls import Span
    from seedtalk.teacher.ledger import Ledger

LEDGER = "ledger.sqlite"

N = TypeVar("N", int, float)

Trace = Callable[[Iterator[list["Span"]], int], None]  # what was asked, and how much it is


class Backend(Protocol):
    """Who answers for money: a module or object that takes requests and keeps a ledger."""

    def answer_all(
        self,
        bodies: Sequence[Mapping[str, Any]],
        params: Teacher,
        ledger: Ledger,
        *,
        prices: Price | None,
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


def check_model(requests: Sequence[Mapping[str, Any]], params: Teacher) -> None:
    """Refuse requests to another model than the parameters name: they have another price.

    Raises
    ------
    InputError
        Names the request and both models.
    """
    for request in requests:
        if (model := request["body"]["model"]) != params.model:
            raise InputError(
                f"request '{request['custom_id']}' is to the model '{model}', but teacher.model "
                f"is '{params.model}'; run the prompt stage (`dvc repro prompt`)"
            )


def generate(
    requests: Sequence[Mapping[str, Any]],
    params: Teacher,
    *,
    seed: int,
    cache_dir: Path,
    trace: Trace | None = None,
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
    trace
        Told, once the calls are over and however they ended, of each request a call was made
        for, as the ledger has it.

    Returns
    -------
    (responses, summary)
        One result line of the Batch format for each request, in order: a request that failed
        for good has no response but an error; ``response.request_id`` is the key the answer has
        in the ledger. The lines hold the answers themselves, not copies. The summary counts the
        answers, and their tokens and US dollars, whenever they were paid; None where an endpoint
        did not count tokens or the price is unknown. Its ``spent`` counts every call that was
        made for these requests, by any run, and what all of them cost: attempts that failed,
        calls that got lost and repairs included.

    Raises
    ------
    InputError, RunError
        See the backends and `prices.price_of`; RunError also when not one request was answered.
    """
    bodies = [request["body"] for request in requests]
    free = params.backend == "extractive"
    if not free:
        check_model(requests, params)
    price = Price(0.0, 0.0) if free else price_of(params, params.prices)
    if free:
        outcomes, calls, paid = _compose(bodies, seed), 0, 0.0
    else:
        outcomes, (calls, paid) = _answers(bodies, params, price, cache_dir, trace)
    answered = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
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
    usages = [usage_of(answer.body) for answer in answered]
    usd = _total([budget.cost(price, usage, params.backend == "batch") for usage in usages])
    summary = {
        "backend": params.backend,
        "model": bodies[0]["model"],
        "requests": len(requests),
        "answered": len(answered),
        "failed": len(requests) - len(answered),
        "repaired": sum(answer.repaired for answer in answered),
        "tokens": {
            "input": _total([usage.input for usage in usages]),
            "output": _total([usage.output for usage in usages]),
        },
        "usd": None if usd is None else round(usd, 6),
        "spent": {"calls": calls, "usd": None if price is None else round(paid, 6)},
    }
    return lines, summary


def _compose(bodies: Sequence[Mapping[str, Any]], seed: int) -> list[Outcome]:
    from seedtalk.teacher import extractive
    from seedtalk.teacher.ledger import request_key

    answers = extractive.answer_all(bodies, seed)
    return [
        Answer(answer, request_key("extractive", str(seed), body))
        for body, answer in zip(bodies, answers, strict=True)
    ]


def _answers(
    bodies: Sequence[Mapping[str, Any]],
    params: Teacher,
    price: Price | None,
    cache_dir: Path,
    trace: Trace | None,
) -> tuple[list[Outcome], tuple[int, float]]:
    """Return the outcomes, and the calls and US dollars they took over all runs."""
    from seedtalk.teacher.ledger import Ledger

    with Ledger(cache_dir / LEDGER) as ledger:
        if params.backend == "replay":
            from seedtalk.teacher import openai, replay

            outcomes = replay.answer_all(bodies, params, ledger)
            ledger.scope(openai.keys_of(bodies, params))
        else:
            with _traced(ledger, bodies, params, trace):
                outcomes = _paid(params).answer_all(bodies, params, ledger, prices=price)
            _warn_of_overrun(ledger, params)
        spent = ledger.spent()
        return outcomes, (spent.calls, spent.usd)


def _paid(params: Teacher) -> Backend:
    if params.backend == "batch":
        from seedtalk.teacher import batch

        return batch
    from seedtalk.teacher import openai

    return openai


@contextmanager
def _traced(
    ledger: Ledger, bodies: Sequence[Mapping[str, Any]], params: Teacher, trace: Trace | None
) -> Generator[None, None, None]:
    """Hand what the block asks to `trace`, also where it ends early."""
    if trace is None:
        yield
        return
    from seedtalk.teacher import calls, openai

    before = calls.latest(ledger)

    def hand_over(told: Trace) -> None:
        keys = frozenset(openai.keys_of(bodies, params))
        if touched := calls.touched(ledger, keys, before):
            spans = calls.asked(ledger, touched, before)
            told(track(spans, "keeping traces", len(touched)), len(touched))

    try:
        yield
    except RunError:
        hand_over(trace)
        raise
    hand_over(trace)


def _warn_of_overrun(ledger: Ledger, params: Teacher) -> None:
    """Say so where an endpoint counted more tokens than a request can have."""
    spent = ledger.spent()
    if params.max_usd and spent.usd > params.max_usd:
        click.echo(
            f"teacher.max_usd={params.max_usd:g} was passed: the endpoint counted more tokens "
            f"than its answers may have, and {spent.usd:.4f} USD are spent on these requests. "
            "No further call was made after that; the ledger has what each one cost",
            err=True,
        )


def _total(counts: Sequence[N | None]) -> N | None:
    told = [count for count in counts if count is not None]
    return sum(told) if len(told) == len(counts) else None


def _line(custom_id: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        error = {"code": outcome.code, "message": outcome.message}
        return {"custom_id": custom_id, "response": None, "error": error}
    return {
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": outcome.key, "body": outcome.body},
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
    # What a call may cost hangs on these two.
    limit = body.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        return "body.max_tokens", "expected a whole number of at least 1"
    if body.get("n", 1) != 1:
        return "body.n", "one answer a request; drop it"
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

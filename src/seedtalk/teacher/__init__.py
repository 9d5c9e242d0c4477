"""The teacher: chat requests in, raw responses out, whoever answers."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

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
    ) -> Iterator[Outcome]:
        """Have all requests answered, then yield a chat completion, or why there is none, of each.

        What is yielded is read from the ledger, in the order of the requests, as it is taken.
        """
        ...


class Requests(Sequence[dict[str, Any]]):
    """The requests of a file in the OpenAI Batch format, each read when it is needed.

    A prompt has thousands of characters and a run tens of thousands of prompts: what is held is
    where each line begins. The file must stay as it is.

    Parameters
    ----------
    path
        The file; checked whole at once.

    Raises
    ------
    InputError
        When a line is no request, or an id is there twice; names file, row and field.
    """

    def __init__(self, path: Path) -> None:
        from seedtalk.records import read_json_lines

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
        if not rows:
            raise InputError(f"{path}: no request in it; run the prompt stage")
        self._file = path.open("rb")
        self._starts = array("q")
        self._last: tuple[int, dict[str, Any]] = (-1, {})
        start = 0
        for raw in self._file:
            if raw.removeprefix(b"\xef\xbb\xbf").strip():
                self._starts.append(start)
            start += len(raw)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        start = self._starts[place]
        if start != self._last[0]:  # id and body of a request are asked for one after the other
            self._file.seek(start)
            self._last = start, json.loads(self._file.readline().decode("utf-8-sig"))
        return self._last[1]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class _Bodies(Sequence[Mapping[str, Any]]):
    """The bodies of requests, each taken when it is needed."""

    def __init__(self, requests: Sequence[Mapping[str, Any]]) -> None:
        self._requests = requests

    def __len__(self) -> int:
        return len(self._requests)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        body: Mapping[str, Any] = self._requests[place]["body"]
        return body


def read_requests(path: Path) -> Requests:
    """Read and check a file of requests in the OpenAI Batch format; see `Requests`.

    Raises
    ------
    InputError
        When a line is no request, or an id is there twice; names file, row and field.
    """
    return Requests(path)


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
    """Have every request answered; as `stream`, with the lines in a list.

    Returns
    -------
    (responses, summary)
        The lines hold the answers themselves, not copies.
    """
    lines: list[dict[str, Any]] = []
    summary = stream(
        requests, params, seed=seed, cache_dir=cache_dir, write=lines.extend, trace=trace
    )
    return lines, summary


def stream(
    requests: Sequence[Mapping[str, Any]],
    params: Teacher,
    *,
    seed: int,
    cache_dir: Path,
    write: Callable[[Iterable[dict[str, Any]]], None],
    trace: Trace | None = None,
) -> dict[str, Any]:
    """Have every request answered, and write the answers one by one.

    Neither requests nor answers are held: of a request its key and where it lies are, and why
    it failed where it did.

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
    write
        Takes one result line of the Batch format for each request, in order: a request that
        failed for good has no response but an error; ``response.request_id`` is the key the
        answer has in the ledger. It must take them all.
    trace
        Told, once the calls are over and however they ended, of each request a call was made
        for, as the ledger has it.

    Returns
    -------
    dict
        Counts of the answers, and their tokens and US dollars, whenever they were paid; None
        where an endpoint did not count tokens or the price is unknown. Its ``spent`` counts
        every call that was made for these requests, by any run, and what all of them cost:
        attempts that failed, calls that got lost and repairs included.

    Raises
    ------
    InputError, RunError
        See the backends and `prices.price_of`. RunError also from the lines: when an answer has
        gone from the ledger since it was paid for, and, at the last of them, when not one
        request was answered.
    """
    bodies = _Bodies(requests)
    free = params.backend == "extractive"
    if not free:
        check_model(requests, params)
    price = Price(0.0, 0.0) if free else price_of(params, params.prices)
    tally = _Tally(price, params.backend == "batch")
    if free:
        calls, paid = 0, 0.0
        write(_lines(requests, _compose(bodies, seed), tally))
    else:
        from seedtalk.teacher.ledger import Ledger

        # Open until the last line is written: answers are read from it as they are needed.
        with Ledger(cache_dir / LEDGER, reading=params.backend == "replay") as ledger:
            outcomes = _answers(bodies, params, price, ledger, trace)
            spent = ledger.spent()
            calls, paid = spent.calls, spent.usd
            write(_lines(requests, outcomes, tally))
    return {
        "backend": params.backend,
        "model": bodies[0]["model"],
        "requests": len(requests),
        "answered": tally.answered,
        "failed": len(requests) - tally.answered,
        "repaired": tally.repaired,
        "tokens": {"input": tally.input, "output": tally.output},
        "usd": None if tally.usd is None else round(tally.usd, 6),
        "spent": {"calls": calls, "usd": None if price is None else round(paid, 6)},
    }


class _Tally:
    """What the answers add up to; a sum is None once one of its parts is unknown."""

    def __init__(self, price: Price | None, batch: bool) -> None:
        self._price, self._batch = price, batch
        self.answered = self.repaired = 0
        self.input: int | None = 0
        self.output: int | None = 0
        self.usd: float | None = 0.0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        usage = usage_of(answer.body)
        self.answered += 1
        self.repaired += answer.repaired
        self.input = _plus(self.input, usage.input)
        self.output = _plus(self.output, usage.output)
        self.usd = _plus(self.usd, budget.cost(self._price, usage, self._batch))


def _plus(total: N | None, part: N | None) -> N | None:
    return None if total is None or part is None else total + part


def _lines(
    requests: Sequence[Mapping[str, Any]], outcomes: Iterable[Outcome], tally: _Tally
) -> Iterator[dict[str, Any]]:
    last: Failure | None = None
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, Answer):
            tally.add(outcome)
        else:
            last = outcome
        yield _line(request["custom_id"], outcome)
    if last is not None and not tally.answered:
        raise RunError(
            f"not one of {len(requests)} requests was answered (the last: {last.code}: "
            f"{last.message})"
        )


def _compose(bodies: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Outcome]:
    from seedtalk.teacher import extractive
    from seedtalk.teacher.ledger import request_key

    for body in track(bodies, "composing", len(bodies)):
        yield Answer(extractive.answer(body, seed), request_key("extractive", str(seed), body))


def _answers(
    bodies: Sequence[Mapping[str, Any]],
    params: Teacher,
    price: Price | None,
    ledger: Ledger,
    trace: Trace | None,
) -> Iterator[Outcome]:
    """Have all requests answered; the run's are in the ledger's scope then."""
    if params.backend == "replay":
        from seedtalk.teacher import replay

        return replay.answer_all(bodies, params, ledger)
    with _traced(ledger, bodies, params, trace):
        outcomes = _paid(params).answer_all(bodies, params, ledger, prices=price)
    _warn_of_overrun(ledger, params)
    return outcomes


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

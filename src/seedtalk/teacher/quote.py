"""What requests would cost, before anything is paid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from seedtalk.params import Teacher
from seedtalk.teacher import budget, calls
from seedtalk.teacher.answers import Answer, Usage, usage_of
from seedtalk.teacher.ledger import Spent, endpoint_of
from seedtalk.teacher.openai import DEFAULT_URL, Standing, keys_of, standing
from seedtalk.teacher.prices import Price

if TYPE_CHECKING:
    from seedtalk.teacher.ledger import Ledger


@dataclass(frozen=True)
class Range:
    """A number before it is known; `least` None where there is no bound."""

    least: float | None
    about: float
    most: float

    def __add__(self, other: Range) -> Range:
        least = None if self.least is None or other.least is None else self.least + other.least
        return Range(least, self.about + other.about, self.most + other.most)

    def __mul__(self, times: float) -> Range:
        least = None if self.least is None else self.least * times
        return Range(least, self.about * times, self.most * times)


@dataclass(frozen=True)
class Quote:
    """What a number of requests would cost, apart from retries and from repairs yet unforeseen.

    Parameters
    ----------
    requests
        Distinct ones.
    known, failed
        Answered in the ledger already, and without an answer for good.
    saved
        US dollars that the known ones would cost at today's price; None where it is unknown.
    under_way
        Requests and repairs that an open batch is asking already: paid for as they come.
    ask
        Calls to make, the repairs of known answers included.
    input_tokens, output_tokens
        Of those calls.
    usd, batch_usd
        Of those calls, one by one and through the Batch API; None where the price is unknown.
    spent
        What these requests and their repairs have cost so far, failed attempts and calls under
        way included; it counts against the caps.
    """

    requests: int
    known: int
    failed: int
    saved: float | None
    under_way: int
    ask: int
    input_tokens: Range
    output_tokens: Range
    usd: Range | None
    batch_usd: Range | None
    spent: Spent


@dataclass(frozen=True)
class Basis:
    """Where the estimates come from."""

    bytes_a_token: float
    measured_input: int  # known answers the ratio is of; 0 where it is a rule of thumb
    output_tokens: float | None  # of an answer; None where none is known
    measured_output: int  # known answers it is the mean of; 0 where it was given


class _Size(NamedTuple):
    """Of a call: tokens it reads at least, bytes it reads, and tokens it reads and writes at most.

    See `budget`.
    """

    least: int
    bytes: int
    most: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Case:
    """What the quote needs of a request: neither its text nor its answer's.

    Parameters
    ----------
    size
        Of the request.
    usage
        Of its answer; None where there is none.
    failed
        Whether it has no answer for good.
    repair
        Key of its repair, where one is due or was made.
    due
        Key and size of the call to make: its own or its repair's.
    """

    size: _Size
    usage: Usage | None = None
    failed: bool = False
    repair: str | None = None
    due: tuple[str, _Size] | None = None


def quote(
    bodies: Sequence[Mapping[str, Any]],
    params: Teacher,
    price: Price | None,
    ledger: Ledger | None,
    seeds: Iterable[int] = (),
    answer_tokens: float | None = None,
) -> tuple[list[Quote], Basis]:
    """Price requests for each of several numbers of seeds.

    Parameters
    ----------
    bodies
        Bodies of chat requests, in the order of their seeds.
    params
        Model and endpoint.
    price
        None where it is unknown.
    ledger
        What is known already; None where there is none yet.
    seeds
        Numbers to price: up to the number of requests the first so many, over it as many more
        as large as these are on average. Empty prices the requests as they are.
    answer_tokens
        Mean of the answers to come, where it is known better than from the ledger.

    Returns
    -------
    (quotes, basis)
        One quote for each number.
    """
    cases: dict[str, _Case] = {}
    for key, body in zip(keys_of(bodies, params), bodies, strict=True):
        if key not in cases:
            cases[key] = _case(key, body, params, ledger)
    basis = _basis(list(cases.values()), params, ledger)
    if answer_tokens is not None:
        basis = replace(basis, output_tokens=answer_tokens, measured_output=0)
    endpoint = endpoint_of(params.base_url or DEFAULT_URL)
    open_batches = ledger.open_batches(endpoint) if ledger else []
    batched = {key for batch in open_batches for _, key, _ in batch.lines}
    quotes = []
    for count in seeds or [len(bodies)]:
        part = dict(islice(cases.items(), count))
        here = part.values()
        known = [case.usage for case in here if case.usage is not None]
        due = dict(case.due for case in here if case.due is not None)
        missing = [size for key, size in due.items() if key not in batched]
        read, written = _tokens(missing, basis)
        more = max(0, count - len(bodies))
        if more:
            like = _tokens([case.size for case in cases.values()], basis)
            read += like[0] * (more / len(cases))
            written += like[1] * (more / len(cases))
        if ledger:
            ledger.scope([*part, *(case.repair for case in here if case.repair)])
        saved = [budget.cost(price, usage) for usage in known]
        quotes.append(
            Quote(
                requests=len(part) + more,
                known=len(known),
                failed=sum(case.failed for case in here),
                saved=None if price is None else sum(usd for usd in saved if usd is not None),
                under_way=len(due) - len(missing),
                ask=len(missing) + more,
                input_tokens=read,
                output_tokens=written,
                usd=_usd(price, read, written, 1.0),
                batch_usd=_usd(price, read, written, price.batch_factor if price else 1.0),
                spent=ledger.spent() if ledger else Spent(0, 0.0),
            )
        )
    return quotes, basis


def verdicts(quote: Quote, params: Teacher) -> list[str]:
    """Say whether the caps would stop the run."""
    said = []
    if params.max_calls:
        left = max(0, params.max_calls - quote.spent.calls)
        told = f"teacher.max_calls={params.max_calls} ({quote.spent.calls} made)"
        said.append(
            f"{told} is enough, {left - quote.ask:,} left for retries and repairs"
            if quote.ask <= left
            else f"{told} would stop the run after {left:,} of {quote.ask:,} calls"
        )
    if params.max_usd:
        told = f"teacher.max_usd={params.max_usd:g} ({quote.spent.usd:.4f} spent)"
        room = params.max_usd - quote.spent.usd + 1e-9  # what fits to the last bit fits
        if quote.usd is None:
            said.append(f"{told} cannot be kept without a price: the generate stage refuses to run")
        else:
            due = quote.batch_usd if params.backend == "batch" and quote.batch_usd else quote.usd
            if due.most <= room:
                said.append(f"{told} is enough, whatever the answers' length")
            elif due.about <= room:
                said.append(f"{told} should be enough; the most these calls can cost is more")
            else:
                part = math.floor(quote.ask * max(0.0, room) / due.about)
                said.append(
                    f"{told} would stop the run after about {part:,} of {quote.ask:,} calls"
                )
    return said or ["no cap is set: teacher.max_usd and teacher.max_calls are 0"]


def _case(key: str, body: Mapping[str, Any], params: Teacher, ledger: Ledger | None) -> _Case:
    size = _size(body)
    stands = standing(key, body, params, ledger) if ledger else Standing(None)
    repair, due = None, None
    if stands.outcome is None:
        due = key, size
    if stands.repair is not None:
        repair, told = stands.repair
        if not stands.repaired:
            due = repair, _size(told)
    if isinstance(stands.outcome, Answer):
        return _Case(size, usage_of(stands.outcome.body), False, repair, due)
    return _Case(size, None, stands.outcome is not None, repair, due)


def _size(body: Mapping[str, Any]) -> _Size:
    return _Size(
        budget.least_input(body),
        budget.request_bytes(body),
        budget.most_input(body),
        body["max_tokens"],
    )


def _basis(cases: Sequence[_Case], params: Teacher, ledger: Ledger | None) -> Basis:
    """Learn from answers to these requests; of the output, else from any by the same model."""
    usages = [case.usage for case in cases if case.usage is not None]
    read = [
        (case.size.bytes, case.usage.input)
        for case in cases
        # A repair's input is longer than its request's.
        if case.usage is not None and case.usage.input and case.repair is None
    ]
    written = [usage.output for usage in usages if usage.output is not None]
    ratio = float(budget.BYTES_A_TOKEN)
    if read:
        ratio = sum(length for length, _ in read) / sum(tokens for _, tokens in read)
    if written:
        return Basis(ratio, len(read), sum(written) / len(written), len(written))
    endpoint = endpoint_of(params.base_url or DEFAULT_URL)
    mean, count = calls.mean_output(ledger, endpoint, params.model) if ledger else (None, 0)
    return Basis(ratio, len(read), mean, count)


def _tokens(sizes: Sequence[_Size], basis: Basis) -> tuple[Range, Range]:
    """Return the input and output tokens of calls."""
    mean = math.inf if basis.output_tokens is None else basis.output_tokens
    return (
        Range(
            sum(size.least for size in sizes),
            sum(size.bytes for size in sizes) / basis.bytes_a_token,
            sum(size.most for size in sizes),
        ),
        Range(None, sum(min(mean, size.limit) for size in sizes), sum(s.limit for s in sizes)),
    )


def _usd(price: Price | None, read: Range, written: Range, factor: float) -> Range | None:
    if price is None:
        return None

    def dollars(inputs: float, outputs: float) -> float:
        return (inputs * price.input + outputs * price.output) * factor / 1e6

    return Range(None, dollars(read.about, written.about), dollars(read.most, written.most))

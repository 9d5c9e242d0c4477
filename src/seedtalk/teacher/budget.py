"""What a call may cost, what it did cost, and the caps over both."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from seedtalk.errors import RunError
from seedtalk.params import Teacher
from seedtalk.teacher.answers import Usage
from seedtalk.teacher.prices import Price

if TYPE_CHECKING:
    from seedtalk.teacher.ledger import Ledger, Spent, Writer

MESSAGE_TOKENS = 16  # role and separators of a message, whatever the chat template
BYTES_A_TOKEN = 4  # of English, under the tokenizers of common models


class CapReachedError(RunError):
    """The next call would pass `teacher.max_usd` or `teacher.max_calls`."""


def cost(price: Price | None, usage: Usage, batch: bool = False) -> float | None:
    """Return the US dollars of a completion, rounded up to a billionth.

    Parameters
    ----------
    price
        None where it is unknown.
    usage
        As the endpoint counted.
    batch
        Whether it was bought through the Batch API, which has a lower price but, here, none
        for cached input: vendors differ in whether both apply.

    Returns
    -------
    float or None
        None where price or tokens are unknown.
    """
    if price is None or usage.input is None or usage.output is None:
        return None
    cached = min(usage.cached, usage.input)
    if batch or price.cached_input is None:
        cached = 0
    # In decimals, and up: what many calls add up to is then never less than what is billed.
    micro = (
        (usage.input - cached) * _decimal(price.input)
        + cached * _decimal(price.cached_input or 0.0)
        + usage.output * _decimal(price.output)
    ) * _decimal(price.batch_factor if batch else 1.0)
    return math.ceil(micro * 1000) / 1e9


def most(price: Price | None, body: Mapping[str, Any], batch: bool = False) -> float:
    """Return what a call may cost at most, in US dollars; 0 where the price is unknown."""
    bound = Usage(most_input(body), body["max_tokens"])
    if price is not None and (price.cached_input or 0.0) > price.input:
        bound = Usage(bound.input, bound.output, cached=bound.input or 0)
    return cost(price, bound, batch) or 0.0


def most_input(body: Mapping[str, Any]) -> int:
    """Return how many tokens a request has at most.

    Byte-level tokenizers never make more tokens than bytes. Whatever stands beside the messages
    (a schema of the answer) may be put before the model too.
    """
    told = sum(_bytes(m["content"]) + MESSAGE_TOKENS for m in body["messages"])
    return told + _beside(body)


def least_input(body: Mapping[str, Any]) -> int:
    """Return how many tokens a request has at least: tokenizers break between words."""
    return sum(len(m["content"].split()) for m in body["messages"])


def request_bytes(body: Mapping[str, Any]) -> int:
    """Return the bytes of what a model reads, a quarter of which makes a token as a rule."""
    return sum(_bytes(m["content"]) for m in body["messages"]) + _beside(body)


class Budget:
    """The caps of a run, shared by its calls.

    Parameters
    ----------
    ledger
        Where attempts are counted, with the run's requests in scope.
    writer
        Of that ledger: a reservation is durable before the call is sent.
    params
        Holds the caps.
    price
        Of the model's tokens; None where it is unknown.
    endpoint
        What the ledger calls the endpoint.
    """

    def __init__(
        self, ledger: Ledger, writer: Writer, params: Teacher, price: Price | None, endpoint: str
    ) -> None:
        self._ledger = ledger
        self._writer = writer
        self._params = params
        self._price = price
        self._endpoint = endpoint
        self._open = 0  # calls reserved, or being reserved, and not released
        self._change = asyncio.Event()  # set, and replaced, where there may be room again
        self._reached: CapReachedError | None = None

    async def reserve(self, key: str, body: Mapping[str, Any]) -> int:
        """Record a call that is about to be sent; returns its row in the ledger.

        Where a cap stands in the way, waits for calls in flight, which mostly cost less than
        was reserved for them.

        Raises
        ------
        CapReachedError
            When nothing is in flight and the call still does not fit, and for every call after
            that: the run is at its end.
        """
        usd = most(self._price, body)
        while self._reached is None:
            change = self._change
            self._open += 1  # before the writer is asked: others may be refused meanwhile
            try:
                row = await self._writer.reserve(
                    key,
                    self._endpoint,
                    body["model"],
                    usd,
                    body=body,
                    max_calls=self._params.max_calls,
                    max_usd=self._params.max_usd,
                )
            except BaseException:
                await self.release()
                raise
            if row is not None:
                return row
            self._open -= 1
            spent = self._ledger.spent()
            calls_gone = 0 < self._params.max_calls <= spent.calls
            if calls_gone or (self._open == 0 and not change.is_set()):
                self._reached = self._verdict(spent, calls_gone, usd)
                self._wake()
            else:
                await change.wait()
        raise self._reached

    async def release(self) -> None:
        """Say that a reserved call is settled in the ledger."""
        self._open -= 1
        self._wake()

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def _verdict(self, spent: Spent, calls_gone: bool, usd: float) -> CapReachedError:
        told = (
            f"{spent.calls} calls, {spent.usd:.4f} USD spent or reserved on these requests so far"
        )
        if calls_gone:
            return CapReachedError(f"teacher.max_calls={self._params.max_calls} reached: {told}")
        return CapReachedError(
            f"teacher.max_usd={self._params.max_usd:g} reached: {told}, and the next call may "
            f"cost {usd:.4f}"
        )


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _beside(body: Mapping[str, Any]) -> int:
    """Return the bytes of what a model may be told apart from the messages."""
    told = {name: body[name] for name in ("response_format", "tools") if name in body}
    return _bytes(json.dumps(told, ensure_ascii=False)) if told else 0


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))

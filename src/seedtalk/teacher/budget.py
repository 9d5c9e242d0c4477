"""What a call may cost, what it did cost, and the caps over both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from seedtalk.errors import InputError, RunError
from seedtalk.params import Teacher
from seedtalk.teacher.answers import Usage
from seedtalk.teacher.ledger import Ledger

MESSAGE_TOKENS = 16  # role and separators of a message, whatever the chat template


class CapReachedError(RunError):
    """The next call would pass `teacher.max_usd` or `teacher.max_calls`."""


def priced(params: Teacher) -> bool:
    """Tell whether both prices are known.

    Raises
    ------
    InputError
        When only one is known, or a cap in dollars is set and none is.
    """
    known = [params.usd_per_million_input >= 0, params.usd_per_million_output >= 0]
    if any(known) and not all(known):
        raise InputError(
            "teacher.usd_per_million_input and teacher.usd_per_million_output: set both or neither"
        )
    if params.max_usd and not all(known):
        raise InputError(
            f"teacher.max_usd: a cap is set but the price of '{params.model}' is unknown; set "
            "teacher.usd_per_million_input and teacher.usd_per_million_output"
        )
    return all(known)


def cost(params: Teacher, usage: Usage) -> float | None:
    """Return the US dollars of a completion; None where price or tokens are unknown."""
    if not priced(params) or usage.input is None or usage.output is None:
        return None
    return (
        usage.input * params.usd_per_million_input + usage.output * params.usd_per_million_output
    ) / 1e6


def most(params: Teacher, body: Mapping[str, Any]) -> float:
    """Return what a call may cost at most, in US dollars; 0 where the price is unknown.

    Byte-level tokenizers never make more tokens than bytes, and the answer ends at max_tokens.
    """
    messages = body["messages"]
    tokens = sum(len(m["content"].encode("utf-8", "replace")) + MESSAGE_TOKENS for m in messages)
    return cost(params, Usage(tokens, body["max_tokens"])) or 0.0


class Budget:
    """The caps of a run, shared by its calls.

    Parameters
    ----------
    ledger
        Where attempts are counted, with the run's requests in scope.
    params
        Holds the caps and prices.
    endpoint
        What the ledger calls the endpoint.
    """

    def __init__(self, ledger: Ledger, params: Teacher, endpoint: str) -> None:
        self._ledger = ledger
        self._params = params
        self._endpoint = endpoint
        self._open = 0
        self._settled = asyncio.Condition()

    async def reserve(self, key: str, body: Mapping[str, Any]) -> int:
        """Record a call that is about to be sent; returns its row in the ledger.

        Where a cap stands in the way, waits for calls in flight, which mostly cost less than
        was reserved for them.

        Raises
        ------
        CapReachedError
            When nothing is in flight and the call still does not fit.
        """
        usd = most(self._params, body)
        async with self._settled:
            while True:
                row = self._ledger.reserve(
                    key,
                    self._endpoint,
                    body["model"],
                    usd,
                    max_calls=self._params.max_calls,
                    max_usd=self._params.max_usd,
                )
                if row is not None:
                    self._open += 1
                    return row
                spent = self._ledger.spent()
                calls_gone = 0 < self._params.max_calls <= spent.calls
                if calls_gone or self._open == 0:
                    limit = (
                        f"teacher.max_calls={self._params.max_calls}"
                        if calls_gone
                        else f"teacher.max_usd={self._params.max_usd:g}"
                    )
                    raise CapReachedError(
                        f"{limit} reached: {spent.calls} calls, {spent.usd:.4f} USD spent or "
                        "reserved on these requests so far"
                    )
                await self._settled.wait()

    async def release(self) -> None:
        """Say that a reserved call is settled in the ledger."""
        async with self._settled:
            self._open -= 1
            self._settled.notify_all()

"""Any endpoint that speaks OpenAI's chat completions: called, retried, paid for once.

Every attempt is reserved in the ledger before it is sent and recorded before it is parsed. The
SDK's own retries are off, so that none escapes the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from seedtalk.errors import InputError, RunError
from seedtalk.params import Teacher
from seedtalk.progress import Bar, bar
from seedtalk.teacher import budget
from seedtalk.teacher.answers import BadAnswerError, Failure, Outcome, completion, usage_in
from seedtalk.teacher.ledger import Ledger, endpoint_of, request_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NAME = "openai"
DEFAULT_URL = "https://api.openai.com/v1"
FIRST_WAIT = 0.5  # seconds; doubles with every attempt
LONGEST_WAIT = 30.0
LONGEST_RETRY_AFTER = 120.0  # an endpoint that asks for an hour is asked again sooner

IN_PASSING = frozenset({408, 409, 425, 429})
ACCOUNT = frozenset({401, 402, 403, 404, 407})  # as wrong for the next request as for this one
QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "account_deactivated"})

POLL = 0.05  # seconds between looks at a request that another run is asking
# A word of an answer may equal a short placeholder such as "local"; a real key is longer.
SECRET_IN_ANSWER, SECRET_IN_ERROR = 16, 8

_KEY = re.compile(r"\b(?:sk|key|pk)-[A-Za-z0-9_-]{8,}")


class CallError(Exception):
    """One attempt that brought no response to keep.

    Parameters
    ----------
    kind
        ``passing`` (try again), ``permanent`` (this request is refused) or ``account`` (so
        will be every other).
    code, message
        What is recorded.
    retry_after
        Seconds the endpoint asks to wait, or None.
    billed
        Whether the call may have been paid for all the same (it got lost after it was sent).
    """

    def __init__(
        self,
        kind: Literal["passing", "permanent", "account"],
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.kind, self.code, self.message = kind, code, message
        self.retry_after, self.billed = retry_after, billed


def keys_of(bodies: Sequence[Mapping[str, Any]], params: Teacher) -> list[str]:
    """Return the ledger's key of every request."""
    endpoint = endpoint_of(params.base_url or DEFAULT_URL)
    return [request_key(NAME, endpoint, body) for body in bodies]


def known(keys: Sequence[str], ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the answers the ledger holds, by key."""
    found = ((key, _judged(key, ledger)[0]) for key in dict.fromkeys(keys))
    return {key: answer for key, answer in found if answer is not None}


def _judged(key: str, ledger: Ledger) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the answer the ledger holds, or None and why each response held none."""
    faults = []
    for raw in ledger.received(key):
        try:
            return completion(raw), []
        except BadAnswerError as error:
            faults.append(str(error))
    return None, faults


def answer_all(
    bodies: Sequence[Mapping[str, Any]], params: Teacher, ledger: Ledger
) -> list[Outcome]:
    """Answer every request, from the ledger where it can, else by a call.

    Parameters
    ----------
    bodies
        Bodies of chat requests; equal ones share a call.
    params
        Endpoint, caps, concurrency, attempts, timeout (seconds).
    ledger
        Kept open by the caller.

    Returns
    -------
    list
        A chat completion for each request, or the `Failure` it ended in for good: refused by
        the endpoint, or answered without text at every attempt, those of earlier runs included.

    Raises
    ------
    InputError
        When no key is set for the default endpoint, or a price is unknown under a cap.
    RunError
        When the account is refused, a cap is reached, the run is interrupted, or the endpoint
        could not be reached for some requests. What was answered is kept.
    """
    keys = keys_of(bodies, params)
    ledger.scope(keys)
    answers: dict[str, Outcome] = {**known(keys, ledger)}
    missing = {k: b for k, b in zip(keys, bodies, strict=True) if k not in answers}
    budget.priced(params)
    if missing:
        with bar("asking the teacher", len(missing)) as shown:
            run = _Run(missing, params, ledger, shown)
            asyncio.run(run.all())
        answers |= run.outcomes
        if run.stopped:
            left = len(missing) - sum(isinstance(o, dict) for o in run.outcomes.values())
            raise RunError(
                f"{run.stopped}; {left} of {len(bodies)} requests have no answer. {KEPT}"
            )
        if run.lost:
            last = next(reversed(run.lost.values()))
            raise RunError(
                f"{len(run.lost)} of {len(bodies)} requests got no answer in {params.attempts} "
                f"attempts (the last: {last}). {KEPT}"
            )
    return [answers[key] for key in keys]


KEPT = "What was answered is kept and will not be paid for again: run the stage again to go on"


class _Run:
    """The calls of one run: what is left to ask, and whether to go on."""

    def __init__(
        self, missing: dict[str, Mapping[str, Any]], params: Teacher, ledger: Ledger, shown: Bar
    ) -> None:
        self.params, self.ledger, self.shown = params, ledger, shown
        self.outcomes: dict[str, Outcome] = {}
        self.lost: dict[str, CallError] = {}
        self.stopped: str | None = None
        self._queue: Iterator[tuple[str, Mapping[str, Any]]] = iter(missing.items())
        self._workers = min(params.concurrency, len(missing))
        self._secret = os.environ.get("OPENAI_API_KEY", "").strip()
        endpoint = endpoint_of(params.base_url or DEFAULT_URL)
        self._budget = budget.Budget(ledger, params, endpoint)
        if not self._secret and not params.base_url:
            raise InputError(
                "OPENAI_API_KEY is not set; export it, or set teacher.base_url to an endpoint "
                "that needs none"
            )

    async def all(self) -> None:
        from openai import AsyncOpenAI

        self._halt = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Elsewhere than in the main thread nobody can press Ctrl-C.
            with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
                loop.add_signal_handler(number, self._interrupt, loop, number)
        async with AsyncOpenAI(
            api_key=self._secret or "none-needed",
            base_url=self.params.base_url or DEFAULT_URL,
            timeout=self.params.timeout,
            max_retries=0,
        ) as client:
            await asyncio.gather(*(self._work(client) for _ in range(self._workers)))

    def _interrupt(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Drain: no new call, those in flight are awaited; a second signal ends at once."""
        loop.remove_signal_handler(number)
        self._stop("interrupted")

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._halt.set()

    async def _work(self, client: AsyncOpenAI) -> None:
        for key, body in self._queue:
            if self._halt.is_set():
                return
            try:
                await self._ask(client, key, body)
            except RunError as error:  # a cap, or a ledger that cannot be written
                self._stop(error.message)
            except CallError as error:
                self._stop(str(error))
            self.shown.advance()

    async def _ask(self, client: AsyncOpenAI, key: str, body: Mapping[str, Any]) -> None:
        while not self._halt.is_set():
            with self.ledger.claim(key) as mine:
                if mine:
                    await self._ask_alone(client, key, body)
                    return
            await asyncio.sleep(POLL)

    async def _ask_alone(self, client: AsyncOpenAI, key: str, body: Mapping[str, Any]) -> None:
        # Another run may have asked since this one began.
        answer, faults = _judged(key, self.ledger)
        if answer is not None:
            self.outcomes[key] = answer
            return
        # Responses without text were paid for: they count, whichever run asked.
        last: Failure | CallError | None = Failure("no_answer", faults[0]) if faults else None
        for attempt in range(self.params.attempts - len(faults)):
            if attempt:
                after = last.retry_after if isinstance(last, CallError) else None
                await self._wait(attempt, after)
            if self._halt.is_set():
                return
            row = await self._budget.reserve(key, body)
            try:
                self.outcomes[key] = await self._attempt(client, row, body)
            except BadAnswerError as error:
                last = Failure("no_answer", str(error))
            except CallError as error:
                last = error
                if error.kind == "permanent":
                    last = Failure(error.code, error.message)
                    break
                if error.kind == "account":
                    raise
            else:
                return
            finally:
                await self._budget.release()
        if isinstance(last, Failure):
            self.outcomes[key] = last
        elif last is not None:
            self.lost[key] = last

    async def _attempt(
        self, client: AsyncOpenAI, row: int, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Send one call; record it, then read it."""
        try:
            raw = self._scrub(await _send(client, body, self.params.timeout), SECRET_IN_ANSWER)
        except CallError as error:
            error.message = self._scrub(error.message, SECRET_IN_ERROR)
            self.ledger.fail(row, f"{error.code}: {error.message}", None if error.billed else 0.0)
            raise
        self.ledger.receive(row, raw)
        usd = budget.cost(self.params, usage_in(raw))
        if usd is not None:
            self.ledger.price(row, usd)
        return completion(raw)

    async def _wait(self, attempt: int, retry_after: float | None) -> None:
        """Wait before another attempt, shorter when the run is being stopped."""
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1))
        # Jitter keeps calls that failed together from coming back together.
        seconds = longest * random.uniform(0.5, 1.0)
        if retry_after is not None:
            seconds = min(retry_after, LONGEST_RETRY_AFTER) + seconds * 0.1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halt.wait(), seconds)

    def _scrub(self, text: str, shortest: int) -> str:
        """Take the key, if it is that long, out of what an endpoint or proxy echoes."""
        return text.replace(self._secret, "***") if len(self._secret) >= shortest else text


async def _send(client: AsyncOpenAI, body: Mapping[str, Any], timeout: float) -> str:
    """Return the raw text of a response with status 200.

    Raises
    ------
    CallError
        For anything else.
    """
    import openai

    try:
        # The SDK's limit is per read: an endpoint that drips would hold a call for ever.
        async with asyncio.timeout(timeout):
            response = await client.chat.completions.with_raw_response.create(
                model=body["model"],
                messages=body["messages"],
                extra_body={k: v for k, v in body.items() if k not in {"model", "messages"}},
            )
            return str(response.http_response.text)
    except (TimeoutError, openai.APITimeoutError) as error:
        raise CallError("passing", "timeout", f"no answer in {timeout:g} s", billed=True) from error
    except openai.APIStatusError as error:
        raise _refused(error) from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {cause}"
        raise CallError("passing", "connection", _short(text), billed=True) from error


def _refused(error: Any) -> CallError:
    """Tell what a status other than 200 means for this request and the others."""
    status = int(error.status_code)
    code = str(error.code or status)
    message = _short(f"HTTP {status}: {error.message}")
    if status in ACCOUNT or code in QUOTA or error.type in QUOTA:
        return CallError("account", code, message)
    if status in IN_PASSING or status >= 500:
        wait = retry_after(error.response.headers)
        return CallError("passing", code, message, retry_after=wait)
    return CallError("permanent", code, message)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds an endpoint asks to wait; None where it does not say.

    Parameters
    ----------
    headers
        ``retry-after-ms``, or ``retry-after`` in seconds or as an HTTP date.
    now
        Unix time; the clock's where not given.
    """
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    told = headers.get("retry-after")
    if told is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(told)
        return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(told).timestamp() - (now or time.time()))
    return None


def _short(text: str) -> str:
    plain = _KEY.sub("***", " ".join(text.split()))
    return plain if len(plain) <= 300 else plain[:299] + "…"

"""Any endpoint that speaks OpenAI's chat completions: called, retried, paid for once.

Every attempt is reserved in the ledger before it is sent and recorded before it is parsed. The
SDK's own retries are off, so that none escapes the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import os
import re
import signal
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urljoin

from seedtalk.errors import InputError, RunError
from seedtalk.params import Teacher
from seedtalk.progress import Bar, bar
from seedtalk.teacher import budget
from seedtalk.teacher.answers import (
    FINAL,
    Answer,
    BadAnswerError,
    Failure,
    Outcome,
    completion,
    content_of,
    has_form,
    repair_of,
    usage_in,
)
from seedtalk.teacher.ledger import Ledger, endpoint_of, request_key
from seedtalk.teacher.limiter import Limiter, StoppedError, Ticket, retry_after
from seedtalk.texts import visible

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from seedtalk.teacher.prices import Price

NAME = "openai"
DEFAULT_URL = "https://api.openai.com/v1"

IN_PASSING = frozenset({408, 409, 425, 429})
BUSY = frozenset({429, 503, 529})
ACCOUNT = frozenset({401, 402, 403, 404, 405, 407, 410})  # as wrong for the next as for this one
QUOTA = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "account_deactivated",
        "access_terminated",
        "exceeded_current_quota_error",
    }
)
POLICY = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
TIMEOUT, REDIRECT = "timeout", "redirect"  # codes of a `CallError`
KEPT = "What was answered is kept and will not be paid for again: run the stage again to go on"

PUSH_BACKS = 5  # times `attempts`: a busy endpoint has not tried the request
CHARACTERS_A_TOKEN = 4  # about, to keep to a budget a minute until the endpoint has counted
POLL = 0.05  # seconds between looks at a request that another run is asking
MOST_BYTES = 16 << 20  # of a response; the longest answers have a hundredth of it
MOST_PACKED = 64 << 10  # of a compressed one, which nobody asked for: it may swell a thousandfold
KEEP_ALIVE = 4.0  # seconds; many servers hang up on an idle connection after 5
# A word of an answer may equal a short placeholder such as "local"; a real key is longer.
SECRET_IN_ANSWER, SECRET_IN_ERROR = 16, 8

_KEY = re.compile(r"\b(?:sk|key|pk)-[A-Za-z0-9_-]{8,}")
_NO_MONEY = re.compile(
    r"credit balance is too low|insufficient (?:funds|credits?|balance)"
    r"|billing (?:hard )?limit|account (?:is |has been )?(?:deactivated|suspended)",
    re.IGNORECASE,
)
# What endpoints say of a request that is at fault itself; the next one may be fine.
_OF_ITS_OWN = re.compile(
    r"context.?(?:length|size|window)|maximum context|too (?:long|large|many tokens)"
    r"|content.?(?:filter|management|policy)|moderation|safety",
    re.IGNORECASE,
)
_FORMAT = re.compile(
    r"response_format|json_schema|json_object|json mode|structured output|grammar", re.IGNORECASE
)


class CallError(Exception):
    """One attempt that brought no response to keep.

    Parameters
    ----------
    kind
        ``passing`` (try again), ``busy`` (the same, and with fewer calls at a time),
        ``permanent`` (this request is refused) or ``account`` (so will be every other).
    code, message
        What is recorded.
    retry_after
        Seconds the endpoint asks to wait, or None.
    billed
        Whether the call may have been paid for all the same (it got lost after it was sent).
    """

    def __init__(
        self,
        kind: Literal["passing", "busy", "permanent", "account"],
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.kind, self.code, self.message = kind, code, message
        self.retry_after, self.billed = retry_after, billed

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def recorded(self, *, again: bool = False) -> str:
        """Return what the ledger is told, see `Ledger.fail`.

        Parameters
        ----------
        again
            Whether another wording of the request is worth a call, whatever the kind.
        """
        return f"{'passing' if again else self.kind}: {self}"


def endpoint_url(params: Teacher) -> str:
    """Return the address to call.

    Raises
    ------
    InputError
        When it is none to call, see `transport.check_address`.
    """
    from seedtalk.teacher.transport import check_address

    url = params.base_url or DEFAULT_URL
    check_address(url)
    return url


def secret() -> str:
    """Return the key from the environment, or "".

    Raises
    ------
    InputError
        When it holds what no header can.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            "OPENAI_API_KEY: holds a character that no key has (a line break, a dash from a word "
            "processor?); export it anew"
        )
    return key


def keys_of(bodies: Sequence[Mapping[str, Any]], params: Teacher) -> list[str]:
    """Return the ledger's key of every request."""
    endpoint = endpoint_of(params.base_url or DEFAULT_URL)
    return [request_key(NAME, endpoint, body) for body in bodies]


def judged(key: str, ledger: Ledger) -> tuple[dict[str, Any] | None, list[Failure]]:
    """Return the answer the ledger holds, or None and why each response held none."""
    faults = []
    for raw in ledger.received(key):
        try:
            return completion(raw), []
        except BadAnswerError as error:
            code = error.reason if error.reason in FINAL else "no_answer"
            faults.append(Failure(code, str(error)))
    return None, faults


def known(keys: Sequence[str], ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the answers the ledger holds, by key; repairs have keys of their own."""
    found = ((key, judged(key, ledger)[0]) for key in dict.fromkeys(keys))
    return {key: answer for key, answer in found if answer is not None}


@dataclass(frozen=True)
class Standing:
    """Where a request stands, by what the ledger holds alone.

    Parameters
    ----------
    outcome
        None where it must be asked.
    faults
        Responses without text, which were paid for: they count, whichever run asked.
    repair
        Key and body of its repair, where one is due or was made.
    repaired
        Whether that was answered, well or not, or refused for good.
    """

    outcome: Outcome | None
    faults: int = 0
    repair: tuple[str, dict[str, Any]] | None = None
    repaired: bool = False


def standing(key: str, body: Mapping[str, Any], params: Teacher, ledger: Ledger) -> Standing:
    """Return where a request stands: equal ledgers and parameters, equal outcomes."""
    answer, faults = judged(key, ledger)
    if answer is None:
        final = next((fault for fault in faults if fault.code in FINAL), None)
        if final is None and (refused := ledger.refusal(key)) is not None:
            code, _, message = refused.partition(": ")
            final = Failure(code, message)
        if final is None and len(faults) >= params.attempts:
            final = faults[0]
        return Standing(final, len(faults))
    first = Answer(answer, key)
    again = repair_of(body, content_of(answer) or "") if params.repair else None
    if again is None:
        return Standing(first)
    repair = (request_key(NAME, endpoint_of(params.base_url or DEFAULT_URL), again), again)
    better, no_better = judged(repair[0], ledger)
    if better is not None and has_form(content_of(better) or ""):
        return Standing(Answer(better, repair[0], repaired=True), 0, repair, True)
    over = better is not None or bool(no_better) or ledger.refusal(repair[0]) is not None
    return Standing(first, 0, repair, over)


def places_of(keys: Sequence[str]) -> dict[str, int]:
    """Return where each key is first, in that order: equal requests share a call."""
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, place)
    return places


def reread(
    bodies: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    failures: Mapping[str, Failure],
    params: Teacher,
    ledger: Ledger,
) -> Iterator[Outcome]:
    """Yield the outcomes of a run whose calls are over, in the order of its requests.

    No more than one answer is held: each is read from the ledger when it is asked for.

    Parameters
    ----------
    bodies, keys
        Of the requests; the keys as `keys_of` returns them.
    failures
        By key, the requests that have no answer for good. They stay failed, whatever the ledger
        says by now.
    params
        As those of the run.
    ledger
        Kept open by the caller.

    Raises
    ------
    RunError
        When an answer is not there any more: another process has deleted or damaged it.
    """
    for key, body in zip(keys, bodies, strict=True):
        if (failure := failures.get(key)) is not None:
            yield failure
            continue
        outcome = standing(key, body, params, ledger).outcome
        if not isinstance(outcome, Answer):
            raise gone(ledger, key)
        yield outcome
    ledger.check_unwritten()


def gone(ledger: Ledger, key: str) -> RunError:
    """Return what to tell of an answer that was in the ledger a moment ago."""
    return RunError(
        f"{ledger.path}: the answer to request {key} has gone since this run began: another "
        "process has deleted it (`seedtalk ledger gc`) or damaged the file. Nothing was written; "
        "run the stage again, which asks what is missing"
    )


def answer_all(
    bodies: Sequence[Mapping[str, Any]],
    params: Teacher,
    ledger: Ledger,
    *,
    prices: Price | None,
) -> Iterator[Outcome]:
    """Answer every request, from the ledger where it can, else by a call.

    Parameters
    ----------
    bodies
        Bodies of chat requests, each read when it is needed; equal ones share a call.
    params
        Endpoint, caps, concurrency, limits, attempts, repair, timeout (seconds).
    ledger
        Kept open by the caller, until the last outcome is taken.
    prices
        Of the model; None where unknown.

    Returns
    -------
    iterator
        For each request its answer, or the `Failure` it ended in for good: refused, or answered
        without text at every attempt, those of earlier runs included. Neither is asked again
        before `seedtalk ledger gc --failed`. The calls are over when this returns; see `reread`.

    Raises
    ------
    InputError
        When no key is set for the default endpoint, or the endpoint's address is none to call
        or sends callers elsewhere.
    RunError
        When the account is refused, a cap is reached, the run is interrupted, the endpoint fails
        or refuses too often in a row, could not be reached for some requests, or a batch is
        asking some of them. What was answered is kept.
    """
    keys = keys_of(bodies, params)
    places = places_of(keys)
    answered: set[str] = set()
    failures: dict[str, Failure] = {}
    fresh, repairs = [], []
    due: dict[str, str] = {}  # key of the repair by that of its request
    for key, place in places.items():
        stands = standing(key, bodies[place], params, ledger)
        if stands.repair is not None:
            repairs.append(stands.repair[0])
            if not stands.repaired:
                due[key] = stands.repair[0]
        if isinstance(stands.outcome, Answer):
            answered.add(key)
        elif stands.outcome is not None:
            failures[key] = stands.outcome
        else:
            fresh.append(key)
    ledger.scope([*places, *repairs])
    if fresh or due:
        _refuse_batched([*fresh, *due.values()], params, ledger)
        run = _Run(bodies, places, params, ledger, prices, answered, failures)
        with bar("asking the teacher", len(fresh) + len(due)) as shown:
            asyncio.run(run.all(fresh, list(due), shown))
        if run.stopped:
            error = InputError if run.wrong_address else RunError
            left = len(places) - len(answered)
            raise error(f"{run.stopped}; {left} of {len(bodies)} requests have no answer. {KEPT}")
        if run.lost:
            last = next(reversed(run.lost.values()))
            raise RunError(
                f"{len(run.lost)} of {len(bodies)} requests got no answer in {params.attempts} "
                f"attempts (the last: {last}). {KEPT}"
            )
    return reread(bodies, keys, failures, params, ledger)


def _refuse_batched(keys: Sequence[str], params: Teacher, ledger: Ledger) -> None:
    """Refuse to ask by a call what a batch is asking already: it would be paid for twice."""
    under_way = {
        key: batch.batch_id or batch.token
        for batch in ledger.open_batches(endpoint_of(params.base_url or DEFAULT_URL))
        for _, key, _ in batch.lines
    }
    found = [key for key in keys if key in under_way]
    if found:
        batches = ", ".join(sorted({under_way[key] for key in found}))
        raise RunError(
            f"{len(found)} of the requests are under way in a batch ({batches}): collect it with "
            "teacher.backend=batch first, or cancel it at the endpoint and then do so"
        )


@dataclass
class _Job:
    """A request to be asked, or its answer to be repaired, and how often that failed in this run.

    `whose` is the key of the request that the outcome is of.
    """

    whose: str
    repairs: bool = False
    failures: int = 0
    push_backs: int = 0


@dataclass(frozen=True)
class _Call:
    """A job whose turn has come: key and body of what it asks, and of the request it is for."""

    job: _Job
    key: str
    body: Mapping[str, Any]
    request: tuple[str, Mapping[str, Any]]


class _Run:
    """The calls of one run: what is left to ask, and whether to go on.

    Parameters
    ----------
    bodies
        Of the requests.
    places
        Where each request's body is, by key.
    params, ledger, price
        See `answer_all`.
    answered, failures
        Keys of the requests with an answer, and why others have none for good; the run adds to
        both.
    """

    def __init__(
        self,
        bodies: Sequence[Mapping[str, Any]],
        places: Mapping[str, int],
        params: Teacher,
        ledger: Ledger,
        price: Price | None,
        answered: set[str],
        failures: dict[str, Failure],
    ) -> None:
        self.lost: dict[str, CallError] = {}
        self.stopped: str | None = None
        self.wrong_address = False
        self._bodies, self._places = bodies, places
        self._answered, self._failures = answered, failures
        self._params, self._ledger, self._price = params, ledger, price
        self._fresh: deque[str] = deque()  # keys of requests
        self._repairs: deque[str] = deque()  # likewise; of those whose answers are to be repaired
        self._front: _Call | None = None  # taken out of these, and next to go
        self._later: list[tuple[float, int, _Job]] = []  # heap: when it is due, order, job
        self._order = itertools.count()
        self._flying = 0
        self._dialect = Dialect()
        self._secret = secret()
        self._url = endpoint_url(params)
        if not self._secret and not params.base_url:
            raise InputError(
                "OPENAI_API_KEY is not set; export it, or set teacher.base_url to an endpoint "
                "that needs none"
            )
        self._limiter = Limiter(
            params.concurrency,
            requests_per_minute=params.requests_per_minute,
            tokens_per_minute=params.tokens_per_minute,
        )
        if answered:
            self._limiter.answered()  # it has answered such requests before

    async def all(self, fresh: Iterable[str], repairs: Iterable[str], shown: Bar) -> None:
        """Make the calls, as many at a time as the endpoint bears, until none is left.

        Parameters
        ----------
        fresh
            Keys of the requests to be asked.
        repairs
            Keys of the requests whose answers are to be repaired.
        shown
            Moves with each of both.
        """
        from seedtalk.teacher.transport import connect

        self._fresh.extend(fresh)
        self._repairs.extend(repairs)
        self._shown = shown
        self._wake = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Elsewhere than in the main thread nobody can press Ctrl-C.
            with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
                loop.add_signal_handler(number, self._interrupt, loop, number)
        async with (
            self._ledger.writer() as self._writer,
            connect(
                self._url,
                self._secret or "none-needed",
                timeout=self._params.timeout,
                connections=self._params.concurrency,
                most_bytes=MOST_BYTES,
                most_packed=MOST_PACKED,
                keep_alive=KEEP_ALIVE,
            ) as self._client,
        ):
            endpoint = endpoint_of(self._params.base_url or DEFAULT_URL)
            self._budget = budget.Budget(
                self._ledger, self._writer, self._params, self._price, endpoint
            )
            async with asyncio.TaskGroup() as group:
                while (call := await self._next()) is not None:
                    self._flying += 1
                    group.create_task(self._work(call, self._limiter.start(_tokens(call))))

    def _interrupt(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Drain: no new call, those in flight are awaited; a second signal ends at once."""
        loop.remove_signal_handler(number)
        self._stop("interrupted")

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._wake.set()

    # What is next

    async def _next(self) -> _Call | None:
        """Wait until a call may start; None when there is none left to make."""
        while not self.stopped:
            self._wake.clear()
            now = time.monotonic()
            call = self._due(now)
            if call is None and not self._later and not self._flying:
                return None
            seconds = self._later[0][0] - now if self._later else float("inf")
            if call is not None:
                seconds = self._limiter.wait(_tokens(call))
                if seconds <= 0:
                    self._front = None
                    return call
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds if seconds < float("inf") else None):
                    await self._wake.wait()
        return None

    def _due(self, now: float) -> _Call | None:
        """Return the call that goes next, which stays in front until it does."""
        if self._front is None and (job := self._take(now)) is not None:
            self._front = self._read(job)
        return self._front

    def _take(self, now: float) -> _Job | None:
        if self._later and self._later[0][0] <= now:
            return heapq.heappop(self._later)[2]
        if self._fresh:
            return _Job(self._fresh.popleft())
        # Repairs are last in line: a cap is better spent on what has no answer at all.
        if self._repairs and not self._later:
            return _Job(self._repairs.popleft(), repairs=True)
        return None

    def _read(self, job: _Job) -> _Call:
        """Read what a job asks: of those in line a key is held, not a body."""
        request = (job.whose, self._bodies[self._places[job.whose]])
        if job.repairs:
            stands = standing(*request, self._params, self._ledger)
            if stands.repair is not None:
                return _Call(job, *stands.repair, request)
            job = _Job(job.whose)  # the answer it would repair has gone
        return _Call(job, *request, request)

    def _again(self, job: _Job, seconds: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._order), job))

    # One call

    async def _work(self, call: _Call, ticket: Ticket) -> None:
        try:
            with self._ledger.claim(call.key) as mine:
                if mine:
                    await self._ask(call, ticket)
                else:  # another run is asking it
                    self._again(call.job, POLL)
        except budget.CapReachedError as error:
            if call.job.repairs:  # an answer stands without its repair
                self._settle(call, standing(*call.request, self._params, self._ledger))
            else:
                self._stop(error.message)
        except RunError as error:  # a ledger that cannot be written
            self._stop(error.message)
        finally:
            self._limiter.drop(ticket)
            self._flying -= 1
            self._wake.set()

    async def _ask(self, call: _Call, ticket: Ticket) -> None:
        """Make one attempt at a request and see to what follows from it."""
        # Another run may have asked since this one began.
        stands = standing(*call.request, self._params, self._ledger)
        if stands.repaired if call.job.repairs else stands.outcome is not None:
            self._settle(call, stands)
            return
        if self.stopped:
            return
        if call.job.repairs:
            self._ledger.widen(call.key)
        sent = self._dialect.shaped(call.body)
        row = await self._budget.reserve(call.key, call.body)
        try:
            text = await _send(self._client, sent, self._params.timeout, self._limiter)
            raw = scrub(text, self._secret, SECRET_IN_ANSWER)
        except CallError as error:
            again = error.kind == "permanent" and self._dialect.adapts(sent, error.message)
            usd = None if error.billed else 0.0
            await self._writer.fail(row, error.recorded(again=again), usd)
            if again:
                self._again(call.job, 0.0)
            else:
                self._failed(call, ticket, error)
        else:
            usage = usage_in(raw)
            await self._writer.receive(row, raw, budget.cost(self._price, usage), usage)
            counted = None
            if usage.input is not None and usage.output is not None:
                counted = usage.input + usage.output
            self._limiter.succeed(ticket, counted)
            self._received(call)
        finally:
            await self._budget.release()

    def _received(self, call: _Call) -> None:
        """Read what the ledger now holds."""
        stands = standing(*call.request, self._params, self._ledger)
        error = CallError("passing", "no_answer", "no text in the response")
        if isinstance(stands.outcome, Answer):
            self._limiter.answered()
        elif stands.outcome is None or stands.outcome.code not in FINAL:
            try:
                self._limiter.disappointed()
            except StoppedError as stop:
                last = stands.outcome or error
                self._stop(f"{stop} (the last: {last.code}: {last.message})")
        if stands.outcome is not None:
            self._settle(call, stands)
        else:
            self._retry(call, error, stands.faults)

    def _settle(self, call: _Call, stands: Standing) -> None:
        """Take a standing as the request's outcome, or ask for its repair first."""
        if stands.repair is not None and not stands.repaired and not call.job.repairs:
            self._repairs.append(call.job.whose)
        elif stands.outcome is not None:
            self._end(call.job.whose, stands.outcome)

    def _end(self, key: str, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._failures[key] = outcome
        else:
            self._answered.add(key)
        self._shown.advance()

    def _failed(self, call: _Call, ticket: Ticket, error: CallError) -> None:
        if error.kind == "account":
            self.wrong_address = self.wrong_address or error.code == REDIRECT
            self._stop(str(error))
            return
        job = call.job
        try:
            if error.kind == "permanent":
                self._limiter.refuse(ticket)
                if not job.repairs and not of_its_own(error):
                    self._limiter.disappointed()  # what refuses them all says so of each
            elif error.kind == "busy":
                self._limiter.push_back(ticket, error.retry_after)
            else:
                self._limiter.fail(ticket, error.retry_after, slow=error.code == TIMEOUT)
        except StoppedError as stop:
            self._stop(f"{stop} (the last: {error})")
        if error.kind == "permanent":
            self._give_up(call, error)
        elif error.kind == "busy":
            job.push_backs += 1
            self._retry(call, error)
        else:
            job.failures += 1
            self._retry(call, error)

    def _retry(self, call: _Call, error: CallError, faults: int | None = None) -> None:
        """Put a request back in line, unless it has been tried often enough."""
        job = call.job
        if faults is None:
            faults = standing(*call.request, self._params, self._ledger).faults
        tries = job.failures + faults
        if tries >= self._params.attempts or job.push_backs >= self._params.attempts * PUSH_BACKS:
            self._give_up(call, error)
        else:
            self._again(job, self._limiter.retry_in(tries + job.push_backs))

    def _give_up(self, call: _Call, error: CallError) -> None:
        if call.job.repairs or error.kind == "permanent":
            stands = standing(*call.request, self._params, self._ledger)
            self._end(call.job.whose, stands.outcome or Failure(error.code, error.message))
        else:
            self.lost[call.key] = error
            self._shown.advance()


def _tokens(call: _Call) -> int:
    """Return about how many tokens a call may take."""
    told = sum(len(message["content"]) for message in call.body["messages"])
    return told // CHARACTERS_A_TOKEN + int(call.body["max_tokens"])


def scrub(text: str, key: str, shortest: int) -> str:
    r"""Take the key, if it is that long, out of what an endpoint or proxy echoes.

    Also where JSON spells it otherwise (``\u002d``, ``\/``), however often one text was put into
    another: whoever reads the text later decodes it.
    """
    if len(key) < shortest:
        return text
    text = text.replace(key, "***")
    return _spelt(key).sub("***", text) if "\\u00" in text or "\\/" in text else text


@lru_cache(maxsize=4)
def _spelt(key: str) -> re.Pattern[str]:
    """Return a pattern of every way to spell a key in JSON within JSON; it takes linear time."""
    # Of backslashes, which may be spelt by their number too; 63 are six texts, each in the next.
    row = r"\\(?:\\|u005[cC]){0,62}+"

    def letters(letter: str, before: str) -> str:
        # JSON escapes quotation marks and slashes by a backslash, any letter by its number.
        if letter == "\\":
            return before + row
        lead = f"{before}(?:{row})?+" if letter in '/"' else ""
        return rf"(?:{lead}{re.escape(letter)}|{before}{row}u(?i:{ord(letter):04x}))"

    # From the first backslash of a row on: one left over would escape what comes next.
    first = letters(key[0], r"(?<!\\)")
    return re.compile(first + "".join(letters(letter, "") for letter in key[1:]))


class Dialect:
    """What an endpoint turned out not to know."""

    def __init__(self) -> None:
        self._formats_refused = 0  # 1: no json_schema; 2: nor any other
        self._newer_limit = False  # the model wants max_completion_tokens

    def shaped(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request in the form the endpoint takes; its key stays that of the original."""
        shaped = dict(body)
        kind = _format_of(body)
        if kind and self._formats_refused == 2:
            del shaped["response_format"]
        elif kind == "json_schema" and self._formats_refused == 1:
            shaped["response_format"] = {"type": "json_object"}
        if self._newer_limit:
            shaped["max_completion_tokens"] = shaped.pop("max_tokens")
        return shaped

    def adapts(self, sent: Mapping[str, Any], refusal: str) -> bool:
        """Learn from a refusal what to leave out; tells whether it is worth another call."""
        if "max_completion_tokens" in refusal and "max_tokens" in sent:
            self._newer_limit = True
            return True
        kind = _format_of(sent)
        if kind and _FORMAT.search(refusal):
            refused = 1 if kind == "json_schema" else 2
            self._formats_refused = max(self._formats_refused, refused)
            return True
        return False


def _format_of(body: Mapping[str, Any]) -> str | None:
    asked = body.get("response_format")
    kind = asked.get("type") if isinstance(asked, dict) else None
    return kind if isinstance(kind, str) and kind.startswith("json") else None


async def _send(
    client: AsyncOpenAI, body: Mapping[str, Any], timeout: float, limiter: Limiter
) -> str:
    """Return the raw text of a response with status 200; `limiter` learns from its headers.

    Raises
    ------
    CallError
        For anything else.
    """
    import httpx2
    import openai

    from seedtalk.teacher.transport import TooLargeError

    # Half of a surrogate pair is no text that could be sent.
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    try:
        # The SDK's limit is per read: an endpoint that drips would hold a call for ever.
        async with asyncio.timeout(timeout):
            response = await client.post(
                "/chat/completions",
                content=content,
                cast_to=httpx2.Response,
                options={"headers": {"content-type": "application/json"}},
            )
    except (TimeoutError, openai.APITimeoutError) as error:
        unsent = isinstance(error.__cause__, (httpx2.ConnectTimeout, httpx2.PoolTimeout))
        raise CallError(
            "passing", TIMEOUT, f"no answer in {timeout:g} s", billed=not unsent
        ) from error
    except openai.APIStatusError as error:
        limiter.learn(error.response.headers)
        raise refused(error) from error
    except openai.APIConnectionError as error:
        raise unconnected(error) from error
    except TooLargeError as error:
        raise CallError("passing", "too_large", str(error), billed=True) from error
    limiter.learn(response.headers)
    return response.content.decode("utf-8", "replace")


def unconnected(error: Exception) -> CallError:
    """Tell what a connection that failed means."""
    import httpx2

    cause = error.__cause__ or error
    text = short(f"{type(cause).__name__}: {cause}")
    if isinstance(cause, (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)):
        return CallError("account", "connection", text)
    inner: BaseException | None = cause
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError) or (
            isinstance(inner, ssl.SSLError)
            and inner.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
        ):
            return CallError(
                "account", "tls", f"{text}; does teacher.base_url begin with the right http(s)://?"
            )
        inner = inner.__cause__ or inner.__context__
    unsent = isinstance(cause, (httpx2.ConnectError, httpx2.ProxyError))
    return CallError("passing", "connection", text, billed=not unsent)


def refused(error: Any) -> CallError:
    """Tell what a status other than 200 means, by the SDK's exception."""
    status, headers = int(error.status_code), error.response.headers
    if 300 <= status < 400:
        where = urljoin(str(error.request.url), headers.get("location", ""))
        return CallError(
            "account",
            REDIRECT,
            short(
                f"HTTP {status}: the endpoint sends callers on to {endpoint_of(where)}, where the "
                "key is not taken; set teacher.base_url to the address that answers"
            ),
        )
    code, kind = (_word(told) for told in (error.code, error.type))
    return refusal(status, code, kind, error.message, retry_after(headers))


def _word(told: Any) -> str | None:
    """Return what an endpoint calls an error, where it is a name or a number."""
    return str(told) if isinstance(told, str | int) else None


def refusal(
    status: int, code: str | None, kind: str | None, message: str, wait: float | None = None
) -> CallError:
    """Tell what a status other than 200 means for this request and the others.

    Parameters
    ----------
    status
        Of HTTP.
    code, kind, message
        As the endpoint words its error.
    wait
        Seconds it asks to wait, or None.
    """
    name = short(code or str(status))
    told = short(f"HTTP {status}: {message}")
    if name in POLICY:
        return CallError("permanent", name, told)
    if name in QUOTA or kind in QUOTA or _NO_MONEY.search(told):
        return CallError("account", name, told)
    if status in ACCOUNT:
        return CallError("account", name, told)
    if status in BUSY:
        return CallError("busy", name, told, retry_after=wait)
    if status in IN_PASSING or status >= 500:
        return CallError("passing", name, told, retry_after=wait)
    return CallError("permanent", name, told)


def of_its_own(error: CallError) -> bool:
    """Tell whether a refusal is for what this one request holds: its text or its length."""
    return error.code in POLICY or bool(_OF_ITS_OWN.search(f"{error.code} {error.message}"))


def short(text: str) -> str:
    """Return a stranger's text in one visible line of at most 300 characters, without a key."""
    plain = _KEY.sub("***", scrub(visible(text), secret(), SECRET_IN_ERROR))
    return plain if len(plain) <= 300 else plain[:299] + "…"

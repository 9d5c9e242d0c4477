"""How many calls may be in flight, when the next may start, and when to stop asking.

Everything here is arithmetic on a clock that is handed in: nothing sleeps, nothing is sent. The
backend asks `Limiter.wait` before a call, says `start` when it goes out, and one of `succeed`,
`push_back`, `fail`, `refuse` or `drop` when it is over; after `succeed`, whether what came back
was an answer (`answered`) or not (`disappointed`).

Concurrency follows TCP: doubling until the endpoint first pushes back, then additive increase;
multiplicative decrease when it pushes back, once a round trip at most (Jacobson 1988). As in
CUBIC (RFC 9438), it comes back fast to where it was pushed back, stays there and goes on slowly.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT = 0.5  # seconds before a second attempt; doubles with every attempt
LONGEST_WAIT = 30.0
LONGEST_PAUSE = 120.0  # an endpoint that asks for an hour is asked again sooner

FIRST_WINDOW = 16  # calls in flight before the endpoint has said anything
DECREASE = 0.75  # of the window when the endpoint pushes back
SLOWLY = 0.125  # calls a round trip by which it grows where the endpoint pushed back before

OPENS_AT = 20  # failures in a row, with no success between them
PROBES = 5  # single calls into an endpoint that failed, before the run is given up
FIRST_COOLING, LONGEST_COOLING = 10.0, 120.0  # waits before them, in units of FIRST_WAIT

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0} | {
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds an endpoint asks to wait; None where it does not say.

    Parameters
    ----------
    headers
        ``retry-after-ms``, or ``retry-after`` in seconds or as an HTTP date (RFC 9110, 10.2.3).
    now
        Unix time; the clock's where not given.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    told = headers.get("retry-after")
    if told is None:
        return None
    seconds = _number(told)
    if seconds is not None:
        return max(0.0, seconds)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(told).timestamp() - _now(now))
    return None


def reset_after(told: str, now: float | None = None) -> float | None:
    """Return the seconds until a budget is whole again, as rate-limit headers say it.

    Parameters
    ----------
    told
        A duration ("6m0s", "20ms"), seconds ("1.5"), Unix seconds or milliseconds, or an RFC
        3339 time.
    now
        Unix time; the clock's where not given.
    """
    text = told.strip()
    number = _number(text)
    if number is not None:
        if number > 1e11:  # milliseconds since 1970
            number /= 1000
        return max(0.0, number - _now(now) if number > 1e8 else number)
    parts = _DURATION.findall(text)
    if parts and "".join(value + unit for value, unit in parts) == text:
        return sum(float(value) * _SECONDS[unit] for value, unit in parts)
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        return max(0.0, moment.timestamp() - _now(now)) if moment.tzinfo else None
    return None


def backoff(attempt: int, chance: float) -> float:
    """Return the seconds before attempt `attempt` + 1, with full jitter.

    Calls that failed together must not come back together: the wait is uniform between nothing
    and a bound that doubles (Brooker 2015, "Exponential backoff and jitter").

    Parameters
    ----------
    attempt
        Attempts made so far, from 1.
    chance
        A uniform random number in [0, 1).
    """
    return chance * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 32))


def _now(now: float | None) -> float:
    return time.time() if now is None else now


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        number = float(text or "")
        return number if math.isfinite(number) else None
    return None


class Bucket:
    """A budget that refills: `level` may be spent now, and grows by `rate` a second.

    Parameters
    ----------
    capacity
        What it holds at most.
    rate
        Units a second.
    now
        On the caller's clock; the bucket starts full.
    """

    def __init__(self, capacity: float, rate: float, now: float) -> None:
        self.capacity, self.rate, self.level, self._then = capacity, rate, capacity, now

    @classmethod
    def a_minute(cls, limit: float, now: float) -> Bucket:
        """Return a bucket that lets no more than `limit` units pass in any minute.

        It holds a second's worth, so that late timers lose nothing, and refills by the rest.
        """
        capacity = max(1.0, limit / 60)
        rest = limit - capacity if capacity > 1.0 else limit
        return cls(capacity, rest / 60, now)

    def set(self, level: float, capacity: float, rate: float, now: float) -> None:
        """Take over what the endpoint says of its own budget."""
        self.level, self.capacity, self.rate, self._then = level, capacity, rate, now

    def wait(self, units: float, now: float) -> float:
        """Return the seconds until `units` may be spent.

        More than the bucket can hold is spent when it is full, and owed.
        """
        self._fill(now)
        lacking = min(units, self.capacity) - self.level
        if lacking <= 1e-9 * self.capacity:
            return 0.0
        return lacking / self.rate if self.rate > 0 else math.inf

    def spend(self, units: float, now: float) -> None:
        """Take `units` out (or put them back, where negative)."""
        self._fill(now)
        self.level = min(self.capacity, self.level - units)

    def _fill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + self.rate * max(0.0, now - self._then))
        self._then = max(now, self._then)


@dataclass(frozen=True)
class Ticket:
    """A call in flight: its number in the order of starts, and the tokens it may take."""

    number: int
    tokens: int


class StoppedError(Exception):
    """The endpoint failed, or refused, too often in a row: the run is at its end."""


class Limiter:
    """What an endpoint can bear, learnt from how it answers.

    Parameters
    ----------
    ceiling
        Calls in flight at most.
    requests_per_minute, tokens_per_minute
        The endpoint's limits where they are known; 0 goes by its headers alone.
    clock
        Seconds, monotonic.
    chance
        Uniform random numbers in [0, 1).
    """

    def __init__(
        self,
        ceiling: int,
        *,
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._chance = clock, chance
        self._ceiling = ceiling
        self._window = float(min(ceiling, FIRST_WINDOW))
        self._doubling = True
        self._busy_at = 0.0  # the window when the endpoint last pushed back
        self._flying: dict[int, Ticket] = {}
        self._started = 0
        self._round = 0  # the round trip is over when a call started after this one is answered
        self._peak = 0  # calls in flight at a time, in this round trip
        self._recovery = 0  # push-backs of calls started before this one are old news
        self._paused_until = -math.inf
        now = clock()
        self._own = [
            (Bucket.a_minute(limit, now), kind)
            for limit, kind in ((requests_per_minute, "requests"), (tokens_per_minute, "tokens"))
            if limit
        ]
        self._told: dict[str, Bucket] = {}  # by what the endpoint's headers say
        self._failures = 0  # in a row
        self._disappointments = 0
        self._answered = False
        self._probes: int | None = None  # sent since the breaker opened; None while it is closed
        self._probe: int | None = None  # number of the one in flight

    @property
    def window(self) -> int:
        """Calls that may be in flight now."""
        return max(1, int(self._window))

    @property
    def in_flight(self) -> int:
        """Calls started and not over."""
        return len(self._flying)

    def wait(self, tokens: int) -> float:
        """Return the seconds until a call of so many tokens may start.

        Infinity means: not before one in flight is over.
        """
        if self._probes is not None and self.in_flight:
            return math.inf
        if self.in_flight >= self.window:
            return math.inf
        now = self._clock()
        waits = [bucket.wait(_cost(kind, tokens), now) for bucket, kind in self._own]
        for kind, bucket in self._told.items():
            seconds = bucket.wait(_cost(kind, tokens), now)
            # Whoever says "tomorrow" is asked: if it is so, its refusal ends the run and says why.
            waits.append(seconds if seconds <= LONGEST_PAUSE else 0.0)
        return max(0.0, self._paused_until - now, *waits)

    def start(self, tokens: int) -> Ticket:
        """Say that a call goes out; `wait` was 0."""
        now = self._clock()
        self._started += 1
        ticket = Ticket(self._started, tokens)
        self._flying[ticket.number] = ticket
        self._peak = max(self._peak, self.in_flight)
        for bucket, kind in self._each():
            bucket.spend(_cost(kind, tokens), now)
        if self._probes is not None:
            self._probes += 1
            self._probe = ticket.number
        return ticket

    def succeed(self, ticket: Ticket, tokens: int | None = None) -> None:
        """Say that a call came back, and how many tokens the endpoint counted."""
        tried = self._window < 2 * self._peak  # only a window that was used (RFC 7661)
        if ticket.number > self._round:
            self._round, self._peak = self._started, self.in_flight
        self._over(ticket, ticket.tokens if tokens is None else tokens)
        self._failures, self._probes = 0, None
        if tried:
            step = 1.0 if self._doubling else self._growth() / self._window
            self._window = min(float(self._ceiling), self._window + step)

    def answered(self) -> None:
        """Say that what came back was an answer."""
        self._answered = True

    def disappointed(self) -> None:
        """Say that what came back held no answer, and does not lie in the request alone.

        Raises
        ------
        StoppedError
            When there were many of these and no answer ever: the fault is in all of them.
        """
        self._disappointments += 1
        if not self._answered and self._disappointments >= OPENS_AT:
            raise StoppedError(
                f"the endpoint gave no answer to any of the first {self._disappointments} calls"
            )

    def push_back(self, ticket: Ticket, after: float | None = None) -> None:
        """Say that the endpoint was too busy for a call (429, 503, 529).

        Parameters
        ----------
        ticket
            Of the call.
        after
            Seconds it asks to wait, which all calls will; see `retry_after`.

        Raises
        ------
        StoppedError
            When it was the last probe of many.
        """
        news = self._shrink(ticket)
        # The others of a round say the same once more, of a state that is left behind.
        self._fall(ticket, after, 1 if news else 0)

    def fail(self, ticket: Ticket, after: float | None = None, *, slow: bool = False) -> None:
        """Say that a call failed in another way that may pass.

        Parameters
        ----------
        ticket, after
            See `push_back`.
        slow
            Whether no answer came in time, as it does where too many wait.

        Raises
        ------
        StoppedError
            When it was the last probe of many.
        """
        if slow:
            self._shrink(ticket)
        self._fall(ticket, after, 1)

    def refuse(self, ticket: Ticket) -> None:
        """Say that the endpoint refused this very request, for good."""
        self._over(ticket, 0)
        self._failures, self._probes = 0, None  # it is there, and it speaks

    def drop(self, ticket: Ticket) -> None:
        """Say that a call was not sent after all; says nothing of one that is over."""
        if ticket.number not in self._flying:
            return
        self._over(ticket, 0, sent=False)
        if ticket.number == self._probe and self._probes:
            self._probes -= 1

    def retry_in(self, attempt: int) -> float:
        """Return the seconds before attempt `attempt` + 1 of a call that failed."""
        return backoff(attempt, self._chance())

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take over the budgets that a response states.

        OpenAI and others: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``; Anthropic:
        ``anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}``.
        """
        stated = {name: value for name, value in headers.items() if "ratelimit" in name}
        if not stated:
            return
        now = self._clock()
        for kind in ("requests", "tokens"):
            told = {
                name: stated.get(f"x-ratelimit-{name}-{kind}")
                or stated.get(f"anthropic-ratelimit-{kind}-{name}")
                for name in ("limit", "remaining", "reset")
            }
            limit = _number(told["limit"])
            if limit is None or limit <= 0:
                continue
            remaining = _number(told["remaining"])
            if remaining is None:
                if kind not in self._told or self._told[kind].capacity != limit:
                    self._told[kind] = Bucket(limit, limit / 60, now)
                continue
            left = min(max(0.0, remaining), limit)
            reset = reset_after(told["reset"]) if told["reset"] else None
            rate = (limit - left) / reset if reset and left < limit else limit / 60
            bucket = self._told.setdefault(kind, Bucket(limit, rate, now))
            # What is in flight may not be counted yet: near the limit, better slow than refused.
            flying = sum(_cost(kind, ticket.tokens) for ticket in self._flying.values())
            bucket.set(left - flying, limit, rate, now)

    def _each(self) -> list[tuple[Bucket, str]]:
        return [*self._own, *((bucket, kind) for kind, bucket in self._told.items())]

    def _over(self, ticket: Ticket, tokens: int, sent: bool = True) -> None:
        del self._flying[ticket.number]
        now = self._clock()
        for bucket, kind in self._each():
            if kind == "tokens":
                bucket.spend(tokens - ticket.tokens, now)
            elif not sent:
                bucket.spend(-1, now)

    def _shrink(self, ticket: Ticket) -> bool:
        """Let fewer calls fly, once a round trip; tells whether it was the first of the round."""
        if ticket.number <= self._recovery:
            return False
        self._recovery = self._started
        self._doubling, self._busy_at = False, self._window
        self._window = max(1.0, self._window * DECREASE)
        return True

    def _growth(self) -> float:
        """Return by how many calls the window grows in a round trip."""
        gap = self._busy_at - self._window
        if gap > 1.0:
            return max(1.0, gap / 4)  # back to where it was fine
        return SLOWLY if gap > -1.0 else 1.0

    def _fall(self, ticket: Ticket, after: float | None, failures: int) -> None:
        self._over(ticket, ticket.tokens)
        now = self._clock()
        if after is not None:
            self._paused_until = max(self._paused_until, now + min(after, LONGEST_PAUSE))
        self._failures += failures
        if self._probes is None:
            if self._failures >= OPENS_AT:
                self._probes = 0
                self._window, self._doubling = float(min(self._ceiling, FIRST_WINDOW)), True
                self._peak = 0
                self._cool(now)
        elif ticket.number == self._probe:
            if self._probes >= PROBES:
                raise StoppedError(f"the endpoint failed {self._failures} times in a row")
            self._cool(now)

    def _cool(self, now: float) -> None:
        units = min(LONGEST_COOLING, FIRST_COOLING * 2.0 ** (self._probes or 0))
        self._paused_until = max(self._paused_until, now + units * FIRST_WAIT)


def _cost(kind: str, tokens: int) -> int:
    return 1 if kind == "requests" else tokens

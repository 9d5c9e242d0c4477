"""What an ended batch brought: responses into the ledger, and why the rest has none."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seedtalk.teacher import budget
from seedtalk.teacher.answers import BadAnswerError, completion, usage_in
from seedtalk.teacher.batch_lines import BadLineError, LineError, raw_lines, read_result
from seedtalk.teacher.openai import QUOTA, CallError, refusal, short

if TYPE_CHECKING:
    from seedtalk.teacher.ledger import Batch, Ledger
    from seedtalk.teacher.prices import Price

COMMIT, COMMIT_CHARACTERS = 500, 1 << 20  # results, and their length, in one durable commit


class Harvest:
    """The results of one batch as they are read; a line is known by its request's key.

    Parameters
    ----------
    batch
        An ended one.
    ledger
        Where responses are put down, each before it is looked at.
    prices
        Of the model; None where unknown.
    """

    def __init__(self, batch: Batch, ledger: Ledger, prices: Price | None) -> None:
        self._ledger, self._prices = ledger, prices
        self.rows = {key: row for _, key, row in batch.lines}
        # A run that was killed may have put some down.
        before = ledger.rows(
            "SELECT key FROM attempts WHERE batch = ? AND state = 'received'", batch.token
        )
        self.received = {key for (key,) in before}
        self.errors: dict[str, LineError] = {}
        self.unread = 0
        self._good: dict[str, int] = {}  # of those received, the ones with text; a hash of it
        self._unknown: set[str] = set()
        self._contradicted: set[str] = set()

    def read(self, path: Path, aside: Path) -> int:
        """Read a file of results, as `Endpoint.download` left it; put what cannot be used aside.

        Of several results for a request the first response with text stands, else the last
        response, else the first error. `unread` counts the lines that could not be read.

        Returns
        -------
        int
            How many requests are told of.
        """
        told: set[str] = set()
        waiting: dict[str, str] = {}
        length = 0
        self.unread = 0
        with aside.open("wb") as kept:
            for line in raw_lines(path):
                try:
                    result = read_result(line)
                except BadLineError:
                    self.unread += 1
                    kept.write(line)
                    continue
                key = result.custom_id
                told.add(key)
                if key not in self.rows:
                    self._unknown.add(key)
                    kept.write(line)
                    continue
                if key in waiting or len(waiting) == COMMIT or length > COMMIT_CHARACTERS:
                    self._keep(waiting)
                    waiting, length = {}, 0
                if result.error is not None:
                    self.errors.setdefault(key, result.error)
                elif result.raw is not None and self._is_news(key, result.raw):
                    waiting[key] = result.raw
                    length += len(result.raw)
        self._keep(waiting)
        if not aside.stat().st_size:
            aside.unlink()
        return len(told)

    def failures(self, default: LineError) -> dict[str, tuple[int, CallError, bool]]:
        """Return row and error of every line without a response, and whether it was told."""
        return {
            key: (row, verdict(self.errors.get(key, default)), key in self.errors)
            for key, row in self.rows.items()
            if key not in self.received
        }

    def oddities(self) -> str:
        """Return what was odd about the results, or ""."""
        odd = {
            "lines could not be read": self.unread,
            "lines name a request the batch does not hold": len(self._unknown),
            "requests have two different answers, of which the first is kept": len(
                self._contradicted
            ),
        }
        return "; ".join(f"{count} {what}" for what, count in odd.items() if count)

    def _is_news(self, key: str, raw: str) -> bool:
        if key not in self._good:
            return True
        if self._good[key] != hash(raw):
            self._contradicted.add(key)
        return False

    def _keep(self, responses: Mapping[str, str]) -> None:
        """Settle responses in the ledger, durably, and look at them after that."""
        with self._ledger.transaction():
            for key, raw in responses.items():
                usage = usage_in(raw)
                usd = budget.cost(self._prices, usage, batch=True)
                self._ledger.receive(self.rows[key], raw, usd, usage)
        self.received |= responses.keys()
        for key, raw in responses.items():
            with contextlib.suppress(BadAnswerError):
                completion(raw)
                self._good[key] = hash(raw)


def verdict(error: LineError) -> CallError:
    """Tell what a line's error means for its request and the others."""
    if error.status is not None:
        return refusal(error.status, error.code, error.kind, error.message)
    return CallError(
        "account" if error.code in QUOTA or error.kind in QUOTA else "passing",
        short(error.code or "unknown"),
        short(error.message),
    )

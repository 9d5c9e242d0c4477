"""The ledger: every call to a paid teacher, kept before its answer is looked at.

One SQLite file holds one row per attempt. A row is written before the call is sent, with what
it may cost at most, and settled when the endpoint has answered, before the answer is parsed. So
a killed run re-pays at most the calls that were in flight, and even those stay counted against
the budget. Requests are known by content: what experiment asked does not matter.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock, Timeout

from seedtalk.errors import RunError

VERSION = 1
BUSY_SECONDS = 60.0  # how long a writer waits for another's commit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,          -- of the request, see request_key
    attempt INTEGER NOT NULL,   -- counts from 1 within a key
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'received', 'failed')),
    body TEXT,                  -- what came back, as it came
    digest TEXT,                -- sha256 of body: a damaged answer is no answer
    error TEXT,
    usd REAL NOT NULL,          -- reserved while sent, settled after
    UNIQUE (key, attempt)
);
CREATE INDEX IF NOT EXISTS attempts_key ON attempts (key, state);
"""


@dataclass(frozen=True)
class Spent:
    """What a set of requests has cost so far: calls sent and US dollars, reserved ones too."""

    calls: int
    usd: float


def endpoint_of(base_url: str) -> str:
    """Return the endpoint a key is made of: no credentials, no query, no trailing slash."""
    parts = urlsplit(base_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")) or "default"


def request_key(backend: str, endpoint: str, body: Mapping[str, Any]) -> str:
    """Return the sha256 a request is known by: who is asked, and everything it is asked."""
    content = {"backend": backend, "endpoint": endpoint, "body": body}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """An open ledger; safe beside other processes that write to the same file.

    Parameters
    ----------
    path
        The SQLite file, made if missing.

    Raises
    ------
    RunError
        When the file cannot be opened, is no ledger, or is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            # A commit must survive the machine, not just the process: WAL alone would not.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if version > VERSION:
                    raise RunError(
                        f"{path}: written by a newer seedtalk (ledger version {version}, this "
                        f"one reads {VERSION}); upgrade seedtalk"
                    )
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
            self._db.execute("CREATE TEMP TABLE run (key TEXT PRIMARY KEY)")
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"{path}: the ledger cannot be used ({error}); no call was made. Mend or move "
                "the file and run again"
            ) from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def scope(self, keys: Iterable[str]) -> None:
        """Say which requests the run is made of: `spent` and `reserve` count these."""
        with self._transaction():
            self._db.execute("DELETE FROM temp.run")
            self._db.executemany("INSERT OR IGNORE INTO temp.run VALUES (?)", ((k,) for k in keys))

    @contextmanager
    def claim(self, key: str) -> Generator[bool, None, None]:
        """Hold a request, so that no other run asks it too; yields False where another holds it.

        The system drops a claim when its holder dies. Requests share 4096 lock files, which
        are never removed: a removed one could be held twice.
        """
        lock = FileLock(Path(f"{self.path}.locks") / key[:3])
        try:
            Path(lock.lock_file).parent.mkdir(exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise RunError(
                f"{lock.lock_file}: cannot be locked ({error}); stopped, so that nothing is "
                "paid for twice"
            ) from error
        try:
            yield True
        finally:
            lock.release()

    def received(self, key: str) -> Generator[str, None, None]:
        """Yield what the endpoint has answered to a request, the latest first.

        Only the transport has judged it: whether it is an answer is the parser's to say, so that
        a better parser costs no call. Rows whose text no longer fits its digest are passed over.
        """
        rows = self._db.execute(
            "SELECT body, digest FROM attempts WHERE key = ? AND state = 'received' "
            "ORDER BY attempt DESC",
            (key,),
        ).fetchall()
        for body, digest in rows:
            if _digest(body) == digest:
                yield body

    def reserve(
        self, key: str, endpoint: str, model: str, usd: float, *, max_calls: int, max_usd: float
    ) -> int | None:
        """Record that a call is about to be sent, if it fits under the caps.

        Parameters
        ----------
        key, endpoint, model
            Of the request.
        usd
            What it may cost at most.
        max_calls, max_usd
            Caps over all attempts of the run's requests, now and before; 0 sets none.

        Returns
        -------
        int or None
            The row to settle; None where a cap would be passed, and nothing is recorded.
        """
        with self._transaction():  # count and insert at once: two writers share the caps
            spent = self.spent()
            if max_calls and spent.calls + 1 > max_calls:
                return None
            if max_usd and spent.usd + usd > max_usd:
                return None
            row = self._db.execute(
                "INSERT INTO attempts (key, attempt, endpoint, model, state, usd) VALUES (?, "
                "1 + (SELECT coalesce(max(attempt), 0) FROM attempts WHERE key = ?), "
                "?, ?, 'sent', ?)",
                (key, key, endpoint, model, usd),
            )
            return row.lastrowid

    def receive(self, row: int, body: str) -> None:
        """Keep what came back for an attempt; called before anything parses it."""
        self._settle(
            "UPDATE attempts SET state = 'received', body = ?, digest = ? WHERE id = ?",
            (body, _digest(body), row),
        )

    def price(self, row: int, usd: float) -> None:
        """Replace what was reserved for an attempt by what it cost."""
        self._settle("UPDATE attempts SET usd = ? WHERE id = ?", (usd, row))

    def fail(self, row: int, error: str, usd: float | None) -> None:
        """Record that an attempt brought no answer; `usd` None keeps what was reserved."""
        self._settle(
            "UPDATE attempts SET state = 'failed', error = ?, usd = coalesce(?, usd) WHERE id = ?",
            (error, usd, row),
        )

    def spent(self) -> Spent:
        """Return what the run's requests have cost, over all runs that asked them."""
        calls, usd = self._db.execute(
            "SELECT count(*), coalesce(sum(usd), 0.0) FROM attempts "
            "WHERE key IN (SELECT key FROM temp.run)"
        ).fetchone()
        return Spent(calls, usd)

    def _settle(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._transaction():
            self._db.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise RunError(
                f"{self.path}: the ledger cannot be written ({error}); stopped, so that no "
                "answer is paid for and lost"
            ) from error


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()

"""The ledger's file: attempts reserved, settled and found again."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock, Timeout

from seedtalk.errors import RunError
from seedtalk.teacher.ledger.schema import (
    BUSY_SECONDS,
    COLUMNS,
    connect,
    connect_to_read,
    is_pending,
    is_writable,
    prepare,
    seal,
)

if TYPE_CHECKING:
    from seedtalk.teacher.answers import Usage
    from seedtalk.teacher.ledger.writer import Writer

PICO = 10**12  # sums are kept in whole picodollars, exact in any order
MOST_USD = 1000.0  # of a call: an endpoint that counts nonsense must not overflow the sums
MOST_TOKENS = 10**12  # likewise
_BATCH = (
    *("token", "endpoint", "state", "file_id", "batch_id", "output_file_id", "error_file_id"),
    "created",
)
BACKEND = "openai"  # of every key so far: batches ask the same endpoints the same bodies
REPAIR = 2  # messages a repair adds to those of its request: the bad answer, and what is wrong
REFUSED = "permanent: "  # how the error of an attempt begins that needs no other, see `fail`


@dataclass(frozen=True)
class Spent:
    """What a set of requests has cost so far: calls sent and US dollars, reserved ones too."""

    calls: int
    usd: float


@dataclass(frozen=True)
class Batch:
    """A batch as it was last recorded; its lines are (custom_id, key, row of attempts)."""

    token: str
    endpoint: str
    state: str
    file_id: str | None
    batch_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    created: float
    lines: list[tuple[str, str, int]]


@dataclass(frozen=True)
class _Sums:
    """Of the attempts in scope, up to the change `seq`."""

    seq: int = 0
    calls: int = 0
    pico: int = 0


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


def fault(path: Path, error: Exception) -> RunError:
    """Return what to tell of a fault of the file: what it is, and what mends it."""
    name = str(getattr(error, "sqlite_errorname", ""))
    number = error.errno if isinstance(error, OSError) else None
    if name == "SQLITE_FULL" or number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        what, mend = "the disk is full", "free some space and run again"
    elif name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or isinstance(error, ValueError):
        what, mend = "the file is damaged", "run `seedtalk ledger mend`, which saves what is whole"
    elif name.startswith("SQLITE_BUSY"):
        what = f"another process has been writing to it for {BUSY_SECONDS:g} s"
        mend = "wait for that one and run again"
    elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or number:
        what = "it cannot be opened for writing"
        mend = "make the file and its folder writable and run again"
    else:
        what, mend = "it cannot be read or written", "check the disk and run again"
    return RunError(
        f"{path}: the ledger cannot be used: {what} ({error}). Stopped, so that nothing is paid "
        f"for and lost; what the file holds stays there. To go on, {mend}"
    )


class Ledger:
    """An open ledger; safe beside other processes that write to the same file.

    Parameters
    ----------
    path
        The SQLite file, made if missing; one of an older version is brought up to date.
    reading
        Whether nothing will be written. Then the file must be there, and may be one that cannot
        be written: it is read where it lies, or, of an older version or beside a log that a
        killed run has left without its index, as a copy.

    Attributes
    ----------
    db
        The connection that writes, for this package alone.

    Raises
    ------
    RunError
        When the file cannot be opened, is no ledger, is damaged, or is of a newer version.
    """

    def __init__(self, path: Path, *, reading: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()  # of the writing connection
        self._sums = _Sums()
        self._claims: dict[str, tuple[FileLock, set[str]]] = {}
        self._begin = "BEGIN IMMEDIATE"
        self._unlocked: tuple[int, int] | None = None
        with ExitStack() as stack:
            try:
                if reading and not path.exists():
                    raise RunError(f"{path}: no ledger there; the first paid call makes it")
                if reading and not is_writable(path):
                    self._open_unwritable(stack)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._open(path, stack)
                self.db.execute("CREATE TEMP TABLE run (key TEXT PRIMARY KEY) WITHOUT ROWID")
            except (sqlite3.Error, OSError) as error:
                raise fault(path, error) from error
            self._opened = stack.pop_all()

    def _open(self, path: Path, stack: ExitStack) -> None:
        self.db = stack.enter_context(closing(connect(path)))
        prepare(self.db, path)
        # Answers are read beside a commit, which may wait for the disk.
        self._reading = stack.enter_context(closing(connect(path)))

    def _open_unwritable(self, stack: ExitStack) -> None:
        state = None if is_pending(self.path) else self._state()
        db = connect_to_read(self.path)
        if db is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="seedtalk-"))
            for end in ("", "-wal") if is_pending(self.path) else ("",):
                copyfile(f"{self.path.resolve()}{end}", Path(folder, f"copy{end}"))
            self._open(Path(folder, "copy"), stack)
            return
        # Of temporary tables alone, so no lock is to be had, nor needed.
        self._begin = "BEGIN"
        self.db = self._reading = stack.enter_context(closing(db))
        self._unlocked = state

    def _state(self) -> tuple[int, int]:
        told = self.path.stat()
        return told.st_mtime_ns, told.st_size

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._opened.close()
        if kind is None:
            self.check_unwritten()

    def check_unwritten(self) -> None:
        """Refuse what was read without a lock where somebody has written meanwhile.

        Leaving the ledger checks too; whoever writes a file of what was read asks before that.

        Raises
        ------
        RunError
            When it was written to.
        """
        # Whoever may write does not see that it is read.
        if self._unlocked and (is_pending(self.path) or self._state() != self._unlocked):
            raise RunError(f"{self.path}: was written to while it was read; run again")

    def writer(self) -> Writer:
        """Return a writer for many calls at a time: ``async with ledger.writer() as writer``."""
        from seedtalk.teacher.ledger.writer import Writer

        return Writer(self)

    def scope(self, keys: Iterable[str]) -> None:
        """Say which requests the run is made of.

        `spent` and `reserve` count these and every repair ever made of them, whether or not the
        answer it repaired is still there, and whatever the parameters are now.
        """
        scoped = set(keys)
        scoped |= self.repairs_of(scoped)
        with self.transaction():
            self.db.execute("DELETE FROM temp.run")
            self.db.executemany("INSERT OR IGNORE INTO temp.run VALUES (?)", ((k,) for k in scoped))
            self._sums = self._added_up()

    def repairs_of(self, keys: Collection[str]) -> set[str]:
        """Return the keys of the repairs made of requests, by what they ask.

        Raises
        ------
        RunError
            When the file cannot be read there.
        """
        found = set()
        rows = self.rows(
            # Only a repair quotes an answer; within a text the quotation marks would be escaped.
            "SELECT key, backend, endpoint, body FROM requests "
            """WHERE instr(body, '"role":"assistant"')"""
        )
        for key, backend, endpoint, text in rows:
            try:
                body = json.loads(text)
                first = {**body, "messages": body["messages"][:-REPAIR]}
            except (ValueError, RecursionError, TypeError, KeyError):  # `ledger verify` tells
                continue
            if request_key(backend, endpoint, first) in keys:
                found.add(key)
        return found

    def widen(self, key: str) -> None:
        """Count one more request as the run's: the repair of an answer, say."""
        with self.transaction():
            sums = self._caught_up()
            added = self.db.execute("INSERT OR IGNORE INTO temp.run VALUES (?)", (key,))
            if added.rowcount:
                calls, pico = self.db.execute(
                    "SELECT (SELECT count(*) FROM attempts WHERE key = ?1) "
                    "+ (SELECT coalesce(sum(calls), 0) FROM bygone WHERE key = ?1), "
                    "(SELECT coalesce(sum(CAST(round(usd * 1e12) AS INTEGER)), 0) "
                    "FROM attempts WHERE key = ?1) "
                    "+ (SELECT coalesce(sum(pico), 0) FROM bygone WHERE key = ?1)",
                    (key,),
                ).fetchone()
                self._sums = _Sums(sums.seq, sums.calls + calls, sums.pico + pico)

    @contextmanager
    def claim(self, key: str) -> Generator[bool, None, None]:
        """Hold a request, so that no other run asks it too; yields False where another holds it.

        The system drops a claim when its holder dies. Requests share 4096 lock files, which
        are never removed: a removed one could be held twice.
        """
        lock, held = self._claims.get(key[:3], (None, set()))
        if lock is None:
            lock = FileLock(f"{self.path}.locks/{key[:3]}")
            try:
                if not self._claims:
                    Path(f"{self.path}.locks").mkdir(exist_ok=True)
                lock.acquire(blocking=False)
            except Timeout:
                yield False
                return
            except OSError as error:
                raise RunError(
                    f"{lock.lock_file}: cannot be locked ({error}); stopped, so that nothing is "
                    "paid for twice"
                ) from error
            self._claims[key[:3]] = (lock, held)
        elif key in held:
            yield False
            return
        held.add(key)
        try:
            yield True
        finally:
            held.discard(key)
            if not held:
                del self._claims[key[:3]]
                lock.release()

    def is_claimed(self, key: str) -> bool:
        """Tell whether another run holds a request just now."""
        # A lock nobody ever took has no file, and needs none to be looked at.
        if not (Path(f"{self.path}.locks") / key[:3]).exists():
            return False
        with self.claim(key) as mine:
            return not mine

    def received(self, key: str) -> Generator[str, None, None]:
        """Yield what the endpoint has answered to a request, the latest first.

        Only the transport has judged it: whether it is an answer is the parser's to say, so that
        a better parser costs no call. Rows that no longer fit their digest are passed over.

        Raises
        ------
        RunError
            When the file cannot be read there.
        """
        rows = self.rows(
            "SELECT key, attempt, endpoint, model, state, body, error, usd, input_tokens, "
            "output_tokens, created, batch, digest FROM attempts "
            "WHERE key = ? AND state = 'received' ORDER BY attempt DESC",
            key,
        )
        for *values, digest in rows:
            if seal(values) == digest:
                yield values[COLUMNS.index("body")]

    def asked(self, key: str) -> dict[str, Any] | None:
        """Return the body of a request; None where it is not known, or damaged.

        Raises
        ------
        RunError
            When the file cannot be read there.
        """
        for endpoint, text in self.rows("SELECT endpoint, body FROM requests WHERE key = ?", key):
            with suppress(ValueError, TypeError, RecursionError):
                body = json.loads(text)
                if request_key(BACKEND, endpoint, body) == key:
                    return cast("dict[str, Any]", body)
        return None

    def refusal(self, key: str) -> str | None:
        """Return the latest error of a request that asking again does not change, or None.

        Raises
        ------
        RunError
            When the file cannot be read there.
        """
        rows = self.rows(
            "SELECT key, attempt, endpoint, model, state, body, error, usd, input_tokens, "
            "output_tokens, created, batch, digest FROM attempts "
            "WHERE key = ? AND state = 'failed' ORDER BY attempt DESC",
            key,
        )
        for *values, digest in rows:
            error = values[COLUMNS.index("error")]
            if isinstance(error, str) and error.startswith(REFUSED) and seal(values) == digest:
                return error.removeprefix(REFUSED)
        return None

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield what a query finds, as it stood when it was first asked for.

        Raises
        ------
        RunError
            When the file cannot be read there.
        """
        try:
            yield from self._reading.execute(query, values)
        except sqlite3.Error as error:
            raise fault(self.path, error) from error

    def reserve(
        self,
        key: str,
        endpoint: str,
        model: str,
        usd: float,
        *,
        body: Mapping[str, Any] | None = None,
        max_calls: int,
        max_usd: float,
        batch: str | None = None,
    ) -> int | None:
        """Record that a call is about to be sent, if it fits under the caps.

        Parameters
        ----------
        key, endpoint, model
            Of the request.
        usd
            What it may cost at most.
        body
            What is asked.
        max_calls, max_usd
            Caps over all attempts of the run's requests, now and before; 0 sets none.
        batch
            Token of the batch it is sent in.

        Returns
        -------
        int or None
            The row to settle; None where a cap would be passed, and nothing is recorded.

        Raises
        ------
        RunError
            When an open batch is asking it, which a single call would pay for once more.
        """
        endpoint, model, usd = _storable(endpoint), _storable(model), _dollars(usd)
        with self.transaction():  # count and insert at once: two writers share the caps
            if batch is None:
                self._refuse_batched(key)
            if max_calls or max_usd:
                sums = self._caught_up()
                if max_calls and sums.calls + 1 > max_calls:
                    return None
                if max_usd and sums.pico + _pico(usd) > _pico(max_usd):
                    return None
            asked = json.dumps(body, sort_keys=True, separators=(",", ":")) if body else None
            self.db.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "endpoint = excluded.endpoint, model = excluded.model, body = excluded.body "
                "WHERE body IS NOT excluded.body AND excluded.body IS NOT NULL",
                (key, BACKEND, endpoint, model, asked),
            )
            (attempt,) = self.db.execute(
                "SELECT 1 + coalesce(max(attempt), 0) FROM attempts WHERE key = ?", (key,)
            ).fetchone()
            values = (
                *(key, attempt, endpoint, model, "sent", None, None, usd),
                *(None, None, time.time(), batch),
            )
            row = self.db.execute(
                "INSERT INTO attempts (key, attempt, endpoint, model, state, body, error, usd, "
                "input_tokens, output_tokens, created, batch, digest) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, seal(values)),
            )
            return row.lastrowid

    def receive(
        self, row: int, body: str, usd: float | None = None, usage: Usage | None = None
    ) -> None:
        """Keep what came back for an attempt; called before anything parses it.

        Parameters
        ----------
        row
            What `reserve` returned.
        body
            The response, as it came.
        usd
            What it cost; None keeps what was reserved.
        usage
            Tokens the endpoint counted.
        """
        told = {"input_tokens": usage.input, "output_tokens": usage.output} if usage else {}
        tokens = {n: c for n, c in told.items() if c is not None and c <= MOST_TOKENS}
        self._settle(row, state="received", body=_storable(body), usd=usd, **tokens)

    def price(self, row: int, usd: float) -> None:
        """Replace what was reserved for an attempt by what it cost."""
        self._settle(row, usd=usd)

    def fail(self, row: int, error: str, usd: float | None) -> None:
        """Record that an attempt brought no answer.

        Parameters
        ----------
        row
            What `reserve` returned.
        error
            Why: ``kind: code: message``. The kind ``permanent`` has the request never asked
            again, see `refusal`.
        usd
            What it cost; None keeps what was reserved.
        """
        self._settle(row, state="failed", error=_storable(error), usd=usd)

    def withdraw(self, rows: Iterable[int]) -> None:
        """Take back what was reserved for calls that were never sent: they were none."""
        with self.transaction():
            for row in rows:
                self.db.execute(
                    "INSERT INTO changes (key, calls, pico) "
                    "SELECT key, -1, -CAST(round(usd * 1e12) AS INTEGER) FROM attempts "
                    "WHERE id = ? AND state = 'sent'",
                    (row,),
                )
                self.db.execute("DELETE FROM attempts WHERE id = ? AND state = 'sent'", (row,))

    def spent(self) -> Spent:
        """Return what the run's requests have cost, over all runs that asked them."""
        with self.transaction():
            sums = self._caught_up()
        return Spent(sums.calls, sums.pico / PICO)

    def record_batch(self, token: str, **fields: Any) -> None:
        """Record a batch, or what has changed of it.

        Parameters
        ----------
        token
            Its name on this side, chosen before it is sent.
        **fields
            Of `Batch`. A new one needs `endpoint`, `state` and `lines`; `created` is now.
        """
        if "lines" in fields:
            fields["lines"] = json.dumps(fields["lines"])
        with self.transaction():
            found = self.db.execute("SELECT * FROM batches WHERE token = ?", (token,))
            names = [name for name, *_ in found.description]
            known = found.fetchone() or (None,) * len(names)
            row = dict(zip(names, known, strict=True)) | fields
            row["created"] = row["created"] or time.time()
            self.db.execute(
                "INSERT OR REPLACE INTO batches (token, endpoint, state, file_id, batch_id, "
                "output_file_id, error_file_id, created, lines) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (token, *(row[name] for name in (*_BATCH[1:], "lines"))),
            )

    def open_batches(self, endpoint: str) -> list[Batch]:
        """Return the batches of an endpoint whose state is not ``done``, oldest first."""
        rows = self.rows(
            "SELECT lines, token, endpoint, state, file_id, batch_id, output_file_id, "
            "error_file_id, created FROM batches WHERE endpoint = ? AND state != 'done' "
            "ORDER BY created, token",
            endpoint,
        )
        try:
            return [
                Batch(**dict(zip(_BATCH, told, strict=True)), lines=[*map(tuple, json.loads(text))])
                for text, *told in rows
            ]
        except (ValueError, TypeError, RecursionError) as error:
            raise fault(self.path, ValueError(f"a batch's lines: {error}")) from error

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Make what the block writes one durable commit, or nothing; blocks may be nested.

        Raises
        ------
        RunError
            When the file cannot be written: nothing of the block is.
        """
        with self._lock:
            if self.db.in_transaction:  # a part of the block around it
                yield
                return
            sums = self._sums
            try:
                self.db.execute(self._begin)
                yield
                self.db.execute("COMMIT")
            except BaseException as error:
                self._sums = sums
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise fault(self.path, error) from error
                raise

    def is_called(self, key: str) -> bool:
        """Tell whether another run has sent a request by a single call that is not over.

        Within a transaction the answer holds until it ends: no call is reserved meanwhile. The
        row of a run that was killed is nobody's call any more.
        """
        sent = self.db.execute(
            "SELECT 1 FROM attempts WHERE key = ? AND state = 'sent' AND batch IS NULL", (key,)
        ).fetchone()
        return sent is not None and self.is_claimed(key)

    def _refuse_batched(self, key: str) -> None:
        found = self.db.execute(
            "SELECT coalesce(batch_id, token) FROM attempts JOIN batches ON token = batch "
            "WHERE key = ? AND batches.state != 'done'",
            (key,),
        ).fetchone()
        if found is not None:
            raise RunError(
                f"a batch has begun to ask the same requests meanwhile ({found[0]}): collect it "
                "with teacher.backend=batch first, or cancel it at the endpoint and then do so"
            )

    def _settle(self, row: int, **changes: Any) -> None:
        with self.transaction():
            found = self.db.execute(
                "SELECT key, attempt, endpoint, model, state, body, error, usd, input_tokens, "
                "output_tokens, created, batch FROM attempts WHERE id = ?",
                (row,),
            ).fetchone()
            if found is None:
                raise RunError(
                    f"{self.path}: row {row} of an attempt under way is gone; was the file "
                    "replaced? Put it back and run again"
                )
            if changes.get("usd") is None:
                changes.pop("usd", None)
            else:
                changes["usd"] = _dollars(changes["usd"])
            values = dict(zip(COLUMNS, found, strict=True)) | changes
            self.db.execute(
                "UPDATE attempts SET state = ?, body = ?, error = ?, usd = ?, input_tokens = ?, "
                "output_tokens = ?, digest = ?, settled = coalesce(settled, ?) WHERE id = ?",
                (
                    *(values[name] for name in COLUMNS[4:10]),
                    seal([values[name] for name in COLUMNS]),
                    time.time(),
                    row,
                ),
            )

    def _caught_up(self) -> _Sums:
        """Return the sums with what any process has changed since, within a transaction."""
        first, last = self.db.execute(
            "SELECT (SELECT min(seq) FROM changes), (SELECT max(seq) FROM changes)"
        ).fetchone()
        now = self._sums
        if last is None or last == now.seq:
            return now
        if first > now.seq + 1 or last < now.seq:
            self._sums = self._added_up()
            return self._sums
        calls, pico = self.db.execute(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(pico), 0) FROM changes "
            "WHERE seq > ? AND key IN (SELECT key FROM temp.run)",
            (now.seq,),
        ).fetchone()
        self._sums = _Sums(last, now.calls + calls, now.pico + pico)
        return self._sums

    def _added_up(self) -> _Sums:
        (seq,) = self.db.execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()
        calls, pico = self.db.execute(
            "SELECT count(*), coalesce(sum(CAST(round(usd * 1e12) AS INTEGER)), 0) "
            "FROM temp.run CROSS JOIN attempts USING (key)"
        ).fetchone()
        more = self.db.execute(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(pico), 0) "
            "FROM temp.run CROSS JOIN bygone USING (key)"
        ).fetchone()
        return _Sums(seq, calls + more[0], pico + more[1])


def _storable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which JSON can hold and a file cannot."""
    return text.encode("utf-8", "replace").decode()


def _dollars(usd: float) -> float:
    if usd < 0:
        return 0.0
    return float(usd) if usd <= MOST_USD else MOST_USD  # also where it is no number


def _pico(usd: float) -> int:
    return round(usd * PICO)

"""The ledger's tables, the seal over a row, and how an older file becomes a present one."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seedtalk.errors import RunError
from seedtalk.teacher.answers import usage_in

VERSION = 2
APPLICATION = 0x53544C47  # "STLG" in the file's header: another program's database is refused
BUSY_SECONDS = 60.0  # how long a writer waits for another's commit

# Every column of an attempt that its digest covers, in the digest's order.
COLUMNS = (
    *("key", "attempt", "endpoint", "model", "state", "body", "error", "usd"),
    *("input_tokens", "output_tokens", "created", "batch"),
)

_TABLES = """
CREATE TABLE requests (
    key TEXT PRIMARY KEY,       -- see request_key
    backend TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    body TEXT                   -- JSON of what was asked; NULL where a version 1 kept none
);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- no row's id is given again
    key TEXT NOT NULL,
    attempt INTEGER NOT NULL,   -- counts from 1 within a key
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'received', 'failed')),
    body TEXT,                  -- what came back, as it came
    digest TEXT,                -- of the row, see seal: a damaged answer is no answer
    error TEXT,
    usd REAL NOT NULL,          -- reserved while sent, settled after
    input_tokens INTEGER,
    output_tokens INTEGER,
    created REAL NOT NULL,      -- unix seconds
    batch TEXT,                 -- token of the batch it was sent in
    settled REAL,               -- unix seconds; NULL while sent, and of a version 1
    UNIQUE (key, attempt)
);
CREATE TABLE batches (
    token TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    state TEXT NOT NULL,
    file_id TEXT,
    batch_id TEXT,
    output_file_id TEXT,
    error_file_id TEXT,
    created REAL NOT NULL,
    lines TEXT NOT NULL         -- JSON: [[custom_id, key, row of attempts], ...]
);
-- What attempts cost that `ledger gc` has deleted: it counts against the caps for ever.
CREATE TABLE bygone (key TEXT PRIMARY KEY, calls INTEGER NOT NULL, pico INTEGER NOT NULL);
-- The latest changes of what requests cost, so that every run keeps its sums without a scan,
-- whoever writes; a run that is further behind adds up its own rows anew. Sums are whole
-- picodollars: they do not drift.
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL, calls INTEGER NOT NULL, pico INTEGER NOT NULL
);
CREATE TRIGGER attempt_made AFTER INSERT ON attempts BEGIN
    INSERT INTO changes (key, calls, pico)
    VALUES (NEW.key, 1, CAST(round(NEW.usd * 1e12) AS INTEGER));
    DELETE FROM changes WHERE seq <= (SELECT max(seq) FROM changes) - 10000;
END;
CREATE TRIGGER attempt_priced AFTER UPDATE OF usd ON attempts WHEN NEW.usd IS NOT OLD.usd BEGIN
    INSERT INTO changes (key, calls, pico) VALUES (
        NEW.key, 0,
        CAST(round(NEW.usd * 1e12) AS INTEGER) - CAST(round(OLD.usd * 1e12) AS INTEGER)
    );
END;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open a file so that a commit survives the machine, not just the process."""
    db = _open(path, "rwc")
    try:
        _write_ahead(db)
        db.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _open(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    # A flipped bit can make text that is no UTF-8: it must reach the digest, not end the run.
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    db.execute("PRAGMA cell_size_check=ON")
    return db


def connect_to_read(path: Path) -> sqlite3.Connection | None:
    """Open a file that cannot be written, leaving nothing beside it; None where that needs a copy.

    SQLite reads the write-ahead log through an index beside it, which it would have to make. So
    without a log the file is opened as one that does not change, with a log and its index as one
    that others may write to, and with a log alone, or the tables of another version, not at all.
    """
    pending = is_pending(path)
    if pending and not Path(f"{path.resolve()}-shm").exists():
        return None
    db = _open(path, "ro" if pending else "ro&immutable=1")
    try:
        if _version(db, path) == VERSION:
            return db
    except BaseException:
        db.close()
        raise
    db.close()
    return None


def is_pending(path: Path) -> bool:
    """Tell whether the write-ahead log may hold what the file does not."""
    log = Path(f"{path.resolve()}-wal")
    return log.exists() and log.stat().st_size > 0


def is_writable(path: Path) -> bool:
    """Tell whether a file can be written: itself, and its folder, for the log."""
    file, own = path.resolve(), os.access in os.supports_effective_ids
    return all(os.access(each, os.W_OK, effective_ids=own) for each in (file, file.parent))


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite does not wait for others who do so at that moment."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty file and bring an older one up to date, in one transaction.

    Raises
    ------
    RunError
        When the file is a newer version's, or no ledger.
    """
    if _version(db, path) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, path)  # another process may have been first
        if version == 1:
            db.execute("DROP INDEX IF EXISTS attempts_key")
            db.execute("ALTER TABLE attempts RENAME TO attempts_1")
        if version < VERSION:
            _execute_each(db, _TABLES)
            db.execute(f"PRAGMA user_version={VERSION}")
            db.execute(f"PRAGMA application_id={APPLICATION}")
        if version == 1:
            _migrate(db)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Return the file's version, 0 where it is empty."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if application not in (0, APPLICATION) or (tables and "attempts" not in tables):
        raise RunError(f"{path}: a database, but no ledger of seedtalk; move it away and run again")
    if version > VERSION:
        raise RunError(
            f"{path}: written by a newer seedtalk (ledger version {version}, this one reads "
            f"{VERSION}); upgrade seedtalk"
        )
    return version


def _execute_each(db: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script within the open transaction, which executescript ends."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""


def _migrate(db: sqlite3.Connection) -> None:
    """Copy the rows of version 1, whose digest covered the body alone.

    A row that was damaged keeps its digest, which fits nothing.
    """
    now = time.time()
    rows = db.execute(
        "SELECT id, key, attempt, endpoint, model, state, body, error, usd, digest "
        "FROM attempts_1 ORDER BY id"
    )
    for row, *told, old in rows:
        values: dict[str, Any] = dict(zip(COLUMNS[:8], told, strict=True))
        values |= {"input_tokens": None, "output_tokens": None, "created": now, "batch": None}
        whole = True
        if values["body"] is not None:
            whole = hashlib.sha256(values["body"].encode()).hexdigest() == old
            usage = usage_in(values["body"])
            values |= {"input_tokens": usage.input, "output_tokens": usage.output}
        sealed = [values[name] for name in COLUMNS]
        db.execute(
            "INSERT INTO attempts (id, key, attempt, endpoint, model, state, body, error, usd, "
            "input_tokens, output_tokens, created, batch, digest) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, *sealed, seal(sealed) if whole else old),
        )
    db.execute(
        "INSERT OR IGNORE INTO requests SELECT key, 'openai', endpoint, model, NULL "
        "FROM attempts_1 ORDER BY id"
    )
    db.execute("DROP TABLE attempts_1")


def seal(values: Sequence[Any]) -> str:
    """Return the sha256 over a row of attempts: its `COLUMNS`, each border kept."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()

"""What a ledger holds, whether it is whole, and how it is tidied and mended."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedtalk.errors import RunError
from seedtalk.progress import bar
from seedtalk.teacher.answers import BadAnswerError, completion
from seedtalk.teacher.ledger.schema import COLUMNS, VERSION, seal
from seedtalk.teacher.ledger.store import BACKEND, PICO, Ledger, fault, request_key

DAY = 86_400.0  # seconds
UNDER_WAY = 2 * DAY  # a call sent within this time may still be answered

_COLUMNS = ", ".join(("id", "digest", *COLUMNS))


@dataclass(frozen=True)
class Attempt:
    """A row of attempts; `whole` tells whether it still fits its digest."""

    row: int
    key: str
    endpoint: str
    model: str
    state: str
    body: str | None
    usd: float
    input_tokens: int | None
    output_tokens: int | None
    created: float
    batch: str | None
    whole: bool


@dataclass(frozen=True)
class Freed:
    """What `collect` took out, or would: rows, the dollars they cost, and bytes of the file."""

    attempts: int
    answers: int
    requests: int
    usd: float
    bytes: int


@dataclass(frozen=True)
class Mended:
    """What `mend` saved, what it lost (each counted as spent), and where the old file lies."""

    requests: int
    attempts: int
    answers: int
    lost: int
    old: Path


def _attempt(found: tuple[Any, ...]) -> Attempt:
    row, digest, *values = found
    told = dict(zip(COLUMNS, values, strict=True))
    told.pop("attempt"), told.pop("error")
    return Attempt(row=row, **told, whole=seal(values) == digest)


def attempts(ledger: Ledger) -> Iterator[Attempt]:
    """Yield every attempt by row, damaged ones too, moving a bar."""
    ((count,),) = ledger.rows("SELECT count(*) FROM attempts")
    with bar("reading the ledger", count) as shown:
        for found in ledger.rows(f"SELECT {_COLUMNS} FROM attempts ORDER BY id"):  # noqa: S608
            yield _attempt(found)
            shown.advance()


def statistics(ledger: Ledger) -> dict[str, Any]:
    """Return what a ledger holds, by endpoint and model.

    Returns
    -------
    dict
        ``version``, ``bytes`` (of the file and its log), ``calls`` and ``usd`` (ever made,
        deleted ones too), ``damaged`` rows, ``open_batches`` and ``models``: for each endpoint
        and model the requests asked and answered, the attempts by state, tokens (those the
        endpoint counted) and US dollars.
    """
    groups: dict[tuple[str, str], Counter[str]] = {}
    usd: dict[tuple[str, str], float] = {}
    keys: dict[tuple[str, str], list[set[str]]] = {}
    damaged = 0
    for attempt in attempts(ledger):
        damaged += not attempt.whole
        name = (attempt.endpoint, attempt.model)
        counts = groups.setdefault(name, Counter())
        asked, answered = keys.setdefault(name, [set(), set()])
        asked.add(attempt.key)
        counts["attempts"] += 1
        counts["damaged"] += not attempt.whole
        usd[name] = usd.get(name, 0.0) + _number(attempt.usd)
        if not attempt.whole:
            continue
        if attempt.state == "received":
            answered.add(attempt.key)
        counts[attempt.state] += 1
        counts["input_tokens"] += attempt.input_tokens or 0
        counts["output_tokens"] += attempt.output_tokens or 0
    ((calls, pico),) = ledger.rows(
        "SELECT coalesce(sum(calls), 0), coalesce(sum(pico), 0) FROM bygone"
    )
    ((batches,),) = ledger.rows("SELECT count(*) FROM batches WHERE state != 'done'")
    fields = ("attempts", "received", "failed", "sent", "damaged", "input_tokens", "output_tokens")
    models: list[dict[str, Any]] = [
        {
            "endpoint": endpoint,
            "model": model,
            "requests": len(keys[endpoint, model][0]),
            "answered": len(keys[endpoint, model][1]),
            **{field: groups[endpoint, model][field] for field in fields},
            "usd": round(usd[endpoint, model], 6),
        }
        for endpoint, model in sorted(groups)
    ]
    return {
        "version": VERSION,
        "bytes": size(ledger.path),
        "calls": calls + sum(model["attempts"] for model in models),
        "usd": round(pico / PICO + sum(usd.values()), 6),
        "damaged": damaged,
        "open_batches": batches,
        "models": models,
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def size(path: Path) -> int:
    """Return the bytes of a ledger's file and of its write-ahead log."""
    files = (path, Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def answers(ledger: Ledger, model: str | None) -> Iterator[dict[str, Any]]:
    """Yield what was asked and answered, by key: the latest response of each that has text."""
    requests = ledger.rows(
        "SELECT key, endpoint, model, body FROM requests "
        "WHERE model = coalesce(?, model) ORDER BY key",
        model,
    )
    for key, endpoint, name, body in requests:
        for raw in ledger.received(key):
            try:
                response = completion(raw)
            except BadAnswerError:
                continue
            yield {
                "key": key,
                "endpoint": endpoint,
                "model": name,
                "body": _loaded(body),
                "response": response,
            }
            break


def _loaded(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def faults(ledger: Ledger) -> Generator[str, None, None]:
    """Yield all that is wrong with a ledger: the file's structure, then row by row."""
    try:
        for (told,) in ledger.rows("PRAGMA integrity_check"):
            if told != "ok":
                yield f"file: {told}"
        known = set()
        for attempt in attempts(ledger):
            known.add(attempt.row)
            if not attempt.whole:
                yield (
                    f"attempts, row {attempt.row} (request {attempt.key}): does not fit its "
                    "digest; it counts as spent, its request is asked again"
                )
        orphans = ledger.rows(
            "SELECT id, key FROM attempts WHERE key NOT IN (SELECT key FROM requests) ORDER BY id"
        )
        for row, key in orphans:
            yield f"attempts, row {row} (request {key}): no such request"
        for key, endpoint, body in ledger.rows(
            "SELECT key, endpoint, body FROM requests ORDER BY key"
        ):
            if body is not None and not _fits(key, endpoint, body):
                yield f"requests, row {key}: does not fit its key"
        batches = ledger.rows("SELECT token, state, lines FROM batches ORDER BY created, token")
        for token, state, text in batches:
            try:
                gone = [line[2] for line in json.loads(text) if line[2] not in known]
            except (ValueError, TypeError, IndexError, RecursionError):
                yield f"batches, row {token}: its lines cannot be read"
                continue
            if gone and state != "done":  # one that is done may have been withdrawn or collected
                yield f"batches, row {token}: {len(gone)} of its attempts are missing"
    except RunError as error:
        yield f"file: {error.__cause__}; what comes after cannot be read"


def _fits(key: str, endpoint: str, body: str) -> bool:
    asked = _loaded(body)
    return isinstance(asked, dict) and request_key(BACKEND, endpoint, asked) == key


def _kept(ledger: Ledger, bodies: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the keys of requests, at every endpoint the ledger knows, and of their repairs."""
    endpoints = [name for (name,) in ledger.rows("SELECT DISTINCT endpoint FROM requests")]
    keys = {request_key(BACKEND, name, body) for body in bodies for name in endpoints}
    return keys | ledger.repairs_of(keys)


def collect(
    ledger: Ledger,
    *,
    keep: Iterable[Mapping[str, Any]] | None,
    failed: bool,
    older_than: float | None,
    dry_run: bool,
) -> Freed:
    """Delete what is asked to go, and give the room back to the disk.

    An attempt goes where every condition given holds; none given, none goes. Calls that may
    still be answered stay. What went still counts against the caps. Safe beside other
    processes: they wait, or this does.

    Parameters
    ----------
    ledger
        An open ledger.
    keep
        Bodies of requests whose attempts, and those of their repairs, stay, whichever endpoint
        was asked; None sets no condition.
    failed
        Attempts with an answer stay.
    older_than
        Attempts younger than this many days stay; None sets no condition.
    dry_run
        Delete nothing, only say what would go; the bytes are then an estimate.

    Raises
    ------
    RunError
        When another process keeps the file busy, or the disk has no room for a copy.
    """
    now = time.time()  # what another run asks from here on stays
    before = size(ledger.path)
    keys = None if keep is None else _kept(ledger, keep)
    db = ledger.db
    none_given = keep is None and not failed and older_than is None
    with ledger.transaction():
        db.execute("CREATE TEMP TABLE keep (key TEXT PRIMARY KEY) WITHOUT ROWID")
        db.executemany("INSERT INTO temp.keep VALUES (?)", ((key,) for key in keys or ()))
        db.execute("CREATE TEMP TABLE gone (id INTEGER PRIMARY KEY)")
        db.execute(
            "INSERT INTO temp.gone SELECT id FROM attempts WHERE NOT :none_given "
            "AND (:all_keys OR key NOT IN (SELECT key FROM temp.keep)) "
            "AND (NOT :failed OR state != 'received') AND created <= :latest "
            "AND (state != 'sent' OR (created < :under_way AND (batch IS NULL OR batch NOT IN "
            "(SELECT token FROM batches WHERE state != 'done'))))",
            {
                "none_given": none_given,
                "all_keys": keep is None,
                "failed": failed,
                "latest": now - (older_than or 0.0) * DAY,
                "under_way": now - UNDER_WAY,
            },
        )
        counted = db.execute(
            "SELECT count(*), coalesce(sum(state = 'received'), 0), coalesce(sum(usd), 0.0), "
            "coalesce(sum(length(CAST(coalesce(body, error, '') AS BLOB))), 0) "
            "FROM temp.gone JOIN attempts USING (id)"
        ).fetchone()
        (requests,) = db.execute(
            "SELECT count(*) FROM requests WHERE NOT EXISTS (SELECT 1 FROM attempts "
            "WHERE attempts.key = requests.key AND id NOT IN (SELECT id FROM temp.gone))"
        ).fetchone()
        if not dry_run:
            db.execute(
                "INSERT INTO bygone SELECT key, count(*), "
                "sum(CAST(round(usd * 1e12) AS INTEGER)) FROM temp.gone JOIN attempts USING (id) "
                "WHERE TRUE GROUP BY key ON CONFLICT (key) DO UPDATE SET "
                "calls = calls + excluded.calls, pico = pico + excluded.pico"
            )
            db.execute("DELETE FROM attempts WHERE id IN (SELECT id FROM temp.gone)")
            db.execute("DELETE FROM requests WHERE key NOT IN (SELECT key FROM attempts)")
            db.execute(
                "DELETE FROM batches WHERE state = 'done' "
                "AND token NOT IN (SELECT batch FROM attempts WHERE batch IS NOT NULL)"
            )
        db.execute("DROP TABLE temp.keep")
        db.execute("DROP TABLE temp.gone")
    went, answered, usd, room = counted
    if dry_run:
        (pages,), (page,) = ledger.rows(
            "SELECT freelist_count FROM pragma_freelist_count "
            "UNION ALL SELECT page_size FROM pragma_page_size"
        )
        return Freed(went, answered, requests, usd, room + pages * page)
    try:
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise fault(ledger.path, error) from error
    return Freed(went, answered, requests, usd, before - size(ledger.path))


def mend(path: Path) -> Mended:
    """Save what is whole in a damaged ledger into a new file that takes its place.

    Parameters
    ----------
    path
        The damaged file; it is kept beside the new one.

    Raises
    ------
    RunError
        When another process has the file open, or its tables cannot be found any more.
    """
    fresh = Path(f"{path}.mended")
    for end in _ENDS:
        Path(f"{fresh}{end}").unlink(missing_ok=True)
    broken = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    broken.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        # Held until it is moved away, so that no run goes on writing to it.
        broken.execute("PRAGMA locking_mode=EXCLUSIVE")
        broken.execute("BEGIN EXCLUSIVE")
        if broken.execute("PRAGMA user_version").fetchone() != (VERSION,):
            raise RunError(
                f"{path}: not a ledger of version {VERSION}; any command but this one "
                "brings an older one up to date"
            )
        with Ledger(fresh) as ledger, ledger.transaction():
            saved = _save(broken, ledger.db)
        number = 1
        while (old := Path(f"{path}.damaged-{number}")).exists():
            number += 1
        for end in _ENDS:
            if (part := Path(f"{path}{end}")).exists():
                part.rename(f"{old}{end}")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            raise RunError(f"{path}: a run has it open; wait for it, then mend the file") from error
        raise RunError(
            f"{path}: nothing can be read of it ({error}); put a copy in its place, or try "
            "`sqlite3 FILE .recover`"
        ) from error
    finally:
        broken.close()  # before another file bears the name, whose log it would take for its own
    if path.exists():
        raise RunError(f"{path}: a run made a new one meanwhile; what was saved is {fresh}")
    fresh.rename(path)
    return Mended(saved["requests"], saved["attempts"], saved["answers"], saved["lost"], old)


_ENDS = ("", "-wal", "-shm")


def _save(broken: sqlite3.Connection, db: sqlite3.Connection) -> Counter[str]:
    """Copy the whole rows of one file into another; count them, and those that are lost."""
    counts: Counter[str] = Counter()
    for found in _readable(broken, "requests", "key, backend, endpoint, model, body"):
        if found and (found[4] is None or _fits(found[0], found[2], found[4])):
            counts["requests"] += 1
            db.execute("INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?)", found)
    for found in _readable(broken, "bygone", "key, calls, pico"):
        if found:
            db.execute("INSERT OR IGNORE INTO bygone VALUES (?, ?, ?)", found)
    for found in _readable(broken, "attempts", f"{_COLUMNS}, settled"):
        attempt = _attempt(found[:-1]) if found else None
        if attempt is not None and attempt.whole:
            counts["attempts"] += 1
            counts["answers"] += attempt.state == "received"
            db.execute(
                f"INSERT OR IGNORE INTO attempts ({_COLUMNS}, settled) "  # noqa: S608 (names of columns)
                f"VALUES ({', '.join('?' * len(found or ()))})",
                found or (),
            )
            db.execute(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, NULL)",
                (attempt.key, BACKEND, attempt.endpoint, attempt.model),
            )
            continue
        counts["lost"] += 1
        if attempt is not None:  # it was paid for, whatever has become of it
            db.execute(
                "INSERT INTO bygone VALUES (?, 1, ?) ON CONFLICT (key) DO UPDATE SET "
                "calls = calls + 1, pico = pico + excluded.pico",
                (attempt.key, round(_number(attempt.usd) * PICO)),
            )
    columns = "token, endpoint, state, file_id, batch_id, output_file_id, error_file_id"
    for found in _readable(broken, "batches", f"{columns}, created, lines"):
        if found and _loaded(found[8]) is not None:
            db.execute("INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", found)
    return counts


def _readable(db: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...] | None]:
    """Yield the rows of a damaged table one by one; None for each that cannot be read."""
    (last,) = db.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()  # noqa: S608
    for row in range(1, last + 1):
        try:
            found = db.execute(
                f"SELECT {columns} FROM {table} WHERE rowid = ?",  # noqa: S608
                (row,),
            ).fetchone()
        except sqlite3.DatabaseError:
            yield None
        else:
            if found is not None:
                yield found

"""The OpenAI Batch API: the same answers for less, within a day.

Requests travel as a file, answers come back as files, and a batch that is created twice is paid
for twice. So a batch has a token, chosen here: it is in the name of the file and in the metadata
of the batch, and the ledger keeps how far the batch got, each step written before it is taken:

``planned``
    Its calls are reserved; the file may have been uploaded.
``uploaded``
    The endpoint has the file.
``creating``
    The endpoint may have been asked to create the batch.
``running``
    The endpoint has the batch.
``done``
    What it brought is in the ledger, or it never came to be.

A run goes by that alone: it brings every open batch that holds one of its requests to its end,
whichever run sent it, then sends what has no answer yet. Going on after a kill is no other path.
"""

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from filelock import FileLock, Timeout

from seedtalk.errors import InputError, RunError
from seedtalk.params import Teacher
from seedtalk.progress import Bar, bar
from seedtalk.records import atomic_file
from seedtalk.teacher import budget
from seedtalk.teacher.answers import Failure, Outcome
from seedtalk.teacher.batch_endpoint import ENDED, PASSING, Endpoint, connect, is_gone, wait
from seedtalk.teacher.batch_lines import MOST_BYTES, LineError, chunks, request_line
from seedtalk.teacher.batch_results import Harvest
from seedtalk.teacher.ledger import Batch, Ledger, endpoint_of
from seedtalk.teacher.limiter import LONGEST_PAUSE
from seedtalk.teacher.openai import (
    DEFAULT_URL,
    KEPT,
    POLL,
    REDIRECT,
    CallError,
    Dialect,
    Standing,
    gone,
    judged,
    keys_of,
    places_of,
    reread,
    short,
    standing,
)

if TYPE_CHECKING:
    from openai.types import Batch as Remote

    from seedtalk.teacher.prices import Price

PICO = 10**12  # caps are held in whole picodollars, as the ledger's sums are
LOOKS = 20  # looks at a batch that may fail in a row
FILES_KEPT = 30 * 86_400.0  # seconds an endpoint keeps files at least
QUEUE_FULL = "token_limit_exceeded"  # no more tokens may wait for this model

# What a batch that is silent about a line says by how it ended. Only answers are billed, but
# whether one of a completed batch was made and lost cannot be known.
NO_RESULT = {
    "completed": ("missing", "the batch was completed without a result for this request"),
    "expired": ("batch_expired", "the batch expired before this request was run"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was run"),
    "failed": ("batch_failed", "the batch failed before this request was run"),
}
UNPAID = frozenset({"batch_expired", "batch_cancelled", "batch_failed"})


def answer_all(
    bodies: Sequence[Mapping[str, Any]],
    params: Teacher,
    ledger: Ledger,
    *,
    prices: Price | None,
) -> Iterator[Outcome]:
    """Answer every request, from the ledger where it can, else in a batch.

    Parameters
    ----------
    bodies
        Bodies of chat requests, each read when it is needed; equal ones share a line.
    params
        Endpoint, caps, attempts, requests in a batch, seconds between looks at it.
    ledger
        Kept open by the caller, until the last outcome is taken.
    prices
        Of the model, without what a batch takes off; None where unknown.

    Returns
    -------
    iterator
        For each request its answer, or the `Failure` it ended in for good. The batches are over
        when this returns; see `openai.reread`.

    Raises
    ------
    InputError
        When no key is set for the default endpoint.
    RunError
        When the missing requests do not all fit under a cap (nothing is sent then), the account
        or a whole batch is refused, the endpoint cannot be reached, a batch was cancelled, the
        run is interrupted, or requests got no answer in `attempts` tries. What was answered is
        kept, a batch goes on at the endpoint, and the next run collects it.
    """
    keys = keys_of(bodies, params)
    failures: dict[str, Failure] = {}
    missing: dict[str, int] = {}  # where the body of a request is, by key
    repairs = []
    for key, place in places_of(keys).items():
        stands = standing(key, bodies[place], params, ledger)
        if stands.repair is not None:
            repairs.append(stands.repair[0])
        if not _settled(stands):
            missing[key] = place
        elif isinstance(stands.outcome, Failure):
            failures[key] = stands.outcome
    ledger.scope([*keys, *repairs])
    if missing:
        with connect(params) as remote:
            run = _Run(bodies, missing, params, ledger, prices, remote)
            run.all()
        failures |= run.failures
        if run.lost:
            last = next(reversed(run.lost.values()))
            raise RunError(
                f"{len(run.lost)} of {len(bodies)} requests got no answer in {params.attempts} "
                f"attempts (the last: {last}). {KEPT}"
            )
    return reread(bodies, keys, failures, params, ledger)


def _settled(stands: Standing) -> bool:
    """Tell whether a request needs no call, nor its answer a repair."""
    return stands.outcome is not None and (stands.repair is None or stands.repaired)


class _Progress:
    """A bar over the lines of several batches."""

    def __init__(self, shown: Bar) -> None:
        self._shown = shown
        self._done: dict[str, int] = {}

    def show(self, batch: Batch, seen: Remote) -> None:
        """Move on by what a look at a batch shows."""
        counts = seen.request_counts
        done = len(batch.lines)
        if seen.status not in ENDED:
            done = counts.completed + counts.failed if counts else 0
        before = self._done.get(batch.token, 0)
        self._shown.advance(max(0, done - before))
        self._done[batch.token] = max(done, before)
        self._shown.describe(f"{batch.batch_id}: {seen.status.replace('_', ' ')}")


class _Run:
    """The batches of one run: what is left to ask, and what stands in its way."""

    def __init__(
        self,
        bodies: Sequence[Mapping[str, Any]],
        places: Mapping[str, int],
        params: Teacher,
        ledger: Ledger,
        prices: Price | None,
        remote: Endpoint,
    ) -> None:
        self._bodies, self._places = bodies, places
        self._params, self._ledger = params, ledger
        self._prices, self._remote = prices, remote
        self._endpoint = endpoint_of(params.base_url or DEFAULT_URL)
        self._folder = Path(f"{ledger.path}.batches")
        self._locks: dict[str, FileLock] = {}  # by token, of the batches in this run's hands
        self._fresh: set[str] = set()  # tokens that no endpoint can know yet
        self._silent = 0  # looks in a row that failed
        self._asked_to_wait = 0.0  # seconds, by the endpoint at the last of them
        self._repairs: dict[str, str] = {}  # key of the request, by that of its repair
        self._dialect = Dialect()
        self._worded: dict[str, Dialect] = {}  # by key, what was known when it was last sent
        self._tries: Counter[str] = Counter()  # by key, those that brought no response
        self._errors: dict[str, CallError] = {}  # by key, what the last of them brought
        self._unrepaired: set[str] = set()  # keys of repairs that will not be made
        self._refused: str | None = None  # why nothing more may be sent
        self._queue_full: str | None = None
        self._taken_up = 0  # batches the endpoint did not turn away whole
        self._ended: set[str] = set()  # keys of the requests with an outcome
        self.failures: dict[str, Failure] = {}
        self.lost: dict[str, CallError] = {}

    def all(self) -> None:
        """Collect what is under way and send what is missing, until nothing is."""
        try:
            while todo := self._todo():
                if not self._open():
                    self._plan(todo)
                self._collect()
                if self._refused:
                    raise RunError(f"{self._refused}. {KEPT}")
        except CallError as error:
            wrong = InputError if error.code == REDIRECT else RunError
            raise wrong(f"{error}. {KEPT}") from error
        except OSError as error:
            raise RunError(
                f"{error.filename or self._folder}: cannot be used ({error.strerror}). {KEPT}"
            ) from error
        except KeyboardInterrupt:
            raise RunError(self._interrupted()) from None
        finally:
            # Whatever went wrong: a batch nobody asked the endpoint for holds no money back.
            with contextlib.suppress(RunError, OSError):
                for batch in self._open():
                    if batch.token in self._locks and batch.state in ("planned", "uploaded"):
                        self._drop(batch)
            for token in list(self._locks):
                self._let_go(token)

    def _interrupted(self) -> str:
        going = [
            batch.batch_id or batch.token
            for batch in self._open()
            if batch.state in ("creating", "running")
        ]
        if not going:
            return f"interrupted before a batch was sent. {KEPT}"
        return (
            f"interrupted; {len(going)} batches go on at the endpoint ({', '.join(going)}) and "
            "nothing is lost: run the stage again to collect them"
        )

    # What to send

    def _todo(self) -> list[str]:
        """Return the keys of what is to be sent; what needs no sending has its outcome."""
        todo = []
        for key, place in self._places.items():
            if key in self._ended or key in self.lost:
                continue
            stands = standing(key, self._bodies[place], self._params, self._ledger)
            if stands.outcome is None:
                # Responses without text were paid for: they count, whichever run asked.
                if stands.faults + self._tries[key] < self._params.attempts:
                    todo.append(key)
                else:
                    self.lost[key] = self._errors[key]
            elif _settled(stands) or not (repair := self._repair(key, stands)):
                self._ended.add(key)
                if isinstance(stands.outcome, Failure):
                    self.failures[key] = stands.outcome
            else:
                todo.append(repair)
        return todo

    def _repair(self, key: str, stands: Standing) -> str | None:
        """Return the key of the repair an answer needs; None where it stands without."""
        repair, _ = stands.repair or ("", {})
        if repair in self._unrepaired or self._tries[repair] >= self._params.attempts:
            return None
        if repair not in self._repairs:
            self._repairs[repair] = key
            self._ledger.widen(repair)
        return repair

    def _is_mine(self, key: str) -> bool:
        return key in self._places or key in self._repairs

    def _body(self, key: str) -> Mapping[str, Any]:
        """Read what a request of this run, or a repair, asks: none is held."""
        if key in self._places:
            return self._bodies[self._places[key]]
        whose = self._repairs[key]
        stands = standing(whose, self._body(whose), self._params, self._ledger)
        if stands.repair is None or stands.repair[0] != key:
            raise gone(self._ledger, whose)
        return stands.repair[1]

    def _line(self, key: str) -> bytes:
        return request_line(key, self._dialect.shaped(self._body(key)))

    def _plan(self, todo: Sequence[str]) -> None:
        """Reserve the calls of `todo`, all or none, and put them down in batches."""
        first = [key for key in todo if key in self._places]
        try:
            self._put_down(todo)
        except budget.CapReachedError:
            if len(first) == len(todo):
                raise
            # An answer stands without its repair: the cap is better spent on what has none.
            self._unrepaired.update(key for key in todo if key not in self._places)
            if first:
                self._put_down(first)

    def _put_down(self, todo: Sequence[str]) -> None:
        self._worded = dict.fromkeys(todo, copy.copy(self._dialect))
        planned = None
        while planned is None:
            self._wait_for_calls(todo)
            planned = self._planned(todo)
        self._fresh |= set(planned)
        for token, group in planned.items():
            with atomic_file(self._file(token), "wb") as file:
                file.writelines(map(self._line, group))

    def _planned(self, todo: Sequence[str]) -> dict[str, list[str]] | None:
        """Reserve batches, by token; None where another run has just begun to call for one."""
        sizes = {key: len(self._line(key)) for key in todo}
        with self._ledger.transaction():
            # Another run may have been quicker since the last look.
            elsewhere = {key for batch in self._open() for _, key, _ in batch.lines}
            left = [key for key in todo if key not in elsewhere and not self._over(key)]
            if any(self._ledger.is_called(key) for key in left):
                return None
            groups = chunks(
                ((key, sizes[key]) for key in left), self._params.batch_requests, MOST_BYTES
            )
            planned = {uuid.uuid4().hex: group for group in groups}
            for token in planned:
                self._take(token)
            self._reserve(planned)
        return planned

    def _reserve(self, planned: Mapping[str, list[str]]) -> None:
        keys = [key for group in planned.values() for key in group]
        most = {key: budget.most(self._prices, self._body(key), batch=True) for key in keys}
        self._check_caps(list(most.values()))
        for token, group in planned.items():
            lines = []
            for key in group:
                body = self._body(key)
                row = self._ledger.reserve(
                    key,
                    self._endpoint,
                    body["model"],
                    most[key],
                    body=body,
                    max_calls=0,  # checked for all of them together
                    max_usd=0.0,
                    batch=token,
                )
                lines.append((key, key, row))
            self._ledger.record_batch(token, endpoint=self._endpoint, state="planned", lines=lines)

    def _check_caps(self, most: list[float]) -> None:
        """Refuse calls of these US dollars at most, unless all fit under the caps.

        Raises
        ------
        CapReachedError
            Says how many would.
        """
        params, before = self._params, self._ledger.spent()
        calls, pico, fits = before.calls, round(before.usd * PICO), 0
        for usd in most:
            calls, pico = calls + 1, pico + round(usd * PICO)
            if 0 < params.max_calls < calls or 0 < round(params.max_usd * PICO) < pico:
                break
            fits += 1
        if fits == len(most):
            return
        cap = f"teacher.max_usd={params.max_usd:g}"
        if 0 < params.max_calls < calls:
            cap = f"teacher.max_calls={params.max_calls}"
        raise budget.CapReachedError(
            f"{cap} would be passed: {len(most)} requests are to be sent, for {sum(most):.4f} USD "
            f"at most, and {fits} of them fit (for {sum(most[:fits]):.4f} USD) beside the "
            f"{before.calls} calls and {before.usd:.4f} USD spent or reserved on these requests "
            f"so far. None of them was sent: raise the cap or ask for less. {KEPT}"
        )

    def _wait_for_calls(self, keys: Iterable[str]) -> None:
        """Wait while another run asks one of the requests by a single call."""
        for key in {key[:3]: key for key in keys}.values():  # claims go by as much of a key
            while self._ledger.is_claimed(key):
                time.sleep(POLL)

    # What is under way

    def _open(self) -> list[Batch]:
        """Return the open batches that hold one of the run's requests."""
        return [
            batch
            for batch in self._ledger.open_batches(self._endpoint)
            if any(self._is_mine(key) for _, key, _ in batch.lines)
        ]

    def _collect(self) -> None:
        """Bring every open batch that holds one of the run's requests to its end."""
        self._queue_full, self._taken_up = None, 0
        batches = self._open()
        if not batches:
            return
        with bar("asking the teacher in batches", sum(len(b.lines) for b in batches)) as shown:
            progress = _Progress(shown)
            while batches:
                # Whoever had a batch before may have changed it just now: look once it is ours.
                strange = [batch for batch in batches if batch.token not in self._locks]
                if not any(self._take(batch.token) for batch in strange):
                    mine = [batch for batch in batches if batch.token in self._locks]
                    going = [self._advance(batch, progress) for batch in mine]
                    if strange or any(going):
                        time.sleep(max(self._params.batch_poll, self._asked_to_wait))
                batches = self._open()
        if self._queue_full and not self._taken_up:
            raise RunError(
                f"the endpoint cannot queue the batch: {self._queue_full}; wait for other batches "
                f"of the account, or lower teacher.batch_requests. {KEPT}"
            )

    def _advance(self, batch: Batch, progress: _Progress) -> bool:
        """Take a batch as far as it goes now; tells whether it is still under way."""
        if batch.state == "planned":
            batch = self._upload(batch)
        if batch.state in ("uploaded", "creating"):
            batch = self._create(batch)
        if batch.state == "done":
            return False
        seen = self._look(batch)
        if seen is None:
            return True
        progress.show(batch, seen)
        if seen.status not in ENDED:
            return True
        if seen.status == "failed" and not (seen.output_file_id or seen.error_file_id):
            self._turned_away(batch, seen)
        else:
            self._taken_up += 1
            self._bring_in(batch, seen)
        return False

    def _upload(self, batch: Batch) -> Batch:
        """Give the endpoint the file of requests, unless it has it."""
        path = self._file(batch.token)
        if batch.token not in self._fresh:
            if made := self._remote.find(batch.token, batch.file_id):
                return self._note(batch, state="running", batch_id=made)
            size = path.stat().st_size if path.exists() else None
            if file := self._remote.find_file(batch.token, size):
                return self._note(batch, state="uploaded", file_id=file)
            if size is None:  # killed before it was written, or cleared away since
                return self._drop(batch)
        file = self._remote.upload(path, batch.token)
        return self._note(batch, state="uploaded", file_id=file)

    def _create(self, batch: Batch) -> Batch:
        """Have the endpoint create the batch, once.

        A request that got lost may take effect all the same, and later: until that is past the
        endpoint is asked for the batch, and only then for another.
        """
        remote, token, file = self._remote, batch.token, batch.file_id
        made = None
        if batch.state == "creating":
            made = remote.find_late(token, file)
        elif token not in self._fresh:
            made = remote.find(token, file)
        attempt = 0
        while not made:
            attempt += 1
            batch = self._note(batch, state="creating")
            try:
                made = remote.create(file or "", token)
            except CallError as error:
                if error.billed:
                    made = remote.find_late(token, file)
                else:
                    batch = self._note(batch, state="uploaded")
                if not made:
                    if error.kind not in PASSING or attempt == self._params.attempts:
                        raise
                    wait(attempt, error)
        click.echo(f"batch {made}: {len(batch.lines)} requests under way", err=True)
        return self._note(batch, state="running", batch_id=made)

    def _look(self, batch: Batch) -> Remote | None:
        """Return how the endpoint says a batch is; None where it says nothing just now."""
        try:
            seen = self._remote.look(batch.batch_id or "")
        except CallError as error:
            if error.kind in PASSING:
                self._silent += 1
                self._asked_to_wait = min(error.retry_after or 0.0, LONGEST_PAUSE)
                if self._silent < LOOKS:
                    return None
            elif is_gone(error):
                self._lose(batch, error)
            raise
        self._silent, self._asked_to_wait = 0, 0.0
        return seen

    def _lose(self, batch: Batch, error: CallError) -> None:
        """Give up a batch the endpoint does not know any more."""
        if time.time() - batch.created < FILES_KEPT:
            raise RunError(
                f"the endpoint does not know batch {batch.batch_id} ({error}): is OPENAI_API_KEY "
                f"one of the project that sent it? {KEPT}"
            )
        self._close(batch, self._harvest(batch), LineError("gone", "the endpoint let go of it"))
        raise RunError(
            f"batch {batch.batch_id} is older than the endpoint keeps one, and its answers are "
            "lost: run the stage again to ask, and pay for, its requests anew"
        )

    def _turned_away(self, batch: Batch, seen: Remote) -> None:
        """Take back a batch that was refused whole: none of its lines ran."""
        faults = (seen.errors and seen.errors.data) or []
        told = [
            f"{fault.code}: {fault.message}" + (f" (line {fault.line})" if fault.line else "")
            for fault in faults[:3]
        ]
        words = short("; ".join(told) or "no reason given")
        self._drop(batch)
        if any(fault.code == QUEUE_FULL for fault in faults):
            self._queue_full = words
        elif not self._adapts(batch.lines[0][1], words):
            raise RunError(f"the endpoint refused batch {batch.batch_id}: {words}. {KEPT}")

    # What came back

    def _harvest(self, batch: Batch) -> Harvest:
        return Harvest(batch, self._ledger, self._prices)

    def _bring_in(self, batch: Batch, seen: Remote) -> None:
        """Put down in the ledger what an ended batch brought, then close it."""
        counts = seen.request_counts
        batch = self._note(
            batch, output_file_id=seen.output_file_id, error_file_id=seen.error_file_id
        )
        harvest = self._harvest(batch)
        for kind, file_id, count in (
            ("output", seen.output_file_id, counts.completed if counts else 0),
            ("error", seen.error_file_id, counts.failed if counts else 0),
        ):
            if file_id:
                self._fetch(batch, kind, file_id, count, harvest)
        self._close(batch, harvest, LineError(*NO_RESULT[seen.status]))
        if odd := harvest.oddities():
            click.echo(f"batch {batch.batch_id}: {odd}; see {self._folder}", err=True)
        if seen.status == "cancelled":
            self._refused = (
                f"batch {batch.batch_id} was cancelled at the endpoint; run the stage again to "
                "ask what it left"
            )

    def _fetch(self, batch: Batch, kind: str, file_id: str, count: int, harvest: Harvest) -> None:
        """Read a file of results, again where it comes damaged or short."""
        path = self._folder / f"{batch.token}.{kind}.jsonl"
        attempts = self._params.attempts
        for attempt in range(1, attempts + 1):
            try:
                self._remote.download(file_id, path)
            except CallError as error:
                if is_gone(error):
                    self._lose_results(batch, harvest, error)
                raise
            told = harvest.read(path, path.with_suffix(".aside"))
            path.unlink()
            if told >= count and not harvest.unread:
                return
            if attempt < attempts:
                wait(attempt)
        if count and not told:
            raise RunError(
                f"not one line of the {kind} file of batch {batch.batch_id} could be read, in "
                f"{attempts} downloads. {KEPT}"
            )

    def _lose_results(self, batch: Batch, harvest: Harvest, error: CallError) -> None:
        self._close(batch, harvest, LineError("gone", "the endpoint does not have the results"))
        raise RunError(
            f"the results of batch {batch.batch_id} are gone from the endpoint ({error}): run the "
            "stage again to ask, and pay for, its requests anew"
        ) from error

    def _close(self, batch: Batch, harvest: Harvest, default: LineError) -> None:
        """Settle the lines that brought no response, and the batch."""
        failed = harvest.failures(default)
        with self._ledger.transaction():
            for key, (row, error, told) in failed.items():
                again = error.kind == "permanent" and self._adapts(key, error.message)
                # What a completed batch is silent about may have been paid for all the same.
                free = told or default.code in UNPAID
                self._ledger.fail(row, error.recorded(again=again), 0.0 if free else None)
            self._note(batch, state="done")
        self._clear(batch)
        for key, (_, error, _) in failed.items():
            if self._is_mine(key):
                self._mind(key, error)

    def _mind(self, key: str, error: CallError) -> None:
        """Draw from a line that brought no response what follows for its request."""
        if error.kind == "account":
            self._refused = str(error)
        elif error.kind in PASSING:
            self._tries[key] += 1
            self._errors[key] = error

    def _adapts(self, key: str, words: str) -> bool:
        """Learn from a refusal how to word requests; tells whether it is worth another batch."""
        body = self._ledger.asked(key)
        sent = body and self._worded.get(key, Dialect()).shaped(body)
        return sent is not None and self._dialect.adapts(sent, words)

    # Tools

    def _over(self, key: str) -> bool:
        """Tell whether the ledger has an answer to a request, or its refusal."""
        answered = judged(key, self._ledger)[0] is not None
        return answered or self._ledger.refusal(key) is not None

    def _note(self, batch: Batch, **fields: Any) -> Batch:
        """Record what has become of a batch."""
        self._ledger.record_batch(batch.token, **fields)
        return replace(batch, **fields)

    def _drop(self, batch: Batch) -> Batch:
        """Take back a batch that never ran: its calls were not made."""
        with self._ledger.transaction():
            self._ledger.withdraw([row for _, _, row in batch.lines])
            batch = self._note(batch, state="done")
        self._clear(batch)
        return batch

    def _clear(self, batch: Batch) -> None:
        """Remove what a batch needed on this disk."""
        self._file(batch.token).unlink(missing_ok=True)
        for rest in self._folder.glob(f".{batch.token}*"):  # of a write that was cut off
            rest.unlink(missing_ok=True)
        self._let_go(batch.token)
        (self._folder / f"{batch.token}.lock").unlink(missing_ok=True)

    def _file(self, token: str) -> Path:
        return self._folder / f"{token}.jsonl"

    def _take(self, token: str) -> bool:
        """Take a batch into this run's hands; tells whether no other run has it."""
        self._folder.mkdir(exist_ok=True)
        lock = FileLock(self._folder / f"{token}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._locks[token] = lock
        return True

    def _let_go(self, token: str) -> None:
        if lock := self._locks.pop(token, None):
            lock.release()

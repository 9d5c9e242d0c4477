"""Group commit: many calls in flight share one durable commit."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

from seedtalk.errors import RunError
from seedtalk.teacher.ledger.store import fault

if TYPE_CHECKING:
    from seedtalk.teacher.answers import Usage
    from seedtalk.teacher.ledger.store import Ledger

MOST = 512  # operations in a commit
SPARE = 4 << 20  # bytes held back on the disk for the answers in flight when it fills up


class _Operation:
    """A change that a task waits for; `asks` where it announces a call rather than settles one."""

    def __init__(self, run: Callable[[], Any], done: asyncio.Future[Any], asks: bool) -> None:
        self.run, self.done, self.asks = run, done, asks
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Writes for one event loop: each method returns when its change is durable.

    A thread takes whatever is waiting, writes it in one transaction and syncs it to disk once;
    so a commit's wait is shared by the calls in flight and never blocks the loop. When the disk
    is full, room held back beside the ledger takes the answers still to come, and no further
    call is reserved.

    Parameters
    ----------
    ledger
        An open ledger, which must outlive the writer.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._spare: IO[bytes] | None = None
        self._full: RunError | None = None
        self._closed = False
        self._waiting: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    async def __aenter__(self) -> Writer:
        self._loop = asyncio.get_running_loop()
        self._spare = self._hold_back()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._waiting.put(None)
        self._thread.join()  # a commit at most; awaiting it could be cancelled and lose changes
        if self._spare is not None:
            self._spare.close()

    async def reserve(
        self,
        key: str,
        endpoint: str,
        model: str,
        usd: float,
        *,
        body: Mapping[str, Any],
        max_calls: int,
        max_usd: float,
    ) -> int | None:
        """Record that a call is about to be sent; see `Ledger.reserve`."""
        change = partial(
            self._ledger.reserve,
            key,
            endpoint,
            model,
            usd,
            body=body,
            max_calls=max_calls,
            max_usd=max_usd,
        )
        return cast("int | None", await self._write(change, asks=True))

    async def receive(
        self, row: int, body: str, usd: float | None = None, usage: Usage | None = None
    ) -> None:
        """Keep what came back for an attempt; see `Ledger.receive`."""
        await self._write(partial(self._ledger.receive, row, body, usd, usage))

    async def fail(self, row: int, error: str, usd: float | None) -> None:
        """Record that an attempt brought no answer; see `Ledger.fail`."""
        await self._write(partial(self._ledger.fail, row, error, usd))

    async def _write(self, run: Callable[[], Any], *, asks: bool = False) -> Any:
        if self._closed:
            raise RuntimeError("the ledger's writer is closed")
        operation = _Operation(run, self._loop.create_future(), asks)
        self._waiting.put(operation)
        return await operation.done

    def _work(self) -> None:
        going = True
        while going:
            taken = [self._waiting.get()]
            while len(taken) < MOST and not self._waiting.empty():
                taken.append(self._waiting.get())
            going = None not in taken
            operations = [operation for operation in taken if operation is not None]
            if operations:
                self._commit(operations)
                self._loop.call_soon_threadsafe(_settle, operations)

    def _commit(self, operations: list[_Operation]) -> None:
        """Write all operations in one transaction; what cannot be written carries its error."""
        try:
            with self._ledger.transaction():
                for operation in operations:
                    if operation.asks and self._full is not None:
                        operation.error = self._full
                    else:
                        operation.result = operation.run()
        except Exception as error:
            if self._make_room(error):
                self._commit(operations)
            elif len(operations) > 1 and not isinstance(error.__cause__, sqlite3.OperationalError):
                for operation in operations:  # one of them is at fault, not the file
                    self._commit([operation])
            else:
                for operation in operations:
                    operation.error = error

    def _hold_back(self) -> IO[bytes]:
        """Take the spare room: a file without a name, gone with the process.

        Raises
        ------
        RunError
            When the disk has not that much left.
        """
        try:
            folder = self._ledger.path.parent
            file = cast("IO[bytes]", tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (held)
            # Random bytes: no file system stores them in less. Written through, not buffered:
            # it is the room on the disk that counts.
            file.writelines(os.urandom(1 << 16) for _ in range(SPARE >> 16))
            file.flush()
        except OSError as error:
            raise fault(self._ledger.path, error) from error
        return file

    def _make_room(self, error: Exception) -> bool:
        """Give the spare room up where the disk is the trouble; False where it is gone."""
        cause = error.__cause__
        name = str(getattr(cause, "sqlite_errorname", ""))
        if not name.startswith(("SQLITE_FULL", "SQLITE_IOERR")) or self._spare is None:
            return False
        self._full = cast("RunError", error)
        self._spare.close()
        self._spare = None
        return True


def _settle(operations: list[_Operation]) -> None:
    for operation in operations:
        if operation.done.done():  # its task was cancelled; the change is kept all the same
            continue
        if operation.error is not None:
            operation.done.set_exception(operation.error)
        else:
            operation.done.set_result(operation.result)

"""Runs of the generate stage that the system kills at a given point.

    python -m tests.faults.killed

reads a JSON object a line: the folder to run in, its environment, the stage's options, a point
and a count. Each is a process of its own, forked once everything is imported, which sends itself
SIGKILL when it comes to the point the so-manieth time: nothing is flushed, closed or cleaned up,
as when the machine's memory runs out. Its pid is answered at once and its exit code at its end.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

import httpx2

from seedtalk import records, tracking  # noqa: F401 (what the stage imports)
from seedtalk.teacher import openai, transport  # noqa: F401
from seedtalk.teacher.ledger import Ledger, writer

STAGE = Path(__file__).parents[2] / "stages" / "generate.py"


class Trap:
    """Springs the nth time it is stepped on."""

    def __init__(self, nth: int) -> None:
        self._steps, self._nth = itertools.count(1), nth

    def step(self) -> None:
        if next(self._steps) == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)


def before_reserve(trap):
    real = writer.Writer.reserve

    async def reserve(self, *arguments, **options):
        trap.step()
        return await real(self, *arguments, **options)

    writer.Writer.reserve = reserve


def after_reserve(trap):
    real = writer.Writer.reserve

    async def reserve(self, *arguments, **options):
        row = await real(self, *arguments, **options)
        trap.step()
        return row

    writer.Writer.reserve = reserve


def in_flight(trap):
    """The request is sent; the endpoint, which takes 0.1 s, has not answered."""
    real = httpx2.AsyncHTTPTransport.handle_async_request

    async def handle(self, request):
        call = asyncio.ensure_future(real(self, request))
        await asyncio.sleep(0.05)
        trap.step()
        return await call

    httpx2.AsyncHTTPTransport.handle_async_request = handle


def before_commit(trap):
    """The answer has come and is not in the ledger."""
    real = writer.Writer.receive

    async def receive(self, *arguments, **options):
        trap.step()
        await real(self, *arguments, **options)

    writer.Writer.receive = receive


def after_commit(trap):
    """The answer is in the ledger and has not been parsed."""
    real = writer.Writer.receive

    async def receive(self, *arguments, **options):
        await real(self, *arguments, **options)
        trap.step()

    writer.Writer.receive = receive


def within_commit(trap):
    """A group's answers are written within a transaction that is not committed."""
    real = Ledger.receive

    def receive(self, *arguments, **options):
        real(self, *arguments, **options)
        trap.step()

    Ledger.receive = receive


def before_outputs(trap):
    """Every request is answered; the stage has not begun to write."""
    real = records.write_jsonl

    def write(*arguments):
        trap.step()
        real(*arguments)

    records.write_jsonl = write


def within_outputs(trap):
    """An output's text is in its temporary file, which is not in place."""
    real = os.fsync

    def fsync(number):
        trap.step()
        real(number)

    records.os.fsync = fsync


POINTS = {
    trap.__name__: trap
    for trap in (
        *(before_reserve, after_reserve, in_flight, before_commit, after_commit, within_commit),
        *(before_outputs, within_outputs),
    )
}


def run(folder, environment, options, point, nth):
    """Run the stage as its own interpreter would; return the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open("stderr.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    if point:
        POINTS[point](Trap(nth))
    sys.argv = [str(STAGE), *options]
    try:
        runpy.run_path(str(STAGE), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve():
    """Fork a run for every line, one after the other."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = run(**json.loads(line))
                sys.stderr.flush()
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()

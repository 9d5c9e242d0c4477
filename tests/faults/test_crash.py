"""What is left of a run that is killed, and what it costs to go on: real processes."""

import json
import os
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from click.testing import CliRunner
from tests import domain
from tests.faults import killed
from tests.faults.server import KEY, completion, requests, say, write_requests

from seedtalk.teacher.ledger import Ledger, upkeep

COUNT, NTH = 20, 8
OPTIONS = (
    *("--params", "params.yaml", "--requests", "requests.jsonl"),
    *("--responses", "out.jsonl", "--summary", "out.json"),
)
OUTPUTS = ("out.jsonl", "out.json")

# The time the trap is stepped on that kills, and the calls then paid for twice, one at a time.
POINTS = {
    "before_reserve": (NTH, 0),
    "after_reserve": (NTH, 0),
    "in_flight": (NTH, 1),
    "before_commit": (NTH, 1),
    "within_commit": (NTH, 1),
    "after_commit": (NTH, 0),
    "before_outputs": (1, 0),
    "within_outputs": (1, 0),
    "within_outputs 2": (2, 0),  # one output is in place, the other is not
}


def prepare(endpoint, folder, count, concurrency, delay=0.1):
    """Write the stage's inputs; every request has an answer of its own."""
    folder.mkdir(exist_ok=True)
    rows = requests(count)
    write_requests(folder / "requests.jsonl", rows)
    group = {"backend": "openai", "model": "m", "base_url": endpoint.url}
    domain.write_params(
        folder / "params.yaml", teacher=group | {"concurrency": concurrency, "timeout": 20.0}
    )
    for row in rows:
        text = row["body"]["messages"][-1]["content"]
        turn = {"messages": [{"role": "seeker", "content": f"of {text}"}], "recommendations": []}
        endpoint.plan[text] = [say(body=completion(json.dumps(turn)), delay=delay)]


def environment(folder):
    paths = os.pathsep.join((str(domain.ROOT), os.environ.get("PYTHONPATH", "")))
    return os.environ | {"DVC_ROOT": str(folder), "OPENAI_API_KEY": KEY, "PYTHONPATH": paths}


class Runs:
    """A process that forks runs of the stage, see `tests.faults.killed`."""

    def __init__(self):
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=domain.ROOT,
            env=environment(domain.ROOT) | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def start(self, folder, point=None, nth=0):
        told = {"folder": str(folder), "environment": environment(folder), "options": OPTIONS}
        self._parent.stdin.write(json.dumps(told | {"point": point, "nth": nth}) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def ended(self):
        return int(self._parent.stdout.readline())

    def close(self):
        self._parent.stdin.close()
        self._parent.wait(30)
        self._parent.stdout.close()


@pytest.fixture(scope="module")
def runs():
    started = Runs()
    yield started
    started.close()


def run_here(folder, monkeypatch):
    """Run the stage in this process; return the bytes of its responses, and its summary.

    What was spent is apart: a call that a kill threw away was paid for all the same.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    stage = runpy.run_path(str(killed.STAGE))["main"]
    done = CliRunner().invoke(stage, OPTIONS)
    assert done.exit_code == 0, done.output
    responses, summary = ((folder / name).read_bytes() for name in OUTPUTS)
    counts = json.loads(summary)
    with Ledger(folder / ".cache" / "ledger.sqlite") as ledger:
        ((attempts,),) = ledger.rows("SELECT count(*) FROM attempts")
    assert counts.pop("spent")["calls"] == attempts
    return responses, counts


def left_open(folder):
    with closing(sqlite3.connect(folder / ".cache" / "ledger.sqlite")) as db, db:
        return db.execute("SELECT count(*) FROM attempts WHERE state = 'sent'").fetchone()[0]


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("point", POINTS)
def test_kill_9_repays_the_calls_in_flight_at_most(
    endpoint, runs, tmp_path, monkeypatch, point, concurrency
):
    nth, repaid = POINTS[point]
    run = tmp_path / "run"
    prepare(endpoint, run, COUNT, concurrency, delay=0.1 if point == "in_flight" else 0.01)
    runs.start(run, point.split()[0], nth)
    assert runs.ended() == -signal.SIGKILL, (run / "stderr.txt").read_text()
    assert (run / "out.jsonl").exists() == (point == "within_outputs 2")
    assert not (run / "out.json").exists()
    time.sleep(0.02)  # the endpoint is still counting what was on its way
    lost = left_open(run)
    assert lost <= concurrency
    if point.endswith(("outputs", "outputs 2")):
        assert endpoint.total == COUNT

    outputs = run_here(run, monkeypatch)
    assert set(endpoint.calls) == {f"q{n}" for n in range(COUNT)}
    again = endpoint.total - COUNT
    assert again <= lost  # what was not known to be settled, and nothing else
    if concurrency == 1:
        assert again == repaid
    with Ledger(run / ".cache" / "ledger.sqlite") as ledger:
        assert list(upkeep.faults(ledger)) == []
        ((attempts,),) = ledger.rows("SELECT count(*) FROM attempts")
        assert attempts >= endpoint.total  # every call the endpoint saw has a row

    whole = tmp_path / "whole"
    prepare(endpoint, whole, COUNT, 16, delay=0.0)
    assert run_here(whole, monkeypatch) == outputs
    assert [path.name for path in run.glob(".out*")] == [] or point.startswith("within_outputs")


def wait_for(endpoint, calls):
    deadline = time.monotonic() + 60
    while endpoint.total < calls:
        assert time.monotonic() < deadline, "the run made no calls"
        time.sleep(0.01)


def test_kill_9_at_any_time(endpoint, tmp_path, monkeypatch):
    """From outside, twice in a row, wherever an interpreter of its own may be."""
    run, concurrency = tmp_path / "run", 6
    prepare(endpoint, run, 60, concurrency, delay=0.05)
    lost = 0
    for calls in (15, 40):
        process = subprocess.Popen(
            [sys.executable, str(killed.STAGE), *OPTIONS], cwd=run, env=environment(run)
        )
        wait_for(endpoint, calls)
        process.kill()
        process.wait()
        time.sleep(0.1)
        lost = left_open(run)
    assert lost <= 2 * concurrency
    outputs = run_here(run, monkeypatch)
    assert endpoint.total <= 60 + lost
    prepare(endpoint, tmp_path / "whole", 60, 16, delay=0.0)
    assert run_here(tmp_path / "whole", monkeypatch) == outputs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("concurrency", [1, 16])
def test_an_interrupt_drains(endpoint, runs, tmp_path, monkeypatch, concurrency, number):
    run = tmp_path / "run"
    prepare(endpoint, run, 40, concurrency, delay=0.2)
    pid = runs.start(run)
    wait_for(endpoint, concurrency + 1)
    os.kill(pid, number)
    assert runs.ended() == 1
    said = (run / "stderr.txt").read_text()
    assert "interrupted" in said and "is kept" in said and "Traceback" not in said
    assert endpoint.total <= 2 * concurrency + 1 and left_open(run) == 0
    for plan in endpoint.plan.values():
        plan[:] = [say()]
    run_here(run, monkeypatch)
    assert endpoint.total == 40  # what was in flight was awaited, and nothing is paid twice


def test_a_second_interrupt_ends_at_once(endpoint, runs, tmp_path):
    run = tmp_path / "run"
    prepare(endpoint, run, 8, 4, delay=8.0)
    pid = runs.start(run)
    wait_for(endpoint, 4)
    start_of_end = time.monotonic()
    os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)
    assert runs.ended() != 0
    assert time.monotonic() - start_of_end < 6
    assert left_open(run) == 4 == endpoint.total

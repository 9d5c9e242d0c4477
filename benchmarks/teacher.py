"""Measure how a teacher is asked: throughput, and what faults cost, beside other ways to ask.

    python -m venv .peers && .peers/bin/pip install -r benchmarks/peers-teacher.txt
    python benchmarks/teacher.py --peers .peers/bin/python --out teacher.json

Every side runs in a process of its own against one endpoint on loopback, in a third process
(benchmarks/teacher_server.py), one after the other; what was called is counted there. It wants
an otherwise idle machine with two cores.

Scenarios: `throughput` (answers take 200 ms, 64 are given at a time; ideal is the time that a
client with no overhead needs; the sequential loop runs on fewer rows, and its time is scaled);
`cut` (every answer is cut off at its token limit); `null` (every answer has null for a text);
`kill` (SIGKILL after half of the rows, then the same command again); `grow` (one row is added
to a finished run); `storm` (429 for two seconds, then 16 at a time).

Columns: rows asked, calls made (in all runs of the scenario), answers paid for beyond one a row,
rows lost (no text in the end), rows with another row's answer, exit code of the last run (or
what it was ended for) and its seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
SCENARIOS = ("throughput", "cut", "null", "kill", "grow", "storm")
PEERS = ("curator", "distilabel")
LATENCY_MS, AT_A_TIME = 200, 64
STORM_AT_A_TIME = 16
CONCURRENCY = {"kill": 16}  # what is in flight when a run is killed is lost to any side
PROMPT = "s " * 400  # what a grounded prompt has around its review, about


@dataclass
class Result:
    """A row of the table."""

    scenario: str
    side: str
    rows: int
    calls: int
    refused: int  # of the calls, with 429: they cost nothing
    paid_twice: int
    lost: int
    mixed_up: int
    exit: str
    seconds: float | None
    ideal: float | None = None


@contextmanager
def endpoint() -> Iterator[str]:
    """Run the server in a process of its own; yields its address."""
    command = [sys.executable, str(HERE / "teacher_server.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


def write_requests(path: Path, rows: int) -> None:
    """Write so many requests as the prompt stage would, each with its number first."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = [
                {"role": "system", "content": PROMPT},
                {"role": "user", "content": f"row-{number} {PROMPT}"},
            ]
            body = {
                "model": "m",
                "temperature": 0.7,
                "max_tokens": 600,
                "response_format": {"type": "json_object"},
                "messages": messages,
            }
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps(line | {"body": body}) + "\n")


def counted(scene: str) -> dict[str, int]:
    """Return what the endpoint counted of one client, by what its address begins with."""
    with urllib.request.urlopen(scene) as response:
        told: dict[str, int] = json.load(response)
    return told


class Side:
    """One way to ask, in one scenario, with a folder of its own."""

    def __init__(
        self,
        name: str,
        python: str,
        scene: str,
        concurrency: int,
        folder: Path,
        limit: float,
    ):
        self.name, self._python, self._limit = name, python, limit
        self._concurrency = concurrency
        self._scene, self._folder = scene, folder
        folder.mkdir(parents=True)

    def counted(self) -> dict[str, int]:
        """Return what the endpoint counted of this side."""
        return counted(self._scene)

    def start(self, rows: int) -> subprocess.Popen[bytes]:
        """Start the side on so many rows."""
        write_requests(self._folder / "requests.jsonl", rows)
        (self._folder / "out.json").unlink(missing_ok=True)
        (self._folder / "cache").mkdir(exist_ok=True)
        # No side may reach for anything but the endpoint.
        environment = os.environ | {
            "OPENAI_API_KEY": "sk-benchmark-0123456789",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self._folder / "datasets"),
            "DISTILABEL_LOG_LEVEL": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_PROXY": "127.0.0.1",
        }
        command = [
            *(self._python, str(HERE / "teacher_sides.py"), self.name, f"{self._scene}/v1"),
            *(str(self._folder / "requests.jsonl"), str(self._concurrency)),
            *(str(self._folder / "cache"), str(self._folder / "out.json")),
        ]
        with (self._folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # whatever it starts ends with it
            )

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a run's end; returns its exit code, or "hung"."""
        try:
            return str(process.wait(self._limit))
        except subprocess.TimeoutExpired:
            self.kill(process)
            return "hung"

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a run, and what it started, with SIGKILL."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def last_words(self) -> str:
        """Return the last line of what it said."""
        said = (self._folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(said) if line.strip()), "")

    def output(self) -> dict[str, Any]:
        """Return what the last run wrote; nothing where it failed."""
        path = self._folder / "out.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def result(self, scenario: str, rows: int, end: str) -> Result:
        """Return how it went, by the endpoint's count and the side's output."""
        counts, out = self.counted(), self.output()
        texts = (out.get("texts") or [None] * rows)[:rows]
        mixed = sum(
            bool(text) and f"row-{number}:" not in text for number, text in enumerate(texts)
        )
        return Result(
            scenario,
            self.name,
            rows,
            counts["calls"],
            counts["refused"],
            max(0, counts["answered"] - rows),
            sum(not text for text in texts),
            mixed,
            end,
            out.get("seconds"),
        )


def run(side: Side, scenario: str, rows: int) -> Result:
    """Run one scenario on one side."""
    if scenario == "kill":
        process = side.start(rows)
        deadline = time.monotonic() + 60
        while side.counted()["answered"] < rows // 2 and process.poll() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if process.poll() is None:
            side.kill(process)
    elif scenario == "grow":
        side.finish(side.start(rows))
        rows += 1
    return side.result(scenario, rows, side.finish(side.start(rows)))


def scene_of(scenario: str) -> str:
    """Return what a scenario's base URL says."""
    mode = scenario if scenario in ("cut", "null", "storm") else "plain"
    return f"{mode},{LATENCY_MS},{STORM_AT_A_TIME if mode == 'storm' else AT_A_TIME}"


def table(results: list[Result]) -> str:
    """Return the results as text."""
    import pandas as pd

    frame = pd.DataFrame([asdict(result) for result in results])
    frame["of ideal"] = frame["seconds"] / frame["ideal"]
    shown = frame.drop(columns="ideal").round({"seconds": 2, "of ideal": 2})
    return shown.astype(object).where(shown.notna(), "").to_string(index=False)


@click.command(help=__doc__)
@click.option("--peers", type=click.Path(exists=True, dir_okay=False), help="Interpreter of peers.")
@click.option("--requests", type=int, default=2000, show_default=True, help="For throughput.")
@click.option("--sequential", type=int, default=50, show_default=True, help="Rows of the loop.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of the other scenarios.")
@click.option(
    "--scenario", "chosen", multiple=True, type=click.Choice(SCENARIOS), help="Only these."
)
@click.option("--limit", type=float, default=300.0, show_default=True, help="Seconds of a run.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of the table.")
def main(
    peers: str | None,
    requests: int,
    sequential: int,
    scale: float,
    chosen: tuple[str, ...],
    limit: float,
    out: Path | None,
) -> None:
    """Run what was chosen, print the table and write it."""
    sizes = {"cut": 20, "null": 20, "kill": 200, "grow": 1000, "storm": 200}
    sides = {"seedtalk": sys.executable}
    if peers:
        # Not resolved: a virtual environment's interpreter is a link that knows where it lies.
        sides |= dict.fromkeys(PEERS, str(Path(peers).absolute()))
    results = []
    with tempfile.TemporaryDirectory() as folder, endpoint() as root:
        for scenario in chosen or SCENARIOS:
            rows = requests if scenario == "throughput" else max(4, int(sizes[scenario] * scale))
            loop = {"sequential": sys.executable} if scenario == "throughput" else {}
            for name, python in (sides | loop).items():
                here = Path(folder) / scenario / name
                scene = f"{root}/{scene_of(scenario)},{scenario}-{name}"
                concurrency = CONCURRENCY.get(scenario, AT_A_TIME)
                side = Side(name, python, scene, concurrency, here, limit)
                count = min(rows, sequential) if name == "sequential" else rows
                result = run(side, scenario, count)
                if scenario == "throughput":
                    result.ideal = rows / AT_A_TIME * LATENCY_MS / 1000
                if name == "sequential" and result.seconds:
                    result.side = f"sequential ({count} rows, scaled)"
                    result.seconds *= rows / count
                results.append(result)
                said = "" if result.exit == "0" else f", exit {result.exit}: {side.last_words()}"
                click.echo(f"{scenario}: {result.side} done{said}", err=True)
    click.echo(table(results))
    if out:
        settings = {"latency_ms": LATENCY_MS, "at_a_time": AT_A_TIME, "cores": os.cpu_count()}
        found = {"settings": settings, "results": [asdict(result) for result in results]}
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

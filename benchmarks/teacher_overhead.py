"""Measure what the generate stage itself takes for a request, and what memory a run of any length.

    python benchmarks/teacher_overhead.py --out overhead.json

The stage runs as it does in the pipeline, a process of its own, against an endpoint on loopback
that answers at once, in another (benchmarks/teacher_server.py), 64 calls at a time. Each number
of requests is asked on a fresh ledger (`calls`) and then once more (`ledger`: every answer is
known, no call is made). It wants an otherwise idle machine with two cores.

Columns: wall and CPU milliseconds a request and the most resident memory, all of the stage's
process alone. Milliseconds are those over a run with one request, which is the start: Python, and
imports. The calls that the endpoint counted, and whether both runs wrote equal bytes, are checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import yaml
from teacher import AT_A_TIME, counted, endpoint, write_requests

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    """A run of the stage, as the system accounts for it."""

    requests: int
    answers: str
    seconds: float
    cpu: float  # seconds, of all threads, in user and kernel mode
    peak_mib: float


def generate(folder: Path, requests: int, answers: str) -> Run:
    """Run the stage in a folder that holds its inputs."""
    command = [
        *(sys.executable, str(ROOT / "stages" / "generate.py"), "--params", "params.yaml"),
        *("--requests", "requests.jsonl", "--responses", f"{answers}.jsonl"),
        *("--summary", f"{answers}.json"),
    ]
    environment = os.environ | {
        "DVC_ROOT": str(folder),
        "OPENAI_API_KEY": "sk-benchmark-0123456789",
        "NO_PROXY": "127.0.0.1",
    }
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"the stage ended with {process.returncode}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Run(requests, answers, seconds, used.ru_utime + used.ru_stime, kilobytes / 1024)


def measure(folder: Path, root: str, requests: int) -> list[Run]:
    """Have so many requests answered twice, by calls and by the ledger."""
    scene = f"{root}/plain,0,{AT_A_TIME},overhead-{requests}"
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["teacher"] |= {
        "backend": "openai",
        "model": "m",
        "base_url": f"{scene}/v1",
        "concurrency": AT_A_TIME,
        "prices": str(ROOT / "prices.yaml"),
    }
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    write_requests(folder / "requests.jsonl", requests)
    runs = [generate(folder, requests, answers) for answers in ("calls", "ledger")]
    called = counted(scene)["calls"]
    if called != requests:
        raise click.ClickException(f"{called} calls were made for {requests} requests")
    first, again = (folder / f"{run.answers}.jsonl" for run in runs)
    if first.read_bytes() != again.read_bytes():
        raise click.ClickException("the two runs wrote different responses")
    return runs


@click.command(help=__doc__)
@click.option(
    "--requests", "sizes", multiple=True, type=int, default=(5_000, 20_000, 50_000),
    show_default=True, help="Requests of a run; may be given again.",
)  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of the table.")
def main(sizes: tuple[int, ...], out: Path | None) -> None:
    """Run every size, print the table and write it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, endpoint() as root:
        start = {run.answers: run for run in measure(Path(folder, "1"), root, 1)}
        click.echo(f"{'requests':>8}  answers  wall ms  CPU ms  peak MiB")
        for size in sizes:
            for run in measure(Path(folder, str(size)), root, size):
                base = start[run.answers]
                wall = (run.seconds - base.seconds) / size * 1000
                cpu = (run.cpu - base.cpu) / size * 1000
                told = f"{size:8,}  {run.answers:7}  {wall:7.2f}  {cpu:6.2f}  {run.peak_mib:8.0f}"
                click.echo(told)
                rows.append(asdict(run) | {"wall_ms": wall, "cpu_ms": cpu})
    if out:
        found = {
            "settings": {"at_a_time": AT_A_TIME, "cores": os.cpu_count()},
            "start": [asdict(run) for run in start.values()],
            "runs": rows,
        }
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What runs of the generate stage hold in memory, told by a process that does nothing else.

    python -m tests.faults.measured FOLDER URL BACKEND ...

has two numbers of requests answered by the endpoint at URL, by each backend in turn, and writes
the peak of what Python held in each run: {backend: [bytes, bytes]}. The first run, of one
request, imports.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from functools import partial
from pathlib import Path

from tests.faults.server import requests
from tests.faults.test_memory import COUNTS, LONG

from seedtalk import records
from seedtalk import teacher as layer
from seedtalk.params import load_params


def write(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in requests(count, f"{count}-"):
            row["body"]["messages"][0]["content"] = "told " * (LONG // 5)
            file.write(json.dumps(row) + "\n")


def run(folder: Path, url: str, backend: str, count: int) -> None:
    values = {"backend": backend, "model": "m", "base_url": url, "batch_poll": 0.01}
    values |= {"concurrency": 8, "batch_requests": 100, "timeout": 60.0}
    params = load_params(folder / "params.yaml").teacher.model_copy(update=values)
    out = folder / f"{backend}-{count}.jsonl"
    summary = layer.stream(
        layer.read_requests(folder / f"{count}.jsonl"),
        params,
        seed=0,
        cache_dir=folder / "cache",
        write=partial(records.write_jsonl, out),
    )
    assert summary["answered"] == count and out.stat().st_size > count * LONG


def peak(folder: Path, url: str, backend: str, count: int) -> int:
    gc.collect()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    run(folder, url, backend, count)
    _, most = tracemalloc.get_traced_memory()
    return most - before


def main(folder: Path, url: str, backends: list[str]) -> None:
    for count in (1, *COUNTS):
        write(folder / f"{count}.jsonl", count)
    for backend in backends:
        run(folder, url, backend, 1)
    tracemalloc.start()
    print(json.dumps({b: [peak(folder, url, b, count) for count in COUNTS] for b in backends}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])

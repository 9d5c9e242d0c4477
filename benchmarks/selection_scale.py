"""Measure how time and memory of a selection grow with rows, dimensions and budget.

python benchmarks/selection_scale.py FOLDER --method js --method fisher

Each point is one process that maps a clustered synthetic table from FOLDER (made on first use; a
million rows of 384 dimensions are 1.5 GB) and selects from it. The base point is measured once,
and each of --rows, --dims and --budgets goes through its values while the others stay at the
base. FOLDER gets scale.json and scale.png, and the power of each axis that the time grows with
is printed.

Peak memory is the largest RssAnon seen, 50 times a second: what the process allocates, without the
pages of the mapped file, which the system drops where memory is short. The peak of the whole
resident set (VmHWM) is given beside it. Linux only.

What is drawn and fitted on a processor is its CPU time, which other work on the machine changes
little; on a GPU it is the time on the clock. docs/images/selection-growth.png was drawn by

    python benchmarks/selection_scale.py FOLDER --base 200000 384 2000 --rows 50000 --rows 100000 \\
      --dims 96 --dims 192 --budgets 500 --budgets 1000 --picture docs/images/selection-growth.png
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np

CENTRES = 200
PIECE = 16384  # rows made at once
STEP = 0.02  # seconds between looks at the memory
AXES = {"rows": "rows N", "dims": "dimensions d", "budgets": "budget"}


def make(folder: Path, rows: int, dims: int) -> Path:
    """Write unit rows about `CENTRES` centres of unequal weight, noise with a falling spectrum."""
    path = folder / f"x_{rows}_{dims}.npy"
    if path.exists():
        return path
    rng = np.random.default_rng([rows, dims])
    centres = rng.normal(size=(CENTRES, dims))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weight = rng.dirichlet(np.ones(CENTRES))
    spectrum = np.linspace(1.35, 0.27, dims) / np.sqrt(dims)
    part = path.with_suffix(".part")
    X = np.lib.format.open_memmap(part, "w+", np.float32, (rows, dims))
    for begin in range(0, rows, PIECE):
        count = min(PIECE, rows - begin)
        x = centres[rng.choice(CENTRES, count, p=weight)]
        x += rng.normal(size=(count, dims)) * spectrum
        X[begin : begin + count] = x / np.linalg.norm(x, axis=1, keepdims=True)
    X.flush()
    part.rename(path)
    return path


def memory(field: str) -> float:
    """Return a field of this process's /proc status in GiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 2**20


def measure(path: Path, budget: int, method: str, device: str) -> dict[str, object]:
    """Select in this process; return its time, memory and a digest of the picks."""
    import hashlib

    from seedtalk.selection import select
    from seedtalk.selection.tables import threads

    peak, stop = [memory("RssAnon")], threading.Event()

    def watch() -> None:
        while not stop.wait(STEP):
            peak[0] = max(peak[0], memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, busy = time.perf_counter(), time.process_time()
    kind, _, criterion = method.partition("-")
    X = np.load(path, mmap_mode="r")
    chosen = select(X, budget, kind, criterion=criterion or "logdet", device=device)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    stop.set()
    watcher.join()
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(busy, 2),
        "threads": threads(),
        "peak_anon_gib": round(peak[0], 3),
        "peak_resident_gib": round(memory("VmHWM"), 3),
        "gain": float(chosen.gains.sum()),
        "picks": hashlib.sha256(chosen.indices.tobytes()).hexdigest()[:16],
    }


def along(points: list[dict], base: dict[str, int], axis: str, method: str) -> list[tuple]:
    """Return value, seconds and GiB of a method's points along an axis, in order."""
    seconds = "cpu_seconds" if points[0]["device"] == "cpu" else "seconds"
    return sorted(
        (point[axis], point[seconds], point["peak_anon_gib"])
        for point in points
        if point["method"] == method
        and all(point[other] == base[other] for other in AXES if other != axis)
    )


def slope(line: list[tuple]) -> float:
    """Return the power of its axis that the time grows with, by least squares of the logarithms."""
    across, seconds, _ = (np.log(values) for values in zip(*line, strict=True))
    return float(np.polyfit(across, seconds, 1)[0])


def plot(points: list[dict], base: dict[str, int], path: Path) -> None:
    """Draw time and memory against rows, dimensions and budget, a line for each method."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey="row")
    for column, (axis, label) in enumerate(AXES.items()):
        for method in dict.fromkeys(point["method"] for point in points):
            across, seconds, gib = zip(*along(points, base, axis, method), strict=True)
            axes[0, column].loglog(across, seconds, "o-", label=method)
            axes[1, column].semilogx(across, gib, "o-", label=method)
        others = ", ".join(f"{AXES[o].split()[-1]} = {base[o]:,}" for o in AXES if o != axis)
        axes[0, column].set_title(others, fontsize=9)
        axes[1, column].set_xlabel(label)
    processor = points[0]["device"] == "cpu"
    axes[0, 0].set_ylabel("CPU seconds" if processor else "seconds")
    axes[1, 0].set_ylabel("peak RssAnon (GiB)")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("js", "fisher"),
    show_default=True,
    help="A method of select; fisher-trace is fisher with the criterion trace.",
)
@click.option(
    "--base",
    nargs=3,
    type=int,
    default=(1_000_000, 384, 9_000),
    show_default=True,
    help="Rows, dimensions and budget of the base point.",
)
@click.option("--rows", multiple=True, type=int, default=(62_500, 125_000, 250_000, 500_000))
@click.option("--dims", multiple=True, type=int, default=(96, 192, 768))
@click.option("--budgets", multiple=True, type=int, default=(1_000, 3_000))
@click.option("--only-base", is_flag=True, help="Measure the base point alone.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--timeout", type=float, default=3600.0, show_default=True, help="Seconds a point.")
@click.option(
    "--picture", type=click.Path(path_type=Path), help="Draw here.  [default: FOLDER/scale.png]"
)
@click.option("--one", hidden=True, nargs=4, type=str, help="One point, in this process.")
def main(folder, methods, base, rows, dims, budgets, only_base, device, timeout, picture, one):
    """Measure every point, in a process each, and write what was found."""
    if one:
        path, budget, method, where = one
        click.echo(json.dumps(measure(Path(path), int(budget), method, where)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    centre = dict(zip(AXES, base, strict=True))
    grid = [centre]
    if not only_base:
        for axis, values in zip(AXES, (rows, dims, budgets), strict=True):
            grid += [centre | {axis: value} for value in values if value != centre[axis]]
    points = []
    for at in grid:
        path = make(folder, at["rows"], at["dims"])
        for method in methods:
            given = [str(path), str(at["budgets"]), method, device]
            done = subprocess.run(
                [sys.executable, __file__, str(folder), "--one", *given],
                capture_output=True,
                text=True,
                timeout=timeout,
            )
            if done.returncode:
                raise click.ClickException(f"{method} at {at}: {done.stderr.strip()}")
            points.append({"method": method, "device": device, **at, **json.loads(done.stdout)})
            click.echo(json.dumps(points[-1]))
    (folder / "scale.json").write_text(json.dumps(points, indent=1) + "\n")
    plot(points, centre, picture or folder / "scale.png")
    for axis, method in itertools.product(AXES if len(grid) > 1 else (), methods):
        if len(line := along(points, centre, axis, method)) > 1:
            click.echo(f"{method}: time grows as {AXES[axis]} to the {slope(line):.2f}")


if __name__ == "__main__":
    main()

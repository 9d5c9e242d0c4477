"""Selection beside apricot, submodlib, BAIT and plain recomputation: same rows, same objective.

Every side runs in a process of its own, in turn, several times; the table shows medians, the
objective reached (and ours after as many picks) and how many of the first picks are the same.
Sides that would take minutes run once, on a part of the budget, and are scaled (marked ~): their
cost a pick is constant, or grows.

    python -m venv peers && peers/bin/pip install -r benchmarks/peers-selection.txt
    python benchmarks/selection.py --peers peers/bin/python
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from seedtalk.selection import js

SIDES = Path(__file__).with_name("selection_sides.py")
RIDGE, CLUSTERS = 1.0, 32
SLOW = {"inverse logdet", "BAIT trace", "per-candidate js"}  # run once, and in part

# objective: (ours, peers: (side, in the peers' environment, picks it runs or None for all))
DUELS = {
    "facility location": (
        "seedtalk facility",
        [("apricot facility", True, None), ("submodlib facility", True, None)],
    ),
    "log-determinant": (
        "seedtalk logdet",
        [("inverse logdet", False, 60), ("submodlib logdet", True, None)],
    ),
    "Fisher trace": ("seedtalk trace", [("BAIT trace", False, 60)]),
    "Jensen-Shannon": (
        "seedtalk js",
        [("per-candidate js", False, 6), ("whole-pool js", False, None)],
    ),
}


def clustered(rows: int, features: int, seed: int) -> np.ndarray:
    """Unit rows around 64 centres of unequal size, in float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(64, features))
    share = rng.dirichlet(np.full(64, 0.5))
    X = centres[rng.choice(64, rows, p=share)] + 1.2 * rng.normal(size=(rows, features))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def objective(name: str, X: np.ndarray, picks: list[int]) -> float:
    """Value of a selection, computed here for all sides alike.

    Of Jensen-Shannon, whose score moves with what is selected: the divergence of the picks' mean
    membership from the pool's, which is small where the picks cover what the pool holds.
    """
    rows = X[picks].astype(np.float64)
    if name == "facility location":
        best = np.zeros(len(X))
        for block in np.array_split(rows, max(1, len(rows) // 64)):
            best = np.maximum(best, (X.astype(np.float64) @ block.T).max(axis=1))
        return float(best.sum())
    information = RIDGE * np.eye(X.shape[1]) + rows.T @ rows
    if name == "log-determinant":
        sign, value = np.linalg.slogdet(information / RIDGE)
        return float(sign * value)
    if name == "Fisher trace":
        fisher = X.T.astype(np.float64) @ X / len(X)
        return float(np.trace(np.linalg.solve(information, fisher)))
    profile = js.profile(X, CLUSTERS, 0.0, 0)
    return float(js.divergence(profile.p[picks].mean(axis=0), profile.p.mean(axis=0)))


def measure(python: str, side: str, X: Path, budget: int, threads: int) -> tuple[float, list[int]]:
    """Return the seconds and the picks of one run of a side."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        arguments = [side, str(X), str(budget), str(threads), str(out)]
        done = subprocess.run(
            [python, str(SIDES), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise click.ClickException(f"{side}: {done.stderr.strip()[-800:]}")
        result = json.loads(out.read_text())
    return result["seconds"], result["picks"]


@click.command(help=__doc__)
@click.option("--peers", required=True, help="Python interpreter that has the peers.")
@click.option("--rows", default=10_000, show_default=True)
@click.option("--features", default=384, show_default=True)
@click.option("--budget", default=1_000, show_default=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="A .npy of unit rows.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(DUELS)), help="Leave out the others.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(peers, rows, features, budget, data, threads, repeats, only, out):
    X = np.load(data)[:rows] if data else clustered(rows, features, 0)
    figures = {"rows": len(X), "features": X.shape[1], "budget": budget, "threads": threads}
    click.echo(f"{len(X)} x {X.shape[1]} float32, budget {budget}, {threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.npy"
        np.save(file, X)
        for name, (ours, others) in DUELS.items():
            if only and name not in only:
                continue
            click.echo(f"\n{name}")
            sides = [(ours, sys.executable, budget)]
            for side, apart, part in others:
                sides.append(
                    (side, peers if apart else sys.executable, min(part or budget, budget))
                )
            times: dict[str, list[float]] = {side: [] for side, *_ in sides}
            picks: dict[str, list[int]] = {}
            for number in range(repeats):  # in turn: a slow minute of the machine hits all
                for side, python, count in sides:
                    if side in SLOW and number:
                        continue  # its ratio is no close call
                    seconds, picks[side] = measure(python, side, file, count, threads)
                    times[side].append(seconds)
            own, found = statistics.median(times[ours]), {}
            for side, _, count in sides:
                scaled = statistics.median(times[side]) * budget / count
                same = sum(a == b for a, b in zip(picks[ours], picks[side], strict=False))
                found[side] = {
                    "seconds": scaled,
                    "times": times[side],
                    "picks_run": count,
                    "ratio": scaled / own,
                    "same_picks": same,
                    "objective": objective(name, X, picks[side]),
                    "objective_of_ours": objective(name, X, picks[ours][:count]),
                }
                _line(side, found[side], budget)
            figures[name] = found
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _line(side, found, budget):
    count = found["picks_run"]
    mark = "~" if count < budget else " "
    parts = [f"  {side:<20}{mark}{found['seconds']:9.2f} s", f"{found['ratio']:8.1f} x"]
    after = f" after {count}" if count < budget else ""
    parts.append(
        f"objective{after} {found['objective']:.6f} (ours {found['objective_of_ours']:.6f})"
    )
    parts.append(f"{found['same_picks']}/{count} picks the same")
    click.echo("  ".join(parts))


if __name__ == "__main__":
    main()

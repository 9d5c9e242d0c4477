"""The result table in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, at
from seedtalk.records import read_json

PAIR = ("mean", "low", "high")
SLICES = ("_with_reviews", "_without_reviews")  # as `tables.metrics` ends their names
MINUS = " minus "  # as `tables.metrics` joins the two systems of a difference
UNBOUND = 10_000  # columns


def print_results(results: Path, headline: str) -> None:
    """Print each benchmark's systems, best first, and the paired differences.

    Parameters
    ----------
    results
        Folder with ``metrics.json``.
    headline
        The metric to sort by.

    Raises
    ------
    InputError
        When the file or the metric is missing or malformed.
    """
    path = results / "metrics.json"
    if not path.is_file():
        raise InputError(f"{path}: missing; run `dvc repro report`")
    print_metrics(read_json(path), headline, path)


def print_metrics(metrics: Any, headline: str, path: Path | str) -> None:
    """Print what a ``metrics.json`` holds: of each benchmark up to three tables.

    The headline with its 95% interval, recall@1, ndcg at the headline's cutoff (or the last) and
    mrr: what fits 80 columns; recall on targets with and without reviews; the paired
    differences. The file and the report hold every metric.

    Parameters
    ----------
    metrics
        Its content (`tables.metrics` by benchmark).
    headline
        The metric to sort by.
    path
        Where it is from, for errors.

    Raises
    ------
    InputError
        When the metric is missing or the content malformed.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for benchmark, tree in _object(metrics, path).items():
        found = dict(_object(tree, path, benchmark))
        place = f"{benchmark}.paired"
        pairs = {
            name: _numbers(_part(pair, path, f"{place}.{name}", headline), path, f"{place}.{name}")
            for name, pair in _object(found.pop("paired", {}), path, place).items()
        }
        systems = {
            name: _numbers(scores, path, f"{benchmark}.{name}") for name, scores in found.items()
        }
        parts = (headline, f"{headline}_low", f"{headline}_high")
        for rows, wanted, where in ((systems, parts, benchmark), (pairs, PAIR, place)):
            for name, row in rows.items():
                for part in wanted:
                    _part(row, path, f"{where}.{name}", part)
        shown = [_scores(benchmark, systems, headline)]
        shown += [table for table in [_slices(systems, headline)] if table is not None]
        # Where the terminal is too narrow its own wrapping is ugly but whole; rich would cut.
        unbound = console.options.update(width=UNBOUND)
        for table in shown:
            console.width = max(console.width, console.measure(table, options=unbound).maximum)
            console.print(table)
        for table in _differences(pairs, headline):
            console.print(table)


def _scores(benchmark: str, systems: dict[str, dict[str, float]], headline: str) -> Any:
    from rich.table import Table

    table = Table(title=benchmark, title_justify="left")
    table.add_column("system", no_wrap=True)
    table.add_column(f"{headline} [95%]", justify="right", style="bold", no_wrap=True)
    metrics = _beside(headline, next(iter(systems.values()), {}))
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    for name in sorted(systems, key=lambda system: (-systems[system][headline], system)):
        row = systems[name]
        low, high = row[f"{headline}_low"], row[f"{headline}_high"]
        table.add_row(
            name,
            f"{row[headline]:.3f} [{low:.3f}, {high:.3f}]",
            *(f"{row[metric]:.3f}" if metric in row else "" for metric in metrics),
        )
    return table


def _slices(systems: dict[str, dict[str, float]], headline: str) -> Any:
    """Return the table of recall by kind of target, None where it was not measured."""
    from rich.table import Table

    first = next(iter(systems.values()), {})
    metrics = [n.removesuffix(SLICES[0]) for n in first if n.endswith(SLICES[0])]
    if not metrics:
        return None
    table = Table(title=f"{metrics[0]} on targets", title_justify="left")
    table.add_column("system", no_wrap=True)
    for name in SLICES:
        table.add_column(name.strip("_").replace("_", " "), justify="right", no_wrap=True)
    for name in sorted(systems, key=lambda system: (-systems[system][headline], system)):
        cells = (systems[name].get(metrics[0] + part) for part in SLICES)
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


def _beside(headline: str, scores: dict[str, float]) -> list[str]:
    """Return the metrics to show beside the headline."""
    _, _, cutoff = headline.partition("@")
    if not cutoff:
        cutoffs = [n.partition("@")[2] for n in scores if n.startswith("ndcg@")]
        cutoff = max((c for c in cutoffs if c.isdecimal()), key=int, default="")
    wanted = ("recall@1", f"ndcg@{cutoff}", "mrr")
    return [metric for metric in wanted if metric in scores and metric != headline]


def _differences(pairs: dict[str, dict[str, float]], headline: str) -> list[Any]:
    """Return a table for each system that is held against others."""
    from rich.table import Table

    tables: dict[str, Any] = {}
    for name, row in pairs.items():
        subject, _, other = name.partition(MINUS)
        if subject not in tables:
            table = Table(title=f"{subject}, paired difference of {headline}", title_justify="left")
            table.add_column("minus", overflow="fold")
            for column in ("mean", "95% from", "to"):
                table.add_column(column, justify="right", no_wrap=True)
            tables[subject] = table
        tables[subject].add_row(other, *(f"{row[part]:+.3f}" for part in PAIR))
    return list(tables.values())


def _object(value: Any, path: Path | str, field: str | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{at(path, field=field)}: expected an object, got {type(value).__name__}; "
            "run `dvc repro -f report`"
        )
    return value


def _part(tree: Any, path: Path | str, field: str, name: str) -> Any:
    found = _object(tree, path, field)
    if name not in found:
        raise InputError(f"{at(path, field=f'{field}.{name}')}: missing; run `dvc repro report`")
    return found[name]


def _numbers(tree: Any, path: Path | str, field: str) -> dict[str, float]:
    found = _object(tree, path, field)
    for name, value in found.items():
        if not isinstance(value, int | float):
            raise InputError(
                f"{at(path, field=f'{field}.{name}')}: expected a number, got "
                f"{type(value).__name__}; run `dvc repro -f report`"
            )
    return found

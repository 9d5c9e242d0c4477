"""Runs that differ in their seed alone, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from seedtalk.errors import InputError
from seedtalk.evaluation.intervals import over_runs
from seedtalk.reporting.terminal import print_metrics

METRICS = "results/metrics.json"
PARAMS = "params.yaml"
SEED = ("seed",)

Key = tuple[str, ...]


def print_seeds(root: Path, revisions: Sequence[str], headline: str) -> None:
    """Print the mean over several runs, with its 95% interval over their seeds.

    Parameters
    ----------
    root
        The DVC repository.
    revisions
        Names of experiments, branches, tags or commits, one for each run.
    headline
        The metric to sort by.

    Raises
    ------
    InputError
        When a revision or a file of it is not there, or the runs differ in more than their seed.
    """
    runs = {name: _show(root, name) for name in revisions}
    seeds = check_params({name: params for name, (params, _) in runs.items()})
    found = {name: metrics for name, (_, metrics) in runs.items()}
    click.echo(
        f"{len(runs)} runs, seeds {', '.join(map(str, seeds))}; intervals are over the seeds."
    )
    print_metrics(combine(found, headline), headline, METRICS)


def check_params(params: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the seed of each run.

    Raises
    ------
    InputError
        When there are fewer than two runs, two have one seed, or a parameter beside it differs.
    """
    if len(params) < 2:
        raise InputError(f"give at least 2 runs to put together, got {len(params)}")
    seeds: dict[int, str] = {}
    (first, reference), *others = ((name, _flat(tree)) for name, tree in params.items())
    for name, flat in [(first, reference), *others]:
        for key in sorted(reference.keys() | flat.keys()):
            if key != SEED and reference.get(key) != flat.get(key):
                raise InputError(
                    f"{name}: {'.'.join(key)} is {flat.get(key)!r}, in {first} "
                    f"{reference.get(key)!r}; "
                    "runs put together differ in `seed` only"
                )
        seed = flat[SEED]
        if seed in seeds:
            raise InputError(
                f"{name}: its seed {seed} is that of {seeds[seed]}; no run counts twice"
            )
        seeds[seed] = name
    return list(seeds)


def combine(runs: Mapping[str, Mapping[str, Any]], headline: str) -> dict[str, Any]:
    """Return the runs' ``metrics.json`` as one of the same form.

    Means are over the runs. The intervals of the headline and of the paired differences are
    `over_runs` of the runs' own means.

    Raises
    ------
    InputError
        When a number that one run has is not in another.
    """
    ends = (f"{headline}_low", f"{headline}_high")
    flat = {name: _flat(tree) for name, tree in runs.items()}
    first, reference = next(iter(flat.items()))
    # The ends of a run's own interval say nothing of the seeds.
    keys = [key for key in reference if key[-1] not in ("low", "high", *ends)]
    for name, numbers in flat.items():
        for one, other, missing_in in ((reference, numbers, name), (numbers, reference, first)):
            for key in one:
                if key not in other:
                    raise InputError(
                        f"{missing_in}: {METRICS} has no '{'.'.join(key)}', another run has"
                    )
    found = over_runs([[numbers[key] for key in keys] for numbers in flat.values()])
    tree: dict[str, Any] = {}
    for key, interval in zip(keys, found, strict=True):
        *path, name = key
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[name] = interval["mean"]
        if name == headline:
            place[ends[0]], place[ends[1]] = interval["low"], interval["high"]
        if name == "mean":
            place["low"], place["high"] = interval["low"], interval["high"]
    return tree


def _show(root: Path, revision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and the metrics of a revision."""
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        params = dvc.api.params_show(PARAMS, repo=str(root), rev=revision)
        return params, dvc.api.metrics_show(METRICS, repo=str(root), rev=revision)
    except (DvcException, OSError) as error:
        raise InputError(
            f"{revision}: {error}; name experiments of `dvc exp show` that ran to the report"
        ) from error


def _flat(tree: Any, path: Key = ()) -> dict[Key, Any]:
    """Return the leaves of nested objects by their path."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {
        key: leaf for name, part in tree.items() for key, leaf in _flat(part, (*path, name)).items()
    }

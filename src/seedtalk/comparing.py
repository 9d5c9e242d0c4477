"""Whether this run reproduces the one that a Git revision committed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import yaml

from seedtalk.errors import InputError, at

# Stages whose bytes do not depend on the order in which a processor adds floats.
EXACT_STAGES = ("ingest",)
METRICS = "results/metrics.json"

Interval = tuple[float, float]


def compare(root: Path, rev: str) -> list[str]:
    """Return how this run departs from the one committed at `rev`; empty where it does not.

    Two things must be equal: the hashes that ``data.dvc`` pins, and those of the outputs of
    ``ingest`` in ``dvc.lock``. Everything behind ``ingest`` adds floats, and is held only against
    ``results/metrics.json``: the headline mean of each system, and each paired difference, must
    lie within the 95% interval committed for it. Other metrics are not compared.

    Raises
    ------
    InputError
        When the revision or a file of it is not there, a file is malformed, or the committed
        metrics hold no interval.
    """
    differences = []
    if _pins(root, rev) != _pins(root, None):
        differences.append("data.dvc pins other data")
    before, now = _lock(root, rev), _lock(root, None)
    for stage in sorted(before):
        if stage.split("@")[0] in EXACT_STAGES and before[stage] != now.get(stage):
            differences.append(f"outputs of {stage} have other hashes")
    measured = _metrics(root, None)
    committed = list(_intervals(_metrics(root, rev)))
    if not committed:
        raise InputError(f"{METRICS} at revision '{rev}': holds no interval to compare with")
    for path, (low, high) in committed:
        value = _value(measured, path)
        if value is None:
            differences.append(f"{'.'.join(path)} was not measured")
        elif not low <= value <= high:
            differences.append(
                f"{'.'.join(path)} is {value:.4f}, outside the committed interval "
                f"[{low:.4f}, {high:.4f}]"
            )
    return differences


def _read(root: Path, rev: str | None, name: str) -> tuple[str, str]:
    """Return what a message calls the file, and its text: of `rev`, or of this run."""
    if rev is None:
        return name, _file(root, name)
    return f"{name} at revision '{rev}'", _git_file(root, rev, name)


def _git_file(root: Path, rev: str, name: str) -> str:
    done = subprocess.run(  # noqa: S603 - a fixed command; rev and name are its arguments
        ["git", "show", f"{rev}:{name}"],  # noqa: S607 - git from PATH, as DVC itself
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise InputError(f"{name} at revision '{rev}': {done.stderr.strip()}")
    return done.stdout


def _file(root: Path, name: str) -> str:
    path = root / name
    if not path.is_file():
        raise InputError(f"{name}: missing; run `dvc repro`")
    return path.read_text(encoding="utf-8", errors="replace")


def _pins(root: Path, rev: str | None) -> dict[str, str]:
    place, text = _read(root, rev, "data.dvc")
    try:
        return {out["path"]: out["md5"] for out in yaml.safe_load(text)["outs"]}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{place}: not a .dvc file; run `git checkout data.dvc`") from error


def _lock(root: Path, rev: str | None) -> dict[str, dict[str, str]]:
    place, text = _read(root, rev, "dvc.lock")
    try:
        return {
            name: {out["path"]: out.get("md5", "") for out in stage.get("outs", [])}
            for name, stage in yaml.safe_load(text)["stages"].items()
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{place}: not a lock file; run `dvc repro`") from error


def _metrics(root: Path, rev: str | None) -> dict[str, Any]:
    place, text = _read(root, rev, METRICS)
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{place}: not a JSON document ({error}); run `dvc repro`") from error
    if not isinstance(found, dict):
        raise InputError(
            f"{place}: expected an object, got {type(found).__name__}; run `dvc repro -f report`"
        )
    return found


def _intervals(
    tree: dict[str, Any], prefix: tuple[str, ...] = ()
) -> Generator[tuple[tuple[str, ...], Interval], None, None]:
    """Yield the path of every number that has an interval, and the interval.

    A paired difference is a mean beside a `low` and a `high`; a system's headline stands beside
    the same name with ``_low`` and ``_high``.
    """
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _intervals(value, (*prefix, name))
            continue
        low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
        if low in tree and high in tree:
            ends = _number(tree[low]), _number(tree[high])
            if ends[0] is None or ends[1] is None:
                place = at(METRICS, field=".".join((*prefix, name)))
                raise InputError(f"{place}: its interval is no pair of numbers; run `dvc repro`")
            yield (*prefix, name), (ends[0], ends[1])


def _value(tree: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return _number(tree)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None

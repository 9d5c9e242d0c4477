"""What the report is made of, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seedtalk.errors import InputError, at
from seedtalk.evaluation.intervals import Interval
from seedtalk.evaluation.metrics import metric_names, per_query_metrics
from seedtalk.records import Dialogue, Provenance, Rejected, read_json, read_jsonl, read_table

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["tuned", "zero-shot", "baseline"]

# What the page cannot do without; a dot leads into an object.
CORPUS = (
    "source",
    *(f"items.{key}" for key in ("read", "dropped", "kept", "with_reviews")),
    *(f"reviews.{key}" for key in ("read", "dropped", "kept")),
    *(f"interactions.{key}" for key in ("kept", "users", "held_out_users")),
)
SELECTION = (
    "method",
    "signal",
    "pool",
    "pool_items",
    "distinct_items",
    "most_per_item",
    "clusters",
    "temperature",
    "mean_entropy",
    "entropy_share",
    "pool_per_cluster",
    "picks_per_cluster",
    "diagnostics.clusters",
    "diagnostics.embedding",
    "diagnostics.warnings",
    "stopping.share",
    "stopping.budget",
    "strategies",
    "random_interval",
)
TEACHER = (
    *("backend", "model", "requests", "answered", "tokens.input", "tokens.output", "usd"),
    *("spent.calls", "spent.usd"),
)
SYNTHESIS = (
    "grounding",
    "targets",
    "kept",
    "train",
    "valid",
    "quarantined",
    "titles_listed",
    "hallucination_rate",
    "hallucination.kinds",
    "hallucination.by_style",
    "hallucination.titles",
    "contamination.max",
    "distinct_items",
    "distinct_targets",
)


@dataclass(frozen=True)
class System:
    """A recommender on one benchmark.

    Attributes
    ----------
    name, kind
        Which it is.
    student
        The model it is made of; None for a baseline.
    scores
        Metric to mean and 95% interval.
    queries
        `evaluation.metrics.per_query_metrics` of it.
    """

    name: str
    kind: Kind
    student: str | None
    scores: dict[str, Interval]
    queries: pd.DataFrame


@dataclass(frozen=True)
class Benchmark:
    """Every system on the same queries."""

    name: str
    protocol: dict[str, Any]
    systems: list[System]


@dataclass(frozen=True)
class Evidence:
    """All that the report shows; the fields are named as the stage's options."""

    benchmarks: list[Benchmark]
    corpus: dict[str, Any]
    selection: dict[str, Any]
    gain: pd.DataFrame
    gains: pd.DataFrame
    overlap: pd.DataFrame
    points: pd.DataFrame
    teacher: dict[str, Any]
    synthesis: dict[str, Any]
    losses: dict[str, pd.DataFrame]
    train: list[Dialogue]
    valid: list[Dialogue]
    quarantine: list[Rejected]
    provenance: list[Provenance]
    reviews: pd.DataFrame
    items: pd.DataFrame


def read_evidence(
    students: Sequence[str],
    tunings: Sequence[str],
    benchmarks: Sequence[str],
    cutoffs: Sequence[int],
    *,
    scores: Path,
    predictions: Path,
    corpus: Path,
    selection: Path,
    gain: Path,
    gains: Path,
    overlap: Path,
    points: Path,
    teacher: Path,
    synthesis: Path,
    losses: Path,
    dialogues: Path,
    reviews: Path,
    items: Path,
) -> Evidence:
    """Read every input of the report.

    Parameters
    ----------
    students, tunings, benchmarks
        The matrix that was run; files of other runs that lie beside are not read.
    cutoffs
        Values of k.
    scores, predictions
        Folders of ``<system>-<benchmark>.json`` and ``.parquet``, ``baselines-<benchmark>``
        among them.
    corpus, selection, teacher, synthesis
        The counts that ingest, select, generate and curate wrote.
    gain, gains, overlap, points
        The gain of each pick, of the chosen strategy and of all; the picks that two strategies
        share; the map of pool and seeds.
    losses
        Folder of ``<student>-<tuning>.csv``.
    dialogues
        Folder of ``train``, ``valid``, ``quarantine`` and ``provenance`` (``.jsonl``).
    reviews, items
        The corpus, to show seeds beside their dialogues.

    Raises
    ------
    InputError
        When a file, key or column is missing, or systems of one benchmark were not scored on
        the same queries; says which stage mends it.
    """
    matrix = [(student, tuning) for student in students for tuning in tunings]
    return Evidence(
        benchmarks=[_benchmark(name, matrix, cutoffs, scores, predictions) for name in benchmarks],
        corpus=_mapping(corpus, CORPUS, "ingest"),
        selection=_mapping(selection, SELECTION, "select"),
        gain=_csv(gain, ["rank", "gain"], "select"),
        gains=_csv(gains, ["rank", "share"], "select", ["method"]),
        overlap=_csv(overlap, ["budget", "jaccard"], "select", ["a", "b"]),
        points=_points(points),
        teacher=_mapping(teacher, TEACHER, "generate"),
        synthesis=_mapping(synthesis, SYNTHESIS, "curate"),
        losses={
            f"{student}-{tuning}": _csv(
                losses / f"{student}-{tuning}.csv",
                ["step", "loss", "eval_loss"],
                f"finetune@{student}-{tuning}",
            )
            for student, tuning in matrix
            if tuning != "zero-shot"
        },
        train=_jsonl(dialogues / "train.jsonl", Dialogue),
        valid=_jsonl(dialogues / "valid.jsonl", Dialogue),
        quarantine=_jsonl(dialogues / "quarantine.jsonl", Rejected),
        provenance=_jsonl(dialogues / "provenance.jsonl", Provenance),
        reviews=read_table(reviews, "reviews"),
        items=read_table(items, "items"),
    )


def _benchmark(
    name: str,
    matrix: Sequence[tuple[str, str]],
    cutoffs: Sequence[int],
    scores: Path,
    predictions: Path,
) -> Benchmark:
    files: list[tuple[str, str, list[tuple[str, str]]]] = [
        (f"{student}-{tuning}-{name}", f"evaluate@{student}-{tuning}-{name}", [(student, tuning)])
        for student, tuning in matrix
    ]
    files.append((f"baselines-{name}", f"baseline@{name}", []))
    first: tuple[str, str, str] | None = None
    protocol: dict[str, Any] = {}
    systems: list[System] = []
    for stem, stage, owners in files:
        path = scores / f"{stem}.json"
        content = _mapping(path, ["benchmark", "digest", "protocol", "systems"], stage)
        for key in ("candidates", "queries", "conversations"):
            if not isinstance(content["protocol"].get(key), int):
                raise InputError(
                    f"{at(path, field=f'protocol.{key}')}: no count there; run `dvc repro {stage}`"
                )
        if first is None:
            first = (str(content["digest"]), path.name, stage)
            protocol = dict(content["protocol"])
        elif content["digest"] != first[0]:
            raise InputError(
                f"{at(path, field='digest')}: not scored on the queries of {first[1]}; "
                f"run `dvc repro {first[2]} {stage}`"
            )
        queries = per_query_metrics(_predictions(predictions / f"{stem}.parquet", stage), cutoffs)
        expected = [f"{student}-{tuning}" for student, tuning in owners] or sorted(
            content["systems"]
        )
        for system in expected:
            found = content["systems"].get(system)
            rows = queries[queries["system"] == system].reset_index(drop=True)
            if found is None or rows.empty:
                raise InputError(
                    f"{at(path if found is None else predictions / f'{stem}.parquet')}: "
                    f"system '{system}' is missing; run `dvc repro {stage}`"
                )
            _check_scores(path, system, found, metric_names(cutoffs), stage)
            kind, student = _kind(owners)
            systems.append(System(system, kind, student, found, rows))
    return Benchmark(name, protocol, systems)


def _kind(owners: Sequence[tuple[str, str]]) -> tuple[Kind, str | None]:
    if not owners:
        return "baseline", None
    student, tuning = owners[0]
    return ("zero-shot" if tuning == "zero-shot" else "tuned"), student


def _check_scores(path: Path, system: str, found: Any, metrics: Iterable[str], stage: str) -> None:
    for metric in metrics:
        for part in ("mean", "low", "high"):
            try:
                float(found[metric][part])
            except (KeyError, TypeError, ValueError) as error:
                field = f"systems.{system}.{metric}.{part}"
                raise InputError(
                    f"{at(path, field=field)}: no number there; run `dvc repro {stage}`"
                ) from error


def _predictions(path: Path, stage: str) -> pd.DataFrame:
    _require(path, stage)
    return read_table(path, "predictions")


def _require(path: Path, stage: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing; run `dvc repro {stage}`")


def _mapping(path: Path, keys: Sequence[str], stage: str) -> dict[str, Any]:
    _require(path, stage)
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object; run `dvc repro {stage}`")
    for key in keys:
        place: Any = value
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                raise InputError(f"{at(path, field=key)}: missing; run `dvc repro {stage}`")
            place = place[part]
    return value


def _jsonl(path: Path, model: Any) -> list[Any]:
    _require(path, "curate")
    return read_jsonl(path, model)


def _csv(path: Path, columns: Sequence[str], stage: str, names: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table; `columns` must hold numbers, `names` texts."""
    import pandas as pd

    _require(path, stage)
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(names, str))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error
    _check_columns(path, frame, [*columns, *names], stage)
    for column in columns:
        if not pd.api.types.is_numeric_dtype(frame[column]) and len(frame):
            raise InputError(
                f"{at(path, field=column)}: holds what is no number; run `dvc repro {stage}`"
            )
    return frame


def _points(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    _check_columns(path, frame, ["x", "y", "rank"], "select")
    return frame


def _check_columns(path: Path, frame: pd.DataFrame, columns: Sequence[str], stage: str) -> None:
    for column in columns:
        if column not in frame.columns:
            raise InputError(f"{at(path, field=column)}: column missing; run `dvc repro {stage}`")

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

Kind = Literal["tuned", "zero-shot", "blend", "baseline"]

SIGNALS = "signals"  # the blend without its student: a baseline
SLICES = ("with_reviews", "without_reviews")  # kinds of targets

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
QUALITY = (
    "dialogues",
    "fidelity_dialogues",
    "fidelity",
    "fidelity_others",
    "fidelity_recall_1",
    "fidelity_mrr",
    "fidelity_auc",
    "fidelity_words",
    "distinct_1",
    "distinct_2",
    "self_bleu",
    "pairwise_cosine",
    "vocabulary",
    "compression_ratio",
    "opening_share",
    "style_entropy",
    "items",
    "targets",
    "target_share",
    "target_entropy",
    "target_gini",
    "genre_share",
)
NEARNESS = ("target_coverage", "nearest_cosine", "separability", "a_distance", "length_ratio")


@dataclass(frozen=True)
class System:
    """A recommender on one benchmark.

    Attributes
    ----------
    name, kind
        Which it is.
    student
        The model it is made of; None for a baseline.
    alone
        Of a blend, the name of the student in it; else None.
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
    alone: str | None = None


@dataclass(frozen=True)
class Slice:
    """Recall on one kind of targets.

    Attributes
    ----------
    targets, conversations
        How many there are.
    scores
        System to recall@k to mean and interval; empty where there are too few to tell.
    """

    targets: int
    conversations: int
    scores: dict[str, dict[str, Interval]]


@dataclass(frozen=True)
class Benchmark:
    """Every system on the same queries, and its recall by kind of target (`SLICES`)."""

    name: str
    protocol: dict[str, Any]
    systems: list[System]
    slices: dict[str, Slice]


@dataclass(frozen=True)
class _File:
    """One file of scores: where it is, what makes it, and which systems it must hold."""

    stem: str
    stage: str
    owner: tuple[str, str] | None  # student and tuning; None of the baselines
    blend: bool


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
    quality: dict[str, float | None]
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
    quality: Path,
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
        Folders of ``<student>-<tuning>-<benchmark>.json`` and ``.parquet``,
        ``<student>-<tuning>-blend-<benchmark>`` and ``baselines-<benchmark>`` among them.
    corpus, selection, teacher, synthesis
        The counts that ingest, select, generate and curate wrote.
    quality
        What audit measured.
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
        quality=_quality(quality, benchmarks),
        losses={
            f"{student}-{tuning}": _csv(
                losses / f"{student}-{tuning}.csv",
                ["step", "loss", "eval_loss", "context_loss"],
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
    files = [
        *(
            _File(f"{student}-{tuning}-{name}", f"evaluate@{student}-{tuning}-{name}", owner, False)
            for owner in matrix
            for student, tuning in [owner]
        ),
        *(
            _File(
                f"{student}-{tuning}-blend-{name}", f"blend@{student}-{tuning}-{name}", owner, True
            )
            for owner in matrix
            for student, tuning in [owner]
        ),
        _File(f"baselines-{name}", f"baseline@{name}", None, False),
    ]
    first: tuple[str, str, str] | None = None
    protocol: dict[str, Any] = {}
    systems: list[System] = []
    slices: dict[str, Slice] = {}
    for file in files:
        path, stage = scores / f"{file.stem}.json", file.stage
        content = _mapping(path, ["benchmark", "digest", "protocol", "systems", "slices"], stage)
        for key in ("candidates", "queries", "conversations"):
            if not isinstance(content["protocol"].get(key), int):
                raise InputError(
                    f"{at(path, field=f'protocol.{key}')}: no count there; run `dvc repro {stage}`"
                )
        if not isinstance(content["protocol"].get("chance"), dict):
            raise InputError(
                f"{at(path, field='protocol.chance')}: missing; run `dvc repro -f {stage}`"
            )
        if first is None:
            first = (str(content["digest"]), path.name, stage)
            protocol = dict(content["protocol"])
        elif content["digest"] != first[0]:
            raise InputError(
                f"{at(path, field='digest')}: not scored on the queries of {first[1]}; "
                f"run `dvc repro {first[2]} {stage}`"
            )
        table = predictions / f"{file.stem}.parquet"
        queries = per_query_metrics(_predictions(table, stage), cutoffs)
        known = {system.name for system in systems}
        for system in _expected(file, content["systems"]):
            if system in known:
                continue  # `signals` is in every blend's file, and the same in each
            found = content["systems"].get(system)
            rows = queries[queries["system"] == system].reset_index(drop=True)
            if found is None or rows.empty:
                raise InputError(
                    f"{at(path if found is None else table)}: "
                    f"system '{system}' is missing; run `dvc repro {stage}`"
                )
            _check_scores(path, f"systems.{system}", found, metric_names(cutoffs), stage)
            systems.append(_system(file, system, found, rows))
            _add_slices(slices, path, content["slices"], system, cutoffs, stage)
    return Benchmark(name, protocol, systems, slices)


def _expected(file: _File, systems: Iterable[str]) -> list[str]:
    if file.owner is None:
        return sorted(systems)
    alone = "-".join(file.owner)
    return [f"{alone}-blend", SIGNALS] if file.blend else [alone]


def _system(file: _File, name: str, found: dict[str, Interval], queries: pd.DataFrame) -> System:
    if file.owner is None or name == SIGNALS:
        return System(name, "baseline", None, found, queries)
    student, tuning = file.owner
    if file.blend:
        return System(name, "blend", student, found, queries, f"{student}-{tuning}")
    return System(name, "zero-shot" if tuning == "zero-shot" else "tuned", student, found, queries)


def _add_slices(
    slices: dict[str, Slice],
    path: Path,
    content: Any,
    system: str,
    cutoffs: Sequence[int],
    stage: str,
) -> None:
    for name in SLICES:
        part = content.get(name) if isinstance(content, dict) else None
        field = f"slices.{name}"
        if not isinstance(part, dict) or not isinstance(part.get("systems"), dict):
            raise InputError(f"{at(path, field=field)}: missing; run `dvc repro -f {stage}`")
        for key in ("targets", "conversations"):
            if not isinstance(part.get(key), int):
                raise InputError(
                    f"{at(path, field=f'{field}.{key}')}: no count there; run `dvc repro {stage}`"
                )
        known = slices.setdefault(name, Slice(part["targets"], part["conversations"], {}))
        if not part["systems"]:
            continue
        found = part["systems"].get(system)
        recall = [metric for metric in metric_names(cutoffs) if metric.startswith("recall@")]
        _check_scores(path, f"{field}.systems.{system}", found, recall, stage)
        known.scores[system] = found


def _check_scores(path: Path, place: str, found: Any, metrics: Iterable[str], stage: str) -> None:
    for metric in metrics:
        for part in ("mean", "low", "high"):
            try:
                float(found[metric][part])
            except (KeyError, TypeError, ValueError) as error:
                field = f"{place}.{metric}.{part}"
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


def _quality(path: Path, benchmarks: Sequence[str]) -> dict[str, float | None]:
    keys = [*QUALITY, *(audited(name, key) for name in benchmarks for key in NEARNESS)]
    value = _mapping(path, keys, "audit")
    for key in keys:
        if not isinstance(value[key], int | float | None):
            raise InputError(f"{at(path, field=key)}: no number there; run `dvc repro audit`")
    return value


def audited(benchmark: str, name: str) -> str:
    """Return the name in ``results/quality.json`` of a measure on one benchmark."""
    return f"{benchmark.replace('.', '_')}_{name}"


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

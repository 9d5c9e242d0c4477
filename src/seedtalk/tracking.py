"""MLflow: fine-tuning runs, the teacher's traces, the registry. No other module imports it.

The store is ``<root>/mlflow.db`` with artifacts under ``<root>/mlruns``, or whatever
``MLFLOW_TRACKING_URI`` names.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import subprocess
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Protocol

import click

from seedtalk.errors import InputError, RunError
from seedtalk.params import Params, Register, Years
from seedtalk.records import read_json, sha256_file, sha256_text

EXPERIMENT, TRACES = "seedtalk", "seedtalk-teacher"
STORE = "mlflow.db"
TAGS = ("key", "model")  # of a request, to find its trace by
TRACES_AT_ONCE = 50  # handed to MLflow, whose queue drops what it cannot hold
DVC_VARIABLES = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE")
# What tells runs and versions apart from one another; kept as their tags.
DIGEST, STUDENT, DATASET = "seedtalk.digest", "seedtalk.student", "seedtalk.dataset_md5"
LOSSES = ("loss", "eval_loss", "context_loss")  # columns of a training history
METRIC, VALUE, QUERIES = "seedtalk.metric", "seedtalk.value", "seedtalk.queries"
TOLERANCE = 1e-4  # of logits, relative to the largest; two readings of the same weights agree
PROBES = (
    [{"role": "user", "content": "I loved Heat and Fargo. What should I watch next?"}],
    [
        {"role": "user", "content": "Something quiet for a rainy evening, please."},
        {"role": "assistant", "content": "1. Paris, Texas (1984)"},
        {"role": "user", "content": "Seen it. Another one?"},
    ],
)
LOADER = "seedtalk.recommender"  # a name: what trains and asks needs no code of what serves
RECOMMENDER = "recommender"  # folder of a version's data
SERVED_WITH = (  # what seedtalk.recommender imports; a test holds the two together
    "click", "jinja2", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "rapidfuzz",
    "safetensors", "torch", "transformers",
)  # fmt: skip


class Run:
    """An open run: what it logs goes to MLflow at once."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log the values that are known, ``recall@5`` as ``recall_at_5``: MLflow takes no @."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [
            Metric(_plain(name), float(value), now, step)
            for name, value in values.items()
            if value is not None
        ]
        if found:
            self._client.log_batch(self._run_id, metrics=found)

    def update(self, values: Mapping[str, float | None]) -> None:
        """Log the values that are known and are not what the run has already."""
        logged = self._client.get_run(self._run_id).data.metrics
        self.metrics({k: v for k, v in values.items() if logged.get(_plain(k)) != v})

    def learnt(self, dataset: Path) -> bool:
        """Tell whether the run's student has learnt these training dialogues."""
        tags = self._client.get_run(self._run_id).data.tags
        return dataset.is_file() and tags.get(DATASET) == _md5(dataset)

    def student(self, folder: Path) -> None:
        """Tag the run with the digest of a student and keep its adapter."""
        self._client.set_tag(self._run_id, DIGEST, student_digest(folder))
        for name in ("student.json", "adapter_config.json", "adapter_model.safetensors"):
            if (folder / name).is_file():
                self._client.log_artifact(self._run_id, str(folder / name), "student")

    def file(self, path: Path) -> None:
        """Keep a file with the run."""
        self._client.log_artifact(self._run_id, str(path))


def init(root: Path) -> str:
    """Make the store and the experiment where they are missing; return the store's URI.

    Raises
    ------
    RunError
        When the store does not answer or is of another MLflow version.
    """
    uri, _ = _experiment(root)
    return uri


@contextmanager
def run(
    root: Path,
    student: str,
    params: Params,
    *,
    dataset: Path | None = None,
    teacher: Path | None = None,
    quality: Path | None = None,
) -> Generator[Run, None, None]:
    """Open an MLflow run for a fine-tuning; it ends as finished or, on an error, as failed.

    Parameters
    ----------
    root
        Workspace that holds the store.
    student
        ``<student>-<tuning>``, the run's name.
    params
        Logged in full, one MLflow parameter a key.
    dataset
        The training dialogues; their md5 (as DVC has it) becomes a tag.
    teacher
        ``results/teacher.json``: what the dialogues cost becomes metrics, where the file is.
    quality
        ``results/quality.json``: what they are worth becomes metrics, where the file is and
        tells of `dataset`.

    Raises
    ------
    InputError
        When `teacher` is not what the generate stage writes, or `quality` what audit writes.
    RunError
        When the store does not answer.
    """
    told = {} if teacher is None else _teacher_cost(teacher)
    if quality is not None and dataset is not None:
        told |= _quality(quality, dataset)
    with _answering():
        _, experiment = _experiment(root)
        client = _client()
        opened = client.create_run(
            experiment, run_name=student, tags=_tags(root, student, dataset)
        ).info.run_id
    status = "FAILED"
    try:
        with _answering():
            _log_params(client, opened, params)
            made = Run(client, opened)
            made.metrics(told)
            yield made
        status = "FINISHED"
    finally:
        client.set_terminated(opened, status)


def run_of(root: Path, folder: Path) -> Run | None:
    """Return the run that made the student in `folder`; None without one, or without a store.

    Raises
    ------
    RunError
        When the store does not answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (root / STORE).is_file():
        return None
    with _answering():
        _, experiment = _experiment(root)
        found = _run_of(experiment, folder)
        return None if found is None else Run(_client(), found)


def log_results(made: Run, student: str, evaluation: Path, *, dataset: Path, quality: Path) -> None:
    """Add a student's means on one benchmark to its run, and what its dialogues are worth.

    The names are those of `sync`, which finds nothing left to add.

    Parameters
    ----------
    made
        From `run_of`.
    student
        ``<student>-<tuning>``.
    evaluation
        ``results/eval/<student>-<tuning>-<benchmark>.json``.
    dataset, quality
        As of `run`; where the student has learnt other dialogues, nothing is said of these.

    Raises
    ------
    InputError
        When `evaluation` or `quality` is not what its stage writes.
    RunError
        When the store does not answer.
    """
    with _answering():
        told: dict[str, float | None] = {**_means(evaluation, student)}
        if made.learnt(dataset):
            told |= _quality(quality, dataset)
        made.update(told)


class Span(Protocol):
    """A stretch of work to be traced; see `teacher.calls.Span`."""

    name: str
    inputs: Any
    outputs: str | None
    error: str | None
    attributes: dict[str, str | int | float | bool]
    tokens: tuple[int, int] | None
    begun: float
    ended: float | None


def log_traces(root: Path, asked: Iterable[Sequence[Span]], total: int) -> None:
    """Keep a trace of each request in the experiment ``seedtalk-teacher``.

    A trace is a record of a run that is over: where the store cannot keep it, that is said on
    standard error and nothing else fails.

    Parameters
    ----------
    root
        Workspace that holds the store.
    asked
        The requests, read as they are needed: each the span around it, then its attempts.
    total
        How many there are.
    """
    # The calls are over; nobody should wait minutes for a store that is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        _, experiment = _experiment(root, TRACES)
    except RunError as error:
        click.echo(f"no trace was kept: {error.message}", err=True)
        return
    mlflow = _mlflow()
    tags = _experiment_tags()
    kept = 0
    with _complaints() as complaints:
        for number, one in enumerate(asked, start=1):
            _trace(one, experiment, tags)
            if number % TRACES_AT_ONCE == 0 or number == total:
                mlflow.flush_trace_async_logging()
                if complaints:
                    break
                kept = number
    if complaints:
        click.echo(
            _public(f"{total - kept} of {total} traces may be missing: {complaints[0]}"), err=True
        )


def _trace(asked: Sequence[Span], experiment: str, tags: dict[str, str]) -> None:
    import mlflow
    from mlflow.entities import SpanStatusCode, SpanType
    from mlflow.tracing.constant import SpanAttributeKey

    def begin(span: Span, kind: str, parent: Any = None) -> Any:
        attributes: dict[str, Any] = {f"seedtalk.{k}": v for k, v in span.attributes.items()}
        if span.tokens is not None:
            read, written = span.tokens
            attributes[SpanAttributeKey.CHAT_USAGE] = {
                "input_tokens": read, "output_tokens": written, "total_tokens": read + written,
            }  # fmt: skip
        return mlflow.start_span_no_context(
            span.name,
            span_type=kind,
            parent_span=parent,
            inputs={"messages": span.inputs},
            attributes=attributes,
            tags=None
            if parent
            else tags | {f"seedtalk.{k}": str(span.attributes[k]) for k in TAGS},
            experiment_id=None if parent else experiment,
            start_time_ns=_nanoseconds(span.begun),
        )

    def end(opened: Any, span: Span) -> None:
        if span.error is not None:
            opened.set_attribute("seedtalk.error", span.error)
        opened.end(
            outputs=span.outputs,
            status=SpanStatusCode.OK if span.outputs is not None else SpanStatusCode.ERROR,
            end_time_ns=_nanoseconds(span.begun if span.ended is None else span.ended),
        )

    request, *attempts = asked
    whole = begin(request, SpanType.CHAIN)
    for attempt in attempts:
        end(begin(attempt, SpanType.CHAT_MODEL, whole), attempt)
    end(whole, request)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@contextmanager
def _complaints() -> Generator[list[str], None, None]:
    """Gather what MLflow's tracing logs where it should raise."""
    found: list[str] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage().strip().partition("\n")[0])

    log = logging.getLogger("mlflow.tracing")
    before = log.level, log.propagate
    handler = Gather(logging.WARNING)
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


class Save(Protocol):
    """Writes what is registered into an empty folder; see `recommender.save_recommender`."""

    def __call__(
        self, folder: Path, student: Path, items: Path, *, years: Years, cache_dir: Path
    ) -> None:
        """Write the merged `student` and the catalogue of `items` into `folder`."""


@dataclass(frozen=True)
class Synced:
    """What `sync` added to the store."""

    runs: int
    registered: dict[str, Any] | None  # the verdict of `register`, where it had to be repeated


def sync(root: Path, params: Params, cache_dir: Path, save: Save) -> Synced:
    """Bring MLflow up to date with the workspace.

    A stage that DVC takes from its run cache makes no run and registers nothing. Every student
    under ``models/`` without a run gets one from its training history; every student's run gets
    its evaluation's means and, where its dialogues are the workspace's, what they cost and what
    they are worth. Where ``results/registry.json`` names the student of `params` as the
    alias's holder and the registry has no holder, the student is registered again, through the
    same gate. Safe to repeat.

    Parameters
    ----------
    root
        Workspace that holds the store.
    params
        Logged with the runs; the group ``register`` says what is registered.
    cache_dir
        As for `students.loading.load_student`.
    save
        As for `register`.

    Raises
    ------
    InputError
        When a history, an evaluation, ``results/teacher.json``, ``results/quality.json`` or
        ``results/registry.json`` is unreadable.
    RunError
        When the store does not answer.
    """
    return Synced(_sync_runs(root, params), _sync_champion(root, params, cache_dir, save))


def _sync_runs(root: Path, params: Params) -> int:
    """Add the runs and means that are missing; return how many runs were made."""
    made = 0
    dialogues = root / "artifacts" / "dialogues" / "train.jsonl"
    teacher = root / "results" / "teacher.json"
    quality = root / "results" / "quality.json"
    for manifest in sorted((root / "models").glob("*/student.json")):
        folder = manifest.parent
        with _answering():
            _, experiment = _experiment(root)
            known = _run_of(experiment, folder)
        history = root / "results" / "train" / f"{folder.name}.csv"
        if known is None:
            dataset = dialogues if dialogues.is_file() else None
            with run(root, folder.name, params, dataset=dataset, teacher=teacher) as opened:
                for row in _read_history(history):
                    opened.metrics({k: row[k] for k in LOSSES}, int(row["step"]))
                opened.student(folder)
                if history.is_file():
                    opened.file(history)
            made += 1
        with _answering():
            found = known or _run_of(experiment, folder)
            if found is None:  # removed by someone else in the meantime
                continue
            kept = Run(_client(), found)
            if kept.learnt(dialogues):
                kept.update(_teacher_cost(teacher) | _quality(quality, dialogues))
            for path in sorted((root / "results" / "eval").glob(f"{folder.name}-*.json")):
                kept.update(_means(path, folder.name))
    return made


def _sync_champion(
    root: Path, params: Params, cache_dir: Path, save: Save
) -> dict[str, Any] | None:
    """Register the student again if it is said to hold the alias and none does."""
    options = params.register_
    path = root / "results" / "registry.json"
    folder = root / "models" / options.student
    evaluation = root / "results" / "eval" / f"{options.student}-{options.benchmark}.json"
    # A run that is incomplete, or of other parameters, is for `dvc repro` to mend.
    items = root / "artifacts" / "items.parquet"
    if not all(part.is_file() for part in (path, folder / "student.json", evaluation, items)):
        return None
    told = read_json(path)
    if not isinstance(told, dict):
        raise InputError(f"{path}: expected an object; run `dvc repro -sf register`")
    same = ("model", "student", "alias", "benchmark", "metric")
    if not told.get("champion") or any(told.get(k) != getattr(options, k) for k in same):
        return None
    with _answering():
        _experiment(root)
        if _holder(_client(), options.model, options.alias) is not None:
            return None
    return register(
        root, folder, evaluation, options,
        items=items, years=params.curate.years, save=save, cache_dir=cache_dir,
    )  # fmt: skip


def student_digest(folder: Path) -> str:
    """Return the digest of a student's folder: names and bytes of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sha256_text(
        [part for f in files for part in (f.relative_to(folder).as_posix(), sha256_file(f))]
    )


def register(
    root: Path,
    folder: Path,
    evaluation: Path,
    options: Register,
    *,
    items: Path,
    years: Years,
    save: Save,
    cache_dir: Path,
) -> dict[str, Any]:
    """Register a student and move the alias to it if it passes the gate.

    The merged student with its catalogue becomes a version of the registered model, once: the
    same weights and titles are the same version. It answers chat requests through
    ``mlflow models serve`` (`seedtalk.recommender`). The gate has two parts. Read back from the
    registry the version must give the student's logits; and its metric must not be worse than
    that of the alias's holder on the same queries. What is not comparable does not pass.

    Parameters
    ----------
    root
        Workspace that holds the store.
    folder
        The student, ``models/<student>-<tuning>``.
    evaluation
        Its scores on the benchmark, ``results/eval/<student>-<tuning>-<benchmark>.json``.
    options
        The group ``register`` of the parameters.
    items, years
        The catalogue, ``artifacts/items.parquet``, and ``curate.years``: what the served student
        answers with.
    save
        `recommender.save_recommender`.
    cache_dir
        As for `students.loading.load_student`.

    Returns
    -------
    dict
        The verdict, as in ``results/registry.json``: model, version, alias, whether the alias
        points at the version (``champion``) and whether it was moved, metric and values, and the
        outcome and reason of each part of the gate.

    Raises
    ------
    InputError
        When the student, its score or the catalogue is missing.
    RunError
        When the store does not answer.
    """
    value, queries = _score(evaluation, options)
    digest = sha256_text([student_digest(folder), sha256_file(items), years])
    with _answering():
        _, experiment = _experiment(root)
        client = _client()
        version = _version_of(client, options.model, digest)
        if version is None:
            version = _log_version(
                root, experiment, folder, digest, options, items, years, save, cache_dir
            )
        same_logits = _reloads(folder, options.model, version, cache_dir)
        holder = _holder(client, options.model, options.alias)
        reload_gate = {
            "passed": same_logits,
            "reason": f"version {version} read back from the registry "
            + ("gives" if same_logits else "does not give")
            + " the logits of the student",
        }
        metric_gate = _compare(holder, version, value, queries, options)
        passed = reload_gate["passed"] and metric_gate["passed"]
        for tag, told in (
            (STUDENT, options.student),
            (METRIC, options.metric),
            (VALUE, repr(value)),
            (QUERIES, queries),
        ):
            client.set_model_version_tag(options.model, version, tag, told)
        held = holder is not None and str(holder.version) == version
        if passed and not held:
            client.set_registered_model_alias(options.model, options.alias, version)
    return {
        "model": options.model,
        "version": int(version),
        "student": options.student,
        "alias": options.alias,
        "champion": passed or held,
        "moved": passed and not held,
        "benchmark": options.benchmark,
        "metric": options.metric,
        "value": value,
        "gate": {"reload": reload_gate, "metric": metric_gate},
    }


def champion(root: Path, model: str, alias: str) -> Path:
    """Return a local folder with the student that `alias` points at, for `load_student`.

    Raises
    ------
    InputError
        When no version of the model has the alias.
    RunError
        When the store does not answer.
    """
    with _answering():
        _experiment(root)
        holder = _holder(_client(), model, alias)
        if holder is None:
            raise InputError(
                f"the registry has no {model}@{alias}: run `seedtalk sync`; if there is none "
                "after it, `dvc repro -sf register` puts a student up"
            )
        return _downloaded(model, str(holder.version))


def _plain(name: str) -> str:
    return name.replace("@", "_at_")


def _mlflow() -> Any:
    """Import MLflow, quiet, without telemetry, and unable to unpickle."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def _experiment(root: Path, name: str = EXPERIMENT) -> tuple[str, str]:
    """Return the URI of the store and the id of the experiment, both made if missing."""
    from filelock import FileLock

    mlflow = _mlflow()
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    root = root.resolve()
    uri = remote or f"sqlite:///{(root / STORE).as_posix()}"
    mlflow.set_tracking_uri(uri)
    (root / ".cache").mkdir(parents=True, exist_ok=True)
    with _answering(), FileLock(root / ".cache" / "mlflow.lock"):  # first migrations race
        try:
            client = _client()
        except OSError as error:
            raise RunError(_public(f"MLflow's store {uri} failed: {error}")) from error
        found = client.get_experiment_by_name(name)
        if found is not None:
            return uri, found.experiment_id
        # A relative place would be bound to today's working directory.
        place = None if remote else (root / "mlruns").as_uri()
        return uri, client.create_experiment(name, artifact_location=place)


def _client() -> Any:
    return _mlflow().MlflowClient()


@contextmanager
def _answering() -> Generator[None, None, None]:
    """Turn the faults of the store into one clear message."""
    from sqlalchemy.exc import SQLAlchemyError

    mlflow = _mlflow()
    try:
        yield
    except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            _public(f"MLflow's store {mlflow.get_tracking_uri()} failed: {reason}")
            + "; check MLFLOW_TRACKING_URI, or move mlflow.db away to begin a new one"
        ) from error


def _public(text: str) -> str:
    """Take user, password and query out of every address in `text`."""
    return re.sub(r"(://[^\s?]*)\?[^\s;]+", r"\1", re.sub(r"://[^/\s]*@", "://***@", text))


def _tags(root: Path, student: str, dataset: Path | None) -> dict[str, str]:
    tags = _experiment_tags() | {STUDENT: student}
    if dataset is not None:
        tags[DATASET] = _md5(dataset)
    if revision := _git(root, "rev-parse", "HEAD"):
        tags["git.revision"] = revision
        tags["git.dirty"] = str(bool(_git(root, "status", "--porcelain"))).lower()
    return tags


def _md5(path: Path) -> str:
    """Return DVC's own digest of a file, which is no safeguard."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _experiment_tags() -> dict[str, str]:
    return {name: os.environ[name] for name in DVC_VARIABLES if os.environ.get(name)}


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _log_params(client: Any, run_id: str, params: Params) -> None:
    from mlflow.entities import Param

    flat = _flatten(params.model_dump(mode="json", by_alias=True))
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _run_of(experiment: str, folder: Path) -> str | None:
    """Return the id of the newest finished run that made the student in `folder`."""
    found = _client().search_runs(
        [experiment],
        f"tags.`{DIGEST}` = '{student_digest(folder)}' and tags.`{STUDENT}` = '{folder.name}' "
        "and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0].info.run_id if found else None


def _read_history(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    if not path.is_file():
        return []
    try:
        frame = pd.read_csv(path)
        rows = frame[["step", *LOSSES]].to_dict("records")
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: not a training history ({error}); run `dvc repro`") from error
    return [{str(k): None if math.isnan(v) else v for k, v in row.items()} for row in rows]


def _means(path: Path, student: str) -> dict[str, float]:
    """Return ``<benchmark>.<metric>`` to mean of a student's evaluation."""
    found = read_json(path)
    try:
        scores = found["systems"].get(student, {})
        return {f"{found['benchmark']}.{name}": scores[name]["mean"] for name in scores}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not an evaluation ({error}); run `dvc repro evaluate`"
        ) from error


def _teacher_cost(path: Path) -> dict[str, float | None]:
    """Return what the dialogues cost, as metrics; {} where the teacher's summary is not there."""
    if not path.is_file():
        return {}
    found = read_json(path)
    try:
        tokens = found["tokens"]
        told = {
            "teacher.answered": found["answered"],
            "teacher.input_tokens": tokens["input"],
            "teacher.output_tokens": tokens["output"],
            "teacher.usd": found["usd"],
            "teacher.calls": found["spent"]["calls"],
            "teacher.spent_usd": found["spent"]["usd"],
        }
        return {name: None if value is None else float(value) for name, value in told.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a summary of the teacher ({error}); run `dvc repro generate`"
        ) from error


def _quality(path: Path, dataset: Path) -> dict[str, float | None]:
    """Return what the audit measured, as metrics; {} where it is not there or of other dialogues.

    Audit and finetune follow curate in no order, so that the file may still tell of the run before.
    """
    if not path.is_file():
        return {}
    found = read_json(path)
    try:
        if found["fingerprint"] != zlib.crc32(dataset.read_bytes()):
            return {}
        return {
            f"quality.{name}": None if value is None else float(value)
            for name, value in found.items()
            if name != "fingerprint"
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not an audit ({error}); run `dvc repro audit`") from error


def _score(path: Path, options: Register) -> tuple[float, str]:
    """Return the student's metric and the digest of the queries it was taken on."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; register.student must be one of the run's students-tunings "
            "and register.benchmark one of its benchmarks"
        )
    found = read_json(path)
    try:
        value = float(found["systems"][options.student][options.metric]["mean"])
        return value, sha256_text([found["benchmark"], found["digest"]])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: no {options.metric} of {options.student}; run `dvc repro evaluate`"
        ) from error


def _version_of(client: Any, model: str, digest: str) -> str | None:
    """Return the version that already holds these weights, or None."""
    found = client.search_model_versions(f"name = '{model}' and tags.`{DIGEST}` = '{digest}'")
    return max((str(v.version) for v in found), key=int, default=None)


def _log_version(
    root: Path,
    experiment: str,
    folder: Path,
    digest: str,
    options: Register,
    items: Path,
    years: Years,
    save: Save,
    cache_dir: Path,
) -> str:
    """Log the recommender as a new version: merged weights, no adapter whose base may move."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array

    import seedtalk
    from seedtalk.students.loading import quiet

    request = [
        ColSpec(Array(AnyType()), "messages"),  # `recommender` says what is wrong with one
        ColSpec(DataType.long, "titles", required=False),
        ColSpec(Array(DataType.string), "exclude", required=False),
    ]
    run_id = _run_of(experiment, folder)
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(dir=cache_dir) as scratch,
        mlflow.start_run(
            run_id=run_id,
            experiment_id=experiment,
            run_name=None if run_id else options.student,
            tags=None if run_id else _tags(root, options.student, None),
        ),
        quiet(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # of no example: it would run the student
        whole = Path(scratch) / RECOMMENDER
        whole.mkdir()
        save(whole, folder, items, years=years, cache_dir=cache_dir)
        logged = mlflow.pyfunc.log_model(
            name="student",
            loader_module=LOADER,  # its `_load_pyfunc`; nothing is pickled
            data_path=str(whole),
            code_paths=[str(Path(seedtalk.__file__).parent)],
            signature=ModelSignature(inputs=Schema(request)),
            # Without the build (torch's "+cpu"), which no registry but torch's own knows.
            pip_requirements=[
                f"{name}=={installed(name).partition('+')[0]}" for name in SERVED_WITH
            ],
            metadata={"task": "llm/v1/chat"},
        )
    client = _client()
    if not client.search_registered_models(f"name = '{options.model}'"):
        client.create_registered_model(options.model)
    made = client.create_model_version(
        options.model,
        source=logged.model_uri,
        run_id=logged.run_id,
        model_id=logged.model_id,
        tags={DIGEST: digest},
    )
    return str(made.version)


class Served:
    """What ``mlflow models serve`` asks: a request, or a table with one in each row.

    Parameters
    ----------
    complete
        Answers one request, `recommender.Recommender.complete`.
    """

    def __init__(self, complete: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._complete = complete

    def predict(self, data: Any, params: Any = None) -> Any:
        """Return a chat completion for a request of one, a list of them for a table of more."""
        from mlflow.exceptions import MlflowException

        rows = data.to_dict("records") if hasattr(data, "to_dict") else [data]
        try:
            answers = [self._complete(_request(row)) for row in rows]
        except InputError as error:
            raise MlflowException.invalid_parameter_value(error.message) from error
        return answers[0] if len(answers) == 1 else answers


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of MLflow's table as the plain lists and numbers it was sent as."""
    import numpy as np

    plain = {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in row.items()
    }
    return {name: value for name, value in plain.items() if value is not None}


def _downloaded(model: str, version: str) -> Path:
    """Return a local folder with the student of a version, for `load_student`."""
    import mlflow

    local = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}"))
    inside = local / "data" / RECOMMENDER / "student"
    if not inside.is_dir():
        raise InputError(
            f"version {version} of {model} holds no student that seedtalk has registered; "
            "`dvc repro -sf register` puts one up"
        )
    return inside


def _reloads(folder: Path, model: str, version: str, cache_dir: Path) -> bool:
    """Return whether the version read back gives the student's logits."""
    import torch

    from seedtalk.students.loading import load_student

    expected = _logits(*load_student(folder, cache_dir=cache_dir))
    found = _logits(*load_student(_downloaded(model, version), cache_dir=cache_dir))
    return all(
        one.shape == other.shape
        and torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * float(one.abs().max()))
        for one, other in zip(expected, found, strict=True)
    )


def _logits(model: Any, tokenizer: Any) -> list[Any]:
    import torch

    from seedtalk.students.templates import render, token_ids

    with torch.inference_mode():
        return [
            model(
                torch.tensor(
                    [token_ids(tokenizer, render(tokenizer, probe, answer=True))],
                    device=model.device,
                )
            ).logits.float().cpu()
            for probe in PROBES
        ]  # fmt: skip


def _holder(client: Any, model: str, alias: str) -> Any | None:
    """Return the version that has the alias, or None."""
    if not client.search_registered_models(f"name = '{model}'"):
        return None
    registered = client.get_registered_model(model)
    if alias not in registered.aliases:
        return None
    return client.get_model_version(model, str(registered.aliases[alias]))


def _compare(
    holder: Any | None, version: str, value: float, queries: str, options: Register
) -> dict[str, Any]:
    """Return the outcome of the metric's part of the gate."""
    told = f"{options.metric} {value:.4f} on {options.benchmark}"
    if holder is None:
        reason = f"{told}; no version is {options.alias} yet"
        return {"passed": True, "champion_value": None, "reason": reason}
    if str(holder.version) == version:
        reason = f"{told}; version {version} is {options.alias} already"
        return {"passed": True, "champion_value": value, "reason": reason}
    tags = holder.tags
    if (tags.get(METRIC), tags.get(QUERIES)) != (options.metric, queries):
        reason = (
            f"{told}; {options.alias} is version {holder.version} ({tags.get(STUDENT)}), which "
            "was scored by another metric or on other queries: not comparable. To go on, evaluate "
            "and register that student again on these queries, or take the alias "
            f"'{options.alias}' from it in the MLflow UI and run register again"
        )
        return {"passed": False, "champion_value": None, "reason": reason}
    best = float(tags[VALUE])
    passed = value >= best
    reason = (
        f"{told}, {'not worse' if passed else 'worse'} than {best:.4f} of "
        f"{options.alias}, version {holder.version} ({tags.get(STUDENT)})"
    )
    return {"passed": passed, "champion_value": best, "reason": reason}

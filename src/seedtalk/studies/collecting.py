"""What the cells of a study gave: found among DVC's experiments, kept as three small files.

An experiment is a Git commit under ``refs/exps/<2>/<38>/<name>``, where the two parts are the
revision it stands on. Its ``params.yaml`` says what it was made of, its ``dvc.lock`` what it
made; the bytes lie in DVC's cache.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.errors import InputError
from seedtalk.studies.declaring import Cell, Study, differing, load_yaml

if TYPE_CHECKING:
    import pandas as pd

PARAMS, PIPELINE, LOCK = "params.yaml", "dvc.yaml", "dvc.lock"
RUNS, MEASURES, SCORES = "runs.csv", "measures.csv", "scores.parquet"
# What is read of a run, as far as its targets make it.
SYNTHESIS = "results/synthesis.json"
DOCUMENTS = {
    "quality": "results/quality.json",
    "selection": "results/selection.json",
    "synthesis": SYNTHESIS,
}
SEEDS = "artifacts/seeds.jsonl"
# Of measures: how alike the seeds are to those of the reference level, all else equal.
OVERLAP = "selection.overlap_with_reference"
TRAINING = re.compile(r"results/train/(.+)\.csv")
LOSSES = ("loss", "eval_loss", "context_loss")
PREDICTIONS = re.compile(r"artifacts/predictions/(.+)\.parquet")
SCORE_KEYS = ["run", "benchmark", "system", "conversation_id", "metric"]

_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/([^/]+)")
_INTERPOLATED = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Experiment:
    """A DVC experiment: its commit, and the revision it stands on."""

    name: str
    ref: str
    commit: str
    baseline: str


@dataclass(frozen=True)
class Stale:
    """Why an experiment of a cell's name does not count as the cell."""

    experiment: Experiment
    keys: tuple[str, ...]  # parameters that differ

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:3]) + (" and more" if len(self.keys) > 3 else "")
        return f"made of other parameters ({shown})"


@dataclass(frozen=True)
class Out:
    """An output of a run; `md5` is None where it is not in DVC's cache but in Git."""

    path: str
    md5: str | None


@dataclass
class Collected:
    """What a study's files hold."""

    runs: dict[str, dict[str, str]] = field(default_factory=dict)  # run: row of runs.csv
    measures: dict[str, dict[str, str]] = field(default_factory=dict)  # run: measure: value
    scores: list[pd.DataFrame] = field(default_factory=list)  # columns of scores.parquet
    missing: dict[str, str] = field(default_factory=dict)  # cell: why it is not there
    picks: dict[str, frozenset[str]] = field(default_factory=dict)  # run: reviews it selected


class Outputs:
    """Which outputs a set of targets makes in an experiment, and whether they are here.

    DVC takes seconds to read a pipeline at a revision. Which stages a target needs goes by
    ``dvc.yaml`` and by the parameters that stand in it, so it is asked once for each of these.
    """

    def __init__(self, root: Path, targets: Sequence[str]) -> None:
        self._root = root
        self._targets = tuple(targets)
        self._stages: dict[str, dict[str, dict[str, bool]]] = {}
        self._cache: Path | None = None

    def of(self, experiment: Experiment) -> list[Out]:
        """Return the outputs of the targets and of all they are made from, sorted by path.

        Raises
        ------
        InputError
            When a target is no stage of the experiment, or a stage has not run in it.
        """
        lock = (load_yaml(git_file(self._root, experiment.commit, LOCK)) or {}).get("stages", {})
        found = {}
        for stage, paths in self._closure(experiment).items():
            made = {out["path"]: out.get("md5") for out in lock.get(stage, {}).get("outs", [])}
            for path, cached in paths.items():
                if path not in made:
                    raise InputError(f"{experiment.name}: {LOCK} has no output {path} of {stage}")
                found[path] = Out(path, made[path] if cached else None)
        return [found[path] for path in sorted(found)]

    def absent(self, outs: Iterable[Out]) -> list[str]:
        """Return the paths of `outs` whose bytes are not in DVC's cache."""
        return [out.path for out in outs if out.md5 and not self._whole(out.md5)]

    def read(self, experiment: Experiment, out: Out) -> bytes:
        """Return the bytes of an output that is a file."""
        if out.md5 is None:
            return git_file(self._root, experiment.commit, out.path).encode()
        return self._path(out.md5).read_bytes()

    def _whole(self, md5: str) -> bool:
        path = self._path(md5)
        if not path.is_file():
            return False
        if not md5.endswith(".dir"):
            return True
        return all(self._path(part["md5"]).is_file() for part in json.loads(path.read_bytes()))

    def _path(self, md5: str) -> Path:
        if self._cache is None:
            from dvc.repo import Repo

            with Repo(str(self._root)) as repo:
                self._cache = Path(repo.cache.local.path)
        return self._cache / md5[:2] / md5[2:]

    def _closure(self, experiment: Experiment) -> dict[str, dict[str, bool]]:
        text = git_file(self._root, experiment.commit, PIPELINE)
        params = load_yaml(git_file(self._root, experiment.commit, PARAMS))
        told = {name: _leaf(params, name) for name in sorted(set(_INTERPOLATED.findall(text)))}
        key = json.dumps([text, told], default=str)
        if key not in self._stages:
            self._stages[key] = self._ask(experiment)
        return self._stages[key]

    def _ask(self, experiment: Experiment) -> dict[str, dict[str, bool]]:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc.stage import PipelineStage

        stages: dict[str, dict[str, bool]] = {}
        try:
            with Repo.open(str(self._root), rev=experiment.commit) as repo:
                for target in self._targets:
                    for stage in repo.stage.collect(target, with_deps=True):
                        if isinstance(stage, PipelineStage):
                            stages[stage.name] = {
                                out.def_path: bool(out.use_cache) for out in stage.outs
                            }
        except DvcException as error:
            raise InputError(f"{experiment.name}: {error}") from error
        return stages


def experiments(root: Path) -> dict[str, list[Experiment]]:
    """Return every experiment of the repository by its name, the newest first."""
    told = git(root, "for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)",
               "refs/exps")  # fmt: skip
    found: dict[str, list[Experiment]] = defaultdict(list)
    for line in told.splitlines():
        commit, ref = line.split(" ", 1)
        if match := _EXPERIMENT.fullmatch(ref):
            found[match[3]].append(Experiment(match[3], ref, commit, match[1] + match[2]))
    return dict(found)


def find(
    root: Path, cell: Cell, known: Mapping[str, Sequence[Experiment]]
) -> Experiment | Stale | None:
    """Return the newest experiment of the cell's name and parameters, why none, or None.

    A cell without an experiment of its name gives None; one whose experiments were all made of
    other parameters gives `Stale`.
    """
    stale = None
    for experiment in known.get(cell.run, ()):
        keys = differing(
            load_yaml(git_file(root, experiment.commit, PARAMS)),
            cell.overrides,
        )
        if not keys:
            return experiment
        stale = stale or Stale(experiment, tuple(keys))
    return stale


def collect(root: Path, study: Study, cells: Sequence[Cell], folder: Path) -> Collected:
    """Read every cell of a study and write its three files; return what they hold.

    A cell whose experiment, or whose outputs, are gone keeps the rows that were collected of it
    before. One whose experiment was made of other parameters than the declaration's loses them.

    Parameters
    ----------
    root
        The DVC repository.
    study, cells
        The declaration and its cells, profiles put in.
    folder
        Where ``runs.csv``, ``measures.csv`` and ``scores.parquet`` are.

    Raises
    ------
    InputError
        When an output is not what its stage writes.
    """
    from seedtalk.progress import bar

    earlier = read_collected(folder, study)
    known = experiments(root)
    outputs = Outputs(root, study.targets)
    found = Collected()
    with bar(f"collecting {study.name}", total=len(cells)) as line:
        for cell in cells:
            _collect_cell(root, study, cell, known, outputs, earlier, found)
            line.advance()
    _compare_picks(study, cells, found, earlier)
    _write(folder, study, found)
    return found


def read_collected(folder: Path, study: Study) -> Collected:
    """Return what was collected of the study's declared cells; nothing where no file is.

    Raises
    ------
    InputError
        When a file cannot be read.
    """
    import pandas as pd
    import pyarrow as pa

    found = Collected()
    declared = {cell.run: cell.levels for cell in study.cells()}
    for row in _csv(folder / RUNS):
        run = row.get("run", "")
        if run in declared and all(row.get(f) == level for f, level in declared[run].items()):
            found.runs[run] = row
    for row in _csv(folder / MEASURES):
        if row.get("run") in found.runs:
            found.measures.setdefault(row["run"], {})[row["measure"]] = row["value"]
    path = folder / SCORES
    if path.is_file():
        try:
            frame = pd.read_parquet(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{path}: not a readable Parquet file ({error}); delete it and collect anew"
            ) from error
        found.scores = [rows for run, rows in frame.groupby("run") if run in found.runs]
    found.missing = {run: "not collected" for run in declared if run not in found.runs}
    return found


def unscored(study: Study, found: Collected) -> list[str]:
    """Return the benchmarks and systems that the study asks for and no cell has scores of."""
    there = {
        pair
        for rows in found.scores
        for pair in rows[["benchmark", "system"]].itertuples(index=False, name=None)
    }
    return [
        f"{system} on {benchmark}"
        for benchmark in study.scores.benchmarks
        for system in study.scores.systems
        if found.runs and (benchmark, system) not in there
    ]


def means(study: Study, found: Collected) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of `found`, one for each cell and system.

    Each number is the mean over seeds of the mean over conversations.
    """
    import pandas as pd

    metrics = list(study.compare.metrics)
    header = ["benchmark", "system", *study.factors, "seeds", *metrics, *study.measures]
    if not found.runs:
        return header, []
    order = {tuple(c.levels.values()): n for n, c in enumerate(reversed(study.cells()))}
    cells: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for run, row in found.runs.items():
        cells[tuple(row[factor] for factor in study.factors)].append(run)
    scores = (
        pd.concat(found.scores, ignore_index=True)
        if found.scores
        else pd.DataFrame(columns=[*SCORE_KEYS, "value", "weight"])
    )
    scores = scores.assign(product=scores["value"] * scores["weight"])
    sums = scores.groupby(["run", "benchmark", "system", "metric"])[["product", "weight"]].sum()
    value = {key: row["product"] / row["weight"] for key, row in sums.iterrows()}
    rows = []
    for benchmark in study.scores.benchmarks:
        for system in study.scores.systems:
            for levels in sorted(cells, key=lambda one: -order[one]):
                runs = cells[levels]
                scored = [r for r in runs if (r, benchmark, system, metrics[0]) in value]
                shown = [
                    _mean([value[run, benchmark, system, metric] for run in scored
                           if (run, benchmark, system, metric) in value])
                    for metric in metrics
                ]  # fmt: skip
                shown += [
                    _mean(
                        float(found.measures[run][measure])
                        for run in runs
                        if measure in found.measures.get(run, {})
                    )
                    for measure in study.measures
                ]
                rows.append([benchmark, system, *levels, str(len(scored)), *shown])
    return header, rows


def git(root: Path, *arguments: str) -> str:
    """Return what git says.

    Raises
    ------
    InputError
        When it fails.
    """
    done = subprocess.run(  # noqa: S603 - git, with arguments of our own
        ["git", *arguments],  # noqa: S607 - git from PATH, as DVC itself
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def git_file(root: Path, revision: str, path: str) -> str:
    """Return the text of a file, named from the DVC repository's root, at a revision."""
    return git(root, "show", f"{revision}:./{path}")


def _collect_cell(
    root: Path,
    study: Study,
    cell: Cell,
    known: Mapping[str, Sequence[Experiment]],
    outputs: Outputs,
    earlier: Collected,
    found: Collected,
) -> None:
    experiment = find(root, cell, known)
    if isinstance(experiment, Stale):
        found.missing[cell.run] = str(experiment)
        return
    if experiment is None:
        why = "not run"
    else:
        outs = outputs.of(experiment)
        wanted = [out for out in outs if _wanted(out.path)]
        absent = outputs.absent(wanted)
        if not absent:
            _read(study, cell, experiment, outputs, wanted, found, root)
            return
        why = f"{absent[0]} is not in DVC's cache; `dvc pull` or run it again"
    if cell.run in earlier.runs:
        found.runs[cell.run] = earlier.runs[cell.run]
        found.measures[cell.run] = earlier.measures.get(cell.run, {})
        found.scores += [rows for rows in earlier.scores if rows["run"].iloc[0] == cell.run]
    else:
        found.missing[cell.run] = why


def _wanted(path: str) -> bool:
    return bool(
        path in (SEEDS, *DOCUMENTS.values())
        or TRAINING.fullmatch(path)
        or PREDICTIONS.fullmatch(path)
    )


def _read(
    study: Study,
    cell: Cell,
    experiment: Experiment,
    outputs: Outputs,
    outs: Sequence[Out],
    found: Collected,
    root: Path,
) -> None:
    """Put what the outputs of one experiment say into `found`."""
    import pandas as pd

    scores: list[pd.DataFrame] = []
    measures: dict[str, str] = {}
    synthesis: Any = {}
    params = load_yaml(git_file(root, experiment.commit, PARAMS))
    for out in outs:
        place = f"{experiment.name}: {out.path}"
        data = outputs.read(experiment, out)
        if match := TRAINING.fullmatch(out.path):
            measures |= _losses(match[1], data, place)
        elif out.path == SEEDS:
            found.picks[cell.run] = _picks(data, place)
        elif match := PREDICTIONS.fullmatch(out.path):
            scores += _scores(study, cell.run, match[1], data, params, place)
        else:
            name = next(name for name, path in DOCUMENTS.items() if path == out.path)
            document = _json(data, place)
            measures |= {f"{name}.{key}": text for key, text in _numbers(document)}
            if out.path == SYNTHESIS:
                synthesis = document
    mine = [pd.concat(scores)] if scores else []
    if any(rows.duplicated(SCORE_KEYS).any() for rows in mine):
        raise InputError(
            f"{experiment.name}: scores.alias gives one name to several systems of it "
            f"({dict(study.scores.alias)}); a cell may hold one of them"
        )
    told = synthesis.get("teacher", {})
    found.scores += mine
    found.measures[cell.run] = measures
    found.runs[cell.run] = {
        "teacher": str(told.get("model", "")) if isinstance(told, Mapping) else "",
        **cell.levels,  # a factor `teacher` names its level
        "run": cell.run,
        "seed": str(cell.seed),
        "commit": experiment.baseline[:7],
        "dialogues": str(synthesis.get("train", "")),
    }


def _picks(data: bytes, place: str) -> frozenset[str]:
    """Return the reviews that were selected."""
    try:
        rows = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
        return frozenset(str(row["review_id"]) for row in rows)
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{place}: not seeds with a review_id in every row ({error})") from error


def _compare_picks(
    study: Study, cells: Sequence[Cell], found: Collected, earlier: Collected
) -> None:
    """Put the Jaccard similarity of each run's seeds and its reference's among its measures.

    The reference has the same levels of all other factors, and the same seed. Where the seeds of
    one of them are gone, what was measured before stays.
    """
    compare = study.compare
    known = {(tuple(cell.levels.items()), cell.seed): cell.run for cell in cells}
    for cell in cells:
        if cell.run not in found.runs:
            continue
        levels = {**cell.levels, compare.factor: compare.reference}
        other = known.get((tuple(levels.items()), cell.seed), "")
        mine, theirs = found.picks.get(cell.run), found.picks.get(other)
        if mine and theirs:
            found.measures[cell.run][OVERLAP] = repr(
                round(len(mine & theirs) / len(mine | theirs), 6)
            )
        elif before := earlier.measures.get(cell.run, {}).get(OVERLAP):
            found.measures[cell.run][OVERLAP] = before


def _json(data: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not a JSON document ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{place}: expected an object, got {type(found).__name__}")
    return found


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the numbers of nested objects by their dotted path; lists are left out."""
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}.")
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            found.append((f"{prefix}{key}", repr(value)))
    return found


def _losses(student: str, data: bytes, place: str) -> dict[str, str]:
    """Return the last value of each loss in a training history."""
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{place}: not a readable CSV file ({error})") from error
    found = {}
    for name in LOSSES:
        values = [row[name] for row in rows if row.get(name)]
        if values:
            try:
                found[f"train.{student}.{name}"] = repr(float(values[-1]))
            except ValueError as error:
                raise InputError(f"{place}, field '{name}': {error}") from error
    return found


def _scores(
    study: Study, run: str, stem: str, data: bytes, params: Mapping[str, Any], place: str
) -> list[pd.DataFrame]:
    """Return the scores of one file of predictions, as far as the study asks for them."""
    import pandas as pd
    import pyarrow as pa

    from seedtalk.evaluation.metrics import per_query_metrics

    benchmarks = [name for name in params["benchmarks"] if stem.endswith(f"-{name}")]
    benchmark = max(benchmarks, key=len, default="")
    if benchmark not in study.scores.benchmarks:
        return []
    try:
        predictions = pd.read_parquet(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{place}: not a readable Parquet file ({error})") from error
    names = study.scores.names
    mine = predictions[predictions["system"].isin(names)]
    if mine.empty:
        return []
    queries = per_query_metrics(mine, params["evaluate"]["cutoffs"])
    scores = scores_of(queries).assign(run=run, benchmark=benchmark)
    return [scores.assign(system=scores["system"].map(names))]


def scores_of(queries: pd.DataFrame) -> pd.DataFrame:
    """Return `per_query_metrics` a conversation: system, conversation_id, metric, value, weight.

    A query weighs as much as `metrics.summarise` lets it weigh: in recall as many as its targets,
    elsewhere 1. A conversation's value is the weighted mean of its queries and its weight their
    sum, so that the weighted mean over conversations is the mean over queries.
    """
    import pandas as pd

    from seedtalk.evaluation.metrics import COUNTS, KEYS

    parts = []
    for metric in [name for name in queries.columns if name not in (*KEYS, *COUNTS)]:
        weight = queries["targets"].astype(float)
        if not metric.startswith("recall@"):
            weight = weight * 0 + 1
        sums = (
            queries[["system", "conversation_id"]]
            .assign(product=weight * queries[metric], weight=weight)
            .groupby(["system", "conversation_id"], as_index=False)
            .sum()
        )
        value = sums["product"] / sums["weight"]
        parts.append(sums.drop(columns="product").assign(metric=metric, value=value))
    return pd.concat(parts, ignore_index=True)


def _write(folder: Path, study: Study, found: Collected) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seedtalk.records import atomic_file

    columns = ["run", *study.factors, "seed", "commit"]
    columns += [name for name in ("teacher", "dialogues") if name not in study.factors]
    with atomic_file(folder / RUNS) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for _, row in sorted(found.runs.items()))
    with atomic_file(folder / MEASURES) as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["run", "measure", "value"])
        for run, values in sorted(found.measures.items()):
            lines.writerows([run, measure, values[measure]] for measure in sorted(values))
    schema = pa.schema(
        [*((name, pa.string()) for name in SCORE_KEYS), ("value", pa.float64()),
         ("weight", pa.float64())]
    )  # fmt: skip
    frame = (
        pd.concat(found.scores, ignore_index=True).sort_values(SCORE_KEYS, ignore_index=True)
        if found.scores
        else pd.DataFrame(columns=schema.names)
    )
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    with atomic_file(folder / SCORES, "wb") as file:
        pq.write_table(table.replace_schema_metadata(None), file, compression="zstd")


def _csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error


def _leaf(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _mean(values: Iterable[float]) -> str:
    numbers = list(values)
    return f"{sum(numbers) / len(numbers):.4f}" if numbers else "-"

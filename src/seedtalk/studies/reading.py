"""Collected studies, read and checked: the declaration, the runs, their measures and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seedtalk.errors import InputError, at

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.studies.declaring import Study

FILES = ("runs.csv", "measures.csv", "scores.parquet")
FIXED = ("run", "seed", "commit", "teacher", "dialogues")  # of runs.csv, beside the factors
MEASURES = ("run", "measure", "value")
SCORES = ("run", "benchmark", "system", "conversation_id", "metric", "value", "weight")


@dataclass(frozen=True)
class Cell:
    """One level of each factor, in the order of the declaration."""

    levels: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The levels, to be read: ``js, 110``."""
        return ", ".join(level for _, level in self.levels)

    def of(self, factor: str) -> str:
        """Return the level of `factor`."""
        return dict(self.levels)[factor]

    def without(self, *factors: str) -> tuple[str, ...]:
        """Return the levels of the factors but `factors`."""
        return tuple(level for factor, level in self.levels if factor not in factors)


@dataclass(frozen=True)
class Collected:
    """A study's declaration with what its runs gave; `runs` is None where it was not run."""

    name: str
    path: Path
    study: Study
    cells: tuple[Cell, ...]
    runs: pd.DataFrame | None
    measures: pd.DataFrame
    scores: pd.DataFrame
    places: Mapping[str, tuple[Cell, int]]  # run: its cell and seed

    def level(self, cell: Cell) -> str:
        """Return the cell's level of the factor that is compared."""
        return cell.of(self.study.compare.factor)

    def along(self, cell: Cell) -> str | None:
        """Return the cell's place on the x axis; None where the study has none."""
        along = self.study.compare.along
        return None if along is None else cell.of(along)

    def facet(self, cell: Cell) -> tuple[str, ...]:
        """Return the cell's levels of what is neither compared nor on the x axis."""
        compare = self.study.compare
        return cell.without(compare.factor, *([compare.along] if compare.along else []))

    def beside(self, cell: Cell) -> Cell:
        """Return the cell of the reference at the same other levels."""
        compare = self.study.compare
        return Cell(
            tuple((f, compare.reference if f == compare.factor else v) for f, v in cell.levels)
        )


def read_studies(folder: Path) -> list[Collected]:
    """Return the studies in `folder`, by name.

    Raises
    ------
    InputError
        When there is none, or a file of one is malformed.
    """
    found = sorted(path.parent for path in folder.glob("*/study.yaml"))
    if not found:
        raise InputError(f"{folder}: holds no study (a folder with a study.yaml)")
    return [read_study(path) for path in found]


def read_study(path: Path) -> Collected:
    """Return the study in the folder `path`.

    Raises
    ------
    InputError
        When the declaration does not hold, a collected file is missing beside the others, or a
        row does not fit; names file, row and field.
    """
    import pandas as pd

    from seedtalk.studies import declaring

    study = declaring.read_study(path / declaring.FILE)
    cells = tuple(dict.fromkeys(Cell(tuple(one.levels.items())) for one in study.cells()))
    there = [name for name in FILES if (path / name).is_file()]
    if not there:
        nothing = pd.DataFrame(columns=list(MEASURES)), pd.DataFrame(columns=list(SCORES))
        return Collected(path.name, path, study, cells, None, *nothing, {})
    if len(there) < len(FILES):
        lacking = next(name for name in FILES if name not in there)
        raise InputError(
            f"{path / lacking}: missing beside {there[0]}; run `seedtalk study collect {path.name}`"
        )
    runs = _csv(path / "runs.csv", [*FIXED, *study.factors])
    places = _places(path / "runs.csv", runs, study, cells)
    measures = _csv(path / "measures.csv", list(MEASURES))
    _check_measures(path / "measures.csv", measures, places)
    scores = _parquet(path / "scores.parquet")
    _check_scores(path / "scores.parquet", scores, places)
    measures = measures.assign(value=measures["value"].astype(float))
    # Files of a header alone were collected before any cell was run.
    done = None if runs.empty else runs
    return Collected(path.name, path, study, cells, done, measures, scores, places)


def _csv(path: Path, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error
    for name in columns:
        if name not in frame.columns:
            raise InputError(f"{at(path, field=name)}: column missing; collect the study again")
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    for name in SCORES:
        if name not in frame.columns:
            raise InputError(f"{at(path, field=name)}: column missing; collect the study again")
    for name in ("value", "weight"):
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise InputError(f"{at(path, field=name)}: expected numbers; collect the study again")
    return frame


def _places(
    path: Path, runs: pd.DataFrame, study: Study, cells: tuple[Cell, ...]
) -> dict[str, tuple[Cell, int]]:
    places: dict[str, tuple[Cell, int]] = {}
    taken: dict[tuple[Cell, int], str] = {}
    for row, record in enumerate(runs.to_dict("records"), 2):  # line 1 is the header
        run = str(record["run"])
        if not run or run in places:
            raise InputError(f"{at(path, row, 'run')}: {run!r} is empty or there twice")
        for factor, levels in study.factors.items():
            if record[factor] not in levels:
                known = ", ".join(levels)
                raise InputError(
                    f"{at(path, row, factor)}: {record[factor]!r} is none of {known}; collect the "
                    "study again after a change of study.yaml"
                )
        cell = Cell(tuple((factor, str(record[factor])) for factor in study.factors))
        if cell not in cells:
            raise InputError(f"{at(path, row)}: the cell {cell.name} is excluded in study.yaml")
        try:
            seed = int(str(record["seed"]))
        except ValueError:
            raise InputError(f"{at(path, row, 'seed')}: {record['seed']!r} is no number") from None
        if seed not in study.seeds:
            raise InputError(f"{at(path, row, 'seed')}: {seed} is none of study.yaml's seeds")
        if (cell, seed) in taken:
            raise InputError(f"{at(path, row)}: the same cell and seed as {taken[cell, seed]}")
        try:
            int(str(record["dialogues"]) or 0)
        except ValueError:
            raise InputError(
                f"{at(path, row, 'dialogues')}: {record['dialogues']!r} is no whole number"
            ) from None
        taken[cell, seed] = run
        places[run] = (cell, seed)
    return places


def _check_measures(path: Path, frame: pd.DataFrame, places: Mapping[str, object]) -> None:
    for row, (run, measure, value) in enumerate(frame[list(MEASURES)].to_numpy(), 2):
        if run not in places:
            raise InputError(f"{at(path, row, 'run')}: {run!r} is not in runs.csv")
        try:
            finite = math.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{at(path, row, 'value')}: {value!r} of {measure} is no number")
    twice = frame.duplicated(["run", "measure"])
    if twice.any():
        place = int(twice.to_numpy().argmax())
        raise InputError(
            f"{at(path, place + 2, 'measure')}: {frame['measure'].iloc[place]} of "
            f"{frame['run'].iloc[place]} is there twice"
        )


def _check_scores(path: Path, frame: pd.DataFrame, places: Mapping[str, object]) -> None:
    import numpy as np

    faults = (
        ("run", ~frame["run"].isin(list(places)), "is not in runs.csv"),
        ("value", ~np.isfinite(frame["value"]), "is no finite number"),
        ("weight", ~(np.isfinite(frame["weight"]) & (frame["weight"] > 0)), "is not above 0"),
        ("conversation_id", frame.duplicated(list(SCORES[:5])), "is there twice"),
    )
    for field, wrong, why in faults:
        if wrong.any():
            place = int(np.asarray(wrong).argmax())
            raise InputError(
                f"{at(path, place + 1, field)}: {frame[field].iloc[place]!r} {why}; collect the "
                "study again"
            )

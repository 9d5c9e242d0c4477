"""What a study is: the file that declares it, and the cells it stands for."""

from __future__ import annotations

import copy
import itertools
import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from seedtalk.errors import InputError, at

FILE = "study.yaml"
# What Git takes as a part of the name of an experiment.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_METRIC = re.compile(r"(recall|ndcg)@[1-9]\d*|mrr")
# YAML 1.1 reads 2e-5 as text, DVC and the stages read it as a number.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./@-]*")  # text that Hydra's grammar leaves as it is

Seed = Annotated[int, Field(ge=0, lt=2**32 - 1)]
Overrides = dict[str, Any]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Part(BaseModel):
    """A frozen part of ``study.yaml``; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scores(Part):
    """Which predictions are collected, conversation by conversation.

    `alias` gives one name to systems that stand in the same place in different cells, such as the
    student where its tuning is what is compared.
    """

    benchmarks: Names
    systems: Names
    alias: dict[str, Names] = Field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The name to collect each system by."""
        own = {system: system for system in self.systems if system not in self.alias}
        return own | {system: name for name, those in self.alias.items() for system in those}


class Compare(Part):
    """What the study holds against what, and by which metric."""

    factor: str
    reference: str
    along: str | None = None
    metric: str
    metrics: Names

    @field_validator("reference", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return _level(value)


class Study(Part):
    """A grid of runs: factors crossed, each cell once for every seed."""

    name: str
    title: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    profiles: tuple[Path, ...] = ()
    copy_: tuple[Path, ...] = Field(default=(), alias="copy")
    needs: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    targets: Names
    set_: Overrides = Field(default_factory=dict, alias="set")
    factors: Annotated[dict[str, dict[str, Overrides]], Field(min_length=1)]
    exclude: tuple[dict[str, str], ...] = ()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    scores: Scores
    measures: tuple[str, ...] = ()
    compare: Compare
    minutes: Annotated[float, Field(gt=0.0)]

    @field_validator("set_", mode="before")
    @classmethod
    def _flat_set(cls, value: Any) -> Any:
        return flatten(value) if isinstance(value, Mapping) else value

    @field_validator("factors", mode="before")
    @classmethod
    def _flat_factors(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            _level(factor): {
                _level(level): flatten(overrides) if isinstance(overrides, Mapping) else overrides
                for level, overrides in levels.items()
            }
            if isinstance(levels, Mapping)
            else levels
            for factor, levels in value.items()
        }

    @field_validator("exclude", mode="before")
    @classmethod
    def _exclude_as_text(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [
            {_level(factor): _level(level) for factor, level in one.items()}
            if isinstance(one, Mapping)
            else one
            for one in value
        ]

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if not _PLAIN.fullmatch(self.name):
            raise ValueError(
                f"the folder's name '{self.name}' may hold letters, digits, -, _ and single dots"
            )
        for factor, levels in self.factors.items():
            if not levels:
                raise ValueError(f"factors.{factor}: give it at least one level")
            if factor in ("run", "seed", "commit", "dialogues"):
                raise ValueError(f"factors.{factor}: the name is taken by a column of runs.csv")
            for level in levels:
                if not _PLAIN.fullmatch(level):
                    raise ValueError(
                        f"factors.{factor}: the level '{level}' may hold letters, digits, -, _ "
                        "and single dots"
                    )
        for place, overrides in (
            ("set", self.set_),
            *(
                (f"factors.{factor}.{level}", overrides)
                for factor, levels in self.factors.items()
                for level, overrides in levels.items()
            ),
        ):
            if "seed" in overrides:
                raise ValueError(f"{place}: the seed of a cell is one of `seeds`")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is there twice")
        self._check_exclude()
        self._check_scores()
        self._check_compare()
        cells = self.cells()
        if not cells:
            raise ValueError("exclude: no cell is left")
        twice = [run for run, count in Counter(cell.run for cell in cells).items() if count > 1]
        if twice:
            raise ValueError(f"two cells have the name {twice[0]}; rename a level")
        return self

    def _check_exclude(self) -> None:
        for number, one in enumerate(self.exclude):
            for factor, level in one.items():
                if level not in self.factors.get(factor, {}):
                    raise ValueError(f"exclude.{number}: no level '{level}' of factor '{factor}'")
            if not one:
                raise ValueError(f"exclude.{number}: names no level")

    def _check_scores(self) -> None:
        taken = {s: s for s in self.scores.systems if s not in self.scores.alias}
        for name, systems in self.scores.alias.items():
            if name not in self.scores.systems:
                raise ValueError(f"scores.alias: '{name}' is none of scores.systems")
            for system in systems:
                if taken.setdefault(system, name) != name or system in self.scores.systems:
                    raise ValueError(f"scores.alias.{name}: '{system}' is collected already")

    def _check_compare(self) -> None:
        compare = self.compare
        if compare.factor not in self.factors:
            raise ValueError(f"compare.factor: '{compare.factor}' is none of {list(self.factors)}")
        levels = self.factors[compare.factor]
        if compare.reference not in levels:
            raise ValueError(f"compare.reference: '{compare.reference}' is none of {list(levels)}")
        if compare.along is not None:
            if compare.along not in self.factors or compare.along == compare.factor:
                others = [factor for factor in self.factors if factor != compare.factor]
                raise ValueError(f"compare.along: '{compare.along}' is none of {others}")
            for level in self.factors[compare.along]:
                if _number(level) is None:
                    raise ValueError(f"compare.along: the level '{level}' is no number")
        for metric in compare.metrics:
            if not _METRIC.fullmatch(metric):
                raise ValueError(f"compare.metrics: '{metric}' is no metric, such as recall@5")
        if compare.metric not in compare.metrics:
            raise ValueError(f"compare.metric: '{compare.metric}' is none of compare.metrics")

    def cells(self) -> list[Cell]:
        """Return the cells, seed by seed: a study run in part holds whole replicates.

        The overrides are those of `set` and of the levels, later ones over earlier ones; what the
        profiles set lies under them (`with_profiles`).
        """
        crossed = itertools.product(*(levels for levels in self.factors.values()))
        grid = [dict(zip(self.factors, levels, strict=True)) for levels in crossed]
        kept = [c for c in grid if not any(one.items() <= c.items() for one in self.exclude)]
        return [
            Cell(
                run="-".join((self.name, *levels.values(), f"s{seed}")),
                levels=levels,
                seed=seed,
                overrides=layered(
                    self.set_,
                    *(self.factors[factor][level] for factor, level in levels.items()),
                    {"seed": seed},
                ),
            )
            for seed in self.seeds
            for levels in kept
        ]


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    run: str  # name of its DVC experiment
    levels: dict[str, str]  # factor: level
    seed: int
    overrides: Overrides  # dotted key: value


def read_study(path: Path) -> Study:
    """Read and check a declaration, ``studies/<name>/study.yaml``.

    Raises
    ------
    InputError
        When the file is no YAML mapping, or a key is missing, unknown or out of place.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; `seedtalk study list` names them") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({error})") from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{path}: expected a mapping; docs/studies.md describes it")
    if "name" in raw:
        raise InputError(f"{at(path, field='name')}: unknown key; the folder names the study")
    try:
        return Study.model_validate({**raw, "name": path.resolve().parent.name})
    except ValidationError as error:
        faults = "\n".join("  " + _explain(fault) for fault in error.errors())
        raise InputError(f"{path}: not a study\n{faults}") from error


def read_studies(folder: Path) -> list[Study]:
    """Read every study below `folder`, sorted by name.

    Raises
    ------
    InputError
        When one does not hold, or two studies have a cell of one name.
    """
    studies = [read_study(path) for path in sorted(folder.glob(f"*/{FILE}"))]
    owners: dict[str, str] = {}
    for study in studies:
        for cell in study.cells():
            other = owners.setdefault(cell.run, study.name)
            if other != study.name:
                raise InputError(
                    f"{folder}: the studies {other} and {study.name} both have a cell {cell.run}; "
                    "rename one"
                )
    return studies


def with_profiles(study: Study, root: Path) -> list[Cell]:
    """Return the cells with the overrides of the study's profiles under their own.

    Raises
    ------
    InputError
        When a profile is missing or no mapping.
    """
    from seedtalk.profiles import leaves

    for path in study.profiles:
        if not (root / path).is_file():
            raise InputError(f"{at(_place(study), field='profiles')}: no file {path}")
    below = layered(*(leaves(root / path) for path in study.profiles))
    return [
        Cell(cell.run, cell.levels, cell.seed, layered(below, cell.overrides))
        for cell in study.cells()
    ]


def check_overrides(study: Study, cells: Sequence[Cell], params: Path) -> None:
    """Check that each cell's parameters are ones that the stages take; one seed stands for all.

    Raises
    ------
    InputError
        When an override names no key of `params` or sets it to what it cannot be.
    """
    from seedtalk.params import load_params

    base = load_yaml(params.read_text(encoding="utf-8"))
    for cell in {tuple(cell.levels.items()): cell for cell in cells}.values():
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / "params.yaml"
            trial.write_text(yaml.safe_dump(applied(base, cell.overrides)), encoding="utf-8")
            try:
                found = load_params(trial)
            except InputError as error:
                message = error.message.replace(str(trial), str(params.name))
                raise InputError(f"{_place(study)}, cell {cell.run}: {message}") from error
        for benchmark in study.scores.benchmarks:
            if benchmark not in found.benchmarks:
                raise InputError(
                    f"{_place(study)}, cell {cell.run}: scores.benchmarks names {benchmark}, "
                    f"its params.benchmarks are {list(found.benchmarks)}"
                )
        lacking = {int(m.split("@")[1]) for m in study.compare.metrics if "@" in m} - set(
            found.evaluate.cutoffs
        )
        if lacking:
            raise InputError(
                f"{_place(study)}, cell {cell.run}: compare.metrics needs the cutoffs "
                f"{sorted(lacking)}; add them to evaluate.cutoffs"
            )


def applied(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the nested mapping `tree` with dotted `overrides` put in."""
    fresh: dict[str, Any] = copy.deepcopy(dict(tree))
    for key, value in overrides.items():
        *groups, leaf = key.split(".")
        place = fresh
        for group in groups:
            if not isinstance(place.get(group), dict):
                place[group] = {}
            place = place[group]
        place[leaf] = value
    return fresh


def differing(tree: Any, overrides: Mapping[str, Any]) -> list[str]:
    """Return the keys of `overrides` that parameters `tree` do not have at the same value."""
    different = []
    for key, value in overrides.items():
        place = tree
        for part in key.split("."):
            place = place.get(part, _ABSENT) if isinstance(place, Mapping) else _ABSENT
        if not _same(place, value):
            different.append(key)
    return different


def flags(overrides: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Return `overrides` as arguments of ``dvc exp run``: ``-S``, ``key=value``, and so on.

    Values are written in Hydra's grammar, which DVC reads them by; a key that `params` lacks (a
    new name in `models`) gets the ``+`` that adds it.
    """
    arguments = []
    for key, value in overrides.items():
        place: Any = params
        for part in key.split("."):
            place = place.get(part, _ABSENT) if isinstance(place, Mapping) else _ABSENT
        arguments += ["-S", f"{'+' if place is _ABSENT else ''}{key}={_hydra(value)}"]
    return arguments


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> Overrides:
    """Return nested or dotted overrides by their dotted keys."""
    found: Overrides = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found.update(flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = _value(value)
    return found


def layered(*layers: Mapping[str, Any]) -> Overrides:
    """Return the layers in one, later ones over earlier ones."""
    found: Overrides = {}
    for layer in layers:
        found.update({key: _value(value) for key, value in layer.items()})
    return found


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document; the fast reader where the machine has it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader, either of them


_ABSENT = object()


def _value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_value(part) for part in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(_value(one), int | float) and isinstance(_value(other), int | float):
        return math.isclose(_value(one), _value(other), rel_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


def _hydra(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _BARE.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # Hydra: a backslash escapes a quote, and itself only right before one or at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", r"\'"), text) + "'"


def _level(value: Any) -> str:
    return str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _place(study: Study) -> str:
    return f"studies/{study.name}/{FILE}"


def _explain(fault: Any) -> str:
    key = ".".join(map(str, fault["loc"]))
    message: str = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message

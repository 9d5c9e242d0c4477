"""What a study found: means, paired differences, their intervals and p-values.

A conversation that is answered in several runs is one unit, and so is a seed: both are drawn with
replacement, each by itself, and a value counts as often as its seed and its conversation were
drawn together (the pigeonhole bootstrap: Owen 2007, "The pigeonhole bootstrap", Annals of Applied
Statistics 1(2)). Where every seed has conversations of its own this is the draw of seeds, then of
conversations within a seed. Intervals are percentiles of 10,000 such draws. They err on the wide
side where single conversations make the noise, on the narrow side where seeds do and are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError, at
from seedtalk.evaluation.intervals import LEVEL, over_runs
from seedtalk.studies.reading import Cell, Collected

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000  # so that Holm over many cells can find a p-value small enough
POWER = 0.8
Verdict = Literal["ahead", "behind", "too close to call"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, and what it was measured on."""

    mean: float
    low: float
    high: float
    error: float  # standard error: the deviation of the draws
    seeds: int
    conversations: int


@dataclass(frozen=True)
class Point:
    """The mean of one cell."""

    cell: Cell
    estimate: Estimate


@dataclass(frozen=True)
class Difference:
    """A level minus the reference on the same seeds, conversations and other levels."""

    level: str
    cell: Cell | None  # None where all cells of the level are taken together
    estimate: Estimate
    p: float  # two-sided, of the bootstrap
    adjusted: float  # by Holm, over the comparisons it was made beside
    agreeing: int  # seeds whose own mean difference has the sign of the whole
    cells: int  # cells it is made of
    unpaired: int  # conversations, by run, that only one of the two answered

    @property
    def verdict(self) -> Verdict:
        """Where the level is, as far as the p-value over all comparisons tells."""
        if self.adjusted >= 1 - LEVEL:
            return "too close to call"
        return "ahead" if self.estimate.mean > 0 else "behind"

    @property
    def detectable(self) -> float:
        """The true difference that a test at 5% would find four times in five."""
        return detectable(self.estimate.error)


@dataclass(frozen=True)
class Finding:
    """One system on one benchmark in one metric."""

    benchmark: str
    system: str
    metric: str
    points: list[Point]
    overall: list[Difference]  # one a level but the reference
    each: list[Difference]  # one a cell; the same as `overall` where a level has one cell


@dataclass(frozen=True)
class Measured:
    """The mean of a run's number over seeds; no interval with one seed."""

    measure: str
    level: str
    cell: Cell | None  # None where all cells of the level are taken together
    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Analysis:
    """All that is told of a study that was run."""

    collected: Collected
    headline: Finding | None  # None where its scores were not collected
    more: list[Finding]  # other systems, benchmarks and metrics
    measured: list[Measured]
    missing: list[str]


def detectable(error: float) -> float:
    """Return the smallest difference found with 80% power by a two-sided test at 5%.

    (z_0.975 + z_0.8) times the standard error (Cohen 1988, chapter 2).
    """
    from scipy.stats import norm

    return float((norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)) * error)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, is never below a smaller one's and at most 1.
    """
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


@lru_cache(maxsize=16)
def _counts(units: int, resamples: int, seed: int, which: int) -> Floats:
    rng = np.random.default_rng([seed, which, units])
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=resamples)
    return drawn.astype(np.float64)


def draw_means(
    total: Floats, size: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, Floats]:
    """Return a weighted mean, and the same over draws of seeds and conversations.

    Parameters
    ----------
    total
        (C, S): sum of weight times value of each conversation under each seed; 0 where that
        conversation was not asked.
    size
        (C, S): sum of the weights.
    resamples
        Number B of draws.
    seed
        Of the draws; equal shapes draw alike.

    Returns
    -------
    mean, draws
        sum(total) / sum(size), and (B,) the same of each draw. With one seed only conversations
        are drawn. A draw that meets no conversation of its seeds has the mean itself.
    """
    conversations, seeds = total.shape
    by_conversation = _counts(conversations, resamples, seed, 0)
    by_seed = _counts(seeds, resamples, seed, 1)
    above = ((by_conversation @ total) * by_seed).sum(axis=1)
    below = ((by_conversation @ size) * by_seed).sum(axis=1)
    mean = float(total.sum() / size.sum())
    drawn = np.divide(above, below, out=np.full(resamples, mean), where=below > 0)
    return mean, drawn


def two_sided(draws: Floats) -> float:
    """Return the p-value of no difference: twice the smaller tail of the draws at zero.

    One draw is counted as if it lay beyond zero, so that the value is never 0 (Davison & Hinkley
    1997, section 4.2). Draws that are all zero give 1.
    """
    count = len(draws) + 1
    return float(
        min(1.0, 2 * min(1 + int((draws <= 0).sum()), 1 + int((draws >= 0).sum())) / count)
    )


def _estimate(total: Floats, size: Floats, resamples: int, seed: int) -> tuple[Estimate, Floats]:
    mean, draws = draw_means(total, size, resamples=resamples, seed=seed)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    asked = size > 0
    return (
        Estimate(
            mean,
            float(low),
            float(high),
            float(draws.std(ddof=1)),
            int(asked.any(axis=0).sum()),
            int(asked.any(axis=1).sum()),
        ),
        draws,
    )


def _grids(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return `total` and `size` of `draw_means` of rows with conversation_id, seed, total, size."""
    summed = rows.groupby(["conversation_id", "seed"], sort=True)[["total", "size"]].sum()
    grid = summed.unstack("seed", fill_value=0.0)
    return (
        grid["total"].to_numpy(dtype=np.float64),
        grid["size"].to_numpy(dtype=np.float64),
    )


def analyse(collected: Collected, *, resamples: int = RESAMPLES, seed: int = 0) -> Analysis:
    """Return what a study that was run, in whole or in part, found.

    Parameters
    ----------
    collected
        Of `reading.read_study`, with its runs.
    resamples, seed
        Of the bootstrap.

    Raises
    ------
    InputError
        When two runs weigh the same conversation differently: they did not ask the same queries.
    """
    study = collected.study
    wanted = [
        (benchmark, system, metric)
        for benchmark in study.scores.benchmarks
        for system in study.scores.systems
        for metric in dict.fromkeys((study.compare.metric, *study.compare.metrics))
    ]
    findings, missing = {}, _missing_runs(collected)
    for key in wanted:
        rows = _rows(collected, *key)
        if rows.empty:
            missing.append("no scores of {1} on {0} in {2}".format(*key))
            continue
        findings[key] = _finding(collected, rows, key, resamples, seed)
        missing += _missing_scores(collected, rows, key)
    measured = _measures(collected)
    known = {one.measure for one in measured}
    missing += [f"measure {name} in no run" for name in study.measures if name not in known]
    headline = findings.pop(wanted[0], None)
    return Analysis(collected, headline, list(findings.values()), measured, missing)


def _rows(collected: Collected, benchmark: str, system: str, metric: str) -> pd.DataFrame:
    """Return one row per run and conversation, with its seed, total and size."""
    scores = collected.scores
    rows = scores[
        (scores["benchmark"] == benchmark)
        & (scores["system"] == system)
        & (scores["metric"] == metric)
    ]
    seeds = {run: seed for run, (_, seed) in collected.places.items()}
    return rows.assign(
        seed=rows["run"].map(seeds), size=rows["weight"], total=rows["weight"] * rows["value"]
    )[["run", "seed", "conversation_id", "total", "size"]]


def _finding(
    collected: Collected,
    rows: pd.DataFrame,
    key: tuple[str, str, str],
    resamples: int,
    seed: int,
) -> Finding:
    by_cell: dict[Cell, pd.DataFrame] = {}
    for cell in collected.cells:
        runs = [run for run, (place, _) in collected.places.items() if place == cell]
        part = rows[rows["run"].isin(runs)]
        if len(part):
            by_cell[cell] = part
    points = [
        Point(cell, _estimate(*_grids(part), resamples, seed)[0]) for cell, part in by_cell.items()
    ]
    reference = collected.study.compare.reference
    paired: dict[str, dict[Cell, tuple[pd.DataFrame, int]]] = {}
    for cell, part in by_cell.items():
        other = by_cell.get(collected.beside(cell))
        if collected.level(cell) == reference or other is None:
            continue
        both, unpaired = _pair(collected, part, other, key)
        if len(both):
            paired.setdefault(collected.level(cell), {})[cell] = (both, unpaired)
    overall = [
        _difference(level, None, list(cells.values()), resamples, seed)
        for level, cells in paired.items()
    ]
    each = [
        _difference(level, cell, [pair], resamples, seed)
        for level, cells in paired.items()
        for cell, pair in cells.items()
    ]
    return Finding(*key, points, _adjusted(overall), _adjusted(each))


def _pair(
    collected: Collected, left: pd.DataFrame, right: pd.DataFrame, key: tuple[str, str, str]
) -> tuple[pd.DataFrame, int]:
    """Return the differences of conversations both answered, and how many only one did."""
    both = left.merge(
        right, on=["seed", "conversation_id"], how="outer", suffixes=("", "_of"), indicator=True
    )
    paired = both[both["_merge"] == "both"]
    uneven = paired[~np.isclose(paired["size"], paired["size_of"], rtol=1e-9, atol=0.0)]
    if len(uneven):
        first = uneven.iloc[0]
        raise InputError(
            f"{at(collected.path / 'scores.parquet', first['run'], 'weight')}: conversation "
            f"{first['conversation_id']} weighs {first['size']:g} for {key[1]} on {key[0]} in "
            f"{key[2]}, but {first['size_of']:g} in run {first['run_of']}: the two did not ask the "
            "same queries; run both with the same evaluation and collect the study again"
        )
    return paired.assign(total=paired["total"] - paired["total_of"]), len(both) - len(paired)


def _difference(
    level: str,
    cell: Cell | None,
    pairs: Sequence[tuple[pd.DataFrame, int]],
    resamples: int,
    seed: int,
) -> Difference:
    import pandas as pd

    total, size = _grids(pd.concat([rows for rows, _ in pairs]))
    estimate, draws = _estimate(total, size, resamples, seed)
    p = two_sided(draws)
    by_seed = total.sum(axis=0)
    agreeing = int((np.sign(by_seed) == np.sign(estimate.mean)).sum())
    unpaired = sum(count for _, count in pairs)
    return Difference(level, cell, estimate, p, p, agreeing, len(pairs), unpaired)


def _adjusted(found: list[Difference]) -> list[Difference]:
    from dataclasses import replace

    values = holm([one.p for one in found])
    return [replace(one, adjusted=value) for one, value in zip(found, values, strict=True)]


def _measures(collected: Collected) -> list[Measured]:
    """Return each shown measure by level and by cell.

    Of a level with several cells, a seed counts with its mean over them, if it has them all.
    """
    frame = collected.measures
    levels: dict[str, list[Cell]] = {}
    for cell in collected.cells:
        levels.setdefault(collected.level(cell), []).append(cell)
    found = []
    for measure in dict.fromkeys(collected.study.measures):
        rows = frame[frame["measure"] == measure]
        values = {
            collected.places[run]: float(value)
            for run, value in zip(rows["run"], rows["value"], strict=True)
        }
        for level, declared in levels.items():
            # Cells nobody ran are told as missing; they are no reason to tell nothing.
            cells = [cell for cell in declared if any(place == cell for place, _ in values)]
            by_seed = {
                seed: [values[cell, seed] for cell in cells if (cell, seed) in values]
                for seed in collected.study.seeds
            }
            whole = [float(np.mean(v)) for v in by_seed.values() if v and len(v) == len(cells)]
            if whole:
                found.append(_measured(measure, level, None, whole))
            found += [
                _measured(measure, level, cell, [v for (c, _), v in values.items() if c == cell])
                for cell in cells
            ]
    return found


def _measured(measure: str, level: str, cell: Cell | None, values: list[float]) -> Measured:
    if len(values) < 2:
        return Measured(measure, level, cell, values[0], None, None, 1)
    one = over_runs([[value] for value in values])[0]
    return Measured(measure, level, cell, one["mean"], one["low"], one["high"], len(values))


def _missing_runs(collected: Collected) -> list[str]:
    """Return a line for each set of seeds that cells lack, with all the cells that lack it."""
    lacking: dict[tuple[int, ...], list[str]] = {}
    for cell in collected.cells:
        done = {seed for place, seed in collected.places.values() if place == cell}
        left = tuple(seed for seed in collected.study.seeds if seed not in done)
        if left:
            lacking.setdefault(left, []).append(cell.name)
    lines = []
    for left, cells in lacking.items():
        if len(left) == len(collected.study.seeds):
            what = "not run"
        else:
            what = f"seed{'s' if len(left) > 1 else ''} {', '.join(map(str, left))} not run"
        if len(cells) == len(collected.cells):
            lines.append(f"all {len(cells)} cells: {what}")
        else:
            lines.append(f"{'; '.join(cells)}: {what}")
    return lines


def _missing_scores(
    collected: Collected, rows: pd.DataFrame, key: tuple[str, str, str]
) -> list[str]:
    lacking = sorted(set(collected.places) - set(rows["run"]))
    if not lacking:
        return []
    named = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
    return [f"no scores of {key[1]} on {key[0]} in {key[2]} from {named}"]

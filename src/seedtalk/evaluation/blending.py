"""A student joined with the domain's own signals: a log-linear score, and how its weights are fit.

The score of candidate i of a query is s_i = w_student * student_i + sum_j w_j * signal_ij. Ranked
by it, the student and the signals are one recommender; without the student the same weights make
the system ``signals``, so that what the student adds can be told.

Weights are fit by maximum likelihood of a conditional logit model (McFadden 1974): a target is
chosen among the candidates with probability softmax(s). The likelihood is concave in the weights,
so that there is one best fit, and a few weights need a few hundred queries only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError, RunError, at
from seedtalk.evaluation.metrics import paired_difference, per_query_metrics, summarise
from seedtalk.evaluation.protocols import Query
from seedtalk.evaluation.results import predictions
from seedtalk.records import SIGNALS, read_table

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.evaluation.intervals import Interval

STUDENT = "student"
BLEND = "blend"
FEATURES = (STUDENT, *SIGNALS)

Values = NDArray[np.float32]
Weights = NDArray[np.float64]

_FLAT = 1e-6  # of a feature's largest value: a smaller spread is rounding


@dataclass(frozen=True)
class Choices:
    """The candidates of Q queries one after another, and which of them were chosen.

    Attributes
    ----------
    values
        (N, F) float32, one row a candidate of a query, one column a feature.
    starts
        (Q,) row at which each query begins; every query has a candidate at least.
    chosen
        (T,) rows of the targets.
    """

    values: Values
    starts: NDArray[np.int64]
    chosen: NDArray[np.int64]


def read_signals(path: Path, posed: Sequence[Query]) -> list[Values]:
    """Return the signals of every query's candidates, from the priors that baseline wrote.

    Parameters
    ----------
    path
        `records.PRIORS`.
    posed
        Q queries.

    Returns
    -------
    list
        Q arrays of shape (C, `SIGNALS`), float32, in the order of the query's candidates.

    Raises
    ------
    InputError
        When a query is missing, its candidates are others, or a value is missing or not finite.
    """
    frame = read_table(path, "priors")
    found = []
    for place, query, row in _rows(path, frame, posed, "baseline"):
        if list(frame["candidates"].iloc[row]) != query.candidates:
            raise InputError(
                f"{place}: its candidates are others than the benchmark's; run `dvc repro baseline`"
            )
        lists = [np.asarray(frame[name].iloc[row], dtype=np.float32) for name in SIGNALS]
        for name, values in zip(SIGNALS, lists, strict=True):
            if len(values) != len(query.candidates) or not np.isfinite(values).all():
                raise InputError(
                    f"{place}, '{name}': not one finite number a candidate; "
                    "run `dvc repro --force baseline`"
                )
        found.append(np.column_stack(lists))
    return found


def read_student(path: Path, posed: Sequence[Query]) -> list[Values]:
    """Return a student's score of every query's candidates, from the pools that evaluate wrote.

    A candidate that the student neither found nor was asked for has the lowest score of the
    query's pool: all that is known is that the search preferred others. Where the pool is empty
    the student has no opinion, 0 for every candidate.

    Parameters
    ----------
    path
        `records.POOLS`, of one student.
    posed
        Q queries.

    Returns
    -------
    list
        Q arrays of shape (C,), float32, in the order of the query's candidates.

    Raises
    ------
    InputError
        When a query is missing, or a score is missing or not finite.
    """
    frame = read_table(path, "pools")
    found = []
    for place, query, row in _rows(path, frame, posed, "evaluate"):
        items = list(frame["items"].iloc[row])
        scores = np.asarray(frame["scores"].iloc[row], dtype=np.float64)
        if len(items) != len(scores) or not np.isfinite(scores).all():
            raise InputError(
                f"{place}, 'scores': not one finite number an item; run `dvc repro evaluate`"
            )
        floor = scores.min() if len(scores) else 0.0
        told = dict(zip(items, scores, strict=True))
        values = np.array([told.get(item, floor) for item in query.candidates], dtype=np.float32)
        found.append(values)
    return found


def _rows(
    path: Path, frame: pd.DataFrame, posed: Sequence[Query], stage: str
) -> Iterator[tuple[str, Query, int]]:
    """Yield each query with its place, for messages, and its row of the table."""
    keys = zip(frame["conversation_id"].astype(str), frame["query"].astype(int), strict=True)
    row_of = {key: row for row, key in enumerate(keys)}
    for query in posed:
        row = row_of.get((query.conversation_id, query.turn))
        if row is None:
            raise InputError(
                f"{path}: lacks conversation {query.conversation_id}, turn {query.turn}; it was "
                f"made for other queries, run `dvc repro {stage}`"
            )
        yield at(path, row + 1), query, row


def joined(signals: Sequence[Values], student: Sequence[Values] | None) -> list[Values]:
    """Return the values of `FEATURES` of every query's candidates; without a student 0 for it."""
    told = [np.zeros(len(values), np.float32) for values in signals] if student is None else student
    return [
        np.column_stack([own, values]).astype(np.float32)
        for own, values in zip(told, signals, strict=True)
    ]


def weights_of(blend: Mapping[str, float]) -> Weights:
    """Return the weights of `FEATURES`, of the group ``blend`` of the parameters."""
    return np.array([blend[name] for name in FEATURES], dtype=np.float64)


def without_student(weights: Weights) -> Weights:
    """Return the same weights with 0 for the student."""
    return np.where(np.array(FEATURES) == STUDENT, 0.0, weights)


def rank_all(
    posed: Sequence[Query],
    values: Sequence[Values],
    weights: Weights,
    depth: int | None,
) -> list[list[str]]:
    """Return the candidates of each query by their log-linear score, best first.

    Parameters
    ----------
    posed
        Q queries.
    values
        Q arrays (C, F).
    weights
        (F,).
    depth
        Items ranked at most; None ranks every candidate.

    Raises
    ------
    RunError
        When a score is not a finite number.
    """
    rankings = []
    for query, told in zip(posed, values, strict=True):
        scores = told.astype(np.float64) @ weights
        if not np.isfinite(scores).all():
            raise RunError(
                f"blend: a score of conversation {query.conversation_id}, turn {query.turn} is not "
                "a finite number; lower the weights"
            )
        # Candidates are sorted by id, and equal scores keep that order. Rounded so that sums
        # of the same numbers stay tied.
        order = np.argsort(-scores.round(9), kind="stable")[:depth]
        rankings.append([query.candidates[place] for place in order])
    return rankings


def choices(posed: Sequence[Query], values: Sequence[Values]) -> Choices:
    """Return the choices of Q queries: every target was chosen among all candidates."""
    sizes = [len(query.candidates) for query in posed]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    chosen = []
    for start, query in zip(starts, posed, strict=True):
        place = {item: row for row, item in enumerate(query.candidates)}
        chosen += [int(start) + place[target] for target in query.targets]
    return Choices(np.concatenate(values), starts, np.array(chosen, dtype=np.int64))


def loss(weights: Weights, told: Choices) -> tuple[float, Weights]:
    """Return the negative log-likelihood of the choices, and its gradient by the weights.

    With s = X w and p the softmax of s within a query, the loss is the sum over the targets of
    log(sum exp s) - s_target; its gradient is the sum over the targets of E_p[x] - x_target.
    """
    values, starts = told.values, told.starts
    sizes = np.diff(np.append(starts, len(values)))
    scores = (values @ weights.astype(values.dtype)).astype(np.float64)
    scores -= np.repeat(np.maximum.reduceat(scores, starts), sizes)
    likelihoods = np.exp(scores)
    totals = np.add.reduceat(likelihoods, starts)
    asked = np.searchsorted(starts, told.chosen, side="right") - 1  # the query of each target
    value = float(np.log(totals[asked]).sum() - scores[told.chosen].sum())
    times = np.bincount(asked, minlength=len(starts)) / totals
    likelihoods *= np.repeat(times, sizes)
    expected = likelihoods.astype(values.dtype) @ values
    gradient = expected.astype(np.float64) - values[told.chosen].sum(axis=0, dtype=np.float64)
    return value, gradient


def scales(told: Choices) -> Weights:
    """Return the standard deviation of each feature within the queries, (F,); 1 where it is 0.

    What is the same for every candidate of a query cannot tell them apart, however much it
    differs between queries.
    """
    sizes = np.diff(np.append(told.starts, len(told.values)))
    found = np.ones(told.values.shape[1])
    for column in range(len(found)):
        own = told.values[:, column].astype(np.float64)
        own -= np.repeat(np.add.reduceat(own, told.starts) / sizes, sizes)
        spread = float(np.sqrt(np.mean(own**2)))
        found[column] = spread if spread > _FLAT * (1 + np.abs(own).max()) else 1.0
    return found


def fit(told: Choices, columns: Sequence[int], l2: float, spread: Weights) -> Weights:
    """Return the weights of highest penalised likelihood (L-BFGS from 0).

    Parameters
    ----------
    told
        Choices; what is not among `chosen` has no say.
    columns
        Features that may weigh; the others have weight 0.
    l2
        Penalty l2/2 * sum of squares of the weights of the features scaled to standard deviation
        1: a normal prior of variance 1/l2 on them. At least 0.
    spread
        (F,) `scales` of the features.

    Returns
    -------
    numpy.ndarray
        (F,) weights of the features as they are, not scaled.

    Raises
    ------
    RunError
        When the search ends without a finite optimum.
    """
    from scipy.optimize import minimize

    used = np.array(columns, dtype=np.int64)
    count = max(len(told.chosen), 1)

    def penalised(scaled: Weights) -> tuple[float, Weights]:
        weights = np.zeros(len(spread))
        weights[used] = scaled / spread[used]
        value, gradient = loss(weights, told)
        value += l2 / 2 * float(scaled @ scaled)
        return value / count, (gradient[used] / spread[used] + l2 * scaled) / count

    found = minimize(penalised, np.zeros(len(used)), jac=True, method="L-BFGS-B")
    if not np.isfinite(found.fun) or not np.isfinite(found.x).all():
        raise RunError(f"tune: no best weights were found ({found.message}); raise --l2")
    weights = np.zeros(len(spread))
    weights[used] = found.x / spread[used]
    return weights


def folds(posed: Sequence[Query], count: int) -> NDArray[np.int64]:
    """Return the fold of each query, (Q,): all queries of a conversation share one.

    Conversations are dealt out in the order of a hash of their ids, so that folds are of like
    size and no order of the data shows.
    """
    names = sorted(
        {query.conversation_id for query in posed},
        key=lambda name: (hashlib.sha256(name.encode()).hexdigest(), name),
    )
    if len(names) < count:
        raise InputError(
            f"--folds: {count} folds need as many conversations, there are {len(names)}"
        )
    fold = {name: number % count for number, name in enumerate(names)}
    return np.array([fold[query.conversation_id] for query in posed], dtype=np.int64)


def cross_fitted(
    posed: Sequence[Query],
    values: Sequence[Values],
    told: Choices,
    columns: Sequence[int],
    l2: float,
    fold: NDArray[np.int64],
    depth: int,
) -> list[list[str]]:
    """Return rankings by weights that were fit without the query's own fold.

    Parameters
    ----------
    posed, values
        Q queries and their features.
    told
        `choices` of them.
    columns, l2
        As in `fit`.
    fold
        (Q,) `folds`.
    depth
        Items ranked at most.
    """
    asked = np.searchsorted(told.starts, told.chosen, side="right") - 1
    spread = scales(told)
    rankings: list[list[str]] = [[] for _ in posed]
    for number in np.unique(fold):
        learnt = Choices(told.values, told.starts, told.chosen[fold[asked] != number])
        weights = fit(learnt, columns, l2, spread)
        held = np.flatnonzero(fold == number).tolist()
        found = rank_all([posed[q] for q in held], [values[q] for q in held], weights, depth)
        for query, ranking in zip(held, found, strict=True):
            rankings[query] = ranking
    return rankings


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes
    ----------
    weights
        Of `FEATURES`, fit on all queries, of the features as they are.
    scaled
        The same, of the features scaled to standard deviation 1 within a query: how much each
        one moves a ranking.
    recalls
        By benchmark, mean and interval of each recall@k: of each feature by itself, of the
        cross-fitted blend without the student (``signals``, where there is one) and of the
        cross-fitted ``blend``.
    leads
        By benchmark, the paired difference of ``blend`` and each other system in the same metrics.
    likelihood, chance
        Mean log-likelihood of a target under the weights, and under weights of 0.
    """

    weights: dict[str, float]
    scaled: dict[str, float]
    recalls: dict[str, dict[str, dict[str, Interval]]]
    leads: dict[str, dict[str, dict[str, Interval]]]
    likelihood: float
    chance: float


def tune(
    posed: Mapping[str, Sequence[Query]],
    values: Mapping[str, Sequence[Values]],
    names: Sequence[str],
    *,
    l2: float,
    fold_count: int,
    cutoffs: Sequence[int],
    resamples: int,
    seed: int,
) -> Tuned:
    """Fit one set of weights on one or more benchmarks, and measure what blends are worth.

    Every target counts the same, whichever benchmark it is of.

    Parameters
    ----------
    posed
        The queries of each benchmark.
    values
        `joined` values of them.
    names
        Which of `FEATURES` may weigh.
    l2
        As in `fit`.
    fold_count
        Folds of the cross-fitting.
    cutoffs
        k of recall@k.
    resamples, seed
        Of the bootstrap over conversations.

    Raises
    ------
    InputError
        When there are fewer conversations than folds.
    """
    # Conversations of two benchmarks may share an id.
    asked = [
        replace(query, conversation_id=f"{benchmark}/{query.conversation_id}")
        for benchmark, queries in posed.items()
        for query in queries
    ]
    told = [each for benchmark in posed for each in values[benchmark]]
    chosen = choices(asked, told)
    fold = folds(asked, fold_count)
    spread = scales(chosen)
    columns = [FEATURES.index(name) for name in names]
    depth = max(cutoffs)
    rankings = {name: _alone(asked, told, name, depth) for name in names}
    own = [column for column in columns if FEATURES[column] != STUDENT]
    if own != columns:
        rankings["signals"] = cross_fitted(asked, told, chosen, own, l2, fold, depth)
    rankings[BLEND] = cross_fitted(asked, told, chosen, columns, l2, fold, depth)
    weights = fit(chosen, columns, l2, spread)
    recalls, leads, first = {}, {}, 0
    for benchmark, queries in posed.items():
        own_rankings = {
            name: ranked[first : first + len(queries)] for name, ranked in rankings.items()
        }
        first += len(queries)
        per_query = per_query_metrics(predictions(queries, own_rankings), cutoffs)
        recalls[benchmark] = summarise(per_query, resamples=resamples, seed=seed)
        by_system = {str(name): rows for name, rows in per_query.groupby("system", sort=False)}
        leads[benchmark] = {
            name: paired_difference(
                by_system[BLEND], by_system[name], resamples=resamples, seed=seed
            )
            for name in rankings
            if name != BLEND
        }
    count = len(chosen.chosen)
    return Tuned(
        weights=dict(zip(FEATURES, (_significant(w) for w in weights), strict=True)),
        scaled=dict(zip(FEATURES, (weights * spread).tolist(), strict=True)),
        recalls=recalls,
        leads=leads,
        likelihood=-loss(weights, chosen)[0] / count,
        chance=-loss(np.zeros_like(weights), chosen)[0] / count,
    )


def _alone(
    posed: Sequence[Query], values: Sequence[Values], name: str, depth: int
) -> list[list[str]]:
    """Rank by one feature; popularity breaks ties, as in the baselines."""
    column, popularity = FEATURES.index(name), FEATURES.index("popularity")
    return [
        [
            query.candidates[place]
            for place in np.lexsort([-told[:, popularity], -told[:, column]])[:depth]
        ]
        for query, told in zip(posed, values, strict=True)
    ]


def _significant(weight: float) -> float:
    return float(f"{weight:.4g}") + 0.0

"""What baseline, evaluate and blend write: predictions, and the scores made from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seedtalk.evaluation.intervals import DIGITS
from seedtalk.evaluation.metrics import per_query_metrics, summarise
from seedtalk.evaluation.protocols import Query, digest

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.params import Evaluate


def predictions(
    posed: Sequence[Query], rankings: Mapping[str, Sequence[Sequence[str]]]
) -> pd.DataFrame:
    """Return `records.PREDICTIONS` of the rankings of each system, one per query."""
    import pandas as pd

    rows = [
        {
            "system": system,
            "conversation_id": query.conversation_id,
            "query": query.turn,
            "targets": query.targets,
            "ranking": list(ranking),
        }
        for system, ranked in rankings.items()
        for query, ranking in zip(posed, ranked, strict=True)
    ]
    return pd.DataFrame(rows)


def scores(
    benchmark: str,
    posed: Sequence[Query],
    predicted: pd.DataFrame,
    options: Evaluate,
    *,
    seed: int,
    score: str | None,
    reviewed: Collection[str],
) -> dict[str, Any]:
    """Return the content of a ``results/eval`` file.

    Parameters
    ----------
    benchmark
        Its name.
    posed
        The queries; their `digest` says which other files have comparable numbers.
    predicted
        `predictions` on them.
    options
        Cutoffs, decoding, number of candidates and of bootstrap resamples.
    seed
        Of the bootstrap.
    score
        How a title's token log-probabilities become its score; None for systems without.
    reviewed
        Ids of the items that have a review: recall is also given apart for targets with and
        without.
    """
    return {
        "benchmark": benchmark,
        "digest": digest(posed),
        "protocol": {
            "name": f"sampled-{options.candidates}" if options.candidates else "strict",
            "condition": "recommendation",
            "candidates": options.candidates,
            "decoding": None if score is None else options.decoding,
            "score": score,
            "queries": len(posed),
            "conversations": len({query.conversation_id for query in posed}),
            "targets": sum(len(query.targets) for query in posed),
            "chance": {f"recall@{k}": _chance(posed, k) for k in options.cutoffs},
            "bootstrap": options.bootstrap,
        },
        "systems": summarise(
            per_query_metrics(predicted, options.cutoffs), resamples=options.bootstrap, seed=seed
        ),
        "slices": _slices(predicted, options, seed, reviewed),
    }


def _chance(posed: Sequence[Query], k: int) -> float:
    """Return the expected recall@k of a random order: of C candidates, min(1, k / C)."""
    hit = [min(1.0, k / len(query.candidates)) * len(query.targets) for query in posed]
    return round(sum(hit) / sum(len(query.targets) for query in posed), DIGITS)


def _slices(
    predicted: pd.DataFrame, options: Evaluate, seed: int, reviewed: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return recall by kind of target, with how many there are.

    A query counts for a slice with those of its targets that are in it; its ranking stays whole.
    A slice of fewer than two conversations has no interval: its ``systems`` are empty.
    """
    import pandas as pd

    known = frozenset(reviewed)
    found: dict[str, dict[str, Any]] = {}
    for name, inside in (("with_reviews", True), ("without_reviews", False)):
        chosen = [
            [item for item in targets if (item in known) == inside]
            for targets in predicted["targets"]
        ]
        part = predicted.assign(targets=pd.Series(chosen, index=predicted.index, dtype=object))
        part = part[part["targets"].map(len) > 0]
        first = part[part["system"] == part["system"].iloc[0]] if len(part) else part
        conversations = first["conversation_id"].nunique()
        found[name] = {
            "queries": len(first),
            "conversations": conversations,
            "targets": int(first["targets"].map(len).sum()),
            "systems": {
                system: {
                    metric: interval
                    for metric, interval in scores.items()
                    if metric.startswith("recall@")
                }
                for system, scores in summarise(
                    per_query_metrics(part, options.cutoffs),
                    resamples=options.bootstrap,
                    seed=seed,
                ).items()
            }
            if conversations > 1
            else {},
        }
    return found

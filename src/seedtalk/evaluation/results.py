"""What evaluate and baseline write: predictions, and the scores made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
        Cutoffs, number of candidates and of bootstrap resamples.
    seed
        Of the bootstrap.
    score
        How a title's token log-probabilities become its score; None for systems without.
    """
    return {
        "benchmark": benchmark,
        "digest": digest(posed),
        "protocol": {
            "name": f"sampled-{options.candidates}" if options.candidates else "full",
            "condition": "recommendation",
            "candidates": options.candidates,
            "score": score,
            "queries": len(posed),
            "conversations": len({query.conversation_id for query in posed}),
            "targets": sum(len(query.targets) for query in posed),
            "bootstrap": options.bootstrap,
        },
        "systems": summarise(
            per_query_metrics(predicted, options.cutoffs), resamples=options.bootstrap, seed=seed
        ),
    }

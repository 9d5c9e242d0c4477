"""The report's numbers: means, paired differences, chance, shares of clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from seedtalk.evaluation.intervals import Interval
from seedtalk.evaluation.metrics import paired_difference
from seedtalk.records import Dialogue, Rejected
from seedtalk.reporting.inputs import Benchmark, System

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["ahead", "behind", "too close to call"]


@dataclass(frozen=True)
class Comparison:
    """A tuned student minus another system, on the same queries, in the headline metric."""

    tuned: System
    other: System
    difference: Interval

    @property
    def verdict(self) -> Verdict:
        """Where the student is, as far as the 95% interval tells."""
        if self.difference["low"] > 0:
            return "ahead"
        return "behind" if self.difference["high"] < 0 else "too close to call"


def ordered(benchmark: Benchmark, headline: str) -> list[System]:
    """Return the systems, best in `headline` first, ties by name."""
    return sorted(benchmark.systems, key=lambda s: (-s.scores[headline]["mean"], s.name))


def compare(
    benchmark: Benchmark, headline: str, *, resamples: int, seed: int
) -> dict[str, list[Comparison]]:
    """Return each tuned student's differences to its zero-shot self and to every baseline.

    The zero-shot student comes first, then the baselines, best first.
    """
    found: dict[str, list[Comparison]] = {}
    systems = ordered(benchmark, headline)
    for tuned in systems:
        if tuned.kind != "tuned":
            continue
        own = [s for s in systems if s.kind == "zero-shot" and s.student == tuned.student]
        others = own + [s for s in systems if s.kind == "baseline"]
        found[tuned.name] = [
            Comparison(
                tuned,
                other,
                paired_difference(tuned.queries, other.queries, resamples=resamples, seed=seed)[
                    headline
                ],
            )
            for other in others
        ]
    return found


def metrics(
    benchmark: Benchmark, compared: dict[str, list[Comparison]], headline: str
) -> dict[str, Any]:
    """Return a benchmark's part of ``metrics.json``: numbers only, for ``dvc metrics show``.

    Means by system and metric, and of the headline its 95% interval as ``<headline>_low`` and
    ``<headline>_high``; under ``paired``, the differences with their intervals. DVC joins keys
    with dots, so a dot in a name becomes an underscore.
    """
    tree: dict[str, Any] = {
        key(system.name): {
            **{metric: score["mean"] for metric, score in system.scores.items()},
            f"{headline}_low": system.scores[headline]["low"],
            f"{headline}_high": system.scores[headline]["high"],
        }
        for system in sorted(benchmark.systems, key=lambda s: s.name)
    }
    pairs = {
        key(f"{tuned} minus {one.other.name}"): {headline: dict(one.difference)}
        for tuned, comparisons in sorted(compared.items())
        for one in comparisons
    }
    if pairs:
        tree["paired"] = pairs
    return tree


def key(name: str) -> str:
    """Return `name` as a key that DVC can join with dots."""
    return name.replace(".", "_")


def recall_rows(benchmarks: Sequence[Benchmark], cutoffs: Sequence[int]) -> pd.DataFrame:
    """Return recall in long form, one row per benchmark, system and k, for ``dvc plots``."""
    import pandas as pd

    rows = [
        {
            "benchmark": benchmark.name,
            "system": system.name,
            "k": k,
            "recall": system.scores[f"recall@{k}"]["mean"],
        }
        for benchmark in benchmarks
        for system in sorted(benchmark.systems, key=lambda s: s.name)
        for k in sorted(cutoffs)
    ]
    return pd.DataFrame(rows, columns=["benchmark", "system", "k", "recall"])


def chance(benchmark: Benchmark, headline: str) -> float | None:
    """Return the expected recall@k of a random order; None for another metric.

    A target among C candidates is in a random top k with probability min(1, k / C).
    """
    name, _, cutoff = headline.partition("@")
    if name != "recall":
        return None
    queries = benchmark.systems[0].queries
    hit = (int(cutoff) / queries["candidates"]).clip(upper=1.0)
    return float((hit * queries["targets"]).sum() / queries["targets"].sum())


def cluster_shares(pool: Sequence[int], picks: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return each cluster's share of the pool and of the seeds, largest in the pool first.

    Parameters
    ----------
    pool, picks
        (K,) reviews and seeds of each cluster.
    """
    order = sorted(range(len(pool)), key=lambda cluster: (-pool[cluster], cluster))
    return (
        [pool[cluster] / sum(pool) for cluster in order],
        [picks[cluster] / sum(picks) for cluster in order],
    )


def choose_dialogues(dialogues: Sequence[Dialogue], count: int) -> list[Dialogue]:
    """Choose dialogues to show: by hash of their id, items and styles not yet shown first."""
    left = sorted(dialogues, key=lambda d: hashlib.sha256(d.dialogue_id.encode()).hexdigest())
    chosen: list[Dialogue] = []
    while left and len(chosen) < count:
        items = {d.item_id for d in chosen}
        styles = {d.style for d in chosen}
        best = min(left, key=lambda d: (d.item_id in items, d.style in styles))  # min is stable
        chosen.append(best)
        left.remove(best)
    return chosen


def choose_rejected(quarantine: Sequence[Rejected], count: int) -> list[Rejected]:
    """Choose quarantined answers to show: by hash of their id, one of each reason."""
    ordered_ids = sorted(
        quarantine, key=lambda r: hashlib.sha256(r.dialogue_id.encode()).hexdigest()
    )
    first: dict[str, Rejected] = {}
    for record in ordered_ids:
        first.setdefault(record.reason, record)
    return [first[reason] for reason in sorted(first)][:count]

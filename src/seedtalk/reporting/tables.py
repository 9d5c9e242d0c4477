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
    """A tuned student, or a blend with one, minus another system on the same queries."""

    subject: System
    other: System
    difference: Interval

    @property
    def verdict(self) -> Verdict:
        """Where the subject is, as far as the 95% interval tells."""
        if self.difference["low"] > 0:
            return "ahead"
        return "behind" if self.difference["high"] < 0 else "too close to call"


def ordered(benchmark: Benchmark, headline: str) -> list[System]:
    """Return the systems, best in `headline` first, ties by name."""
    return sorted(benchmark.systems, key=lambda s: (-s.scores[headline]["mean"], s.name))


def compare(
    benchmark: Benchmark, headline: str, *, resamples: int, seed: int
) -> dict[str, list[Comparison]]:
    """Return the differences in `headline` of each tuned student and of each blend with one.

    A student is held against its zero-shot self, then against the baselines, best first. A blend
    is held against its student alone, the zero-shot student, the blend with that, and the
    baselines, `signals` (the same weights without a student) among them.
    """
    found: dict[str, list[Comparison]] = {}
    systems = ordered(benchmark, headline)
    kinds = {system.name: system.kind for system in systems}
    baselines = [s for s in systems if s.kind == "baseline"]
    for subject in systems:
        untouched = [s for s in systems if s.kind == "zero-shot" and s.student == subject.student]
        if subject.kind == "tuned":
            others = untouched
        elif subject.alone is not None and kinds[subject.alone] == "tuned":
            names = {s.name for s in untouched}
            alone = [s for s in systems if s.name == subject.alone]
            others = alone + untouched + [s for s in systems if s.alone in names]
        else:
            continue
        found[subject.name] = [
            Comparison(
                subject,
                other,
                paired_difference(subject.queries, other.queries, resamples=resamples, seed=seed)[
                    headline
                ],
            )
            for other in others + baselines
        ]
    return found


def metrics(
    benchmark: Benchmark, compared: dict[str, list[Comparison]], headline: str
) -> dict[str, Any]:
    """Return a benchmark's part of ``metrics.json``: numbers only, for ``dvc metrics show``.

    Means by system and metric, of the headline its 95% interval as ``<headline>_low`` and
    ``<headline>_high``, and recall on the targets with and without reviews as
    ``<metric>_with_reviews`` and ``<metric>_without_reviews``; under ``paired``, the differences
    with their intervals. DVC joins keys with dots, so a dot in a name becomes an underscore.
    """
    recall = slice_metric(benchmark, headline)
    tree: dict[str, Any] = {
        key(system.name): {
            **{metric: score["mean"] for metric, score in system.scores.items()},
            f"{headline}_low": system.scores[headline]["low"],
            f"{headline}_high": system.scores[headline]["high"],
            **{
                f"{recall}_{name}": part.scores[system.name][recall]["mean"]
                for name, part in benchmark.slices.items()
                if system.name in part.scores
            },
        }
        for system in sorted(benchmark.systems, key=lambda s: s.name)
    }
    pairs = {
        key(f"{subject} minus {one.other.name}"): {headline: dict(one.difference)}
        for subject, comparisons in sorted(compared.items())
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
    """Return the expected recall@k of a random order; None for another metric."""
    found = benchmark.protocol["chance"].get(headline)
    return None if found is None else float(found)


def slice_metric(benchmark: Benchmark, headline: str) -> str:
    """Return the recall shown by kind of target: at the headline's cutoff, else at the largest."""
    known = [name for name in benchmark.systems[0].scores if name.startswith("recall@")]
    wanted = f"recall@{headline.partition('@')[2]}"
    return wanted if wanted in known else max(known, key=lambda name: int(name[len("recall@") :]))


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

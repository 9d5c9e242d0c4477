"""The page, plots and tables that show a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seedtalk.params import Evaluate, Report
from seedtalk.records import atomic_dir, atomic_file, write_json
from seedtalk.reporting import figures, page, tables, viewer
from seedtalk.reporting.inputs import Evidence, read_evidence
from seedtalk.reporting.seeds import print_seeds
from seedtalk.reporting.terminal import print_results

__all__ = ["print_results", "print_seeds", "read_evidence", "write_report"]


def write_report(
    evidence: Evidence,
    report: Report,
    evaluate: Evaluate,
    *,
    seed: int,
    settings: Mapping[str, Any],
    metrics: Path,
    html: Path,
    browse: Path,
    plots: Path,
) -> None:
    """Write ``metrics.json``, the page, the dialogues to browse and the folder of plots.

    Parameters
    ----------
    evidence
        What `read_evidence` returned.
    report
        The headline metric and the number of examples.
    evaluate
        Cutoffs, and the number of bootstrap resamples of the paired differences.
    seed
        Of the bootstrap.
    settings
        Parameter groups to show, by name.
    metrics, html, browse, plots
        Where to write.
    """
    compared = {
        benchmark.name: tables.compare(
            benchmark, report.headline, resamples=evaluate.bootstrap, seed=seed
        )
        for benchmark in evidence.benchmarks
    }
    text = page.render(
        evidence,
        compared,
        headline=report.headline,
        examples=report.examples,
        settings=settings,
    )
    numbers = {
        tables.key(benchmark.name): tables.metrics(
            benchmark, compared[benchmark.name], report.headline
        )
        for benchmark in evidence.benchmarks
    }
    with atomic_dir(plots) as folder:
        _write_plots(folder, evidence, report.headline, evaluate.cutoffs)
    for path, page_text in ((html, text), (browse, viewer.render(evidence))):
        with atomic_file(path) as file:
            file.write(page_text)
    write_json(metrics, numbers)


def _write_plots(folder: Path, evidence: Evidence, headline: str, cutoffs: Sequence[int]) -> None:
    rows = tables.recall_rows(evidence.benchmarks, cutoffs)
    rows.to_csv(folder / "recall.csv", index=False, lineterminator="\n")
    first = evidence.benchmarks[0]
    pictures = {
        "headline.png": page.results_figure(
            first, headline, figures.PICTURE_WIDTH, f"{headline} on {first.name}"
        ),
        "map.png": figures.cluster_map(evidence.points),
    }
    for name, figure in pictures.items():
        (folder / name).write_bytes(figures.png(figure))

"""Put every number, its interval and its baselines on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seedtalk.workspace import input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("scores", "results/eval", "Scores of every system.", directory=True)
@input_option("predictions", "artifacts/predictions", "Rankings of every system.", directory=True)
@input_option("corpus", "results/corpus.json", "Counts of ingest.")
@input_option("selection", "results/selection.json", "Diagnostics of select.")
@input_option("gain", "results/gain.csv", "Gain of each pick.")
@input_option("gains", "results/gains.csv", "The same of every strategy compared.")
@input_option("overlap", "results/overlap.csv", "Picks that two strategies share.")
@input_option("points", "artifacts/map.parquet", "Map of the pool and the seeds.")
@input_option("teacher", "results/teacher.json", "Counts of generate.")
@input_option("synthesis", "results/synthesis.json", "Counts of curate.")
@input_option("quality", "results/quality.json", "Measures of audit.")
@input_option("losses", "results/train", "Loss curves of finetune.", directory=True)
@input_option("dialogues", "artifacts/dialogues", "Kept and quarantined.", directory=True)
@input_option("reviews", "artifacts/reviews.parquet", "The reviews.")
@input_option("items", "artifacts/items.parquet", "The catalogue.")
@output_option("metrics", "results/metrics.json", "Means and paired differences.")
@output_option("html", "results/report.html", "The page.")
@output_option("browse", "results/dialogues.html", "Every dialogue beside its seed.")
@output_option("plots", "results/plots", "Pictures and data of plots.", directory=True)
def main(params: Any, metrics: Path, html: Path, browse: Path, plots: Path, **inputs: Path) -> None:
    """Read what every stage left and write metrics, page and plots."""
    from seedtalk.reporting import read_evidence, write_report

    evidence = read_evidence(
        params.students, params.tunings, params.benchmarks, params.evaluate.cutoffs, **inputs
    )
    settings = {
        "seed": params.seed,
        "students": params.students,
        "tunings": params.tunings,
        "benchmarks": params.benchmarks,
        "ingest": params.ingest,
        "embed": params.embed,
        "select": params.select,
        "prompt": params.prompt,
        "teacher": params.teacher,
        "curate": params.curate,
        "audit": params.audit,
        "finetune": params.finetune,
        "evaluate": params.evaluate,
        "baseline": params.baseline,
        "blend": params.blend,
        "report": params.report,
    }
    write_report(
        evidence,
        params.report,
        params.evaluate,
        seed=params.seed,
        settings=settings,
        metrics=metrics,
        html=html,
        browse=browse,
        plots=plots,
    )


if __name__ == "__main__":
    main()

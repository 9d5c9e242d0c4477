"""What each strategy's picks are worth beside random ones, on any embedded corpus.

Strategies that draw something (random: the picks; js and hybrid: the starts of k-means) run with
several seeds: the table shows the mean and the 2.5% and 97.5% quantiles. The numbers are those of
`seedtalk.selection.diagnostics`; docs/diagnostics.md explains them.

    python benchmarks/selection_quality.py --embeddings artifacts/embeddings --budget 1000
"""

import json
from pathlib import Path

import click
import numpy as np

from seedtalk import signals
from seedtalk.selection import METHODS, diagnostics, js, select

SHOWN = {
    "log_det": "log-det",
    "js_to_pool": "JS to pool",
    "coverage": "coverage",
    "distinct_items": "items",
    "item_entropy": "item entropy",
    "outlier_share": "outliers",
}
DRAWN = {"random", "js", "hybrid"}


@click.command(help=__doc__)
@click.option("--embeddings", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--budget", "budgets", multiple=True, type=int, default=[1000], show_default=True)
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), default=METHODS)
@click.option("--clusters", default=32, show_default=True)
@click.option("--max-per-item", default=0, show_default=True)
@click.option("--min-rating", default=0.0, show_default=True, help="Of a review, from 0 to 1.")
@click.option("--seeds", default=5, show_default=True, help="Of js and hybrid; random has 20.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(embeddings, budgets, methods, clusters, max_per_item, min_rating, seeds, out):
    blocks = signals.read_blocks(embeddings)
    pool = signals.pool_rows(blocks.rows, min_rating)
    rows, X = blocks.rows.iloc[pool], np.ascontiguousarray(blocks.review[pool])
    items = np.unique(rows["item_id"].to_numpy(dtype=str), return_inverse=True)[1]
    groups = signals.item_groups(rows, "genre")
    most = max(budgets)
    ruler = diagnostics.Scorer(
        X, diagnostics.sample(X, 0), js.profile(X, clusters, 0.0, 0), items, groups, 1.0
    )
    figures = {"rows": len(X), "items": int(items.max()) + 1, "budgets": {}}
    picks: dict[str, list[np.ndarray]] = {}
    for method in methods:
        times = {"random": diagnostics.RANDOM_SEEDS}.get(method, seeds if method in DRAWN else 1)
        picks[method] = [
            select(
                X,
                most,
                method,
                seed,
                clusters=clusters,
                items=items,
                max_per_item=max_per_item,
                popularity=rows["popularity"].to_numpy(),
            ).indices
            for seed in range(times)
        ]
        click.echo(f"{method}: selected", err=True)
    for budget in sorted(budgets):
        click.echo(f"\n{len(X)} reviews of {figures['items']} items, budget {budget}")
        click.echo(f"{'':<12}" + "".join(f"{name:>26}" for name in SHOWN.values()))
        table = {}
        for method, runs in picks.items():
            # Every strategy is greedy: the picks of a budget are the first of a larger one.
            numbers = [ruler.numbers(run[:budget]) for run in runs]
            table[method] = {
                name: [
                    float(np.mean([one[name] for one in numbers])),
                    *np.quantile([one[name] for one in numbers], [0.025, 0.975]).tolist(),
                ]
                for name in SHOWN
            }
            cells = []
            for name in SHOWN:
                mean, low, high = table[method][name]
                spread = f" ({low:.4g} to {high:.4g})" if len(runs) > 1 else ""
                cells.append(f"{mean:.4g}{spread}".rjust(26))
            click.echo(f"{method:<12}" + "".join(cells))
        figures["budgets"][budget] = table
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

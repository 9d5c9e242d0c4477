"""Select the most informative reviews as seeds."""

import sys
from importlib import machinery, util
from pathlib import Path

if __name__ == "select":
    # Python puts stages/ first on every stage's path, so that `import select` (subprocess does
    # it) finds this file instead of the standard library's module: put that one in its place.
    elsewhere = [path for path in sys.path if Path(path) != Path(__file__).parent]
    standard = machinery.PathFinder.find_spec("select", elsewhere)
    sys.modules["select"] = util.module_from_spec(standard)
    standard.loader.exec_module(sys.modules["select"])

import click

from seedtalk.workspace import input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("embeddings", "artifacts/embeddings", "Blocks written by embed.", directory=True)
@output_option("seeds", "artifacts/seeds.jsonl", "Seeds in pick order.")
@output_option("gain", "results/gain.csv", "Gain of each pick.")
@output_option("points", "artifacts/map.parquet", "Two-dimensional map of pool and seeds.")
@output_option("selection", "results/selection.json", "What was selected, in numbers.")
def main(params, embeddings, seeds, gain, points, selection):
    """Write the seeds, what each gained, a map and a summary."""
    from seedtalk import signals
    from seedtalk.records import Seed, atomic_file, write_json, write_jsonl
    from seedtalk.selection import describing, js, select

    options, seed = params.select, params.seed
    blocks = signals.read_blocks(embeddings)
    pool = signals.pool_rows(blocks.rows, options.min_rating)
    rows = blocks.rows.iloc[pool]
    items, popularity = rows["item_id"].to_numpy(dtype=str), rows["popularity"].to_numpy()
    X = signals.compose(
        blocks.review[pool],
        blocks.metadata,
        blocks.user,
        rows["item_row"].to_numpy(),
        options.signal,
        options.signal_weight,
    )
    profile = js.profile(X, min(options.clusters, len(X)), options.temperature, seed)
    chosen = select(
        X,
        **options.model_dump(exclude={"signal", "signal_weight", "min_rating"}),
        seed=seed,
        items=items,
        popularity=popularity,
        profile=profile,
    )
    ids = rows["review_id"].to_numpy(dtype=str)
    picks = zip(chosen.indices, chosen.gains.round(9).tolist(), strict=True)
    records = [
        Seed(rank=rank, review_id=str(ids[row]), item_id=str(items[row]), score=score)
        for rank, (row, score) in enumerate(picks)
    ]
    about = options.model_dump(include={"method", "signal", "signal_weight", "budget"})
    write_jsonl(seeds, records)
    write_json(selection, about | describing.summary(chosen, profile, items))
    with atomic_file(gain) as file:
        describing.gain_curve(chosen).to_csv(file, index=False, lineterminator="\n")
    with atomic_file(points, "wb") as file:
        drawn = describing.cluster_map(X, ids, chosen, profile, seed)
        drawn.to_parquet(file, index=False)


if __name__ == "__main__":
    main()

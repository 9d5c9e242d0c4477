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

from seedtalk.workspace import cache_dir, input_option, output_option, params_option

STAGE = {"method", "signal", "signal_weight", "min_rating", "group", "warm_start", "clusters"}
BESIDE = {"compare", "stop_share"}  # the rest of the group are arguments of `select`


@click.command(help=__doc__)
@params_option
@input_option("embeddings", "artifacts/embeddings", "Blocks written by embed.", directory=True)
@output_option("seeds", "artifacts/seeds.jsonl", "Seeds in pick order.")
@output_option("gain", "results/gain.csv", "Gain of each pick.")
@output_option("gains", "results/gains.csv", "Gain of each pick of every strategy compared.")
@output_option("overlap", "results/overlap.csv", "Picks that two strategies share.")
@output_option("points", "artifacts/map.parquet", "Two-dimensional map of pool and seeds.")
@output_option("selection", "results/selection.json", "What was selected, in numbers.")
def main(params, embeddings, seeds, gain, gains, overlap, points, selection):
    """Write the seeds, what each gained, what others would have picked, a map and a summary."""
    import numpy as np

    from seedtalk import signals
    from seedtalk.records import Seed, atomic_file, read_jsonl, write_json, write_jsonl
    from seedtalk.selection import Selection, describing, js, select

    options, seed = params.select, params.seed
    blocks = signals.read_blocks(embeddings)
    pool = signals.pool_rows(blocks.rows, options.min_rating)
    rows = blocks.rows.iloc[pool]
    own = {"signal": options.signal, "weight": options.signal_weight, "folder": cache_dir()}
    vectors = blocks.review, blocks.metadata, blocks.user
    X = signals.compose(*vectors, pool, rows["item_row"].to_numpy(), **own)
    before = read_jsonl(options.warm_start, Seed)
    warm = signals.rows_of(rows, [old.review_id for old in before], options.warm_start)
    clusters = min(options.clusters, len(X))
    profile = js.profile(X, clusters, options.temperature, seed, device=options.device)
    shared = options.model_dump(exclude=STAGE | BESIDE) | {
        "seed": seed,
        "items": rows["item_id"].to_numpy(dtype=str),
        "groups": signals.item_groups(rows, options.group),
        "popularity": rows["popularity"].to_numpy(),
        "warm_start": warm,
    }
    chosen = select(X, method=options.method, clusters=options.clusters, profile=profile, **shared)
    beside = options.model_dump(include={"method"} | BESIDE)
    scores = [old.score for old in before]
    beside |= {"clusters": clusters, "before": scores}
    found = describing.diagnose(X, chosen, profile, **beside, **shared)

    ids = rows["review_id"].to_numpy(dtype=str)
    whole = Selection(np.r_[warm, chosen.indices], np.r_[scores, chosen.gains.round(9)])
    about = options.model_dump(include={"method", "signal", "signal_weight", "budget", "group"})
    about |= {"warm_start": len(warm)} | describing.summary(whole, profile, shared["items"])
    curve = describing.gain_curve(chosen, len(warm))
    write_jsonl(seeds, describing.seeds(whole, ids, shared["items"]))
    write_json(selection, about | found.numbers)
    for path, frame in ((gain, curve), (gains, found.gains), (overlap, found.overlap)):
        with atomic_file(path) as file:
            frame.to_csv(file, index=False, lineterminator="\n")
    with atomic_file(points, "wb") as file:
        drawn = describing.cluster_map(X, ids, whole, profile, seed)
        drawn.to_parquet(file, index=False)


if __name__ == "__main__":
    main()

"""Join the student with the domain's own signals and score the two together."""

from pathlib import Path

import click

from seedtalk.workspace import IN_FILE, OUT_FILE, input_option, params_option


@click.command(help=__doc__)
@params_option
@click.option("--student", required=True, help="A name of params.students.")
@click.option("--tuning", required=True, help="zero-shot, lora or full.")
@click.option("--benchmark", required=True, help="Which of the conversations.")
@input_option("conversations", "artifacts/conversations.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "The catalogue, written by ingest.")
@input_option("reviews", "artifacts/reviews.parquet", "Written by ingest.")
@click.option("--priors", type=IN_FILE, help="[default: artifacts/priors/<benchmark>.parquet]")
@click.option(
    "--pools",
    type=IN_FILE,
    help="[default: artifacts/pools/<student>-<tuning>-<benchmark>.parquet]",
)
@click.option(
    "--predictions",
    type=OUT_FILE,
    help="[default: artifacts/predictions/<student>-<tuning>-blend-<benchmark>.parquet]",
)
@click.option(
    "--scores",
    type=OUT_FILE,
    help="[default: results/eval/<student>-<tuning>-blend-<benchmark>.json]",
)
def main(params, student, tuning, benchmark, conversations, items, reviews, **files):
    """Rank by the weighted sum of student and signals, and by the signals without the student."""
    from seedtalk.evaluation import blending, protocols, results
    from seedtalk.records import read_table, write_json, write_table

    options, system = params.evaluate, f"{student}-{tuning}"
    talk, catalogue = read_table(conversations, "conversations"), read_table(items, "items")
    posed = protocols.queries(talk, benchmark, catalogue, options, params.seed)
    priors = files["priors"] or Path(f"artifacts/priors/{benchmark}.parquet")
    pools = files["pools"] or Path(f"artifacts/pools/{system}-{benchmark}.parquet")
    signals = blending.read_signals(priors, posed)
    values = blending.joined(signals, blending.read_student(pools, posed))
    weights = blending.weights_of(params.blend.model_dump())
    depth = None if options.candidates else options.depth
    rankings = {
        f"{system}-blend": blending.rank_all(posed, values, weights, depth),
        "signals": blending.rank_all(posed, values, blending.without_student(weights), depth),
    }
    predicted = results.predictions(posed, rankings)
    found = results.scores(
        benchmark,
        posed,
        predicted,
        options,
        seed=params.seed,
        score=options.score,
        reviewed=set(read_table(reviews, "reviews")["item_id"]),
    )
    name = f"{system}-blend-{benchmark}"
    table = files["predictions"] or Path(f"artifacts/predictions/{name}.parquet")
    write_table(table, predicted, "predictions")
    write_json(files["scores"] or Path(f"results/eval/{name}.json"), found)


if __name__ == "__main__":
    main()

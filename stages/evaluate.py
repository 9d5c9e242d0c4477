"""Score a student's recommendations in the conversations of a benchmark."""

from pathlib import Path

import click

from seedtalk.workspace import (
    IN_DIR,
    IN_FILE,
    OUT_FILE,
    cache_dir,
    input_option,
    params_option,
    root,
)

NAME = "<student>-<tuning>-<benchmark>"
# Told to the student's MLflow run, not depended on.
TOLD = {
    "dataset": Path("artifacts/dialogues/train.jsonl"),
    "quality": Path("results/quality.json"),
}


@click.command(help=__doc__)
@params_option
@click.option("--student", required=True, help="A name of params.students.")
@click.option("--tuning", required=True, help="zero-shot, lora or full.")
@click.option("--benchmark", required=True, help="Which of the conversations.")
@click.option("--model", type=IN_DIR, help="[default: models/<student>-<tuning>]")
@input_option("conversations", "artifacts/conversations.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "The catalogue, written by ingest.")
@input_option("reviews", "artifacts/reviews.parquet", "Written by ingest.")
@click.option("--priors", type=IN_FILE, help="[default: artifacts/priors/<benchmark>.parquet]")
@click.option("--pools", type=OUT_FILE, help=f"[default: artifacts/pools/{NAME}.parquet]")
@click.option(
    "--predictions", type=OUT_FILE, help=f"[default: artifacts/predictions/{NAME}.parquet]"
)
@click.option("--scores", type=OUT_FILE, help=f"[default: results/eval/{NAME}.json]")
def main(params, student, tuning, benchmark, model, priors, pools, predictions, scores, **inputs):
    """Rank titles for every query; write rankings, the student's scores and the metrics."""
    from seedtalk import tracking
    from seedtalk.evaluation import protocols, results, scoring
    from seedtalk.records import read_table, write_json, write_table
    from seedtalk.students.loading import load_student

    system, options = f"{student}-{tuning}", params.evaluate
    name = f"{system}-{benchmark}"
    model, scores = model or Path(f"models/{system}"), scores or Path(f"results/eval/{name}.json")
    catalogue = read_table(inputs["items"], "items")
    talk = read_table(inputs["conversations"], "conversations")
    posed = protocols.queries(talk, benchmark, catalogue, options, params.seed)
    signals = read_table(priors or Path(f"artifacts/priors/{benchmark}.parquet"), "priors")
    loaded = load_student(model, cache_dir=cache_dir())
    run = tracking.run_of(root(), model)  # before the work: a store that is away costs none
    answers, told = scoring.ask(
        posed, loaded, catalogue, signals, options, params.curate.years, cache_dir()
    )
    predicted = results.predictions(posed, {system: [answer.ranking for answer in answers]})
    reviewed = set(read_table(inputs["reviews"], "reviews")["item_id"])
    found = results.scores(
        benchmark, posed, predicted, options,
        seed=params.seed, score=options.score, reviewed=reviewed,
    )  # fmt: skip
    pooled = scoring.pools(posed, answers, system)
    write_table(pools or Path(f"artifacts/pools/{name}.parquet"), pooled, "pools")
    table = predictions or Path(f"artifacts/predictions/{name}.parquet")
    write_table(table, predicted, "predictions")
    write_json(scores, {**found, "decoding": told})
    if run is not None:
        tracking.log_results(run, system, scores, **TOLD)


if __name__ == "__main__":
    main()

"""Score a student's recommendations in the conversations of a benchmark."""

from pathlib import Path

import click

from seedtalk.workspace import IN_DIR, OUT_FILE, cache_dir, input_option, params_option


@click.command(help=__doc__)
@params_option
@click.option("--student", required=True, help="A name of params.students.")
@click.option("--tuning", required=True, help="zero-shot, lora or full.")
@click.option("--benchmark", required=True, help="Which of the conversations.")
@click.option("--model", type=IN_DIR, help="[default: models/<student>-<tuning>]")
@input_option("conversations", "artifacts/conversations.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "The catalogue, written by ingest.")
@click.option(
    "--predictions",
    type=OUT_FILE,
    help="[default: artifacts/predictions/<student>-<tuning>-<benchmark>.parquet]",
)
@click.option(
    "--scores",
    type=OUT_FILE,
    help="[default: results/eval/<student>-<tuning>-<benchmark>.json]",
)
def main(params, student, tuning, benchmark, model, conversations, items, predictions, scores):
    """Rank the candidates of every query, write the rankings and their scores."""
    from seedtalk.evaluation import protocols, results, scoring
    from seedtalk.records import read_table, write_json, write_table
    from seedtalk.students.loading import load_student

    system = f"{student}-{tuning}"
    folder = model or Path(f"models/{system}")
    options = params.evaluate
    catalogue = read_table(items, "items")
    talk = read_table(conversations, "conversations")
    posed = protocols.queries(talk, benchmark, catalogue, options, params.seed)
    loaded, tokenizer = load_student(folder, cache_dir=cache_dir())
    score = scoring.student_score(loaded, tokenizer, catalogue, options.score)
    partial = cache_dir() / "evaluate" / scoring.partial_name(posed, folder, options.score)
    rankings = scoring.rank_all(posed, score, partial)
    predicted = results.predictions(posed, {system: rankings})
    found = results.scores(
        benchmark, posed, predicted, options, seed=params.seed, score=options.score
    )
    name = f"{system}-{benchmark}"
    write_table(
        predictions or Path(f"artifacts/predictions/{name}.parquet"), predicted, "predictions"
    )
    write_json(scores or Path(f"results/eval/{name}.json"), found)


if __name__ == "__main__":
    main()

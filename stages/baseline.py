"""Score what needs no language model on the queries of a benchmark."""

from pathlib import Path

import click

from seedtalk.workspace import OUT_FILE, cache_dir, input_option, params_option


@click.command(help=__doc__)
@params_option
@click.option("--benchmark", required=True, help="Which of the conversations.")
@input_option("conversations", "artifacts/conversations.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "The catalogue, written by ingest.")
@input_option("interactions", "artifacts/interactions.parquet", "Written by ingest.")
@input_option("reviews", "artifacts/reviews.parquet", "Written by ingest.")
@input_option("embeddings", "artifacts/embeddings", "Written by embed.", directory=True)
@input_option("dialogues", "artifacts/dialogues", "Written by curate.", directory=True)
@click.option(
    "--predictions",
    type=OUT_FILE,
    help="[default: artifacts/predictions/baselines-<benchmark>.parquet]",
)
@click.option("--scores", type=OUT_FILE, help="[default: results/eval/baselines-<benchmark>.json]")
def main(
    params,
    benchmark,
    conversations,
    items,
    interactions,
    reviews,
    embeddings,
    dialogues,
    predictions,
    scores,
):
    """Rank the candidates of every query by each baseline, write the rankings and their scores."""
    from seedtalk.encoders import encode
    from seedtalk.evaluation import baselines, protocols, results
    from seedtalk.records import Dialogue, read_jsonl, read_table, write_json, write_table

    options, encoder = params.evaluate, params.baseline.encoder

    def embed(texts):
        return encode(texts, params.source_of(encoder), cache_dir=cache_dir())

    catalogue = read_table(items, "items")
    talk = read_table(conversations, "conversations")
    posed = protocols.queries(talk, benchmark, catalogue, options, params.seed)
    reviewed, vectors = baselines.review_vectors(
        embeddings, read_table(reviews, "reviews"), encoder, embed
    )
    rankings = baselines.rank_baselines(
        posed,
        catalogue,
        read_table(interactions, "interactions"),
        read_jsonl(dialogues / "train.jsonl", Dialogue),
        reviewed,
        vectors,
        embed,
        neighbours=params.baseline.neighbours,
        seed=params.seed,
    )
    predicted = results.predictions(posed, rankings)
    found = results.scores(benchmark, posed, predicted, options, seed=params.seed, score=None)
    name = f"baselines-{benchmark}"
    table = predictions or Path(f"artifacts/predictions/{name}.parquet")
    write_table(table, predicted, "predictions")
    write_json(scores or Path(f"results/eval/{name}.json"), found)


if __name__ == "__main__":
    main()

"""Measure the domain's own signals on the queries of a benchmark; score what needs no student."""

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
@click.option("--priors", type=OUT_FILE, help="[default: artifacts/priors/<benchmark>.parquet]")
@click.option(
    "--predictions",
    type=OUT_FILE,
    help="[default: artifacts/predictions/baselines-<benchmark>.parquet]",
)
@click.option("--scores", type=OUT_FILE, help="[default: results/eval/baselines-<benchmark>.json]")
def main(params, benchmark, conversations, items, interactions, reviews, **files):
    """Write the signals of every candidate, the rankings of each baseline and their scores."""
    from seedtalk.encoders import encode, load
    from seedtalk.evaluation import baselines, priors, protocols, results
    from seedtalk.records import Dialogue, read_jsonl, read_table, write_json, write_table

    options, encoder = params.evaluate, params.baseline.encoder
    catalogue, reviewed = read_table(items, "items"), read_table(reviews, "reviews")
    talk, rated = (
        read_table(conversations, "conversations"),
        read_table(interactions, "interactions"),
    )
    posed = protocols.queries(talk, benchmark, catalogue, options, params.seed)
    dialogues = read_jsonl(files["dialogues"] / "train.jsonl", Dialogue)
    corpus = reviewed["text"].tolist()
    loaded = load(params.source_of(encoder), cache_dir=cache_dir(), corpus=corpus)

    def embed(texts):
        return encode(texts, loaded, cache_dir=cache_dir())

    vectors = priors.text_vectors(files["embeddings"], catalogue, reviewed, encoder, embed)
    asked = embed([priors.seeker_words(query) for query in posed])
    signals = priors.compute(posed, catalogue, rated, reviewed, asked, *vectors, seed=params.seed)
    rankings = baselines.rank_baselines(
        posed,
        catalogue,
        signals,
        dialogues,
        embed,
        neighbours=params.baseline.neighbours,
        seed=params.seed,
        depth=None if options.candidates else options.depth,
    )
    predicted = results.predictions(posed, rankings)
    found = results.scores(
        benchmark,
        posed,
        predicted,
        options,
        seed=params.seed,
        score=None,
        reviewed=set(reviewed["item_id"]),
    )
    name = f"baselines-{benchmark}"
    told = files["priors"] or Path(f"artifacts/priors/{benchmark}.parquet")
    write_table(told, priors.table(posed, signals), "priors")
    table = files["predictions"] or Path(f"artifacts/predictions/{name}.parquet")
    write_table(table, predicted, "predictions")
    write_json(files["scores"] or Path(f"results/eval/{name}.json"), found)


if __name__ == "__main__":
    main()

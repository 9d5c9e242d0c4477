"""Read the source, link reviews to items and hold out the evaluation users."""

import click

from seedtalk.workspace import OUT_DIR, output_option, params_option


@click.command(help=__doc__)
@params_option
@click.option("--data", type=OUT_DIR, help="Folder the source reads.  [default: ingest.path]")
@output_option("items", "artifacts/items.parquet", "The catalogue.")
@output_option("reviews", "artifacts/reviews.parquet", "Reviews of catalogue items.")
@output_option("interactions", "artifacts/interactions.parquet", "Of users not held out.")
@output_option("conversations", "artifacts/conversations.parquet", "Every benchmark's.")
@output_option("corpus", "results/corpus.json", "What was read, kept and dropped, and why.")
def main(params, data, items, reviews, interactions, conversations, corpus):
    """Write the corpus and the report on it."""
    from seedtalk.records import write_json, write_table
    from seedtalk.sources import load_corpus

    group = params.ingest if data is None else params.ingest.model_copy(update={"path": data})
    loaded = load_corpus(group, params.seed)
    write_table(items, loaded.items, "items")
    write_table(reviews, loaded.reviews, "reviews")
    write_table(interactions, loaded.interactions, "interactions")
    write_table(conversations, loaded.conversations, "conversations")
    write_json(corpus, loaded.report)


if __name__ == "__main__":
    main()

"""Turn every review, item and the interactions into vectors."""

import click

from seedtalk.workspace import cache_dir, input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("reviews", "artifacts/reviews.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "Written by ingest.")
@input_option("interactions", "artifacts/interactions.parquet", "Written by ingest.")
@output_option("embeddings", "artifacts/embeddings", "Blocks of vectors.", directory=True)
def main(params, reviews, items, interactions, embeddings):
    """Write the review, metadata and user blocks and the rows they belong to."""
    import shutil

    from filelock import FileLock

    from seedtalk import signals
    from seedtalk.encoders import encode, load
    from seedtalk.records import read_table, sha256_file, sha256_text

    options, source = params.embed, params.source_of(params.embed.encoder)
    tables = read_table(reviews, "reviews"), read_table(items, "items")
    likes = read_table(interactions, "interactions")
    rows = signals.review_rows(*tables, likes)
    info = options.model_dump(exclude={"batch_tokens", "user_factors"})
    work = [source, options.model_dump_json(), sha256_file(reviews), sha256_file(items)]
    partial = cache_dir() / "embed" / sha256_text(work)[:32]

    def vectors(texts, name):
        settings = options.model_dump(exclude={"encoder", "user_factors"})
        places = {"cache_dir": cache_dir(), "partial": partial, "out": partial / f"{name}.npy"}
        return encode(texts, encoder, **settings, **places)

    # Two experiments that differ further down may embed the same texts at the same time.
    lock = cache_dir() / "locks" / partial.name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        texts = tables[0]["text"].tolist()
        encoder = load(source, cache_dir=cache_dir(), corpus=texts)
        blocks = signals.Blocks(
            review=vectors(texts, "review"),
            metadata=vectors(signals.item_texts(tables[1]), "metadata"),
            user=signals.item_factors(likes, tables[1], options.user_factors, params.seed),
            rows=rows,
        )
        signals.write_blocks(embeddings, blocks, info)
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    main()

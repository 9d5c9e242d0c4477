"""Measure the dialogues: faithful, diverse, covering, and near to what people say."""

import click

from seedtalk.workspace import cache_dir, input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("dialogues", "artifacts/dialogues", "Folder, written by curate.", directory=True)
@input_option("seeds", "artifacts/seeds.jsonl", "Written by select.")
@input_option("reviews", "artifacts/reviews.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "The catalogue, written by ingest.")
@input_option("conversations", "artifacts/conversations.parquet", "What is evaluated on.")
@input_option("synthesis", "results/synthesis.json", "Counts of curate.")
@output_option("quality", "results/quality.json", "The numbers.")
def main(params, dialogues, seeds, reviews, items, conversations, synthesis, quality):
    """Read the training dialogues and what they are held against; write the numbers."""
    import zlib

    from seedtalk import auditing, records

    def encode(texts):
        from seedtalk import encoders

        source = params.source_of(params.audit.encoder)
        return encoders.encode(texts, source, cache_dir=cache_dir())

    train = dialogues / "train.jsonl"
    found = auditing.audit(
        records.read_jsonl(train, records.Dialogue),
        records.read_jsonl(seeds, records.Seed),
        records.read_table(reviews, "reviews"),
        records.read_table(items, "items"),
        records.read_table(conversations, "conversations"),
        records.read_json(synthesis),
        fingerprint=zlib.crc32(train.read_bytes()),
        benchmarks=params.benchmarks,
        seed=params.seed,
        encode=encode,
    )
    records.write_json(quality, found)


if __name__ == "__main__":
    main()

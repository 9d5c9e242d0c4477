"""Parse, ground and filter the answers; split what is kept into training and validation."""

import click

from seedtalk.workspace import cache_dir, input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("responses", "artifacts/responses.jsonl", "Raw responses of the teacher.")
@input_option("grounding", "artifacts/grounding.jsonl", "What each request was made of.")
@input_option("items", "artifacts/items.parquet", "Catalogue.")
@input_option("conversations", "artifacts/conversations.parquet", "What is evaluated on.")
@input_option("teacher", "results/teacher.json", "Who answered.")
@output_option("dialogues", "artifacts/dialogues", "Folder: dialogues, provenance.", True)
@output_option("summary", "results/synthesis.json", "Counts, reasons, hallucination rate.")
def main(params, responses, grounding, items, conversations, teacher, dialogues, summary):
    """Read the answers, curate them, write both parts, the rest and the counts."""
    from seedtalk import curation, records

    def encode(texts):
        from seedtalk import encoders

        source = params.source_of(params.curate.encoder)
        return encoders.encode(texts, source, cache_dir=cache_dir())

    curated = curation.curate(
        curation.read_responses(responses),
        records.read_jsonl(grounding, records.Grounding),
        records.read_table(items, "items"),
        records.read_table(conversations, "conversations"),
        params.curate,
        params.prompt,
        seed=params.seed,
        teacher=records.read_json(teacher),
        encode=encode,
    )
    with records.atomic_dir(dialogues) as folder:
        records.write_jsonl(folder / "train.jsonl", curated.train)
        records.write_jsonl(folder / "valid.jsonl", curated.valid)
        records.write_jsonl(folder / "quarantine.jsonl", curated.rejected)
        records.write_jsonl(folder / "provenance.jsonl", curated.provenance)
    records.write_json(summary, curated.summary)


if __name__ == "__main__":
    main()

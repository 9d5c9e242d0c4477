"""Parse, ground and filter the answers; split what is kept into training and validation."""

import click

from seedtalk.workspace import cache_dir, input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("responses", "artifacts/responses.jsonl", "Raw responses of the teacher.")
@input_option("grounding", "artifacts/grounding.jsonl", "What each request was made of.")
@input_option("items", "artifacts/items.parquet", "Catalogue.")
@input_option(
    "conversations", "artifacts/conversations.parquet", "What is evaluated on or learnt from."
)
@input_option("teacher", "results/teacher.json", "Who answered.")
@output_option("dialogues", "artifacts/dialogues", "Folder: dialogues, provenance.", True)
@output_option("summary", "results/synthesis.json", "Counts, reasons, hallucination rate.")
def main(params, responses, grounding, items, conversations, teacher, dialogues, summary):
    """Read the answers, curate them, write both parts, the rest and the counts."""
    from seedtalk import curation, real, records, transfer

    vectors = {}

    def encode(texts):
        """Encode each text once, also where real dialogues are held against the same ones."""
        import numpy as np

        from seedtalk import encoders

        source = params.source_of(params.curate.encoder)
        fresh = [text for text in dict.fromkeys(texts) if text not in vectors]
        if fresh:
            found = encoders.encode(fresh, source, cache_dir=cache_dir())
            vectors.update(zip(fresh, found, strict=True))
        return np.stack([vectors[text] for text in texts])

    catalogue = records.read_table(items, "items")
    everything = records.read_table(conversations, "conversations")
    evaluated, own = real.parted(everything, params.curate)
    curated = curation.curate(
        curation.read_responses(responses),
        records.read_jsonl(grounding, records.Grounding),
        catalogue,
        evaluated,
        params.curate,
        params.prompt,
        seed=params.seed,
        teacher=records.read_json(teacher),
        encode=encode,
    )
    shared = {"seed": params.seed, "encode": encode}
    if params.curate.train_on in real.LEARNT:
        curated = real.mixed(curated, own, evaluated, catalogue, params.curate, **shared)
    elif params.curate.train_on == "transfer":
        others = transfer.read(params.curate.transfer)
        curated = transfer.transferred(
            curated, others, evaluated, catalogue, params.curate, **shared
        )
    with records.atomic_dir(dialogues) as folder:
        records.write_jsonl(folder / "train.jsonl", curated.train)
        records.write_jsonl(folder / "valid.jsonl", curated.valid)
        records.write_jsonl(folder / "quarantine.jsonl", curated.rejected)
        records.write_jsonl(folder / "provenance.jsonl", curated.provenance)
    records.write_json(summary, curated.summary)


if __name__ == "__main__":
    main()

"""Turn every seed into a chat request for the teacher."""

import click

from seedtalk.workspace import input_option, output_option, params_option


@click.command(help=__doc__)
@params_option
@input_option("seeds", "artifacts/seeds.jsonl", "Seeds in pick order.")
@input_option("reviews", "artifacts/reviews.parquet", "Reviews the seeds are among.")
@input_option("items", "artifacts/items.parquet", "Catalogue.")
@input_option("interactions", "artifacts/interactions.parquet", "Who liked what.")
@output_option("requests", "artifacts/requests.jsonl", "Requests in OpenAI Batch format.")
@output_option("grounding", "artifacts/grounding.jsonl", "What each request was made of.")
def main(params, seeds, reviews, items, interactions, requests, grounding):
    """Read the tables, build the requests, write both files."""
    from seedtalk import prompting, records

    lines, groundings = prompting.build(
        records.read_jsonl(seeds, records.Seed),
        records.read_table(reviews, "reviews"),
        records.read_table(items, "items"),
        records.read_table(interactions, "interactions"),
        params.prompt,
        model=params.teacher.model,
        temperature=params.teacher.temperature,
        max_tokens=params.teacher.max_tokens,
    )
    records.write_jsonl(requests, lines)
    records.write_jsonl(grounding, groundings)


if __name__ == "__main__":
    main()

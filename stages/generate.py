"""Have the teacher answer every request; what was paid once is not paid again."""

from functools import partial

import click

from seedtalk.workspace import cache_dir, input_option, output_option, params_option, root


@click.command(help=__doc__)
@params_option
@input_option("requests", "artifacts/requests.jsonl", "Requests in OpenAI Batch format.")
@output_option("responses", "artifacts/responses.jsonl", "Raw responses, in request order.")
@output_option("summary", "results/teacher.json", "Who answered, tokens, US dollars.")
def main(params, requests, responses, summary):
    """Read the requests, have them answered, write the responses and their summary."""
    from seedtalk import records, teacher, tracking

    counts = teacher.stream(
        teacher.read_requests(requests),
        params.teacher,
        seed=params.seed,
        cache_dir=cache_dir(),
        write=partial(records.write_jsonl, responses),
        trace=partial(tracking.log_traces, root()) if params.teacher.trace else None,
    )
    records.write_json(summary, counts)


if __name__ == "__main__":
    main()

"""One side of benchmarks/teacher.py, run by the interpreter under measure.

    python teacher_sides.py SIDE BASE_URL REQUESTS.jsonl CONCURRENCY FOLDER OUT.json

It needs what the side needs, nothing else, so that the peers' environment runs it without
seedtalk. FOLDER is where the side keeps its cache. OUT.json gets the seconds of the run (without
imports) and the text of each row, in order, or null. Whatever a side does of its own accord
stands: retries, batches, exit code.
"""

import json
import os
import sys
import time
from pathlib import Path

MAX_TOKENS, TEMPERATURE = 600, 0.7


def seedtalk(url, requests, concurrency, folder):
    import click

    from seedtalk import teacher
    from seedtalk.params import load_params
    from seedtalk.teacher import openai, transport  # noqa: F401 - imports are not timed

    root = Path(__file__).resolve().parent.parent
    values = {"backend": "openai", "model": "m", "base_url": url, "concurrency": concurrency}
    group = load_params(root / "params.yaml").teacher.model_copy(
        update=values | {"prices": root / "prices.yaml"}
    )

    def run():
        try:
            lines, _ = teacher.generate(requests, group, seed=0, cache_dir=folder)
        except click.ClickException as error:  # as the stage ends
            error.show()
            sys.exit(error.exit_code)
        return [text_of(line) for line in lines]

    return run


def text_of(line):
    answer = line["response"]
    return answer["body"]["choices"][0]["message"]["content"] if answer else None


def sequential(url, requests, _concurrency, _folder):
    """One call after the other with the SDK, as a script does that was written in a minute."""
    from openai import OpenAI

    client = OpenAI(base_url=url)

    def run():
        answers = (client.chat.completions.create(**request["body"]) for request in requests)
        return [answer.choices[0].message.content for answer in answers]

    return run


def curator(url, requests, concurrency, folder):
    """bespokelabs-curator: retries ten times each by default, answers that were cut too."""
    os.environ |= {"TELEMETRY_ENABLED": "0", "CURATOR_DISABLE_RICH_DISPLAY": "1"}
    import litellm.litellm_core_utils.default_encoding  # noqa: F401 - a tokenizer that needs no net
    from bespokelabs import curator as library
    from datasets import Dataset

    class Asker(library.LLM):
        def prompt(self, row):
            return row["messages"]

        def parse(self, row, response):
            return {"row": row["row"], "text": response}

    asker = Asker(
        model_name="m",
        backend="openai",
        generation_params={"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE},
        backend_params={
            "base_url": url,
            "max_concurrent_requests": concurrency,
            "max_requests_per_minute": 10**7,
            "max_tokens_per_minute": 10**10,
        },
    )
    rows = [{"row": n, "messages": r["body"]["messages"]} for n, r in enumerate(requests)]
    data = Dataset.from_list(rows)

    def run():
        found = asker(data, working_dir=str(folder)).dataset
        texts = {row["row"]: row["text"] for row in found}
        return [texts.get(number) for number in range(len(requests))]

    return run


def distilabel(url, requests, concurrency, folder):
    """distilabel: a step works through batches, each as large as the concurrency."""
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    rows = [
        {"row": n, "instruction": r["body"]["messages"][-1]["content"]}
        for n, r in enumerate(requests)
    ]
    with Pipeline(name="teacher", cache_dir=folder) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=concurrency)
        ask = TextGeneration(
            llm=OpenAILLM(
                model="m",
                base_url=url,
                api_key=os.environ["OPENAI_API_KEY"],
                generation_kwargs={"max_new_tokens": MAX_TOKENS, "temperature": TEMPERATURE},
            ),
            system_prompt=requests[0]["body"]["messages"][0]["content"],
            input_batch_size=concurrency,
        )
        load >> ask

    def run():
        found = pipeline.run(use_cache=True)["default"]["train"]
        texts = {row["row"]: row["generation"] for row in found}
        return [texts.get(number) for number in range(len(requests))]

    return run


SIDES = {side.__name__: side for side in (seedtalk, sequential, curator, distilabel)}


def main():
    side, url, path, concurrency, folder, out = sys.argv[1:7]
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    requests = [json.loads(line) for line in lines]
    run = SIDES[side](url, requests, int(concurrency), Path(folder))
    start = time.perf_counter()
    texts = run()
    seconds = time.perf_counter() - start
    Path(out).write_text(json.dumps({"seconds": seconds, "texts": texts}), encoding="utf-8")


if __name__ == "__main__":
    main()

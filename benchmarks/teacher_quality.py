"""Two or more teachers on the same seeds, side by side: what each one's answers are worth.

Each folder is a workspace whose stages ran up to `curate`. Besides what `results/synthesis.json`
counts, it is measured how much of a message stands word for word in its review (5-grams), how
varied the messages are (distinct n-grams, titles masked, in equally many messages), and whether a
title that the catalogue lacks is a film of the large title list or of no list at all.

    python benchmarks/teacher_quality.py --run extractive=DIR --run llm=DIR --titles data/quickstart
"""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import mean

import click

from seedtalk import curation, records
from seedtalk.catalogue import Catalogue
from seedtalk.teacher.answers import BadAnswerError, content_of, parse_dialogue
from seedtalk.titles import split_title

COPIED = 5  # words in a row
_YEAR = re.compile(r"\s*\(\d{4}\)$")


@click.command(help=__doc__)
@click.option("--run", "runs", multiple=True, required=True, help="NAME=FOLDER; repeat it.")
@click.option("--titles", type=click.Path(exists=True, path_type=Path), help="data/quickstart.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(runs, titles, out):
    folders = {name: Path(folder) for name, _, folder in (run.partition("=") for run in runs)}
    known = _films(titles) if titles else None
    asked = [
        {line["custom_id"] for line in _lines(folder, "requests")} for folder in folders.values()
    ]
    same = set.intersection(*asked)
    figures = {name: _figures(folder, same, known) for name, folder in folders.items()}
    rows = list(dict.fromkeys(row for column in figures.values() for row in column))
    width = max(map(len, rows))
    click.echo(" " * width + "".join(f"{name:>14}" for name in figures))
    for row in rows:
        cells = (column.get(row) for column in figures.values())
        click.echo(f"{row:<{width}}" + "".join(f"{_shown(cell):>14}" for cell in cells))
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n")


def _figures(folder, same, known):
    catalogue = Catalogue(records.read_table(folder / "artifacts/items.parquet", "items"))
    reviews = records.read_table(folder / "artifacts/reviews.parquet", "reviews")
    reviews = dict(zip(reviews["review_id"], reviews["text"], strict=True))
    provenance = records.read_jsonl(
        folder / "artifacts/dialogues/provenance.jsonl", records.Provenance
    )
    provenance = {p.dialogue_id: p for p in provenance if p.dialogue_id in same}
    reasons = Counter(p.reason for p in provenance.values() if p.reason)
    told, tokens, kinds, titles = {}, [], Counter(), Counter()
    for line in _lines(folder, "responses"):
        if line["custom_id"] not in same or not isinstance(line.get("response"), dict):
            continue
        body = line["response"]["body"]
        tokens.append(body["usage"]["completion_tokens"])
        try:
            answer = parse_dialogue(content_of(body))
        except BadAnswerError:
            continue
        told[line["custom_id"]] = " ".join(
            turn["text"] for turn in answer.turns if turn["role"] == "seeker"
        )
        titles.update(answer.titles)
        for title in answer.titles:
            kinds[_kind(title, catalogue, known)] += 1
    count = len(provenance)
    figures = {
        "requests": count,
        "kept": sum(p.verdict != "quarantined" for p in provenance.values()) / count,
        **{f"quarantined: {reason}": number / count for reason, number in reasons.items()},
        "output tokens, mean": mean(tokens),
        "message, characters, mean": mean(map(len, told.values())),
        "in the review word for word": mean(
            _copied(catalogue.mask(text), reviews[provenance[name].review_id])
            for name, text in told.items()
        ),
    }
    masked = [catalogue.mask(text) for _, text in sorted(told.items())]
    for n in (1, 2, 3):
        grams = [gram for text in masked for gram in _grams(text, n)]
        figures[f"distinct {n}-grams"] = len(set(grams)) / len(grams)
    listed = kinds.total()
    figures["titles listed"] = listed
    figures |= {f"of these: {kind}": number / listed for kind, number in sorted(kinds.items())}
    figures["different titles"] = len(titles)
    figures["share of the ten most listed"] = sum(n for _, n in titles.most_common(10)) / listed
    return figures


def _kind(title, catalogue, known):
    if catalogue.link(title) is not None:
        return "in the catalogue"
    if known is None:
        return "not in the catalogue"
    if known.link(title) is not None:
        return "another film"
    bare = _YEAR.sub("", title)
    return "a film, wrong year" if known.link(bare) is not None else "no film known"


def _films(folder):
    import pandas as pd

    films = [
        pd.read_csv(folder / "catalogue/titles.csv")[["title", "year"]],
        pd.read_csv(folder / "movielens/movies.csv")[["title", "year"]],
    ]
    films = [(title, year) for film in films for title, year in film.dropna().itertuples(False)]
    names = [(name, year) for title, year in films for name in _names(title)]
    table = pd.DataFrame(names, columns=["title", "year"])
    table["item_id"] = table.index.astype(str)
    table["year"] = table["year"].astype("Int64")
    return Catalogue(table)


def _names(title):
    main, others = split_title(title)
    return [main, *others]


def _copied(message, review):
    """Return the share of a message's 5-grams that stand in its review."""
    grams = _grams(message, COPIED)
    there = set(_grams(review, COPIED))
    return sum(gram in there for gram in grams) / len(grams) if grams else 0.0


def _grams(text, n):
    words = curation._words(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _lines(folder, name):
    return [line for _, line in records.read_json_lines(folder / f"artifacts/{name}.jsonl")]


def _shown(cell):
    if cell is None:
        return "-"
    return str(cell) if isinstance(cell, int) else f"{cell:.3f}" if cell < 2 else f"{cell:.1f}"


if __name__ == "__main__":
    main()

"""`seedtalk score` and `seedtalk export predictions`: one count for every system's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from seedtalk.errors import InputError, at
from seedtalk.workspace import IN_FILE, OUT_FILE, input_option

Numbers = Mapping[str, Mapping[str, float | int | None]]


@click.command()
@click.argument("answers", metavar="FILE", type=IN_FILE)
@click.option(
    "--protocol",
    type=click.Choice(["he2023", "strict"]),
    default="he2023",
    show_default=True,
    help="he2023: as He et al. (CIKM 2023) counted. strict: catalogue items only.",
)
@click.option("--filtered", is_flag=True, help="he2023: drop titles over 2 edits from a name.")
@click.option("--exclude-seen", is_flag=True, help="Drop what was mentioned before.")
@click.option(
    "--entities",
    type=IN_FILE,
    help="he2023: entity2id.json; maps the completions' titles anew to its names.",
)
@click.option("--items", type=IN_FILE, help="strict: the catalogue. [artifacts/items.parquet]")
@click.option("--json", "as_json", is_flag=True, help="Print numbers for a program.")
def score(
    answers: Path,
    protocol: str,
    filtered: bool,
    exclude_seen: bool,
    entities: Path | None,
    items: Path | None,
    as_json: bool,
) -> None:
    """Score the answers of any system.

    FILE has one JSON object a line: `rec_list` (objects with movie_name, nearest_movie and
    min_edit_distance) or `completion` (text), `gt_list` and `prev_list` (names), and maybe a
    `conversation_id`. docs/evaluation.md says what is counted.
    """
    if protocol == "strict":
        if filtered or entities is not None:
            raise click.UsageError("--filtered and --entities are of --protocol he2023")
        found = _strict(answers, items or Path("artifacts/items.parquet"), exclude_seen)
    else:
        if items is not None:
            raise click.UsageError("--items is of --protocol strict")
        found = _he2023(answers, entities, filtered, exclude_seen)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)


def _he2023(path: Path, entities: Path | None, filtered: bool, exclude_seen: bool) -> Numbers:
    from seedtalk.evaluation import he2023
    from seedtalk.evaluation.answers import read_answers

    read = read_answers(path)
    if entities is not None:
        read = he2023.with_names(read, he2023.entity_names(entities))
    return he2023.score(path, read, filtered=filtered, exclude_seen=exclude_seen)


def _strict(path: Path, items: Path, exclude_seen: bool) -> Numbers:
    from seedtalk.catalogue import Catalogue
    from seedtalk.evaluation import strict
    from seedtalk.evaluation.answers import read_answers
    from seedtalk.records import read_table

    read = read_answers(path)
    if not items.is_file():
        raise InputError(f"{items}: no such file; give --items, or run `dvc repro ingest`")
    linked = strict.link(read, Catalogue(read_table(items, "items")))
    click.echo(
        f"{linked.unlinked} of {linked.listed} titles answered and {linked.unknown} of "
        f"{linked.asked} asked for are not in {items}; they are not counted.",
        err=True,
    )
    return strict.score(linked, [answer.conversation for answer in read], exclude_seen=exclude_seen)


def _show(found: Numbers) -> None:
    from rich.console import Console
    from rich.table import Table

    bootstrap = any(name.endswith("_low") for one in found.values() for name in one)
    interval = "95% of dialogues resampled" if bootstrap else "± 1.96 se"
    table = Table(title=f"mean, {interval}; n rows of turn and target", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for condition, numbers in found.items():
        table.add_column(f"{condition} ({numbers['n']})", justify="right", no_wrap=True)
    first = next(iter(found.values()))
    for metric in (name.removesuffix("_mean") for name in first if name.endswith("_mean")):
        table.add_row(metric, *(_cell(numbers, metric) for numbers in found.values()))
    Console(highlight=False, markup=False, emoji=False).print(table)


def _cell(numbers: Mapping[str, float | int | None], metric: str) -> str:
    mean, half = numbers[f"{metric}_mean"], numbers[f"{metric}_ci"]
    if mean is None:
        return "–"
    if f"{metric}_low" in numbers:
        return f"{mean:.3f} [{numbers[f'{metric}_low']:.3f}, {numbers[f'{metric}_high']:.3f}]"
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


@click.command()
@click.argument("predictions", metavar="FILE", type=IN_FILE)
@input_option("items", "artifacts/items.parquet", "The catalogue.")
@input_option("conversations", "artifacts/conversations.parquet", "Written by ingest.")
@click.option("--system", help="Which of the file's systems, where it holds several.")
@click.option("--benchmark", help="Which conversations, where several have the same ids.")
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Titles of each ranking.",
)
@click.option("-o", "--output", type=OUT_FILE, required=True, help="JSON lines to write.")
def predictions(
    predictions: Path,
    items: Path,
    conversations: Path,
    system: str | None,
    benchmark: str | None,
    depth: int,
    output: Path,
) -> None:
    """Write a system's rankings as a file that `seedtalk score` reads.

    FILE is one of artifacts/predictions/.
    """
    from seedtalk.evaluation.answers import from_predictions
    from seedtalk.records import read_table, write_jsonl

    table = read_table(predictions, "predictions")
    systems = sorted(set(table["system"]))
    chosen = system or (systems[0] if len(systems) == 1 else None)
    if chosen not in systems:
        wanted = f"'{system}' is not there" if system else "which one is --system to name"
        raise InputError(
            f"{at(predictions, field='system')}: {wanted}; it holds {', '.join(systems) or 'none'}"
        )
    mine = table[table["system"] == chosen]
    talk = read_table(conversations, "conversations")
    wanted_ids = set(mine["conversation_id"])
    holds = [
        str(name)
        for name, part in talk.groupby("benchmark")
        if wanted_ids <= set(part["conversation_id"]) and benchmark in (None, name)
    ]
    if len(holds) != 1:
        raise InputError(
            f"{at(conversations, field='benchmark')}: "
            + (
                f"{', '.join(holds)} hold these conversations; name one with --benchmark"
                if holds
                else f"no benchmark holds the conversations of {predictions}"
                + (f" ('{benchmark}' was asked for)" if benchmark else "")
            )
        )
    records = from_predictions(
        mine,
        read_table(items, "items"),
        talk[talk["benchmark"] == holds[0]],
        depth=depth,
    )
    write_jsonl(output, records)
    click.echo(f"{output} holds the rankings of {chosen} on {holds[0]}.")

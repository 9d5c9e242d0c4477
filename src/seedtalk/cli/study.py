"""`seedtalk study`: run the studies declared in studies/, collect and show what they gave."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from seedtalk.errors import InputError, RunError
from seedtalk.texts import visible
from seedtalk.workspace import root

FOLDER, PARAMS = "studies", "params.yaml"


@click.group()
def study() -> None:
    """Run the studies declared in studies/<name>/study.yaml (docs/studies.md)."""


@study.command("list")
def list_() -> None:
    """Name the studies: what each asks, how far it is, how long the rest takes."""
    from seedtalk.studies import collecting, declaring, running

    place = root()
    studies = declaring.read_studies(place / FOLDER)
    if not studies:
        raise InputError(f"{place / FOLDER}: holds no study (a folder with a study.yaml)")
    known = collecting.experiments(place) if (place / ".git").exists() else {}
    rows = [["study", "run", "collected", "of", "left", "title"]]
    for one in studies:
        cells = declaring.with_profiles(one, place)
        found = [collecting.find(place, cell, known) for cell in cells]
        done = sum(isinstance(each, collecting.Experiment) for each in found)
        kept = len(collecting.read_collected(place / FOLDER / one.name, one).runs)
        left = (len(cells) - done) * one.minutes * 60
        rows.append(
            [
                one.name,
                str(done),
                str(kept),
                str(len(cells)),
                running.duration(left) if left else "-",
                visible(one.title),
            ]
        )
    click.echo(_table(rows))


@study.command()
@click.argument("name")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Cells at a time."
)
@click.option("--only", metavar="FACTOR=LEVEL", multiple=True, help="Cells of this level only.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Cells of this seed only.")
@click.option("--again", is_flag=True, help="Run every stage anew, even where nothing changed.")
@click.option("--dry-run", is_flag=True, help="Print the DVC commands and run nothing.")
def run(
    name: str, jobs: int, only: tuple[str, ...], seeds: tuple[int, ...], again: bool, dry_run: bool
) -> None:
    """Run the cells of study NAME that are not done, then collect it.

    The cells go through DVC's experiment queue. Stop with Ctrl-C; the same command goes on where
    it was. A cell that fails is told and the others go on; the exit code is then 1.
    """
    from seedtalk.progress import bar
    from seedtalk.studies import collecting, declaring, running

    place = root()
    one, cells = _cells(place, name)
    chosen = _chosen(one, cells, only, seeds)
    for warning in running.check_workspace(place, one):
        click.echo(f"warning: {warning}", err=True)
    declaring.check_overrides(one, chosen, place / PARAMS)
    standing = running.standing(place, one, chosen, again=again)
    if dry_run:
        params = declaring.load_yaml((place / PARAMS).read_text(encoding="utf-8"))
        for cell in standing.todo:
            click.echo(running.shown(running.command(one, cell, params, again=again)))
        return
    failures: list[Any] = []
    if standing.todo:
        left = running.duration(len(standing.todo) * one.minutes * 60 / jobs)
        click.echo(
            f"{name}: {len(standing.done)} of {len(chosen)} cells are done, {len(standing.todo)} "
            f"to run, by the declaration's estimate {left}"
        )
        for need in one.needs:
            click.echo(f"it needs: {visible(need)}")
        for cell in standing.todo:
            if standing.reasons[cell.run] != "not run":
                click.echo(f"{cell.run}: run anew; {visible(standing.reasons[cell.run])}")
        with bar(name, total=len(standing.todo)) as line:

            def say(text: str) -> None:
                click.echo(text)
                if text.startswith("["):
                    line.advance()

            try:
                failures = running.run(place, one, standing.todo, jobs=jobs, again=again, say=say)
            except KeyboardInterrupt:
                click.echo(f"stopped; `seedtalk study run {name}` goes on where it was")
                sys.exit(130)
    else:
        click.echo(f"{name}: all {len(chosen)} cells are done")
    _collect(place, one, cells, collecting)
    if failures:
        raise RunError(_told(failures))


@study.command()
@click.argument("name")
def collect(name: str) -> None:
    """Write studies/NAME/{runs.csv,measures.csv,scores.parquet} from its experiments."""
    from seedtalk.studies import collecting

    place = root()
    one, cells = _cells(place, name)
    _collect(place, one, cells, collecting)


@study.command()
@click.argument("name")
def show(name: str) -> None:
    """Print what was collected of study NAME, a row for each cell and system."""
    from seedtalk.studies import collecting, declaring

    place = root()
    folder = place / FOLDER / name
    one = declaring.read_study(folder / declaring.FILE)
    found = collecting.read_collected(folder, one)
    header, rows = collecting.means(one, found)
    click.echo(visible(one.title))
    if rows:
        click.echo(_table([header, *rows]))
    _missing(found.missing, len(one.cells()))


def _cells(place: Path, name: str) -> tuple[Any, list[Any]]:
    from seedtalk.studies import declaring

    known = [path.parent.name for path in sorted((place / FOLDER).glob(f"*/{declaring.FILE}"))]
    if name not in known:
        raise InputError(f"no study '{name}'; one of: {', '.join(known) or 'none is declared'}")
    one = next(one for one in declaring.read_studies(place / FOLDER) if one.name == name)
    return one, declaring.with_profiles(one, place)


def _chosen(one: Any, cells: list[Any], only: Sequence[str], seeds: Sequence[int]) -> list[Any]:
    wanted: dict[str, set[str]] = {}
    for pair in only:
        factor, _, level = pair.partition("=")
        if level not in one.factors.get(factor, {}):
            levels = [f"{f}={v}" for f, known in one.factors.items() for v in known]
            raise InputError(f"--only {pair}: one of {', '.join(levels)}")
        wanted.setdefault(factor, set()).add(level)
    for seed in seeds:
        if seed not in one.seeds:
            raise InputError(f"--seed {seed}: the study's are {', '.join(map(str, one.seeds))}")
    chosen = [
        cell
        for cell in cells
        if all(cell.levels[factor] in levels for factor, levels in wanted.items())
        and (not seeds or cell.seed in seeds)
    ]
    if not chosen:
        raise InputError("no cell is of all these levels (the study excludes some)")
    return chosen


def _collect(place: Path, one: Any, cells: list[Any], collecting: Any) -> None:
    folder = place / FOLDER / one.name
    found = collecting.collect(place, one, cells, folder)
    click.echo(
        f"{FOLDER}/{one.name}: collected {len(found.runs)} of {len(cells)} cells into "
        f"{collecting.RUNS}, {collecting.MEASURES} and {collecting.SCORES}"
    )
    for system in collecting.unscored(one, found):
        click.echo(f"no scores of {system}", err=True)
    _missing(found.missing, len(cells))


def _missing(missing: dict[str, str], total: int) -> None:
    if missing:
        click.echo(f"{len(missing)} of {total} cells are missing:")
        for cell, why in list(missing.items())[:10]:
            click.echo(f"  {cell}: {visible(why)}")
        if len(missing) > 10:
            click.echo(f"  and {len(missing) - 10} more")


def _told(failures: list[Any]) -> str:
    lines = [f"{len(failures)} cell(s) failed:"]
    for failure in failures:
        lines.append(f"{failure.run}:")
        lines += [f"    {line}" for line in failure.reason.splitlines()]
    lines.append("`dvc queue logs <cell>` has the whole output; the same command tries them again")
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )

"""`seedtalk paper`: figures, tables and one page over the studies that were collected."""

from __future__ import annotations

from pathlib import Path

import click

from seedtalk.workspace import IN_DIR, OUT_DIR


@click.command()
@click.option(
    "--studies",
    type=IN_DIR,
    default="studies",
    show_default=True,
    help="Folder of the studies: <name>/study.yaml and what was collected beside it.",
)
@click.option("--out", type=OUT_DIR, default="paper", show_default=True, help="Folder to write.")
def paper(studies: Path, out: Path) -> None:
    """Write the page, figures and tables over the studies' collected results.

    It runs nothing: the same collected files give the same page again. `seedtalk study run NAME`
    runs and collects a study.
    """
    from seedtalk.progress import track
    from seedtalk.studies.analysing import analyse
    from seedtalk.studies.page import write_paper
    from seedtalk.studies.reading import read_studies

    found = read_studies(studies)
    analysed = [
        (one, None if one.runs is None else analyse(one)) for one in track(found, "analysing")
    ]
    write_paper(analysed, out)
    done = sum(analysis is not None for _, analysis in analysed)
    click.echo(f"{out / 'index.html'} written: {done} of {len(found)} studies were run.")

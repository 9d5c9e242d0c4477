"""`seedtalk export`: what a run made, in the form others read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seedtalk.workspace import IN_DIR, cache_dir, params_option


@click.group()
def export() -> None:
    """Write a student or its rankings in the form other tools read."""


@export.command()
@params_option
@click.argument("student", type=IN_DIR)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it must not be there yet, or be empty.",
)
@click.option(
    "--merged/--adapter",
    "merged",
    default=True,
    show_default=True,
    help="Whole weights, or the LoRA adapter for its base.",
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default="results",
    show_default=True,
    help="The run's results, for the model card.",
)
@click.option("--licence", help="Of the weights, for the card.  [default: the base's, where known]")
def model(
    params: Any, student: Path, output: Path, merged: bool, results: Path, licence: str | None
) -> None:
    """Write STUDENT (models/<student>-<tuning>) for transformers or PEFT, with a model card."""
    from seedtalk.exporting import export_model

    written = export_model(
        student,
        output,
        "merged" if merged else "adapter",
        params,
        results,
        licence=licence,
        cache_dir=cache_dir(),
    )
    click.echo(f"{output} holds the {'model' if merged else 'adapter'}; {written} is its card.")

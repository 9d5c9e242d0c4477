"""`seedtalk teacher`: a real language model as the teacher, on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

from seedtalk.errors import InputError
from seedtalk.workspace import root

PROFILE = "profiles/local-teacher.yaml"
PORT = 8080  # the one in the profile's teacher.base_url


@click.group()
def teacher() -> None:
    """Run a local language model as the teacher."""


@teacher.command()
@click.option(
    "--model",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A GGUF file, in place of the one that `seedtalk fetch teacher` gets.",
)
@click.option("--small", is_flag=True, help="The one that `seedtalk fetch teacher --small` gets.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of this machine.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Computing threads; by default one for each core. On busy cores one is faster.",
)
@click.option(
    "--context",
    type=click.IntRange(256),
    default=4096,
    show_default=True,
    help="Tokens of one request, prompt and answer together.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Requests answered at a time.",
)
def serve(
    model: Path | None,
    small: bool,
    host: str,
    port: int,
    threads: int | None,
    context: int,
    parallel: int,
) -> None:
    """Serve the local teacher at an OpenAI-compatible address until Ctrl-C."""
    from seedtalk import serving
    from seedtalk.fetching import packages

    if model is not None and small:
        raise InputError("--model and --small: name one model, not two")
    fetched = (
        (packages.SMALL_TEACHER.name, packages.SMALL_TEACHER_MODEL)
        if small
        else (packages.TEACHER.name, packages.TEACHER_MODEL)
    )
    options = serving.Serving(
        model=model or root().joinpath("corpora", *fetched),
        host=host,
        port=port,
        threads=threads or os.cpu_count() or 1,
        context=context,
        parallel=parallel,
    )

    def ready() -> None:
        changed = {"base_url": options.base_url} if port != PORT or host != "127.0.0.1" else {}
        if model is not None or small:
            changed["model"] = options.name
        flags = "".join(f" -S teacher.{key}={value}" for key, value in changed.items())
        click.echo(f"Serving {options.name} at {options.base_url}; Ctrl-C ends it.")
        click.echo(f"In another terminal: dvc exp run $(seedtalk overrides {PROFILE}){flags}")

    serving.serve(options, ready)
    click.echo("The server has ended.")

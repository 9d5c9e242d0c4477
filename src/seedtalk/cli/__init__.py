"""The `seedtalk` command: what stands around the pipeline. The pipeline itself is `dvc repro`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from seedtalk import __version__
from seedtalk.cli.cost import cost
from seedtalk.cli.export import export
from seedtalk.cli.fetch import fetch
from seedtalk.cli.ledger import ledger
from seedtalk.cli.paper import paper
from seedtalk.cli.score import predictions, score
from seedtalk.cli.study import study
from seedtalk.cli.teacher import teacher
from seedtalk.cli.tune import tune
from seedtalk.errors import InputError, RunError
from seedtalk.workspace import IN_FILE, cache_dir, input_option, params_option, root


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="seedtalk")
def main() -> None:
    """Turn reviews, metadata and ratings into a conversational recommender.

    The pipeline runs with `dvc repro`; these commands stand around it.
    """


main.add_command(cost)
main.add_command(export)
main.add_command(fetch)
main.add_command(ledger)
main.add_command(paper)
main.add_command(score)
main.add_command(study)
main.add_command(teacher)
main.add_command(tune)
export.add_command(predictions)


@main.command()
@click.argument("profile", type=IN_FILE)
def overrides(profile: Path) -> None:
    """Print PROFILE as flags: `dvc exp run $(seedtalk overrides profiles/tiny.yaml)`."""
    from seedtalk.profiles import overrides as expand

    click.echo(" ".join(f"-S {override}" for override in expand(profile)))


@main.command()
@params_option
@input_option("results", "results", "Folder of the evaluated run.", directory=True)
@click.argument("revisions", metavar="[REV]...", nargs=-1)
def show(params: Any, results: Path, revisions: tuple[str, ...]) -> None:
    """Print the result table of the last run, or the mean over several.

    With REVs (experiments, branches, commits) of runs that differ in their seed only, it prints
    the mean over these and its interval over the seeds.
    """
    from seedtalk.reporting import print_results, print_seeds

    if revisions:
        print_seeds(root(), revisions, params.report.headline)
        return
    print_results(results, params.report.headline)
    report = results / "report.html"
    if report.is_file():
        click.echo(f"The report is {report}; `seedtalk ui` shows the training runs.")


@main.command()
@params_option
@input_option("items", "artifacts/items.parquet", "The catalogue.")
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder under models/, in place of the registered champion.",
)
@click.option("-k", "count", default=5, show_default=True, help="Titles in an answer.")
def chat(params: Any, items: Path, model: Path | None, count: int) -> None:
    """Talk to the registered champion; it answers with titles of the catalogue."""
    from seedtalk import tracking
    from seedtalk.chatting import chat as talk
    from seedtalk.records import read_table

    catalogue = read_table(items, "items")
    folder = model or tracking.champion(root(), params.register_.model, params.register_.alias)
    talk(
        folder,
        catalogue,
        count=count,
        years=params.curate.years,
        cache_dir=cache_dir(),
    )


@main.command()
@params_option
def sync(params: Any) -> None:
    """Fill in the MLflow runs and champion that DVC's run cache passed by; safe to repeat."""
    from seedtalk import tracking
    from seedtalk.recommender import save_recommender

    done = tracking.sync(root(), params, cache_dir(), save_recommender)
    click.echo(
        f"{done.runs} run(s) added." if done.runs else "MLflow already holds every trained student."
    )
    if done.registered is not None:
        options = params.register_
        name = f"{options.model} version {done.registered['version']} ({options.student})"
        if done.registered["champion"]:
            click.echo(f"{name} is registered again as {options.alias}.")
        else:
            reasons = [part["reason"] for part in done.registered["gate"].values()]
            click.echo(f"{name} did not pass the gate again: {'; '.join(reasons)}.")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
def ui(host: str, port: int) -> None:
    """Open the MLflow UI on the training runs and the model registry."""
    from seedtalk import tracking

    store = tracking.init(root())
    click.echo(f"MLflow UI: http://{host}:{port} (stop with Ctrl-C)")
    arguments = ["ui", "--backend-store-uri", store, "--host", host, "--port", str(port)]
    # The interpreter and its own module: nothing of the command comes from outside.
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])  # noqa: S606


@main.command()
@click.option("--rev", default="HEAD", show_default=True, help="Git revision to compare with.")
def compare(rev: str) -> None:
    """Hold this run's outputs against those a revision committed; exit 1 where they differ."""
    from seedtalk.comparing import compare as against

    different = against(root(), rev)
    if different:
        raise RunError("this run does not reproduce the committed one: " + "; ".join(different))
    click.echo(f"This run reproduces {rev}.")


@main.command()
def doctor() -> None:
    """Say whether this machine and folder are ready for a run, and what would mend it."""
    from seedtalk.diagnosing import diagnose

    findings = diagnose(root())
    for finding in findings:
        mark = click.style("ok  ", fg="green") if finding.ok else click.style("FAIL", fg="red")
        click.echo(f"{mark} {finding.what}" + ("" if finding.ok else f"\n     {finding.mend}"))
    if not all(finding.ok for finding in findings):
        raise InputError("not ready: see the lines marked FAIL")

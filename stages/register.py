"""Put the tuned student up for champion: register it, and move the alias if it passes the gate."""

from pathlib import Path

import click

from seedtalk.workspace import (
    IN_DIR,
    IN_FILE,
    cache_dir,
    input_option,
    output_option,
    params_option,
    root,
)


@click.command(help=__doc__)
@params_option
@click.option("--model", type=IN_DIR, help="[default: models/<register.student>]")
@click.option(
    "--scores",
    type=IN_FILE,
    help="[default: results/eval/<register.student>-<register.benchmark>.json]",
)
@input_option("items", "artifacts/items.parquet", "Catalogue, served with the student.")
@output_option("registry", "results/registry.json", "The verdict of the gate.")
def main(params, model, scores, items, registry):
    """Register the student, write the verdict and say it; a failed gate is no failed run."""
    from seedtalk import tracking
    from seedtalk.recommender import save_recommender
    from seedtalk.records import write_json

    options = params.register_
    verdict = tracking.register(
        root(),
        model or Path(f"models/{options.student}"),
        scores or Path(f"results/eval/{options.student}-{options.benchmark}.json"),
        options,
        items=items,
        years=params.curate.years,
        save=save_recommender,
        cache_dir=cache_dir(),
    )
    write_json(registry, verdict)
    name = f"{options.model} version {verdict['version']} ({options.student})"
    if verdict["moved"]:
        click.echo(f"{name} is the new {options.alias}.")
    elif verdict["champion"]:
        click.echo(f"{name} stays the {options.alias}.")
    else:
        click.echo(f"{name} did not pass the gate; the alias {options.alias} stays where it was.")
    for part, outcome in verdict["gate"].items():
        click.echo(f"  {part}: {'passed' if outcome['passed'] else 'FAILED'}, {outcome['reason']}")


if __name__ == "__main__":
    main()

"""Teach the student the dialogues, on the assistant's tokens only."""

from dataclasses import fields
from pathlib import Path

import click

from seedtalk.workspace import OUT_DIR, OUT_FILE, cache_dir, input_option, params_option, root


@click.command(help=__doc__)
@params_option
@click.option("--student", required=True, help="A name of params.models.")
@click.option("--tuning", type=click.Choice(["zero-shot", "lora", "full"]), required=True)
@input_option("train", "artifacts/dialogues/train.jsonl", "Dialogues to learn from.")
@input_option("valid", "artifacts/dialogues/valid.jsonl", "Dialogues to stop by.")
@click.option("--model", type=OUT_DIR, help="[default: models/<student>-<tuning>]")
@click.option("--history", type=OUT_FILE, help="[default: results/train/<student>-<tuning>.csv]")
def main(params, student, tuning, train, valid, model, history):
    """Fine-tune, track the run, and write the student and its losses."""
    import csv
    import functools
    import os
    import sys

    from seedtalk import tracking
    from seedtalk.records import Dialogue, atomic_file, read_jsonl
    from seedtalk.students.processes import processes, relaunch
    from seedtalk.students.training import Step, finetune

    if tuning != "zero-shot":
        relaunch(os.environ, sys.argv)
    name = f"{student}-{tuning}"
    model = model or Path(f"models/{name}")
    history = history or Path(f"results/train/{name}.csv")
    base = params.source_of(student)
    dialogues = [read_jsonl(path, Dialogue) for path in (train, valid)]
    learn = functools.partial(
        finetune, *dialogues, base, params.finetune, tuning, params.seed, model,
        cache_dir=cache_dir(),
    )  # fmt: skip
    if not processes().main:  # one of several: it learns, and leaves the writing to the main one
        learn()
        return
    # What the dialogues cost and are worth is told, not depended on: a new price must not train
    # anew. Both lie where this run's other results do, also in a copy of the workspace.
    told = {"teacher": Path("results/teacher.json"), "quality": Path("results/quality.json")}
    with tracking.run(root(), name, params, dataset=train, **told) as run:
        done = learn(
            on_step=lambda s: run.metrics({k: getattr(s, k) for k in tracking.LOSSES}, s.step),
        )
        with atomic_file(history) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in fields(Step)])
            writer.writerows(done.rows())
        run.student(model)
        run.file(history)
    if done.skipped:
        click.echo(
            f"{name}: {done.skipped} dialogues skipped, their answer alone is longer than "
            f"finetune.max_length={params.finetune.max_length} tokens"
        )
    if done.best is not None:
        click.echo(f"{name}: {done.train_examples} dialogues, validation loss {done.best:.4f}")


if __name__ == "__main__":
    main()

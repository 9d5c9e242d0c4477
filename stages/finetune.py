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

    from seedtalk import tracking
    from seedtalk.records import Dialogue, atomic_file, read_jsonl
    from seedtalk.students.training import Step, finetune

    name = f"{student}-{tuning}"
    model = model or Path(f"models/{name}")
    history = history or Path(f"results/train/{name}.csv")
    base = params.source_of(student)
    dialogues = [read_jsonl(path, Dialogue) for path in (train, valid)]
    # What the dialogues cost is told, not depended on: a new price must not train anew.
    cost = Path("results/teacher.json")
    with tracking.run(root(), name, params, dataset=train, teacher=cost) as run:
        done = finetune(
            *dialogues,
            base,
            params.finetune,
            tuning,
            params.seed,
            model,
            cache_dir=cache_dir(),
            on_step=lambda s: run.metrics({"loss": s.loss, "eval_loss": s.eval_loss}, s.step),
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

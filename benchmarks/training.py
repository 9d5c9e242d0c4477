"""Seconds a step of `seedtalk.students.training` beside TRL's SFTTrainer: same data, same batches.

Both learn the assistant's tokens only, from the same tokens in the same order, with the same
adapter drawn from the same seed, at the same learning rate. Each side runs in a process of its
own, in turn, several times; medians are shown, of the clock's seconds and of the processor's,
which say more on a machine that others use (with --threads 1). The logged losses are compared
step by step: a faster trainer that learns something else would be no trainer.

    python benchmarks/training.py                 # SmolLM2-135M and the quickstart's dialogues
    python benchmarks/training.py --quick         # a toy model, to see that it runs
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("SFTTrainer", "seedtalk", "seedtalk, packed")
TUNINGS = {"LoRA, all layers": 0, "LoRA, top 10 layers": 10, "full": None}


@click.command(help=__doc__)
@click.option("--student", type=click.Path(path_type=Path), help="Folder of the model.")
@click.option("--dialogues", type=click.Path(path_type=Path), help="Training dialogues.")
@click.option("--steps", default=12, show_default=True, help="Measured, after two to warm up.")
@click.option("--batch", default=4, show_default=True, help="Examples a step.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=2, show_default=True, help="Runs of each side.")
@click.option("--quick", is_flag=True, help="A toy model and five steps, once.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(student, dialogues, steps, batch, threads, repeats, quick, out):
    student = student or ROOT / "data/quickstart/smollm2-135m"
    dialogues = dialogues or ROOT / "artifacts/dialogues/train.jsonl"
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if quick:
            student, dialogues = toys(work)
            steps, repeats = 5, 1
        for place in (student, dialogues):
            if not place.exists():
                raise click.ClickException(f"{place}: not there; run `dvc repro curate` first")
        for tuning, layers in TUNINGS.items():
            seconds, busy = ({side: [] for side in SIDES} for _ in range(2))
            losses = {}
            for _ in range(repeats):
                for side in SIDES:
                    task = {
                        "side": side, "student": str(student), "dialogues": str(dialogues),
                        "layers": layers, "steps": steps + 2, "batch": batch,
                        "threads": threads, "work": folder,
                    }  # fmt: skip
                    done = subprocess.run(
                        [sys.executable, __file__, "child", json.dumps(task)],
                        capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    if done.returncode:
                        raise click.ClickException(f"{side}: {done.stderr.strip()[-1500:]}")
                    measured = json.loads(done.stdout.splitlines()[-1])
                    seconds[side] += [clock for clock, _ in measured["seconds"][2:]]
                    busy[side] += [used for _, used in measured["seconds"][2:]]
                    losses[side] = measured["losses"]
            figures[tuning] = report(tuning, seconds, busy, losses)
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def report(tuning, seconds, busy, losses):
    """Print and return the medians of each side, and how far their losses are apart."""
    clock, used = ({s: statistics.median(v) for s, v in t.items()} for t in (seconds, busy))
    found = {}
    click.echo(tuning)
    for side in SIDES:
        pairs = zip(losses[side], losses["SFTTrainer"], strict=True)
        found[side] = {
            "s_per_step": clock[side],
            "faster": clock["SFTTrainer"] / clock[side],
            "cpu_s_per_step": used[side],
            "cpu_faster": used["SFTTrainer"] / used[side],
            "loss_apart": max(abs(a - b) for a, b in pairs),
        }
        click.echo(
            f"  {side:18} {clock[side]:7.3f} s/step {found[side]['faster']:6.2f}x  "
            f"{used[side]:7.3f} CPU s {found[side]['cpu_faster']:6.2f}x  "
            f"loss {losses[side][0]:.4f} to {losses[side][-1]:.4f}, "
            f"at most {found[side]['loss_apart']:.1e} apart"
        )
    return found


def toys(work):
    """Return a toy student and dialogues about its invented films."""
    import random

    sys.path.insert(0, str(ROOT))
    from tests.toy import toy_items, toy_student

    from seedtalk.students.templates import context_messages, format_answer

    chance = random.Random(0)
    titles = [f"{item['title']} ({item['year']})" for item in toy_items()]
    path = work / "train.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            asked = f"I liked {', '.join(chance.sample(titles, chance.randint(1, 4)))}."
            answer = format_answer(chance.sample(titles, chance.randint(3, 6)))
            messages = context_messages([{"role": "seeker", "text": asked}])
            messages.append({"role": "assistant", "content": answer})
            row = {
                "dialogue_id": str(number), "review_id": "r", "item_id": "i", "style": "plain",
                "teacher": "toy", "messages": messages, "targets": ["i"],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return toy_student(work / "student"), path


def child(task):
    """Train some steps on one side and print the seconds and the loss of each."""
    import torch

    from seedtalk.params import load_params
    from seedtalk.records import Dialogue, read_jsonl

    torch.set_num_threads(task["threads"])
    dialogues = read_jsonl(Path(task["dialogues"]), Dialogue)[: task["steps"] * task["batch"]]
    params = load_params(ROOT / "params.yaml").finetune.model_copy(
        update={
            "epochs": task["steps"] * task["batch"] / len(dialogues), "evaluations": 1,
            "batch_size": task["batch"], "gradient_accumulation": 1, "answer_titles": 0,
            "lora_layers": task["layers"] or 0, "warmup_steps": 2, "patience": 10,
            "learning_rate": 2e-5 if task["layers"] is None else 1e-3, "lora_dropout": 0.0,
            "precision": "fp32", "packing": task["side"] == "seedtalk, packed",
        }
    )  # fmt: skip
    run = stock if task["side"] == "SFTTrainer" else ours
    with tempfile.TemporaryDirectory(dir=task["work"]) as out:
        times, losses = run(task, dialogues, params, Path(out))
    seconds = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(times)]
    print(json.dumps({"seconds": seconds, "losses": losses}))


def ours(task, dialogues, params, out):
    from seedtalk.students.training import finetune

    times, losses = [], []

    def step(row):
        if row.loss is not None:
            times.append((time.perf_counter(), time.process_time()))
            losses.append(row.loss)

    finetune(
        dialogues, dialogues[:1], task["student"], params,
        "full" if task["layers"] is None else "lora", 0, out / "student",
        cache_dir=Path(task["work"]), on_step=step,
    )  # fmt: skip
    return times, losses


def stock(task, dialogues, params, out):
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from seedtalk.students.loading import load_base
    from seedtalk.students.templates import encode_example
    from seedtalk.students.training import _with_adapter, batch_order

    model, tokenizer = load_base(task["student"], cache_dir=Path(task["work"]))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.__class__ = torch.nn.Linear  # as PyTorch multiplies by itself
    encoded = [
        encode_example(tokenizer, [m.model_dump() for m in d.messages], params.max_length)
        for d in dialogues
    ]
    encoded = [example for example in encoded if example]
    order = batch_order(
        [len(e["input_ids"]) for e in encoded],
        batch=task["batch"], examples=round(params.epochs * len(encoded)), seed=0,
    )  # fmt: skip
    set_seed(0)
    if task["layers"] is None:
        model.requires_grad_(True)
    else:
        model = _with_adapter(model, params)
    times, losses = [], []

    class Follow(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            if "loss" in logs:
                times.append((time.perf_counter(), time.process_time()))
                losses.append(logs["loss"])

    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([encoded[i] for i in order]),
        callbacks=[Follow()],
        args=SFTConfig(
            output_dir=str(out),
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=task["batch"],
            learning_rate=params.learning_rate,
            warmup_steps=params.warmup_steps,
            bf16=False,
            activation_checkpointing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=0,
        ),
    )
    trainer.train()
    return times, losses


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(json.loads(sys.argv[2]))
    else:
        main()

"""Fine-tune a student on dialogues: LoRA or full, on the assistant's tokens only, resumable."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, RunError
from seedtalk.params import Finetune, Tuning
from seedtalk.progress import Bar, bar
from seedtalk.records import Dialogue, atomic_dir, sha256_text, write_json
from seedtalk.students import kernels
from seedtalk.students.loading import (
    Manifest,
    check_precision,
    device,
    load_base,
    quiet,
    save_whole,
    write_manifest,
)
from seedtalk.students.processes import Processes, join, levelled, processes, share, together
from seedtalk.students.templates import IGNORED, encode_example, format_answer, parse_answer

POOL = 8  # batches that are sorted by length together
LOSSES = ("loss", "eval_loss", "context_loss")  # of a Step, in its order


@dataclass(frozen=True)
class Step:
    """A row of the training history; a loss that was not taken at the step is None.

    Step 0 is the untouched model. It shows what the training changed, and decides nothing: the
    weights kept and the early stop go by the looks after it.
    """

    step: int
    epoch: float
    loss: float | None  # mean over the labelled tokens since the last row, in nats
    eval_loss: float | None  # the same over the valid dialogues
    context_loss: float | None  # over their other tokens, which are read but not learnt


@dataclass(frozen=True)
class History:
    """How a fine-tuning went."""

    steps: list[Step]
    train_examples: int
    valid_examples: int
    skipped: int  # dialogues whose answer alone is over finetune.max_length

    @property
    def best(self) -> float | None:
        """The lowest validation loss after step 0, which is that of the saved weights."""
        looks = (s.eval_loss for s in self.steps if s.step and s.eval_loss is not None)
        return min(looks, default=None)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the fields of each step as text, empty where unknown, for a CSV file."""
        return [
            tuple("" if value is None else f"{value:.6g}" for value in astuple(step))
            for step in self.steps
        ]


def zero_shot(base: str, out: Path) -> History:
    """Write the student that is left as it is: a manifest and nothing more."""
    with atomic_dir(out) as folder:
        write_manifest(folder, Manifest(base=base, tuning="zero-shot"))
    return History([], 0, 0, 0)


def finetune(
    train: Sequence[Dialogue],
    valid: Sequence[Dialogue],
    base: str,
    params: Finetune,
    tuning: Tuning,
    seed: int,
    out: Path,
    *,
    cache_dir: Path,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Teach a student the dialogues and write the weights with the lowest validation loss.

    The loss is the mean cross-entropy over the assistant's tokens. Examples of like length
    share a batch; the order depends on the seed and the dialogues alone. With ``packing`` the
    examples of a batch lie end to end in one row, none seeing another: the same batches and
    losses without padding. A list of titles is a
    set, and what a student would name first is what it is scored by: with ``answer_titles`` some
    titles are drawn anew at every pass, in a drawn order. At every look at the
    validation loss a checkpoint is kept under ``<cache_dir>/checkpoints/``, so that a killed run
    goes on from its last look and ends in the same weights. A look before the first step tells
    the losses of the untouched model; it leaves what is learnt as it is.

    Where ``accelerate launch`` has started several processes, each learns its part of every step
    and the main one writes. The losses are those of one process: without dropout, and up to the
    order in which numbers are added.

    Parameters
    ----------
    train, valid
        Dialogues to learn from and to stop by.
    base
        The student, as for `loading.load_base`.
    params
        The group ``finetune`` of the parameters.
    tuning
        ``lora``, ``full``, or ``zero-shot``, which trains nothing.
    seed
        Of the order, the adapter's first weights and dropout.
    out
        Folder to write: ``student.json`` beside the adapter or the full weights.
    cache_dir
        As for `loading.load_base`.
    on_step
        Called with every row of the history as it is made.

    Returns
    -------
    History
        Losses and counts.

    Raises
    ------
    InputError
        When no dialogue of a split fits ``finetune.max_length``, a split is empty, the device
        does not support the precision, the student cannot learn from packed rows, or several
        processes cannot share a step.
    RunError
        When the loss is no longer finite, memory runs out, or several processes would learn what
        another run is learning.
    """
    group = processes()
    if tuning == "full":
        params = params.model_copy(update={"learning_rate": params.full_learning_rate})
    if tuning == "zero-shot":
        return zero_shot(base, out) if group.main else History([], 0, 0, 0)
    import torch
    from filelock import FileLock, Timeout
    from transformers import set_seed

    join(group)
    check_precision(params.precision)
    # The weights stay in fp32 while they learn; bf16 or fp16 is what products are computed in.
    model, tokenizer = load_base(base, cache_dir=cache_dir)
    digest = _digest(train, valid, model, params, tuning, seed)
    if group.count > 1:  # a checkpoint holds the random state of each
        digest += f"-{group.count}"
    checkpoints = (cache_dir / "checkpoints" / digest).resolve()
    told, taught, skipped = _examples(tokenizer, train, params.max_length, "train")
    asked, checked, more = _examples(tokenizer, valid, params.max_length, "valid")
    order = batch_order(
        [len(e["input_ids"]) for e in taught],
        batch=params.batch_size * params.gradient_accumulation,
        examples=max(1, round(params.epochs * len(taught))),
        seed=seed,
    )
    passes = [taught[i] for i in order]
    if params.answer_titles:
        drawn = functools.partial(
            _drawn, tokenizer, params=params, chance=random.Random(f"answers-{seed}")
        )
        passes = [drawn(told[i], taught[i]) for i in order]
        checked = [drawn(m, example) for m, example in zip(asked, checked, strict=True)]
    set_seed(seed)
    if tuning == "lora":
        with quiet():
            model = kernels.speed_up(_with_adapter(model, params))
    else:
        model.requires_grad_(True)
    total = math.ceil(len(order) / (params.batch_size * params.gradient_accumulation))
    follow = on_step if group.main else None
    watch = _Watch(len(order) / len(taught) / total, params.patience, follow)
    lock = cache_dir / "locks" / digest
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # Two experiments that differ further down may learn the same thing at the same time. One
        # process waits for the other; of several, the rest would give up waiting for the one.
        try:
            if group.main:
                held.enter_context(FileLock(lock, timeout=-1 if group.count == 1 else 0))
        except Timeout as error:
            raise RunError(
                f"another run is learning the same from {base}; start again when it is over"
            ) from error
        try:
            with bar(f"fine-tuning {base}", total) as shown, quiet():
                loss = _Loss(model, checked, packing=params.packing)
                last = _last_checkpoint(checkpoints)
                trainer = _trainer(
                    model, loss, passes, checked, params, total, seed,
                    checkpoints, _callbacks(watch, shown), group, untouched=last is None,
                )  # fmt: skip
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        except torch.OutOfMemoryError as error:
            raise RunError(
                "out of GPU memory; lower finetune.batch_size or finetune.max_length, or set "
                "finetune.gradient_checkpointing=true"
            ) from error
        trainer.accelerator.wait_for_everyone()  # until all have read the best weights again
        if group.main:
            with atomic_dir(out) as folder:
                if tuning == "lora":
                    _save_adapter(trainer.model, folder, base)
                else:
                    save_whole(trainer.model, tokenizer, folder, base)
            shutil.rmtree(checkpoints)
    logs = trainer.state.log_history
    if watch.stops(logs):  # a run resumed after its stop has made a step more
        logs = logs[: 1 + max(i for i, log in enumerate(logs) if "eval_loss" in log)]
    return History(
        _history(logs, watch.epochs_per_step),
        len(taught), len(checked), skipped + more,
    )  # fmt: skip


def batch_order(lengths: Sequence[int], *, batch: int, examples: int, seed: int) -> list[int]:
    """Return the order in which examples are learnt, so that each batch holds like lengths.

    Whole shuffled passes follow one another until there are `examples`. Within pools of `POOL`
    batches the examples are sorted by length and the batches shuffled, so that little is padded
    and lengths still come mixed.

    Parameters
    ----------
    lengths
        Tokens of each example.
    batch
        Examples of one step of the optimizer.
    examples
        Length of the order; more than ``len(lengths)`` repeats, less leaves some out.
    seed
        Of the shuffles.

    Returns
    -------
    list of int
        Indices into `lengths`.
    """
    chance = random.Random(seed)
    passes: list[int] = []
    while len(passes) < examples:
        once = list(range(len(lengths)))
        chance.shuffle(once)
        passes += once
    order: list[int] = []
    for start in range(0, examples, POOL * batch):
        pool = passes[start : min(start + POOL * batch, examples)]
        pool.sort(key=lambda i: lengths[i])
        full = len(pool) - len(pool) % batch
        batches = [pool[i : i + batch] for i in range(0, full, batch)]
        chance.shuffle(batches)
        # A short batch can only be the last of all.
        order += [index for part in batches for index in part] + pool[full:]
    return order


def _digest(
    train: Sequence[Dialogue],
    valid: Sequence[Dialogue],
    model: Any,
    params: Finetune,
    tuning: Tuning,
    seed: int,
) -> str:
    """Return a name for what is learnt by which weights and how."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.float().cpu().numpy().tobytes())
    told = [d.model_dump_json() for part in (train, valid) for d in part]
    return sha256_text(
        [weights.hexdigest(), tuning, str(seed), params.model_dump_json(), str(len(train)), *told]
    )


def _examples(
    tokenizer: Any, dialogues: Sequence[Dialogue], max_length: int, split: str
) -> tuple[list[list[dict[str, str]]], list[dict[str, list[int]]], int]:
    """Return the conversations that fit, what they become, and how many do not fit."""
    if not dialogues:
        mend = "raise select.budget" if split == "train" else "raise curate.valid_fraction"
        raise InputError(f"{split}.jsonl: no dialogues to fine-tune on; {mend}")
    told = [[message.model_dump() for message in dialogue.messages] for dialogue in dialogues]
    encoded = [encode_example(tokenizer, messages, max_length) for messages in told]
    pairs = [(m, example) for m, example in zip(told, encoded, strict=True) if example is not None]
    if not pairs:
        raise InputError(
            f"{split}.jsonl: every answer is longer than finetune.max_length={max_length} tokens; "
            "raise it"
        )
    return [m for m, _ in pairs], [example for _, example in pairs], len(told) - len(pairs)


def _drawn(
    tokenizer: Any,
    told: list[dict[str, str]],
    example: dict[str, list[int]],
    *,
    params: Finetune,
    chance: random.Random,
) -> dict[str, list[int]]:
    """Return an example anew, its last answer `params.answer_titles` titles drawn of the list."""
    titles = parse_answer(told[-1]["content"])
    if format_answer(titles) != told[-1]["content"]:
        return example  # no bare list
    kept = chance.sample(titles, min(params.answer_titles, len(titles)))
    messages = [*told[:-1], {**told[-1], "content": format_answer(kept)}]
    return encode_example(tokenizer, messages, params.max_length) or example


def _with_adapter(model: Any, params: Finetune) -> Any:
    """Wrap `model` so that every linear layer of its top blocks learns a low-rank change."""
    import torch
    from peft import LoraConfig, get_peft_model

    depth = model.config.get_text_config().num_hidden_layers
    name, blocks = next(
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth
    )
    linear = {
        path.rsplit(".", 1)[-1]
        for path, module in blocks.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    count = min(params.lora_layers or depth, depth)
    return get_peft_model(
        model,
        LoraConfig(
            r=params.lora_r,
            lora_alpha=params.lora_alpha,
            lora_dropout=params.lora_dropout,
            target_modules=sorted(linear),
            layers_to_transform=list(range(depth - count, depth)),
            layers_pattern=name.rsplit(".", 1)[-1],
            task_type="CAUSAL_LM",
        ),
    )


def _trainer(
    model: Any,
    loss: _Loss,
    ordered: list[dict[str, list[int]]],
    checked: list[dict[str, list[int]]],
    params: Finetune,
    total: int,
    seed: int,
    checkpoints: Path,
    callbacks: list[Any],
    group: Processes,
    *,
    untouched: bool,
) -> Any:
    """Return the trainer; `untouched` says that no step has been made, in no earlier run either."""
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

    class LabelledTrainer(Trainer):  # type: ignore[misc, unused-ignore]
        """Takes the loss from `_Loss`, and the validation loss over tokens, not over batches."""

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            with self.accelerator.autocast():
                total, count = (loss if group.count == 1 else model)(inputs)
            mean = total / (count if num_items_in_batch is None else num_items_in_batch)
            return mean * group.count  # the gradients of several processes are averaged

        def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
            if group.count == 1 or not training:
                return super()._wrap_model(model, training, dataloader)
            return together(model, loss)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            self.model.eval()
            sums = torch.zeros(4, dtype=torch.float64)
            # Reading the data draws a random number, which would change what is dropped out later.
            aside = torch.random.fork_rng(devices=[], enabled=self.state.global_step == 0)
            with aside, torch.no_grad(), self.accelerator.autocast():
                for inputs in self.get_eval_dataloader():
                    sums += torch.stack(loss.apart(self._prepare_inputs(inputs))).double().cpu()
            sums = self.accelerator.reduce(sums.to(self.args.device))
            own, labelled, context, others = sums.tolist()
            found = {"eval_loss": own / labelled}
            if others:
                found["context_loss"] = context / others
            self.log(found)
            told = self.callback_handler.on_evaluate
            self.control: Any = told(self.args, self.state, self.control, found)
            return found

    look = max(1, math.ceil(total / params.evaluations))
    batch, accumulation = share(params.batch_size, params.gradient_accumulation, group.count)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=1,  # the order holds every pass
        train_sampling_strategy="sequential",
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=params.batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=params.learning_rate,
        warmup_steps=min(params.warmup_steps, total // 2),
        bf16=params.precision == "bf16",
        fp16=params.precision == "fp16",
        activation_checkpointing=params.gradient_checkpointing,
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_on_start=untouched,
        eval_steps=look,
        save_strategy="steps",
        save_steps=look,
        save_total_limit=1,  # the best one stays beside it
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(1, total // 100),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device() == "cuda",
        use_cpu=device() == "cpu",
        seed=seed,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # the trainer would part each batch among the GPUs it sees
    # `accelerate launch` has a precision of its own, and mpirun other names for its processes.
    arguments.mixed_precision = "no" if params.precision == "fp32" else params.precision
    if arguments.world_size != group.count:
        raise InputError("several processes can be started by `accelerate launch` or torchrun only")
    trainer = LabelledTrainer(
        model=model,
        train_dataset=levelled(ordered, batch * accumulation * group.count, group),
        eval_dataset=levelled(checked, params.batch_size * group.count, group),
        data_collator=functools.partial(_collate, packing=params.packing),
        callbacks=callbacks,
        args=arguments,
    )
    trainer.remove_callback(PrinterCallback)
    if group.count > 1:
        trainer.model_accepts_loss_kwargs = True  # the loss is a mean over all processes' labels
        set_seed(seed + group.rank)  # each drops out its own
    return trainer


def _collate(examples: Sequence[dict[str, list[int]]], *, packing: bool) -> dict[str, Any]:
    """Return a batch: a row an example, or all examples end to end in one row.

    Padding is on the right, where a causal model never looks: its tokens do not matter, and no
    mask is needed. A packed row tells the places where its ``parts`` begin, and its end;
    positions start anew in each, and the first label of each is no target of what is before it.
    """
    import torch

    rows = [torch.tensor(example["input_ids"]) for example in examples]
    labels = [torch.tensor([IGNORED, *example["labels"][1:]]) for example in examples]
    if packing:
        return {
            "input_ids": torch.cat(rows)[None],
            "labels": torch.cat(labels)[None],
            "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
            "parts": [0, *itertools.accumulate(map(len, rows))],
        }
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }


def _context(batch: dict[str, Any]) -> Any:
    """Return which tokens but the first have no label and are no padding, shape (rows, n - 1).

    Every example ends in the assistant's words: what lies behind a row's last label is padding.
    The first token of a packed part follows nothing.
    """
    labelled = batch["labels"][:, 1:] != IGNORED
    found = (labelled.flip(1).cumsum(1).flip(1) > 0) & ~labelled
    for start in batch.get("parts", [0])[1:-1]:
        found[:, start - 1] = False
    return found


class _Loss:
    """Cross-entropy over the labelled tokens of a batch, without the logits of the others.

    The head is a third of a small student's work, and most positions are the prompt's. It runs
    on labelled positions only where that gives the model's own loss, which is looked at once;
    else the model computes the loss itself.

    Parameters
    ----------
    model
        The model that learns, or its PEFT wrapper.
    examples
        Some of what it learns; the two shortest are used.
    packing
        Whether rows are packed.

    Raises
    ------
    InputError
        When the model's loss over a packed row is not that over its parts.
    """

    def __init__(
        self, model: Any, examples: Sequence[dict[str, list[int]]], *, packing: bool
    ) -> None:
        import torch

        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._model.eval()
        self._head = kernels.head_loss(self._model)
        short = sorted(examples, key=lambda example: len(example["input_ids"]))[:2]
        alone = [_collate([example], packing=False) for example in short]
        with torch.no_grad():
            own = sum(self._of_model(self._placed(batch))[0].item() for batch in alone)
            if self._head:
                found = sum(self(self._placed(batch))[0].item() for batch in alone)
                if not math.isclose(found, own, rel_tol=1e-4):
                    self._head = None
        if packing:
            self._check_packing(_collate(short, packing=True), own)

    def __call__(self, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the sum of the losses (float32, nats) and the number of labelled tokens."""
        if not self._head:
            return self._of_model(inputs)
        targets = inputs["labels"][:, 1:]
        kept = targets != IGNORED
        return self._head(self._hidden(inputs)[kept], targets[kept]), kept.sum()

    def apart(self, inputs: dict[str, Any]) -> list[Any]:
        """Return what a call does, then the same of the tokens without a label, from one pass.

        Their logits are in memory a few rows at a time, where the head is known.
        """
        following, others = inputs["input_ids"][:, 1:], _context(inputs)
        kept = inputs["labels"][:, 1:] != IGNORED
        if self._head:
            hidden = self._hidden(inputs)
            own, context = (self._head(hidden[mask], following[mask]) for mask in (kept, others))
        else:
            found = self._model(**inputs, use_cache=False)
            own = _of_labels(found, kept.sum())
            context = kernels.logits_loss(found.logits[:, :-1], following, others)
        return [own, kept.sum(), context, others.sum()]

    def _hidden(self, inputs: dict[str, Any]) -> Any:
        """Return the last hidden state of each position but the last."""
        given = {name: value for name, value in inputs.items() if name != "labels"}
        return self._model.get_decoder()(**given, use_cache=False).last_hidden_state[:, :-1]

    def _of_model(self, inputs: dict[str, Any]) -> tuple[Any, Any]:
        count = (inputs["labels"][:, 1:] != IGNORED).sum()
        return _of_labels(self._model(**inputs, use_cache=False), count), count

    def _placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        place = self._model.device
        return {k: v.to(place) if hasattr(v, "to") else v for k, v in batch.items()}

    def _check_packing(self, batch: dict[str, Any], own: float) -> None:
        import torch

        try:
            kernels.pack_attention(self._model)
            with torch.no_grad():
                found = self(self._placed(batch))[0].item()
        except (TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
        else:
            if math.isclose(found, own, rel_tol=1e-4):
                return
            reason = f"its loss would be {found:.4f} in place of {own:.4f}"
        raise InputError(
            f"finetune.packing: this student cannot learn from packed rows ({reason}); "
            "set it to false"
        )


def _of_labels(found: Any, count: Any) -> Any:
    """Return the sum of a model's own losses; a batch of fillings alone has no mean."""
    return found.loss * count if count else found.logits.sum() * 0


class _Watch:
    """Hands rows on as they are logged, and says when the validation loss has stopped falling."""

    def __init__(
        self, epochs_per_step: float, patience: int, on_step: Callable[[Step], None] | None
    ) -> None:
        self.epochs_per_step = epochs_per_step
        self._patience = patience
        self._on_step = on_step

    def logged(self, log: dict[str, Any]) -> None:
        """Hand on what the trainer has just logged.

        Raises
        ------
        RunError
            When a loss is not finite.
        """
        for step in _history([log], self.epochs_per_step):
            for loss in (step.loss, step.eval_loss, step.context_loss):
                if loss is not None and not math.isfinite(loss):
                    raise RunError(
                        f"the loss is {loss} at step {step.step}; lower "
                        "finetune.learning_rate (full_learning_rate of full fine-tuning)"
                    )
            if self._on_step:
                self._on_step(step)

    def stops(self, log_history: Sequence[dict[str, Any]]) -> bool:
        """Return whether the last `patience` looks have brought no better loss.

        The look at step 0 is none of them: a rate that warms up may lose a little at first, and
        there are no weights to go back to.
        """
        losses = [log["eval_loss"] for log in log_history if "eval_loss" in log and log["step"]]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self._patience


def _callbacks(watch: _Watch, shown: Bar) -> list[Any]:
    from transformers import TrainerCallback

    class Follow(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Stopping reads the trainer's own history, which a checkpoint restores."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            shown.advance(state.global_step)
            # Killed after it had stopped: one step more and the best weights are loaded again.
            control.should_training_stop |= watch.stops(state.log_history)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            shown.advance()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            watch.logged({**logs, "step": state.global_step})

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= watch.stops(state.log_history)

    return [Follow()]


def _history(log_history: Sequence[dict[str, Any]], epochs_per_step: float) -> list[Step]:
    """Return one row a step: what the trainer logged of the losses."""
    rows: dict[int, dict[str, float]] = {}
    for log in log_history:
        if found := {name: log[name] for name in LOSSES if name in log}:
            rows.setdefault(log["step"], {}).update(found)
    return [
        Step(step, round(step * epochs_per_step, 4), *(row.get(name) for name in LOSSES))
        for step, row in sorted(rows.items())
    ]


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; the trainer's state is what it writes last."""

    def whole(path: Path) -> bool:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return True

    found = {int(p.name.rpartition("-")[2]): p for p in folder.glob("checkpoint-*") if whole(p)}
    return found[max(found)] if found else None


def _save_adapter(model: Any, folder: Path, base: str) -> None:
    """Write adapter and manifest with nothing of this machine in them."""
    model.peft_config["default"].base_model_name_or_path = base
    with quiet():
        model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's unfilled model card
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set
    write_json(path, dict(sorted(config.items())))
    write_manifest(folder, Manifest(base=base, tuning="lora"))
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner only

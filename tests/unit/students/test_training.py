"""Fine-tuning: what is learnt, in which order, and that a killed run ends as if it were not."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.toy import toy_items
from tests.unit.students.families import tiny_model, tokenizer

from seedtalk.errors import InputError, RunError
from seedtalk.params import Finetune
from seedtalk.records import Dialogue, Message
from seedtalk.students import kernels
from seedtalk.students.loading import load_base, load_student, read_manifest
from seedtalk.students.templates import context_messages, encode_example, format_answer
from seedtalk.students.training import (
    History,
    Step,
    _collate,
    _context,
    _drawn,
    _last_checkpoint,
    _Watch,
    _with_adapter,
    batch_order,
    finetune,
)

PARAMS = Finetune(
    epochs=2.0,
    learning_rate=5e-3,
    full_learning_rate=5e-3,
    batch_size=2,
    gradient_accumulation=2,
    max_length=200,
    warmup_steps=2,
    answer_titles=2,
    lora_r=4,
    lora_alpha=8,
    lora_dropout=0.2,  # so that a resumed run must restore the random state
    lora_layers=1,
    precision="fp32",
    gradient_checkpointing=False,
    packing=False,
    evaluations=3,
    patience=3,
)

EXACT = PARAMS.model_copy(update={"lora_dropout": 0.0, "answer_titles": 0, "epochs": 1.5})


def dialogues(count: int, seed: int) -> list[Dialogue]:
    chance = random.Random(seed)
    titles = [f"{item['title']} ({item['year']})" for item in toy_items()]
    made = []
    for number in range(count):
        asked = f"I liked {', '.join(chance.sample(titles, chance.randint(1, 3)))}."
        messages = context_messages([{"role": "seeker", "text": asked}])
        messages.append({"role": "assistant", "content": format_answer(chance.sample(titles, 2))})
        made.append(
            Dialogue(
                dialogue_id=f"d{number}",
                review_id="r",
                item_id="i",
                style="plain",
                teacher="toy",
                messages=[Message(**m) for m in messages],
                targets=["i"],
            )
        )
    return made


TRAIN, VALID = dialogues(14, 0), dialogues(4, 1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.fixture(scope="module")
def tuned(student_folder, tmp_path_factory):
    """An uninterrupted LoRA run: its folder, history and the rows handed out."""
    root = tmp_path_factory.mktemp("tuned")
    rows: list[Step] = []
    history = finetune(
        TRAIN, VALID, str(student_folder), PARAMS, "lora", 0, root / "out",
        cache_dir=root / "cache", on_step=rows.append,
    )  # fmt: skip
    return root, history, rows


class KilledError(Exception):
    pass


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_killed_run_resumes_to_the_same_weights(tuned, student_folder, tmp_path, tuning):
    def run(root, on_step=None):
        return finetune(
            TRAIN, VALID, str(student_folder), PARAMS, tuning, 0, root / "out",
            cache_dir=root / "cache", on_step=on_step,
        )  # fmt: skip

    def kill(step):
        if step.step == 5:  # after the look at step 3
            raise KilledError

    if tuning == "lora":
        whole, history = tuned[0], tuned[1]
    else:
        whole = tmp_path / "whole"
        history = run(whole)
    with pytest.raises(KilledError):
        run(tmp_path / "cut", kill)
    assert not (tmp_path / "cut" / "out").exists()
    rows: list[Step] = []
    resumed = run(tmp_path / "cut", rows.append)
    assert rows[0].step == 4, "it went on from the checkpoint, not from the start"
    assert resumed == history
    expected, found = weights(whole / "out"), weights(tmp_path / "cut" / "out")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert list((tmp_path / "cut" / "cache" / "checkpoints").iterdir()) == []


def test_history_has_every_step_and_look(tuned):
    _, history, rows = tuned
    assert [s.step for s in history.steps] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [s.step for s in history.steps if s.eval_loss is not None] == [0, 3, 6, 7]
    assert [s.step for s in history.steps if s.context_loss is not None] == [0, 3, 6, 7]
    assert history.steps[0].loss is None
    assert history.steps[-1].epoch == 2.0
    assert history.best == min(s.eval_loss for s in history.steps[1:] if s.eval_loss)
    assert (history.train_examples, history.valid_examples, history.skipped) == (14, 4, 0)
    assert {r.step for r in rows} == {s.step for s in history.steps}


def test_first_loss_is_the_bases_on_the_labelled_tokens(tuned, student_folder, tmp_path):
    # Warm-up starts at a rate of zero, and LoRA at no change: step 1 sees the base. Reference:
    # the model's own logits over whole examples, one by one.
    model, tokenizer = load_base(str(student_folder), cache_dir=tmp_path)
    examples = [encode_example(tokenizer, [m.model_dump() for m in d.messages], 200) for d in TRAIN]
    order = batch_order([len(e["input_ids"]) for e in examples], batch=4, examples=28, seed=0)
    total = count = 0.0
    for index in order[:4]:
        ids, labels = (torch.tensor(examples[index][key]) for key in ("input_ids", "labels"))
        with torch.inference_mode():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if labels[place] >= 0:
                total -= logprobs[place - 1, ids[place]].item()
                count += 1
    assert tuned[1].steps[1].loss == pytest.approx(total / count, rel=1e-4)


def test_saved_weights_are_those_of_the_best_look(tuned, tmp_path):
    root, history, _ = tuned
    model, tokenizer = load_student(root / "out", cache_dir=tmp_path)
    total = count = 0.0
    for dialogue in VALID:
        example = encode_example(tokenizer, [m.model_dump() for m in dialogue.messages], 200)
        ids, labels = (torch.tensor(example[key]) for key in ("input_ids", "labels"))
        with torch.inference_mode():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        kept = labels[1:] >= 0
        total -= logprobs[:-1][kept].gather(1, ids[1:][kept][:, None]).sum().item()
        count += int(kept.sum())
    # It was taken over titles in a drawn order.
    assert history.best == pytest.approx(total / count, rel=5e-3)


def test_validation_loss_is_the_mean_over_tokens(student_folder, tmp_path):
    params = EXACT.model_copy(update={"learning_rate": 1e-12, "epochs": 0.3, "evaluations": 1})
    history = finetune(
        TRAIN, VALID[:3], str(student_folder), params, "lora", 0, tmp_path / "out",
        cache_dir=tmp_path,
    )  # fmt: skip
    model, tokenizer = load_base(str(student_folder), cache_dir=tmp_path)
    total = count = 0.0
    for dialogue in VALID[:3]:  # batches of two and of one
        example = encode_example(tokenizer, [m.model_dump() for m in dialogue.messages], 200)
        ids, labels = (torch.tensor(example[key]) for key in ("input_ids", "labels"))
        kept = (labels[1:] >= 0).sum().item()
        with torch.inference_mode():
            total += model(input_ids=ids[None], labels=labels[None]).loss.item() * kept
        count += kept
    assert history.best == pytest.approx(total / count, rel=1e-6)


def test_adapter_is_on_the_top_layers_only_and_names_no_place(tuned, student_folder):
    out = tuned[0] / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "student.json",
    ]  # fmt: skip
    assert all(".layers.1." in name for name in weights(out))
    assert any(tensor.abs().sum() for n, tensor in weights(out).items() if "lora_B" in n)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(student_folder), "as params.models gives it"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(tuned[0]) not in "".join(p.read_text() for p in out.glob("*.json"))


def test_learning_lowers_the_loss(student_folder, tmp_path):
    params = PARAMS.model_copy(update={"epochs": 8.0})
    history = finetune(
        TRAIN, VALID, str(student_folder), params, "full", 0, tmp_path / "out",
        cache_dir=tmp_path,
    )  # fmt: skip
    looks = [s.eval_loss for s in history.steps if s.eval_loss is not None]
    assert looks[-1] < looks[1] - 0.5


def test_adapter_on_all_layers_where_none_are_counted(student_folder, tmp_path):
    model, _ = load_base(str(student_folder), cache_dir=tmp_path)
    wrapped = _with_adapter(model, PARAMS.model_copy(update={"lora_layers": 0}))
    learnt = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert {name.split(".layers.")[1][0] for name in learnt} == {"0", "1"}
    assert len(learnt) == 2 * 7 * 2, "two matrices for each of seven linear layers in two blocks"


def test_zero_shot_writes_a_manifest_and_nothing_more(tmp_path):
    history = finetune(
        TRAIN, VALID, "some/model", PARAMS, "zero-shot", 0, tmp_path / "out", cache_dir=tmp_path
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["student.json"]
    assert read_manifest(tmp_path / "out").base == "some/model"
    assert history == History([], 0, 0, 0)


def test_overlong_answers_are_skipped_and_counted(student_folder, tmp_path):
    long = TRAIN[0].model_copy(
        update={
            "messages": [
                *TRAIN[0].messages[:-1],
                Message(role="assistant", content=format_answer(["Grey Ransom (1999)"] * 60)),
            ]
        }
    )
    params = PARAMS.model_copy(update={"epochs": 1.0, "evaluations": 1})
    history = finetune(
        [long, *TRAIN[:4]], VALID, str(student_folder), params, "lora", 0, tmp_path / "out",
        cache_dir=tmp_path,
    )  # fmt: skip
    assert (history.skipped, history.train_examples) == (1, 4)
    with pytest.raises(InputError, match="longer than finetune.max_length=200"):
        finetune(
            [long], VALID, str(student_folder), PARAMS, "lora", 0, tmp_path / "no",
            cache_dir=tmp_path,
        )  # fmt: skip


def test_empty_split_names_what_mends_it(student_folder, tmp_path):
    for train, valid, key in (([], VALID, "select.budget"), (TRAIN, [], "valid_fraction")):
        with pytest.raises(InputError, match=key):
            finetune(
                train, valid, str(student_folder), PARAMS, "lora", 0, tmp_path / "out",
                cache_dir=tmp_path,
            )  # fmt: skip


@pytest.mark.parametrize(
    "log", [{"loss": math.nan}, {"eval_loss": math.inf}, {"context_loss": math.nan}]
)
def test_loss_that_is_not_finite_ends_the_run(log):
    with pytest.raises(RunError, match=r"step 7; lower finetune\.learning_rate"):
        _Watch(0.1, 3, None).logged({**log, "step": 7})


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([3.0], False),
        ([3.0, 2.0, 2.5, 2.0], True),
        ([3.0, 2.0, 2.5, 1.9], False),
        ([1, 2, 3], True),
    ],
)
@pytest.mark.parametrize("untouched", [None, 0.5, 5.0])
def test_stopping_counts_looks_without_a_better_loss(losses, stops, untouched):
    logs = [{"loss": 9.0, "step": 1}]
    logs += [{"eval_loss": loss, "step": 3 * n} for n, loss in enumerate(losses, start=1)]
    if untouched is not None:  # however good, it is nothing to go back to
        logs.insert(0, {"eval_loss": untouched, "step": 0})
    assert _Watch(0.1, 2, None).stops(logs) is stops


def test_rows_are_empty_where_unknown():
    steps = [
        Step(0, 0.0, None, 3.0, 4.5),
        Step(1, 0.5, 1.23456789, None, None),
        Step(2, 1.0, None, 3.5, 4.0),
    ]
    history = History(steps, 1, 1, 0)
    assert history.rows() == [
        ("0", "0", "", "3", "4.5"),
        ("1", "0.5", "1.23457", "", ""),
        ("2", "1", "", "3.5", "4"),
    ]
    assert history.best == 3.5, "the untouched model is not what is saved"


def reference_losses(model, tokenizer, dialogues, max_length):
    """Return the mean losses of the labelled and of the other tokens, one token at a time."""
    sums = {True: [0.0, 0], False: [0.0, 0]}
    for dialogue in dialogues:
        example = encode_example(tokenizer, [m.model_dump() for m in dialogue.messages], max_length)
        ids, labels = (torch.tensor(example[key]) for key in ("input_ids", "labels"))
        with torch.inference_mode():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            part = sums[bool(labels[place] >= 0)]
            part[0] -= logprobs[place - 1, ids[place]].item()
            part[1] += 1
    return [total / count for total, count in (sums[True], sums[False])]


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("change", [{}, {"packing": True}, {"head": None}])
def test_looks_tell_the_losses_of_answers_and_contexts(
    student_folder, gemma_folder, tmp_path, monkeypatch, family, change
):
    """At step 0 the untouched model's; the context's tokens are those that have no label."""
    folder = student_folder if family == "llama" else gemma_folder
    if "head" in change:
        monkeypatch.setattr(kernels, "head_loss", lambda model: None)
        monkeypatch.setattr(kernels, "HEAD_VALUES", 1)  # sixteen rows at a time
    packing = change.get("packing", False)
    params = EXACT.model_copy(update={"max_length": 400, "evaluations": 1, "packing": packing})
    history = finetune(
        TRAIN, VALID[:3], str(folder), params, "full", 0, tmp_path / "out", cache_dir=tmp_path
    )
    for step, place, load in ((0, str(folder), load_base), (-1, tmp_path / "out", load_student)):
        model, made = load(place, cache_dir=tmp_path)
        expected = reference_losses(model, made, VALID[:3], 400)
        row = history.steps[step]
        assert [row.eval_loss, row.context_loss] == pytest.approx(expected, rel=1e-5)
    assert history.steps[0].context_loss != history.steps[-1].context_loss


def test_context_is_what_has_no_label_and_is_no_padding():
    examples = [
        {"input_ids": [4, 5, 6, 7], "labels": [-100, -100, 6, 7]},
        {"input_ids": [8, 9], "labels": [-100, 9]},
        {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, -100, 5]},
    ]
    padded, packed = (_context(_collate(examples, packing=p)).int().tolist() for p in (0, 1))
    assert padded == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert packed == [[1, 0, 0, 0, 0, 0, 0, 1, 1, 0]]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_looking_does_not_change_what_is_learnt(
    tuned, student_folder, tmp_path, monkeypatch, tuning
):
    """With dropout: a random number drawn by the look at step 0 would show."""
    import seedtalk.students.training as training

    def run(root):
        return finetune(
            TRAIN, VALID, str(student_folder), PARAMS, tuning, 0, root / "out",
            cache_dir=root / "cache",
        )  # fmt: skip

    looked = tuned[1] if tuning == "lora" else run(tmp_path / "looked")
    folder = tuned[0] if tuning == "lora" else tmp_path / "looked"
    nothing = torch.zeros(())
    make = training._trainer
    monkeypatch.setattr(
        training, "_trainer", lambda *given, untouched: make(*given, untouched=False)
    )
    monkeypatch.setattr(
        training._Loss, "apart", lambda loss, inputs: [*loss(inputs), nothing, nothing]
    )
    blind = run(tmp_path / "blind")
    assert [(s.step, s.loss, s.eval_loss) for s in blind.steps] == [
        (s.step, s.loss, s.eval_loss) for s in looked.steps if s.step
    ]
    assert all(step.context_loss is None for step in blind.steps)
    expected, found = weights(folder / "out"), weights(tmp_path / "blind" / "out")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_torn_checkpoint_is_passed_over(tmp_path):
    for step, state in ((3, "{}"), (6, '{"global_st'), (9, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert _last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert _last_checkpoint(tmp_path / "none") is None


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80),
    batch=st.integers(1, 7),
    share=st.floats(0.1, 3.5),
    seed=st.integers(0, 5),
)
def test_order_repeats_whole_passes(lengths, batch, share, seed):
    examples = max(1, round(share * len(lengths)))
    order = batch_order(lengths, batch=batch, examples=examples, seed=seed)
    assert len(order) == examples
    counts = [order.count(i) for i in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert order == batch_order(lengths, batch=batch, examples=examples, seed=seed)


def test_batches_hold_like_lengths():
    chance = random.Random(3)
    lengths = [chance.randint(20, 200) for _ in range(160)]
    order = batch_order(lengths, batch=4, examples=160, seed=0)

    def padding(indices):
        batches = [indices[i : i + 4] for i in range(0, len(indices), 4)]
        return sum(max(lengths[i] for i in b) - lengths[j] for b in batches for j in b)

    assert padding(order) < 0.35 * padding(list(range(160)))
    assert order != sorted(order, key=lambda i: lengths[i]), "but lengths come mixed"


def test_titles_are_drawn_anew_at_every_pass(student_folder, tmp_path):
    from seedtalk.students.templates import parse_answer

    _, tokenizer = load_base(str(student_folder), cache_dir=tmp_path)
    titles = [f"{item['title']} ({item['year']})" for item in toy_items()[:5]]
    told = [
        *context_messages([{"role": "seeker", "text": "Something like those?"}]),
        {"role": "assistant", "content": format_answer(titles)},
    ]
    params = PARAMS.model_copy(update={"max_length": 400})
    plain = encode_example(tokenizer, told, 400)
    chance, firsts = random.Random(0), set()
    for _ in range(60):
        drawn = _drawn(tokenizer, told, plain, params=params, chance=chance)
        labelled = [token for token in drawn["labels"] if token != -100]
        answer = tokenizer.decode(labelled, skip_special_tokens=True)
        found = parse_answer(answer)
        assert len(set(found)) == 2 and set(found) <= set(titles)
        assert answer.strip() == format_answer(found)
        firsts.add(found[0])
    assert firsts == set(titles), "every title comes first now and then"


def test_an_answer_that_is_no_bare_list_keeps_its_words(student_folder, tmp_path):
    _, tokenizer = load_base(str(student_folder), cache_dir=tmp_path)
    told = [
        *context_messages([{"role": "seeker", "text": "Something like those?"}]),
        {"role": "assistant", "content": "Try these:\n1. One (1990)\n2. Two (1991)"},
    ]
    plain = encode_example(tokenizer, told, 400)
    assert _drawn(tokenizer, told, plain, params=PARAMS, chance=random.Random(0)) is plain


def test_killed_after_it_had_stopped_it_ends_in_the_same_weights(
    student_folder, tmp_path, monkeypatch
):
    """The stop is in the checkpoint's history; a resumed run must not train on."""
    import seedtalk.students.training as training

    # So large a step that the first look stays the best one.
    params = PARAMS.model_copy(
        update={"learning_rate": 0.5, "epochs": 8.0, "evaluations": 8, "patience": 1}
    )

    def run(root):
        return finetune(
            TRAIN, VALID, str(student_folder), params, "lora", 0, root / "out",
            cache_dir=root / "cache",
        )  # fmt: skip

    history = run(tmp_path / "whole")
    assert history.steps[-1].epoch < 8, "it stopped early"
    save = training._save_adapter

    def killed(*_):
        raise KilledError

    monkeypatch.setattr(training, "_save_adapter", killed)
    with pytest.raises(KilledError):
        run(tmp_path / "cut")
    monkeypatch.setattr(training, "_save_adapter", save)
    assert run(tmp_path / "cut") == history
    expected, found = weights(tmp_path / "whole" / "out"), weights(tmp_path / "cut" / "out")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.fixture(scope="module")
def gemma_folder(tmp_path_factory):
    """A tiny Gemma 2: capped scores and logits, a sliding window, no system role."""
    folder = tmp_path_factory.mktemp("gemma")
    made = tokenizer("gemma", joining=True)
    made.save_pretrained(folder)
    tiny_model("gemma2", vocabulary=len(made)).save_pretrained(folder)
    return folder


def stock_losses(folder, params, tuning, cache):
    """Return what TRL's own trainer logs of the same examples in the same order."""
    from datasets import Dataset
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    model, made = load_base(str(folder), cache_dir=cache)
    encoded = [
        encode_example(made, [m.model_dump() for m in d.messages], params.max_length) for d in TRAIN
    ]
    order = batch_order(
        [len(e["input_ids"]) for e in encoded],
        batch=params.batch_size * params.gradient_accumulation,
        examples=round(params.epochs * len(encoded)),
        seed=0,
    )
    set_seed(0)
    if tuning == "lora":
        model = _with_adapter(model, params)
    else:
        model.requires_grad_(True)
    trainer = SFTTrainer(
        model=model,
        processing_class=made,
        train_dataset=Dataset.from_list([encoded[i] for i in order]),
        args=SFTConfig(
            output_dir=str(cache / "stock"),
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=params.batch_size,
            gradient_accumulation_steps=params.gradient_accumulation,
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
            use_cpu=True,
            seed=0,
        ),
    )
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_logged_losses_are_the_stock_trainers(
    student_folder, gemma_folder, tmp_path, tuning, family
):
    folder = student_folder if family == "llama" else gemma_folder
    params = EXACT.model_copy(update={"max_length": 400})
    expected = stock_losses(folder, params, tuning, tmp_path)
    looks = {}
    for name, change in {
        "plain": {},
        "packed": {"packing": True},
        "checkpointed": {"gradient_checkpointing": True},
        "both": {"gradient_checkpointing": True, "packing": True},
    }.items():
        history = finetune(
            TRAIN, VALID, str(folder), params.model_copy(update=change), tuning, 0,
            tmp_path / name, cache_dir=tmp_path,
        )  # fmt: skip
        losses = [step.loss for step in history.steps if step.loss is not None]
        assert losses == pytest.approx(expected, abs=1e-4), name
        looks[name] = [step.eval_loss for step in history.steps if step.eval_loss is not None]
    assert all(look == pytest.approx(looks["plain"], abs=1e-4) for look in looks.values())


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.unit.students.test_training import PARAMS, TRAIN, VALID
from seedtalk.students.training import finetune
folder, root, tuning, packing = sys.argv[1:]
def kill(step):
    if step.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
finetune(
    TRAIN, VALID, folder, PARAMS.model_copy(update={"packing": packing == "True"}), tuning, 0,
    Path(root) / "out", cache_dir=Path(root) / "cache", on_step=kill,
)
"""


@pytest.mark.parametrize(("tuning", "packing"), [("lora", True), ("full", False)])
def test_resumed_after_a_real_kill_it_ends_in_the_same_weights(
    student_folder, tmp_path, tuning, packing
):
    def run(root, rows):
        return finetune(
            TRAIN, VALID, str(student_folder), PARAMS.model_copy(update={"packing": packing}),
            tuning, 0, root / "out", cache_dir=root / "cache", on_step=rows.append,
        )  # fmt: skip

    history = run(tmp_path / "whole", [])
    arguments = [str(student_folder), str(tmp_path / "cut"), tuning, str(packing)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    rows: list[Step] = []
    assert run(tmp_path / "cut", rows) == history
    assert rows[0].step == 4, "it went on from the checkpoint"
    expected, found = weights(tmp_path / "whole" / "out"), weights(tmp_path / "cut" / "out")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_packed_row_holds_its_examples_end_to_end():
    examples = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [8, 9], "labels": [8, 9]},  # its first label is nobody's target
    ]
    batch = {
        k: getattr(v, "tolist", lambda v=v: v)()
        for k, v in _collate(examples, packing=True).items()
    }
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 9]],
        "labels": [[-100, 6, 7, -100, 9]],
        "position_ids": [[0, 1, 2, 0, 1]],
        "parts": [0, 3, 5],
    }
    padded = {k: v.tolist() for k, v in _collate(examples, packing=False).items()}
    assert padded == {
        "input_ids": [[5, 6, 7], [8, 9, 0]],
        "labels": [[-100, 6, 7], [-100, 9, -100]],
    }


def test_student_that_sees_past_its_part_is_not_packed(gemma_folder, tmp_path, monkeypatch):
    apart = kernels._packed_attention
    monkeypatch.setattr(
        kernels, "_packed_attention", lambda *a, parts=None, **k: apart(*a, parts=None, **k)
    )
    params = EXACT.model_copy(update={"packing": True, "max_length": 400})
    with pytest.raises(InputError, match=r"finetune\.packing: .*its loss would be"):
        finetune(
            TRAIN, VALID, str(gemma_folder), params, "lora", 0, tmp_path / "out",
            cache_dir=tmp_path,
        )  # fmt: skip

    def refuse(model):
        raise ValueError("it has none")

    monkeypatch.setattr(kernels, "pack_attention", refuse)
    with pytest.raises(InputError, match=r"finetune\.packing: .*\(it has none\)"):
        finetune(
            TRAIN, VALID, str(gemma_folder), params, "lora", 0, tmp_path / "out",
            cache_dir=tmp_path,
        )  # fmt: skip


def test_head_that_says_something_else_is_not_used(student_folder, tmp_path, monkeypatch):
    params = EXACT.model_copy(update={"epochs": 0.6, "evaluations": 1})

    def run(name):
        return finetune(
            TRAIN, VALID, str(student_folder), params, "lora", 0, tmp_path / name,
            cache_dir=tmp_path,
        )  # fmt: skip

    expected = [step.loss for step in run("right").steps if step.step]
    right = kernels.head_loss
    monkeypatch.setattr(
        kernels, "head_loss", lambda model: lambda hidden, kept: 2 * right(model)(hidden, kept)
    )
    assert [step.loss for step in run("wrong").steps if step.step] == pytest.approx(
        expected, abs=1e-5
    )


def test_half_precision_is_refused_where_it_is_not_computed(student_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params = PARAMS.model_copy(update={"precision": "fp16"})
    with pytest.raises(InputError, match=r"finetune\.precision: this cpu .* float16"):
        finetune(
            TRAIN, VALID, str(student_folder), params, "lora", 0, tmp_path / "out",
            cache_dir=tmp_path,
        )  # fmt: skip


def test_bf16_computes_the_same_to_its_precision(student_folder, tmp_path):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bfloat16")
    losses = []
    for precision in ("fp32", "bf16"):
        history = finetune(
            TRAIN, VALID, str(student_folder), EXACT.model_copy(update={"precision": precision}),
            "lora", 0, tmp_path / precision, cache_dir=tmp_path,
        )  # fmt: skip
        losses.append([step.loss for step in history.steps if step.loss is not None])
        saved = weights(tmp_path / precision)
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)

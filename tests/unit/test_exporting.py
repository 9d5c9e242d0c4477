"""Students written for others: their weights, their chat template, their card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from tests.toy import toy_student
from tests.unit.students.families import FAMILIES, tokenizer

from seedtalk.cli import main
from seedtalk.errors import InputError
from seedtalk.exporting import (
    Evidence,
    card,
    chat_template,
    export_model,
    known_licence,
    public_name,
    read_evidence,
)
from seedtalk.params import load_params
from seedtalk.records import write_json
from seedtalk.students.loading import (
    Manifest,
    load_base,
    load_student,
    read_manifest,
    write_manifest,
)
from seedtalk.students.templates import context_messages, render

REPOSITORY = Path(__file__).parents[2]
PARAMS = load_params(REPOSITORY / "params.yaml")
NAME = "toy-lora"
IDS = torch.tensor([[1, 40, 41, 300, 7, 19, 2]])
EMPTY = Evidence(None, None, None, {}, {})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A toy base, an adapter of it that changes its logits, and a zero-shot student."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("export")
    base = toy_student(root / "bases" / "toy")
    model, _ = load_base(str(base), cache_dir=root)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tuned = get_peft_model(model, config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(root / "models" / NAME)
    write_manifest(root / "models" / NAME, Manifest(base=str(base), tuning="lora"))
    (root / "models" / "toy-zero-shot").mkdir()
    write_manifest(root / "models" / "toy-zero-shot", Manifest(base=str(base), tuning="zero-shot"))
    return root


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


def export(workspace, target, form="merged", student=NAME, results="none", **options):
    return export_model(
        workspace / "models" / student, target, form, PARAMS, workspace / results,
        cache_dir=workspace, **options,
    )  # fmt: skip


def test_merged_weights_load_plainly_and_give_the_students_logits(workspace, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(workspace, tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    base, _ = load_base(str(workspace / "bases" / "toy"), cache_dir=workspace)
    plain = logits(base)
    expected = logits(PeftModel.from_pretrained(base, workspace / "models" / NAME).eval())
    torch.testing.assert_close(logits(found), expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 0.05  # the adapter does something
    config = found.generation_config
    assert (config.do_sample, config.max_new_tokens, config.temperature) == (False, 256, None)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_exported_student_is_a_student_again(workspace, tmp_path):
    export(workspace, tmp_path / "out")
    assert read_manifest(tmp_path / "out").base == "toy"
    model, _ = load_student(tmp_path / "out", cache_dir=workspace)
    again, _ = load_student(workspace / "models" / NAME, cache_dir=workspace)
    torch.testing.assert_close(logits(model), logits(again))


def test_adapter_on_its_base_gives_the_students_logits(workspace, tmp_path):
    from peft import PeftModel
    from transformers import AutoTokenizer

    export(workspace, tmp_path / "out", "adapter")
    base, _ = load_base(str(workspace / "bases" / "toy"), cache_dir=workspace)
    expected = logits(load_student(workspace / "models" / NAME, cache_dir=workspace)[0])
    found = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    torch.testing.assert_close(logits(found), expected, rtol=1e-4, atol=1e-4)
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "toy"
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_no_place_on_this_machine_is_in_what_is_exported(workspace, tmp_path, form):
    export(workspace, tmp_path / "out", form)
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert str(workspace).encode() not in content and str(tmp_path).encode() not in content
        assert path.stat().st_mode & 0o777 == 0o644


def test_two_exports_are_equal(workspace, tmp_path):
    for name in ("one", "two"):
        export(workspace, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_exported_template_renders_a_bare_chat_as_in_training(family):
    speaker = tokenizer(family)
    turns = [("seeker", "A heist?"), ("recommender", "1. Heat"), ("seeker", "Seen it.")]
    history = [{"role": role, "text": text} for role, text in turns]
    system, *messages = context_messages(history)
    expected = render(speaker, [system, *messages], answer=True)
    speaker.chat_template = chat_template(speaker)

    def shown(chat):
        return speaker.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    assert shown(messages) == expected
    assert shown([system, *messages]) == expected
    other = {"role": "system", "content": "Name one title."}
    told = shown([other, *messages])
    assert "Name one title." in told and system["content"] not in told


def test_tokenizer_without_a_template_is_refused():
    speaker = tokenizer("chatml")
    speaker.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        chat_template(speaker)


def test_zero_shot_is_exported_whole_and_has_no_adapter(workspace, tmp_path):
    text = export(workspace, tmp_path / "out", student="toy-zero-shot").read_text()
    assert "the untouched base" in text
    with pytest.raises(InputError, match="zero-shot, which has no adapter; export it --merged"):
        export(workspace, tmp_path / "other", "adapter", "toy-zero-shot")
    assert not (tmp_path / "other").exists()


def test_a_folder_with_something_in_it_is_left_alone(workspace, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="out: is there already; name a new or empty folder"):
        export(workspace, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is there already"):
        export(workspace, tmp_path / "out" / "mine.txt")
    (tmp_path / "empty").mkdir()
    assert export(workspace, tmp_path / "empty").is_file()


def test_missing_parts_leave_no_half_folder(workspace, tmp_path):
    with pytest.raises(InputError, match=r"student\.json: no such file"):
        export(workspace, tmp_path / "out", student="nobody")
    broken = workspace / "models" / "broken-lora"
    broken.mkdir(exist_ok=True)
    write_manifest(broken, read_manifest(workspace / "models" / NAME))
    for form in ("merged", "adapter"):
        with pytest.raises(InputError, match=r"adapter_model\.safetensors: no such file"):
            export(workspace, tmp_path / "out", form, "broken-lora")
    assert not list(tmp_path.iterdir())


def interval(mean):
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def write_results(root: Path, **more) -> Path:
    told = {"name": "sampled-50", "condition": "recommendation", "queries": 80}
    told |= {"conversations": 70}
    scores = {
        "toy-lora-likes": {NAME: 0.4},
        "toy-zero-shot-likes": {"toy-zero-shot": 0.2},
        "toy-full-likes": {"toy-full": 0.9},
        "toy-lora-blend-likes": {"toy-lora-blend": 0.6, "signals": 0.3},
        "baselines-likes": {"popularity": 0.5, "item-item": 0.35},
        "baselines-other": {"popularity": 0.5},
    }
    for name, systems in scores.items():
        write_json(
            root / "eval" / f"{name}.json",
            {
                "benchmark": name.rpartition("-")[2],
                "protocol": told,
                "systems": {
                    system: {"recall@10": interval(mean), "mrr": interval(mean / 2)}
                    for system, mean in systems.items()
                },
            },
        )
    write_json(root / "corpus.json", {"source": "jsonl", "origin": {"set": "1.0"}})
    write_json(root / "teacher.json", {"backend": "openai", "model": "gpt", "answered": 9})
    synthesis = {"train": 7, "valid": 2, "grounding": "review", "targets": "both"}
    write_json(root / "synthesis.json", synthesis | more)
    return root


def test_card_has_the_metrics_with_intervals_and_their_baselines(tmp_path):
    text = card(NAME, "toy", "merged", PARAMS, read_evidence(write_results(tmp_path), NAME))
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "other"
    table = re.findall(r"^\| (\S+) \| (0\.\d+ \[.*?\]) \|", body, re.MULTILINE)
    assert table == [
        ("toy-lora-blend", "0.600 [0.550, 0.650]"),
        ("popularity", "0.500 [0.450, 0.550]"),
        ("**toy-lora**", "0.400 [0.350, 0.450]"),
        ("item-item", "0.350 [0.300, 0.400]"),
        ("signals", "0.300 [0.250, 0.350]"),
        ("toy-zero-shot", "0.200 [0.150, 0.250]"),
    ]
    assert "Ahead of this student at recall@10: toy-lora-blend, popularity." in body
    assert "### likes" in body and "### other" not in body
    assert "80 queries in 70 conversations, protocol sampled-50" in body
    for part in ("Base model", "Data", "Training", "Metrics", "Use", "Limits"):
        assert f"## {part}\n" in body
    assert "gpt (backend openai); 9 answers" in body
    assert "Real dialogues: none" in body and "without a human conversation" in body


def test_card_says_that_real_dialogues_were_learnt_from(tmp_path):
    real = {"conversations": "redial-train", "kept": 90, "train": 200}
    results = write_results(tmp_path, train_on="both", real=real)
    text = card(NAME, "toy", "merged", PARAMS, read_evidence(results, NAME))
    assert "Real dialogues: 200 to train on, from 90 conversations of redial-train" in text
    assert "without a human conversation" not in text


def test_card_without_results_says_so():
    text = card(NAME, "org/model", "adapter", PARAMS, EMPTY)
    assert "This student has not been evaluated." in text and "## Data" not in text
    header = yaml.safe_load(text.split("---\n", 2)[1])
    assert header["base_model"] == "org/model" and header["library_name"] == "peft"
    assert 'from_pretrained("org/model")' in text and "PeftModel" in text


def test_foreign_text_is_no_markup_and_no_code():
    bad = 'x](http://e.org) <script>|`"\n# h'
    teacher = {"backend": "openai", "model": bad, "answered": 1}
    evidence = Evidence({"source": bad, "origin": {bad: bad}}, teacher, None, {}, {})
    text = card(NAME, bad, "adapter", PARAMS, evidence)
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "](http" not in body
    assert not re.search(r"^# h", body, re.MULTILINE)
    code = re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert yaml.safe_load(text.split("---\n", 2)[1])["tags"]


def test_use_of_the_card_runs(workspace, tmp_path, capsys):
    for form in ("merged", "adapter"):
        text = export(workspace, tmp_path / form, form).read_text()
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        code = code.replace("FOLDER", str(tmp_path / form)).replace("=256", "=4")
        exec(code.replace('"toy"', repr(str(workspace / "bases" / "toy"))), {})
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"benchmark": "x"},
        {"benchmark": "x", "systems": {NAME: {"mrr": 3}}, "protocol": {}},
        {"benchmark": "x", "systems": {NAME: {}}},
    ],
)
def test_wrong_results_are_an_input_error(tmp_path, content):
    write_json(tmp_path / "eval" / "x.json", content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_evidence(tmp_path, NAME)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("data/quickstart/smollm2-135m", "smollm2-135m"),
        ("/models/secret/place/llama", "llama"),
        ("./here/toy", "toy"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_base_is_named_without_its_place(base, name):
    assert public_name(base) == name


def test_licences_of_the_known_bases():
    assert known_licence("smollm2-135m") == "apache-2.0"
    assert known_licence("Qwen/Qwen2.5-1.5B-Instruct") == "apache-2.0"
    assert known_licence("Qwen/Qwen2.5-3B-Instruct") is None  # its licence is of another kind
    assert known_licence("meta-llama/Llama-3.2-1B-Instruct") == "llama3.2"
    assert known_licence("google/gemma-2-2b-it") == "gemma"
    assert "Licence: mit, " in card(NAME, "toy", "merged", PARAMS, EMPTY, licence="mit")


def test_command_writes_the_folder_and_says_where(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    write_results(tmp_path / "results")
    arguments = ["export", "model", str(workspace / "models" / NAME)]
    arguments += ["--params", str(REPOSITORY / "params.yaml")]
    arguments += ["--results", str(tmp_path / "results"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*arguments, "--adapter", "--licence", "mit"])
    assert done.exit_code == 0, done.output
    assert "holds the adapter" in done.output
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and "is there already" in done.output

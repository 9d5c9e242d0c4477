"""The stage finetune, through its command line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from stages.finetune import main
from tests.toy import toy_items, toy_student

from seedtalk import tracking
from seedtalk.records import Dialogue, Message, write_jsonl
from seedtalk.students.templates import context_messages, format_answer

REPOSITORY = Path(__file__).parents[2]


def dialogue(number: int) -> Dialogue:
    chance = random.Random(number)
    titles = [f"{item['title']} ({item['year']})" for item in chance.sample(toy_items(), 3)]
    messages = context_messages([{"role": "seeker", "text": f"I liked {titles[0]}."}])
    messages.append({"role": "assistant", "content": format_answer(titles[1:])})
    return Dialogue(
        dialogue_id=f"d{number}",
        review_id="r",
        item_id="i",
        style="plain",
        teacher="toy",
        messages=[Message(**m) for m in messages],
        targets=["i"],
    )


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with a toy student, params and dialogues."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["models"]["toy"] = "toy"
    params["students"] = ["toy"]
    params["finetune"] |= {"epochs": 1, "evaluations": 2, "learning_rate": 0.001}
    params["finetune"] |= {"batch_size": 4, "gradient_accumulation": 2, "answer_titles": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    toy_student(tmp_path / "toy")
    write_jsonl(tmp_path / "artifacts/dialogues/train.jsonl", map(dialogue, range(8)))
    write_jsonl(tmp_path / "artifacts/dialogues/valid.jsonl", map(dialogue, range(8, 10)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments):
    return CliRunner().invoke(main, ["--params", "params.yaml", *arguments])


def outs(root: Path) -> dict[str, bytes]:
    files = [p for folder in ("models", "results") for p in (root / folder).rglob("*")]
    return {str(p.relative_to(root)): p.read_bytes() for p in files if p.is_file()}


def test_lora_then_zero_shot(workspace):
    done = run("--student", "toy", "--tuning", "lora")
    assert done.exit_code == 0, done.output
    assert "toy-lora: 8 dialogues, validation loss" in done.output
    first = outs(workspace)
    assert sorted(first) == [
        "models/toy-lora/adapter_config.json",
        "models/toy-lora/adapter_model.safetensors",
        "models/toy-lora/student.json",
        "results/train/toy-lora.csv",
    ]
    lines = first["results/train/toy-lora.csv"].decode().splitlines()
    assert lines[0] == "step,epoch,loss,eval_loss,context_loss"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1"]
    assert json.loads(first["models/toy-lora/student.json"]) == {
        "base": "toy",
        "tuning": "lora",
        "answer": "numbered",
    }
    for name, content in first.items():
        assert str(workspace).encode() not in content, name

    assert run("--student", "toy", "--tuning", "lora").exit_code == 0
    assert outs(workspace) == first, "the same inputs and seed give the same bytes"

    done = run("--student", "toy", "--tuning", "zero-shot")
    assert done.exit_code == 0, done.output
    made = outs(workspace)
    assert made["results/train/toy-zero-shot.csv"] == b"step,epoch,loss,eval_loss,context_loss\n"
    assert [n for n in made if n.startswith("models/toy-z")] == [
        "models/toy-zero-shot/student.json"
    ]

    _, experiment = tracking._experiment(workspace)
    runs = tracking._client().search_runs([experiment])
    assert [r.data.tags[tracking.STUDENT] for r in runs] == [
        "toy-zero-shot",
        "toy-lora",
        "toy-lora",
    ]
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {"eval_loss", "context_loss"} <= runs[1].data.metrics.keys()


def test_the_run_tells_what_its_dialogues_are_worth(workspace):
    (workspace / "results").mkdir()
    train = workspace / "artifacts/dialogues/train.jsonl"
    told = {"fingerprint": zlib.crc32(train.read_bytes()), "fidelity": 0.5, "self_bleu": None}
    (workspace / "results/quality.json").write_text(json.dumps(told))
    assert run("--student", "toy", "--tuning", "zero-shot").exit_code == 0
    _, experiment = tracking._experiment(workspace)
    (made,) = tracking._client().search_runs([experiment])
    assert made.data.metrics == {"quality.fidelity": 0.5}


def test_bad_input_exits_with_2_and_writes_nothing(workspace):
    path = workspace / "artifacts/dialogues/train.jsonl"
    path.write_text(path.read_text() + '{"dialogue_id": 7}\n')
    done = run("--student", "toy", "--tuning", "lora")
    assert done.exit_code == 2
    assert "train.jsonl, row 9, field 'dialogue_id'" in done.output
    path.write_text("")
    done = run("--student", "toy", "--tuning", "lora")
    assert done.exit_code == 2
    assert "train.jsonl: no dialogues" in done.output
    done = run("--student", "nobody", "--tuning", "lora")
    assert done.exit_code == 2
    assert "'nobody' is no name in models" in done.output
    assert not (workspace / "models").exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['finetune', '--help']\n"
        "try:\n    import runpy; runpy.run_path('stages/finetune.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'trl'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr

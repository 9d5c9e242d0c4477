"""The stage register, through its command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from stages.register import main
from tests.toy import toy_items, toy_student

from seedtalk import tracking
from seedtalk.records import write_table
from seedtalk.students.loading import Manifest, load_student, write_manifest

REPOSITORY = Path(__file__).parents[2]
STUDENT = "smollm2-135m-lora"  # what params.yaml puts up; here a toy under its name


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    toy_student(tmp_path / "toy")
    (tmp_path / "models" / STUDENT).mkdir(parents=True)
    write_manifest(tmp_path / "models" / STUDENT, Manifest(base="toy", tuning="zero-shot"))
    write_table(tmp_path / "artifacts/items.parquet", pd.DataFrame(toy_items()), "items")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path
    torch.set_num_threads(threads)


def write_scores(root: Path, value: float, digest: str = "q") -> None:
    path = root / f"results/eval/{STUDENT}-likes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {STUDENT: {"recall@10": {"mean": value, "low": 0.0, "high": 1.0}}}
    path.write_text(json.dumps({"benchmark": "likes", "digest": digest, "systems": scores}))


def run():
    return CliRunner().invoke(main, ["--params", str(REPOSITORY / "params.yaml")])


def test_first_student_is_champion_and_another_is_held_to_it(workspace):
    write_scores(workspace, 0.5)
    done = run()
    assert done.exit_code == 0, done.output
    assert "seedtalk version 1 (smollm2-135m-lora) is the new champion." in done.output
    verdict = workspace / "results/registry.json"
    first = json.loads(verdict.read_text())
    assert (first["version"], first["moved"], first["value"]) == (1, True, 0.5)
    assert str(workspace) not in verdict.read_text()

    done = run()
    assert done.exit_code == 0, done.output
    assert "version 1 (smollm2-135m-lora) stays the champion" in done.output

    # Other weights under the same name: the toy that was, made whole, is another folder.
    toy_student(workspace / "other")
    write_manifest(workspace / "models" / STUDENT, Manifest(base="other", tuning="zero-shot"))
    write_scores(workspace, 0.4)
    done = run()
    assert done.exit_code == 0, "a failed gate is a verdict, not a failed run"
    assert "version 2 (smollm2-135m-lora) did not pass the gate" in done.output
    assert "metric: FAILED, recall@10 0.4000 on likes, worse than 0.5000" in done.output
    assert json.loads(verdict.read_text())["champion"] is False

    folder = tracking.champion(workspace, "seedtalk", "champion")
    model, tokenizer = load_student(folder, cache_dir=workspace)
    assert model.config.hidden_size == 32
    assert tokenizer.chat_template


def test_missing_evaluation_exits_with_2(workspace):
    done = run()
    assert done.exit_code == 2
    assert f"{STUDENT}-likes.json: no such file" in done.output
    write_scores(workspace, 0.5)
    (workspace / f"results/eval/{STUDENT}-likes.json").write_text("[]")
    done = run()
    assert done.exit_code == 2
    assert "no recall@10" in done.output

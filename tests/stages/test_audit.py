"""The stage audit, through its command line."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib

import pytest
import yaml
from click.testing import CliRunner
from stages.audit import main
from tests import domain, toy
from tests.unit.test_auditing import SYNTHESIS, dialogue, grounded

from seedtalk.records import write_json, write_jsonl


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return toy.toy_encoder(tmp_path_factory.mktemp("toy") / "encoder")


@pytest.fixture
def inputs(tmp_path, monkeypatch, encoder):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    domain.write_tables(tmp_path)
    path = domain.write_params(tmp_path / "params.yaml", audit={"encoder": "toy"})
    params = yaml.safe_load(path.read_text())
    params["models"]["toy"] = str(encoder)
    path.write_text(yaml.safe_dump(params))
    write_json(tmp_path / "synthesis.json", SYNTHESIS)
    write_jsonl(tmp_path / "dialogues/train.jsonl", grounded())
    write_jsonl(tmp_path / "dialogues/valid.jsonl", [])
    return tmp_path


def run(folder, code=0):
    names = {
        "dialogues": "dialogues",
        "seeds": "seeds.jsonl",
        "synthesis": "synthesis.json",
        "quality": "quality.json",
        "params": "params.yaml",
        **{name: f"{name}.parquet" for name in ("reviews", "items", "conversations")},
    }
    options = [part for k, v in names.items() for part in (f"--{k}", str(folder / v))]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == code, done.output
    return done.output


def test_writes_flat_numbers_and_equal_bytes(inputs):
    run(inputs)
    path = inputs / "quality.json"
    first = path.read_bytes()
    found = json.loads(first)
    assert all(value is None or isinstance(value, int | float) for value in found.values())
    assert found["fingerprint"] == zlib.crc32((inputs / "dialogues/train.jsonl").read_bytes())
    assert found["dialogues"] == found["fidelity_dialogues"] == len(domain.seeds())
    assert 0 <= found["fidelity_auc"] <= 1
    path.unlink()
    run(inputs)
    assert path.read_bytes() == first


@pytest.mark.parametrize("count", [1, 3])
def test_real_dialogues_alone_have_no_faithfulness(inputs, count):
    rows = [dialogue(n, f"What is good on day {n}?", style="real") for n in range(count)]
    write_jsonl(inputs / "dialogues/train.jsonl", rows)
    run(inputs)
    found = json.loads((inputs / "quality.json").read_text())
    assert found["fidelity"] is None and found["dialogues"] == count
    assert found["likes_nearest_cosine"] is not None


def test_bad_input_is_named_and_nothing_written(inputs):
    path = inputs / "dialogues/train.jsonl"
    path.write_text("")
    assert "train.jsonl: no dialogues" in run(inputs, 2)
    path.write_text('{"dialogue_id": 7}\n')
    assert "train.jsonl, row 1, field 'dialogue_id'" in run(inputs, 2)
    path.unlink()
    assert "train.jsonl" in run(inputs, 2)
    write_jsonl(path, grounded())
    params = yaml.safe_load((inputs / "params.yaml").read_text())
    params["models"]["toy"] = "nowhere/at/all"
    (inputs / "params.yaml").write_text(yaml.safe_dump(params))
    assert "nowhere/at/all: no such folder" in run(inputs, 2)
    assert not (inputs / "quality.json").exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['audit', '--help']\n"
        "try:\n    import runpy; runpy.run_path('stages/audit.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=domain.ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr

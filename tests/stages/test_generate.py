import json
import sqlite3

import pytest
from click.testing import CliRunner
from stages.generate import main
from stages.prompt import main as prompt
from tests import domain

from seedtalk.teacher.ledger import Ledger


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    domain.write_tables(tmp_path)
    domain.write_params(tmp_path / "params.yaml")
    arguments = ["--params", str(tmp_path / "params.yaml")]
    for name in ("seeds.jsonl", "reviews.parquet", "items.parquet", "interactions.parquet"):
        arguments += [f"--{name.split('.')[0]}", str(tmp_path / name)]
    for name in ("requests", "grounding"):
        arguments += [f"--{name}", str(tmp_path / f"{name}.jsonl")]
    assert CliRunner().invoke(prompt, arguments).exit_code == 0
    return tmp_path


def run(folder, out="out"):
    arguments = ["--params", str(folder / "params.yaml")]
    arguments += ["--requests", str(folder / "requests.jsonl")]
    arguments += ["--responses", str(folder / out / "responses.jsonl")]
    arguments += ["--summary", str(folder / out / "teacher.json")]
    return CliRunner().invoke(main, arguments)


def test_the_extractive_teacher_answers_every_request_in_order(inputs):
    assert run(inputs).exit_code == 0
    rows = [json.loads(row) for row in (inputs / "requests.jsonl").open(encoding="utf-8")]
    answers = [json.loads(row) for row in (inputs / "out/responses.jsonl").open(encoding="utf-8")]
    assert [a["custom_id"] for a in answers] == [r["custom_id"] for r in rows]
    assert all(a["response"]["status_code"] == 200 and a["error"] is None for a in answers)
    summary = json.loads((inputs / "out/teacher.json").read_text())
    assert summary["answered"] == len(rows) and summary["usd"] == 0.0
    ids = [answer["response"]["request_id"] for answer in answers]
    assert len(set(ids)) == len(rows) and all(len(each) == 64 for each in ids)


def test_two_runs_write_equal_bytes_and_no_ledger(inputs):
    run(inputs, "one")
    run(inputs, "two")
    for name in ("responses.jsonl", "teacher.json"):
        assert (inputs / "one" / name).read_bytes() == (inputs / "two" / name).read_bytes()
    assert not (inputs / ".cache" / "ledger.sqlite").exists()


def test_replay_needs_a_ledger_and_makes_none(inputs):
    domain.write_params(inputs / "params.yaml", teacher={"backend": "replay"})
    result = run(inputs)
    assert result.exit_code == 1 and "no ledger there" in result.output
    assert not (inputs / ".cache" / "ledger.sqlite").exists()


def test_replay_ends_with_1_and_counts_the_misses(inputs):
    domain.write_params(inputs / "params.yaml", teacher={"backend": "replay"})
    with Ledger(inputs / ".cache" / "ledger.sqlite"):
        pass
    result = run(inputs)
    count = len(domain.seeds())
    assert result.exit_code == 1 and f"no answer to {count} of {count}" in result.output
    assert not (inputs / "out").exists()
    with sqlite3.connect(inputs / ".cache" / "ledger.sqlite") as db:
        assert db.execute("SELECT count(*) FROM attempts").fetchone() == (0,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{}", "row 1, field 'custom_id'"),
        ('{"custom_id": "a"}', "row 1, field 'body'"),
        ('{"custom_id": "a", "body": {"model": "m"}}', "field 'body.max_tokens'"),
        ('{"custom_id": "a", "body": {"model": "m", "max_tokens": -1}}', "field 'body.max_tokens'"),
        ('{"custom_id": "a", "body": {"model": "m", "max_tokens": true}}', "'body.max_tokens'"),
        ('{"custom_id": "a", "body": {"model": "m", "max_tokens": 1, "n": 2}}', "'body.n'"),
        (
            '{"custom_id": "a", "body": {"model": "m", "max_tokens": 1, "messages": [{}]}}',
            "field 'body.messages'",
        ),
        ("[1", "row 1: not JSON"),
        ("", "no request in it"),
    ],
)
def test_a_faulty_request_ends_with_2(inputs, row, message):
    (inputs / "requests.jsonl").write_text(row + "\n")
    result = run(inputs)
    assert result.exit_code == 2 and message in result.output


def test_an_id_that_is_there_twice_ends_with_2(inputs):
    text = (inputs / "requests.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (inputs / "requests.jsonl").write_text(f"{text}\n{text}\n", encoding="utf-8")
    result = run(inputs)
    assert result.exit_code == 2 and "row 2, field 'custom_id'" in result.output


def test_a_wrong_table_of_prices_ends_with_2(inputs):
    (inputs / "prices.yaml").write_text("extractive: {input: 1}\n")
    group = {"backend": "replay", "prices": str(inputs / "prices.yaml")}
    domain.write_params(inputs / "params.yaml", teacher=group)
    result = run(inputs)
    assert result.exit_code == 2
    assert "prices.yaml, model 'extractive', field 'output': missing" in result.output


def test_a_cap_without_a_price_ends_with_2(inputs):
    group = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "max_usd": 1.0}
    domain.write_params(inputs / "params.yaml", teacher=group)
    result = run(inputs)
    assert result.exit_code == 2 and "the price of 'extractive' is unknown" in result.output
    assert not (inputs / ".cache" / "ledger.sqlite").exists()


def test_the_extractive_teacher_reads_no_prices(inputs):
    domain.write_params(inputs / "params.yaml", teacher={"prices": "gone.yaml", "max_usd": 1.0})
    assert run(inputs).exit_code == 0


def test_the_ungrounded_baseline_wants_a_language_model(inputs):
    group = {"grounding": "none", "targets": "teacher"}
    domain.write_params(inputs / "params.yaml", prompt=group)
    test = [json.loads(row) for row in (inputs / "requests.jsonl").open(encoding="utf-8")]
    test[0]["body"]["messages"][1]["content"] = "Invent a seeker."
    (inputs / "requests.jsonl").write_text(json.dumps(test[0]) + "\n")
    result = run(inputs)
    assert result.exit_code == 2 and "teacher.backend=openai" in result.output

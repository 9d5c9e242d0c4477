import csv
import io
import json
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from seedtalk.cli import main
from seedtalk.teacher.ledger import Ledger, request_key

EVIL = "\x1b[31mred\x07 \u202egnp.exe [bold]x[/bold]"


def body_of(text, model="m"):
    return {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}


def answer(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def path(tmp_path):
    """Two answers of m, one of an evil model, one failure."""
    path = tmp_path / ".cache" / "ledger.sqlite"
    with Ledger(path) as ledger:
        for text, reply, model in (
            ("one", "first", "m"),
            ("=HYPERLINK(1)", "@second", "m"),
            (EVIL, f"a\nb {EVIL}", EVIL),
            ("none", None, "m"),
        ):
            body = body_of(text, model)
            key = request_key("openai", "http://h/v1", body)
            row = ledger.reserve(key, "http://h/v1", model, 1.0, body=body, max_calls=0, max_usd=0)
            if reply is None:
                ledger.fail(row, "500: no", 0.0)
            else:
                ledger.receive(row, answer(reply), 0.25)
    return path


def run(*arguments, path=None):
    where = ["--ledger", str(path)] if path else []
    return CliRunner().invoke(main, ["ledger", *map(str, arguments), *where])


def damage(path):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE attempts SET body = 'x' WHERE id = 1")


def test_stats_as_a_table(path):
    done = run("stats", path=path)
    assert done.exit_code == 0
    assert "http://h/v1" in done.output and "0.5000" in done.output
    assert "4 calls and 0.7500 USD in all" in done.output and "0 damaged rows." in done.output
    assert "\x1b" not in done.output and "\u202e" not in done.output and "\x07" not in done.output
    assert r"\x1b[31mred\x07 \u202egnp.exe [bold]x[/bold]" in done.output


def test_stats_as_json_are_those_of_the_table(path):
    found = json.loads(run("stats", "--json", path=path).output)
    assert found["calls"] == 4 and found["usd"] == 0.75 and found["bytes"] > 10_000
    assert [(model["model"], model["answered"], model["failed"]) for model in found["models"]] == [
        (EVIL, 1, 0),
        ("m", 2, 1),
    ]


def test_stats_name_damage(path):
    damage(path)
    output = run("stats", path=path).output
    assert "1 damaged rows (`seedtalk ledger verify` names them)" in output


def test_the_ledger_of_the_workspace_is_the_default(path, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert run("verify").exit_code == 0


@pytest.mark.parametrize("command", ["stats", "export", "verify", "gc", "mend"])
def test_without_a_ledger_every_command_says_so_and_makes_none(tmp_path, command):
    done = run(command, path=tmp_path / "none.sqlite")
    assert done.exit_code == 2 and "no ledger there" in done.output
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("command", ["stats", "export", "verify", "gc", "mend"])
def test_what_is_no_ledger_is_refused(tmp_path, command):
    (tmp_path / "text").write_text("no database " * 100)
    done = run(command, path=tmp_path / "text")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert (tmp_path / "text").read_text() == "no database " * 100


def test_export_writes_a_line_a_request_to_standard_output(path):
    done = run("export", path=path)
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert done.exit_code == 0 and len(lines) == 3 and done.output.isascii()
    assert [line["key"] for line in lines] == sorted(line["key"] for line in lines)
    assert set(lines[0]) == {"key", "endpoint", "model", "body", "response"}
    (evil,) = (line for line in lines if line["model"] == EVIL)
    assert evil["body"] == body_of(EVIL, EVIL)
    assert evil["response"] == json.loads(answer(f"a\nb {EVIL}"))
    assert not {*done.output} & {*map(chr, (*range(10), *range(11, 32), 127))}
    assert run("export", "-", path=path).output == done.output


def test_export_to_a_file_is_the_same_text(path, tmp_path):
    done = run("export", tmp_path / "out" / "a.jsonl", path=path)
    assert done.exit_code == 0 and "3 answered requests" in done.output
    assert (tmp_path / "out" / "a.jsonl").read_text() == run("export", path=path).output


def test_export_of_one_model(path):
    lines = run("export", "--model", "m", path=path).output.splitlines()
    assert {json.loads(line)["model"] for line in lines} == {"m"} and len(lines) == 2
    assert run("export", "--model", "none", path=path).output == ""


def test_export_as_csv_holds_no_formula_and_no_control_character(path, tmp_path):
    output = run("export", "--format", "csv", path=path).output
    rows = {row["question"]: row for row in csv.DictReader(io.StringIO(output))}
    assert set(rows) == {"one", "'=HYPERLINK(1)", EVIL.encode("unicode_escape").decode()}
    assert rows["'=HYPERLINK(1)"]["answer"] == "'@second"
    assert not any(
        cell.startswith(("=", "+", "-", "@")) for row in rows.values() for cell in row.values()
    )
    assert not {*output} & {"\x1b", "\x07", "\u202e"}
    done = run("export", tmp_path / "a.csv", "--format", "csv", path=path)
    assert "3 answered requests" in done.output


def test_verify(path):
    done = run("verify", path=path)
    assert done.exit_code == 0 and "whole." in done.output
    damage(path)
    done = run("verify", path=path)
    assert done.exit_code == 1
    assert "attempts, row 1 (request" in done.output and "1 fault(s)" in done.output
    assert "seedtalk ledger mend" in done.output


def test_verify_escapes_what_a_damaged_row_says(path):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE attempts SET key = ? WHERE id = 1", ("\x1b]0;title\x07",))
    done = run("verify", path=path)
    assert done.exit_code == 1 and r"\x1b]0;title\x07" in done.output and "\x1b" not in done.output


def test_gc_without_an_option_deletes_nothing(path):
    done = run("gc", path=path)
    assert done.exit_code == 0 and done.output.startswith("deleted 0 calls, 0 of them answered")
    assert json.loads(run("stats", "--json", path=path).output)["calls"] == 4


def test_gc_says_what_would_go_and_what_went(path):
    would = run("gc", "--failed", "--dry-run", path=path).output
    assert would.startswith(
        "would delete 1 calls, 0 of them answered (0.0000 USD), and 1 requests; about"
    )
    assert len(run("export", path=path).output.splitlines()) == 3
    assert run("gc", "--failed", path=path).output.startswith("deleted 1 calls, 0 of them answered")
    found = json.loads(run("stats", "--json", path=path).output)
    assert found["calls"] == 4 and sum(model["failed"] for model in found["models"]) == 0


def test_gc_keeps_the_requests_of_the_files_named(path, tmp_path):
    for name, text in (("a", "one"), ("b", "=HYPERLINK(1)")):
        line = {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body_of(text),
        }
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    keep = [word for name in "ab" for word in ("--keep", tmp_path / f"{name}.jsonl")]
    done = run("gc", *keep, path=path)
    assert done.exit_code == 0 and done.output.startswith(
        "deleted 2 calls, 1 of them answered (0.2500"
    )
    lines = [json.loads(line) for line in run("export", path=path).output.splitlines()]
    assert {line["model"] for line in lines} == {"m"} and len(lines) == 2


def test_gc_of_a_file_that_holds_no_requests_deletes_nothing(path, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    done = run("gc", "--keep", tmp_path / "empty.jsonl", path=path)
    assert done.exit_code == 2 and "no request in it" in done.output
    assert len(run("export", path=path).output.splitlines()) == 3


def test_gc_by_age(path):
    assert run("gc", "--older-than", "1", path=path).output.startswith("deleted 0 calls")
    assert run("gc", "--older-than", "0", path=path).output.startswith("deleted 4 calls, 3 of them")
    assert run("gc", "--older-than", "-1", path=path).exit_code == 2


def test_mend_saves_what_is_whole(path):
    damage(path)
    done = run("mend", path=path)
    assert done.exit_code == 0, done.output
    assert "3 calls saved, 2 of them answered; 1 lost" in done.output
    assert "ledger.sqlite.damaged-1" in done.output
    assert run("verify", path=path).exit_code == 0
    assert json.loads(run("stats", "--json", path=path).output)["calls"] == 4


def test_sizes_read_well():
    from seedtalk.cli.ledger import _bytes

    assert [_bytes(n) for n in (0, 999, 1500, 2_500_000, 3_100_000_000, -1500)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3.1 GB",
        "-1.5 kB",
    ]

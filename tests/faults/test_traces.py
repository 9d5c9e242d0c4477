"""Traces of real calls: what is in them, and what must never be."""

import json
import sqlite3

import pytest
from click.testing import CliRunner
from stages.generate import main
from tests import domain
from tests.faults.server import CONTENT, KEY, completion, error, requests, say, write_requests

from seedtalk import tracking

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty store, made once: the first migration takes seconds."""
    root = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking._mlflow().set_tracking_uri(f"sqlite:///{root}/mlflow.db")
        tracking._client().search_experiments()
    return root


@pytest.fixture
def root(tmp_path, migrated, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", *tracking.DVC_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "mlflow.db").write_bytes((migrated / "mlflow.db").read_bytes())
    return tmp_path


def run(root, endpoint, count, **values):
    group = {"backend": "openai", "model": "m", "base_url": endpoint.url, "timeout": 5.0}
    priced = {"usd_per_million_input": 1e6, "usd_per_million_output": 1e6, "trace": True}
    params = domain.write_params(root / "params.yaml", teacher=group | priced | values)
    write_requests(root / "requests.jsonl", requests(count))
    arguments = ["--params", params, "--requests", root / "requests.jsonl"]
    arguments += ["--responses", root / "responses.jsonl", "--summary", root / "teacher.json"]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def traces(root):
    _, experiment = tracking._experiment(root, tracking.TRACES)
    found = tracking._client().search_traces([experiment])
    return {trace.data.spans[0].inputs["messages"][-1]["content"]: trace for trace in found}


def test_every_request_that_is_asked_has_a_trace_and_no_other(root, endpoint):
    endpoint.plan = {"q1": [error(429), say()], "q2": [say(body=completion("no JSON"))]}
    result = run(root, endpoint, 3)
    assert result.exit_code == 0, result.output
    found = traces(root)
    assert set(found) == {"q0", "q1", "q2"}
    shapes = {name: [s.name for s in trace.data.spans] for name, trace in found.items()}
    assert shapes["q0"] == ["request", "call"]
    assert sorted(shapes["q1"]) == ["call", "call", "request"]
    assert sorted(shapes["q2"]) == ["call", "repair", "request"]
    keys = {
        line["custom_id"]: line["response"]["request_id"]
        for line in map(json.loads, (root / "responses.jsonl").open())
    }
    assert found["q0"].info.tags["seedtalk.key"] == keys["q0"]
    assert found["q0"].data.spans[0].outputs == json.loads(CONTENT)
    assert found["q0"].info.token_usage["total_tokens"] == 15
    assert run(root, endpoint, 4).exit_code == 0
    assert set(traces(root)) == {"q0", "q1", "q2", "q3"}
    assert len(tracking._client().search_traces([found["q0"].info.experiment_id])) == 4


def test_the_key_is_in_no_trace_and_no_file(root, endpoint):
    echoed = say(body=completion(f"you sent {KEY}"))
    endpoint.plan = {"q0": [echoed], "q1": [error(500, message=f"bad key {KEY}"), say()]}
    result = run(root, endpoint, 2)
    assert result.exit_code == 0 and KEY not in result.output
    assert len(traces(root)) == 2
    with sqlite3.connect(root / "mlflow.db") as db:  # what lies in the write-ahead log, too
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    files = [path for path in root.rglob("*") if path.is_file()]
    assert root / "mlflow.db" in files
    for path in files:
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert KEY.encode("utf-16-le") not in content, path


def test_a_run_that_stops_early_has_traces_of_what_it_asked(root, endpoint):
    result = run(root, endpoint, 5, max_calls=2, concurrency=1)
    assert result.exit_code == 1 and "max_calls=2 reached" in result.output
    assert set(traces(root)) == {"q0", "q1"}


def test_a_store_that_is_away_does_not_fail_the_run(root, endpoint, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = run(root, endpoint, 1)
    assert result.exit_code == 0 and "no trace was kept" in result.output
    assert (root / "responses.jsonl").is_file()


def test_without_the_parameter_nothing_is_kept(root, endpoint):
    before = (root / "mlflow.db").read_bytes()
    assert run(root, endpoint, 1, trace=False).exit_code == 0
    assert (root / "mlflow.db").read_bytes() == before

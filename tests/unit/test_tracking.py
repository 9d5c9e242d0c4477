"""Runs and the registry, in a temporary SQLite store."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.toy import toy_items, toy_student

from seedtalk import tracking
from seedtalk.errors import InputError, RunError
from seedtalk.params import Register, load_params
from seedtalk.recommender import save_recommender
from seedtalk.records import write_table
from seedtalk.students.loading import load_base, load_student, save_whole
from seedtalk.teacher.calls import Span

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
NAME = "toy-full"


def options(**changes) -> Register:
    return PARAMS.register_.model_copy(update={"student": NAME, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_outside(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", None)  # nothing may ask the network
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", *tracking.DVC_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = toy_student(tmp_path_factory.mktemp("toy") / "student")
    return load_base(str(folder), cache_dir=folder.parent)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty store, made once: the first migration takes seconds."""
    root = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.init(root)
    return root


@pytest.fixture
def root(tmp_path, migrated):
    """A workspace of its own with a store; its experiment is at this root."""
    import sqlite3

    (tmp_path / "mlflow.db").write_bytes((migrated / "mlflow.db").read_bytes())
    base = sqlite3.connect(tmp_path / "mlflow.db")
    with base:
        base.execute("DELETE FROM experiments WHERE name = 'seedtalk'")
    base.close()
    return tmp_path


def write_student(root: Path, toy, shift: float, name: str = NAME) -> Path:
    """Write a student whose weights differ by `shift`."""
    model, tokenizer = toy
    folder = root / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    weight = model.model.norm.weight
    with torch.no_grad():
        weight.add_(shift)
        save_whole(model, tokenizer, folder, base="toy")
        weight.sub_(shift)
    return folder


def write_scores(root: Path, value: float, digest: str = "q1", name: str = NAME) -> Path:
    path = root / "results" / "eval" / f"{name}-likes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    interval = {"mean": value, "low": value - 0.1, "high": value + 0.1}
    scores = {name: {"recall@10": interval, "mrr": interval}}
    path.write_text(json.dumps({"benchmark": "likes", "digest": digest, "systems": scores}))
    return path


def write_items(root: Path, count: int = 40) -> Path:
    path = root / "artifacts" / "items.parquet"
    write_table(path, pd.DataFrame(toy_items()[:count]), "items")
    return path


def register(root, folder, scores, wanted, items=None, years="ambiguous"):
    return tracking.register(
        root, folder, scores, wanted,
        items=items or write_items(root), years=years, save=save_recommender, cache_dir=root,
    )  # fmt: skip


def put_up(root, toy, shift, value, digest="q1", **changes):
    folder = write_student(root, toy, shift)
    return register(root, folder, write_scores(root, value, digest), options(**changes))


def sync(root, params=PARAMS):
    return tracking.sync(root, params, root, save_recommender)


def runs(root):
    _, experiment = tracking._experiment(root)
    return tracking._client().search_runs([experiment])


def test_store_lies_at_the_root_wherever_it_is_opened(root, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert tracking.init(root) == f"sqlite:///{root.as_posix()}/mlflow.db"
    assert tracking.init(root) == tracking.init(root)
    found = tracking._client().get_experiment_by_name("seedtalk")
    assert found.artifact_location == (root / "mlruns").as_uri()


def test_run_logs_parameters_revisions_dataset_curves_and_files(root, toy, monkeypatch):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
    monkeypatch.setenv("DVC_EXP_NAME", "calm-owl")
    monkeypatch.setenv("DVC_STAGE", "finetune@toy-full")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (root / "train.jsonl").write_text("{}\n")
    folder = write_student(root, toy, 0.0)
    with tracking.run(root, NAME, PARAMS, dataset=root / "train.jsonl") as opened:
        opened.metrics({"loss": 2.0, "eval_loss": None}, 1)
        opened.metrics({"loss": 1.5, "eval_loss": 1.7}, 2)
        opened.student(folder)
        opened.file(root / "train.jsonl")
    (made,) = runs(root)
    tags, client = made.data.tags, tracking._client()
    assert made.info.status == "FINISHED"
    assert made.data.params["finetune.lora_r"] == str(PARAMS.finetune.lora_r)
    assert made.data.params["register.alias"] == "champion"
    assert tags["DVC_EXP_NAME"] == "calm-owl"
    assert tags["DVC_STAGE"] == "finetune@toy-full"
    assert tags["git.revision"] == head
    assert tags["git.dirty"] == "true"
    assert tags[tracking.DATASET] == hashlib.md5(b"{}\n").hexdigest()
    assert tags[tracking.DIGEST] == tracking.student_digest(folder)
    curve = client.get_metric_history(made.info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(1, 2.0), (2, 1.5)]
    kept = {f.path for f in client.list_artifacts(made.info.run_id)}
    assert kept == {"student", "train.jsonl"}
    assert "sk-secret" not in str(made.to_dictionary())


def write_cost(path: Path, usd: float | None = 0.25, **changes) -> Path:
    told = {"answered": 9, "tokens": {"input": 900, "output": 90}, "usd": usd}
    told |= {"spent": {"calls": 12, "usd": usd and 2 * usd}} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    return path


def test_run_logs_what_its_dialogues_cost(root):
    with tracking.run(root, NAME, PARAMS, teacher=write_cost(root / "teacher.json")):
        pass
    with tracking.run(root, NAME, PARAMS, teacher=write_cost(root / "teacher.json", usd=None)):
        pass
    with tracking.run(root, NAME, PARAMS, teacher=root / "gone.json"):
        pass
    told = {"teacher.answered": 9, "teacher.input_tokens": 900, "teacher.output_tokens": 90}
    told["teacher.calls"] = 12
    found = sorted((run.data.metrics for run in runs(root)), key=len)
    assert found == [{}, told, told | {"teacher.usd": 0.25, "teacher.spent_usd": 0.5}]


@pytest.mark.parametrize(
    "changes", [{"tokens": None}, {"answered": "many"}, {"tokens": [1]}, {"spent": 3}]
)
def test_run_refuses_a_wrong_summary_of_the_teacher(root, changes):
    path = write_cost(root / "teacher.json", **changes)
    with (
        pytest.raises(InputError, match=r"teacher\.json: not a summary of the teacher"),
        tracking.run(root, NAME, PARAMS, teacher=path),
    ):
        pass
    assert runs(root) == []


def test_sync_adds_what_the_dialogues_cost_to_runs_on_the_same_dialogues(root, toy):
    write_student(root, toy, 0.0)
    train = root / "artifacts" / "dialogues" / "train.jsonl"
    train.parent.mkdir(parents=True)
    train.write_text("{}\n")
    sync(root)

    def logged():
        (made,) = runs(root)
        history = tracking._client().get_metric_history(made.info.run_id, "teacher.usd")
        return [metric.value for metric in history]

    assert logged() == []
    write_cost(root / "results" / "teacher.json")
    for _ in range(2):
        assert sync(root).runs == 0
        assert logged() == [0.25]
    train.write_text("{}\n{}\n")  # other dialogues, which this student never saw
    write_cost(root / "results" / "teacher.json", usd=0.5)
    sync(root)
    assert logged() == [0.25]


def write_quality(root: Path, train: Path, fidelity: float | None = 0.25) -> Path:
    path = root / "results" / "quality.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"fingerprint": zlib.crc32(train.read_bytes()), "dialogues": 1, "fidelity": fidelity}
    path.write_text(json.dumps(told))
    return path


def write_train(root: Path, text: str = "{}\n") -> Path:
    path = root / "artifacts" / "dialogues" / "train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_run_logs_what_its_dialogues_are_worth_and_not_what_others_are(root):
    train = write_train(root)
    quality = write_quality(root, train)
    with tracking.run(root, NAME, PARAMS, dataset=train, quality=quality):
        pass
    write_quality(root, train, None)
    with tracking.run(root, NAME, PARAMS, dataset=train, quality=quality):
        pass
    write_train(root, "{}\n{}\n")  # made anew, and not measured yet
    for path in (quality, root / "gone.json"):
        with tracking.run(root, NAME, PARAMS, dataset=train, quality=path):
            pass
    found = sorted((run.data.metrics for run in runs(root)), key=len)
    one = {"quality.dialogues": 1}
    assert found == [{}, {}, one, one | {"quality.fidelity": 0.25}]


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"fingerprint": %d, "fidelity": "much"}'])
def test_run_refuses_a_wrong_audit(root, text):
    train = write_train(root)
    path = root / "quality.json"
    path.write_text(text.replace("%d", str(zlib.crc32(train.read_bytes()))))
    with (
        pytest.raises(InputError, match=r"quality\.json: not an audit"),
        tracking.run(root, NAME, PARAMS, dataset=train, quality=path),
    ):
        pass
    assert runs(root) == []


def test_evaluation_adds_to_the_students_run_what_sync_would(root, toy):
    folder, train = write_student(root, toy, 0.0), write_train(root)
    with tracking.run(root, NAME, PARAMS, dataset=train) as opened:
        opened.student(folder)
    write_quality(root, train)
    scores = write_scores(root, 0.4)
    told = {"dataset": train, "quality": root / "results" / "quality.json"}

    def add():
        tracking.log_results(tracking.run_of(root, folder), NAME, scores, **told)
        (made,) = runs(root)
        return made.data.metrics

    def entries(name):
        (made,) = runs(root)
        return len(tracking._client().get_metric_history(made.info.run_id, name))

    expected = {"likes.recall_at_10": 0.4, "likes.mrr": 0.4}
    expected |= {"quality.dialogues": 1, "quality.fidelity": 0.25}
    assert add() == expected
    assert add() == expected and sync(root).runs == 0
    assert {entries(name) for name in expected} == {1}
    write_scores(root, 0.5)
    assert add()["likes.mrr"] == 0.5
    write_train(root, "{}\n{}\n")
    write_quality(root, train, 0.75)  # of dialogues that this student never saw
    assert add()["quality.fidelity"] == 0.25
    scores.write_text("[]")
    with pytest.raises(InputError, match="not an evaluation"):
        add()


def test_a_student_without_a_run_has_nothing_to_add_to(root, toy, tmp_path_factory, monkeypatch):
    folder = write_student(root, toy, 0.0)
    assert tracking.run_of(root, folder) is None
    with tracking.run(root, NAME, PARAMS) as opened:
        opened.student(folder)
    assert tracking.run_of(root, folder) is not None
    assert tracking.run_of(root, write_student(root, toy, 0.5)) is None
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow sets it for its children
    assert tracking.run_of(elsewhere, folder) is None
    assert list(elsewhere.iterdir()) == []  # no store is made for it


def test_a_store_that_is_away_is_said_before_a_student_is_scored(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/store")
    with pytest.raises(RunError, match="MLflow's store"):
        tracking.run_of(tmp_path, tmp_path)


def test_sync_adds_what_the_dialogues_are_worth(root, toy):
    write_student(root, toy, 0.0)
    train = write_train(root)
    sync(root)
    write_quality(root, train)
    for _ in range(2):
        assert sync(root).runs == 0
        (made,) = runs(root)
        assert made.data.metrics["quality.fidelity"] == 0.25


def test_run_that_ends_in_an_error_is_failed(root):
    with pytest.raises(ZeroDivisionError), tracking.run(root, NAME, PARAMS):
        raise ZeroDivisionError
    assert [r.info.status for r in runs(root)] == ["FAILED"]


def test_sync_fills_what_is_missing_and_nothing_twice(root, toy):
    folder = write_student(root, toy, 0.0)
    write_scores(root, 0.4)
    history = root / "results" / "train" / f"{NAME}.csv"
    history.parent.mkdir(parents=True)
    rows = "0,0,,3.5,4.5\n1,0.5,2.5,,\n2,1,2.25,2.75,4.75\n"
    history.write_text("step,epoch,loss,eval_loss,context_loss\n" + rows)
    assert sync(root) == tracking.Synced(1, None)
    assert sync(root).runs == 0
    (made,) = runs(root)
    client = tracking._client()

    def logged(name):
        return [(m.step, m.value) for m in client.get_metric_history(made.info.run_id, name)]

    assert logged("loss") == [(1, 2.5), (2, 2.25)]
    assert logged("eval_loss") == [(0, 3.5), (2, 2.75)]
    assert logged("context_loss") == [(0, 4.5), (2, 4.75)]
    assert logged("likes.recall_at_10") == [(0, 0.4)]
    write_scores(root, 0.5)  # evaluated anew: the same run, a new value
    assert sync(root).runs == 0
    assert logged("likes.recall_at_10")[-1] == (0, 0.5)
    write_student(root, toy, 0.5)
    assert sync(root).runs == 1
    assert folder.is_dir()


def test_sync_takes_no_failed_run_for_the_students(root, toy):
    folder = write_student(root, toy, 0.0)
    with pytest.raises(ZeroDivisionError), tracking.run(root, NAME, PARAMS) as opened:
        opened.student(folder)
        raise ZeroDivisionError
    assert sync(root).runs == 1
    assert sorted(r.info.status for r in runs(root)) == ["FAILED", "FINISHED"]


def test_sync_registers_the_champion_that_the_registry_lacks(root, toy, student_of):
    params = PARAMS.model_copy(update={"register_": options()})
    verdict = put_up(root, toy, 0.0, 0.40)
    assert verdict["champion"]
    told = root / "results" / "registry.json"
    told.write_text(json.dumps(verdict))
    assert sync(root, params).registered is None  # the holder is there
    tracking._client().delete_registered_model("seedtalk")  # as in an empty store

    told.write_text(json.dumps({**verdict, "champion": False}))
    assert sync(root, params).registered is None
    told.write_text(json.dumps(verdict))
    other = params.model_copy(update={"register_": options(metric="mrr")})
    assert sync(root, other).registered is None  # said of another metric
    scores = root / "results" / "eval" / f"{NAME}-likes.json"
    scores.rename(scores.with_suffix(".away"))
    assert sync(root, params).registered is None  # the run is incomplete
    scores.with_suffix(".away").rename(scores)
    told.write_text("[]")
    with pytest.raises(InputError, match=r"registry\.json: expected an object"):
        sync(root, params)

    told.write_text(json.dumps(verdict))
    again = sync(root, params).registered
    assert (again["champion"], again["moved"]) == (True, True)
    assert student_of(root) == tracking.student_digest(root / "models" / NAME)
    assert sync(root, params) == tracking.Synced(0, None)


def test_alias_moves_to_what_is_not_worse_and_stays_otherwise(root, toy, student_of):
    first = put_up(root, toy, 0.0, 0.40)
    assert (first["version"], first["champion"], first["moved"]) == (1, True, True)
    assert first["gate"]["metric"]["reason"].endswith("no version is champion yet")

    again = put_up(root, toy, 0.0, 0.40)
    assert (again["version"], again["champion"], again["moved"]) == (1, True, False)

    worse = put_up(root, toy, 0.1, 0.39)
    assert (worse["version"], worse["champion"], worse["moved"]) == (2, False, False)
    assert worse["gate"]["metric"] == {
        "passed": False,
        "champion_value": 0.40,
        "reason": "recall@10 0.3900 on likes, worse than 0.4000 of champion, version 1 (toy-full)",
    }
    assert student_of(root) == tracking.student_digest(write_student(root, toy, 0.0))

    other = put_up(root, toy, 0.2, 0.90, digest="q2")
    assert (other["version"], other["champion"]) == (3, False)
    assert "not comparable" in other["gate"]["metric"]["reason"]
    assert "register that student again" in other["gate"]["metric"]["reason"]

    metric = put_up(root, toy, 0.2, 0.90, metric="mrr")
    assert (metric["version"], metric["champion"]) == (3, False)

    equal = put_up(root, toy, 0.2, 0.40)
    assert (equal["version"], equal["champion"], equal["moved"]) == (3, True, True)

    for verdict in (first, again, worse, other, equal):
        text = json.dumps(verdict)
        assert str(root) not in text
        assert not any(r.info.run_id in text for r in runs(root))
    unsafe = {".pkl", ".pickle", ".joblib", ".bin", ".pt", ".pth"}
    assert not [p for p in (root / "mlruns").rglob("*") if p.suffix in unsafe]


def test_other_catalogue_is_another_version_of_the_same_student(root, toy):
    folder, scores = write_student(root, toy, 0.0), write_scores(root, 0.4)

    def version(**changes):
        return register(root, folder, scores, options(), **changes)["version"]

    assert [version(), version(), version(years="always")] == [1, 1, 2]
    assert [version(items=write_items(root, 39)), version()] == [3, 1]


def test_version_names_what_it_needs_and_carries_its_code(root, toy):
    from packaging.requirements import Requirement

    put_up(root, toy, 0.0, 0.4)
    (version,) = (path.parent for path in (root / "mlruns").rglob("MLmodel"))
    required = [Requirement(line) for line in (version / "requirements.txt").read_text().split()]
    assert {r.name for r in required} >= {"mlflow", "torch", "transformers", "rapidfuzz"}
    assert all(len(r.specifier) == 1 and "+" not in str(r.specifier) for r in required)
    assert (version / "code" / "seedtalk" / "recommender.py").is_file()
    assert not [path for path in version.rglob("*") if path.suffix in (".pyc", ".pkl")]
    model = (version / "MLmodel").read_text()
    assert "loader_module: seedtalk.recommender" in model and "cloudpickle" not in model


def test_version_of_another_kind_is_refused(root, toy):
    import mlflow

    put_up(root, toy, 0.0, 0.4)
    client = tracking._client()
    other = root / "other"
    other.mkdir()
    (other / "MLmodel").write_text("flavors: {}\n")
    made = client.create_model_version("seedtalk", source=other.as_uri())
    client.set_registered_model_alias("seedtalk", "champion", made.version)
    assert mlflow.get_tracking_uri().startswith("sqlite:")
    with pytest.raises(InputError, match="version 2 of seedtalk holds no student that seedtalk"):
        tracking.champion(root, "seedtalk", "champion")


@pytest.fixture
def student_of(toy):
    """Return the digest of the weights the champion gives."""

    def digest(root):
        folder = tracking.champion(root, "seedtalk", "champion")
        model, tokenizer = load_student(folder, cache_dir=root)
        again = root / "again"
        again.mkdir(exist_ok=True)
        save_whole(model, tokenizer, again, base="toy")
        return tracking.student_digest(again)

    return digest


def test_version_that_reads_back_differently_does_not_pass(root, toy, monkeypatch):
    real = tracking._logits
    calls = []

    def shaken(model, tokenizer):
        calls.append(1)
        return [x + (len(calls) % 2 == 0) for x in real(model, tokenizer)]

    monkeypatch.setattr(tracking, "_logits", shaken)
    verdict = put_up(root, toy, 0.0, 0.4)
    assert verdict["gate"]["reload"]["passed"] is False
    assert "does not give the logits" in verdict["gate"]["reload"]["reason"]
    assert (verdict["champion"], verdict["moved"]) == (False, False)
    with pytest.raises(InputError, match="no seedtalk@champion: run `seedtalk sync`; if there"):
        tracking.champion(root, "seedtalk", "champion")


def test_missing_student_or_score_is_an_input_error(root, toy):
    folder, scores = write_student(root, toy, 0.0), write_scores(root, 0.4)
    with pytest.raises(InputError, match=r"gone\.json: no such file; register\.student"):
        register(root, folder, root / "gone.json", options())
    with pytest.raises(InputError, match="no ndcg@10 of toy-full"):
        register(root, folder, scores, options(metric="ndcg@10"))
    with pytest.raises(InputError, match=r"student\.json: no such file"):
        register(root, root / "models", scores, options())


def test_store_that_fails_is_a_run_error_that_says_which(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/no/such/folder/mlflow.db")
    (tmp_path / "no").write_text("a file in the way")
    with pytest.raises(RunError, match="MLflow's store sqlite:.* failed"):
        tracking.init(tmp_path)


def test_error_does_not_repeat_the_credentials_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9/store?token=canary")
    with pytest.raises(RunError, match=r"http://\*\*\*@127\.0\.0\.1:9/store.* failed") as raised:
        tracking.init(tmp_path)
    assert "canary" not in raised.value.message


def span(name="call", outputs: str | None = "words", error=None, tokens=(7, 2), **attributes):
    told = {"key": "k1", "model": "m", "usd": 0.5, "cached": False} | attributes
    messages = [{"role": "user", "content": "hello"}]
    return Span(name, messages, outputs, error, told, tokens, 1000.0, 1002.5)


def traces(root):
    _, experiment = tracking._experiment(root, tracking.TRACES)
    return tracking._client().search_traces([experiment])


def test_trace_holds_the_request_and_its_attempts(root, monkeypatch, capsys):
    monkeypatch.setenv("DVC_EXP_NAME", "calm-owl")
    attempts = [
        span(outputs=None, error="429: slow down", tokens=None, usd=0.0),
        span(),
        span("repair", outputs="better", key="k2"),
    ]
    asked = [[span("request", outputs="better", tokens=None, calls=3), *attempts]]
    tracking.log_traces(root, asked, 1)
    (trace,) = traces(root)
    assert (trace.info.execution_duration, trace.info.request_time) == (2500, 1_000_000)
    assert trace.info.tags["seedtalk.key"] == "k1" and trace.info.tags["seedtalk.model"] == "m"
    assert trace.info.tags["DVC_EXP_NAME"] == "calm-owl"
    assert trace.info.token_usage == {"input_tokens": 14, "output_tokens": 4, "total_tokens": 18}
    whole, *parts = sorted(trace.data.spans, key=lambda s: (s.parent_id is not None, s.name))
    assert whole.inputs == {"messages": asked[0][0].inputs} and whole.outputs == "better"
    assert [part.name for part in parts] == ["call", "call", "repair"]
    assert all(part.parent_id == whole.span_id for part in parts)
    told = {str(part.status.status_code.value): part.attributes for part in parts}
    assert told["ERROR"]["seedtalk.error"] == "429: slow down"
    assert told["OK"]["seedtalk.usd"] == 0.5 and told["OK"]["seedtalk.cached"] is False
    assert trace.info.state == "OK" and capsys.readouterr().err == ""


def test_trace_of_a_request_without_an_answer_is_an_error(root):
    lost = {"outputs": None, "error": "timeout", "tokens": None}
    tracking.log_traces(root, [[span("request", **lost), span(**lost)]], 1)
    (trace,) = traces(root)
    assert trace.info.state == "ERROR"


def test_many_traces_are_all_kept(root, monkeypatch):
    monkeypatch.setattr(tracking, "TRACES_AT_ONCE", 7)
    asked = ([span("request", key=f"k{n}"), span(key=f"k{n}")] for n in range(16))
    tracking.log_traces(root, asked, 16)
    found = {trace.info.tags["seedtalk.key"] for trace in traces(root)}
    assert found == {f"k{n}" for n in range(16)}


def test_store_that_is_away_costs_the_traces_and_a_line_on_stderr(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9/store?token=canary")
    tracking.log_traces(tmp_path, [[span("request"), span()]], 1)
    said = capsys.readouterr().err
    assert said.startswith("no trace was kept: MLflow's store") and "canary" not in said


def test_store_that_goes_away_in_between_is_told_and_not_waited_for(root, monkeypatch, capsys):
    from mlflow.tracing.client import TracingClient

    def away(*_, **__):
        raise OSError("the disk is full")

    tracking._experiment(root, tracking.TRACES)
    monkeypatch.setattr(tracking, "TRACES_AT_ONCE", 2)
    monkeypatch.setattr(TracingClient, "start_trace", away)
    begun = []

    def asked():
        for number in range(9):
            begun.append(number)
            yield [span("request", key=f"k{number}"), span(key=f"k{number}")]

    tracking.log_traces(root, asked(), 9)
    said = capsys.readouterr().err
    assert said.startswith("9 of 9 traces may be missing: ") and "disk is full" in said
    assert begun == [0, 1]

"""The tiny profile run for real: twice from nothing, once more for nothing, and with changes."""

import json
import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

# Their bytes do not depend on floating-point sums of a model.
DETERMINISTIC = ("ingest", "embed", "select", "prompt", "generate", "curate")


def lock(workspace) -> dict:
    return yaml.safe_load((workspace.path / "dvc.lock").read_text())["stages"]


def outputs(workspace, stage: str) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in lock(workspace)[stage]["outs"]}


def test_every_stage_ran(first):
    ran = {name.split("@")[0] for name in lock(first)}
    assert ran == set(yaml.safe_load((first.path / "dvc.yaml").read_text())["stages"])


def test_two_runs_from_nothing_are_equal(first, second):
    for stage in DETERMINISTIC:
        assert outputs(first, stage) == outputs(second, stage), stage
    one, two = (
        json.loads((w.path / "results" / "metrics.json").read_text()) for w in (first, second)
    )
    assert one == two


def test_a_second_repro_runs_nothing(first):
    before = (first.path / "dvc.lock").read_bytes()
    done = first.dvc("repro")
    assert "Running stage" not in done.stdout + done.stderr
    assert (first.path / "dvc.lock").read_bytes() == before
    assert first.dvc("status", "-q", check=False).returncode == 0


def test_nothing_written_holds_a_secret_a_path_or_a_run_id(first):
    runs = [
        p.name for p in (first.path / "mlruns").rglob("*") if re.fullmatch("[0-9a-f]{32}", p.name)
    ]
    assert runs, "no MLflow run was tracked"
    tracked = [first.path / "dvc.lock"]
    for folder in ("artifacts", "models", "results"):
        tracked += [p for p in (first.path / folder).rglob("*") if p.is_file()]
    everything = tracked + [
        p for f in (".cache", "mlruns") for p in (first.path / f).rglob("*") if p.is_file()
    ]
    everything += list(first.path.glob("mlflow.db*"))
    for path in everything:
        assert b"canary-8f2b7c" not in path.read_bytes(), path
    for path in tracked:
        content = path.read_bytes()
        assert str(first.path).encode() not in content, path
        assert str(Path.home()).encode() + b"/" not in content, path
        for run in runs:
            assert run.encode() not in content, path


def test_a_changed_selection_reuses_what_came_before_and_zero_shot(first):
    done = first.dvc("exp", "run", "--name", "fisher", "-S", "select.method=fisher")
    ran = set(re.findall(r"Running stage '([^']+)'", done.stdout))
    assert "select" in ran
    assert not {"ingest", "embed", "evaluate@toy-zero-shot-likes"} & ran
    shown = first.dvc("exp", "show", "--csv", "--no-pager").stdout
    assert "fisher" in shown
    compared = first.dvc("plots", "diff", "workspace", "fisher", "--out", "plots_out")
    assert "file://" in compared.stdout
    assert "failed to load" not in compared.stderr
    assert (first.path / "plots_out" / "index.html").is_file()
    first.dvc("exp", "apply", "fisher")
    selection = json.loads((first.path / "results" / "selection.json").read_text())
    assert selection["method"] == "fisher"
    first.run("git", "checkout", "--quiet", "--", ".")
    first.dvc("checkout", "--quiet")


def test_a_queue_of_methods_shares_the_store_and_leaves_the_workspace(first):
    before = (first.path / "results" / "selection.json").read_bytes()
    first.dvc("exp", "run", "--queue", "-S", "select.method=random,popularity")
    done = first.dvc("queue", "start", "--jobs", "1", check=False)
    assert done.returncode == 0, done.stderr
    import time

    for _ in range(300):
        status = first.dvc("queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        time.sleep(1)
    assert status.count("Success") == 2, status
    assert (first.path / "results" / "selection.json").read_bytes() == before
    rows = first.dvc("exp", "show", "--csv", "--no-pager").stdout
    assert "popularity" in rows and "random" in rows


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("select.budget=100000", "select.budget"),
        ("select.clusters=100000", "select.clusters"),
    ],
)
def test_bad_parameters_end_the_stage_with_2(first, override, message):
    raw = (first.path / "params.yaml").read_text()
    try:
        first.set(override)
        done = first.run("python", "stages/select.py", check=False)
    finally:
        (first.path / "params.yaml").write_text(raw)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_chat_answers_with_titles_of_the_catalogue(first):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "seedtalk", "chat"],
        cwd=first.path,
        env=first.environment,
        input="I want something funny\n/quit\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    titles = {
        json.loads(line)["title"]
        for line in (first.path / "corpora" / "toy" / "items.jsonl").read_text().splitlines()
    }
    shown = re.findall(r"^\s*\d+\.\s+(.+?)(?: \(\d{4}\))?$", done.stdout, flags=re.M)
    assert shown and set(shown) <= titles


def test_show_compare_sync_and_doctor(first):
    shown = first.seedtalk("show").stdout
    assert "toy-lora" in shown and "popularity" in shown
    assert "MLflow already holds every trained student" in first.seedtalk("sync").stdout

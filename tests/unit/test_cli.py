import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from seedtalk import diagnosing
from seedtalk.cli import main
from seedtalk.tracking import Synced
from seedtalk.workspace import cache_dir

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "pandas", "mlflow", "sklearn", "pyarrow", "numpy"}


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from seedtalk.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in HEAVY if f"'{name}'" in done.stderr]


@pytest.mark.parametrize("command", [[], *[[name] for name in main.commands]])
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_overrides_prints_flags_of_dvc_exp_run(tmp_path):
    profile = tmp_path / "p.yaml"
    profile.write_text("seed: 3\nselect: {method: js}\n")
    result = CliRunner().invoke(main, ["overrides", str(profile)])
    assert result.output == "-S seed=3 -S select.method=js\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["overrides", "nowhere.yaml"], "nowhere.yaml"),
        (["show", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["show", "--results", "nowhere"], "nowhere"),
        (["chat", "--model", "nowhere"], "nowhere"),
        (["fetch", "everything"], "everything"),
    ],
)
def test_bad_arguments_exit_with_2_and_name_what_is_wrong(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "items.parquet").touch()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_doctor_lists_what_is_wrong_and_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "canary-1")
    (tmp_path / "requirements.lock").write_text("click==0.0.1\n# a comment\nnot-there==1\n")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 2
    assert "2 package(s) not as pinned: click" in result.output
    assert "not-there missing (pinned 1)" in result.output
    assert "make setup" in result.output
    assert "seedtalk fetch quickstart" in result.output
    assert "OPENAI_API_KEY is set" in result.output
    assert "canary-1" not in result.output


def test_doctor_passes_where_all_is_well(tmp_path, monkeypatch):
    from importlib.metadata import version

    (tmp_path / "requirements.lock").write_text(f"click=={version('click')}\n")
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "data" / "quickstart").mkdir(parents=True)
    monkeypatch.setattr(diagnosing, "DISK_GIB", 0)
    assert [finding for finding in diagnosing.diagnose(tmp_path) if not finding.ok] == []


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """A project whose data/ is fetched and pinned, but not yet in DVC's cache."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("seedtalk.fetching.packages.fetch", lambda *_, verify: True)
    folder = tmp_path / "data" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "reviews.csv").write_text("fetched")
    with Repo.init(no_scm=True) as repo:
        repo.add("data")
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    return folder


def test_a_fetch_ends_with_a_clean_dvc_status(pinned):
    result = CliRunner().invoke(main, ["fetch", "quickstart"])
    assert result.exit_code == 0, result.output
    assert "hashes are as pinned" in result.output
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "-q", "data.dvc"], capture_output=True
    )
    assert status.returncode == 0


def test_a_fetch_without_work_gives_dvc_what_it_lacks_and_only_then(pinned, monkeypatch):
    """As after a fetch that was killed before DVC had the data."""
    monkeypatch.setattr("seedtalk.fetching.packages.fetch", lambda *_, verify: False)
    result = CliRunner().invoke(main, ["fetch", "quickstart"])
    assert result.exit_code == 0, result.output
    assert "in place" in result.output
    assert len([p for p in Path(".dvc/cache/files/md5").rglob("*") if p.is_file()]) == 2
    monkeypatch.setattr("subprocess.run", None)  # now nothing may be started
    assert CliRunner().invoke(main, ["fetch", "quickstart"]).exit_code == 0


def test_a_fetch_without_work_still_refuses_something_else(pinned, monkeypatch):
    monkeypatch.setattr("seedtalk.fetching.packages.fetch", lambda *_, verify: False)
    (pinned / "mine.csv").write_text("not the quickstart's")
    result = CliRunner().invoke(main, ["fetch", "quickstart"])
    assert result.exit_code == 2
    assert "corpora/<name>/" in result.output


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (Synced(0, None), "MLflow already holds every trained student.\n"),
        (Synced(2, None), "2 run(s) added.\n"),
        (
            Synced(0, {"version": 3, "champion": True, "gate": {}}),
            "seedtalk version 3 (smollm2-135m-lora) is registered again as champion.\n",
        ),
        (
            Synced(0, {"version": 3, "champion": False, "gate": {"reload": {"reason": "no"}}}),
            "seedtalk version 3 (smollm2-135m-lora) did not pass the gate again: no.\n",
        ),
    ],
)
def test_sync_says_what_it_did(monkeypatch, done, said):
    calls = []
    monkeypatch.setattr("seedtalk.tracking.sync", lambda *given: calls.append(given) or done)
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, ["sync"])
    assert result.exit_code == 0, result.output
    assert result.output.endswith(said)
    assert calls[0][2] == cache_dir()


def test_a_fetch_over_something_else_says_what_data_is_for(pinned):
    (pinned / "mine.csv").write_text("not the quickstart's")
    result = CliRunner().invoke(main, ["fetch", "quickstart"])
    assert result.exit_code == 2
    assert "corpora/<name>/" in result.output

"""`seedtalk study`: what it lists, refuses, prints and returns; DVC is stood in for."""

import subprocess

import pytest
import yaml
from click.testing import CliRunner
from tests.unit.studies.workshop import ROOT, STUDY

from seedtalk.cli import main
from seedtalk.studies import collecting, running


@pytest.fixture
def place(tmp_path, monkeypatch):
    for words in (
        ["init", "-q"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    folder = tmp_path / "studies" / "toy"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(main, ["study", *arguments])


def outcome(monkeypatch, failures=(), interrupt=False):
    """Let the queue end in `failures`; return what it was asked to run."""
    asked = []

    def run(root, one, cells, *, jobs, again, say):
        asked.append(([cell.run for cell in cells], jobs, again))
        if interrupt:
            raise KeyboardInterrupt
        for number, cell in enumerate(cells, 1):
            say(f"[{number}/{len(cells)}] {cell.run}: done")
        return list(failures)

    monkeypatch.setattr(running, "run", run)
    return asked


def test_list(place):
    result = call("list")
    assert result.exit_code == 0
    header, row = result.output.splitlines()
    assert header.split() == ["study", "run", "collected", "of", "left", "title"]
    assert row.split("  ")[0] == "toy"
    assert row.split()[1:6] == ["0", "0", "6", "36", "s"]


def test_list_without_a_study(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    result = call("list")
    assert result.exit_code == 2 and "holds no study" in result.output


def test_dry_run_prints_commands_that_a_shell_takes(place, monkeypatch):
    asked = outcome(monkeypatch)
    result = call("run", "toy", "--dry-run", "--only", "method=random")
    assert result.exit_code == 0 and not asked
    assert result.stdout.splitlines() == [
        f"dvc exp run --queue --name toy-random-10-s{seed} -S 'evaluate.cutoffs=[1,5,10]' "
        f"-S select.method=random -S select.budget=10 -S seed={seed} baseline"
        for seed in (0, 1)
    ]
    assert not (place / "studies" / "toy" / "runs.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "no study 'nothing'; one of: toy"),
        (["toy", "--only", "method=fisher"], "--only method=fisher: one of method=js"),
        (["toy", "--only", "method"], "--only method: one of"),
        (["toy", "--seed", "7"], "--seed 7: the study's are 0, 1"),
        (["toy", "--only", "method=random", "--only", "budget=20"], "no cell is of all"),
        (["toy", "--jobs", "0"], "--jobs"),
    ],
)
def test_what_cannot_be_run_is_named(place, monkeypatch, arguments, told):
    asked = outcome(monkeypatch)
    result = call("run", *arguments)
    assert result.exit_code == 2, result.output
    assert told in result.output and not asked


def test_wrong_parameters_are_found_before_anything_runs(place, monkeypatch):
    asked = outcome(monkeypatch)
    path = place / "studies" / "toy" / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "set": {"select.clusterz": 3}}, sort_keys=False))
    result = call("run", "toy")
    assert result.exit_code == 2 and not asked
    assert "did you mean 'clusters'" in result.output


def test_run_takes_the_cells_chosen_and_collects(place, monkeypatch):
    asked = outcome(monkeypatch)
    result = call("run", "toy", "--seed", "1", "--only", "method=js", "--jobs", "2", "--again")
    assert result.exit_code == 0, result.output
    assert asked == [(["toy-js-10-s1", "toy-js-20-s1"], 2, True)]
    assert "toy: 0 of 2 cells are done, 2 to run" in result.output
    assert "collected 0 of 6 cells" in result.output
    assert (place / "studies" / "toy" / "scores.parquet").is_file()


def test_a_failed_cell_makes_exit_code_1_after_collecting(place, monkeypatch):
    outcome(monkeypatch, [running.Failure("toy-js-10-s0", "score.py: no\nERROR: failed")])
    result = call("run", "toy")
    assert result.exit_code == 1
    assert "1 cell(s) failed:\ntoy-js-10-s0:\n    score.py: no\n    ERROR: failed" in result.output
    assert "collected 0 of 6 cells" in result.output


def test_ctrl_c_says_how_to_go_on(place, monkeypatch):
    outcome(monkeypatch, interrupt=True)
    result = call("run", "toy")
    assert result.exit_code == 130
    assert "`seedtalk study run toy` goes on where it was" in result.output


def test_nothing_to_do(place, monkeypatch):
    asked = outcome(monkeypatch)
    done = running.Standing({f"c{n}": None for n in range(6)}, [], {})
    monkeypatch.setattr(running, "standing", lambda *a, **k: done)
    result = call("run", "toy")
    assert result.exit_code == 0 and not asked
    assert "toy: all 6 cells are done" in result.output


def test_show(place):
    empty = call("show", "toy")
    assert empty.exit_code == 0
    assert "6 of 6 cells are missing" in empty.output
    folder = place / "studies" / "toy"
    (folder / "runs.csv").write_text(
        "run,method,budget,seed,commit,teacher,dialogues\ntoy-js-10-s0,js,10,0,abc,t,3\n"
    )
    (folder / "measures.csv").write_text(
        "run,measure,value\ntoy-js-10-s0,selection.share.of_pool,0.5\n"
    )
    lines = call("show", "toy").output.splitlines()
    assert lines[0] == STUDY["title"]
    assert lines[1].split()[:5] == ["benchmark", "system", "method", "budget", "seeds"]
    assert lines[2].split() == [
        "likes",
        "neighbours-dialogues",
        "js",
        "10",
        "0",
        "-",
        "-",
        "0.5000",
    ]
    assert lines[1].index("method") == lines[2].index("js")
    assert lines[3] == "5 of 6 cells are missing:"


def test_unscored_systems_are_named(place, monkeypatch):
    found = collecting.Collected(runs={"toy-js-10-s0": {}})
    monkeypatch.setattr(collecting, "collect", lambda *a: found)
    result = call("collect", "toy")
    assert result.exit_code == 0
    assert "no scores of neighbours-dialogues on likes" in result.output

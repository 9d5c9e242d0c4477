"""Runs that differ in their seed, put together, read from a small repository."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from seedtalk.cli import main
from seedtalk.errors import InputError
from seedtalk.reporting import seeds

ROOT = Path(__file__).parents[2]
GIT = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org")


def tree(mean, gap=0.1):
    return {
        "likes": {
            "a-lora": {"recall@10": mean, "mrr": mean / 2, "recall@10_low": 0, "recall@10_high": 1},
            "paired": {"a-lora minus b": {"recall@10": {"mean": gap, "low": -1, "high": 1}}},
        }
    }


def test_means_and_intervals_are_over_the_runs():
    found = seeds.combine({"x": tree(0.4, 0.1), "y": tree(0.6, 0.3)}, "recall@10")["likes"]
    # t(.975, 1) = 12.706205; the deviation of 0.4 and 0.6 over the root of two is 0.1
    assert found["a-lora"] == pytest.approx(
        {
            "recall@10": 0.5,
            "mrr": 0.25,
            "recall@10_low": 0.5 - 1.2706205,
            "recall@10_high": 0.5 + 1.2706205,
        },
        abs=2e-6,
    )
    gap = found["paired"]["a-lora minus b"]["recall@10"]
    assert gap == pytest.approx(
        {"mean": 0.2, "low": 0.2 - 1.27062, "high": 0.2 + 1.27062}, abs=1e-5
    )


def test_a_headline_without_cutoff_has_its_interval():
    runs = {n: {"likes": {"a": {"mrr": m, "mrr_low": 0, "mrr_high": 1}}} for n, m in ("x1", "y2")
            for m in [int(m)]}  # fmt: skip
    found = seeds.combine(runs, "mrr")["likes"]["a"]
    assert found["mrr"] == 1.5 and found["mrr_low"] < 1 < 2 < found["mrr_high"]


@pytest.mark.parametrize(("less", "said"), [("x", "x: .* no 'likes.b.mrr'"), ("y", "y: .* no")])
def test_runs_need_the_same_systems(less, said):
    runs = {"x": tree(0.4), "y": tree(0.6)}
    for name in runs:
        if name != less:
            runs[name]["likes"]["b"] = {"mrr": 0.1}
    with pytest.raises(InputError, match=said):
        seeds.combine(runs, "recall@10")


def test_only_the_seed_may_differ():
    alike = {"x": {"seed": 3, "a": {"b": 1}}, "y": {"seed": 1, "a": {"b": 1}}}
    assert seeds.check_params(alike) == [3, 1]
    with pytest.raises(InputError, match=r"y: a\.b is 2, in x 1; .*differ in `seed` only"):
        seeds.check_params({"x": {"seed": 3, "a": {"b": 1}}, "y": {"seed": 1, "a": {"b": 2}}})
    with pytest.raises(InputError, match=r"y: a\.c is None, in x 1"):
        seeds.check_params({"x": {"seed": 3, "a": {"c": 1}}, "y": {"seed": 1, "a": {}}})
    with pytest.raises(InputError, match="y: its seed 3 is that of x; no run counts twice"):
        seeds.check_params({"x": {"seed": 3}, "y": {"seed": 3}})
    with pytest.raises(InputError, match="at least 2 runs to put together, got 1"):
        seeds.check_params({"x": {"seed": 3}})


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of one run, and two as DVC keeps experiments: commits under refs/exps."""
    root = tmp_path_factory.mktemp("seeds")
    (root / "results").mkdir()
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    stages = {"report": {"cmd": "true", "metrics": [{"results/metrics.json": {"cache": False}}]}}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    run("git", "init", "-q", cwd=root)
    base = ""
    for name, seed, budget in (("", 1, 330), ("second", 3, 330), ("other", 5, 7)):
        params["select"]["budget"] = budget
        (root / "params.yaml").write_text(yaml.safe_dump({**params, "seed": seed}))
        (root / "results/metrics.json").write_text(json.dumps(tree(seed / 10, seed / 10)))
        run("git", "add", "-A", cwd=root)
        run(*GIT, "commit", "-qm", f"seed {seed}", cwd=root)
        made = run("git", "rev-parse", "HEAD", cwd=root)
        base = base or made
        if name:
            run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", made, cwd=root)
            run("git", "reset", "-q", "--hard", base, cwd=root)
    return root


def show(root, monkeypatch, *revisions):
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return CliRunner().invoke(main, ["show", *revisions])


def test_experiments_are_put_together(repository, monkeypatch):
    done = show(repository, monkeypatch, "HEAD", "second")
    assert done.exit_code == 0, done.output
    assert "2 runs, seeds 1, 3; intervals are over the seeds." in done.output
    assert "0.200 [-1.071, 1.471]" in done.output  # 0.2 ± 12.706 · 0.1
    assert "+0.200" in done.output and "-1.071" in done.output


def test_an_experiment_with_another_parameter_is_refused(repository, monkeypatch):
    done = show(repository, monkeypatch, "HEAD", "second", "other")
    assert done.exit_code == 2
    assert "other: select.budget is 7, in HEAD" in done.output


@pytest.mark.parametrize(("names", "said"), [(["HEAD"], "at least 2"), (["HEAD", "no"], "no:")])
def test_what_is_no_run_is_named(repository, monkeypatch, names, said):
    done = show(repository, monkeypatch, *names)
    assert done.exit_code == 2 and said in done.output


def test_a_run_without_metrics_is_named(repository, monkeypatch):
    run("git", "checkout", "-q", "-b", "bare", cwd=repository)
    run("git", "rm", "-q", "--cached", "results/metrics.json", cwd=repository)
    run(*GIT, "commit", "-qm", "without", cwd=repository)
    run("git", "checkout", "-q", "-f", "-", cwd=repository)
    assert json.loads((repository / "results/metrics.json").read_text())
    done = show(repository, monkeypatch, "HEAD", "bare")
    assert done.exit_code == 2 and "bare:" in done.output and "ran to the report" in done.output

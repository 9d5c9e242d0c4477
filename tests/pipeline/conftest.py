"""A workspace of its own, in which the tiny profile really runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pipeline.closure import ROOT
from tests.toy import write_toy

FILES = ("dvc.yaml", "params.yaml", "prices.yaml", ".dvcignore", "pyproject.toml")
FOLDERS = ("stages", "src", "prompts", "profiles", "seeds")


class Workspace:
    """A copy of the project in which commands run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path / "src"),
            "OMP_NUM_THREADS": "2",
            "OPENAI_API_KEY": "canary-8f2b7c",
        }

    def run(self, *command: str, check: bool = True, **environment: str):
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done

    def dvc(self, *arguments: str, check: bool = True):
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def seedtalk(self, *arguments: str, check: bool = True):
        return self.run(sys.executable, "-m", "seedtalk", *arguments, check=check)

    def set(self, *overrides: str) -> None:
        """Write overrides into params.yaml, keeping its comments."""
        from ruamel.yaml import YAML

        yaml = YAML()
        path = self.path / "params.yaml"
        tree = yaml.load(path)
        for override in overrides:
            key, _, value = override.partition("=")
            *groups, leaf = key.split(".")
            place = tree
            for group in groups:
                place = place[group]
            place[leaf] = YAML(typ="safe").load(value)
        with path.open("w") as file:
            yaml.dump(tree, file)


def make_workspace(path: Path) -> Workspace:
    """Copy the project to `path`, with the toy corpus, under Git and DVC."""
    from seedtalk.profiles import overrides

    path.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, path / name)
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    (path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    write_toy(path / "corpora" / "toy")
    workspace = Workspace(path)
    workspace.set(*overrides(ROOT / "profiles" / "tiny.yaml"))
    workspace.run("git", "init", "--quiet", "--initial-branch=main")
    workspace.run("git", "config", "user.email", "test@example.org")
    workspace.run("git", "config", "user.name", "test")
    workspace.dvc("init", "--quiet")
    workspace.dvc("config", "core.analytics", "false")
    workspace.run("git", "add", "--all")
    workspace.run("git", "add", "--force", "corpora")  # a queued experiment sees what Git has
    workspace.run("git", "commit", "--quiet", "--message", "toy")
    return workspace


@pytest.fixture(scope="session")
def first(tmp_path_factory) -> Workspace:
    """The tiny profile, run once from nothing."""
    workspace = make_workspace(tmp_path_factory.mktemp("first") / "project")
    workspace.dvc("repro")
    return workspace


@pytest.fixture(scope="session")
def second(tmp_path_factory) -> Workspace:
    """The tiny profile, run once more from nothing elsewhere."""
    workspace = make_workspace(tmp_path_factory.mktemp("second") / "project")
    workspace.dvc("repro")
    return workspace

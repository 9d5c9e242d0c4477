"""The documentation against the code: every command, path and number in it."""

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml
from tests.pipeline.closure import ROOT
from tests.pipeline.test_contract import DAG, PARAMS, command

from seedtalk.cli import main
from seedtalk.students.processes import LAUNCH

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
DVC = {
    "add",
    "checkout",
    "commit",
    "config",
    "dag",
    "diff",
    "exp",
    "fetch",
    "init",
    "metrics",
    "params",
    "plots",
}
DVC |= {"pull", "push", "queue", "remote", "repro", "status"}


def blocks(page: Path) -> list[str]:
    """Return the text of every fenced block that is a shell's (no language, or sh)."""
    return re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split("  #")[0].strip()
                first = words.split(" ")[0]
                if first in {"make", "dvc", "seedtalk", "python"}:
                    found.append((page.name, words))
                launch = re.match(rf'export {LAUNCH}="accelerate launch (.*)"', words)
                if launch:
                    found.append((page.name, f"accelerate launch {launch[1]}"))
        for span in re.findall(r"`((?:make|dvc|seedtalk|python) [^`]+)`", page.read_text()):
            found.append((page.name, " ".join(span.split())))
    return found


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_every_command_is_one(page, line):
    words = shlex.split(line)
    {"make": check_make, "dvc": check_dvc, "seedtalk": check_seedtalk, "python": check_python,
     "accelerate": check_accelerate}[words[0]](words[1:])  # fmt: skip


def check_make(words):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {word for word in words if "=" not in word} <= targets


def check_options(cmd: click.Command, words):
    flags = {flag for option in cmd.params for flag in getattr(option, "opts", [])}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in {*flags, "--help", "-h"}, word


def check_seedtalk(words):
    cmd: click.Command = main
    while isinstance(cmd, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in cmd.commands, words[0]
        cmd, words = cmd.commands[words[0]], words[1:]
    if cmd is not main:
        check_options(cmd, words)


def check_python(words):
    if words[0] == "-m":
        assert words[1] == "venv"  # the only module that a page runs: benchmarks' peers live apart
        return
    assert (ROOT / words[0]).is_file() or "<" in words[0], words[0]
    if words[0].startswith("stages/") and "<" not in words[0]:
        check_options(command(Path(words[0]).stem), words[1:])


def check_accelerate(words):
    from accelerate.commands.launch import launch_command_parser

    options = {
        flag for action in launch_command_parser()._actions for flag in action.option_strings
    }
    assert {word for word in words if word.startswith("-")} <= options


def check_dvc(words):
    assert words[0] in DVC
    verbs = {
        "exp": {"run", "show", "apply", "diff", "list", "push", "pull", "remove"},
        "queue": {"start", "status", "logs"},
    }
    verbs |= {"plots": {"diff", "show"}, "metrics": {"diff", "show"}, "remote": {"add", "modify"}}
    if words[0] in verbs and len(words) > 1:
        assert words[1] in verbs[words[0]], words
    if words[0] == "repro":
        for stage in words[1:]:
            if not stage.startswith("--"):
                assert stage.split("@")[0] in DAG["stages"], stage
    for before, override in itertools.pairwise(words):
        if before != "-S":
            continue
        place = PARAMS
        for part in override.partition("=")[0].split("."):
            assert part in place, f"params.yaml has no {override}"
            place = place[part]
    for profile in re.findall(r"profiles/\w+\.yaml", " ".join(words)):
        assert (ROOT / profile).is_file(), profile


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_was_left_to_fill_in(page):
    assert not re.search(r"@@\w*@@|\bTODO\b|\bTBD\b|\bFIXME\b", page.read_text("utf-8"))


def test_every_path_of_the_annotated_tree_is_there():
    tree = re.search(r"^```text\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    folder = {0: ""}
    for line in tree.group(1).splitlines():
        name = line.strip().split(" ")[0]
        if not re.fullmatch(r"[\w./,{}-]+", name):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        path = folder[depth] + name
        if name.endswith("/"):
            folder[depth + 1] = path
        if path.startswith(("results", "artifacts", "models/", "data/")):
            continue  # made by a run
        assert (ROOT / path).exists(), path


def test_the_result_table_is_that_of_the_committed_run():
    """Every system's number in the README is the one in results/metrics.json."""
    done = subprocess.run(
        ["git", "show", "HEAD:results/metrics.json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("no committed results/metrics.json: not a Git checkout, or nothing has run")
    metrics = json.loads(done.stdout)["likes"]
    readme, *_ = (ROOT / "README.md").read_text().partition("\n## ")  # the first table's
    rows = re.findall(r"^\| `?([\w-]+)`?[^|]*\| (?:\*\*)?(\d\.\d{3})", readme, flags=re.M)
    assert {name for name, _ in rows} == set(metrics) - {"paired"}
    headline = PARAMS["report"]["headline"]
    for name, value in rows:
        shown = metrics[name][headline]
        shown = shown["mean"] if isinstance(shown, dict) else shown
        assert f"{shown:.3f}" == value, name


def test_every_parameter_group_is_a_stage_or_explained():
    known = {*DAG["stages"], "seed", "models", "students", "tunings", "benchmarks", "teacher"}
    assert set(PARAMS) <= known


def test_the_pages_name_no_machine_and_no_registry_host():
    registries = "|".join(("py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.org"))
    for page in PAGES:
        found = re.search(rf"(?:/root/|/home/\w|/tmp/|{registries})", page.read_text())
        assert not found, f"{page.name}: {found}"


def test_the_lock_pins_what_the_project_asks_for():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [line.split("==")[0] for line in lines if "==" in line]
    names = {name.lower().replace("_", "-") for name in pinned}
    for name in wanted:
        assert name.lower() in names, f"{name} is not pinned"


def test_yaml_files_parse():
    for path in [*ROOT.glob(".github/workflows/*.yml"), ROOT / "CITATION.cff"]:
        assert yaml.safe_load(path.read_text())

"""dvc.yaml against the code: DVC does not follow Python imports, so these tests do."""

import ast
import importlib.util
import re
from pathlib import Path

import click
import pytest
import yaml
from tests.pipeline.closure import ROOT, SRC, closure

DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = DAG["stages"]
EACH = pytest.mark.parametrize("name", STAGES)


def paths(entries) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries or []]


def outputs(stage) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind))]


def stage_file(name: str) -> Path:
    return ROOT / "stages" / f"{name}.py"


def command(name: str) -> click.Command:
    spec = importlib.util.spec_from_file_location(f"stage_{name}", stage_file(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_every_stage_file_is_in_the_graph_and_the_other_way_round():
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == set(STAGES)


@EACH
def test_a_stage_is_described_and_thin(name):
    assert STAGES[name]["desc"]
    assert STAGES[name]["cmd"].split()[:2] == ["python", f"stages/{name}.py"]
    assert len(stage_file(name).read_text().splitlines()) <= 80


@EACH
def test_the_import_closure_is_in_the_deps_and_nothing_else_is(name):
    needed = closure(stage_file(name))
    declared = [ROOT / dep for dep in paths(STAGES[name]["deps"]) if dep.startswith("src/")]
    for file in needed:
        assert any(file == dep or file.is_relative_to(dep) for dep in declared), (
            f"{name} imports {file.relative_to(ROOT)}, which its deps lack"
        )
    for dep in declared:
        assert any(file == dep or file.is_relative_to(dep) for file in needed), (
            f"{name} depends on {dep.relative_to(ROOT)}, which it never imports"
        )
    assert f"stages/{name}.py" in paths(STAGES[name]["deps"])


@EACH
def test_the_closure_test_would_notice_a_missing_dep(name):
    assert SRC / "seedtalk" / "params.py" in closure(stage_file(name))


@EACH
def test_the_params_declared_are_the_params_read(name):
    """Every ``params.group`` in the stage file is declared, and no other."""
    read = set()
    for node in ast.walk(ast.parse(stage_file(name).read_text())):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.value.id == "params":
            read.add({"source_of": "models", "register_": "register"}.get(node.attr, node.attr))
    declared = {str(key).split(".")[0] for key in STAGES[name].get("params", [])}
    assert read == declared


@EACH
def test_declared_params_exist(name):
    for key in STAGES[name].get("params", []):
        place = PARAMS
        for part in resolved(key).split("."):
            if part.startswith("${item"):
                break
            assert part in place, f"{name}: {key} is not in params.yaml"
            place = place[part]


@EACH
def test_inputs_are_deps_and_outputs_are_outs(name):
    """Each path option's default is in the graph, on the right side."""
    stage = STAGES[name]
    deps = [resolved(path) for path in paths(stage["deps"])]
    outs = [resolved(path) for path in outputs(stage)]
    for option in command(name).params:
        if not isinstance(option.type, click.Path) or option.name == "params":
            continue
        if option.default is None or not isinstance(option.default, str):
            continue
        side = deps if option.type.exists else outs
        assert any(option.default == p or p.startswith(option.default + "/") for p in side), (
            f"{name}: --{option.name} {option.default} is not among {side}"
        )


def resolved(path: str) -> str:
    """Fill in what stands in params.yaml; a matrix item stays as it is."""

    def value(match: re.Match[str]) -> str:
        place = PARAMS
        for part in match.group(1).split("."):
            if part == "item":
                return match.group(0)
            place = place[part]
        return str(place)

    return re.sub(r"\$\{([^}]+)\}", value, path)


@EACH
def test_every_output_is_cached_plain_and_owned_once(name):
    stage = STAGES[name]
    assert not {"frozen", "always_changed", "wdir"} & set(stage)
    for entry in [*stage.get("outs", []), *stage.get("plots", [])]:
        assert isinstance(entry, str) or not {"persist", "cache"} & set(next(iter(entry.values())))
    others = [p for other in STAGES if other != name for p in outputs(STAGES[other])]
    for path in outputs(stage):
        assert path not in others
        assert path.split("/")[0] in {"artifacts", "models", "results"}


@EACH
def test_help_answers(name):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, stage_file(name), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "--params" in done.stdout


@EACH
def test_heavy_packages_are_imported_where_they_are_used(name):
    """A stage's --help, and every no-op, must not wait for torch."""
    heavy = {"torch", "transformers", "trl", "peft", "mlflow", "datasets", "sklearn", "matplotlib"}
    for file in closure(stage_file(name)) | {stage_file(name)}:
        for node in ast.parse(file.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found = heavy & {n.split(".")[0] for n in names}
            assert not found, f"{file.relative_to(ROOT)} imports {found} at the top"


def test_only_tracking_knows_mlflow():
    for file in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(n.split(".")[0] == "mlflow" for n in names):
                assert file.name == "tracking.py", file


def test_only_stages_and_cli_know_fixed_paths():
    for file in SRC.rglob("*.py"):
        if file.name == "workspace.py" or file.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "seedtalk.workspace":
                raise AssertionError(f"{file.relative_to(ROOT)} imports the workspace")


def test_the_lock_holds_no_secret_no_absolute_path_and_no_run_id():
    lock = ROOT / "dvc.lock"
    if not lock.is_file():
        pytest.skip("no dvc.lock yet: nothing has run")
    text = lock.read_text()
    assert not re.search(r"(?:path|cmd): ['\"]?/", text)
    assert not re.search(r"\b[0-9a-f]{32}\b", re.sub(r"md5: [0-9a-f]{32}(\.dir)?", "", text))
    assert not re.search(r"sk-[A-Za-z0-9]{8,}", text)
    assert str(Path.home()) not in text


def test_unknown_code_is_never_loaded():
    for file in [*SRC.rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, file

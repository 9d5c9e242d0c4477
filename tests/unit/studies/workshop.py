"""A repository of two light stages, in which a study really runs through DVC's queue."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]

PIPELINE = {
    "stages": {
        "select": {
            "cmd": "python pick.py",
            "params": ["seed", "select"],
            "deps": ["pick.py"],
            "outs": ["results/selection.json", "artifacts/seeds.txt"],
        },
        "baseline": {
            "cmd": "python score.py",
            "params": ["seed", "teacher.model", "benchmarks"],
            "deps": ["artifacts/seeds.txt", "score.py"],
            "outs": ["artifacts/predictions/baselines-likes.parquet"],
        },
        "unasked": {
            "cmd": "python -c raise",
            "deps": ["artifacts/seeds.txt"],
            "outs": ["results/quality.json"],
        },
    }
}
PICK = """
import json, os, pathlib, time, yaml
params = yaml.safe_load(open("params.yaml"))
waiting = pathlib.Path(os.environ["DVC_ROOT"]) / "wait"
if waiting.exists():
    (waiting.parent / "waits").write_text("x")
    while waiting.exists():
        time.sleep(0.1)
os.makedirs("results", exist_ok=True)
os.makedirs("artifacts", exist_ok=True)
picked = {"budget": params["select"]["budget"], "method": params["select"]["method"]}
json.dump({**picked, "share": {"of_pool": params["seed"] / 8}}, open("results/selection.json", "w"))
json.dump({**picked, "seed": params["seed"]}, open("artifacts/seeds.txt", "w"))
"""
SCORE = """
import json, os, sys, yaml
import pyarrow as pa, pyarrow.parquet as pq
params = yaml.safe_load(open("params.yaml"))
picked = json.load(open("artifacts/seeds.txt"))
if params["teacher"]["model"] == "broken" and picked["method"] == "random":
    sys.exit("score.py: the teacher is broken")
rows = []
for system in ("neighbours-dialogues", "popularity"):
    for conversation in range(3):
        for query in range(2):
            ranking = ["a", "b", "c", "d", "e"]
            turn = (picked["seed"] + conversation + query) % 5
            rows.append(
                {
                    "system": system,
                    "conversation_id": f"c{conversation}",
                    "query": query,
                    "targets": ["a", "b"][: 1 + query],
                    "ranking": ranking[turn:] + ranking[:turn],
                }
            )
os.makedirs("artifacts/predictions", exist_ok=True)
pq.write_table(pa.Table.from_pylist(rows), "artifacts/predictions/baselines-likes.parquet")
"""
STUDY = {
    "title": "Does the toy choose?",
    "question": "It does not.",
    "targets": ["baseline"],
    "set": {"evaluate.cutoffs": [1, 5, 10]},
    "factors": {
        "method": {"js": {"select.method": "js"}, "random": {"select.method": "random"}},
        "budget": {10: {"select": {"budget": 10}}, 20: {"select.budget": 20}},
    },
    "exclude": [{"method": "random", "budget": 20}],
    "seeds": [0, 1],
    "scores": {"benchmarks": ["likes"], "systems": ["neighbours-dialogues"]},
    "measures": ["selection.share.of_pool"],
    "compare": {
        "factor": "method",
        "reference": "random",
        "metric": "recall@1",
        "metrics": ["recall@1", "ndcg@5"],
    },
    "minutes": 0.1,
}


class Workshop:
    """The repository, and the commands that run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            **{f"GIT_{who}_{what}": "nobody@example.org"
               for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }  # fmt: skip

    def do(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        return self.do("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.do(sys.executable, "-m", "dvc", *arguments)

    def study(self, *arguments: str, code: int = 0) -> str:
        return self.do(sys.executable, "-m", "seedtalk", "study", *arguments, code=code)

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "seedtalk", "study", *arguments],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def declare(self, name: str = "toy", **changes) -> Path:
        path = self.path / "studies" / name / "study.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        return path

    def refs(self) -> dict[str, str]:
        told = self.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
        rows = [line.split() for line in told.splitlines()]
        return {ref.split("/")[-1]: commit for ref, commit in rows if len(ref.split("/")) == 5}


def make(path: Path) -> Workshop:
    path.mkdir()
    shop = Workshop(path)
    for name, text in (
        ("params.yaml", (ROOT / "params.yaml").read_text()),
        ("dvc.yaml", yaml.safe_dump(PIPELINE)),
        ("pick.py", PICK),
        ("score.py", SCORE),
        (".gitignore", "/results\n/artifacts\n/wait*\n/extra\n"),
    ):
        (path / name).write_text(text)
    shop.declare()
    shop.git("init", "-q")
    shop.dvc("init", "-q")
    shop.git("add", "-A")
    shop.git("commit", "-qm", "a workshop")
    return shop

"""Collecting: experiments laid by hand in Git and DVC's cache, read as a study's three files."""

import hashlib
import io
import json
import os
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.studies.workshop import STUDY

from seedtalk.errors import InputError
from seedtalk.evaluation.metrics import metric_names, per_query_metrics, summarise
from seedtalk.studies import collecting, declaring

MADE = ("artifacts/dialogues", "artifacts/seeds.jsonl", "results/synthesis.json")
PIPELINE = {
    "stages": {
        "curate": {"cmd": "c", "outs": [*MADE]},
        "finetune": {
            "matrix": {"student": "${students}"},
            "cmd": "f",
            "deps": ["artifacts/dialogues"],
            "outs": ["results/train/${item.student}.csv"],
        },
        "baseline": {
            "foreach": "${students}",
            "do": {
                "cmd": "b",
                "deps": ["artifacts/dialogues"],
                "outs": ["artifacts/predictions/${item}-likes.parquet"],
            },
        },
        "unasked": {"cmd": "u", "outs": ["results/quality.json"]},
    }
}
SYNTHESIS = {
    "teacher": {"model": "parrot", "usd": 0.5},
    "train": 7,
    "kinds": [1, 2],
    "exact": True,
    "none": None,
}
HISTORY = "step,loss,eval_loss,context_loss\n0,,3.5,4.5\n1,2.5,,\n2,1.25,3.25,\n"


def predictions(system, shift=0):
    rows = [
        (system, f"c{c}", q, ["a", "b", "c"][: 1 + q], ["d", "a", "b", "c", "e"][(c + shift) % 3 :])
        for c in range(4)
        for q in range(c % 2 + 1)
    ]
    names = ["system", "conversation_id", "query", "targets", "ranking"]
    return pd.DataFrame(rows, columns=names)


class Shop:
    """A repository in which experiments are laid by hand."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.git("init", "-q")
        self.git("config", "user.name", "nobody")
        self.git("config", "user.email", "nobody@example.org")
        (path / ".dvc").mkdir()
        (path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        (path / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
        (path / ".gitignore").write_text("/.dvc/cache\n/.dvc/tmp\n/studies\n")
        self.write(declaring.applied({}, self.params({})), {})
        self.commit()
        self.head = self.git("rev-parse", "HEAD")
        self.clock = 0
        self.study()

    def git(self, *arguments, **environment):
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            env=environment or None,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self):
        self.git("add", "-A")
        self.git("commit", "-qm", "x", "--allow-empty")

    def params(self, overrides):
        base = {
            "students": ["s"],
            "benchmarks": ["likes"],
            "evaluate": {"cutoffs": [1, 5, 10]},
            "select": {"method": "none", "budget": 0},
            "seed": 9,
        }
        return declaring.applied(base, overrides)

    def write(self, params, lock):
        (self.path / "params.yaml").write_text(yaml.safe_dump(params))
        (self.path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))

    def keep(self, data: bytes, suffix="") -> str:
        md5 = hashlib.md5(data).hexdigest() + suffix
        place = self.path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return md5

    def cached(self, md5):
        return self.path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    def parquet(self, *frames):
        stream = io.BytesIO()
        pd.concat(frames).to_parquet(stream)
        return stream.getvalue()

    def study(self, **changes):
        path = self.path / "studies" / "toy" / "study.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        targets = {"targets": ["finetune", "baseline@s"]}
        path.write_text(yaml.safe_dump({**STUDY, **targets, **changes}, sort_keys=False))
        self.folder = path.parent
        self.declared = declaring.read_study(path)
        return self.declared

    def lay(self, run, synthesis=None, history=HISTORY, made=None, seeds=None, **overrides):
        """Lay an experiment of the cell `run`; return its lock."""
        cell = next(cell for cell in self.declared.cells() if cell.run == run)
        made = predictions("neighbours-dialogues", cell.seed) if made is None else made
        member = self.keep(f"{run} train".encode())
        listing = json.dumps([{"md5": member, "relpath": "train.jsonl"}]).encode()
        if seeds is None:
            seeds = "".join(json.dumps({"review_id": f"r{n}"}) + "\n" for n in range(cell.seed, 4))
        paths = {
            "curate": {
                "artifacts/seeds.jsonl": self.keep(seeds.encode()),
                "results/synthesis.json": self.keep(
                    json.dumps(SYNTHESIS if synthesis is None else synthesis).encode()
                ),
                "artifacts/dialogues": self.keep(listing, ".dir"),
            },
            "finetune@s": {"results/train/s.csv": self.keep(history.encode())},
            "baseline@s": {
                "artifacts/predictions/s-likes.parquet": self.keep(
                    self.parquet(made, predictions("popularity"))
                )
            },
            # of an earlier run of what the study does not ask for
            "unasked": {"results/quality.json": self.keep(b'{"stale": 1}')},
        }
        lock = {
            stage: {"cmd": "x", "outs": [{"path": p, "md5": m, "hash": "md5"} for p, m in o]}
            for stage, o in ((stage, outs.items()) for stage, outs in paths.items())
        }
        self.write(self.params({**cell.overrides, **overrides}), lock)
        self.clock += 60
        stamp = f"{1_700_000_000 + self.clock} +0000"
        self.git("add", "-A")
        tree = self.git("write-tree")
        who = {f"GIT_{w}_{k}": v for w in ("AUTHOR", "COMMITTER")
               for k, v in (("NAME", "n"), ("EMAIL", "e"), ("DATE", stamp))}  # fmt: skip
        commit = self.git("commit-tree", tree, "-p", self.head, "-m", run, **{**os.environ, **who})
        self.git("update-ref", f"refs/exps/{self.head[:2]}/{self.head[2:]}/{run}", commit)
        self.git("reset", "-q", "--hard", self.head)
        return paths

    def collect(self):
        return collecting.collect(self.path, self.declared, self.declared.cells(), self.folder)

    def bytes(self):
        return {p.name: p.read_bytes() for p in self.folder.iterdir() if p.name != "study.yaml"}


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path / "shop")


def test_what_is_collected(shop):
    for cell in shop.declared.cells():
        if cell.run != "toy-js-20-s1":
            shop.lay(cell.run)
    found = shop.collect()
    assert found.missing == {"toy-js-20-s1": "not run"}
    runs = pd.read_csv(shop.folder / "runs.csv", dtype=str)
    assert list(runs) == ["run", "method", "budget", "seed", "commit", "teacher", "dialogues"]
    assert list(runs["run"]) == sorted(runs["run"]) and len(runs) == 5
    assert list(runs.iloc[0]) == ["toy-js-10-s0", "js", "10", "0", shop.head[:7], "parrot", "7"]
    measures = pd.read_csv(shop.folder / "measures.csv")
    mine = measures[measures["run"] == "toy-js-10-s0"].set_index("measure")["value"]
    assert mine.to_dict() == {  # neither the list nor the stale measures of what is not asked for
        "synthesis.teacher.usd": 0.5,
        "synthesis.train": 7.0,
        "train.s.loss": 1.25,
        "train.s.eval_loss": 3.25,
        "train.s.context_loss": 4.5,
        "selection.overlap_with_reference": 1.0,
    }
    scores = pd.read_parquet(shop.folder / "scores.parquet")
    assert list(scores) == [*collecting.SCORE_KEYS, "value", "weight"]
    assert set(scores["system"]) == {"neighbours-dialogues"}
    assert set(scores["metric"]) == set(metric_names([1, 5, 10]))
    assert scores[collecting.SCORE_KEYS].equals(
        scores[collecting.SCORE_KEYS].sort_values(collecting.SCORE_KEYS, ignore_index=True)
    )


def picked(*names):
    return "".join(json.dumps({"rank": 0, "review_id": name}) + "\n" for name in names)


def overlaps(shop):
    return {
        run: measures["selection.overlap_with_reference"]
        for run, measures in shop.collect().measures.items()
        if "selection.overlap_with_reference" in measures
    }


def test_seeds_are_held_against_those_of_the_reference(shop):
    shop.lay("toy-js-10-s0", seeds=picked("a", "b", "c"))
    assert overlaps(shop) == {}  # nothing to hold them against
    paths = shop.lay("toy-random-10-s0", seeds=picked("b", "c", "d", "e"))
    shop.lay("toy-js-10-s1", seeds=picked("b", "c"))  # its reference has seed 1
    shop.lay("toy-js-20-s0", seeds=picked("b", "c"))  # its reference is left out
    expected = {"toy-js-10-s0": "0.4", "toy-random-10-s0": "1.0"}
    assert overlaps(shop) == expected
    shop.cached(paths["curate"]["artifacts/seeds.jsonl"]).unlink()
    assert overlaps(shop) == expected  # as it was measured before


@pytest.mark.parametrize("seeds", ["{\n", '{"rank": 1}\n', "[1]\n", "\x00"])
def test_seeds_that_are_none_are_named(shop, seeds):
    shop.lay("toy-js-10-s0", seeds=seeds)
    with pytest.raises(InputError, match=r"toy-js-10-s0: artifacts/seeds\.jsonl: .*review_id"):
        shop.collect()


def test_the_weighted_mean_over_conversations_is_the_metric(shop):
    shop.lay("toy-js-10-s1")
    shop.collect()
    scores = pd.read_parquet(shop.folder / "scores.parquet")
    queries = per_query_metrics(predictions("neighbours-dialogues", 1), [1, 5, 10])
    expected = summarise(queries, resamples=100, seed=0)["neighbours-dialogues"]
    for metric, rows in scores.groupby("metric"):
        assert np.average(rows["value"], weights=rows["weight"]) == pytest.approx(
            expected[metric]["mean"], abs=1e-6
        )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.permutations("abcde")),
                min_size=1, max_size=8))  # fmt: skip
def test_scores_of_any_queries(rows):
    # An interval wants two conversations.
    asked = [*rows, (8, 1, "abcde"), (9, 2, "edcba")]
    frame = pd.DataFrame(
        [("s", f"c{c}", q, list("abc")[:t], list(r)) for q, (c, t, r) in enumerate(asked)],
        columns=["system", "conversation_id", "query", "targets", "ranking"],
    )
    queries = per_query_metrics(frame, [1, 3])
    expected = summarise(queries, resamples=100, seed=0)["s"]
    scores = collecting.scores_of(queries)
    for metric, part in scores.groupby("metric"):
        assert (part["value"] * part["weight"]).sum() / part["weight"].sum() == pytest.approx(
            expected[metric]["mean"],
            abs=1e-6,  # what is reported is rounded
        )
        total = sum(t for _, t, _ in asked) if metric.startswith("recall") else len(asked)
        assert part["weight"].sum() == total


def test_collecting_twice_gives_equal_bytes_and_a_gone_experiment_keeps_its_rows(shop):
    for run in ("toy-js-10-s0", "toy-random-10-s0"):
        shop.lay(run)
    shop.collect()
    before = shop.bytes()
    shop.collect()
    assert shop.bytes() == before
    shop.git("update-ref", "-d", f"refs/exps/{shop.head[:2]}/{shop.head[2:]}/toy-js-10-s0")
    found = shop.collect()
    assert shop.bytes() == before
    assert "toy-js-10-s0" not in found.missing


def test_outputs_that_are_gone_keep_the_rows_too(shop):
    paths = shop.lay("toy-js-10-s0")
    shop.collect()
    before = shop.bytes()
    shop.cached(paths["curate"]["results/synthesis.json"]).unlink()
    found = shop.collect()
    assert shop.bytes() == before and "toy-js-10-s0" in found.runs
    (shop.folder / "runs.csv").unlink()
    found = shop.collect()
    assert found.missing["toy-js-10-s0"].startswith("results/synthesis.json is not in DVC's cache")


def test_rows_of_other_parameters_go(shop):
    shop.lay("toy-js-10-s0")
    shop.collect()
    shop.lay("toy-js-10-s0", **{"select.budget": 11})
    found = shop.collect()
    assert found.missing["toy-js-10-s0"] == "made of other parameters (select.budget)"
    assert (shop.folder / "runs.csv").read_text().count("\n") == 1


def test_rows_of_what_is_not_declared_any_more_go(shop):
    for run in ("toy-js-10-s0", "toy-js-10-s1"):
        shop.lay(run)
    shop.collect()
    shop.study(seeds=[1])
    found = shop.collect()
    assert list(found.runs) == ["toy-js-10-s1"]
    assert set(pd.read_parquet(shop.folder / "scores.parquet")["run"]) == {"toy-js-10-s1"}


def test_an_alias_names_the_student_of_each_cell(shop):
    scores = {
        "benchmarks": ["likes"],
        "systems": ["student"],
        "alias": {"student": ["s-lora", "s-full"]},
    }
    shop.study(scores=scores)
    shop.lay("toy-js-10-s0", made=predictions("s-lora"))
    shop.lay("toy-random-10-s0", made=predictions("s-full"))
    found = shop.collect()
    table = pd.read_parquet(shop.folder / "scores.parquet")
    assert set(table["system"]) == {"student"} and table["run"].nunique() == 2
    assert collecting.unscored(shop.declared, found) == []
    shop.lay("toy-js-20-s0", made=pd.concat([predictions("s-lora"), predictions("s-full")]))
    with pytest.raises(InputError, match="toy-js-20-s0: scores.alias gives one name"):
        shop.collect()


def test_a_factor_named_teacher_takes_the_column(shop):
    shop.study(
        factors={"teacher": {"loud": {"select.method": "js"}, "shy": {"select.method": "random"}}},
        exclude=[],
        compare={**STUDY["compare"], "factor": "teacher", "reference": "shy"},
    )
    shop.lay("toy-loud-s0")
    shop.collect()
    header, row = (shop.folder / "runs.csv").read_text().splitlines()
    assert header == "run,teacher,seed,commit,dialogues"
    assert row == f"toy-loud-s0,loud,0,{shop.head[:7]},7"


def test_find_takes_the_newest_that_fits(shop):
    cell = shop.declared.cells()[0]
    assert collecting.find(shop.path, cell, collecting.experiments(shop.path)) is None
    shop.lay(cell.run)
    first = collecting.find(shop.path, cell, collecting.experiments(shop.path))
    head = shop.head
    shop.commit()
    shop.head = shop.git("rev-parse", "HEAD")
    shop.lay(cell.run)
    second = collecting.find(shop.path, cell, collecting.experiments(shop.path))
    assert (first.baseline, second.baseline) == (head, shop.head)
    shop.lay(cell.run, **{"select.method": "fisher", "select.budget": 3})
    assert collecting.find(shop.path, cell, collecting.experiments(shop.path)) == first
    shop.git("update-ref", "-d", first.ref)
    stale = collecting.find(shop.path, cell, collecting.experiments(shop.path))
    assert str(stale) == "made of other parameters (select.method, select.budget)"


def test_outputs_are_whole_or_absent(shop):
    paths = shop.lay("toy-js-10-s0")
    shop.lay("toy-js-20-s0")
    known = collecting.experiments(shop.path)
    outputs = collecting.Outputs(shop.path, ["finetune"])
    outs = outputs.of(known["toy-js-10-s0"][0])
    assert [out.path for out in outs] == [
        *MADE,
        "results/train/s.csv",
    ]
    assert outputs.absent(outs) == []
    shop.cached(hashlib.md5(b"toy-js-10-s0 train").hexdigest()).unlink()
    assert outputs.absent(outs) == ["artifacts/dialogues"]
    assert outputs.absent(outputs.of(known["toy-js-20-s0"][0])) == []
    shop.cached(paths["curate"]["artifacts/dialogues"]).unlink()
    assert outputs.absent(outs) == ["artifacts/dialogues"]


def test_the_pipeline_is_asked_once_for_cells_of_one_graph(shop, monkeypatch):
    for run in ("toy-js-10-s0", "toy-js-20-s0"):
        shop.lay(run)
    known = collecting.experiments(shop.path)
    outputs = collecting.Outputs(shop.path, ["finetune"])
    asked = []
    ask = outputs._ask
    monkeypatch.setattr(outputs, "_ask", lambda one: asked.append(one) or ask(one))
    for name in known:
        outputs.of(known[name][0])
    assert len(asked) == 1


def test_a_target_or_an_output_that_is_not_there(shop):
    shop.lay("toy-js-10-s0")
    experiment = collecting.experiments(shop.path)["toy-js-10-s0"][0]
    with pytest.raises(InputError, match="toy-js-10-s0: .*nowhere"):
        collecting.Outputs(shop.path, ["nowhere"]).of(experiment)
    bare = collecting.Experiment("bare", "r", shop.head, shop.head)
    with pytest.raises(InputError, match=r"bare: dvc.lock has no output"):
        collecting.Outputs(shop.path, ["finetune"]).of(bare)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"synthesis": [1]}, "results/synthesis.json: expected an object"),
        ({"history": "step,loss\n1,low\n"}, "results/train/s.csv, field 'loss'"),
    ],
)
def test_outputs_that_do_not_hold(shop, changes, told):
    shop.lay("toy-js-10-s0", **changes)
    with pytest.raises(InputError, match=f"toy-js-10-s0: {told}"):
        shop.collect()


def test_a_torn_collected_file_is_named(shop):
    (shop.folder / "scores.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="scores.parquet: not a readable Parquet"):
        shop.collect()


def test_means(shop):
    for run in ("toy-js-10-s0", "toy-js-10-s1", "toy-random-10-s0"):
        shop.lay(run)
    study = shop.study(targets=["finetune", "baseline@s"], measures=["synthesis.train", "x.y"])
    header, rows = collecting.means(study, shop.collect())
    assert header == [
        *["benchmark", "system", "method", "budget", "seeds"],
        *["recall@1", "ndcg@5", "synthesis.train", "x.y"],
    ]
    assert [row[:5] for row in rows] == [
        ["likes", "neighbours-dialogues", "js", "10", "2"],
        ["likes", "neighbours-dialogues", "random", "10", "1"],
    ]
    each = [
        summarise(
            per_query_metrics(predictions("neighbours-dialogues", seed), [1]), resamples=100, seed=0
        )["neighbours-dialogues"]["recall@1"]["mean"]
        for seed in (0, 1)
    ]
    assert rows[0][5] == f"{np.mean(each):.4f}"
    assert rows[0][7:] == ["7.0000", "-"]
    empty = collecting.means(study, collecting.Collected())
    assert empty == (header, [])

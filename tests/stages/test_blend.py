import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from stages.blend import main
from tests.domain import ROOT

from seedtalk.cli.tune import tune
from seedtalk.evaluation import blending, priors, protocols
from seedtalk.params import load_params
from seedtalk.records import SIGNALS, read_table, write_table

ITEMS = [f"i{n:02d}" for n in range(30)]
ROWS = range(40)  # conversations


def talk(number, target):
    said = [
        {"role": "seeker", "text": "Something good?", "items": []},
        {"role": "recommender", "text": "This.", "items": [target]},
    ]
    return {"conversation_id": f"c{number:02d}", "benchmark": "dev", "turns": said, "seen": []}


def write_params(**groups):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["evaluate"] |= {"candidates": 0, "depth": 10, "cutoffs": [1, 5], "bootstrap": 100}
    raw["blend"] = dict.fromkeys(raw["blend"], 0.0) | {"student": 1.0, "bm25": 2.0}
    raw["report"]["headline"] = raw["register"]["metric"] = "recall@5"
    for group, values in groups.items():
        raw[group] = raw[group] | values if isinstance(values, dict) else values
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    return load_params(Path("params.yaml"))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Targets follow the student and BM25; the student scored the first twenty items only."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    student, values = rng.normal(size=(40, 30)), rng.normal(size=(40, 30, len(SIGNALS)))
    student[:, 20:] = student[:, :20].min(axis=1, keepdims=True)
    best = (student + 2 * values[:, :, SIGNALS.index("bm25")]).argmax(axis=1)
    talks = pd.DataFrame([talk(n, ITEMS[best[n]]) for n in ROWS])
    items = pd.DataFrame({"item_id": ITEMS, "title": ITEMS, "description": ""})
    items = items.assign(year=pd.array([2000] * 30, dtype="Int32"), genres=[[]] * 30)
    reviews = pd.DataFrame({"review_id": ["r1"], "item_id": [ITEMS[best[0]]], "text": ["good"]})
    write_table(Path("artifacts/items.parquet"), items, "items")
    write_table(
        Path("artifacts/reviews.parquet"), reviews.assign(user_id=None, rating=None), "reviews"
    )
    write_table(Path("artifacts/conversations.parquet"), talks, "conversations")
    posed = protocols.queries(talks, "dev", items, write_params().evaluate, 0)
    told = priors.table(posed, list(values.astype("f4")))
    write_table(Path("artifacts/priors/dev.parquet"), told, "priors")
    pools = [("s-lora", f"c{n:02d}", 1, ITEMS[:20], student[n, :20]) for n in ROWS]
    frame = pd.DataFrame(pools, columns=["system", "conversation_id", "query", "items", "scores"])
    write_table(Path("artifacts/pools/s-lora-dev.parquet"), frame, "pools")
    return tmp_path


ASK = ["--student", "s", "--tuning", "lora", "--benchmark", "dev"]
TABLE = Path("artifacts/predictions/s-lora-blend-dev.parquet")
SCORES = Path("results/eval/s-lora-blend-dev.json")


def run(*options, code=0, command=main):
    done = CliRunner().invoke(command, list(options))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_writes_the_blend_and_the_signals_without_the_student(workspace):
    run(*ASK)
    table = read_table(TABLE, "predictions")
    assert sorted(set(table["system"])) == ["s-lora-blend", "signals"]
    assert len(table) == 80
    assert set(table["ranking"].map(len)) == {10}
    found = json.loads(SCORES.read_text())
    recall = {name: told["recall@1"]["mean"] for name, told in found["systems"].items()}
    assert recall["s-lora-blend"] == 1.0  # these weights made the targets
    assert 0.3 < recall["signals"] < 1.0
    assert found["protocol"]["queries"] == 40
    assert found["slices"]["with_reviews"]["queries"] >= 1


def test_equal_runs_write_equal_bytes(workspace):
    run(*ASK)
    run(*ASK, "--predictions", "p.parquet", "--scores", "s.json")
    assert Path("p.parquet").read_bytes() == TABLE.read_bytes()
    assert Path("s.json").read_bytes() == SCORES.read_bytes()


def test_sampled_candidates_are_ranked_in_full(workspace):
    params = write_params(evaluate={"candidates": 15})
    talks = read_table(Path("artifacts/conversations.parquet"), "conversations")
    items = read_table(Path("artifacts/items.parquet"), "items")
    posed = protocols.queries(talks, "dev", items, params.evaluate, 0)
    assert "its candidates are others" in run(*ASK, code=2)
    values = [np.zeros((15, len(SIGNALS)), "f4")] * 40
    write_table(Path("artifacts/priors/dev.parquet"), priors.table(posed, values), "priors")
    run(*ASK)
    assert set(read_table(TABLE, "predictions")["ranking"].map(len)) == {15}


def test_the_student_by_itself_is_the_student(workspace):
    write_params(blend={"bm25": 0.0})
    run(*ASK)
    table = read_table(TABLE, "predictions").set_index(["system", "conversation_id"])
    told = read_table(Path("artifacts/pools/s-lora-dev.parquet"), "pools")
    for _, row in told.iterrows():
        order = np.argsort(-row["scores"], kind="stable")[:10]
        ranking = table.loc[("s-lora-blend", row["conversation_id"]), "ranking"]
        assert list(ranking) == [ITEMS[place] for place in order]
        # Without any weight nothing is told apart: the lowest ids.
        assert list(table.loc[("signals", row["conversation_id"]), "ranking"]) == ITEMS[:10]


def test_bad_input_is_named(workspace):
    assert "'redial' is not among the conversations" in run(
        *ASK[:4], "--benchmark", "redial", code=2
    )
    Path("artifacts/pools/s-lora-dev.parquet").write_bytes(b"")
    assert "not a readable Parquet file" in run(*ASK, code=2)


def first_column(table):
    return [line.split("  ")[0] for line in table.splitlines()[1:]]


def test_tune_finds_the_weights_and_prints_them_in_two_forms(workspace):
    told = run("dev", "--student", "s-lora", "--folds", "4", command=tune)
    head, recalls, said, leads, folds, block, flags = told.split("\n\n")
    assert head == "dev: 40 queries of 40 conversations"
    assert first_column(recalls) == ["student", *SIGNALS, "signals", "blend"]
    assert said == "the blend is ahead of each by"
    assert first_column(leads) == ["student", *SIGNALS, "signals"]
    assert folds.startswith("Blends cross-fitted in 4 folds; log-likelihood a target")
    weights = yaml.safe_load(block)["blend"]
    assert list(weights) == list(blending.FEATURES)
    assert 1.2 < weights["bm25"] / weights["student"] < 3
    assert abs(weights["popularity"]) < 0.5 * weights["student"]
    told_again = dict(part.split("=") for part in flags.replace("-S ", "").split())
    assert {f"blend.{name}": weight for name, weight in weights.items()} == {
        name: float(weight) for name, weight in told_again.items()
    }


def test_tune_on_two_benchmarks_fits_both(workspace):
    alone = run("dev", "--signals", "bm25", command=tune)
    talks = pd.read_parquet("artifacts/conversations.parquet")
    second = talks.assign(benchmark="second")
    write_table(
        Path("artifacts/conversations.parquet"), pd.concat([talks, second]), "conversations"
    )
    table = Path("artifacts/priors/dev.parquet")
    Path("artifacts/priors/second.parquet").write_bytes(table.read_bytes())
    both = run("dev", "second", "--signals", "bm25", command=tune)
    heads = [line for line in both.splitlines() if line.endswith("conversations")]
    assert heads == [f"{name}: 40 queries of 40 conversations" for name in ("dev", "second")]
    # Twice the same choices weigh as one set under half the penalty.
    half = run("dev", "--signals", "bm25", "--l2", "0.5", command=tune)
    assert both.splitlines()[-1] == half.splitlines()[-1] != alone.splitlines()[-1]


def test_tune_of_named_signals_without_a_student(workspace):
    told = run("dev", "--signals", "bm25,year", "--l2", "0", command=tune)
    weights = yaml.safe_load(told[told.index("blend:\n") : told.index("\n\n-S")])["blend"]
    assert {name for name, weight in weights.items() if weight} == {"year", "bm25"}
    assert "s-lora" not in told
    assert "student  " not in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["likes"], "'likes' is one of params.benchmarks, which are reported"),
        (["other"], "'other' is not among the conversations"),
        (["dev", "--signals", "bm25,taste"], "--signals: 'taste' is none of popularity"),
        (["dev", "--signals", " , "], "--signals: name at least one"),
        (["dev", "dev"], "'dev' is named twice; its conversations would count double"),
        (["dev", "likes"], "'likes' is one of params.benchmarks"),
        (["dev", "--student", "t-lora"], "python stages/evaluate.py --benchmark dev --student"),
        (["dev", "--folds", "50"], "50 folds need as many conversations, there are 40"),
        ([], "Missing argument 'BENCHMARK...'"),
    ],
)
def test_tune_refuses(workspace, options, said):
    assert said in " ".join(run(*options, code=2, command=tune).split())


def test_tune_without_priors_says_how_they_are_made(workspace):
    Path("artifacts/priors/dev.parquet").unlink()
    told = run("dev", code=2, command=tune)
    assert "run `python stages/baseline.py --benchmark dev`" in told

import json
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from stages.evaluate import main
from tests.toy import toy_items, toy_student

from seedtalk.records import read_table, write_table
from seedtalk.students import loading

ROOT = Path(__file__).parents[2]


def turn(role, text, *items):
    return {"role": role, "text": text, "items": list(items)}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return toy_student(tmp_path_factory.mktemp("toy") / "student")


@pytest.fixture
def workspace(tmp_path, monkeypatch, student):
    """A folder with a catalogue, four conversations and an untouched toy student."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"]["toy"] = str(student)
    params["evaluate"] |= {"candidates": 12, "cutoffs": [1, 10], "bootstrap": 100, "score": "mean"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    catalogue = pd.DataFrame(toy_items())
    write_table(Path("artifacts/items.parquet"), catalogue, "items")
    titles = catalogue.set_index("item_id")["title"]
    ids = list(titles.index)
    rows = [
        {
            "conversation_id": f"c{n}",
            "benchmark": "likes",
            "turns": [
                turn("seeker", f"I liked {titles[ids[n]]}. What else?", ids[n]),
                turn("recommender", "Perhaps these.", ids[n + 8], ids[n + 16]),
            ],
            "seen": [ids[n + 24]],
        }
        for n in range(4)
    ]
    write_table(Path("artifacts/conversations.parquet"), pd.DataFrame(rows), "conversations")
    folder = Path("models/toy-zero-shot")
    folder.mkdir(parents=True)
    loading.write_manifest(folder, loading.Manifest(base=str(student), tuning="zero-shot"))
    return tmp_path


def run(*options, benchmark="likes", code=0):
    done = CliRunner().invoke(
        main, ["--student", "toy", "--tuning", "zero-shot", "--benchmark", benchmark, *options]
    )
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


TABLE = Path("artifacts/predictions/toy-zero-shot-likes.parquet")
SCORES = Path("results/eval/toy-zero-shot-likes.json")


def test_writes_rankings_and_scores(workspace):
    run()
    table = read_table(TABLE, "predictions")
    assert table["conversation_id"].tolist() == ["c0", "c1", "c2", "c3"]
    assert set(table["system"]) == {"toy-zero-shot"}
    assert table["query"].tolist() == [1] * 4
    for row in table.itertuples():
        assert len(set(row.ranking)) == 12
        assert set(row.targets) <= set(row.ranking)
    found = json.loads(SCORES.read_text())
    assert found["benchmark"] == "likes"
    assert found["protocol"] == {
        "name": "sampled-12",
        "condition": "recommendation",
        "candidates": 12,
        "score": "mean",
        "queries": 4,
        "conversations": 4,
        "targets": 8,
        "bootstrap": 100,
    }
    assert len(found["digest"]) == 64
    metrics = found["systems"]["toy-zero-shot"]
    assert list(metrics) == ["recall@1", "recall@10", "ndcg@1", "ndcg@10", "mrr"]
    assert all(m["low"] <= m["mean"] <= m["high"] for m in metrics.values())
    hits = [
        target in list(row.ranking[:10]) for row in table.itertuples() for target in row.targets
    ]
    assert metrics["recall@10"]["mean"] == pytest.approx(sum(hits) / len(hits), abs=1e-6)


def test_ranks_by_likelihood(workspace, student):
    from seedtalk.evaluation.protocols import queries
    from seedtalk.params import load_params
    from seedtalk.students.decoding import TitleScorer
    from seedtalk.students.templates import context_messages

    run()
    items = read_table(Path("artifacts/items.parquet"), "items")
    conversations = read_table(Path("artifacts/conversations.parquet"), "conversations")
    options = load_params(Path("params.yaml")).evaluate
    posed = queries(conversations, "likes", items, options, seed=0)
    model, tokenizer = loading.load_student(Path("models/toy-zero-shot"), cache_dir=Path(".cache"))
    for query, ranking in zip(posed, read_table(TABLE, "predictions")["ranking"], strict=True):
        shown = [
            f"{title} ({year})"
            for item in query.candidates
            for title, year in items.loc[items["item_id"] == item, ["title", "year"]].values
        ]
        scores = TitleScorer(model, tokenizer, shown).score(context_messages(query.context))
        by_item = dict(zip(query.candidates, scores, strict=True))
        found = [by_item[item] for item in ranking]
        # The reference packs other titles together, which moves the last digits.
        assert all(a >= b - 1e-5 for a, b in pairwise(found))


def test_equal_runs_write_equal_bytes(workspace):
    run()
    first = TABLE.read_bytes(), SCORES.read_bytes()
    run()
    assert (TABLE.read_bytes(), SCORES.read_bytes()) == first
    run("--predictions", "p.parquet", "--scores", "s.json")
    assert (Path("p.parquet").read_bytes(), Path("s.json").read_bytes()) == first


def test_goes_on_after_a_kill(workspace, monkeypatch):
    from seedtalk.students.decoding import TitleScorer

    run()
    whole = TABLE.read_bytes(), SCORES.read_bytes()
    TABLE.unlink()
    SCORES.unlink()
    score, calls = TitleScorer.score, []

    def mortal(self, messages, *rest):
        calls.append(messages)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(self, messages, *rest)

    monkeypatch.setattr(TitleScorer, "score", mortal)
    run(code=1)
    assert not TABLE.exists()
    run()
    assert len(calls) == 4 + 2  # the first once more to see that the model is the same, the last
    assert (TABLE.read_bytes(), SCORES.read_bytes()) == whole
    assert not list(Path(".cache/evaluate").iterdir())


def test_the_whole_catalogue(workspace):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["evaluate"]["candidates"] = 0
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run()
    assert json.loads(SCORES.read_text())["protocol"]["name"] == "full"
    assert set(read_table(TABLE, "predictions")["ranking"].map(len)) == {38}


def test_bad_input_is_named(workspace):
    assert "'redial' is not among the conversations; there are: likes" in run(
        benchmark="redial", code=2
    )
    assert "models/nothing" in run("--model", "models/nothing", code=2)
    Path("models/toy-zero-shot/student.json").unlink()
    assert "student.json" in run(code=2)
    Path("artifacts/items.parquet").write_text("no parquet")
    assert "artifacts/items.parquet: not a readable Parquet file" in run(code=2)


def test_a_model_that_is_not_there(workspace):
    Path("models/toy-zero-shot/student.json").unlink()
    Path("models/toy-zero-shot").rmdir()
    assert "models/toy-zero-shot" in run(code=2)

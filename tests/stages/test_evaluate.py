import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from stages.evaluate import main
from tests.toy import toy_items, toy_student

from seedtalk import tracking
from seedtalk.evaluation.protocols import queries
from seedtalk.params import load_params
from seedtalk.records import SIGNALS, answer_titles, read_table, write_table
from seedtalk.students import loading
from seedtalk.students.decoding import TitleScorer
from seedtalk.students.templates import context_messages

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
    reviews = [
        {"review_id": f"r{n}", "item_id": ids[n], "user_id": None, "rating": 1.0, "text": "Good."}
        for n in range(0, 40, 2)
    ]
    write_table(Path("artifacts/reviews.parquet"), pd.DataFrame(reviews), "reviews")
    write_priors()
    folder = Path("models/toy-zero-shot")
    folder.mkdir(parents=True)
    loading.write_manifest(folder, loading.Manifest(base=str(student), tuning="zero-shot"))
    return tmp_path


def items():
    return read_table(Path("artifacts/items.parquet"), "items")


def posed():
    talk = read_table(Path("artifacts/conversations.parquet"), "conversations")
    return queries(talk, "likes", items(), load_params(Path("params.yaml")).evaluate, seed=0)


def write_priors():
    """Signals by chance: the stage takes the best of each, whatever they mean."""
    chance = np.random.default_rng(0)
    rows = [
        {
            "conversation_id": query.conversation_id,
            "query": query.turn,
            "candidates": query.candidates,
            **{name: chance.normal(size=len(query.candidates)) for name in SIGNALS},
        }
        for query in posed()
    ]
    write_table(Path("artifacts/priors/likes.parquet"), pd.DataFrame(rows), "priors")


def decode(**options):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["evaluate"] |= options
    Path("params.yaml").write_text(yaml.safe_dump(params))
    write_priors()


def run(*options, benchmark="likes", code=0):
    done = CliRunner().invoke(
        main, ["--student", "toy", "--tuning", "zero-shot", "--benchmark", benchmark, *options]
    )
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


TABLE = Path("artifacts/predictions/toy-zero-shot-likes.parquet")
SCORES = Path("results/eval/toy-zero-shot-likes.json")
POOLS = Path("artifacts/pools/toy-zero-shot-likes.parquet")
OUTS = (TABLE, SCORES, POOLS)


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
    assert found["protocol"]["name"] == "sampled-12"
    assert found["protocol"]["decoding"] == "exact"
    assert found["decoding"].pop("prompt_tokens") > 20
    assert found["decoding"] == {"popularity_correction": 0.0, "years": "ambiguous"}
    assert found["slices"]["with_reviews"]["targets"] == 4  # every second film has one
    assert len(found["digest"]) == 64
    metrics = found["systems"]["toy-zero-shot"]
    assert list(metrics) == ["recall@1", "recall@10", "ndcg@1", "ndcg@10", "mrr"]
    assert all(m["low"] <= m["mean"] <= m["high"] for m in metrics.values())
    hits = [
        target in list(row.ranking[:10]) for row in table.itertuples() for target in row.targets
    ]
    assert metrics["recall@10"]["mean"] == pytest.approx(sum(hits) / len(hits), abs=1e-6)


def brute_force(score="mean", correction=0.0):
    """Return each query's score of every title, each query and the whole catalogue by itself."""
    student = loading.load_student(Path("models/toy-zero-shot"), cache_dir=Path(".cache"))
    scorer = TitleScorer(
        *student, answer_titles(items(), "ambiguous"), normalise=score, correction=correction
    )
    ids = items()["item_id"].tolist()
    return [
        dict(zip(ids, scorer.score([context_messages(query.context)])[0], strict=True))
        for query in posed()
    ]


def test_ranks_by_likelihood(workspace):
    run()
    table, pools = read_table(TABLE, "predictions"), read_table(POOLS, "pools")
    for scores, query, row, pool in zip(
        brute_force(), posed(), table.itertuples(), pools.itertuples(), strict=True
    ):
        found = [scores[item] for item in row.ranking]
        # The reference packs other titles together, which moves the last digits.
        assert all(a >= b - 1e-5 for a, b in pairwise(found))
        assert list(pool.items) == query.candidates
        assert pool.scores == pytest.approx([scores[item] for item in pool.items], abs=1e-5)
        assert pool.system == "toy-zero-shot"


@pytest.mark.parametrize(
    ("beam", "score", "correction"), [(0, "mean", 0.0), (0, "sum", 0.5), (40, "sum", 0.0)]
)
def test_search_ranks_what_it_finds_and_pools_what_the_signals_name(
    workspace, beam, score, correction
):
    decode(
        candidates=0,
        decoding="beam",
        beam=beam,
        depth=11,
        pool=2,
        score=score,
        popularity_correction=correction,
    )
    run()
    table, pools = read_table(TABLE, "predictions"), read_table(POOLS, "pools")
    priors = read_table(Path("artifacts/priors/likes.parquet"), "priors")
    assert set(table["ranking"].map(len)) == {11}
    for scores, query, row, pool, prior in zip(
        brute_force(score, correction),
        posed(),
        table.itertuples(),
        pools.itertuples(),
        priors.to_dict("records"),
        strict=True,
    ):
        best = sorted((scores[item] for item in query.candidates), reverse=True)[:11]
        assert [scores[item] for item in row.ranking] == pytest.approx(best, abs=1e-5)
        named = {
            item
            for name in SIGNALS
            for _, item in sorted(zip(-prior[name], query.candidates, strict=True))[:2]
        }
        assert set(pool.items) == named | set(row.ranking)
        assert len(pool.items) == len(set(pool.items))
        assert pool.scores == pytest.approx([scores[item] for item in pool.items], abs=1e-5)
    assert json.loads(SCORES.read_text())["decoding"]["beam"] == beam
    kept = list(Path(".cache/popularity").glob("*")) if Path(".cache/popularity").exists() else []
    assert len(kept) == (1 if correction else 0)


def test_search_keeps_to_the_candidates(workspace):
    decode(decoding="beam", beam=4, depth=12)
    run()
    for query, row in zip(posed(), read_table(TABLE, "predictions").itertuples(), strict=True):
        assert set(row.ranking) <= set(query.candidates)


def test_a_free_list_is_ranked_as_written(workspace, monkeypatch):
    lists = iter(["1. Six Alibis\n2. No Such Film\n3. six alibis\n4. Pudding Season", "1. "])

    def write(self, requests):
        assert self.count == 11
        return [next(lists, "1. Moth Liturgy") for _ in requests]

    monkeypatch.setattr("seedtalk.students.listing.Lister.write", write)
    decode(candidates=0, decoding="free", depth=11)
    run()
    table, pools = read_table(TABLE, "predictions"), read_table(POOLS, "pools")
    shown = dict(zip(*(items()[name] for name in ("item_id", "title")), strict=True))
    ranked = [[shown[item] for item in row] for row in table["ranking"]]
    # Shorter requests are asked first.
    assert sorted(map(len, ranked)) == [0, 1, 1, 2]
    assert ["Six Alibis", "Pudding Season"] in ranked
    assert sorted(pool.tolist() for pool in pools["scores"]) == [[], [-1.0], [-1.0], [-1.0, -2.0]]
    told = json.loads(SCORES.read_text())["decoding"]
    assert (told["list"], told["listed"]) == (11, 1.5)
    assert told["linked"] == pytest.approx(5 / 6, abs=1e-4)
    assert told["repeated"] == pytest.approx(1 / 6, abs=1e-4)


def test_a_student_that_lists_nothing_finds_nothing(workspace):
    decode(candidates=0, decoding="free")
    run()
    found = json.loads(SCORES.read_text())
    assert found["systems"]["toy-zero-shot"]["mrr"]["mean"] == 0
    assert found["decoding"]["linked"] == 0


def test_priors_of_other_queries_are_refused(workspace):
    decode(decoding="beam")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["evaluate"]["candidates"] = 0
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert "the priors are of other queries (conversation c0, turn 1)" in run(code=2)


@pytest.mark.parametrize("decoding", ["exact", "beam"])
def test_equal_runs_write_equal_bytes(workspace, decoding):
    decode(decoding=decoding)
    run()
    first = [path.read_bytes() for path in OUTS]
    run()
    assert [path.read_bytes() for path in OUTS] == first
    run("--predictions", "p.parquet", "--scores", "s.json", "--pools", "o.parquet")
    assert [Path(name).read_bytes() for name in ("p.parquet", "s.json", "o.parquet")] == first


@pytest.mark.parametrize(("decoding", "method"), [("exact", "score"), ("beam", "search")])
def test_goes_on_after_a_kill(workspace, monkeypatch, decoding, method):
    monkeypatch.setattr("seedtalk.students.decoding.ROWS", 1)
    decode(decoding=decoding)
    run()
    whole = [path.read_bytes() for path in OUTS]
    for path in OUTS:
        path.unlink()
    whole_method, calls = getattr(TitleScorer, method), []

    def mortal(self, requests, *rest, **options):
        calls.append(requests)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole_method(self, requests, *rest, **options)

    monkeypatch.setattr(TitleScorer, method, mortal)
    run(code=1)
    assert not TABLE.exists()
    (partial,) = Path(".cache/evaluate").iterdir()
    assert len(partial.read_text().splitlines()) == 3
    run()
    assert len(calls) == 4 + 1
    assert [path.read_bytes() for path in OUTS] == whole
    assert not list(Path(".cache/evaluate").iterdir())


def test_the_whole_catalogue(workspace):
    decode(candidates=0)
    run()
    assert json.loads(SCORES.read_text())["protocol"]["name"] == "strict"
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


def test_the_students_run_gets_its_means_and_those_of_its_dialogues(workspace, monkeypatch):
    params, folder = load_params(Path("params.yaml")), Path("models/toy-zero-shot")
    train = Path("artifacts/dialogues/train.jsonl")
    train.parent.mkdir(parents=True)
    train.write_text("{}\n")
    told = {"fingerprint": zlib.crc32(train.read_bytes()), "fidelity": 0.5}
    Path("results").mkdir()
    Path("results/quality.json").write_text(json.dumps(told))
    store = workspace / "store"  # as of an experiment in a copy of the workspace
    monkeypatch.setenv("DVC_ROOT", str(store))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run()
    assert not (store / "mlflow.db").exists()
    with tracking.run(store, folder.name, params, dataset=train) as opened:
        opened.student(folder)
    run()
    _, experiment = tracking._experiment(store)
    (made,) = tracking._client().search_runs([experiment])
    means = json.loads(SCORES.read_text())["systems"]["toy-zero-shot"]
    assert made.data.metrics == {
        "quality.fidelity": 0.5,
        **{f"likes.{k.replace('@', '_at_')}": means[k]["mean"] for k in means},
    }


def test_a_store_that_is_away_ends_the_stage_before_its_work(workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLflow's store http://127.0.0.1:9 failed" in run(code=1)
    assert not any(path.exists() for path in OUTS)


def test_a_model_that_is_not_there(workspace):
    Path("models/toy-zero-shot/student.json").unlink()
    Path("models/toy-zero-shot").rmdir()
    assert "models/toy-zero-shot" in run(code=2)

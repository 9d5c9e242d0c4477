import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from stages.baseline import main
from tests.toy import toy_corpus, toy_encoder

from seedtalk.evaluation.baselines import OF_SIGNAL
from seedtalk.records import (
    SIGNALS,
    Dialogue,
    Message,
    read_table,
    write_json,
    write_jsonl,
    write_table,
)

ROOT = Path(__file__).parents[2]
SYSTEMS = sorted(["random", "copy-context", "neighbours-dialogues", *OF_SIGNAL.values()])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    toy_encoder(folder / "encoder")
    toy_corpus(folder)
    return folder


def turn(role, text, *items):
    return {"role": role, "text": text, "items": list(items)}


def talk(number, likes, titles):
    named = ", ".join(titles[item] for item in likes[:2])
    return {
        "conversation_id": f"c{number}",
        "benchmark": "likes",
        "turns": [
            turn("seeker", f"I liked {named}.", *likes[:2]),
            turn("recommender", "Perhaps these.", *likes[2:4]),
        ],
        "seen": likes[4:],
    }


def dialogue(review):
    said = [("user", review.text[:80]), ("assistant", "1. A title")]
    return Dialogue(
        dialogue_id=f"d-{review.review_id}",
        review_id=review.review_id,
        item_id=review.item_id,
        style="plain",
        teacher="toy",
        messages=[Message(role=role, content=text) for role, text in said],
        targets=[review.item_id],
    )


@pytest.fixture
def workspace(tmp_path, monkeypatch, toy):
    """What ingest, embed and curate would have left of the toy corpus."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"]["toy-encoder"] = str(toy / "encoder")
    params["evaluate"] |= {"candidates": 12, "cutoffs": [1, 10], "bootstrap": 200}
    params["baseline"]["encoder"] = "toy-encoder"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    items, reviews, ratings = (
        pd.read_json(toy / f"{name}.jsonl", lines=True, dtype={"timestamp": "Int64"})
        for name in ("items", "reviews", "interactions")
    )
    reviews["rating"] = None
    if "user_id" not in reviews:
        reviews["user_id"] = None
    ratings["liked"] = ratings["rating"] >= 4
    if "timestamp" not in ratings:
        ratings["timestamp"] = pd.array([pd.NA] * len(ratings), dtype="Int64")
    held = sorted(set(ratings["user_id"]))[:20]
    liked = ratings[ratings["liked"]].groupby("user_id")["item_id"].agg(list)
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    talks = pd.DataFrame([talk(n, liked[user], titles) for n, user in enumerate(held)])
    write_table(Path("artifacts/items.parquet"), items, "items")
    write_table(Path("artifacts/reviews.parquet"), reviews, "reviews")
    known = ratings[~ratings["user_id"].isin(held)]
    write_table(Path("artifacts/interactions.parquet"), known, "interactions")
    write_table(Path("artifacts/conversations.parquet"), talks, "conversations")
    write_jsonl(
        Path("artifacts/dialogues/train.jsonl"),
        map(dialogue, reviews.head(60).itertuples()),
    )
    embeddings = Path("artifacts/embeddings")
    embeddings.mkdir()
    write_json(embeddings / "encoder.json", {"encoder": "minilm", "pooling": "mean"})
    return tmp_path


def run(*options, benchmark="likes", code=0):
    done = CliRunner().invoke(main, ["--benchmark", benchmark, *options])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


PRIORS = Path("artifacts/priors/likes.parquet")
TABLE = Path("artifacts/predictions/baselines-likes.parquet")
SCORES = Path("results/eval/baselines-likes.json")


def test_writes_every_baseline_on_the_same_candidates(workspace):
    run()
    table = read_table(TABLE, "predictions")
    assert sorted(set(table["system"])) == SYSTEMS
    assert len(table) == 20 * len(SYSTEMS)
    for _, rows in table.groupby("conversation_id"):
        assert len({tuple(sorted(ranking)) for ranking in rows["ranking"]}) == 1
        assert len({tuple(targets) for targets in rows["targets"]}) == 1
    found = json.loads(SCORES.read_text())
    assert sorted(found["systems"]) == SYSTEMS
    assert found["protocol"]["score"] is None
    assert found["protocol"]["queries"] == 20

    def recall(system):
        return found["systems"][system]["recall@10"]["mean"]

    # Users of the toy corpus like one genre and half of another.
    assert recall("item-item") > recall("random")
    assert found["slices"]["with_reviews"]["queries"] > 0
    # The signals are of the same queries and candidates, in their order.
    priors = read_table(PRIORS, "priors").set_index("conversation_id")
    for _, row in table[table["system"] == "popularity"].iterrows():
        signals = priors.loc[row["conversation_id"]]
        assert sorted(row["ranking"]) == list(signals["candidates"])
        likes = dict(zip(signals["candidates"], signals["popularity"], strict=True))
        told = [likes[item] for item in row["ranking"]]
        assert told == sorted(told, reverse=True)
        assert all(len(signals[name]) == 12 for name in SIGNALS)


def test_equal_runs_write_equal_bytes(workspace):
    run()
    first = [path.read_bytes() for path in (PRIORS, TABLE, SCORES)]
    run("--priors", "q.parquet", "--predictions", "p.parquet", "--scores", "s.json")
    assert [Path(n).read_bytes() for n in ("q.parquet", "p.parquet", "s.json")] == first


def test_the_whole_catalogue_is_ranked_to_a_depth(workspace):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["evaluate"] |= {"candidates": 0, "depth": 10}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run()
    table = read_table(TABLE, "predictions")
    assert set(table["ranking"].map(len)) == {10}
    assert json.loads(SCORES.read_text())["protocol"]["name"] == "strict"
    signals = read_table(PRIORS, "priors")
    items = len(read_table(Path("artifacts/items.parquet"), "items"))
    assert (signals["candidates"].map(len) > items / 2).all()


def test_vectors_of_the_same_encoder_are_not_made_again(workspace, monkeypatch):
    from seedtalk import encoders, signals

    run()
    slow = TABLE.read_bytes()
    reviews = read_table(Path("artifacts/reviews.parquet"), "reviews")
    encode, encoded = encoders.encode, []

    def counting(texts, *rest, **options):
        encoded.append(len(texts))
        return encode(texts, *rest, **options)

    source = str(yaml.safe_load(Path("params.yaml").read_text())["models"]["toy-encoder"])
    folder = Path("artifacts/embeddings")
    items = read_table(Path("artifacts/items.parquet"), "items")
    likes = read_table(Path("artifacts/interactions.parquet"), "interactions")
    blocks = signals.Blocks(
        review=encode(reviews["text"].tolist(), source, cache_dir=Path(".cache")),
        metadata=encode(signals.item_texts(items), source, cache_dir=Path(".cache")),
        user=np.zeros((len(items), 1), dtype=np.float32),
        rows=signals.review_rows(reviews, items, likes),
    )
    signals.write_blocks(folder, blocks, {"encoder": "toy-encoder", "pooling": "mean"})
    monkeypatch.setattr(encoders, "encode", counting)
    run()
    assert sorted(encoded) == [20, 20, 60]  # the words of the queries twice, and the dialogues
    assert TABLE.read_bytes() == slow
    signals.write_blocks(folder, blocks, {"encoder": "toy-encoder", "pooling": "last"})
    run()
    assert {len(reviews), len(items)} <= set(encoded)
    (folder / "encoder.json").unlink()
    assert "encoder.json: no such file" in run(code=2)


def test_an_encoder_without_a_model_is_fitted_once_on_the_reviews(workspace, monkeypatch):
    from seedtalk import encoders, lsa

    params = yaml.safe_load(Path("params.yaml").read_text())
    params["baseline"] |= {"encoder": "lsa"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    reviews = read_table(Path("artifacts/reviews.parquet"), "reviews")["text"].tolist()
    fit, fitted = lsa.fit, []
    monkeypatch.setattr(lsa, "fit", lambda texts: fitted.append(texts) or fit(texts))
    monkeypatch.setattr(encoders, "_load", lambda *_: pytest.fail("a model was read"))
    run()
    assert fitted == [reviews]


def test_bad_input_is_named(workspace):
    assert "'redial' is not among the conversations; there are: likes" in run(
        benchmark="redial", code=2
    )
    Path("artifacts/dialogues/train.jsonl").write_text("")
    assert "no training dialogues" in run(code=2)
    Path("artifacts/dialogues/train.jsonl").write_text('{"dialogue_id": 3}\n')
    assert "train.jsonl, row 1, field 'dialogue_id'" in run(code=2)

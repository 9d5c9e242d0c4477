"""The embed stage: blocks that fit together, byte-equal on a second run, clear errors."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from tests.pipeline.test_contract import ROOT, command
from tests.toy import toy_corpus, toy_encoder, toy_student

from seedtalk.encoders import encode
from seedtalk.records import write_table
from seedtalk.signals import item_texts, read_blocks

PLACES = ("reviews", "items", "interactions")


def tables(folder):
    read = {name: pd.read_json(folder / f"{name}.jsonl", lines=True) for name in PLACES}
    read["interactions"]["liked"] = read["interactions"]["rating"] >= 4
    return read


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small only lose time to more
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    toy_encoder(folder / "encoder")
    toy_student(folder / "student")
    return toy_corpus(folder)


@pytest.fixture
def site(toys, tmp_path, monkeypatch):
    """Lay out what ingest writes, with params that name the toys."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, frame in tables(toys).items():
        write_table(tmp_path / "artifacts" / f"{name}.parquet", frame, name)
    write_params(toys, tmp_path)
    return tmp_path


def write_params(toys, folder, encoder="toy-encoder", **change):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"] |= {"toy-encoder": str(toys / "encoder"), "toy": str(toys / "student")}
    params["embed"] |= {"encoder": encoder, "user_factors": 8, **change}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def embed(*arguments):
    return CliRunner().invoke(command("embed"), list(arguments), catch_exceptions=False)


def test_blocks_line_up_with_their_rows(site, toys):
    done = embed()
    assert done.exit_code == 0, done.output
    blocks, read = read_blocks(site / "artifacts/embeddings"), tables(toys)
    assert blocks.rows["review_id"].tolist() == sorted(read["reviews"]["review_id"])
    by_id = read["reviews"].set_index("review_id")
    row = blocks.rows.iloc[123]
    places = {"cache_dir": site}
    alone = encode([by_id.loc[row["review_id"], "text"]], str(toys / "encoder"), **places)
    assert blocks.review[123] == pytest.approx(alone[0], abs=1e-5)
    assert row["rating"] == pytest.approx(by_id.loc[row["review_id"], "rating"])
    assert row["item_id"] == by_id.loc[row["review_id"], "item_id"]
    item = read["items"].sort_values("item_id").iloc[[row["item_row"]]]
    assert item["item_id"].iloc[0] == row["item_id"]
    alone = encode(item_texts(item), str(toys / "encoder"), **places)
    assert blocks.metadata[row["item_row"]] == pytest.approx(alone[0], abs=1e-5)
    assert row["popularity"] == (read["interactions"]["item_id"] == row["item_id"]).sum()
    assert blocks.user.shape == (40, 8)
    about = json.loads((site / "artifacts/embeddings/encoder.json").read_text())
    assert about == {
        "encoder": "toy-encoder",
        "pooling": "mean",
        "normalize": True,
        "max_tokens": 128,
        "shapes": {"review": [300, 32], "metadata": [40, 32], "user": [40, 8]},
    }


def test_a_second_run_gives_the_same_bytes_and_leaves_no_parts(site):
    folder = site / "artifacts/embeddings"
    embed()
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    embed()
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not list((site / ".cache").rglob("*.npy"))
    assert not any(str(site).encode() in content for content in first.values())


def test_a_cut_off_run_keeps_its_parts_and_no_output(site, monkeypatch):
    from seedtalk import encoders

    monkeypatch.setattr(encoders, "_PART", 64)
    real, calls = encoders._forward, []

    def forward(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(encoders, "_forward", forward)
    assert embed().exit_code != 0
    assert not (site / "artifacts/embeddings").exists()
    kept = list((site / ".cache").rglob("*.npy"))
    assert kept
    calls.append(1)
    assert embed().exit_code == 0
    assert not list((site / ".cache").rglob("*.npy"))


def test_a_student_is_an_encoder_through_its_last_layer(site, toys):
    write_params(toys, site, encoder="toy", pooling="last", normalize=False, max_tokens=64)
    assert embed().exit_code == 0
    blocks, read = read_blocks(site / "artifacts/embeddings"), tables(toys)
    texts = read["reviews"].sort_values("review_id")["text"].tolist()[:3]
    options = {"pooling": "last", "normalize": False, "max_tokens": 64}
    alone = encode(texts, str(toys / "student"), cache_dir=site, **options)
    assert blocks.review[:3] == pytest.approx(alone, abs=1e-4)


def test_latent_semantic_analysis_needs_no_model_and_is_fitted_once(site, toys, monkeypatch):
    from seedtalk import encoders, lsa

    monkeypatch.setattr(encoders, "_load", lambda *_: pytest.fail("a model was read"))
    write_params(toys, site, encoder="lsa", max_tokens=20)
    folder = site / "artifacts/embeddings"
    assert embed().exit_code == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    blocks, read = read_blocks(folder), tables(toys)
    reviews = read["reviews"].sort_values("review_id")["text"].tolist()
    fitted = lsa.fit(reviews)
    options = {"max_tokens": 20, "cache_dir": site}
    assert (np.asarray(blocks.review) == encode(reviews, fitted, **options)).all()
    # The items are placed among the reviews, not fitted apart.
    items = item_texts(read["items"].sort_values("item_id"))
    assert (np.asarray(blocks.metadata) == encode(items, fitted, **options)).all()
    assert np.linalg.norm(blocks.review, axis=1) == pytest.approx(np.ones(300), abs=1e-5)
    assert json.loads(first["encoder.json"])["encoder"] == "lsa"
    assert embed().exit_code == 0
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_every_pooling_of_a_students_last_layer_is_offered(site, toys, pooling):
    write_params(toys, site, encoder="toy", pooling=pooling, max_tokens=32)
    assert embed().exit_code == 0
    blocks, read = read_blocks(site / "artifacts/embeddings"), tables(toys)
    texts = read["reviews"].sort_values("review_id")["text"].tolist()[:3]
    options = {"pooling": pooling, "max_tokens": 32}
    alone = encode(texts, str(toys / "student"), cache_dir=site, **options)
    assert blocks.review[:3] == pytest.approx(alone, abs=1e-5)


def test_errors_name_what_mends_them(site, toys):
    write_params(toys, site, encoder="minilm")
    done = embed()
    assert done.exit_code == 2
    assert "minilm" in done.output and "seedtalk fetch quickstart" in done.output
    write_params(toys, site)
    reviews = tables(toys)["reviews"]
    reviews.loc[5, "item_id"] = "lost"
    write_table(site / "artifacts/reviews.parquet", reviews, "reviews")
    done = embed()
    assert done.exit_code == 2
    assert "field 'item_id': 'lost' is not among the items" in done.output
    assert not (site / "artifacts/embeddings").exists()


def test_items_without_interactions_have_no_factors(site, toys):
    likes = tables(toys)["interactions"]
    write_table(
        site / "artifacts/interactions.parquet", likes[likes["item_id"] != "f003"], "interactions"
    )
    assert embed().exit_code == 0
    blocks = read_blocks(site / "artifacts/embeddings")
    assert not blocks.user[3].any()
    assert np.abs(blocks.user).sum(axis=1).astype(bool).sum() == 39
    of_item = blocks.rows["item_id"] == "f003"
    assert set(blocks.rows.loc[of_item, "popularity"]) == {0}

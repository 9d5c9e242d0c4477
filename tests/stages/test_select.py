"""The select stage: its outputs agree with one another, and bad requests end with code 2."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from tests.pipeline.test_contract import ROOT, command

from seedtalk import signals
from seedtalk.records import Seed, read_jsonl
from seedtalk.selection import METHODS, select

OUTPUTS = (
    "artifacts/seeds.jsonl",
    "artifacts/map.parquet",
    "results/gain.csv",
    "results/gains.csv",
    "results/overlap.csv",
    "results/selection.json",
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Write blocks of 120 reviews about 20 items, every sixth rated low, one unrated."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    item_row = rng.integers(0, 20, 120).astype(np.int32)
    rating = np.where(np.arange(120) % 6 == 0, 0.2, 0.8).astype(np.float32)
    rating[6] = np.nan
    rows = pd.DataFrame(
        {
            "review_id": [f"r{n:03d}" for n in range(120)],
            "item_id": [f"i{n:02d}" for n in item_row],
            "rating": rating,
            "item_row": item_row,
            "popularity": (item_row % 7).astype(np.int32),
            "genre": np.array(["Crime", "Horror", "Comedy", ""])[item_row % 4],
        }
    )
    blocks = signals.Blocks(
        rng.normal(size=(120, 8)).astype(np.float32),
        rng.normal(size=(20, 8)).astype(np.float32),
        rng.normal(size=(20, 4)).astype(np.float32),
        rows,
    )
    signals.write_blocks(tmp_path / "artifacts/embeddings", blocks, {"encoder": "toy"})
    return tmp_path


def run(site, **change):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (site / "none.jsonl").write_text("")
    small = {"budget": 25, "clusters": 6, "max_per_item": 3, "compare": ["random"]}
    params["select"] |= small | {"warm_start": "none.jsonl"} | change
    (site / "params.yaml").write_text(yaml.safe_dump(params))
    return CliRunner().invoke(command("select"), [], catch_exceptions=False)


@pytest.mark.parametrize("signal", signals.SIGNALS)
@pytest.mark.parametrize("method", METHODS)
def test_outputs_agree_with_the_core_and_one_another(site, method, signal):
    done = run(site, method=method, signal=signal)
    assert done.exit_code == 0, done.output
    blocks = signals.read_blocks(site / "artifacts/embeddings")
    pool = [n for n in range(120) if n % 6 or n == 6]  # the unrated stay
    rows = blocks.rows.iloc[pool]
    X = signals.compose(
        blocks.review, blocks.metadata, blocks.user, pool, rows["item_row"].to_numpy(), signal, 0.5
    )
    items = rows["item_id"].to_numpy(dtype=str)
    chosen = select(
        X,
        25,
        method,
        clusters=6,
        max_per_item=3,
        items=items,
        popularity=rows["popularity"],
    )
    seeds = read_jsonl(site / "artifacts/seeds.jsonl", Seed)
    ids = rows["review_id"].to_numpy(dtype=str)[chosen.indices]
    assert [seed.review_id for seed in seeds] == ids.tolist()
    assert [seed.item_id for seed in seeds] == items[chosen.indices].tolist()
    assert [seed.rank for seed in seeds] == list(range(25))
    gain = pd.read_csv(site / "results/gain.csv")
    assert gain.columns.tolist() == ["rank", "gain", "cumulative"]
    assert gain["gain"].tolist() == [seed.score for seed in seeds]
    assert gain["gain"].to_numpy() == pytest.approx(chosen.gains, abs=1e-9)
    drawn = pd.read_parquet(site / "artifacts/map.parquet")
    assert len(drawn) == len(pool)
    picked = drawn.dropna(subset=["rank"]).sort_values("rank")
    assert picked["review_id"].tolist() == ids.tolist()
    numbers = json.loads((site / "results/selection.json").read_text())
    told = {"method": method, "signal": signal, "signal_weight": 0.5, "budget": 25, "pool": 101}
    assert {key: numbers[key] for key in told} == told
    assert numbers["most_per_item"] <= 3
    assert numbers["strategies"][method]["distinct_items"] == numbers["distinct_items"]
    assert numbers["sweep"][-1] | {"budget": 0, "gain": 0} == numbers["strategies"][method] | {
        "budget": 0,
        "gain": 0,
    }
    assert numbers["picks_per_cluster"] == [
        int((picked["cluster"] == cluster).sum()) for cluster in range(6)
    ]


def test_a_second_run_gives_the_same_bytes(site):
    run(site)
    first = [(site / name).read_bytes() for name in OUTPUTS]
    run(site)
    assert first == [(site / name).read_bytes() for name in OUTPUTS]
    assert not any(str(site).encode() in content for content in first)


def test_a_smaller_budget_gives_the_first_seeds(site):
    run(site)
    whole = (site / "artifacts/seeds.jsonl").read_bytes()
    run(site, budget=9)
    assert whole.startswith((site / "artifacts/seeds.jsonl").read_bytes())


def test_going_on_from_seeds_keeps_them_first(site):
    run(site, budget=34)
    whole = (site / "artifacts/seeds.jsonl").read_text().splitlines()
    old = [json.loads(line) | {"score": 7.5} for line in whole[:9]]
    (site / "old.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in old))
    done = run(site, warm_start="old.jsonl")
    assert done.exit_code == 0, done.output
    seeds = [json.loads(line) for line in (site / "artifacts/seeds.jsonl").open()]
    assert seeds[:9] == old  # with their scores
    assert [seed["rank"] for seed in seeds] == list(range(34))
    assert [s["review_id"] for s in seeds[9:]] == [json.loads(s)["review_id"] for s in whole[9:]]
    gain = pd.read_csv(site / "results/gain.csv")
    assert gain["rank"].tolist() == list(range(9, 34))
    numbers = json.loads((site / "results/selection.json").read_text())
    assert (numbers["warm_start"], numbers["budget"]) == (9, 25)
    assert numbers["stopping"]["reference"] == 7.5  # the seeds before are part of the selection
    assert sum(numbers["picks_per_cluster"]) == 34
    assert sum(group["picks"] for group in numbers["groups"].values()) == 34
    drawn = pd.read_parquet(site / "artifacts/map.parquet").dropna(subset=["rank"])
    assert len(drawn) == 34


@pytest.mark.parametrize(
    ("review_id", "message"),
    [("r999", "'r999' is not in the pool"), ("r000", "'r000' is not in the pool")],
)
def test_a_warm_start_outside_the_pool_is_named(site, review_id, message):
    seed = {"rank": 0, "review_id": review_id, "item_id": "i00", "score": 1.0}
    (site / "old.jsonl").write_text(json.dumps(seed) + "\n")
    done = run(site, warm_start="old.jsonl")
    assert done.exit_code == 2
    assert "old.jsonl, row 1, field 'review_id'" in done.output
    assert message in done.output.replace("\n", " ")


@pytest.mark.parametrize("group", ["genre", "popularity"])
def test_every_group_gets_its_least(site, group):
    params = {"group": group, "method": "popularity", "max_per_item": 0}
    run(site, **params)
    free = json.loads((site / "results/selection.json").read_text())["groups"]
    assert min(counts["picks"] for counts in free.values()) < 6
    assert run(site, **params, min_per_group=6).exit_code == 0
    kept = json.loads((site / "results/selection.json").read_text())["groups"]
    assert min(counts["picks"] for counts in kept.values()) >= 6
    assert set(kept) == (
        {"Crime", "Horror", "Comedy", "unknown"} if group == "genre" else {"head", "middle", "tail"}
    )
    assert sum(counts["pool"] for counts in kept.values()) == 101


def test_a_group_that_cannot_give_its_least_is_named(site):
    done = run(site, min_per_group=9, budget=20, max_per_item=1)
    assert done.exit_code == 2
    assert "select.min_per_group" in done.output


def test_every_strategy_is_held_beside(site):
    assert run(site, compare=list(METHODS), method="fisher").exit_code == 0
    numbers = json.loads((site / "results/selection.json").read_text())
    assert list(numbers["strategies"]) == list(METHODS)
    assert numbers["skipped"] == {}
    overlap = pd.read_csv(site / "results/overlap.csv")
    assert len(overlap) == 21 * 5  # pairs of seven, budgets of a sweep
    gains = pd.read_csv(site / "results/gains.csv")
    assert gains.groupby("method").size().to_dict() == dict.fromkeys(METHODS, 25)
    own = gains[gains["method"] == "fisher"]["gain"]
    assert own.tolist() == pd.read_csv(site / "results/gain.csv")["gain"].tolist()


def test_nothing_beside_is_an_empty_table(site):
    assert run(site, compare=[]).exit_code == 0
    numbers = json.loads((site / "results/selection.json").read_text())
    assert list(numbers["strategies"]) == ["js"]
    overlap = pd.read_csv(site / "results/overlap.csv")
    assert overlap.columns.tolist() == ["a", "b", "budget", "shared", "jaccard"]
    assert not len(overlap)


def test_a_missing_gpu_is_named(site, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (site / "none.jsonl").write_text("")
    params["select"] |= {"budget": 9, "clusters": 6, "warm_start": "none.jsonl", "device": "cuda"}
    (site / "params.yaml").write_text(yaml.safe_dump(params))
    done = CliRunner().invoke(command("select"), [])
    assert done.exit_code == 2
    assert "cuda" in done.output


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"budget": 102, "max_per_item": 0}, ["select.budget", "102", "101 reviews"]),
        ({"budget": 90}, ["select.budget", "90", "select.max_per_item=3"]),
        ({"clusters": 102}, ["select.clusters", "102", "101 reviews"]),
        ({"clusters": 102, "method": "hybrid"}, ["select.clusters"]),
        ({"min_rating": 0.9, "budget": 2}, ["select.budget", "pool of 1 reviews"]),
    ],
)
def test_what_the_pool_cannot_give_ends_with_code_2_and_no_output(site, change, messages):
    done = run(site, **change)
    assert done.exit_code == 2
    assert all(message in done.output for message in messages), done.output
    assert not any((site / name).exists() for name in OUTPUTS)


def test_methods_without_clusters_do_not_ask_for_them(site):
    assert run(site, method="fisher", clusters=500).exit_code == 0


def test_a_missing_block_is_named(site):
    (site / "artifacts/embeddings/user.npy").unlink()
    done = run(site)
    assert done.exit_code == 2
    assert "user.npy" in done.output


def test_the_stage_file_does_not_hide_the_standard_module_of_its_name():
    """`python stages/x.py` puts stages/ first on the path, and subprocess imports `select`."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'stages')!r}); import subprocess, select"
    checked = f"{code}; assert select.select, select"
    subprocess.run([sys.executable, "-c", checked], check=True)

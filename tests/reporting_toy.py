"""A made-up run, as the stages before the report would leave it; all content is generated."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from seedtalk.evaluation import results
from seedtalk.evaluation.metrics import rank
from seedtalk.evaluation.protocols import Query
from seedtalk.params import load_params
from seedtalk.records import (
    Dialogue,
    Message,
    Provenance,
    Rejected,
    write_json,
    write_jsonl,
    write_table,
)
from seedtalk.reporting.inputs import NEARNESS, QUALITY, audited

CUTOFFS = (1, 5, 10, 20)
OPTIONS = load_params(Path(__file__).parents[1] / "params.yaml").evaluate.model_copy(
    update={"candidates": 50, "cutoffs": CUTOFFS, "bootstrap": 200, "decoding": "exact"}
)
SHARP = {  # how well each system sees the targets
    "tiny-lora": 1.3,
    "tiny-zero-shot": 0.25,
    "tiny-lora-blend": 2.2,
    "tiny-zero-shot-blend": 1.5,
    "signals": 1.5,
    "popularity": 0.9,
    "copy-context": 0.0,
    "item-item": 1.4,
    "neighbours-dialogues": 2.0,
    "neighbours-reviews": 0.6,
}
STRATEGIES = ("js", "fisher", "random")
REASONS = ("leak", "too_short", "near_duplicate", "no_recommendations")
LINE = (
    "the a story film music scene slow bright dark funny long quiet city actor ending plot war "
    "love robot train night storm family hero money letter island winter comedy mystery"
)


def make_run(
    root: Path,
    *,
    students=("tiny",),
    tunings=("zero-shot", "lora"),
    benchmarks=("likes",),
    sharp=SHARP,
    conversations=120,
    pool=900,
    budget=160,
    seed=0,
) -> Path:
    """Write every input of the report under `root`, at the stages' default paths."""
    rng = np.random.default_rng(seed)
    items = pd.DataFrame(
        {
            "item_id": [f"i{n:03d}" for n in range(80)],
            "title": [_say(rng, 2).title() for _ in range(80)],
            "year": pd.array([1960 + n for n in range(79)] + [None], dtype="Int32"),
            "genres": [["Drama"]] * 80,
            "description": [""] * 80,
        }
    )
    reviews = pd.DataFrame(
        {
            "review_id": [f"r{n:04d}" for n in range(pool)],
            "item_id": [f"i{int(n):03d}" for n in rng.zipf(1.5, pool) % 80],
            "user_id": [None] * pool,
            "rating": rng.random(pool).astype("float32"),
            "text": [_say(rng, int(rng.integers(40, 260))) for _ in range(pool)],
        }
    )
    write_table(root / "artifacts/items.parquet", items, "items")
    write_table(root / "artifacts/reviews.parquet", reviews, "reviews")
    _counts(root, pool, budget)
    _quality(root, benchmarks)
    _selection(root, rng, reviews, budget)
    _dialogues(root, rng, reviews, budget)
    for student in students:
        for tuning in tunings:
            _loss(root / f"results/train/{student}-{tuning}.csv", rng, empty=tuning == "zero-shot")
    for benchmark in benchmarks:
        _evaluations(root, rng, benchmark, students, tunings, sharp, conversations)
    return root


def _say(rng, count):
    return " ".join(rng.choice(LINE.split(), count)).capitalize() + "."


def _counts(root, pool, budget):
    write_json(
        root / "results/corpus.json",
        {
            "source": "toy",
            "origin": {"invented": "1.0", "folder": "/srv/private/shop"},
            "linking": {"level": "balanced", "linked": 1211},
            "items": {
                "read": 95,
                "dropped": {"no_title": 0, "below_min_item_ratings": 15},
                "kept": 80,
                "with_reviews": 61,
            },
            "reviews": {
                "read": pool + 9515,
                "dropped": {"no_title_found": 9204, "too_short": 311, "odd_new_reason": 0},
                "kept": pool,
            },
            "interactions": {"read": 41000, "kept": 40210, "users": 650, "held_out_users": 120},
        },
    )
    teacher = {
        "backend": "extractive",
        "model": "extractive",
        "requests": budget,
        "answered": budget - 2,
        "failed": 2,
        "tokens": {"input": 81234, "output": 12345},
        "usd": 1.5,
        "spent": {"calls": budget + 40, "usd": 2.25},
    }
    write_json(root / "results/teacher.json", teacher)
    write_json(
        root / "results/synthesis.json",
        {
            "teacher": teacher,
            "grounding": "review",
            "targets": "collaborative",
            "kept": budget - 20,
            "train": budget - 34,
            "valid": 14,
            "quarantined": {"failed_request": 2, "leak": 11, "near_duplicate": 7, "language": 0},
            "titles_listed": 790,
            "hallucination_rate": 0.0312,
            "hallucination": {
                "kinds": {"linked": 760, "misspelt": 5, "near_miss": 10, "unknown": 15},
                "by_style": {
                    "plain": {"listed": 500, "unlinked": 20, "rate": 0.04},
                    "mood": {"listed": 0, "unlinked": 0, "rate": None},
                },
                "titles": [{"title": "<i>Nowhere</i> (1999)", "count": 3}],
            },
            "contamination": {"max": 0.72},
            "distinct_items": 38,
            "distinct_targets": 55,
        },
    )


def _quality(root, benchmarks):
    values = {name: 0.5 + 0.01 * n for n, name in enumerate(QUALITY)}
    values |= {audited(b, name): 0.25 for b in benchmarks for name in NEARNESS}
    write_json(root / "results/quality.json", {"fingerprint": 1, **values, "fidelity_mrr": None})


def _selection(root, rng, reviews, budget):
    pool = len(reviews)
    centres = rng.normal(0, 2.2, (12, 2))
    cluster = rng.choice(12, pool, p=np.arange(12, 0, -1) / 78)
    place = centres[cluster] + rng.normal(0, 0.7, (pool, 2))
    rank_of = pd.array([None] * pool, dtype="Int32")
    for number, row in enumerate(rng.choice(pool, budget, replace=False)):
        rank_of[int(row)] = number
    points = pd.DataFrame(
        {
            "review_id": reviews["review_id"],
            "x": place[:, 0].astype("float32"),
            "y": place[:, 1].astype("float32"),
            "cluster": cluster.astype("int32"),
            "rank": rank_of,
        }
    )
    points.to_parquet(root / "artifacts/map.parquet", index=False)
    picked = points[points["rank"].notna()]
    of_items = reviews.loc[picked.index, "item_id"].value_counts()
    write_json(
        root / "results/selection.json",
        {
            "method": "js",
            "signal": "review",
            "pool": pool,
            "pool_items": int(reviews["item_id"].nunique()),
            "clusters": 12,
            "temperature": 0.0731,
            "mean_entropy": 1.242,
            "entropy_share": 0.5,
            "distinct_items": len(of_items),
            "most_per_item": int(of_items.max()),
            "pool_per_cluster": np.bincount(cluster, minlength=12).tolist(),
            "picks_per_cluster": np.bincount(picked["cluster"], minlength=12).tolist(),
            "diagnostics": {
                "clusters": {"silhouette": 0.031, "occupied": 9.7, "one_hot_share": 0.08},
                "embedding": {
                    "mean_cosine": 0.21,
                    "effective_rank": 61.3,
                    "features": 384,
                    "hubness": 1.9,
                    "duplicate_share": 0.0011,
                },
                "chance_overlap": 0.0976,
                "warnings": ["the <b>12</b> clusters hardly separate (silhouette 0.03)"],
            },
            "stopping": {"share": 0.1, "reference": 0.55, "budget": 90, "last_share": 0.06},
            "strategies": {name: _strategy(n) for n, name in enumerate(STRATEGIES)},
            "random_interval": {key: [v, v * 1.2] for key, v in _strategy(2).items()},
        },
    )
    pairs = [(a, b) for n, a in enumerate(STRATEGIES) for b in STRATEGIES[n + 1 :]]
    rows = [(a, b, c, c // 4, 0.14) for a, b in pairs for c in (budget // 2, budget)]
    overlap = pd.DataFrame(rows, columns=["a", "b", "budget", "shared", "jaccard"])
    overlap.to_csv(root / "results/overlap.csv", index=False)
    curves = [
        (name, rank, 0.5 / (1 + rank), None if name == "random" else 1 / (1 + rank))
        for name in STRATEGIES
        for rank in range(budget)
    ]
    gains = pd.DataFrame(curves, columns=["method", "rank", "gain", "share"])
    gains.to_csv(root / "results/gains.csv", index=False)
    gains = 0.55 / np.sqrt(1 + np.arange(budget)) + 0.03 * rng.random(budget)
    frame = pd.DataFrame({"rank": range(budget), "gain": gains, "cumulative": gains.cumsum()})
    frame.to_csv(root / "results/gain.csv", index=False)


def _strategy(number):
    return {
        "log_det": 210.5 + number,
        "js_to_pool": 0.01 * (number + 1),
        "coverage": 0.6 - 0.02 * number,
        "radius": 0.8,
        "outlier_share": 0.05,
        "distinct_items": 40 + number,
        "item_entropy": 0.9,
    }


def _dialogues(root, rng, reviews, budget):
    kept = [_dialogue(rng, n, reviews.iloc[n * 3]) for n in range(budget - 20)]
    rejected = [
        Rejected(
            dialogue_id=f"x{n}",
            reason=REASONS[int(rng.integers(0, len(REASONS)))],
            detail="<b>Escaped & shown</b>",
            text="<script>alert('x')</script> " + _say(rng, 90),
        )
        for n in range(18)
    ]
    folder = root / "artifacts/dialogues"
    write_jsonl(folder / "train.jsonl", kept[14:])
    write_jsonl(folder / "valid.jsonl", kept[:14])
    write_jsonl(folder / "quarantine.jsonl", rejected)
    valid = {dialogue.dialogue_id for dialogue in kept[:14]}
    write_jsonl(
        folder / "provenance.jsonl",
        [
            *(_provenance(d, "valid" if d.dialogue_id in valid else "train") for d in kept),
            *(_provenance(r, "quarantined", r.reason) for r in rejected),
        ],
    )


def _provenance(record, verdict, reason=None):
    return Provenance(
        dialogue_id=record.dialogue_id,
        review_id=getattr(record, "review_id", "r0001"),
        item_id=getattr(record, "item_id", "i001"),
        style=getattr(record, "style", "plain"),
        prompt="ab" * 32,
        messages="12" * 32,
        request_key=None if reason == "leak" else "cd" * 32,
        backend="extractive",
        model="extractive",
        response_digest="ef" * 32,
        verdict=verdict,
        reason=reason,
        filters={
            "query_chars": 214,
            "hallucinated": ["<i>Nowhere</i> (1999)"],
            "nearest": {"dialogue": "d0001", "similarity": 0.25},
            "contamination": None,
        },
    )


def _dialogue(rng, number, review):
    answer = "\n".join(f"{n}. {_say(rng, 2).title()} (199{n})" for n in range(1, 6))
    return Dialogue(
        dialogue_id=f"d{number:04d}",
        review_id=str(review["review_id"]),
        item_id=str(review["item_id"]),
        style=("plain", "mood", "likes")[number % 3],
        teacher="extractive",
        messages=[
            Message(role="system", content="You recommend films."),
            Message(role="user", content="I'm looking for <i>something</i> " + _say(rng, 30)),
            Message(role="assistant", content=answer),
        ],
        targets=[f"i{n:03d}" for n in range(5)],
    )


def _loss(path, rng, empty):
    steps = np.arange(0, 165, 5)
    frame = pd.DataFrame(
        {
            "step": steps,
            "epoch": steps / 40,
            "loss": 2.9 * np.exp(-steps / 60) + 1.1 + 0.08 * rng.random(len(steps)),
            "eval_loss": None,
            "context_loss": None,
        }
    )
    looks = frame["step"] % 20 == 0
    frame.loc[0, "loss"] = None  # the untouched model is only looked at
    frame.loc[looks, "eval_loss"] = 2.4 * np.exp(-steps[::4] / 60) + 1.5
    frame.loc[looks, "context_loss"] = 3.1 + steps[::4] / 4000
    path.parent.mkdir(parents=True, exist_ok=True)
    (frame.iloc[:0] if empty else frame).to_csv(path, index=False)


def _evaluations(root, rng, benchmark, students, tunings, sharp, conversations):
    ids = [f"i{n:03d}" for n in range(80)]
    queries = []
    for number in range(conversations):
        candidates = sorted(rng.choice(ids, 50, replace=False).tolist())
        targets = rng.choice(candidates, 5, replace=False).tolist()
        queries.append(Query(f"c{number:03d}", 1, [], [], targets, candidates))
    tuned = [f"{student}-{tuning}" for student in students for tuning in tunings]
    files = {name: [name] for name in tuned}
    files |= {f"{name}-blend": [f"{name}-blend", "signals"] for name in tuned}
    files["baselines"] = [
        name for name in sharp if name != "signals" and not name.startswith(tuple(students))
    ]
    signals = rng.normal(size=(conversations, 50))  # the same in every blend's file
    for stem, systems in files.items():
        rankings = {
            system: [
                rank(
                    query.candidates,
                    (signals[place] if system == "signals" else rng.normal(size=50))
                    + sharp.get(system, 1.0) * np.isin(query.candidates, query.targets),
                )
                for place, query in enumerate(queries)
            ]
            for system in systems
        }
        frame = results.predictions(queries, rankings)
        write_table(
            root / f"artifacts/predictions/{stem}-{benchmark}.parquet", frame, "predictions"
        )
        write_json(
            root / f"results/eval/{stem}-{benchmark}.json",
            results.scores(
                benchmark,
                queries,
                frame,
                OPTIONS,
                seed=0,
                score=None if stem == "baselines" else "mean",
                reviewed=ids[:30],
            ),
        )


def change(path: Path, **values) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text())
    for key, value in values.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))

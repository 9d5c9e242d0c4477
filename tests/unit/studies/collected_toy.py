"""A study's collected files, made of seeded random numbers."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

SYSTEMS = ("tiny-lora", "tiny-zero-shot")


def declaration(**changes):
    """Return a study.yaml's content."""
    return {
        "title": "Do chosen seeds beat random ones?",
        "question": "Whether what is chosen teaches more.",
        "targets": ["report"],
        "factors": {
            "method": {m: {"select.method": m} for m in ("js", "popularity", "random")},
            "budget": {b: {"select.budget": b} for b in (10, 20)},
        },
        "seeds": [0, 1, 2],
        "scores": {"benchmarks": ["likes"], "systems": list(SYSTEMS)},
        "measures": ["quality.fidelity", "selection.coverage"],
        "compare": {
            "factor": "method",
            "reference": "random",
            "along": "budget",
            "metric": "recall@5",
            "metrics": ["recall@5", "ndcg@10"],
        },
        "minutes": 2.5,
        **changes,
    }


def make_study(
    path: Path,
    study=None,
    effects=None,
    conversations=40,
    noise=0.15,
    skip=(),
    shared=True,
    teacher="extractive",
):
    """Write study.yaml and the collected files below `path`; `effects` adds to a level's scores.

    `skip` holds (levels, seed) of runs not made; `shared` lets seeds share their conversations.
    """
    import itertools

    study = declaration() if study is None else study
    effects = effects or {}
    path.mkdir(parents=True, exist_ok=True)
    (path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    runs, measures, scores = [], [], []
    factors = study["factors"]
    for levels in itertools.product(*([str(v) for v in one] for one in factors.values())):
        for seed in study["seeds"]:
            if (levels, seed) in skip:
                continue
            run = "-".join([path.name, *levels, f"s{seed}"])
            rng = np.random.default_rng(int(hashlib.sha256(run.encode()).hexdigest()[:8], 16))
            gain = sum(effects.get(level, 0.0) for level in levels)
            runs.append(
                {
                    "run": run,
                    "teacher": teacher,
                    **dict(zip(factors, levels, strict=True)),
                    "seed": seed,
                    "commit": "0a1b2c3",
                    "dialogues": 90 + seed,
                }
            )
            measures += [
                {"run": run, "measure": name, "value": round(float(v), 6)}
                for name, v in zip(
                    study["measures"], 0.6 + gain + 0.02 * rng.random(9), strict=False
                )
            ]
            hard = np.random.default_rng(0 if shared else seed).normal(0, 0.2, conversations)
            for benchmark in study["scores"]["benchmarks"]:
                for system in study["scores"]["systems"]:
                    for metric in study["compare"]["metrics"]:
                        moved = gain if system == study["scores"]["systems"][0] else 0.0
                        wobble = rng.normal(0, noise, conversations)
                        if system != study["scores"]["systems"][0]:
                            wobble = 0
                        values = np.clip(0.45 + hard + moved + wobble, 0, 1)
                        for number, value in enumerate(values):
                            name = f"c{number}" if shared else f"s{seed}-c{number}"
                            weight = 1.0 + number % 3 if metric.startswith("recall") else 1.0
                            scores.append(
                                [run, benchmark, system, name, metric, float(value), weight]
                            )
    last = [name for name in ("teacher", "dialogues") if name not in factors]
    columns = ["run", *factors, "seed", "commit", *last]
    pd.DataFrame(runs)[columns].sort_values("run").to_csv(path / "runs.csv", index=False)
    pd.DataFrame(measures, columns=["run", "measure", "value"]).to_csv(
        path / "measures.csv", index=False
    )
    columns = ["run", "benchmark", "system", "conversation_id", "metric", "value", "weight"]
    pd.DataFrame(scores, columns=columns).to_parquet(path / "scores.parquet")
    return path

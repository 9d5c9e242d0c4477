"""The stages from seeds to dialogues, run one after the other on made-up tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from click.testing import CliRunner, Result
from stages.curate import main as curate
from stages.generate import main as generate
from stages.prompt import main as prompt
from tests import domain

from seedtalk import records

NAMES = {
    prompt: "seeds.jsonl reviews.parquet items.parquet interactions.parquet requests.jsonl "
    "grounding.jsonl",
    generate: "requests.jsonl responses.jsonl teacher.json",
    curate: "responses.jsonl grounding.jsonl items.parquet conversations.parquet teacher.json "
    "dialogues synthesis.json",
}
OPTIONS = {(generate, "teacher.json"): "summary", (curate, "synthesis.json"): "summary"}


def tables(
    folder: Path,
    reviews: pd.DataFrame | None = None,
    items: pd.DataFrame | None = None,
    **params: dict[str, Any],
) -> Path:
    """Write the made-up tables, some replaced, and the parameters."""
    domain.write_tables(folder)
    if items is not None:
        records.write_table(folder / "items.parquet", items, "items")
    if reviews is not None:
        records.write_table(folder / "reviews.parquet", reviews, "reviews")
        told = zip(reviews["review_id"], reviews["item_id"], strict=True)
        records.write_jsonl(
            folder / "seeds.jsonl",
            [
                {"rank": rank, "review_id": review, "item_id": item, "score": 0.0}
                for rank, (review, item) in enumerate(told)
            ],
        )
    domain.write_params(folder / "params.yaml", **params)
    return folder


def run(stage: Any, folder: Path) -> Result:
    """Run one stage on the files of a folder."""
    arguments = ["--params", str(folder / "params.yaml")]
    for name in NAMES[stage].split():
        option = OPTIONS.get((stage, name), name.split(".")[0])
        arguments += [f"--{option}", str(folder / name)]
    return CliRunner().invoke(stage, arguments)


def talk(folder: Path) -> None:
    """Run prompt, generate and curate; each must end well."""
    for stage in NAMES:
        result = run(stage, folder)
        assert result.exit_code == 0, result.output


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def user(request: dict[str, Any]) -> str:
    return str(request["body"]["messages"][1]["content"])


def answers(folder: Path, contents: dict[str, str], model: str = "m") -> None:
    """Put answers of the test's in the place of some of the teacher's."""
    rows = lines(folder / "responses.jsonl")
    for row in rows:
        if row["custom_id"] in contents:
            message = {"role": "assistant", "content": contents[row["custom_id"]]}
            row["response"]["body"] = {"choices": [{"message": message}], "model": model}
    text = "".join(json.dumps(row) + "\n" for row in rows)  # escaped, as an endpoint may write
    (folder / "responses.jsonl").write_text(text, encoding="utf-8")


def outcome(folder: Path, name: str) -> dict[str, Any]:
    """Return what became of a request: its provenance, and its texts wherever they are kept."""
    told = {row["dialogue_id"]: row for row in lines(folder / "dialogues/provenance.jsonl")}[name]
    for part in ("train", "valid", "quarantine"):
        for row in lines(folder / f"dialogues/{part}.jsonl"):
            if row["dialogue_id"] == name:
                return told | {"record": row}
    raise AssertionError(f"{name} is nowhere")

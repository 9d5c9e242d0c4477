"""A small made-up domain for the tests of synthesis: films, likes, reviews, conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from seedtalk import records
from seedtalk.params import Params, load_params

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "prompts"

FILMS = [
    ("f01", "The Copper Lantern", 1987, ["Drama", "Romance"]),
    ("f02", "Harbour of Crows", 1994, ["Crime", "Thriller"]),
    ("f03", "Harbour of Crows II", 1998, ["Crime", "Thriller"]),
    ("f04", "Zeppelin", 2003, ["Adventure", "Sci-Fi"]),
    ("f05", "A Quiet Orchard", 1979, ["Drama"]),
    ("f06", "Night Ferry: The Crossing", 2011, ["Mystery", "Thriller"]),
    ("f07", "It", 1990, ["Horror"]),
    ("f08", "The Velvet Compass", None, ["Comedy"]),
    ("f09", "Marigold Street", 1965, ["Comedy", "Romance"]),
    ("f10", "Marigold Street", 2008, ["Comedy", "Romance"]),
    ("f11", "Élan Vital", 1999, ["Drama"]),
    ("f12", "Seven Winters", 1956, ["War", "Drama"]),
]
WORDS = [
    "The acting is superb and the plot is wonderfully clever.",
    "It has a haunting score, and the dialogue is sharp and witty.",
    "The tension is gripping from the first scene to the brilliant ending.",
    "A slow-burning mystery with stunning cinematography and memorable characters.",
    "The humour is dry, the songs are catchy and the cast is charming.",
    "The action scenes are breathtaking and the visuals are dazzling throughout.",
    "A touching story, beautifully shot and full of warm and tender moments.",
]


def items() -> pd.DataFrame:
    columns = ["item_id", "title", "year", "genres"]
    frame = pd.DataFrame(FILMS, columns=columns).assign(description="")
    return frame.assign(year=frame["year"].astype("Int32"))


def reviews() -> pd.DataFrame:
    """Three reviews an item for ten items; f11 and f12 have one."""
    rows = []
    for number, (item, title, _, _) in enumerate(FILMS):
        for copy in range(3 if number < 10 else 1):
            told = [WORDS[(number * 3 + copy * k + k) % len(WORDS)] for k in range(3)]
            rows.append(
                {
                    "review_id": f"r{number:02d}-{copy}",
                    "item_id": item,
                    "user_id": None,
                    "rating": 0.9,
                    "text": f"I saw {title} with Jane Dorset in 1999. " + " ".join(told),
                }
            )
    return pd.DataFrame(rows)


def interactions(users: int = 40) -> pd.DataFrame:
    """Even users like even films, odd users odd ones; nobody likes f12, everybody rates f01."""
    rows = []
    for user in range(users):
        for number, (item, *_) in enumerate(FILMS[:11]):
            side = number % 2 == user % 2
            if side and (user // 2 + number) % 5:
                rows.append((f"u{user:02d}", item, 5.0, True))
            elif number == 0:
                rows.append((f"u{user:02d}", item, 1.0, False))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "liked"])
    return frame.assign(timestamp=pd.array([None] * len(frame), dtype="Int64"))


def conversations() -> pd.DataFrame:
    text = "I liked The Copper Lantern (1987) and Zeppelin (2003). What else would you recommend?"
    turns = [
        {"role": "seeker", "text": text, "items": ["f01", "f04"]},
        {"role": "recommender", "text": "Try Seven Winters (1956).", "items": ["f12"]},
    ]
    return pd.DataFrame(
        [{"conversation_id": "c1", "benchmark": "likes", "turns": turns, "seen": []}]
    )


def seeds(count: int | None = None) -> list[records.Seed]:
    rows = list(zip(reviews()["review_id"], reviews()["item_id"], strict=True))[:count]
    return [
        records.Seed(rank=rank, review_id=review, item_id=item, score=0.0)
        for rank, (review, item) in enumerate(rows)
    ]


def params(**groups: dict[str, Any]) -> Params:
    """Return the project's parameters with groups overridden and prompts found from anywhere."""
    raw = _raw()
    for group, values in groups.items():
        raw[group] |= values
    return Params.model_validate(raw)


def write_params(path: Path, **groups: dict[str, Any]) -> Path:
    raw = _raw()
    for group, values in groups.items():
        raw[group] |= values
    path.write_text(yaml.safe_dump(json.loads(json.dumps(raw, default=str))), encoding="utf-8")
    return path


def write_tables(folder: Path) -> None:
    records.write_table(folder / "items.parquet", items(), "items")
    records.write_table(folder / "reviews.parquet", reviews(), "reviews")
    records.write_table(folder / "interactions.parquet", interactions(), "interactions")
    records.write_table(folder / "conversations.parquet", conversations(), "conversations")
    records.write_jsonl(folder / "seeds.jsonl", seeds())


def _raw() -> dict[str, Any]:
    raw = load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    raw["prompt"] |= {
        "template": str(PROMPTS / "dialogue.md"),
        "ungrounded_template": str(PROMPTS / "ungrounded.md"),
        "styles": str(PROMPTS / "styles.yaml"),
        "recommendations": 3,
        "liked": 2,
    }
    raw["curate"] |= {"contamination_similarity": 0.0}  # needs no encoder
    raw["teacher"] |= {
        "backend": "extractive",
        "model": "extractive",
        "prices": str(ROOT / "prices.yaml"),
    }
    return raw

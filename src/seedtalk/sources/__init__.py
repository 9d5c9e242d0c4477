"""Where a domain's items, reviews, interactions and conversations come from."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

from seedtalk.errors import InputError
from seedtalk.sources.table import Corpus, Raw

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.params import Ingest

__all__ = ["Corpus", "load_corpus"]

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s)")


def load_corpus(params: Ingest, seed: int) -> Corpus:
    """Read the source, filter it and hold out the users of the benchmark `likes`.

    The catalogue is every item with at least ``min_item_ratings`` interactions, or
    ``min_reviewed_item_ratings`` where it has a review; counted before users are held out, so
    that it does not depend on the seed.

    Parameters
    ----------
    params
        The group `ingest`.
    seed
        Of the held-out users and of the sample of reviews.

    Returns
    -------
    Corpus
        Tables in the columns of `records`, and the report written to `results/corpus.json`:
        what was read, kept and dropped, and why. The reasons add up to the rows read.

    Raises
    ------
    InputError
        When the source is unfit, or nothing is left of it.
    """
    from seedtalk.sources.likes import hold_out

    raw = _load(params)
    counts = raw.interactions["item_id"].value_counts()
    rated = raw.items["item_id"].map(counts).fillna(0)
    reviewed = raw.items["item_id"].isin(raw.reviews["item_id"])
    items = raw.items[
        (rated >= params.min_item_ratings)
        | (reviewed & (rated >= params.min_reviewed_item_ratings))
    ]
    if items.empty:
        most = int(counts.max()) if len(counts) else 0
        raise InputError(
            f"ingest.min_item_ratings: no item has {params.min_item_ratings} ratings (the most "
            f"rated one has {most}); lower it or ingest.min_reviewed_item_ratings"
        )
    catalogue = set(items["item_id"])
    interactions = raw.interactions[raw.interactions["item_id"].isin(catalogue)]
    below = len(raw.interactions) - len(interactions)
    likes, held_out = hold_out(
        items,
        interactions,
        users=params.eval_users,
        context=params.context_likes,
        targets=params.target_likes,
        seed=seed,
    )
    conversations = _joined(_within(raw.conversations, catalogue), likes)
    training = interactions[~interactions["user_id"].isin(held_out)]
    reviews, dropped = _reviews(raw.reviews, catalogue, held_out, params, seed)
    report = {
        "source": params.source,
        "origin": raw.origin,
        **({"linking": raw.linking} if raw.linking else {}),
        "items": {
            "read": raw.read["items"],
            "dropped": {
                **raw.dropped.get("items", {}),
                "below_min_item_ratings": len(raw.items) - len(items),
            },
            "kept": len(items),
            "with_reviews": int(reviews["item_id"].nunique()),
        },
        "reviews": {
            "read": raw.read["reviews"],
            "dropped": {**raw.dropped.get("reviews", {}), **dropped},
            "kept": len(reviews),
            "positive": int((reviews["rating"] >= 0.5).sum()),
            "unrated": int(reviews["rating"].isna().sum()),
        },
        "interactions": {
            "read": raw.read["interactions"],
            **(
                {"dropped": {**raw.dropped["interactions"], "below_min_item_ratings": below}}
                if "interactions" in raw.dropped
                else {}
            ),
            "kept": len(training),
            "likes": int(training["liked"].sum()),
            "users": int(training["user_id"].nunique()),
            "held_out": len(interactions) - len(training),
            "held_out_users": len(held_out),
        },
        "conversations": {
            str(name): int(count)
            for name, count in conversations["benchmark"].value_counts().sort_index().items()
        },
    }
    return Corpus(items, reviews, training, conversations, report)


def _load(params: Ingest) -> Raw:
    if params.source == "quickstart":
        from seedtalk.sources.quickstart import load_quickstart

        return load_quickstart(params.path, params.linking, params.like_threshold)
    if params.source == "corpora":
        from seedtalk.sources.corpora import load_corpora

        return load_corpora(params)
    from seedtalk.sources.jsonl import load_jsonl

    return load_jsonl(params.path, params.like_threshold, params.eval_users)


def _reviews(
    reviews: pd.DataFrame, catalogue: set[str], held_out: set[str], params: Ingest, seed: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Apply the filters in turn; each row is dropped for the first reason that holds."""
    dropped: dict[str, int] = {}

    def keep(frame: pd.DataFrame, reason: str, mask: Any) -> pd.DataFrame:
        dropped[reason] = int((~mask).sum())
        kept: pd.DataFrame = frame[mask]
        return kept

    kept = reviews.sort_values("review_id", kind="stable")
    kept = keep(kept, "item_below_min_item_ratings", kept["item_id"].isin(catalogue))
    kept = keep(kept, "held_out_user", ~kept["user_id"].isin(held_out))
    kept = keep(kept, "too_short", kept["text"].str.len() >= params.min_review_chars)
    folded = kept["text"].str.casefold().str.split().str.join(" ")
    kept = keep(kept, "duplicate_text", ~folded.duplicated())
    if kept.empty:
        raise InputError(
            f"{params.path}: no review is left after the filters {dropped}; lower "
            "ingest.min_reviewed_item_ratings or ingest.min_review_chars"
        )
    ids = kept["review_id"].tolist()
    if params.max_reviews and len(ids) > params.max_reviews:
        ids = random.Random(f"{seed}:reviews").sample(ids, params.max_reviews)
    kept = keep(kept, "not_in_sample", kept["review_id"].isin(ids))
    cut = [cut_text(text, params.max_review_chars) for text in kept["text"]]
    return kept.assign(text=cut), dropped


def cut_text(text: str, limit: int) -> str:
    """Cut `text` to at most `limit` characters, after a sentence or else after a word."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    ends = [match.end() for match in _SENTENCE_END.finditer(head)]
    if ends and ends[-1] >= limit // 2:
        return text[: ends[-1]]
    space = max(head.rfind(" "), head.rfind("\n"))
    return (head[:space] if space > 0 else text[:limit]).rstrip()


def _within(conversations: pd.DataFrame, catalogue: set[str]) -> pd.DataFrame:
    """Keep only catalogue items in turns and `seen`."""
    kept = conversations.copy()
    kept["turns"] = kept["turns"].map(
        lambda turns: [
            {**turn, "items": [item for item in turn["items"] if item in catalogue]}
            for turn in turns
        ]
    )
    kept["seen"] = kept["seen"].map(lambda seen: [item for item in seen if item in catalogue])
    return kept


def _joined(own: pd.DataFrame, likes: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    filled = [frame for frame in (own, likes) if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else likes

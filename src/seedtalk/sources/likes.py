"""The benchmark `likes`: users held out, some of their likes told, the others to be found.

It stands in for conversations where a source has none. Each held-out user gives one
conversation: the seeker names liked items in plain words, the recommender's turn holds further
likes of the same user. The user's interactions and reviews leave the training data.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

from seedtalk.errors import InputError
from seedtalk.records import display_title

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "likes"

# Neutral about the domain: films, books, games.
REQUESTS = (
    "I really enjoyed {}. What would you recommend next?",
    "Some of my favourites are {}. Can you suggest something similar?",
    "I loved {}. What else might I like?",
    "Lately I liked {}. Do you have any recommendations for me?",
    "My taste is along the lines of {}. What should I try?",
    "Could you recommend something? I am a fan of {}.",
    "I'm looking for something new. Things I liked before: {}.",
    "If I like {}, what would you pick for me?",
)


def hold_out(
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    *,
    users: int,
    context: int,
    targets: int,
    seed: int,
) -> tuple[pd.DataFrame, set[str]]:
    """Make one conversation of each of `users` held-out users.

    Parameters
    ----------
    items
        The catalogue.
    interactions
        Of catalogue items only.
    users
        Users to hold out. They come in a seeded order, so that a larger number adds users.
    context, targets
        Liked items named by the seeker, and to be found. Both are a seeded random sample of
        the user's likes: many users rate all at one sitting, so that the time of a rating
        says little.
    seed
        Of the order of users and of each user's sample.

    Returns
    -------
    (conversations, held_out)
        In the columns of `records.CONVERSATIONS`; `seen` holds every other catalogue item the
        user has interacted with. And the held-out users' ids.

    Raises
    ------
    InputError
        When fewer users than asked for have enough likes.
    """
    import pandas as pd

    columns = ["conversation_id", "benchmark", "turns", "seen"]
    if users == 0:
        return pd.DataFrame(columns=columns), set()
    liked = _items_of(interactions[interactions["liked"]])
    eligible = [user for user, likes in liked.items() if len(likes) >= context + targets]
    if len(eligible) < users:
        known = f"only {len(eligible)} like" if eligible else "none likes"
        mend = f"{len(eligible)} or less" if eligible else "0"
        raise InputError(
            f"ingest.eval_users: {users} users are to be held out, but {known} "
            f"at least {context + targets} catalogue items (context_likes + target_likes); "
            f"set ingest.eval_users to {mend}, or lower the likes they need"
        )
    held_out = sorted(eligible, key=lambda user: _order(seed, user))[:users]
    seen = _items_of(interactions[interactions["user_id"].isin(held_out)])
    titles = {
        item: display_title(title, year)
        for item, title, year in zip(items["item_id"], items["title"], items["year"], strict=True)
    }
    rows = [
        _conversation(user, liked[user], seen[user], titles, context, targets, seed)
        for user in sorted(held_out)
    ]
    return pd.DataFrame(rows, columns=columns), set(held_out)


def _items_of(interactions: pd.DataFrame) -> dict[str, set[str]]:
    items: dict[str, set[str]] = {}
    for user, item in zip(interactions["user_id"], interactions["item_id"], strict=True):
        items.setdefault(user, set()).add(item)
    return items


def _conversation(
    user: str,
    likes: set[str],
    seen: set[str],
    titles: dict[str, str],
    context: int,
    targets: int,
    seed: int,
) -> dict[str, Any]:
    rng = random.Random(f"{seed}:{user}")
    chosen = rng.sample(sorted(likes), context + targets)
    told, wanted = chosen[:context], chosen[context:]
    request = rng.choice(REQUESTS)
    return {
        "conversation_id": f"{BENCHMARK}-{user}",
        "benchmark": BENCHMARK,
        "turns": [
            {
                "role": "seeker",
                "text": request.format(listed([titles[item] for item in told])),
                "items": told,
            },
            {
                "role": "recommender",
                "text": f"You might like {listed([titles[item] for item in wanted])}.",
                "items": wanted,
            },
        ],
        "seen": sorted(seen - set(chosen)),
    }


def listed(names: list[str]) -> str:
    """Join names as a sentence does: ``A, B and C``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _order(seed: int, user: str) -> str:
    return hashlib.sha256(f"{seed}:{user}".encode()).hexdigest()

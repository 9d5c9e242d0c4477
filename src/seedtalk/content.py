"""What items are about, as sparse vectors: the words of their metadata, by TF-IDF.

Two films of one director, one series or one mood share tokens that no rating has to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seedtalk.titles import title_key

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

SHORTEST = 4  # letters of a title's word: shorter ones are mostly articles and prepositions
LABELS = {
    "directors": "Directed by ",
    "writers": "Written by ",
    "stars": "Starring ",
    "keywords": "Keywords: ",
}


def describe(
    plot: str = "",
    *,
    directors: Sequence[str] = (),
    writers: Sequence[str] = (),
    stars: Sequence[str] = (),
    keywords: Sequence[str] = (),
) -> str:
    """Return an item's description: the plot on one line, then a line for each list of names.

    `sources.corpora` takes these lines apart again, so that what one set knows of a film's people
    stands beside the plot another set tells; so does `item_tokens`.
    """
    lists = {"directors": directors, "writers": writers, "stars": stars, "keywords": keywords}
    lines = [" ".join(plot.split())]
    for kind, names in lists.items():
        said = [" ".join(name.split()) for name in names]
        if any(said):
            listed = ", ".join(dict.fromkeys(filter(None, said)))
            lines.append(f"{LABELS[kind]}{listed.removesuffix('.')}.")
    return "\n".join(filter(None, lines))


def item_tokens(title: str, genres: list[str], description: str) -> list[str]:
    """Return what an item is known by: its genres, its people, its keywords, its title's words.

    People and keywords are the lists that `describe` writes into a description; a
    name or a keyword of several words is one token. The kind stands before each, so that a star
    is no director. Of a description without such lists nothing is taken: prose shares words by
    chance.
    """
    tokens = [f"genre {genre.casefold()}" for genre in genres]
    for line in description.splitlines():
        for kind, label in LABELS.items():
            if line.startswith(label):
                names = line.removeprefix(label).removesuffix(".").split(", ")
                tokens += [f"{kind} {name.casefold()}" for name in names if name]
    tokens += [f"title {word}" for word in title_key(title) if len(word) >= SHORTEST]
    return list(dict.fromkeys(tokens))


def content_vectors(items: pd.DataFrame) -> csr_array:
    """Return the unit TF-IDF vectors of the items' tokens.

    Parameters
    ----------
    items
        `records.ITEMS`, N rows.

    Returns
    -------
    csr_array, shape (N, V), float64
        V distinct tokens; rows of items without any are zero. The product of two rows is the
        cosine of the items.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = [
        item_tokens(str(title), list(genres), str(description))
        for title, genres, description in zip(
            items["title"], items["genres"], items["description"], strict=True
        )
    ]
    if not any(known):
        return csr_array((len(known), 0), dtype=float)
    return csr_array(TfidfVectorizer(analyzer=_as_is).fit_transform(known))


def _as_is(tokens: list[str]) -> list[str]:
    return tokens

"""The published data sets: which files are kept, where they are public, and what pins them.

Hashes are those that others publish or that were computed over a copy; where there is none,
`Remote.sha256` is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from seedtalk.errors import InputError


@dataclass(frozen=True)
class Remote:
    """A file at its public address.

    Attributes
    ----------
    sha256
        None where no hash of it is published: the user gives one, or takes what comes.
    size
        Bytes, where they are known.
    """

    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Commit:
    """Files of one commit of a git repository; its id is a hash of their content."""

    repository: str
    commit: str
    paths: Sequence[str]


@dataclass(frozen=True)
class Set:
    """A published data set and the files of it that are kept.

    Attributes
    ----------
    name
        Of the part and of its folder.
    files
        Patterns of the files kept under their own names.
    needed
        Of each group of patterns at least one file must be there.
    beside
        Folders next to the given one (or within it) whose files join in.
    places
        Where `fetch movies` looks for it, below the folder it is given.
    about
        What it is and under which terms, for the notice.
    releases
        Name of a release to what is downloaded of it; the first is the default.
    """

    name: str
    files: Sequence[str]
    needed: Sequence[Sequence[str]]
    about: str
    beside: Sequence[str] = ()
    places: Sequence[str] = ()
    releases: Mapping[str, Sequence[Remote] | Commit] = field(default_factory=dict)


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_FLATIRON = "https://github.com/learn-co-curriculum/dsc-phase-1-project-v2-4/raw/HEAD/zippedData"
_AMAZON2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
_HE2023 = ("he2023_entity2id.json", "he2023_item_ids.json")

MOVIELENS = Set(
    "movielens",
    files=(
        *("movies.csv", "ratings.csv", "links.csv", "tags.csv", "README*"),
        *("*_links.csv", "*_movies_w_keywords.csv"),
    ),
    needed=(("movies.csv",), ("ratings.csv",), ("links.csv",)),
    beside=("catalogue",),
    places=("ratings",),
    about=(
        "MovieLens (Harper and Konstan, ACM TiiS 2015). GroupLens' terms: research, with\n"
        "acknowledgement, no redistribution without permission; commercial use needs permission."
    ),
    # The hashes are those of TensorFlow Datasets.
    releases={
        "ml-latest-small": (
            Remote(
                f"{_GROUPLENS}/ml-latest-small.zip",
                "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            ),
        ),
        "ml-25m": (
            Remote(
                f"{_GROUPLENS}/ml-25m.zip",
                "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
                261978986,
            ),
        ),
    },
)
IMDB = Set(
    "imdb",
    files=("*.jsonl", "*.jsonl.gz", "*.parquet"),
    needed=(("*.jsonl", "*.jsonl.gz", "*.parquet"),),
    places=("reviews",),
    about=(
        "IMDb user reviews, of the Large Movie Review Dataset (Maas et al., ACL 2011) where not\n"
        "said otherwise. The reviews belong to their authors; no licence is stated."
    ),
    releases={
        "aclImdb_v1": (
            Remote(
                "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
                84125825,
            ),
        )
    },
)
RT = Set(
    "rt",
    files=("rt.reviews.tsv*", "rt.movie_info.tsv*", "rt_title_match.csv"),
    needed=(("rt.reviews.tsv*",), ("rt.movie_info.tsv*",)),
    places=("reviews",),
    about=(
        "Rotten Tomatoes critics' reviews, as in the Flatiron School's movie data set. The\n"
        "reviews belong to their authors; no licence is stated."
    ),
    releases={
        "flatiron": (
            Remote(
                f"{_FLATIRON}/rt.reviews.tsv.gz",
                "ed5339fe9af0d3f6d118b9f385e4acbea84c0a9cc92de5b97c47ae1438a8066b",
                3402194,
            ),
            Remote(
                f"{_FLATIRON}/rt.movie_info.tsv.gz",
                "544c40572c25541680ebe5bf5e0f28572f313a150934ed73680d2a596d696ac7",
                498202,
            ),
        )
    },
)
AMAZON2023 = Set(
    "amazon2023",
    files=("*.jsonl", "*.jsonl.gz"),
    needed=(("meta_*.jsonl", "meta_*.jsonl.gz"), ("[!m]*.jsonl*", "m[!e]*.jsonl*")),
    about=(
        "Amazon Reviews 2023 (Hou et al., arXiv 2403.03952), McAuley Lab, UC San Diego.\n"
        "Published for research; no licence is stated."
    ),
)
REDIAL = Set(
    "redial",
    files=(
        *("movies_with_mentions.csv", "movies_merged_movielens.csv", "combined_metadata.csv"),
        *("id2info.json", *_HE2023),
    ),
    needed=(),
    about="ReDial (Li et al., NeurIPS 2018), CC BY 4.0.",
    releases={
        "redial_dataset": (
            Remote(
                "https://github.com/ReDialData/website/raw/data/redial_dataset.zip",
                "b48756681ec6f84e0af36979c5e9baa21ea8d9e7036b8764ea9b787bb0baf69b",  # ParlAI's
            ),
        )
    },
)
INSPIRED = Set(
    "inspired",
    files=("movie_database.tsv", *_HE2023),
    needed=(),
    about="INSPIRED (Hayati et al., EMNLP 2020). No licence is stated.",
    releases={
        "emnlp2020": Commit(
            "https://github.com/sweetpeach/Inspired",
            "19d5e0c5c31e2ec5213615d8640983fd0e4525f7",
            (
                *(f"data/dialog_data/{split}.tsv" for split in ("train", "dev", "test")),
                "data/movie_database.tsv",
            ),
        )
    },
)
CONVERSATIONAL = (REDIAL.name, INSPIRED.name)
SETS = {part.name: part for part in (MOVIELENS, IMDB, RT, AMAZON2023, REDIAL, INSPIRED)}


def amazon2023(category: str) -> Set:
    """Return the set of one category of Amazon Reviews 2023, such as ``Movies_and_TV``.

    Raises
    ------
    InputError
        When the name has other characters than a category's.
    """
    if not re.fullmatch(r"\w+", category, re.ASCII):
        raise InputError(f"--release: '{category}' is no category, such as Movies_and_TV")
    remotes = (
        Remote(f"{_AMAZON2023}/review_categories/{category}.jsonl.gz"),
        Remote(f"{_AMAZON2023}/meta_categories/meta_{category}.jsonl.gz"),
    )
    return replace(AMAZON2023, releases={category: remotes})

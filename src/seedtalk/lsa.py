"""Texts to vectors without a model: latent semantic analysis, fitted on the texts themselves.

Deerwester et al. (1990): words that stand in the same texts come to lie on the same few
directions. It knows the words of the corpus and no others, and costs seconds on one core.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.progress import bar

DIMENSIONS = 256  # at most; fewer than the texts and the terms
RARE = 0.001  # of the texts, but two at least: terms in fewer say nothing of others
COMMON = 0.5  # of the texts: terms in more are no subject
FLAT = 1e-6  # of a singular value, against the first: what is below is rounding
START = 0  # seed of the vector that the SVD starts from; any other gives the same result
_WORD = re.compile(r"\w\w+")


@dataclass(frozen=True)
class Lsa:
    """A fitted encoder.

    Attributes
    ----------
    terms
        A fitted scikit-learn ``TfidfVectorizer`` over lists of words.
    directions
        (d, V) float64, the first right singular vectors of the fitted texts.
    """

    terms: Any
    directions: NDArray[np.float64]

    @property
    def dimensions(self) -> int:
        """How long a vector is."""
        return len(self.directions)

    def transform(self, texts: Sequence[str], max_words: int) -> NDArray[np.float32]:
        """Return one vector a text, (n, d) float32; zeros where no term of it is known.

        Parameters
        ----------
        texts
            Any strings.
        max_words
            Words read of a text.
        """
        known = self.terms.transform([words(text)[:max_words] for text in texts])
        vectors: NDArray[np.float32] = (known @ self.directions.T).astype(np.float32)
        return vectors


def words(text: str) -> list[str]:
    """Return the words of two letters or more, in lower case."""
    return _WORD.findall(text.lower())


def fit(texts: Sequence[str]) -> Lsa:
    """Fit an encoder on whole texts.

    A text is the vector of its terms, words and pairs of words, weighted by
    (1 + ln tf) (1 + ln((1 + n) / (1 + df))) and scaled to length 1; terms of fewer than two texts
    or `RARE` of them, or of more than `COMMON`, are left out. Of the matrix X = U S V' the first
    `DIMENSIONS` directions V are found by Lanczos iteration to machine precision (a randomised
    SVD is no faster here and leaves the last directions undecided); the largest entry of each is
    positive. A text's vector is x V.

    Raises
    ------
    InputError
        When the texts share too few words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    told = (
        f"embed.encoder: lsa finds too few words that some of the {len(texts)} texts share and "
        "others lack; take more reviews (ingest.max_reviews) or another encoder"
    )
    terms = TfidfVectorizer(
        analyzer=_terms,
        sublinear_tf=True,
        min_df=max(2, int(RARE * len(texts))),
        max_df=COMMON,
    )
    with bar("fit", None):
        try:
            matrix = terms.fit_transform([words(text) for text in texts])
        except ValueError as error:  # no term is left
            raise InputError(told) from error
        if min(matrix.shape) < 2:
            raise InputError(told)
        return Lsa(terms, _directions(matrix))


def _directions(matrix: Any) -> NDArray[np.float64]:
    """Return the first right singular vectors of a sparse (n, V) matrix, strongest first."""
    from scipy.sparse.linalg import svds
    from sklearn.utils.extmath import svd_flip
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    start = np.random.RandomState(START).uniform(-1, 1, min(matrix.shape))
    with threadpool_limits(1):  # one order of summation, whatever the number of cores
        left, scale, right = svds(matrix, k=min(DIMENSIONS, min(matrix.shape) - 1), v0=start)
    order = np.argsort(-scale, kind="stable")
    order = order[scale[order] > FLAT * scale.max()]
    _, directions = svd_flip(left[:, order], right[order], u_based_decision=False)
    return np.asarray(directions, dtype=np.float64)


def _terms(found: Sequence[str]) -> list[str]:
    """Return words and pairs of neighbouring words."""
    return [*found, *(" ".join(pair) for pair in itertools.pairwise(found))]

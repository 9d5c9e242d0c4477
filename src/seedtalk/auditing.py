"""What the training dialogues are worth, in numbers: `results/quality.json`.

How faithful a dialogue is to the review it was made of, how diverse the dialogues are, what of
the catalogue they cover, and how near they come to the conversations that are evaluated on. None
of it is tuned on or learnt from. Titles are cut out of every text before it is compared: naming
the same film is neither faithful nor alike.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError
from seedtalk.evaluation.protocols import asked_turns, read_turns
from seedtalk.records import Dialogue, Seed

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Number = float | int | None
Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]  # rows of length 1

SAMPLE = 500  # dialogues held against reviews; conversations of a benchmark
SELF_BLEU = 100  # messages held against one another
OPENING = 3  # words
FOLDS = 5
ROWS = 1024  # of similarities held at a time
BLEU_ORDER = 4

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


@dataclass(frozen=True)
class Talk:
    """What seekers ask for on one benchmark.

    Attributes
    ----------
    requests
        What the seeker of a conversation said before a recommendation; one for each sampled
        conversation.
    lengths
        Words of each, titles included.
    targets
        How often each item is to be found, over all conversations.
    """

    requests: list[str]
    lengths: list[int]
    targets: Counter[str]


def audit(
    train: Sequence[Dialogue],
    seeds: Sequence[Seed],
    reviews: pd.DataFrame,
    items: pd.DataFrame,
    conversations: pd.DataFrame,
    synthesis: Mapping[str, Any],
    *,
    fingerprint: int,
    benchmarks: Sequence[str],
    seed: int,
    encode: Encode,
) -> dict[str, Number]:
    """Measure the dialogues a student learns.

    Parameters
    ----------
    train
        The training dialogues. Those without a seed of this run (real or transferred ones) count
        for all but faithfulness.
    seeds, reviews, items, conversations
        Seeds of the run, `records.REVIEWS`, `records.ITEMS` and `records.CONVERSATIONS`.
    synthesis
        ``results/synthesis.json``.
    fingerprint
        CRC-32 of the file of the training dialogues, told as it is: who reads the numbers can
        tell whether they are of the dialogues at hand.
    benchmarks
        Which of the conversations are evaluated on.
    seed
        Of the samples and of the folds of the two-sample test.
    encode
        Texts to vectors of length 1; called once, with all texts.

    Returns
    -------
    dict
        Name to number, None where it is not defined; docs/synthesis.md has the formulas. Floats
        are rounded to four places. Names are the same for every run with these benchmarks.

    Raises
    ------
    InputError
        When there are no dialogues, a seed's review is missing, or a benchmark has no
        conversations.
    """
    if not train:
        raise InputError("train.jsonl: no dialogues to measure; run `dvc repro curate`")
    catalogue = Catalogue(items)
    requests = [_plain(_asked(dialogue), catalogue) for dialogue in train]
    texts = dict(zip(reviews["review_id"], reviews["text"], strict=True))
    for chosen in seeds:
        if chosen.review_id not in texts:
            raise InputError(
                f"seeds.jsonl: no review '{chosen.review_id}' among the reviews; "
                "run `dvc repro select`"
            )
    known = {chosen.review_id for chosen in seeds}
    grounded = _sample(
        [n for n, dialogue in enumerate(train) if dialogue.review_id in known],
        lambda n: train[n].dialogue_id,
        SAMPLE,
        seed,
    )
    made_of = sorted({train[n].review_id for n in grounded})
    pool = {name: place for place, name in enumerate(made_of)}
    told = [_plain(str(texts[name]), catalogue) for name in pool]
    members = {str(item) for item in items["item_id"]}
    talks = {name: _talk(conversations, name, catalogue, members, seed) for name in benchmarks}

    every = [*requests, *told, *(text for talk in talks.values() for text in talk.requests)]
    distinct = {text: place for place, text in enumerate(dict.fromkeys(every))}
    vectors = np.asarray(encode(list(distinct)), dtype=np.float32)
    rows = vectors[[distinct[text] for text in requests]]
    numbers: dict[str, Number] = {"fingerprint": fingerprint, "dialogues": len(train)}
    numbers |= _answers(synthesis)
    numbers |= fidelity(
        rows[grounded],
        vectors[[distinct[text] for text in told]],
        np.array([pool[train[n].review_id] for n in grounded], dtype=np.int64),
    )
    numbers["fidelity_words"] = _mean(
        [
            share
            for n in grounded
            if (share := shared_words(requests[n], told[pool[train[n].review_id]])) is not None
        ]
    )
    numbers |= diversity(requests, seed)
    numbers["pairwise_cosine"] = pairwise_cosine(rows)
    numbers["style_entropy"] = entropy(list(Counter(d.style for d in train).values()))
    numbers |= coverage(train, items)
    lengths = [len(_words(_asked(dialogue))) for dialogue in train]
    learnt = {item for dialogue in train for item in dialogue.targets}
    for name, talk in talks.items():
        there = vectors[[distinct[text] for text in talk.requests]]
        found = {
            "target_coverage": _ratio(
                sum(count for item, count in talk.targets.items() if item in learnt),
                talk.targets.total(),
            ),
            **nearness(rows, there, seed),
            "length_ratio": _ratio(_mean(lengths), _mean(talk.lengths)),
        }
        # DVC joins the parts of a metric's name with dots.
        numbers |= {f"{name.replace('.', '_')}_{key}": value for key, value in found.items()}
    return {name: _rounded(value) for name, value in numbers.items()}


def fidelity(requests: Vectors, reviews: Vectors, own: NDArray[np.int64]) -> dict[str, Number]:
    """Say how surely a request leads back to the review it was made of.

    Parameters
    ----------
    requests
        (n, d), rows of length 1.
    reviews
        (m, d), likewise.
    own
        (n,) row in `reviews` of each request's review.

    Returns
    -------
    dict
        `fidelity_dialogues` n; `fidelity` the mean cosine to the own review, `fidelity_others` to
        the others; of the own review's rank among all, ties counted against it:
        `fidelity_recall_1` the share of first ranks, `fidelity_mrr` the mean of 1 / rank
        (Voorhees 1999), and `fidelity_auc`, the mean share of the other reviews that are less
        alike (a tie half), .5 by chance whatever their number.
    """
    n, m = len(own), len(reviews)
    names = ("fidelity", "fidelity_others", "fidelity_recall_1", "fidelity_mrr", "fidelity_auc")
    if not n:
        return {"fidelity_dialogues": 0, **dict.fromkeys(names)}
    cosines = requests.astype(np.float64) @ reviews.astype(np.float64).T
    right = cosines[np.arange(n), own]
    # Own apart: it is no less alike than itself.
    above = (cosines > right[:, None]).sum(axis=1)
    level = (cosines == right[:, None]).sum(axis=1) - 1
    ranks = 1 + above + level
    apart = m > 1
    return {
        "fidelity_dialogues": n,
        "fidelity": float(right.mean()),
        "fidelity_others": float((cosines.sum() - right.sum()) / (n * (m - 1))) if apart else None,
        "fidelity_recall_1": float((ranks == 1).mean()) if apart else None,
        "fidelity_mrr": float((1 / ranks).mean()) if apart else None,
        "fidelity_auc": float(1 - ((above + level / 2) / (m - 1)).mean()) if apart else None,
    }


def shared_words(request: str, review: str) -> float | None:
    """Return the share of a request's distinct content words that stand in the review.

    Unigram precision (as ROUGE-1 has it, Lin 2004) over what is no stop word; None where a
    request has no content word.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    content = set(_words(request)) - ENGLISH_STOP_WORDS
    return len(content & set(_words(review))) / len(content) if content else None


def diversity(requests: Sequence[str], seed: int) -> dict[str, Number]:
    """Measure how much of the requests' text is new.

    Returns
    -------
    dict
        `distinct_1`, `distinct_2`: different n-grams over all (Li et al. 2016); `vocabulary`;
        `self_bleu` (Zhu et al. 2018) of a seeded sample of `SELF_BLEU` requests;
        `compression_ratio`: bytes over zlib's bytes (Shaib et al. 2024); `opening_share`: of the
        most common first `OPENING` words.
    """
    tokens = [_words(text) for text in requests]
    text = "\n".join(requests).encode()
    openings = Counter(tuple(words[:OPENING]) for words in tokens if words)
    sample = _sample(list(range(len(tokens))), lambda n: requests[n], SELF_BLEU, seed)
    return {
        "words": _mean([len(words) for words in tokens]),
        "vocabulary": len({word for words in tokens for word in words}),
        "distinct_1": distinct(tokens, 1),
        "distinct_2": distinct(tokens, 2),
        "self_bleu": self_bleu([tokens[n] for n in sample]),
        "compression_ratio": len(text) / len(zlib.compress(text, 9)) if text.strip() else None,
        "opening_share": _ratio(max(openings.values(), default=0), openings.total()),
    }


def distinct(tokens: Sequence[Sequence[str]], n: int) -> float | None:
    """Return the different word n-grams over all (Li et al. 2016, distinct-n)."""
    found = [run for words in tokens for run in _runs(words, n)]
    return len(set(found)) / len(found) if found else None


def self_bleu(tokens: Sequence[Sequence[str]]) -> float | None:
    """Return the mean BLEU-4 of each text against all others (Zhu et al. 2018, Texygen).

    Clipped n-gram precisions, n = 1 to 4, and the brevity penalty of the nearest length
    (Papineni et al. 2002); a precision of n > 1 is smoothed by one in both parts (Lin and Och
    2004), since a short text may share no run of four. 1 where all say the same. None for fewer
    than two texts.
    """
    texts = [list(words) for words in tokens if words]
    if len(texts) < 2:
        return None
    logs = np.zeros(len(texts))
    for n in range(1, BLEU_ORDER + 1):
        counts = [Counter(_runs(words, n)) for words in texts]
        # The highest count of a run in any text and the next: clip by the others' highest.
        most: dict[tuple[str, ...], tuple[int, int]] = {}
        for count in counts:
            for run, times in count.items():
                first, second = most.get(run, (0, 0))
                most[run] = (times, first) if times > first else (first, max(second, times))
        for place, count in enumerate(counts):
            clipped = 0
            for run, times in count.items():
                first, second = most[run]
                clipped += min(times, second if times == first else first)
            smooth = int(n > 1)
            total = count.total() + smooth
            precision = (clipped + smooth) / total
            logs[place] += math.log(precision) if precision else -math.inf
    scores = []
    for place, words in enumerate(texts):
        others = [len(other) for at, other in enumerate(texts) if at != place]
        closest = min(others, key=lambda length: (abs(length - len(words)), length))
        penalty = min(0.0, 1 - closest / len(words))
        scores.append(math.exp(logs[place] / BLEU_ORDER + penalty))
    return float(np.mean(scores))


def pairwise_cosine(rows: Vectors) -> float | None:
    """Return the mean cosine of two different rows of length 1; None for fewer than two."""
    n = len(rows)
    if n < 2:
        return None
    wide = rows.astype(np.float64)
    whole = wide.sum(axis=0)
    return float((whole @ whole - (wide * wide).sum()) / (n * (n - 1)))


def entropy(counts: Sequence[int]) -> float | None:
    """Return Shannon's entropy of counts in nats; None of nothing."""
    total = sum(counts)
    if not total:
        return None
    return -sum(c / total * math.log(c / total) for c in counts if c) + 0.0


def gini(counts: Sequence[int]) -> float | None:
    """Return the Gini index of counts: 0 where all are equal, near 1 where one has all.

    sum_i (2i - n - 1) c_i / (n sum c), the counts sorted upwards; None of nothing.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    n = len(ordered)
    if not n or not ordered.sum():
        return None
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float(weights @ ordered / (n * ordered.sum()))


def coverage(train: Sequence[Dialogue], items: pd.DataFrame) -> dict[str, Number]:
    """Say what of the catalogue the dialogues are about and recommend.

    Returns
    -------
    dict
        `items` and `targets`: different ones; `target_share`: of the catalogue's items that are a
        target; `target_entropy`: of the targets over that of a catalogue used evenly, 0 to 1;
        `target_gini`: over all items of the catalogue; `genre_share`: of the catalogue's genres
        that a target has.
    """
    known = {
        str(item): {str(genre) for genre in genres}
        for item, genres in zip(items["item_id"], items["genres"], strict=True)
    }
    told = Counter(item for dialogue in train for item in dialogue.targets if item in known)
    spread = entropy(list(told.values()))
    genres = set().union(*known.values())
    used = set().union(*(known[item] for item in told))
    return {
        "items": len({d.item_id for d in train} & known.keys()),
        "targets": len(told),
        "target_share": _ratio(len(told), len(known)),
        "target_entropy": None
        if spread is None or len(known) < 2
        else spread / math.log(len(known)),
        "target_gini": gini([told[item] for item in known]),
        "genre_share": _ratio(len(used), len(genres)),
    }


def nearness(train: Vectors, evaluated: Vectors, seed: int) -> dict[str, Number]:
    """Say how far training requests are from an evaluation's.

    A logistic regression learns to tell the two apart (classifier two-sample test, Lopez-Paz and
    Oquab 2017), scored on `FOLDS` folds it has not seen. Equal requests are taken once.

    Parameters
    ----------
    train, evaluated
        (n, d) and (m, d), rows of length 1.
    seed
        Of the folds.

    Returns
    -------
    dict
        `nearest_cosine`: mean over the evaluation's requests of the highest cosine to a training
        one; `separability`: area under the ROC curve, .5 where they are alike and 1 where nothing
        is; `a_distance`: 2 (1 - 2 e) with the balanced error e (Ben-David et al. 2007), 0 to 2.
    """
    if not len(train) or not len(evaluated):
        return dict.fromkeys(("nearest_cosine", "separability", "a_distance"))
    best = [
        (evaluated[start : start + ROWS] @ train.T).max(axis=1)
        for start in range(0, len(evaluated), ROWS)
    ]
    found: dict[str, Number] = {"nearest_cosine": float(np.concatenate(best).mean())}
    return found | _two_samples(np.unique(train, axis=0), np.unique(evaluated, axis=0), seed)


def _two_samples(train: Vectors, evaluated: Vectors, seed: int) -> dict[str, Number]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = min(FOLDS, len(train), len(evaluated))
    if folds < 2:
        return {"separability": None, "a_distance": None}
    rows = np.concatenate([train, evaluated]).astype(np.float64)
    labels = np.repeat([0, 1], [len(train), len(evaluated)])
    chances = cross_val_predict(
        LogisticRegression(class_weight="balanced", max_iter=1000),
        rows,
        labels,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        method="predict_proba",
    )[:, 1]
    error = 1 - float(balanced_accuracy_score(labels, chances > 0.5))
    return {
        "separability": float(roc_auc_score(labels, chances)),
        "a_distance": max(0.0, 2 * (1 - 2 * error)),  # under 0 is chance
    }


def _answers(synthesis: Mapping[str, Any]) -> dict[str, Number]:
    """Take over what curate counted of the teacher's answers, so that it stands beside the rest."""
    try:
        requests, quarantined = synthesis["requests"], synthesis["quarantined"]
        return {
            "kept_share": synthesis["kept_share"],
            "leak_rate": _ratio(quarantined["leak"], requests),
            "duplicate_rate": _ratio(quarantined["near_duplicate"], requests),
            "hallucination_rate": synthesis["hallucination_rate"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"synthesis.json: no {error} there; run `dvc repro curate`") from error


def _talk(
    conversations: pd.DataFrame, benchmark: str, catalogue: Catalogue, members: set[str], seed: int
) -> Talk:
    """Read a benchmark: its targets, and one request of each of at most `SAMPLE` conversations."""
    mine = conversations[conversations["benchmark"] == benchmark]
    if mine.empty:
        there = ", ".join(sorted(set(conversations["benchmark"]))) or "none"
        raise InputError(
            f"benchmarks: '{benchmark}' is not among the conversations; there are: {there}"
        )
    targets: Counter[str] = Counter()
    asked: dict[str, str] = {}
    for name, raw in zip(mine["conversation_id"].astype(str), mine["turns"], strict=True):
        turns = read_turns(raw)
        posed = [query for query in asked_turns(turns, members) if query.fresh]
        for query in posed:
            targets.update(query.fresh)
        if posed:
            # One of a conversation: its contexts repeat one another.
            chances = [_chance(seed, f"{name} {query.turn}") for query in posed]
            drawn = posed[chances.index(min(chances))]
            asked[name] = " ".join(
                turn["text"] for turn in turns[: drawn.turn] if turn["role"] == "seeker"
            )
    chosen = _sample(sorted(asked), str, SAMPLE, seed)
    return Talk(
        [_plain(asked[name], catalogue) for name in chosen],
        [len(_words(asked[name])) for name in chosen],
        targets,
    )


def _sample(things: Sequence[T], name: Callable[[T], str], most: int, seed: int) -> list[T]:
    """Return a seeded sample in its own order; a smaller one is part of a larger one."""
    by_chance = sorted(range(len(things)), key=lambda n: _chance(seed, name(things[n])))
    return [things[n] for n in sorted(by_chance[:most])]


def _chance(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"audit {seed} {name}".encode()).digest()


def _asked(dialogue: Dialogue) -> str:
    return " ".join(m.content for m in dialogue.messages if m.role == "user")


def _plain(text: str, catalogue: Catalogue) -> str:
    """Return `text` with every title cut out."""
    return " ".join(catalogue.mask(text).replace("|", " ").split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _mean(numbers: Sequence[float]) -> float | None:
    return float(np.mean(numbers)) if numbers else None


def _ratio(part: Number, of: Number) -> float | None:
    return part / of if of and part is not None else None


def _rounded(value: Number) -> Number:
    return round(value, 4) if isinstance(value, float) else value

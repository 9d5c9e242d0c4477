"""Answers into training dialogues: parsed, grounded, filtered, split; every one accounted for.

An answer is kept or quarantined with one reason, the first that applies in the order of
`REASONS`. Nothing is dropped silently: `Provenance` says of each request what became of it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError, RunError, at
from seedtalk.params import Curate, Prompt
from seedtalk.records import (
    Dialogue,
    Grounding,
    Message,
    Provenance,
    Rejected,
    Verdict,
    answer_titles,
    sha256_text,
)
from seedtalk.students.templates import context_messages, format_answer, parse_answer
from seedtalk.teacher.answers import BadAnswerError, content_of, parse_dialogue
from seedtalk.texts import visible

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Encode = Callable[[Sequence[str]], NDArray[np.float32]]

REASONS = (
    "failed_request",  # the teacher gave no answer
    "unparsable",  # the answer is no JSON of the form asked for
    "no_query",  # no seeker speaks, or not last
    "wrong_turns",  # seeker and recommender do not take turns, or the recommender begins
    "placeholder",  # a gap of the prompt was left as it was
    "too_short",
    "too_long",
    "language",  # not English
    "no_recommendations",  # too few of the listed titles are in the catalogue
    "leak",  # a recommended title is named in the messages
    "contaminated",  # shares a long run of words or its meaning with an evaluation conversation
    "near_duplicate",  # of a dialogue kept before
    "left_out",  # sound, but curate.train_on asks for other dialogues only
)
KINDS = (  # of a listed title
    "linked",  # the catalogue has it
    "misspelt",  # the catalogue has it but for a letter or two: linked all the same
    "liked",  # in the catalogue, but told as liked: no recommendation
    "duplicate",  # in the catalogue, but listed before
    "near_miss",  # not in the catalogue, which has one like it (another year, other words)
    "unknown",  # nothing like it in the catalogue; whether it exists elsewhere cannot be told
)
HALLUCINATED = ("near_miss", "unknown")
OTHERS_ONLY = ("real", "transfer")  # of curate.train_on: nothing synthetic of this domain is learnt
MOST_LISTED = 200  # titles read of an answer
LONGEST_TITLE = 300  # characters; what is longer is no title
LONGEST_RAW = 20_000  # characters of an answer kept in the quarantine
MOST_FREQUENT = 20  # hallucinated titles named in the summary
SEVERAL_WORDS = 8  # beside titles; fewer say nothing that could be told again
ROWS = 1024  # of similarities held at a time
SHINGLE = 3  # words
PERMUTATIONS = 128
LSH_MARGIN = 0.8  # buckets are looked up below the threshold, so that few pairs escape
LATIN_SHARE = 0.9  # of a message's letters
FUNCTION_SHARE = 0.15  # of its words; English prose has 0.4, other languages under 0.1

_LISTED = re.compile(r"[\s,|]*\|[\s,|]*(?:(?:and|or)\b[\s,]*\|[\s,|]*)*")
_GAP = re.compile(r"\[[A-Z][A-Z _-]+\]|\{\{.*?\}\}")
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_FUNCTION_WORDS = frozenset(
    (
        "the a an and or but of to in on at for with from by about into as is are was were be "
        "been am do does did have has had i i'm i'd i've me my you your it it's its that this "
        "these those what which who there something anything some any not no so if can could "
        "would should will really like want"
    ).split()
)


@dataclass(frozen=True)
class Curated:
    """The outcome: two disjoint parts of the kept dialogues, and the rest with reasons."""

    train: list[Dialogue]
    valid: list[Dialogue]
    rejected: list[Rejected]
    provenance: list[Provenance]
    summary: dict[str, Any] = field(repr=False)


class QuarantineError(Exception):
    """Why an answer is quarantined: one of `REASONS` and the particulars."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class _Case:
    """One request on its way: what was answered, what is measured of it, what becomes of it."""

    grounding: Grounding
    model: str
    raw: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    listed: list[tuple[str, str]] = field(default_factory=list)  # title, one of `KINDS`
    links: list[str | None] = field(default_factory=list)  # item of each listed title
    targets: list[str] = field(default_factory=list)
    unlinked: dict[int, str] = field(default_factory=dict)  # kept in the answer, by place listed
    nearest: dict[str, Any] | None = None
    contamination: dict[str, Any] | None = None
    fault: QuarantineError | None = None

    @property
    def queries(self) -> list[str]:
        """The seeker's messages."""
        return [turn["text"] for turn in self.turns if turn["role"] == "seeker"]

    @property
    def text(self) -> str:
        """Everybody's words."""
        return " ".join(turn["text"] for turn in self.turns)

    @property
    def hallucinated(self) -> list[str]:
        """Listed titles that the catalogue lacks."""
        return [title for title, kind in self.listed if kind in HALLUCINATED]


def read_responses(path: Path) -> dict[str, dict[str, Any]]:
    """Read result lines of the OpenAI Batch format, by custom_id.

    Raises
    ------
    InputError
        When a line has no id, an id is there twice, or neither response nor error is given.
    """
    from seedtalk.records import read_json_lines

    responses: dict[str, dict[str, Any]] = {}
    for number, line in read_json_lines(path):
        if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
            raise InputError(f"{at(path, number, 'custom_id')}: expected a text")
        if line["custom_id"] in responses:
            raise InputError(f"{at(path, number, 'custom_id')}: {line['custom_id']!r} again")
        if not isinstance(line.get("response"), dict) and not isinstance(line.get("error"), dict):
            raise InputError(f"{at(path, number, 'response')}: neither a response nor an error")
        responses[line["custom_id"]] = line
    return responses


def curate(
    responses: Mapping[str, Mapping[str, Any]],
    groundings: Sequence[Grounding],
    items: pd.DataFrame,
    conversations: pd.DataFrame,
    curate: Curate,
    prompt: Prompt,
    *,
    seed: int,
    teacher: Mapping[str, Any],
    encode: Encode,
) -> Curated:
    """Turn answers into training dialogues.

    Parameters
    ----------
    responses
        Result lines by custom_id, see `read_responses`.
    groundings
        What each request was made of, in request order.
    items, conversations
        Tables of `seedtalk.records`; every conversation is an evaluation's.
    curate, prompt
        Filters, and the form of the answers' titles; who names the targets and how many. With
        `curate.train_on` ``real`` or ``transfer`` what is sound is left out. With
        `curate.unlinked` ``keep`` the titles that the catalogue lacks stand in the answers where
        the teacher has them; dialogues, targets and verdicts are those of ``drop``.
    seed
        Of the split and the MinHash permutations.
    teacher
        Summary of the generate stage.
    encode
        Texts to an (n, d) array of unit rows, for `curate.contamination_similarity`; not called
        where that is 0.

    Raises
    ------
    InputError
        When a response is missing or belongs to no request, or an item is unknown.
    RunError
        When nothing is left to train on, or to validate on.
    """
    known = {grounding.custom_id for grounding in groundings}
    for odd in sorted(known ^ responses.keys()):
        side = "has no response" if odd in known else "is a response to no request"
        raise InputError(f"responses: {odd!r} {side}; run the generate stage again")
    catalogue = Catalogue(items)
    _check_inputs(groundings, catalogue, teacher)
    cases = [
        _case(grounding, responses[grounding.custom_id], catalogue, curate, prompt, teacher)
        for grounding in groundings
    ]
    sound = [case for case in cases if case.fault is None]
    if curate.train_on in OTHERS_ONLY:
        for case in sound:
            case.fault = QuarantineError("left_out", f"curate.train_on is {curate.train_on}")
        sound = []
    _compare(sound, conversations, catalogue, curate, encode)
    seen = Seen(curate.near_duplicate, seed)
    for case in sound:
        _check_apart(case, seen, curate)
        if case.fault is None and curate.unlinked == "keep":
            case.unlinked = _unlinked(case, catalogue, prompt.recommendations)
    titles = dict(zip(items["item_id"], answer_titles(items, curate.years), strict=True))
    kept = [_dialogue(case, titles, teacher) for case in cases if case.fault is None]
    rejected = [_rejected(case, case.fault) for case in cases if case.fault]
    counts = Counter(record.reason for record in rejected)
    train, valid = kept, list[Dialogue]()
    if curate.train_on not in OTHERS_ONLY:
        train, valid = _split(kept, curate.valid_fraction, seed, counts)
    verdicts: dict[str, Verdict] = {d.dialogue_id: "train" for d in train}
    verdicts |= {d.dialogue_id: "valid" for d in valid}
    provenance = [
        _provenance(case, responses[case.grounding.custom_id], verdicts, teacher) for case in cases
    ]
    listed = [kind for case in cases for _, kind in case.listed]
    unlinked = sum(kind in HALLUCINATED for kind in listed)
    return Curated(
        train,
        valid,
        rejected,
        provenance,
        {
            "teacher": dict(teacher),
            "grounding": prompt.grounding,
            "targets": prompt.targets,
            "requests": len(groundings),
            "answered": len(groundings) - counts["failed_request"],
            "kept": len(kept),
            "kept_share": round(len(kept) / len(groundings), 4),
            "train": len(train),
            "valid": len(valid),
            "quarantined": {reason: counts[reason] for reason in REASONS},
            "titles_listed": len(listed),
            "hallucination_rate": _rate(unlinked, len(listed)),
            "hallucination": _hallucination(cases),
            "unlinked": _learnt(cases, curate),
            "contamination": _nearness(cases, curate),
            "seeker_messages": _turn_counts(kept),
            "distinct_items": len({d.item_id for d in kept}),
            "distinct_targets": len({target for d in kept for target in d.targets}),
            "mean_query_chars": _mean([_query_length(dialogue) for dialogue in kept]),
            "train_on": curate.train_on,
            "real": None,  # what `seedtalk.real` adds
            "transfer": None,  # what `seedtalk.transfer` adds
        },
    )


def is_english(text: str) -> bool:
    """Tell whether `text` reads as English prose: Latin letters, enough function words."""
    letters = [char for char in text if char.isalpha()]
    words = _words(text)
    if not letters or not words:
        return False
    latin = sum(char.isascii() for char in letters) / len(letters)
    function = sum(word in _FUNCTION_WORDS for word in words) / len(words)
    return latin >= LATIN_SHARE and function >= FUNCTION_SHARE


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """Return the runs of `n` words within the parts of `text` between ``|`` marks."""
    found = set()
    for part in text.split("|"):
        words = _words(part)
        found |= {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    return found


def jaccard(left: set[Any], right: set[Any]) -> float:
    """Return the share of the union that both sets hold; 1 for two empty ones."""
    return len(left & right) / len(left | right) if left or right else 1.0


class Seen:
    """Messages kept so far, by their word 3-grams, looked up by MinHash and compared exactly."""

    def __init__(self, threshold: float, seed: int) -> None:
        from datasketch import MinHashLSH

        self._seed = seed
        self._shingles: dict[str, set[tuple[str, ...]]] = {}
        self._lsh = MinHashLSH(threshold=threshold * LSH_MARGIN, num_perm=PERMUTATIONS)

    def nearest(self, text: str) -> tuple[str, float] | None:
        """Return the name and exact similarity of the likest text the buckets hold."""
        shingles, sketch = self._sketch(text)
        near = [
            (jaccard(shingles, self._shingles[other]), other) for other in self._lsh.query(sketch)
        ]
        score, name = max(near, default=(0.0, ""))
        return (name, score) if name else None

    def add(self, name: str, text: str) -> None:
        """Add a text."""
        self._shingles[name], sketch = self._sketch(text)
        self._lsh.insert(name, sketch)

    def _sketch(self, text: str) -> tuple[set[tuple[str, ...]], Any]:
        from datasketch import MinHash

        shingles = ngrams(text, SHINGLE) or {tuple(_words(text))}
        sketch = MinHash(num_perm=PERMUTATIONS, seed=self._seed + 1)
        sketch.update_batch([" ".join(shingle).encode() for shingle in sorted(shingles)])
        return shingles, sketch


def _check_inputs(
    groundings: Sequence[Grounding], catalogue: Catalogue, teacher: Mapping[str, Any]
) -> None:
    for name in ("backend", "model"):
        if not isinstance(teacher.get(name), str):
            raise InputError(
                f"{at('teacher', field=name)}: expected a text; run the generate stage again"
            )
    for row, grounding in enumerate(groundings, start=1):
        for item in (grounding.item_id, *grounding.targets, *grounding.liked):
            if item not in catalogue:
                raise InputError(
                    f"{at('grounding', row)}: {item!r} is not among the items; grounding and "
                    "items come from different runs"
                )


def _case(
    grounding: Grounding,
    line: Mapping[str, Any],
    catalogue: Catalogue,
    params: Curate,
    prompt: Prompt,
    teacher: Mapping[str, Any],
) -> _Case:
    """Read one answer and check it by itself; what is wrong with it is its `fault`."""
    case = _Case(grounding, str(teacher["model"]))
    try:
        body = _body(line)
        case.raw = content_of(body)
        if isinstance(body.get("model"), str):
            case.model = visible(body["model"]) or case.model
        parsed = parse_dialogue(case.raw)
        turns = [turn | {"text": visible(turn["text"])} for turn in parsed.turns]
        case.turns = [turn for turn in turns if turn["text"]]
        case.targets = _targets(grounding, _link(parsed.titles, grounding, catalogue, case), prompt)
        _check(case, catalogue, params)
    except BadAnswerError as error:
        case.fault = QuarantineError(error.reason, visible(str(error)))
    except QuarantineError as fault:
        case.fault = fault
    return case


def _link(
    titles: Sequence[str], grounding: Grounding, catalogue: Catalogue, case: _Case
) -> list[str]:
    """Return the items listed, each once; the kind of every title is noted in the case."""
    links: list[str] = []
    for written in titles[:MOST_LISTED]:
        title = visible(written[: LONGEST_TITLE + 1])
        link = catalogue.match(title) if 0 < len(title) <= LONGEST_TITLE else None
        if link is None:
            like = len(title) <= LONGEST_TITLE and catalogue.nearest(title)
            kind = "near_miss" if like else "unknown"
        elif link.item_id in links:
            kind = "duplicate"
        else:
            links.append(link.item_id)
            liked = link.item_id in grounding.liked
            kind = "liked" if liked else "linked" if link.exact else "misspelt"
        case.listed.append((title[:LONGEST_TITLE], kind))
        case.links.append(link.item_id if link else None)
    return links


def _check(case: _Case, catalogue: Catalogue, params: Curate) -> None:
    """Raise a `QuarantineError` where the answer itself is no training example."""
    if not case.turns or case.turns[-1]["role"] != "seeker":
        raise QuarantineError("no_query", "the seeker does not speak last")
    for number, turn in enumerate(case.turns):
        if turn["role"] != ("recommender" if number % 2 else "seeker"):
            raise QuarantineError("wrong_turns", f"message {number + 1} is the {turn['role']}'s")
    for number, turn in enumerate(case.turns, start=1):
        if gap := _GAP.search(turn["text"]):
            raise QuarantineError("placeholder", f"message {number} holds {gap.group()}")
    size = len(" ".join(case.queries))
    if size < params.min_query_chars:
        raise QuarantineError("too_short", f"{size} characters, under {params.min_query_chars}")
    if size > params.max_query_chars:
        raise QuarantineError("too_long", f"{size} characters, over {params.max_query_chars}")
    spoken = [_without_liked(turn["text"], case.grounding, catalogue) for turn in case.turns]
    if not is_english(catalogue.mask(" ".join(spoken))):
        raise QuarantineError("language", "does not read as English")
    if len(case.targets) < params.min_recommendations:
        raise QuarantineError(
            "no_recommendations",
            f"{len(case.targets)} recommended items in the catalogue, "
            f"under {params.min_recommendations}",
        )
    for number, text in enumerate(spoken, start=1):
        for target in case.targets:
            if catalogue.names(text, target):
                role = case.turns[number - 1]["role"]
                raise QuarantineError(
                    "leak", f"message {number}, the {role}'s, names {catalogue.display(target)}"
                )


def _compare(
    cases: Sequence[_Case],
    conversations: pd.DataFrame,
    catalogue: Catalogue,
    params: Curate,
    encode: Encode,
) -> None:
    """Measure what each dialogue has in common with the evaluation."""
    spoken = [case.turns for case in cases]
    told = [told_of(case.queries, catalogue) for case in cases]
    for case, measured in zip(
        cases,
        contaminations(spoken, told, conversations, catalogue, params, encode),
        strict=True,
    ):
        case.contamination = measured


def contaminations(
    spoken: Sequence[Sequence[Mapping[str, str]]],
    told: Sequence[Sequence[str]],
    conversations: pd.DataFrame,
    catalogue: Catalogue,
    params: Curate,
    encode: Encode,
) -> list[dict[str, Any]]:
    """Measure what dialogues have in common with the evaluation, titles left out.

    Words: a run of `contamination_ngram` words that a turn of a conversation holds too.
    Meaning: the highest cosine between a dialogue's texts and what the evaluation's seekers
    say, each message by itself and all of a conversation's together.

    Parameters
    ----------
    spoken
        The turns of each dialogue, of both sides.
    told
        The texts of each dialogue that are compared by meaning, see `told_of`.
    conversations
        The evaluation's.
    catalogue, params, encode
        As of `curate`.

    Returns
    -------
    list of dict
        For each dialogue ``ngram`` and ``cosine``, None where there is none, and the
        ``conversation`` they are of; for `contaminated`.
    """
    evaluated = _ngrams_of(conversations, catalogue, params.contamination_ngram)
    nearest: Sequence[tuple[float, str] | None] = [None] * len(spoken)
    if params.contamination_similarity > 0:
        theirs = [
            (text, str(name))
            for name, turns in zip(
                conversations["conversation_id"], conversations["turns"], strict=True
            )
            for text in told_of([t["text"] for t in turns if t["role"] == "seeker"], catalogue)
        ]
        nearest = _nearest(told, theirs, encode)
    found = []
    for turns, near in zip(spoken, nearest, strict=True):
        masked = [catalogue.mask(turn["text"]) for turn in turns]
        shared = {run for text in masked for run in ngrams(text, params.contamination_ngram)}
        run = min(shared & evaluated.keys(), default=None)
        found.append(
            {
                "ngram": " ".join(run) if run else None,
                "cosine": round(near[0], 4) if near else None,
                "conversation": evaluated[run] if run else near[1] if near else None,
            }
        )
    return found


def contaminated(measured: Mapping[str, Any], params: Curate) -> str | None:
    """Return in what way a dialogue is an evaluation's too, or None where it is not."""
    if measured["ngram"]:
        return f"'{measured['ngram']}' is in {measured['conversation']}"
    if (measured["cosine"] or 0.0) > params.contamination_similarity > 0:
        return f"says what {measured['conversation']} says, cosine {measured['cosine']:.2f}"
    return None


def _nearest(
    ours: Sequence[Sequence[str]], theirs: Sequence[tuple[str, str]], encode: Encode
) -> list[tuple[float, str] | None]:
    """Return for each list of texts the highest cosine to a text of theirs, and its name."""
    import numpy as np

    names: dict[str, str] = {}
    for text, name in theirs:
        names.setdefault(text, name)
    texts = sorted({text for group in ours for text in group})
    if not names or not texts:
        return [None] * len(ours)
    there = encode(list(names))
    here = encode(texts)
    best: dict[str, tuple[float, str]] = {}
    labels = list(names.values())
    for start in range(0, len(texts), ROWS):
        cosines = here[start : start + ROWS] @ there.T
        for row, place in enumerate(np.argmax(cosines, axis=1)):
            best[texts[start + row]] = (float(cosines[row, place]), labels[place])
    return [max((best[text] for text in group), default=None) for group in ours]


def told_of(texts: Sequence[str], catalogue: Catalogue) -> list[str]:
    """Return what is compared: all messages together and each, a title or several as ``|``.

    What has fewer than `SEVERAL_WORDS` words is passed over.
    """
    masked = [" ".join(_LISTED.sub(" | ", catalogue.mask(text)).split()) for text in texts]
    parts = dict.fromkeys([" ".join(masked), *masked])
    return [text for text in parts if len(_words(text)) >= SEVERAL_WORDS]


def _check_apart(case: _Case, seen: Seen, params: Curate) -> None:
    """Set the case's fault where an evaluation or an earlier answer says the same."""
    near = seen.nearest(case.text)
    if near:
        case.nearest = {"dialogue": near[0], "similarity": round(near[1], 4)}
    told = contaminated(case.contamination or {}, params)
    if told:
        case.fault = QuarantineError("contaminated", told)
    elif near and near[1] >= params.near_duplicate:
        told = f"of {near[0]}, similarity {near[1]:.2f}"
        case.fault = QuarantineError("near_duplicate", told)
    else:
        seen.add(case.grounding.custom_id, case.text)


def _unlinked(case: _Case, catalogue: Catalogue, most: int) -> dict[int, str]:
    """Return the titles the catalogue lacks that stay in the answer, by their place in the list.

    Each once, and `most` of them. A title is written as a student's answer would be read
    (`parse_answer`): without bold marks or a remark after the year, so that training can take the
    list apart again. What is no title by that reading, is too long for one, or is the
    catalogue's after all, goes.
    """
    found: dict[str, tuple[int, str]] = {}
    for place, (title, kind) in enumerate(case.listed):
        if kind in HALLUCINATED and len(title) < LONGEST_TITLE:
            read = _as_read(title)
            if read and (read == title or not catalogue.match(read)):
                found.setdefault(read.casefold(), (place, read))
    return dict(list(found.values())[:most])


def _as_read(title: str) -> str:
    """Return a title as it is read in a list, "" where nothing of it is left."""
    before = ""
    while title and title != before:
        before = title
        title = next(iter(parse_answer(format_answer([title]))), "")
    return title


def _answer(case: _Case, shown: Mapping[str, str]) -> list[str]:
    """Return the titles of the answer: the targets, and what is unlinked in its place among them.

    An unlinked title stands before the first target that the teacher lists after it or not at all.
    """
    listed = {item: place for place, item in reversed(list(enumerate(case.links))) if item}
    left = sorted(case.unlinked)
    titles = []
    for target in case.targets:
        while left and left[0] < listed.get(target, len(case.links)):
            titles.append(case.unlinked[left.pop(0)])
        titles.append(shown[target])
    return titles + [case.unlinked[place] for place in left]


def _dialogue(case: _Case, shown: Mapping[str, str], teacher: Mapping[str, Any]) -> Dialogue:
    messages = [Message.model_validate(m) for m in context_messages(case.turns)]
    titles = format_answer(_answer(case, shown))
    return Dialogue(
        dialogue_id=case.grounding.custom_id,
        review_id=case.grounding.review_id,
        item_id=case.grounding.item_id,
        style=case.grounding.style,
        teacher=str(teacher["model"]),
        messages=[*messages, Message(role="assistant", content=titles)],
        targets=case.targets,
    )


def _rejected(case: _Case, fault: QuarantineError) -> Rejected:
    spoken = "\n".join(f"{turn['role']}: {turn['text']}" for turn in case.turns)
    return Rejected(
        dialogue_id=case.grounding.custom_id,
        reason=fault.reason,
        detail=fault.detail,
        text=spoken[:LONGEST_RAW] or visible((case.raw or "")[:LONGEST_RAW]),
    )


def _provenance(
    case: _Case,
    line: Mapping[str, Any],
    verdicts: Mapping[str, Verdict],
    teacher: Mapping[str, Any],
) -> Provenance:
    grounding = case.grounding
    response = line.get("response")
    key = response.get("request_id") if isinstance(response, dict) else None
    read = bool(case.turns)
    return Provenance(
        dialogue_id=grounding.custom_id,
        review_id=grounding.review_id,
        item_id=grounding.item_id,
        style=grounding.style,
        prompt=grounding.prompt,
        messages=grounding.messages,
        request_key=visible(key) if isinstance(key, str) else None,
        backend=str(teacher["backend"]),
        model=case.model,
        response_digest=None if case.raw is None else _digest(case.raw),
        verdict=verdicts.get(grounding.custom_id, "quarantined"),
        reason=case.fault.reason if case.fault else None,
        filters={
            "query_chars": len(" ".join(case.queries)) if read else None,
            "seeker_messages": len(case.queries) if read else None,
            "linked": len(case.listed) - len(case.hallucinated) if read else None,
            "hallucinated": case.hallucinated if read else None,
            "targets": len(case.targets) if read else None,
            "unlinked_kept": len(case.unlinked) if case.fault is None else None,
            "nearest": case.nearest,
            "contamination": case.contamination,
        },
    )


def _hallucination(cases: Sequence[_Case]) -> dict[str, Any]:
    """Count the listed titles by kind, teacher, prompt and style; name the frequent inventions."""
    kinds = Counter(kind for case in cases for _, kind in case.listed)
    titles = Counter(title for case in cases for title in case.hallucinated)
    frequent = sorted(titles.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_FREQUENT]

    def by(name: Callable[[_Case], str]) -> dict[str, dict[str, Any]]:
        listed: Counter[str] = Counter()
        unlinked: Counter[str] = Counter()
        for case in cases:
            listed[name(case)] += len(case.listed)
            unlinked[name(case)] += len(case.hallucinated)
        return {
            key: {
                "listed": listed[key],
                "unlinked": unlinked[key],
                "rate": _rate(unlinked[key], listed[key]),
            }
            for key in sorted(listed)
        }

    unlinked = sum(kinds[kind] for kind in HALLUCINATED)
    return {
        "listed": kinds.total(),
        "unlinked": unlinked,
        "rate": _rate(unlinked, kinds.total()),
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "by_teacher": by(lambda case: case.model),
        "by_prompt": by(lambda case: case.grounding.prompt),
        "by_style": by(lambda case: case.grounding.style),
        "titles": [{"title": title, "count": count} for title, count in frequent],
    }


def _learnt(cases: Sequence[_Case], params: Curate) -> dict[str, Any]:
    """Count the titles in the answers of the kept dialogues that the catalogue lacks."""
    kept = [case for case in cases if case.fault is None]
    unlinked = sum(len(case.unlinked) for case in kept)
    return {
        "curate": params.unlinked,
        "kept": unlinked,
        "dialogues": sum(bool(case.unlinked) for case in kept),
        "share": _rate(unlinked, unlinked + sum(len(case.targets) for case in kept)),
    }


def _nearness(cases: Sequence[_Case], params: Curate) -> dict[str, Any]:
    """Say how near the dialogues come to the evaluation: the quantiles of their highest cosine."""
    cosines = sorted(
        case.contamination["cosine"]
        for case in cases
        if case.contamination and case.contamination["cosine"] is not None
    )
    return {
        "encoder": params.encoder if params.contamination_similarity > 0 else None,
        "threshold": params.contamination_similarity,
        "compared": len(cosines),
        **{
            name: cosines[round(share * (len(cosines) - 1))] if cosines else None
            for name, share in (("median", 0.5), ("p95", 0.95), ("max", 1.0))
        },
    }


def _turn_counts(kept: Sequence[Dialogue]) -> dict[str, int]:
    """Return how many kept dialogues have how many seeker messages."""
    counts = Counter(sum(m.role == "user" for m in dialogue.messages) for dialogue in kept)
    return {str(number): counts[number] for number in sorted(counts)}


def _rate(part: int, of: int) -> float | None:
    return round(part / of, 4) if of else None


def _targets(grounding: Grounding, linked: Sequence[str], prompt: Prompt) -> list[str]:
    """Return the items a dialogue recommends, best first, none of them told as liked."""
    if prompt.targets == "collaborative":
        order: Iterable[str] = grounding.targets
    elif prompt.targets == "teacher":
        order = linked
    else:
        order = [*linked, *grounding.targets]
    unique = [item for item in dict.fromkeys(order) if item not in set(grounding.liked)]
    return unique[: prompt.recommendations]


def _without_liked(text: str, grounding: Grounding, catalogue: Catalogue) -> str:
    """Cut out the liked titles: "Alien (1979)" named as liked does not give "Aliens" away."""
    for item in sorted(grounding.liked, key=lambda i: -len(catalogue.display(i))):
        shown = catalogue.display(item)
        for form in (shown, re.sub(r" \(\d{4}\)$", "", shown)):
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", "|", text, flags=re.IGNORECASE)
    return text


def _ngrams_of(
    conversations: pd.DataFrame, catalogue: Catalogue, n: int
) -> dict[tuple[str, ...], str]:
    """Return the word n-grams of the evaluation, each with a conversation it stands in."""
    found: dict[tuple[str, ...], str] = {}
    rows = zip(conversations["conversation_id"], conversations["turns"], strict=True)
    for name, turns in rows:
        for turn in turns:
            for run in ngrams(catalogue.mask(turn["text"]), n):
                found.setdefault(run, str(name))
    return found


def _split(
    kept: Sequence[Dialogue], fraction: float, seed: int, counts: Mapping[str, int]
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Split by item, so that no item's reviews stand on both sides.

    Items are held out in the order of their own hash until they make up `fraction` of the
    dialogues: other seeds move only the border, so that experiments are validated alike.
    """
    items = {dialogue.item_id for dialogue in kept}
    if len(items) < 2:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items())) or "none"
        raise RunError(
            f"{len(kept)} dialogues of {len(items)} items are left (quarantined: {reasons}); "
            "training and validation need one item each at least: raise select.budget or relax "
            "the curate parameters"
        )
    apart = held_out([dialogue.item_id for dialogue in kept], fraction, seed)
    train = [dialogue for dialogue in kept if dialogue.item_id not in apart]
    return train, [dialogue for dialogue in kept if dialogue.item_id in apart]


def held_out(groups: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Return the groups that make up the validation part, in the order of their own hash.

    Parameters
    ----------
    groups
        The group of each dialogue.
    fraction
        Of the dialogues, reached with as few groups as the order gives; one group always stays.
    seed
        Of the order.
    """
    sizes = Counter(groups)
    apart: set[str] = set()
    for group in sorted(sizes, key=lambda name: _hash(name, seed))[:-1]:
        if sum(sizes[held] for held in apart) >= fraction * len(groups):
            break
        apart.add(group)
    return apart


def _hash(item: str, seed: int) -> float:
    """Return a number in [0, 1) that hangs on the item and the seed alone."""
    return int(sha256_text(["split", str(seed), item])[:13], 16) / 16**13


def _body(line: Mapping[str, Any]) -> dict[str, Any]:
    response = line.get("response")
    if not isinstance(response, dict):
        error = line["error"]
        told = visible(f"{error.get('code')}: {error.get('message')}"[:LONGEST_RAW])
        raise QuarantineError("failed_request", told)
    body = response.get("body")
    return body if isinstance(body, dict) else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _mean(numbers: Sequence[int]) -> float | None:
    return round(sum(numbers) / len(numbers), 1) if numbers else None


def _query_length(dialogue: Dialogue) -> int:
    return sum(len(message.content) for message in dialogue.messages if message.role == "user")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'"))

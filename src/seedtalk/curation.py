"""Answers into training dialogues: parsed, grounded, filtered, split; every one accounted for.

An answer is kept or quarantined with one reason, the first that applies in the order of
`REASONS`. Nothing is dropped silently.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError, RunError, at
from seedtalk.params import Curate, Prompt
from seedtalk.records import Dialogue, Grounding, Message, Rejected, sha256_text
from seedtalk.students.templates import context_messages, format_answer
from seedtalk.teacher.answers import content_of

if TYPE_CHECKING:
    import pandas as pd

REASONS = (
    "failed_request",  # the teacher gave no answer
    "unparsable",  # the answer is no JSON of the form asked for
    "no_query",  # no seeker speaks, or not last
    "too_short",
    "too_long",
    "language",  # not English
    "no_recommendations",  # too few of the listed titles are in the catalogue
    "leak",  # a recommended title is named in the messages
    "contaminated",  # shares a long run of words with an evaluation conversation
    "near_duplicate",  # of a dialogue kept before
)
SHINGLE = 3  # words
PERMUTATIONS = 128
LSH_MARGIN = 0.8  # buckets are looked up below the threshold, so that few pairs escape
LATIN_SHARE = 0.9  # of a message's letters
FUNCTION_SHARE = 0.15  # of its words; English prose has 0.4, other languages under 0.1

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n?|\n?```\s*$")
_NUMBER = re.compile(r"^\s*(?:\d{1,3}\s*[.):]|[-*•])\s+")
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
    summary: dict[str, Any] = field(repr=False)


class QuarantineError(Exception):
    """Why an answer is quarantined: one of `REASONS` and the particulars."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Answer:
    """What a teacher said: turns of seeker and recommender, and the titles it lists."""

    turns: list[dict[str, str]]
    titles: list[str]

    @property
    def query(self) -> str:
        """The seeker's words."""
        return " ".join(turn["text"] for turn in self.turns if turn["role"] == "seeker")

    @property
    def text(self) -> str:
        """Everybody's words."""
        return " ".join(turn["text"] for turn in self.turns)


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
            raise InputError(f"{at(path, number, 'custom_id')}: '{line['custom_id']}' again")
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
        Filters; who names the targets and how many.
    seed
        Of the split and the MinHash permutations.
    teacher
        Summary of the generate stage.

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
        raise InputError(f"responses: '{odd}' {side}; run the generate stage again")
    catalogue = Catalogue(items)
    evaluated = _ngrams_of(conversations, catalogue, curate.contamination_ngram)
    seen = _Seen(curate.near_duplicate, seed)
    kept: list[Dialogue] = []
    rejected: list[Rejected] = []
    listed = unlinked = 0
    for grounding in groundings:
        line = responses[grounding.custom_id]
        answer: Answer | None = None
        try:
            answer = parse(_content(line))
            links = [catalogue.link(title) for title in answer.titles]
            listed += len(links)
            unlinked += links.count(None)
            targets = _targets(grounding, [link for link in links if link], prompt)
            _check(answer, targets, grounding, catalogue, curate)
            _check_apart(answer, grounding, catalogue, evaluated, seen, curate)
        except QuarantineError as fault:
            rejected.append(
                Rejected(
                    dialogue_id=grounding.custom_id,
                    reason=fault.reason,
                    detail=fault.detail,
                    text=answer.text if answer else str(_raw(line)),
                )
            )
            continue
        messages = [Message.model_validate(m) for m in context_messages(answer.turns)]
        titles = format_answer([catalogue.display(target) for target in targets])
        kept.append(
            Dialogue(
                dialogue_id=grounding.custom_id,
                review_id=grounding.review_id,
                item_id=grounding.item_id,
                style=grounding.style,
                teacher=str(teacher["model"]),
                messages=[*messages, Message(role="assistant", content=titles)],
                targets=targets,
            )
        )
    counts = Counter(record.reason for record in rejected)
    train, valid = _split(kept, curate.valid_fraction, seed, counts)
    return Curated(
        train,
        valid,
        rejected,
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
            "titles_listed": listed,
            "hallucination_rate": round(unlinked / listed, 4) if listed else None,
            "distinct_items": len({d.item_id for d in kept}),
            "distinct_targets": len({target for d in kept for target in d.targets}),
            "mean_query_chars": round(sum(_query_length(d) for d in kept) / len(kept), 1),
        },
    )


def parse(content: str | None) -> Answer:
    """Read a teacher's text as an answer.

    A code fence or words around the JSON object are tolerated. Titles may be texts (numbered
    or not) or objects with ``title`` and ``year``.

    Raises
    ------
    QuarantineError
        ``unparsable`` or ``no_query``.
    """
    if content is None:
        raise QuarantineError("unparsable", "the response holds no text")
    value = _object(content)
    messages = value.get("messages")
    if not isinstance(messages, list):
        raise QuarantineError("unparsable", "'messages' is no list")
    turns = []
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if role not in ("seeker", "recommender") or not isinstance(text, str):
            raise QuarantineError(
                "unparsable", f"message {number} has no role of a dialogue or no text"
            )
        if text.strip():
            turns.append({"role": role, "text": " ".join(text.split())})
    listed = value.get("recommendations", [])
    if not isinstance(listed, list):
        raise QuarantineError("unparsable", "'recommendations' is no list")
    if not turns or turns[-1]["role"] != "seeker":
        raise QuarantineError("no_query", "the seeker does not speak last")
    return Answer(turns, [title for title in map(_title, listed) if title])


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


class _Seen:
    """Messages kept so far, by their word 3-grams, looked up by MinHash and compared exactly."""

    def __init__(self, threshold: float, seed: int) -> None:
        from datasketch import MinHashLSH

        self._threshold, self._seed = threshold, seed
        self._shingles: dict[str, set[tuple[str, ...]]] = {}
        self._lsh = MinHashLSH(threshold=threshold * LSH_MARGIN, num_perm=PERMUTATIONS)

    def add(self, name: str, text: str) -> tuple[str, float] | None:
        """Add a text; where a like one is there already, return its name and the similarity."""
        from datasketch import MinHash

        shingles = ngrams(text, SHINGLE) or {tuple(_words(text))}
        sketch = MinHash(num_perm=PERMUTATIONS, seed=self._seed + 1)
        sketch.update_batch([" ".join(shingle).encode() for shingle in sorted(shingles)])
        near = [
            (jaccard(shingles, self._shingles[other]), other) for other in self._lsh.query(sketch)
        ]
        score, other = max(near, key=lambda pair: (pair[0], pair[1]), default=(0.0, ""))
        if other and score >= self._threshold:
            return other, score
        self._lsh.insert(name, sketch)
        self._shingles[name] = shingles
        return None


def _check(
    answer: Answer,
    targets: Sequence[str],
    grounding: Grounding,
    catalogue: Catalogue,
    params: Curate,
) -> None:
    """Raise a `QuarantineError` where the answer itself is no training example."""
    size = len(answer.query)
    if size < params.min_query_chars:
        raise QuarantineError("too_short", f"{size} characters, under {params.min_query_chars}")
    if size > params.max_query_chars:
        raise QuarantineError("too_long", f"{size} characters, over {params.max_query_chars}")
    spoken = _without_liked(answer.text, grounding, catalogue)
    if not is_english(catalogue.mask(spoken)):
        raise QuarantineError("language", "does not read as English")
    if len(targets) < params.min_recommendations:
        raise QuarantineError(
            "no_recommendations",
            f"{len(targets)} recommended items in the catalogue, "
            f"under {params.min_recommendations}",
        )
    for target in targets:
        if catalogue.names(spoken, target):
            raise QuarantineError("leak", f"names {catalogue.display(target)}")


def _check_apart(
    answer: Answer,
    grounding: Grounding,
    catalogue: Catalogue,
    evaluated: Mapping[tuple[str, ...], str],
    seen: _Seen,
    params: Curate,
) -> None:
    """Raise a `QuarantineError` where an evaluation or an earlier answer says the same."""
    masked = catalogue.mask(answer.text)
    for run in sorted(ngrams(masked, params.contamination_ngram)):
        if run in evaluated:
            raise QuarantineError("contaminated", f"'{' '.join(run)}' is in {evaluated[run]}")
    if double := seen.add(grounding.custom_id, answer.text):
        raise QuarantineError("near_duplicate", f"of {double[0]}, similarity {double[1]:.2f}")


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
    items = sorted({dialogue.item_id for dialogue in kept}, key=lambda item: _hash(item, seed))
    if len(items) < 2:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items())) or "none"
        raise RunError(
            f"{len(kept)} dialogues of {len(items)} items are left (quarantined: {reasons}); "
            "training and validation need one item each at least: raise select.budget or relax "
            "the curate parameters"
        )
    sizes = Counter(dialogue.item_id for dialogue in kept)
    apart: set[str] = set()
    for item in items[:-1]:  # the last one stays to train on
        if sum(sizes[held] for held in apart) >= fraction * len(kept):
            break
        apart.add(item)
    train = [dialogue for dialogue in kept if dialogue.item_id not in apart]
    return train, [dialogue for dialogue in kept if dialogue.item_id in apart]


def _hash(item: str, seed: int) -> float:
    """Return a number in [0, 1) that hangs on the item and the seed alone."""
    return int(sha256_text(["split", str(seed), item])[:13], 16) / 16**13


def _content(line: Mapping[str, Any]) -> str | None:
    response = line.get("response")
    if not isinstance(response, dict):
        error = line["error"]
        raise QuarantineError("failed_request", f"{error.get('code')}: {error.get('message')}")
    body = response.get("body")
    return content_of(body) if isinstance(body, dict) else None


def _raw(line: Mapping[str, Any]) -> str:
    try:
        return _content(line) or ""
    except QuarantineError:
        return ""


def _object(content: str) -> dict[str, Any]:
    text = _FENCE.sub("", content.strip())
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise QuarantineError("unparsable", "no JSON object in it")
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise QuarantineError("unparsable", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise QuarantineError("unparsable", "no JSON object in it")
    return value


def _title(listed: Any) -> str:
    if isinstance(listed, dict):
        title, year = listed.get("title"), listed.get("year")
        if not isinstance(title, str):
            return ""
        return f"{title} ({year})" if isinstance(year, int) and f"({year})" not in title else title
    if not isinstance(listed, str):
        return ""
    return _NUMBER.sub("", listed).strip().strip("\"“”'* ")


def _query_length(dialogue: Dialogue) -> int:
    return sum(len(message.content) for message in dialogue.messages if message.role == "user")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'"))

"""A teacher without a language model: it turns a review's own words into a request.

It stands in for a black-box model where there is no key, no GPU and no network. From the
review it takes what is said of aspects ("the acting is superb", "a slow burning plot"), what
the work is said to be ("a tense thriller about two brothers") and one sentence that can stand
alone. Names, titles, years, plot with people in it and complaints are left out. Style and films
come from the request; the recommendations are its candidates. Deterministic in (seed, request).
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seedtalk.errors import InputError
from seedtalk.records import sha256_text
from seedtalk.teacher import lexicon
from seedtalk.teacher.lexicon import FILM, Domain
from seedtalk.titles import fold, title_key

MAX_ASPECTS = 3
MAX_QUERY = 420  # characters; a small student reads 256 tokens

_BLOCK = re.compile(r"<([a-z-]+)>\n(.*?)\n?</\1>", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[a-z)][.!?])(?=[A-Z])|\.{2,}|…")
_WORD = re.compile(r"[A-Za-z]+(?:[-'][A-Za-z]+)*")
_CLAUSE = re.compile(r"[,;:()!?\"]|\s-+\s|--|\.(?:\s|$)|\b(?:but|although|though|because)\b")
_STATEMENT = re.compile(r"[;:()!?\"]|\s-+\s|--|\.(?:\s|$)|\b(?:but|although|though|because)\b")
_YEAR_END = re.compile(r"\s*\((\d{4})\)$")
_PLURAL = re.compile(
    r"\b(?i:the|of|with|by|some|many|two|three|four|five|about|between|against|all|his|her|their)"
    r" (?P<word>[a-z]{4,}[^aius\W]s)\b"
)
# How a sentence of the review is told as a wish.
FEELS = (
    "Ideally I'd come out of it saying: “{feel}”",
    "I'd want to be able to say of it: “{feel}”",
    "What I have in mind was once put like this: “{feel}”",
    "I mean the kind of {thing} people describe like this: “{feel}”",
    "Someone should be able to write of it: “{feel}”",
)
# What the recommender asks for, and how the seeker tells it. The recommender names nothing.
ASKS = {
    "liked": (
        "Which {thing}s have you liked?",
        "What have you enjoyed before?",
        "Can you name a few {thing}s you liked?",
    ),
    "aspects": (
        "What should stand out in it?",
        "What matters most to you in it?",
        "What makes a {thing} a good one for you?",
    ),
    "tone": (
        "What should it be like?",
        "How would you like it to be?",
        "And what should it feel like?",
    ),
    "about": (
        "What should it be about?",
        "Is there a subject you'd like it to deal with?",
    ),
    "feel": (
        "How should it strike you?",
        "What would you like to be able to say of it afterwards?",
    ),
}
TELLS = {
    "aspects": ("{told}, above all.", "I'd love {said}.", "For me it's {said}."),
    "motifs": ("Some {said} in it would be nice.", "It may well have {said} in it."),
    "tone": ("Something {said} would be right.", "{told}, I'd say.", "Make it {said}, please."),
    "about": ("A story about {said}.", "Something about {said}, ideally."),
}
# Where the review has no more to say; the last one closes a talk.
OPEN = (
    ("{avoid}", "No, I'm open to anything else."),
    ("Does it have to be a recent one?", "No, the year doesn't matter."),
    ("Is there anything else I should know?", "No, that's all."),
)
FIRST_WORDS = ("Sure.", "Gladly.", "With pleasure.", "Happy to help.")
FURTHER_WORDS = ("Got it.", "Thanks, that helps.", "Understood.", "Good to know.", "I see.")
QUESTIONS = ("can", "could", "would", "do", "does", "is", "are", "any")
PLAIN = frozenset(
    (
        "great good nice excellent wonderful perfect best fine amazing awesome special better "
        "solid brilliant fantastic superb terrific incredible interesting strong enjoyable"
    ).split()
)


@dataclass(frozen=True)
class _Patterns:
    """What is looked for in a review of one domain."""

    is_a: re.Pattern[str]
    about: re.Pattern[str]
    before: re.Pattern[str]
    after: re.Pattern[str]
    work_before: re.Pattern[str]
    work_after: re.Pattern[str]
    works: frozenset[str]
    count: frozenset[str]
    plural: frozenset[str]
    aspect_words: frozenset[str]
    openers: frozenset[str]


@functools.cache
def _patterns(domain: Domain) -> _Patterns:
    works = lexicon.WORKS | domain.works
    mass, count = lexicon.MASS | domain.mass, lexicon.COUNT | domain.count
    plural = lexicon.PLURAL | domain.plural
    longest_first = sorted(
        count | plural | mass | set(lexicon.SINGULAR), key=lambda aspect: (-len(aspect), aspect)
    )
    aspect = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in longest_first)
    work = "|".join(sorted(works))
    named = "|".join(map(re.escape, domain.named))
    praised = "|".join(map(re.escape, domain.praised))
    aspect_words = frozenset(word for name in count | plural | mass for word in name.split())
    return _Patterns(
        is_a=re.compile(
            rf"^(?:this|it|(?:the|this) (?:{named})|this one)(?:'s| is| was)"
            r" (?:\w+ly )?(?P<what>an? [^.!?]+)[.!]?$",
            re.IGNORECASE,
        ),
        about=re.compile(
            rf"\b(?:story|tale|{named}|drama|comedy|thriller)(?: is| was)? about "
            r"(?P<what>(?:an?|two|three|four|five|some|love|family|friendship|the) "
            r"[^.!?,;:()\"]+)",
            re.IGNORECASE,
        ),
        before=re.compile(
            rf"(?P<words>(?:[\w'-]+,?\s(?:and\s)?){{1,5}}?)(?P<aspect>{aspect})\b(?!-)",
            re.IGNORECASE,
        ),
        after=re.compile(
            rf"\b(?P<aspect>{aspect})(?P<between>(?: [\w'-]+){{0,4}}?) (?:is|are|was|were) "
            r"(?P<words>[\w'-]+(?:(?:,? and|,)? [\w'-]+){0,3})",
            re.IGNORECASE,
        ),
        work_before=re.compile(rf"(?P<words>(?:[\w'-]+,?\s){{1,6}}?)(?:{work})\b", re.IGNORECASE),
        work_after=re.compile(
            rf"\b(?:{praised}|it|this one)(?:'s| is| was) "
            r"(?P<words>[\w'-]+(?:(?:,? and|,)? [\w'-]+){0,4})",
            re.IGNORECASE,
        ),
        works=works,
        count=count,
        plural=plural,
        aspect_words=aspect_words,
        openers=(lexicon.OPENERS | lexicon.WANTED | lexicon.INTENSIFIERS | aspect_words)
        - lexicon.LEANING,
    )


@dataclass(frozen=True)
class Told:
    """What a request says, read back from its fenced blocks."""

    thing: str
    item: dict[str, str]
    review: str
    further: list[str]
    liked: list[str]
    candidates: list[str]
    style: dict[str, str]
    turns: int = 1

    @property
    def domain(self) -> Domain:
        """The words of the works asked for."""
        return lexicon.domain(self.thing)


def answer(body: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Return a chat completion for a grounded request.

    Parameters
    ----------
    body
        Body of a chat request whose user message holds the fenced blocks of
        ``prompts/dialogue.md``.
    seed
        Of the choices among phrases.

    Raises
    ------
    InputError
        When the request has no review or style to work with, as the ungrounded baseline's.
    """
    told = read(body)
    messages = [json.dumps(message, sort_keys=True) for message in body["messages"]]
    rng = np.random.default_rng(int(sha256_text([str(seed), *messages])[:16], 16))
    spoken = [compose(told, rng)] if told.turns == 1 else converse(told, rng)
    turns = [
        {"role": "recommender" if place % 2 else "seeker", "content": text}
        for place, text in enumerate(spoken)
    ]
    titles = told.candidates or [told.item["Title"]]
    content = json.dumps({"messages": turns, "recommendations": titles}, ensure_ascii=False)
    # Words, not a tokenizer's tokens: nothing is paid for them.
    prompt_words = sum(len(message["content"].split()) for message in body["messages"])
    answer_words = len(content.split())
    return {
        "id": "extractive-" + sha256_text(messages)[:16],
        "object": "chat.completion",
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_words,
            "completion_tokens": answer_words,
            "total_tokens": prompt_words + answer_words,
        },
    }


def read(body: Mapping[str, Any]) -> Told:
    """Read the blocks of a request's user message.

    Raises
    ------
    InputError
        When a block that is needed is missing.
    """
    found = _BLOCK.findall(body["messages"][-1]["content"])
    blocks = dict(found)
    for name in ("item", "review", "style", "liked", "candidates"):
        if name not in blocks:
            raise InputError(
                f"the extractive teacher needs a <{name}> block in the prompt's user part; "
                "restore prompts/dialogue.md, or choose teacher.backend=openai (the ungrounded "
                "baseline needs a language model)"
            )
    return Told(
        thing=blocks.get("domain", "").strip() or "film",
        item=_fields(blocks["item"]),
        review=blocks["review"],
        further=[text for name, text in found if name == "further-review"],
        liked=blocks["liked"].split("\n") if blocks["liked"].strip() else [],
        candidates=blocks["candidates"].split("\n") if blocks["candidates"].strip() else [],
        style=_fields(blocks["style"]),
        turns=_count(blocks.get("turns", "1")),
    )


def compose(told: Told, rng: np.random.Generator) -> str:
    """Write the seeker's only message in the style of the request."""
    banned = _banned(told)
    sentences = split(told.review)
    aspects = _said_aspects(told, sentences, banned, rng)
    style = told.style
    order = [part.strip() for part in style["tell, in this order"].split(",")]
    if "feel" in order[:1] and "wish" in order:
        # A quotation explains a wish: it cannot come before it.
        order.remove("feel")
        order.insert(order.index("wish") + 1, "feel")
    parts = {"wish": _wish(told, sentences, aspects, banned, rng), "feel": "", "liked": ""}
    if told.liked:
        parts["liked"] = style["liked films as"].replace("{liked}", _and(told.liked))
    if "feel" not in order and not aspects:
        order.append("feel")  # without it the review would be unheard
    feel = _feel(sentences, banned, aspects, told.domain) if "feel" in order else ""
    if feel and not _repeats(feel, parts["wish"]):
        frame = FEELS[int(rng.integers(len(FEELS)))]
        parts["feel"] = frame.format(feel=feel, thing=told.thing)
    if not aspects and not parts["feel"] and "liked" not in order:
        order.append("liked")  # "a comedy" alone is no request
    while True:
        message = " ".join(parts[part] for part in order if parts[part])
        if len(message) <= MAX_QUERY or not parts["feel"]:
            break
        parts["feel"] = ""
    return _closed(message, style)


def converse(told: Told, rng: np.random.Generator) -> list[str]:
    """Write a dialogue: the seeker's and the recommender's messages in turn, the seeker's last.

    What `compose` tells at once is told bit by bit, each bit in answer to a question about it:
    what it is like, films liked, what should stand out, the subject, a sentence of the review. Bits
    there is no turn for go into the first message. A review may have less to say than
    `told.turns` messages hold; then the dialogue is shorter.
    """
    banned = _banned(told)
    sentences = split(told.review)
    aspects = _said_aspects(told, sentences, banned, rng)
    order = [part.strip() for part in told.style["tell, in this order"].split(",")]
    bits: dict[str, str] = {}
    if told.liked:
        bits["liked"] = told.style["liked films as"].replace("{liked}", _and(told.liked))
    opened = "liked" in bits and "liked" in order and order.index("liked") < order.index("wish")
    described = _described(sentences, banned, told.domain)
    about = _about(sentences, banned, told.domain) or _and(_subjects(told.review, banned)[:2])
    heard = {word for phrase in aspects for word in _lower(phrase)}
    tones = [t for t in _tones(sentences, banned, told.domain) if t not in heard][:2]
    tones = [] if described else tones
    frames = "aspects" if any(" " in phrase for phrase in aspects) else "motifs"
    for topic, frame, said in (
        ("aspects", frames, _and(aspects)),
        ("tone", "tone", _and(tones)),
        ("about", "about", about),
    ):
        if said:
            words = _one(TELLS[frame], rng)
            bits[topic] = words.format(said=said, told=said[0].upper() + said[1:])
    if feel := _feel(sentences, banned, aspects, told.domain):
        bits["feel"] = _one(FEELS[:3], rng).format(feel=feel, thing=told.thing)

    asked = [topic for topic in ("aspects", "liked", "tone", "about", "feel") if topic in bits]
    if opened:
        asked.remove("liked")
    if "liked" in asked and "liked" not in order:
        asked.append(asked.pop(asked.index("liked")))
    asked = asked[: told.turns - 1]
    if "feel" in asked and len(" ".join(bits[topic] for topic in asked)) > MAX_QUERY:
        asked.remove("feel")
    natural = ("tone", "liked", "about", "aspects", "feel")
    asked.sort(key=lambda topic: (natural.index(topic) - int(rng.integers(3)), topic))

    what = described or _kind(told, [] if "tone" in asked else tones, aspects, rng)
    if not described and about and "about" not in asked and told.turns > 1:
        what += f" about {about}"
    if aspects and "aspects" not in asked and " with " not in what:
        what += " with " + _and(aspects[:2])
    opening = told.style["begin with"]
    first = f"{opening} {what}{_mark(opening)}"
    if opened:
        first = f"{bits['liked']} {first}"
    elif "liked" in bits and "liked" in order and "liked" not in asked:
        first = f"{first} {bits['liked']}"
    messages = [first]
    further = [FURTHER_WORDS[i] for i in rng.permutation(len(FURTHER_WORDS))]
    pairs = [(_one(ASKS[topic], rng).format(thing=told.thing), bits[topic]) for topic in asked]
    left = told.turns - 1 - len(pairs)
    # The closing one comes last, and alone where there is room for one only.
    pairs += [*(OPEN[i] for i in rng.permutation(len(OPEN) - 1)), OPEN[-1]][-left:] if left else []
    for place, (question, reply) in enumerate(pairs):
        word = further[(place - 1) % len(further)] if place else _one(FIRST_WORDS, rng)
        messages += [f"{word} {question.format(avoid=told.domain.avoid)}", reply]
    messages[-1] = _closed(messages[-1], told.style)
    return messages


def _said_aspects(
    told: Told, sentences: Sequence[str], banned: frozenset[str], rng: np.random.Generator
) -> list[str]:
    """Return aspects to ask for: the review's, then a further review's, then motifs."""
    aspects = _aspects(sentences, banned, told.domain)
    if len(aspects) < 2:  # then another review of the same item may say more
        known = {_lower(phrase)[-1] for phrase in aspects}
        for other in told.further:
            more = _aspects(split(other), banned, told.domain)
            aspects += [a for a in more if _lower(a)[-1] not in known]
    aspects = _pick(aspects, rng)
    if len(aspects) < 2:
        reviews = " ".join([told.review, *told.further])
        aspects += _motifs(reviews, banned, told.domain)[: 2 - len(aspects)]
    return aspects


def _closed(message: str, style: Mapping[str, str]) -> str:
    """End a message as its style ends."""
    closing = style.get("end with", "")
    if closing and not (closing.endswith("?") and message.endswith("?")):
        return f"{message} {closing}"
    return message


def _mark(opening: str) -> str:
    """Return the mark that ends a wish which opens so."""
    first = re.findall(r"[A-Za-z']+", opening.lower())[:1]
    return "?" if first and first[0] in QUESTIONS else "."


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _repeats(feel: str, wish: str) -> bool:
    """Tell whether most words of a quotation stand in the wish already."""
    words, said = set(_lower(feel)), set(_lower(wish))
    return len(words & said) > 0.5 * len(words)


def split(review: str) -> list[str]:
    """Split a review into sentences, also where the space after a full stop was left out."""
    return [s.strip() for s in _SENTENCE.split(review) if s and s.strip()]


def _wish(
    told: Told,
    sentences: Sequence[str],
    aspects: Sequence[str],
    banned: frozenset[str],
    rng: np.random.Generator,
) -> str:
    """Return the opening and what is looked for, as a sentence."""
    described = _described(sentences, banned, told.domain)
    about = _about(sentences, banned, told.domain) or _and(_subjects(told.review, banned)[:2])
    if described and rng.random() < 0.7:
        what = described
        said = set(_lower(what))
        further = [phrase for phrase in aspects if not {*_lower(phrase)[-1:]} & said]
        if further and " with " not in what and " about " not in what and len(what) < 60:
            what += " with " + _and(further[:2])
    else:
        tones = _tones(sentences, banned, told.domain) or [
            t for o in told.further for t in _tones(split(o), banned, told.domain)
        ]
        what = _kind(told, tones, aspects, rng)
        if about and rng.random() < 0.8:
            what += f" about {about}" + (", with " + _and(aspects[:2]) if aspects else "")
        elif aspects:
            what += " with " + _and(aspects)
    opening = told.style["begin with"]
    return f"{opening} {what}{_mark(opening)}"


def _kind(
    told: Told, tones: Sequence[str], aspects: Sequence[str], rng: np.random.Generator
) -> str:
    """Return what kind of work is looked for: "a dark and moving crime drama"."""
    genre = _genre(told, rng)
    said = {word for phrase in aspects for word in _lower(phrase)}
    said |= {word[:5] for word in [*genre.split(), told.thing]}  # no "thrilling thriller"
    told_tones = [t for t in dict.fromkeys(tones) if t not in said and t[:5] not in said]
    chosen = told_tones[: int(rng.integers(1, 3))]
    if not chosen:
        return _a(genre or f"good {told.thing}")
    # Two of a kind of adjective stand with "and"; a third would be a catalogue.
    return _a(f"{_and(chosen)} {genre if genre and rng.random() < 0.7 else told.thing}")


def _tones(sentences: Sequence[str], banned: frozenset[str], domain: Domain = FILM) -> list[str]:
    """Return adjectives said of the whole work, telling ones first: ["dark", "moving"]."""
    known = _patterns(domain)
    found: list[str] = []
    for sentence in sentences:
        for clause in _STATEMENT.split(sentence):
            for pattern, tail in ((known.work_before, True), (known.work_after, False)):
                for match in pattern.finditer(clause):
                    words = _lower(match["words"])
                    before = _lower(clause[: match.start()])[-4:] + words
                    if set(before) & (lexicon.NEGATIONS | lexicon.DISLIKED):
                        continue
                    run = words[::-1] if tail else words
                    for word in run:
                        if word in lexicon.WANTED and word not in PLAIN:
                            found.append(word)
                        elif word not in lexicon.INTENSIFIERS | lexicon.WANTED | {"and", "a", "an"}:
                            break
    return [word for word in dict.fromkeys(found) if word not in banned]


def _described(sentences: Sequence[str], banned: frozenset[str], domain: Domain = FILM) -> str:
    """Return what a sentence says the work is: "a tense thriller that keeps you guessing"."""
    for sentence in sentences:
        found = _patterns(domain).is_a.match(sentence)
        if not found:
            continue
        what = found["what"].rstrip(" .!,")
        head = _CLAUSE.split(what, maxsplit=1)[0].strip()
        what = what if len(what) <= 110 and "(" not in what and '"' not in what else head
        words = _lower(what)
        if (
            3 <= len(words) <= 18
            and _usable(what, banned)
            and not set(words) & (lexicon.PERSONAL | lexicon.NEGATIONS - {"never"})
            and any(word in _patterns(domain).works for word in words[1:7])
            and any(word in lexicon.WANTED or word in lexicon.LIKED for word in words[1:6])
            and not {*domain.named, "one", "example", "sequel", "remake", "shame"} & set(words[-1:])
            and "sequel" not in words
        ):
            return what[0].lower() + what[1:]
    return ""


def _about(sentences: Sequence[str], banned: frozenset[str], domain: Domain = FILM) -> str:
    """Return what the story is about, where it is told in a clause without names."""
    for sentence in sentences:
        for found in _patterns(domain).about.finditer(sentence):
            what = _CLAUSE.split(found["what"], maxsplit=1)[0].strip()
            ended = sentence[found.start("what") + len(what) :].lstrip()[:1]
            words = _lower(what)
            if (
                3 <= len(words) <= 12
                and ended in {"", ".", ",", "!", ";"}
                and _usable(what, banned)
                and not set(words) & (lexicon.PERSONAL | lexicon.NEGATIONS | lexicon.DISLIKED)
                and words[-1] not in lexicon.LEANING
            ):
                return what
    return ""


def _subjects(review: str, banned: frozenset[str]) -> list[str]:
    """Return subjects the review speaks of more than once, the most frequent first."""
    counts = Counter(word for word in _lower(review) if word in lexicon.SUBJECTS - banned)
    return [word for word, count in counts.most_common() if count > 1]


def _motifs(review: str, banned: frozenset[str], domain: Domain = FILM) -> list[str]:
    """Return what there is to see, told more than once: "soldiers", "trains"."""
    plural = _patterns(domain).plural
    known = lexicon.EMPTY_PLURALS | plural | lexicon.PERSONAL | lexicon.DISLIKED | banned
    found = (match["word"] for match in _PLURAL.finditer(review))
    counts = Counter(word for word in found if word not in known)
    return [word for word, count in counts.most_common() if count > 1]


def _aspects(sentences: Sequence[str], banned: frozenset[str], domain: Domain = FILM) -> list[str]:
    """Return noun phrases such as "a gripping plot", each aspect once, in the review's order."""
    known = _patterns(domain)
    phrases: dict[str, str] = {}
    for sentence in sentences:
        for clause in _STATEMENT.split(sentence):
            for pattern in (known.after, known.before):
                for found in pattern.finditer(clause):
                    if pattern is known.before:
                        words = _describing(_lower(found["words"]), tail=True)
                    else:
                        words = _describing(_lower(found["words"]), tail=False)
                    before = _lower(clause[: found.start()])[-4:] + _lower(found["words"])
                    before += _lower(found.groupdict().get("between") or "")
                    if not words or set(before) & lexicon.NEGATIONS:
                        continue
                    aspect = " ".join(found["aspect"].lower().split())
                    aspect = lexicon.SINGULAR.get(aspect, aspect)
                    phrase = " ".join(words) + " " + aspect
                    if banned & set(_lower(phrase)) or set(words) & set(_lower(aspect)):
                        continue
                    if aspect in known.count:
                        phrase = _a(phrase)
                    phrases.setdefault(aspect.split()[-1].rstrip("s"), phrase)
    return list(phrases.values())


def _describing(words: list[str], tail: bool) -> list[str]:
    """Return the adjectives at the end (`tail`) or start of `words`, joined to be read.

    "with a really dark and clever" gives "really dark and clever"; "superb and the" gives
    "superb".
    """
    run: list[str] = []
    for word in reversed(words) if tail else words:
        if (
            (word == "and" and run)
            or word in lexicon.WANTED
            or (word in lexicon.MADE)
            or word in lexicon.INTENSIFIERS
        ):
            run.append(word)
        else:
            break
    if tail:
        run.reverse()
    while run and (run[0] == "and" or (not tail and run[0] in {"so", "too"})):
        run = run[1:]
    while run and (run[-1] == "and" or run[-1] in lexicon.INTENSIFIERS):
        run = run[:-1]
    for place, word in enumerate(run):
        if word in lexicon.MADE and (place == 0 or run[place - 1] not in lexicon.INTENSIFIERS):
            return []
    run = [w for w in run if w not in {"so", "quite", "rather", "pretty", "very", "really"}]
    adjectives = [w for w in run if w in lexicon.WANTED]
    if not adjectives and not any(w in lexicon.MADE for w in run):
        return []
    return _joined(run)


def _joined(run: list[str]) -> list[str]:
    """Put an "and" before the last of several adjectives, commas between the others."""
    units: list[str] = []
    for word in run:
        if word == "and":
            continue
        if units and units[-1].split()[-1] in lexicon.INTENSIFIERS:
            units[-1] += " " + word
        else:
            units.append(word)
    units = list(dict.fromkeys(units))
    if len(units) == 1:
        return units
    return [", ".join(units)] if "and" not in run else [_and(units)]


def _pick(aspects: list[str], rng: np.random.Generator) -> list[str]:
    """Return some aspects: the ones said in most words first, told in a drawn order."""

    def weight(phrase: str) -> int:
        words = [w for w in _lower(phrase) if w not in {"a", "an", "and"}]
        return len(words) - 2 * any(w in PLAIN for w in words)

    ranked = sorted(aspects, key=lambda phrase: (-weight(phrase), aspects.index(phrase)))
    chosen = ranked[: int(rng.integers(2, MAX_ASPECTS + 1))]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _feel(
    sentences: Sequence[str],
    banned: frozenset[str],
    aspects: Sequence[str],
    domain: Domain = FILM,
) -> str:
    """Return the sentence that best tells what the work is like, or ""."""
    used = {word for phrase in aspects for word in _lower(phrase)}
    best, best_score = "", 0.0
    for sentence in sentences:
        words = _lower(sentence)
        if not (
            6 <= len(words) <= 26
            and 35 <= len(sentence) <= 170
            and sentence[-1] in ".!"
            and words[0] in _patterns(domain).openers
            and _usable(sentence[0].lower() + sentence[1:], banned)
            and not set(words) & (lexicon.PERSONAL | lexicon.DISLIKED)
            and not set(words) & (lexicon.NEGATIONS - {"never", "nothing", "no", "not", "without"})
            and not re.search(r"[\"“”()\[\]*:;/]", sentence)
            and re.match(r"[A-Z]", sentence)
        ):
            continue
        liked = sum(word in lexicon.LIKED for word in words)
        told = sum(word in _patterns(domain).aspect_words for word in words)
        known = sum(word in used for word in set(words))
        score = 2.0 * min(liked, 3) + 1.0 * min(told, 3) + len(words) / 20 - 0.7 * known
        if liked + told > 1 and liked and score > best_score:
            best, best_score = sentence, score
    return best.rstrip("!.") + "." if best else ""


def _usable(text: str, banned: frozenset[str]) -> bool:
    """Tell whether a clause names nobody and nothing: no capitals, digits or title words."""
    if re.search(r"\d|\b(?!I\b)[A-Z]", text) or not text.isascii():
        return False
    if re.search(
        r"\b(spoiler|imdb|review|reviewer|rating|stars?|dvd|sequel|remake|seen|saw|watched)\b", text
    ):
        return False
    return not banned & set(_lower(text))


def _banned(told: Told) -> frozenset[str]:
    """Return words not to be said: of the titles, common ones apart, and the domain's foreign."""
    words: set[str] = set(told.domain.foreign)
    for title in [told.item["Title"], *told.candidates]:
        key = title_key(_YEAR_END.sub("", title))
        words |= {word for word in key if len(word) > 3 and word not in _COMMON}
        words.add("".join(key))  # "spiderman"; a title of one word in any case
    return frozenset(words)


_COMMON = lexicon.LEANING | lexicon.PERSONAL | {"with", "from", "about", "into", "never", "what"}


def _genre(told: Told, rng: np.random.Generator) -> str:
    """Return the item's genres as a noun phrase, "romantic comedy"; "" where none is known."""
    genres = [g.strip().lower() for g in told.item.get("Genres", "").split(",") if g.strip()]
    known = [g for g in genres if g in lexicon.GENRE_MODIFIERS or g in lexicon.GENRE_NOUNS]
    order = [known[i] for i in rng.permutation(len(known))]
    noun = next((g for g in order if g in lexicon.GENRE_NOUNS), None)
    before = next((g for g in order if g != noun and g in lexicon.GENRE_MODIFIERS), None)
    if not known:
        return ""
    words = [lexicon.GENRE_MODIFIERS[before]] if before else []
    return " ".join([*words, lexicon.GENRE_NOUNS[noun] if noun else told.thing])


def _a(phrase: str) -> str:
    """Put the indefinite article before `phrase`."""
    vowel = phrase[0] in "aeio" or (phrase[0] == "u" and not re.match(r"un[ai]|us|ut", phrase))
    return (
        "an " if vowel or phrase.startswith(("honest", "hour", "unassum", "unim", "unin")) else "a "
    ) + phrase


def _fields(block: str) -> dict[str, str]:
    """Read ``name: value`` lines."""
    pairs = (line.partition(":") for line in block.split("\n") if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _count(block: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,2}", block.strip()):
        raise InputError(
            f"the <turns> block of the prompt's user part holds {block!r}, no number of messages"
        )
    return int(block)


def _lower(text: str) -> list[str]:
    return _WORD.findall(fold(text).lower())


def _and(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]

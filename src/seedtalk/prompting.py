"""Seeds into chat requests: what the teacher is told, and what the data says it should find.

A request is a line of the OpenAI Batch format. It depends on the seed's review and the data,
never on the run's seed or the selection: two strategies that pick the same review share the
call that was paid for it.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from seedtalk.errors import InputError, at
from seedtalk.params import Group, Prompt
from seedtalk.records import Grounding, Seed, display_title, sha256_text
from seedtalk.texts import visible

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

URL = "/v1/chat/completions"
SHRINKAGE = 10.0  # common likes at which a similarity counts half
POOL = 2  # liked films are drawn from this many times what a dialogue needs
KEPT = 512  # rows of similarities held at a time
ID_LENGTH = 64  # what every batch endpoint accepts
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "messages": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "role": {"type": "string", "enum": ["seeker", "recommender"]},
                    "content": {"type": "string"},
                },
                "required": ["role", "content"],
                "additionalProperties": False,
            },
        },
        "recommendations": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["messages", "recommendations"],
    "additionalProperties": False,
}

_PART = re.compile(r"^<!-- (system|user) -->[ \t]*\n", re.MULTILINE)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
# Control tokens in square brackets: [INST], [/INST], [SYSTEM_PROMPT], [TOOL_CALLS].
_BRACKETED = re.compile(r"\[\s*(/?)\s*(INST|SYS|[A-Z]{3,}(?:_[A-Z]+)*)\s*\]")
_INSTRUCTION = re.compile(r"\[\s*(/?)\s*(INST|SYS)\s*\]", re.IGNORECASE)
# Whose turn it is, as plain prompts write it: "USER: ...", "### Response:".
_ROLE = re.compile(
    r"\b(system|user|human|assistant|ai|bot|model|instruction|response|seeker|recommender)\s*:",
    re.IGNORECASE,
)
_FORMS = ("<wide>", "<small>", "<font>")
_HEADING = re.compile(r"#{2,}")
_UNSAFE_ID = re.compile(r"[^A-Za-z0-9_.-]")
_FENCES = str.maketrans({"<": "‹", ">": "›", "≮": "‹", "≯": "›", "{": "(", "}": ")", "`": "'"})


class Style(Group):
    """How a seeker talks: an instruction, and phrases one of which is drawn for each seed."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    instruction: str = Field(min_length=1)
    tells: tuple[Literal["wish", "feel", "liked"], ...] = Field(min_length=1)  # in this order
    opening: tuple[str, ...] = Field(min_length=1)  # words the message begins with
    liked: tuple[str, ...] = Field(min_length=1)  # how liked films are told; holds {liked}
    closing: tuple[str, ...] = Field(min_length=1)  # words it ends with; "" for none


@dataclass(frozen=True)
class Template:
    """The two messages of a request, as Jinja texts, and the sha256 of their file."""

    system: str
    user: str
    sha256: str


def neutralise(text: str, limit: int | None = None) -> str:
    """Return third-party `text` as one line of data that can end no fence and take no role.

    Invisible characters, controls and lone surrogates go (`seedtalk.texts.visible`); look-alikes
    of ASCII (fullwidth, small and mathematical letters) become ASCII; markup goes. Then angle
    brackets and braces become other marks, so that neither our fences nor a chat template's
    control tokens (``<|im_start|>``, ``</s>``, ``<start_of_turn>``) can be written; ``[INST]``
    and its kind, backticks and runs of ``#`` likewise; ``Assistant:`` loses its colon.

    Parameters
    ----------
    text
        Anything.
    limit
        Characters to keep; a longer text is cut at a sentence's end, else at a word's.
    """
    plain = _ascii(visible(text))
    plain = _TAG.sub(" ", _BREAK.sub(" ", plain)).translate(_FENCES)
    plain = _INSTRUCTION.sub(r"(\1\2)", _BRACKETED.sub(r"(\1\2)", plain))
    plain = " ".join(_ROLE.sub(r"\1 -", _HEADING.sub("#", plain)).split())
    if limit is None or len(plain) <= limit:
        return plain
    cut = plain[: limit + 1]
    sentence = max(cut.rfind(mark + " ") for mark in ".!?") + 1
    word = cut.rfind(" ")
    return cut[: sentence if sentence > limit // 2 else word if word > 0 else limit].rstrip()


def _ascii(text: str) -> str:
    """Return `text` with every fullwidth, small or mathematical form of an ASCII character plain.

    Other compatibility characters keep their meaning: ``Alien³`` is no ``Alien3``.
    """
    if text.isascii():
        return text
    return "".join(
        unicodedata.normalize("NFKC", char)
        if unicodedata.decomposition(char).startswith(_FORMS)
        else char
        for char in text
    )


def load_template(path: Path) -> Template:
    """Read a prompt file: a part headed ``<!-- system -->``, then one ``<!-- user -->``.

    Raises
    ------
    InputError
        When a part is missing, twice there or empty, or is no valid Jinja text.
    """
    from jinja2 import TemplateSyntaxError

    text = _read(path)
    pieces = _PART.split(text)
    names, bodies = pieces[1::2], [body.strip() for body in pieces[2::2]]
    if names != ["system", "user"] or not all(bodies):
        raise InputError(
            f"{path}: expected a line '<!-- system -->' and its text, then '<!-- user -->' and "
            f"its text; found {names or 'neither'}"
        )
    environment = _environment()
    for body in bodies:
        try:
            environment.parse(body)
        except TemplateSyntaxError as error:
            line = text[: text.index(body)].count("\n") + error.lineno
            raise InputError(f"{at(path, line)}: {error.message}") from error
    return Template(bodies[0], bodies[1], hashlib.sha256(text.encode()).hexdigest())


def load_styles(path: Path) -> list[Style]:
    """Read the styles a request draws from.

    Raises
    ------
    InputError
        When the file is no list of styles, or an id is there twice.
    """
    import yaml

    try:
        raw = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, list) or not raw:
        raise InputError(f"{path}: expected a list of styles")
    styles: list[Style] = []
    for number, value in enumerate(raw, start=1):
        try:
            style = Style.model_validate(value)
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"])) or None
            raise InputError(f"{at(path, number, field)}: {fault['msg']}") from error
        if style.id in {other.id for other in styles}:
            raise InputError(f"{at(path, number, 'id')}: '{style.id}' is there twice")
        for phrase in style.liked:
            if "{liked}" not in phrase:
                raise InputError(f"{at(path, number, 'liked')}: '{phrase}' lacks {{liked}}")
        styles.append(style)
    return styles


class CoLikes:
    """Likes of many users, and how alike two items are by who likes them.

    Parameters
    ----------
    interactions
        Table with user_id, item_id and liked (see `seedtalk.records.INTERACTIONS`).
    items
        Item ids of the catalogue; interactions with others are left out.
    """

    def __init__(self, interactions: pd.DataFrame, items: Sequence[str]) -> None:
        from scipy import sparse

        self.items = list(items)
        self.row = {item: row for row, item in enumerate(self.items)}
        likes = interactions[interactions["liked"] & interactions["item_id"].isin(self.row)]
        users, self.users = likes["user_id"].factorize(sort=True)
        rows = likes["item_id"].map(self.row).to_numpy(dtype=np.int64)
        shape = (len(self.users), len(self.items))
        matrix = sparse.csr_matrix((np.ones(len(likes)), (users, rows)), shape=shape)
        matrix.data[:] = 1.0  # a pair told twice is one like
        self._by_user = matrix
        self._by_item = matrix.tocsc()
        self._likes = np.asarray(matrix.sum(axis=0)).ravel()
        self.counts = np.diff(matrix.indptr)  # items each user likes
        self.user_lots, self.item_lots = lots(list(self.users)), lots(self.items)
        self._similar = functools.lru_cache(maxsize=KEPT)(self._similarities)

    def fans(self, item: int) -> np.ndarray:
        """Return the rows of the users who like the item, ascending."""
        return np.sort(_column(self._by_item, item))

    def likes(self, user: int) -> np.ndarray:
        """Return the rows of the items a user likes, ascending."""
        return np.sort(_column(self._by_user, user))

    def similar(self, item: int) -> np.ndarray:
        """Return the similarity of every item to one: cosine of the likes, shrunk.

        ``n_ij / sqrt(n_i n_j) * n_ij / (n_ij + 10)`` with n_ij the users who like both: two
        items that one user in two likes are no neighbours yet. Zero for the item itself.
        """
        return self._similar(item)

    def _similarities(self, item: int) -> np.ndarray:
        common = np.asarray(self._by_user[self.fans(item)].sum(axis=0)).ravel()
        scale = np.sqrt(self._likes[item] * self._likes)
        cosine = np.divide(common, scale, out=np.zeros_like(common), where=scale > 0)
        shrunk: np.ndarray = cosine * common / (common + SHRINKAGE)
        shrunk[item] = 0.0
        return shrunk


class Shared:
    """How alike two items are by what their metadata tells of them (`content.content_vectors`)."""

    def __init__(self, items: pd.DataFrame) -> None:
        from seedtalk.content import content_vectors

        self._vectors = content_vectors(items)
        self._similar = functools.lru_cache(maxsize=KEPT)(self._similarities)

    def similar(self, item: int) -> np.ndarray:
        """Return the cosine of every row of the items to one; zero for the item itself."""
        return self._similar(item)

    def _similarities(self, item: int) -> np.ndarray:
        cosine: np.ndarray = (self._vectors @ self._vectors[[item]].T).toarray().ravel()
        cosine[item] = 0.0
        return cosine


def neighbours(
    shared: Shared,
    likes: CoLikes,
    item: str,
    key: str,
    *,
    liked: int,
    recommendations: int,
    likes_too: bool,
) -> tuple[list[str], list[str]]:
    """Return films a seeker names and recommendations that the metadata supports.

    The item's surroundings by people, series, keywords and genres are drawn from, by `key`: the
    films named, and as targets the item and what is nearest to it and to the films named.

    Parameters
    ----------
    shared, likes
        Of the same items.
    item, key, liked, recommendations
        As for `taste`.
    likes_too
        Whether the similarity by likes counts as much as that by metadata.

    Returns
    -------
    (liked, targets)
        Item ids without a common one; `targets` begins with `item`.
    """

    def similar(row: int) -> np.ndarray:
        return shared.similar(row) + likes.similar(row) if likes_too else shared.similar(row)

    row = likes.row[item]
    near = np.argsort(-similar(row), kind="stable")[: POOL * (liked + recommendations)]
    near = near[similar(row)[near] > 0]
    named = near[lowest(likes.item_lots[near], liked, "liked", key)].tolist()
    joint = similar(row) + sum(similar(other) for other in named) / max(1, len(named))
    taken = {row, *named}
    rest = [
        r for r in np.argsort(-joint, kind="stable").tolist() if joint[r] > 0 and r not in taken
    ]
    return (
        [likes.items[r] for r in named],
        [likes.items[r] for r in [row, *rest][:recommendations]],
    )


def taste(
    likes: CoLikes, item: str, key: str, *, liked: int, recommendations: int
) -> tuple[list[str], list[str]]:
    """Return the films a seeker names and the recommendations the data supports.

    One user who likes the seed item is drawn, by `key`, so that seeds of one item differ. The
    films named are drawn from that user's likes nearest to the item; the targets are the item,
    then the user's further likes by their summed similarity to the item and the films named. A
    like that is added changes a draw only where it is drawn itself (see `lowest`), and the order
    of the targets where it moves the similarities past each other.

    So every dialogue is a slice of one real person's taste, and the ranking keeps of it what many
    people share: the student sees (films named -> films also liked) pairs of the very kind it is
    asked for. The item's nearest neighbours alone would tell it nothing about the films named,
    and a random part of the further likes is mostly noise. Where the user has no further likes
    the catalogue's nearest fill up; where nobody likes the item it stands alone.

    Parameters
    ----------
    likes
        The interactions.
    item
        The seed's item id.
    key
        What the draw is seeded by (the review's id).
    liked, recommendations
        How many of each at most.

    Returns
    -------
    (liked, targets)
        Item ids without a common one; `targets` begins with `item`.
    """
    row = likes.row[item]
    fans = likes.fans(row)
    if not len(fans):
        return [], [item]
    needed = liked + recommendations  # the item itself is one of the recommendations
    rich = fans[likes.counts[fans] >= needed]
    fans = rich if len(rich) else fans
    user = int(fans[lowest(likes.user_lots[fans], 1, "taste", key)[0]])
    own = likes.likes(user)
    own = own[own != row]
    near = own[np.argsort(-likes.similar(row)[own], kind="stable")][: POOL * needed]
    named = near[lowest(likes.item_lots[near], liked, "liked", key)].tolist()
    joint = likes.similar(row) + sum(likes.similar(other) for other in named)
    taken = {row, *named}
    further = [r for r in own[np.argsort(-joint[own], kind="stable")].tolist() if r not in taken]
    taken.update(further)
    rest = [
        r for r in np.argsort(-joint, kind="stable").tolist() if joint[r] > 0 and r not in taken
    ]
    targets = [row, *further, *rest][:recommendations]
    return [likes.items[r] for r in named], [likes.items[r] for r in targets]


def build(
    seeds: Sequence[Seed],
    reviews: pd.DataFrame,
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    prompt: Prompt,
    *,
    model: str,
    temperature: float,
    max_tokens: int,
) -> tuple[list[dict[str, Any]], list[Grounding]]:
    """Turn every seed into a chat request.

    Parameters
    ----------
    seeds
        In pick order; the requests keep it.
    reviews, items, interactions
        Tables of `seedtalk.records`.
    prompt
        What is told; its paths are read.
    model, temperature, max_tokens
        Of the teacher.

    Returns
    -------
    (requests, groundings)
        One line of the OpenAI Batch format and one record of its grounding for each seed.

    Raises
    ------
    InputError
        When a seed's review or item is unknown, a review is seed twice, or a prompt file is
        faulty.
    """
    grounded = prompt.grounding == "review"
    path = prompt.template if grounded else prompt.ungrounded_template
    template, styles = load_template(path), load_styles(prompt.styles)
    texts = dict(zip(reviews["review_id"], reviews["text"], strict=True))
    by_item: defaultdict[str, list[str]] = defaultdict(list)
    for review_id, item_id in sorted(zip(reviews["review_id"], reviews["item_id"], strict=True)):
        by_item[item_id].append(review_id)
    rows: list[dict[Any, Any]] = items.to_dict("records")
    metadata: dict[str, dict[Any, Any]] = {row["item_id"]: row for row in rows}
    _check(seeds, texts, metadata)
    likes = CoLikes(interactions, list(items["item_id"]))
    draw = functools.partial(taste, likes)
    if prompt.neighbours != "interactions":
        draw = functools.partial(
            neighbours, Shared(items), likes, likes_too=prompt.neighbours == "both"
        )
    requests, groundings = [], []
    for seed in seeds:
        rng = rng_of("prompt", seed.review_id)
        style = styles[int(rng.integers(len(styles)))]
        told = {
            "style": style.id,
            "instruction": style.instruction,
            "tells": ", ".join(style.tells),
            "opening": _one(style.opening, rng),
            "closing": _one(style.closing, rng),
            "liked_phrase": _one(style.liked, rng),
            "targets": prompt.targets,
            "recommendations": prompt.recommendations,
            "turns": prompt.turns,
            "variation": int(rng.integers(10**6)),
        }
        liked: list[str] = []
        targets: list[str] = []
        if grounded:
            liked, targets = draw(
                seed.item_id,
                seed.review_id,
                liked=prompt.liked,
                recommendations=prompt.recommendations,
            )
            if prompt.targets == "teacher":
                targets = []
            others = [r for r in by_item[seed.item_id] if r != seed.review_id]
            chosen = lowest(lots(others), prompt.reviews, "reviews", seed.review_id)
            told |= {
                "item": _item_block(metadata[seed.item_id]),
                "review": _review(texts[seed.review_id], seed, prompt.max_review_chars),
                "reviews": [
                    neutralise(texts[others[i]], prompt.max_review_chars) for i in sorted(chosen)
                ],
                "liked": [_shown(metadata[i]) for i in liked],
                "candidates": [_shown(metadata[i]) for i in targets],
            }
        name = custom_id(seed.review_id)
        messages = render(template, told, path)
        requests.append(
            {
                "custom_id": name,
                "method": "POST",
                "url": URL,
                "body": {
                    "model": model,
                    "temperature": temperature,
                    "max_tokens": max_tokens,
                    **response_format(prompt.response_format),
                    "messages": messages,
                },
            }
        )
        groundings.append(
            Grounding(
                custom_id=name,
                review_id=seed.review_id,
                item_id=seed.item_id,
                style=style.id,
                targets=targets,
                liked=liked,
                prompt=template.sha256,
                messages=digest(messages),
            )
        )
    return requests, groundings


def response_format(kind: str) -> dict[str, Any]:
    """Return the part of a request's body that asks for an answer's form.

    Parameters
    ----------
    kind
        ``json_schema`` (the schema of a dialogue, strict), ``json_object`` (any JSON object) or
        ``text``, which asks for nothing: the template alone says what to write.
    """
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "dialogue", "strict": True, "schema": SCHEMA}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def render(template: Template, values: Mapping[str, Any], path: Path) -> list[dict[str, str]]:
    """Return the system and user messages of a template filled with `values`.

    Raises
    ------
    InputError
        When the template uses a name it is not given, or does what cannot be done.
    """
    from jinja2 import TemplateError

    messages = []
    for role, text in (("system", template.system), ("user", template.user)):
        try:
            content = _compiled(text).render(values)
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            known = ", ".join(sorted(values))
            raise InputError(f"{path}: {role} part: {error}; it may use {known}") from error
        messages.append({"role": role, "content": content.strip()})
    return messages


def digest(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the sha256 of a request's messages: of the JSON list of their roles and contents."""
    return sha256_text([part for m in messages for part in (m["role"], m["content"])])


def custom_id(review_id: str) -> str:
    """Return a stable request id: the review's, made safe; changed ones end in a short hash."""
    safe = _UNSAFE_ID.sub("-", review_id)
    if safe == review_id and 0 < len(safe) <= ID_LENGTH:
        return safe
    mark = hashlib.sha256(review_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{safe[: ID_LENGTH - 13]}-{mark}"


def lots(names: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number for each name, by the name alone, that `lowest` draws by."""
    hashes = (hashlib.blake2b(n.encode("utf-8", "surrogatepass"), digest_size=8) for n in names)
    return np.frombuffer(b"".join(one.digest() for one in hashes), dtype="<u8").astype(np.uint64)


def lowest(candidates: NDArray[np.uint64], count: int, *key: str) -> NDArray[np.int64]:
    """Draw `count` of the candidates, without replacement, by `key`; all where there are fewer.

    Rendezvous hashing: every candidate's lot is mixed with the key alone (the finaliser of
    splitmix64, a bijection), and the lowest are drawn. So a candidate that is added or goes
    changes the draw only where it is itself among the lowest.

    Parameters
    ----------
    candidates
        (n,) their `lots`.
    count
        How many to draw.
    *key
        What the draw is for.

    Returns
    -------
    (min(n, count),) positions, in order of the mixed lots.
    """
    mixed = candidates ^ np.uint64(int(sha256_text(key)[:16], 16))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")[:count]


def rng_of(*parts: str) -> np.random.Generator:
    """Return a generator seeded by `parts` alone."""
    return np.random.default_rng(int(sha256_text(parts)[:16], 16))


def _check(seeds: Sequence[Seed], texts: Mapping[str, str], items: Mapping[str, Any]) -> None:
    seen: set[str] = set()
    for seed in seeds:
        row = f"of rank {seed.rank}"
        if seed.review_id not in texts:
            raise InputError(
                f"{at('seeds', row, 'review_id')}: {seed.review_id!r} is not among the reviews; "
                "seeds and reviews come from different runs"
            )
        if seed.item_id not in items:
            raise InputError(
                f"{at('seeds', row, 'item_id')}: {seed.item_id!r} is not among the items; "
                "seeds and items come from different runs"
            )
        if seed.review_id in seen:
            raise InputError(f"{at('seeds', row, 'review_id')}: {seed.review_id!r} is there twice")
        seen.add(seed.review_id)


def _review(text: str, seed: Seed, limit: int) -> str:
    plain = neutralise(text, limit)
    if not plain:
        raise InputError(
            f"{at('reviews', repr(seed.review_id), 'text')}: nothing is left of it without markup "
            "and invisible characters; drop this review from the corpus"
        )
    return plain


def _item_block(item: Mapping[Any, Any]) -> str:
    lines = [f"Title: {_shown(item)}"]
    if len(item["genres"]):
        lines.append("Genres: " + ", ".join(neutralise(genre) for genre in item["genres"]))
    if item["description"]:
        lines.append("Description: " + neutralise(item["description"], 600))
    return "\n".join(lines)


def _shown(item: Mapping[Any, Any]) -> str:
    return display_title(neutralise(item["title"]), item["year"])


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _column(matrix: Any, index: int) -> np.ndarray:
    """Return the stored positions of a compressed row or column."""
    start, stop = matrix.indptr[index], matrix.indptr[index + 1]
    found: np.ndarray = matrix.indices[start:stop]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)


def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # Chat text, not HTML: what is foreign in it has been neutralised, and escapes would show.
    return ImmutableSandboxedEnvironment(
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

"""What a student reads and writes: chat messages, the numbered answer, the labelled tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from seedtalk.errors import InputError

SYSTEM = "Recommend titles as a numbered list."
GREETING = "Hello."  # stands before a recommender who speaks first
REQUEST = "What do you recommend?"  # stands where the seeker has not spoken last
ROLES = {"seeker": "user", "recommender": "assistant"}
IGNORED = -100  # the label PyTorch's cross-entropy skips


def _chatml(system: str) -> str:
    """Return the ChatML template of a family, with what it says where nobody set a system text."""
    return (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
        "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


# Chat templates that mark the assistant's words and its end of turn, and nothing else. For
# messages of system, user and assistant they write what the models' own templates write, which
# mark nothing; those of TRL mark line ends outside the turn too, and Llama 3.2 has none there.
MARKED = {
    "smollm2": _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "qwen2.5": _chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "llama-3.2": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}"
        "{% else %}{% set system = '' %}{% endif %}"
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ '<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' + system"
        " + '<|eot_id|>' }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}"
        "{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma-2": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% if message['role'] == 'assistant' %}{{ '<start_of_turn>model\n' }}{% generation %}"
        "{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}{% else %}"
        "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim"
        " + '<end_of_turn>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}

_ITEM = re.compile(r"^\s*(?:\d{1,3}\s*[.):]|[-*•])\s+(?P<title>\S.*?)\s*$")
_BOLD = re.compile(r"^\*\*(?P<title>.+?)\*\*")
_REMARK = re.compile(r"(?P<title>^.+?\(\d{4}\))[\"”*]*\s*(?:[-–—:]\s.*)$")


def format_answer(titles: Sequence[str]) -> str:
    """Return `titles` as the numbered list a student writes: ``1. Heat (1995)``, one a line."""
    return "\n".join(f"{rank}. {' '.join(title.split())}" for rank, title in enumerate(titles, 1))


def parse_answer(text: str) -> list[str]:
    """Return the titles of a numbered or bulleted list, in order.

    Lines that are no list item are skipped, so are bold marks, quotes and a remark after the
    year (``**Heat (1995)** - a heist`` gives ``Heat (1995)``).
    """
    titles = []
    for line in text.splitlines():
        if not (item := _ITEM.match(line)):
            continue
        title = item["title"]
        for pattern in (_BOLD, _REMARK):
            if found := pattern.match(title):
                title = found["title"]
        if title[0] in "\"“'*" and title[-1] in "\"”'*":
            title = title.strip("\"“”'* ")
        if title:
            titles.append(title)
    return titles


def context_messages(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the chat messages that ask a student for its next answer.

    Parameters
    ----------
    turns
        Turns of a conversation in order, each with ``role`` (seeker or recommender) and
        ``text``; other keys are not read.

    Returns
    -------
    list of dict
        The system message, then user and assistant in strict alternation (turns of one side in
        a row are joined), first and last the user, as every chat template accepts it.

    Raises
    ------
    InputError
        When a role is neither seeker nor recommender.
    """
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(turns, start=1):
        if turn["role"] not in ROLES:
            raise InputError(
                f"turn {number}, field 'role': '{turn['role']}' is neither seeker nor recommender"
            )
        role, text = ROLES[turn["role"]], turn["text"].strip()
        if not text:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + text
        else:
            messages.append({"role": role, "content": text})
    if messages and messages[0]["role"] == "assistant":
        messages.insert(0, {"role": "user", "content": GREETING})
    if not messages or messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": REQUEST})
    return [{"role": "system", "content": SYSTEM}, *messages]


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], answer: bool = False) -> str:
    """Return `messages` in the student's own chat format.

    A template that refuses the system role (Gemma's) gets its text at the head of the first
    user message. Control tokens within a message are dropped: what people wrote cannot end
    its own turn. Templates that print today's date get a fixed one.

    Parameters
    ----------
    tokenizer
        Tokenizer with a chat template.
    messages
        Messages with ``role`` and ``content``.
    answer
        Whether to open the assistant's next turn.

    Raises
    ------
    InputError
        When the tokenizer has no chat template, or its template refuses the messages.
    """
    return str(_apply(tokenizer, messages, tokenize=False, add_generation_prompt=answer))


def marked_template(tokenizer: Any) -> str | None:
    """Return the template of `MARKED` that writes what the tokenizer's own writes, if one does.

    Both are rendered on a few conversations, with and without a system message: a model of a
    known family whose template was changed gets None.
    """
    if not tokenizer.chat_template:
        return None
    return _marked_like(tokenizer, tokenizer.chat_template)


def _apply(tokenizer: Any, messages: Sequence[Mapping[str, str]], **asked: Any) -> Any:
    """Apply the tokenizer's chat template to cleaned messages; a system's that it refuses moves."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; "
            "choose an instruction-tuned student"
        )
    clean = [{"role": m["role"], "content": _plain(tokenizer, m["content"])} for m in messages]
    options = {
        "date_string": "01 Jan 2025",  # Llama 3.2 would print today's
        "enable_thinking": False,  # Qwen 3 would reason before the list
    }
    try:
        return tokenizer.apply_chat_template(clean, **options, **asked)
    except TemplateError as refusal:
        if clean[0]["role"] == "system" and len(clean) > 1 and clean[1]["role"] == "user":
            folded = f"{clean[0]['content']}\n\n{clean[1]['content']}"
            return _apply(tokenizer, [{"role": "user", "content": folded}, *clean[2:]], **asked)
        raise InputError(
            f"{tokenizer.name_or_path}: the chat template refuses the messages ({refusal})"
        ) from refusal


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of rendered `text`; a template writes its own control tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def fit_context(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], max_tokens: int
) -> list[dict[str, str]] | None:
    """Return `messages` cut from the left until the rendered prompt has `max_tokens` at most.

    The system message and the last message always stay. The oldest turns go first, a pair at a
    time; then the words of the first user message that is left, from its start.

    Parameters
    ----------
    tokenizer
        Tokenizer with a chat template.
    messages
        A context that ends in the user's turn, or an example that ends in the assistant's.
    max_tokens
        Tokens the rendered messages may have; the generation prompt counts.

    Returns
    -------
    list of dict or None
        None when one word of the context beside the last answer is too long still.
    """
    kept = [dict(m) for m in messages]
    head = kept[:1] if kept[0]["role"] == "system" else []
    body = kept[len(head) :]

    def fits() -> bool:
        opened = body[-1]["role"] == "user"
        text = render(tokenizer, [*head, *body], answer=opened)
        return len(token_ids(tokenizer, text)) <= max_tokens

    while not fits():
        if len(body) > 2:
            del body[:2]
            continue
        words = body[0]["content"].split()
        few, many = 1, len(words) - 1  # words to drop; the last one stays
        while few <= many:
            drop = (few + many) // 2
            body[0]["content"] = " ".join(words[drop:])
            if fits():
                many = drop - 1
            else:
                few = drop + 1
        if few >= len(words):
            return None
        body[0]["content"] = " ".join(words[few:])
    return [*head, *body]


def encode_example(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], max_length: int
) -> dict[str, list[int]] | None:
    """Return the tokens of a dialogue, labelled where the student is to speak.

    Labelled are the words and the end-of-turn token of every assistant turn, nothing else. A
    student of a family in `MARKED` is read by that template's marks; of any other, each
    assistant turn is found by rendering the dialogue up to it: what the template adds between
    the generation prompt and the end of the turn is the assistant's.

    Parameters
    ----------
    tokenizer
        Tokenizer with a chat template.
    messages
        Messages with ``role`` and ``content``, the assistant's last.
    max_length
        Tokens at most; a longer context is cut from the left (`fit_context`).

    Returns
    -------
    dict or None
        ``input_ids`` and ``labels`` of equal length, -100 where not labelled; None when the
        answer alone does not fit.

    Raises
    ------
    InputError
        When the dialogue does not end with the assistant's turn, or the template rewrites
        earlier turns as the dialogue goes on.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError("a training example must end with the assistant's turn")
    fitted = fit_context(tokenizer, messages, max_length)
    if fitted is None:
        return None
    if (template := marked_template(tokenizer)) and tokenizer.is_fast:
        return _read_marks(tokenizer, fitted, template)
    return _read_prefixes(tokenizer, fitted)


def _read_marks(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], template: str
) -> dict[str, list[int]]:
    """Return what `encode_example` returns, by the marks of a template."""
    found = _apply(
        tokenizer, messages, chat_template=template, tokenize=True, return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    ids, mask = list(found["input_ids"]), found["assistant_masks"]
    stop = max(place for place, mark in enumerate(mask, start=1) if mark)
    labels = [token if mark else IGNORED for token, mark in zip(ids, mask, strict=True)]
    return {"input_ids": ids[:stop], "labels": labels[:stop]}


def _read_prefixes(tokenizer: Any, fitted: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """Return what `encode_example` returns, by what each turn adds to the rendered text."""
    text = render(tokenizer, fitted).rstrip()
    ids = token_ids(tokenizer, text)
    labels = [IGNORED] * len(ids)
    for turn, message in enumerate(fitted):
        if message["role"] != "assistant":
            continue
        opened = render(tokenizer, fitted[:turn], answer=True)
        closed = render(tokenizer, fitted[: turn + 1]).rstrip()
        if not (closed.startswith(opened) and text.startswith(closed)):
            raise InputError(
                f"{tokenizer.name_or_path}: the chat template rewrites earlier turns; "
                "train this student on dialogues of one answer"
            )
        start = _shared(ids, token_ids(tokenizer, opened))
        stop = _shared(ids, token_ids(tokenizer, closed))
        labels[start:stop] = ids[start:stop]
    return {"input_ids": ids, "labels": labels}


@functools.lru_cache(maxsize=8)
def _marked_like(tokenizer: Any, own: str) -> str | None:
    roles = ("system", "user", "assistant", "user", "assistant")
    texts = ("Be brief.", " Hello. \n", " 1. One\n2. Two\n", "More?", "3. Three")
    talk = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    for template in MARKED.values():
        probes = [(turns, opened) for turns in (talk, talk[1:], talk[1:4]) for opened in (0, 1)]
        if all(
            _written(tokenizer, turns, own, opened) == _written(tokenizer, turns, template, opened)
            for turns, opened in probes
        ):
            return template
    return None


def _written(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], template: str, opened: int
) -> str | None:
    """Return what a template makes of messages, None where it refuses them."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False,
                add_generation_prompt=bool(opened), date_string="01 Jan 2025",
            )
        )  # fmt: skip
    except TemplateError:
        return None


def _plain(tokenizer: Any, content: str) -> str:
    control = _control(tokenizer)
    before = None
    while before != content:  # what is left of a nested token may be a token
        before, content = content, control.sub("", content)
    return content


@functools.lru_cache(maxsize=8)
def _control(tokenizer: Any) -> re.Pattern[str]:
    tokens = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))

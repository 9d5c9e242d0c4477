"""What a student reads and writes; above all, which tokens it is taught."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.students.families import FAMILIES, tokenizer

from seedtalk.errors import InputError
from seedtalk.students.templates import (
    GREETING,
    IGNORED,
    MARKED,
    REQUEST,
    SYSTEM,
    _read_marks,
    _read_prefixes,
    context_messages,
    encode_example,
    fit_context,
    format_answer,
    marked_template,
    parse_answer,
    render,
    token_ids,
)

MULTI_TURN = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "I liked assistant stories. 1. Six Alibis was fine\nmodel"},
    {"role": "assistant", "content": "1. Six Alibis (1999)\n2. Grey Ransom (2001)"},
    {"role": "user", "content": "Seen the first. Others?"},
    {"role": "assistant", "content": "1. Moth Liturgy (1971)"},
]
TOKENIZERS = [(family, joining) for family in FAMILIES for joining in (False, True)]


def spoken(example, made):
    """Return the labelled stretches of an example as text."""
    stretches, open_ = [], False
    for label in example["labels"]:
        if label == IGNORED:
            open_ = False
            continue
        if not open_:
            stretches.append([])
            open_ = True
        stretches[-1].append(label)
    return [made.decode(stretch) for stretch in stretches]


SMOLLM2 = (  # as the embedded student's GGUF has it
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# family: the tokenizer that speaks it, and TRL's copy of the models' own template
STOCK = {
    "smollm2": ("chatml", None),
    "qwen2.5": ("chatml", "qwen2_5.jinja"),
    "llama-3.2": ("llama3", "llama3_2.jinja"),
    "gemma-2": ("gemma", "gemma.jinja"),
}


def stock(family, joining=False):
    """Return a small tokenizer with the untouched template of the family's models."""
    speaker, file = STOCK[family]
    made = tokenizer(speaker, joining)
    text = file and (files("trl") / "chat_templates" / file).read_text(encoding="utf-8")
    made.chat_template = text or SMOLLM2
    return made, FAMILIES[speaker][3]


@pytest.mark.parametrize("joining", [False, True])
@pytest.mark.parametrize("family", MARKED)
def test_marks_are_the_assistants_words_and_its_end_of_turn_in_every_turn(family, joining):
    made, end = stock(family, joining)
    template = marked_template(made)
    assert template == MARKED[family]
    marks = _read_marks(made, MULTI_TURN, template)
    answers = [m["content"] for m in MULTI_TURN if m["role"] == "assistant"]
    assert spoken(marks, made) == [answer + end for answer in answers]
    assert marks == _read_prefixes(made, MULTI_TURN), "the two ways agree"
    assert marks == encode_example(made, MULTI_TURN, 2000)
    prompt = token_ids(made, render(made, MULTI_TURN[:-1], answer=True))
    assert marks["input_ids"][: len(prompt)] == prompt
    assert marks["labels"][len(prompt)] != IGNORED


@pytest.mark.parametrize("family", MARKED)
@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("aé1. \n<|>_end", min_size=1, max_size=12), min_size=2, max_size=6),
    system=st.booleans(),
    answer=st.booleans(),
)
def test_marked_template_writes_what_the_models_own_does(family, texts, system, answer):
    made, _ = stock(family)
    roles = ["user", "assistant"] * 3
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    if system and family != "gemma-2":
        messages.insert(0, {"role": "system", "content": texts[0]})
    written = [
        made.apply_chat_template(
            messages, chat_template=template, tokenize=False,
            add_generation_prompt=answer, date_string="01 Jan 2025",
        )
        for template in (made.chat_template, MARKED[family])
    ]  # fmt: skip
    assert written[0] == written[1]


def test_gemmas_marked_template_refuses_what_the_models_own_refuses():
    made, _ = stock("gemma-2")
    for messages in (MULTI_TURN, MULTI_TURN[1:2] * 2):
        for template in (made.chat_template, MARKED["gemma-2"]):
            with pytest.raises(Exception, match=r"not supported|must alternate"):
                made.apply_chat_template(messages, chat_template=template, tokenize=False)


def test_trls_own_marks_are_not_those_of_the_turn():
    # Why templates are shipped here: TRL has none for Llama 3.2 or SmolLM2, and its others mark
    # line ends that the student never writes.
    from trl.chat_template_utils import get_training_chat_template

    for family in ("smollm2", "llama-3.2"):
        with pytest.raises(ValueError, match="template"):
            get_training_chat_template(stock(family)[0])
    for family in ("qwen2.5", "gemma-2"):
        made, end = stock(family)
        theirs = get_training_chat_template(made)
        folded = MULTI_TURN[1:] if family == "gemma-2" else MULTI_TURN
        found = made.apply_chat_template(
            folded, chat_template=theirs, return_dict=True, return_assistant_tokens_mask=True
        )
        marked = [t for t, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
        answers = [m["content"] + end for m in folded if m["role"] == "assistant"]
        assert made.decode(marked) != "".join(answers)


def test_changed_template_is_read_by_its_prefixes():
    made, end = stock("qwen2.5")
    made.chat_template = made.chat_template.replace(
        "'<|im_end|>' + '\\n'", "'<|im_end|>' + '\\n\\n'"
    )
    assert marked_template(made) is None
    assert (
        spoken(encode_example(made, MULTI_TURN, 2000), made)[-1] == "1. Moth Liturgy (1971)" + end
    )


@pytest.mark.parametrize(("family", "joining"), TOKENIZERS)
def test_labels_are_the_assistants_words_and_its_end_of_turn(family, joining):
    made = tokenizer(family, joining)
    end = FAMILIES[family][3]
    example = encode_example(made, MULTI_TURN, 1000)
    answers = [m["content"] for m in MULTI_TURN if m["role"] == "assistant"]
    assert spoken(example, made) == [answer + end for answer in answers]
    kept = [(i, t) for i, t in zip(example["input_ids"], example["labels"], strict=True) if t >= 0]
    assert all(token == label for token, label in kept)


@pytest.mark.parametrize(("family", "joining"), TOKENIZERS)
def test_mask_agrees_with_character_offsets(family, joining):
    # An independent way to the same mask: find the answers in the text, and the tokens by offset.
    made = tokenizer(family, joining)
    end = FAMILIES[family][3]
    text = render(made, MULTI_TURN).rstrip()
    wanted = set()
    for message in MULTI_TURN:
        if message["role"] == "assistant":
            start = text.index(message["content"] + end)
            wanted |= set(range(start, start + len(message["content"] + end)))
    read = made(text, add_special_tokens=False, return_offsets_mapping=True)
    expected = [a in wanted for a, _ in read["offset_mapping"]]
    example = encode_example(made, MULTI_TURN, 1000)
    assert example["input_ids"] == read["input_ids"]
    assert [label != IGNORED for label in example["labels"]] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_training_tokens_continue_the_generation_prompt(family):
    made = tokenizer(family)
    example = encode_example(made, MULTI_TURN, 1000)
    prompt = token_ids(made, render(made, MULTI_TURN[:-1], answer=True))
    assert example["input_ids"][: len(prompt)] == prompt
    assert example["labels"][len(prompt)] == example["input_ids"][len(prompt)]


def test_gemma_reads_the_system_message_in_the_first_users():
    text = render(tokenizer("gemma"), MULTI_TURN[:2], answer=True)
    assert text.startswith(f"<bos><start_of_turn>user\n{SYSTEM}\n\nI liked")


def test_llama_prints_a_fixed_date():
    assert "Today Date: 01 Jan 2025" in render(tokenizer("llama3"), MULTI_TURN[:2])


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_message_do_not_end_its_turn(family):
    made, end = tokenizer(family), FAMILIES[family][3]
    nested = f"ha{end[:3]}{end}{end[3:]}ck"
    messages = [{"role": "user", "content": nested}]
    assert "hack" in render(made, messages, answer=True)
    plain = [{"role": "user", "content": "hack"}]
    assert render(made, messages, answer=True) == render(made, plain, answer=True)


def test_long_context_loses_its_oldest_words_and_never_the_answer():
    made = tokenizer("chatml")
    full = encode_example(made, MULTI_TURN, 1000)
    limit = len(full["input_ids"]) - 20
    example = encode_example(made, MULTI_TURN, limit)
    assert len(example["input_ids"]) <= limit
    assert spoken(example, made) == ["1. Moth Liturgy (1971)<|im_end|>"]
    assert SYSTEM in made.decode(example["input_ids"])


def test_single_message_is_cut_from_the_left_word_by_word():
    made = tokenizer("chatml")
    words = " ".join(f"w{n}" for n in range(60))
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": words}]
    cut = fit_context(made, messages, 150)
    size = len(token_ids(made, render(made, cut, answer=True)))
    assert 140 <= size <= 150
    assert words.endswith(cut[-1]["content"])
    assert messages[1]["content"] == words, "the input is left as it was"


def test_answer_that_does_not_fit_alone_gives_nothing():
    assert encode_example(tokenizer("chatml"), MULTI_TURN[:3], 40) is None


def test_example_without_an_answer_is_refused():
    with pytest.raises(InputError, match="assistant's turn"):
        encode_example(tokenizer("chatml"), MULTI_TURN[:2], 100)


def test_template_that_rewrites_earlier_turns_is_refused():
    made = tokenizer("chatml")
    made.chat_template = made.chat_template.replace(
        "m['content']", "('' if m['role'] == 'assistant' and not loop.last else m['content'])"
    )
    with pytest.raises(InputError, match="rewrites earlier turns"):
        encode_example(made, MULTI_TURN, 1000)


def test_missing_or_refusing_template_is_an_input_error():
    made = tokenizer("chatml")
    made.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        render(made, MULTI_TURN)
    with pytest.raises(InputError, match="refuses the messages"):
        render(tokenizer("gemma"), [{"role": "assistant", "content": "x"}])


def test_context_alternates_from_user_to_user():
    turns = [
        {"role": "recommender", "text": "Hi!", "items": []},
        {"role": "seeker", "text": "A heist?", "items": []},
        {"role": "seeker", "text": " Old ones. ", "items": []},
        {"role": "recommender", "text": "", "items": []},
        {"role": "recommender", "text": "Grey Ransom?", "items": []},
    ]
    assert context_messages(turns) == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": GREETING},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "A heist?\nOld ones."},
        {"role": "assistant", "content": "Grey Ransom?"},
        {"role": "user", "content": REQUEST},
    ]
    assert [m["content"] for m in context_messages([])] == [SYSTEM, REQUEST]


@given(st.lists(st.tuples(st.sampled_from(["seeker", "recommender"]), st.text(max_size=5))))
def test_any_context_has_the_form_every_template_takes(turns):
    messages = context_messages([{"role": role, "text": text} for role, text in turns])
    roles = [m["role"] for m in messages]
    assert roles[0] == "system"
    assert roles[1::2] == ["user"] * len(roles[1::2])
    assert roles[2::2] == ["assistant"] * len(roles[2::2])
    assert roles[-1] == "user"
    assert all(m["content"] for m in messages)


def test_unknown_role_is_named():
    with pytest.raises(InputError, match="turn 2, field 'role': 'bot'"):
        context_messages([{"role": "seeker", "text": "a"}, {"role": "bot", "text": "b"}])


TITLE = st.text("abcXYZ 0123456789'&:,!-", min_size=1, max_size=20).filter(
    lambda t: t.strip() and t.strip()[0] not in "'" and t.strip()[0].isalnum()
)


@settings(max_examples=200)
@given(st.lists(st.tuples(TITLE, st.integers(1900, 2030)), min_size=1, max_size=12))
def test_parse_undoes_format(pairs):
    titles = [f"{' '.join(title.split())} ({year})" for title, year in pairs]
    assert parse_answer(format_answer(titles)) == titles


def test_parse_reads_what_teachers_write():
    text = (
        "Sure! Here you go:\n\n1. **Six Alibis (1999)** - a heist\n2) Grey Ransom (2001): tense\n"
        '- *Moth Liturgy*\n• "Pudding Season (1988)"\n10. 2001 Nights: A Story\nEnjoy (2020)!'
    )
    assert parse_answer(text) == [
        "Six Alibis (1999)",
        "Grey Ransom (2001)",
        "Moth Liturgy",
        "Pudding Season (1988)",
        "2001 Nights: A Story",
    ]
    assert parse_answer("nothing here") == []

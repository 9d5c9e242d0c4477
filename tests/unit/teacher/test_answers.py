import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedtalk.teacher.answers import (
    MOST_TOKENS,
    REPAIR,
    BadAnswerError,
    Usage,
    completion,
    has_form,
    parse_dialogue,
    repair_of,
    usage_in,
    usage_of,
)

GOOD = {"choices": [{"message": {"content": "hello"}}], "usage": {"prompt_tokens": 2}}


def test_a_completion_is_read():
    assert completion(json.dumps(GOOD)) == GOOD


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "<html>busy</html>",
        json.dumps(GOOD)[:-5],
        "[]",
        "null",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": {"content": null, "refusal": "no"}}]}',
        '{"choices": [{"message": {"content": "  "}}]}',
        '{"choices": [{"message": {"content": ["parts"]}}]}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": "x"}}], "score": NaN}',
        '{"choices": [{"message": {"content": "x"}}], "score": 1e999}',
        "[" * 100_000,
    ],
)
def test_what_holds_no_text_is_no_answer(raw):
    with pytest.raises(BadAnswerError):
        completion(raw)


def test_half_a_surrogate_pair_can_be_written_afterwards():
    raw = '{"choices": [{"message": {"content": "so \\ud83d good"}}]}'
    assert completion(raw)["choices"][0]["message"]["content"] == "so ? good"


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 2, "completion_tokens": 3}, Usage(2, 3)),
        ({"prompt_tokens": MOST_TOKENS + 1, "completion_tokens": 10**30}, Usage(None, None)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 8},
            },
            Usage(9, 3, 8),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "8"}}, Usage(9, None)),
        ({"prompt_tokens": -2, "completion_tokens": True}, Usage(None, None)),
        (None, Usage(None, None)),
        ("many", Usage(None, None)),
    ],
)
def test_usage_is_what_the_endpoint_counted(usage, read):
    assert usage_of({"usage": usage}) == read


def test_tokens_are_counted_in_a_response_without_text_too():
    assert usage_in('{"usage": {"prompt_tokens": 2, "completion_tokens": 0}}') == Usage(2, 0)
    assert usage_in("<html>") == Usage(None, None)


@pytest.mark.parametrize(
    ("choice", "reason", "detail"),
    [
        ({"message": {"content": None, "refusal": "I will  not"}}, "refusal", "I will not"),
        ({"message": {}, "finish_reason": "content_filter"}, "content_filter", "filter"),
        ({"message": {"content": ""}, "finish_reason": "length"}, "unparsable", "max_tokens"),
        ({"message": {"content": None, "refusal": " "}}, "unparsable", "no text"),
        ("x", "unparsable", "no text"),
    ],
)
def test_why_there_is_no_text(choice, reason, detail):
    with pytest.raises(BadAnswerError, match=detail) as raised:
        completion(json.dumps({"choices": [choice]}))
    assert raised.value.reason == reason


def dialogue(**more):
    body = {"messages": [{"role": "seeker", "content": "a  film"}], "recommendations": ["Heat"]}
    return json.dumps(body | more)


@pytest.mark.parametrize(
    "text",
    [
        dialogue(),
        f"```json\n{dialogue()}\n```",
        f"Here it is: {dialogue()} Enjoy!",
        f" {dialogue()}\n",
    ],
)
def test_a_dialogue_is_read_whatever_stands_around_it(text):
    parsed = parse_dialogue(text)
    assert parsed.turns == [{"role": "seeker", "text": "a film"}] and parsed.titles == ["Heat"]


def test_titles_come_in_many_forms():
    listed = ["1. Heat", "- Alien", '"Ran"', {"title": "Big", "year": 1988}, {"title": 1}, 7, ""]
    assert parse_dialogue(dialogue(recommendations=listed)).titles == [
        "Heat",
        "Alien",
        "Ran",
        "Big (1988)",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "unparsable"),
        ("prose", "unparsable"),
        ("[1]", "unparsable"),
        ("}{", "unparsable"),
        (dialogue()[:-4], "unparsable"),
        (dialogue(messages={}), "unparsable"),
        (dialogue(messages=["x"]), "unparsable"),
        (dialogue(messages=[{"role": "user", "content": "x"}]), "unparsable"),
        (dialogue(recommendations="Heat"), "unparsable"),
        (dialogue(messages=[]), "no_query"),
        (dialogue(messages=[{"role": "seeker", "content": " "}]), "no_query"),
        (dialogue(messages=[{"role": "recommender", "content": "x"}]), "no_query"),
    ],
)
def test_what_is_no_dialogue(text, reason):
    with pytest.raises(BadAnswerError) as raised:
        parse_dialogue(text)
    assert raised.value.reason == reason


@given(st.text() | st.from_regex(r"\{[\[\]{}\":,a-z0-9 ]*\}", fullmatch=True))
def test_no_text_is_a_crash(text):
    assert has_form(text) in (True, False)


BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5}


@pytest.mark.parametrize("asked", ["json_object", "json_schema"])
def test_a_repair_is_the_request_with_its_answer(asked):
    body = BODY | {"response_format": {"type": asked}}
    again = repair_of(body, "prose")
    assert again["messages"] == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "prose"},
        {"role": "user", "content": REPAIR},
    ]
    assert again | {"messages": body["messages"]} == body
    assert repair_of(body, dialogue()) is None


@pytest.mark.parametrize("asked", [None, {}, {"type": "text"}, "json_object", {"type": 7}])
def test_only_json_is_repaired(asked):
    assert repair_of(BODY | {"response_format": asked}, "prose") is None
    assert repair_of(BODY, "prose") is None

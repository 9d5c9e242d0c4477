import json

import pytest

from seedtalk.teacher.answers import BadAnswerError, Usage, completion, usage_of

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
        ({"prompt_tokens": -2, "completion_tokens": True}, Usage(None, None)),
        (None, Usage(None, None)),
        ("many", Usage(None, None)),
    ],
)
def test_usage_is_what_the_endpoint_counted(usage, read):
    assert usage_of({"usage": usage}) == read

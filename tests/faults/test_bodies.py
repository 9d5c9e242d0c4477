"""What comes back and is no good: bodies, answers of another form, refusals, strange numbers."""

import gzip
import json
import sqlite3

import pytest
from tests.faults.server import CONTENT, completion, error, flood, requests, reset, say, teacher

from seedtalk import teacher as layer
from seedtalk.errors import RunError
from seedtalk.teacher import openai
from seedtalk.teacher.answers import REPAIR
from seedtalk.teacher.ledger import request_key

pytestmark = pytest.mark.usefixtures("impatient")

PRICE = {"usd_per_million_input": 1000.0, "usd_per_million_output": 2000.0}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "dialogue", "strict": True, "schema": {}}}


def generate(endpoint, tmp_path, rows, **values):
    return layer.generate(rows, teacher(endpoint, **values), seed=0, cache_dir=tmp_path)


def content_of(line):
    return line["response"]["body"]["choices"][0]["message"]["content"]


def dialogue(**more):
    return json.dumps({"messages": [{"role": "seeker", "content": "x"}]} | more)


def asking(count, response_format):
    rows = requests(count)
    for row in rows:
        row["body"]["response_format"] = response_format
    return rows


# Bodies


def nested(depth, kind=b"[]"):
    return kind[:1] * depth + kind[1:] * depth


BODIES = {
    "nothing": b"",
    "blanks": b"  \r\n ",
    "truncated": completion()[:-7],
    "truncated within a text": completion()[:60],
    "a page": b"<!doctype html><title>Sign in to the guest network</title>",
    "a list": b"[]",
    "a text": b'"busy"',
    "null": b"null",
    "an error with 200": b'{"error": {"message": "overloaded"}}',
    "no choices": b'{"choices": null}',
    "no message": b'{"choices": [{"finish_reason": "stop"}]}',
    "null content": completion(None),
    "blank content": completion(" \n "),
    "parts": json.dumps({"choices": [{"message": {"content": [{"text": "x"}]}}]}).encode(),
    "not a number": completion(score=1.0).replace(b"1.0", b"NaN"),
    "too large a number": completion(score=1.0).replace(b"1.0", b"1e999"),
    "too small a number": completion(score=1.0).replace(b"1.0", b"-1.0E+4000"),
    "a number of 5,000 digits": completion(score=1).replace(
        b'score": 1', b'score": ' + b"1" * 5000
    ),
    "deep": b'{"choices":' + b"[" * 100_000,
    "deep within an answer": completion(score=1).replace(b'score": 1', b'score": ' + nested(3000)),
    "too deep to be written": completion(score=1).replace(b'score": 1', b'score": ' + nested(900)),
    "deep and half a pair": completion(r"\ud83d", score=1).replace(b": 1", b": " + nested(900)),
    "bytes": bytes(range(256)) * 4,
    "UTF-16": completion().decode().encode("utf-16"),
    "two objects": completion() + completion(),
    "events": b"data: " + completion() + b"\n\ndata: [DONE]\n\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_without_text_is_kept_and_asked_for_again(endpoint, tmp_path, body):
    endpoint.plan = {"q1": [say(body=body), say()]}
    lines, summary = generate(endpoint, tmp_path, requests(3))
    assert summary["answered"] == 3 and endpoint.calls == {"q0": 1, "q1": 2, "q2": 1}
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        (count,) = db.execute("SELECT count(*) FROM attempts WHERE state = 'received'").fetchone()
    assert count == 4  # before it was read
    assert generate(endpoint, tmp_path, requests(3)) == (lines, summary) and endpoint.total == 4


DEPTHS = [90, 150, *range(250, 1001, 75), 5000, 100_000]  # a stack ends somewhere between


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_answer_s_depth_decides_alone_whether_it_is_one(endpoint, tmp_path, depth):
    raw = completion(score=1).replace(b'score": 1', b'score": ' + nested(depth))
    endpoint.plan = {"q1": [say(body=raw), say()]}
    _, summary = generate(endpoint, tmp_path, requests(3))
    assert summary["answered"] == 3 and endpoint.calls["q1"] == 1 + (depth > 90)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_dialogue_that_is_nested_deeply_is_repaired(endpoint, tmp_path, depth):
    content = dialogue(more=0).replace(": 0", ": " + nested(depth).decode())
    endpoint.plan = {"q1": [say(body=completion(content))]}
    _, summary = generate(endpoint, tmp_path, requests(2))
    assert summary["answered"] == 2 and endpoint.total == 2 + (depth > 90)


ERRORS_OF_OTHER_FORMS = {
    "a list": lambda deep: deep,
    "a deep error": lambda deep: b'{"error": ' + deep + b"}",
    "a deep message": lambda deep: b'{"error": {"message": ' + deep + b"}}",
    "a deep code": lambda deep: b'{"error": {"message": "m", "code": ' + deep + b"}}",
    "a deep type": lambda deep: b'{"error": {"message": "m", "type": ' + deep + b"}}",
    "a deep param": lambda deep: b'{"error": {"message": "m", "param": ' + deep + b"}}",
}


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize("form", ERRORS_OF_OTHER_FORMS.values(), ids=ERRORS_OF_OTHER_FORMS)
@pytest.mark.parametrize("kind", [b"[]", b'{"a":}'], ids=["lists", "objects"])
def test_an_error_s_form_and_depth_end_no_run(endpoint, tmp_path, status, form, kind):
    inner = b"" if kind == b"[]" else b"0"
    start, end = (b"[", b"]") if kind == b"[]" else (b'{"a":', b"}")
    deeps = [start * depth + inner + end * depth for depth in (1, 500, 900, 5000)]
    endpoint.plan = {
        f"q{n}": [say(status, form(deep), content_type="application/json"), say()]
        for n, deep in enumerate(deeps)
    }
    lines, summary = generate(endpoint, tmp_path, requests(5))
    assert summary["answered"] == (1 if status == 400 else 5)
    assert all(line["error"] for line in lines[:4]) == (status == 400)
    assert generate(endpoint, tmp_path, requests(5))[0] == lines


@pytest.mark.parametrize("body", [b"", completion(None), completion()[:-7]])
def test_an_endpoint_that_only_says_that_is_no_success(endpoint, tmp_path, body):
    endpoint.default = [say(body=body)]
    for _ in range(2):
        with pytest.raises(RunError, match="not one of 5 requests was answered"):
            generate(endpoint, tmp_path, requests(5), attempts=3)
        assert endpoint.total == 15  # and the second run pays for none


def test_nor_is_it_paid_for_every_row_to_find_that_out(endpoint, tmp_path):
    endpoint.default = [say(body=completion(None))]
    with pytest.raises(RunError, match="no answer to any of the first 20 calls.*500 of 500"):
        generate(endpoint, tmp_path, requests(500))
    assert endpoint.total < 60


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"message": {"content": None, "refusal": "I will not."}}, "refusal"),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, "content_filter"),
    ],
)
def test_who_refuses_is_not_asked_again(endpoint, tmp_path, message, code):
    endpoint.plan = {"q1": [say(body=json.dumps({"choices": [message]}).encode())]}
    first = generate(endpoint, tmp_path, requests(3))
    assert endpoint.calls["q1"] == 1 and first[1]["failed"] == 1
    assert first[0][1]["error"]["code"] == code
    assert generate(endpoint, tmp_path, requests(3)) == first and endpoint.total == 3
    replayed = generate(endpoint, tmp_path, requests(3), backend="replay")
    assert replayed[0] == first[0]


@pytest.mark.parametrize(
    "act",
    [flood(50 << 20), flood(50 << 20, content_type="application/json")],
    ids=["50 MB", "50 MB of JSON"],
)
def test_a_body_without_end_is_cut_off(endpoint, tmp_path, act):
    endpoint.plan = {"q1": [act, say()]}
    assert generate(endpoint, tmp_path, requests(2))[1]["answered"] == 2
    assert endpoint.flooded < openai.MOST_BYTES + (8 << 20)


def test_an_error_without_end_is_cut_off_too(endpoint, tmp_path):
    def act(handler):
        handler.send_response = lambda _status: type(handler).send_response(handler, 500)
        flood(50 << 20)(handler)

    endpoint.plan = {"q1": [act, say()]}
    assert generate(endpoint, tmp_path, requests(2))[1]["answered"] == 2
    assert endpoint.flooded < openai.MOST_BYTES + (8 << 20)


def test_a_small_body_that_swells_is_cut_off(endpoint, tmp_path):
    bomb = gzip.compress(b" " * (100 << 20))
    endpoint.plan = {"q1": [say(body=bomb, content_encoding="gzip"), say()]}
    assert generate(endpoint, tmp_path, requests(2))[1]["answered"] == 2


def test_a_compressed_answer_nobody_asked_for_is_read(endpoint, tmp_path):
    endpoint.default = [say(body=gzip.compress(completion()), content_encoding="gzip")]
    lines, _ = generate(endpoint, tmp_path, requests(1))
    assert content_of(lines[0]) == CONTENT and endpoint.total == 1


def test_a_long_answer_is_no_endless_one(endpoint, tmp_path):
    text = dialogue(note="y" * (4 << 20))
    endpoint.default = [say(body=completion(text))]
    assert content_of(generate(endpoint, tmp_path, requests(1))[0][0]) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (completion("caf\xe9 \u2014 \u4e2d \U0001f600"), "caf\xe9 \u2014 \u4e2d \U0001f600"),
        (completion("x").replace(b'"x"', b'"half \\ud83d of it"'), "half ? of it"),
        (completion("x").replace(b'"x"', b'"whole \\ud83d\\ude00"'), "whole \U0001f600"),
        (completion("x").replace(b'"x"', b'"bad \xff byte"'), "bad \ufffd byte"),
        (completion("nul \x00 and \u202e"), "nul \x00 and \u202e"),
    ],
    ids=["UTF-8", "half a pair", "a pair", "bad UTF-8", "NUL and RTL"],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=latin-1"])
def test_texts_survive(endpoint, tmp_path, body, text, kind):
    endpoint.default = [say(body=body, content_type=kind)]
    lines, _ = generate(endpoint, tmp_path, requests(1), repair=False)
    assert content_of(lines[0]) == text
    replayed, _ = generate(endpoint, tmp_path, requests(1), repair=False, backend="replay")
    assert replayed == lines


def test_half_a_pair_in_a_request_is_no_crash(endpoint, tmp_path):
    rows = requests(1)
    rows[0]["body"]["messages"][0]["content"] = "so \ud83d good"
    assert generate(endpoint, tmp_path, rows)[1]["answered"] == 1
    assert endpoint.seen[0]["body"]["messages"][0]["content"] == "so ? good"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**15, "completion_tokens": 5},
        {"prompt_tokens": -4, "completion_tokens": 5},
        {"prompt_tokens": "many", "completion_tokens": None},
        {"prompt_tokens": 1.5, "completion_tokens": True},
        [],
        "none",
    ],
)
def test_a_count_nobody_can_believe_is_no_count(endpoint, tmp_path, usage):
    """The call stays counted at the most it can cost."""
    endpoint.default = [say(body=completion(usage=usage))]
    _, summary = generate(endpoint, tmp_path, requests(3), max_usd=5.0, **PRICE)
    assert summary["answered"] == 3 and summary["usd"] is None
    assert summary["tokens"]["input"] is None
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        assert db.execute("SELECT min(usd) > 0, max(usd) < 1 FROM attempts").fetchone() == (1, 1)


# Answers of another form

FORMS = {
    "prose": "You might like a slow film about a lighthouse.",
    "cut off": CONTENT[:-9],
    "a list": f"[{CONTENT}]"[1:-3],
    "other keys": json.dumps({"dialogue": "x"}),
    "messages as a text": dialogue(messages="x"),
    "wrong roles": dialogue(messages=[{"role": "user", "content": "x"}]),
    "content as parts": dialogue(messages=[{"role": "seeker", "content": ["x"]}]),
    "nobody asks": dialogue(messages=[]),
    "the recommender speaks last": dialogue(
        messages=[{"role": "seeker", "content": "x"}, {"role": "recommender", "content": "y"}]
    ),
    "titles as a text": dialogue(recommendations="Heat"),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_an_answer_of_another_form_is_repaired_by_one_call(endpoint, tmp_path, text):
    endpoint.plan = {"q1": [say(body=completion(text))]}
    lines, summary = generate(endpoint, tmp_path, requests(3))
    assert summary["repaired"] == 1 and summary["answered"] == 3
    assert endpoint.calls == {"q0": 1, "q1": 1, "q2": 1, REPAIR: 1}
    assert content_of(lines[1]) == CONTENT
    body = requests(3)[1]["body"]
    told = [{"role": "assistant", "content": text}, {"role": "user", "content": REPAIR}]
    again = body | {"messages": body["messages"] + told}
    assert endpoint.seen[-1]["body"] == again
    key = request_key("openai", endpoint.url, again)
    assert lines[1]["response"]["request_id"] == key
    assert generate(endpoint, tmp_path, requests(3)) == (lines, summary) and endpoint.total == 4
    assert generate(endpoint, tmp_path, requests(3), backend="replay")[0] == lines


@pytest.mark.parametrize(
    "fault",
    [
        say(body=completion("still no JSON")),
        say(body=completion(None)),
        say(body=b""),
        error(400, "context_length_exceeded"),
        error(500),
        reset(),
    ],
    ids=["no form", "no text", "no body", "refused", "failed", "lost"],
)
def test_an_answer_stands_where_its_repair_fails(endpoint, tmp_path, fault):
    endpoint.plan = {"q1": [say(body=completion("prose"))], REPAIR: [fault]}
    lines, summary = generate(endpoint, tmp_path, requests(3), attempts=2)
    assert summary["repaired"] == 0 and summary["answered"] == 3
    assert content_of(lines[1]) == "prose"
    key = request_key("openai", endpoint.url, requests(3)[1]["body"])
    assert lines[1]["response"]["request_id"] == key
    assert endpoint.calls["q1"] == 1 and endpoint.calls[REPAIR] <= 2
    assert generate(endpoint, tmp_path, requests(3), backend="replay")[0] == lines


def test_twenty_cut_answers_cost_forty_calls_and_no_more(endpoint, tmp_path):
    body = {"choices": [{"message": {"content": CONTENT[:20]}, "finish_reason": "length"}]}
    endpoint.default = [say(body=json.dumps(body).encode())]
    for _ in range(3):
        lines, summary = generate(endpoint, tmp_path, requests(20))
        assert summary["answered"] == 20 and summary["repaired"] == 0
        assert {content_of(line) for line in lines} == {CONTENT[:20]}
        assert endpoint.total == 40


@pytest.mark.parametrize("values", [{"repair": False}, {"repair": True}])
def test_only_what_was_asked_for_as_json_is_repaired(endpoint, tmp_path, values):
    rows = requests(2)
    if values["repair"]:
        for row in rows:
            del row["body"]["response_format"]
    endpoint.default = [say(body=completion("prose"))]
    _, summary = generate(endpoint, tmp_path, rows, **values)
    assert summary["answered"] == 2 and summary["repaired"] == 0 and endpoint.total == 2


def test_repairs_count_against_the_cap_and_answers_stand_without(endpoint, tmp_path):
    endpoint.default = [say(body=completion("prose"))]
    endpoint.plan = {REPAIR: [say()]}
    lines, summary = generate(endpoint, tmp_path, requests(10), max_calls=13)
    assert endpoint.total == 13 and summary["repaired"] == 3
    assert generate(endpoint, tmp_path, requests(10), max_calls=13)[0] == lines
    assert endpoint.total == 13
    _, summary = generate(endpoint, tmp_path, requests(10), max_calls=20)
    assert endpoint.total == 20 and summary["repaired"] == 10


def test_repairs_count_against_the_cap_in_dollars(endpoint, tmp_path):
    endpoint.default = [say(body=completion("prose"))]
    endpoint.plan = {REPAIR: [say(body=completion("prose again"))]}
    _, summary = generate(endpoint, tmp_path, requests(10), max_usd=0.7, **PRICE)
    assert summary["answered"] == 10 and 10 < endpoint.total < 20
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        (spent,) = db.execute("SELECT sum(usd) FROM attempts").fetchone()
    assert spent <= 0.7


def test_repairs_count_against_the_cap_whatever_is_wished_now(endpoint, tmp_path):
    endpoint.default = [say(body=completion("prose"))]
    generate(endpoint, tmp_path, requests(10), max_calls=20)
    assert endpoint.total == 20
    with pytest.raises(RunError, match="max_calls=20 reached: 20 calls"):
        generate(endpoint, tmp_path, requests(15), max_calls=20, repair=False)
    assert endpoint.total == 20


def test_the_repair_of_a_damaged_answer_counts_against_the_cap(endpoint, tmp_path):
    endpoint.plan = {"q0": [say(body=completion("prose"))]}
    generate(endpoint, tmp_path, requests(1), max_calls=2)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("UPDATE attempts SET body = replace(body, 'prose', 'pr0se')")
    endpoint.plan = {"q0": [say(body=completion("other prose"))]}
    generate(endpoint, tmp_path, requests(1), max_calls=3)
    assert endpoint.total == 3  # its first repair is counted: there is no room for another


def test_a_run_that_stopped_before_its_repairs_makes_them_later(endpoint, tmp_path):
    endpoint.plan = {"q0": [say(body=completion("prose"))], REPAIR: [error(401), say()]}
    with pytest.raises(RunError, match="HTTP 401"):
        generate(endpoint, tmp_path, requests(3))
    _, summary = generate(endpoint, tmp_path, requests(3))
    assert summary["repaired"] == 1 and endpoint.calls["q0"] == 1 and endpoint.calls[REPAIR] == 2


# What an endpoint does not know


def knows(*formats):
    """Answer requests of these formats, and refuse others as vLLM, OpenAI and llama.cpp do."""

    def act(handler):
        asked = handler.server.seen[-1]["body"].get("response_format", {}).get("type", "text")
        fault = error(400, "invalid_request_error", f"response_format: '{asked}' is unknown")
        (say() if asked in formats else fault)(handler)

    return act


@pytest.mark.parametrize(
    ("formats", "last"),
    [
        (("json_schema", "json_object", "text"), "json_schema"),
        (("json_object", "text"), "json_object"),
        (("text",), None),
    ],
)
def test_it_asks_for_what_the_endpoint_knows(endpoint, tmp_path, formats, last):
    endpoint.default = [knows(*formats)]
    rows = asking(6, SCHEMA)
    lines, summary = generate(endpoint, tmp_path, rows, concurrency=1)
    assert summary["answered"] == 6
    asked = [call["body"].get("response_format", {}).get("type") for call in endpoint.seen]
    assert asked[-6:] == [last] * 6 and endpoint.total == 6 + 3 - len(formats)
    keys = [request_key("openai", endpoint.url, row["body"]) for row in rows]
    assert [line["response"]["request_id"] for line in lines] == keys  # as it was written
    assert generate(endpoint, tmp_path, rows)[0] == lines
    assert endpoint.total == 6 + 3 - len(formats)


def test_many_calls_in_flight_learn_of_it_together(endpoint, tmp_path):
    def act(handler):
        format_ = handler.server.seen[-1]["body"].get("response_format")
        (error(400, None, "json_schema is not supported") if format_ else say())(handler)

    endpoint.default = [act]
    _, summary = generate(endpoint, tmp_path, asking(100, SCHEMA), concurrency=32)
    assert summary["answered"] == 100 and summary["failed"] == 0


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "message",
    [
        "Failed to parse grammar",
        "Invalid parameter: 'response_format' of type 'json_object' is not supported",
        "JSON mode is not enabled for this model",
    ],
)
def test_it_knows_how_endpoints_say_so(endpoint, tmp_path, status, message):
    endpoint.plan = {"q0": [error(status, None, message), say()]}
    _, summary = generate(endpoint, tmp_path, requests(2))
    assert summary["answered"] == 2
    assert (
        "response_format"
        not in [c for c in endpoint.seen if c["body"]["messages"][-1]["content"] == "q0"][-1][
            "body"
        ]
    )


def test_another_refusal_is_no_matter_of_form(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(400, "context_length_exceeded", "too long")]}
    _, summary = generate(endpoint, tmp_path, requests(3))
    assert summary["failed"] == 1 and endpoint.total == 3
    assert all("response_format" in call["body"] for call in endpoint.seen)


def test_a_newer_model_is_told_its_limit_under_the_new_name(endpoint, tmp_path):
    said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    endpoint.plan = {"q0": [error(400, "unsupported_parameter", said), say()]}
    _, summary = generate(endpoint, tmp_path, requests(4), concurrency=1)
    assert summary["answered"] == 4 and endpoint.total == 5
    for call in endpoint.seen[1:]:
        assert call["body"]["max_completion_tokens"] == 20 and "max_tokens" not in call["body"]

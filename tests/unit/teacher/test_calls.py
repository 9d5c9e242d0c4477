import json
import time

import pytest

from seedtalk.teacher import calls
from seedtalk.teacher.answers import usage_in
from seedtalk.teacher.ledger import Ledger, request_key

GOOD = json.dumps({"messages": [{"role": "seeker", "content": "hi"}], "recommendations": []})


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def body(text):
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}


def repair_of(request, answer):
    more = [{"role": "assistant", "content": answer}, {"role": "user", "content": "JSON only"}]
    return request | {"messages": [*request["messages"], *more]}


def raw(content, usage=True):
    told = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    if usage:
        told["usage"] = {"prompt_tokens": 5, "completion_tokens": 2}
    return json.dumps(told)


def key_of(request):
    return request_key("openai", "e", request)


def make(ledger, request, content=GOOD, usd=0.5, usage=True, error=None):
    row = ledger.reserve(key_of(request), "e", "m", usd + 1, body=request, max_calls=0, max_usd=0.0)
    if error:
        ledger.fail(row, error, usd)
    elif content is not None:
        text = raw(content, usage)
        ledger.receive(row, text, usd, usage_in(text))
    return row


def traced(ledger, requests, after=0):
    keys = {key_of(request) for request in requests}
    touched = calls.touched(ledger, keys, after)
    return list(calls.asked(ledger, touched, after))


def test_a_request_is_its_attempts_and_what_is_around_them(ledger):
    before = time.time()
    make(ledger, body("a"), error="429: slow down", usd=0.0)
    make(ledger, body("a"))
    ((whole, first, second),) = traced(ledger, [body("a")])
    assert (first.name, first.outputs, first.error) == ("call", None, "429: slow down")
    assert (second.outputs, second.error, second.tokens) == (GOOD, None, (5, 2))
    assert second.attributes == {
        "key": key_of(body("a")),
        "model": "m",
        "endpoint": "e",
        "attempt": 2,
        "usd": 0.5,
        "cached": False,
    }
    assert whole.inputs == body("a")["messages"] and whole.outputs == GOOD
    assert whole.attributes["calls"] == 2 and whole.attributes["usd"] == 0.5
    assert (whole.attributes["input_tokens"], whole.attributes["output_tokens"]) == (5, 2)
    assert before <= first.begun <= first.ended <= second.begun <= second.ended == whole.ended
    assert whole.begun == first.begun and whole.error is None


def test_only_requests_of_the_run_that_a_call_was_made_for_are_there_in_its_order(ledger):
    make(ledger, body("old"))
    after = calls.latest(ledger)
    for name in ("f", "c", "a", "another run's", "e", "b", "d"):
        make(ledger, body(name))
    requests = [body(name) for name in ("a", "b", "c", "old", "d", "e", "f")]
    found = [spans[0].inputs[0]["content"] for spans in traced(ledger, requests, after)]
    assert found == ["f", "c", "a", "e", "b", "d"]


def test_a_repair_stands_under_its_request(ledger):
    make(ledger, body("a"), "no JSON")
    make(ledger, repair_of(body("a"), "no JSON"))
    ((whole, first, repair),) = traced(ledger, [body("a")])
    assert (first.name, first.outputs) == ("call", "no JSON")
    assert (repair.name, repair.outputs) == ("repair", GOOD)
    assert repair.attributes["key"] == key_of(repair_of(body("a"), "no JSON"))
    assert len(repair.inputs) == 3 and len(whole.inputs) == 1
    assert whole.outputs == GOOD and whole.attributes["usd"] == 1.0


def test_an_answer_that_is_repaired_later_is_shown_as_known_before(ledger):
    make(ledger, body("a"), "no JSON")
    after = calls.latest(ledger)
    make(ledger, repair_of(body("a"), "no JSON"))
    ((_, first, repair),) = traced(ledger, [body("a")], after)
    assert (first.attributes["cached"], repair.attributes["cached"]) == (True, False)


def test_the_first_answer_stands_where_the_repair_is_no_better(ledger):
    make(ledger, body("a"), "no JSON")
    make(ledger, repair_of(body("a"), "no JSON"), "still none")
    ((whole, *_),) = traced(ledger, [body("a")])
    assert whole.outputs == "no JSON" and whole.error is None


@pytest.mark.parametrize(
    ("made", "error"),
    [
        ({"content": None}, "no answer"),
        ({"error": "timeout: no answer in 5 s"}, "timeout: no answer in 5 s"),
        ({"content": "  "}, "no text in the first choice"),
    ],
)
def test_a_request_without_an_answer_says_why(ledger, made, error):
    make(ledger, body("a"), **made)
    ((whole, attempt),) = traced(ledger, [body("a")])
    assert whole.outputs is None and whole.error == error
    assert (attempt.ended is None) == (made == {"content": None})


def test_tokens_that_nobody_counted_are_unknown(ledger):
    make(ledger, body("a"), usage=False)
    ((whole, attempt),) = traced(ledger, [body("a")])
    assert attempt.tokens is None and whole.attributes["input_tokens"] == 0


def test_what_an_older_version_did_not_keep_is_not_there(ledger):
    row = ledger.reserve(key_of(body("a")), "e", "m", 0.0, max_calls=0, max_usd=0.0)
    ledger.receive(row, raw(GOOD))
    ((whole, _),) = traced(ledger, [body("a")])
    assert whole.inputs is None and whole.outputs == GOOD


def test_the_mean_is_of_a_models_counted_answers(ledger):
    assert calls.mean_output(ledger, "e", "m") == (None, 0)
    make(ledger, body("a"))
    make(ledger, body("b"), usage=False)
    make(ledger, body("c"), error="500")
    assert calls.mean_output(ledger, "e", "m") == (2.0, 1)
    assert calls.mean_output(ledger, "e", "other") == (None, 0)
    assert calls.mean_output(ledger, "f", "m") == (None, 0)

"""What a status means, what an endpoint turned out not to know, where a request stands."""

import json
import ssl

import httpx2
import pytest
from tests import domain

from seedtalk.teacher import openai
from seedtalk.teacher.answers import Answer, Failure, repair_of
from seedtalk.teacher.ledger import Ledger, request_key

URL = "http://127.0.0.1:1/v1"
BODY = {
    "model": "m",
    "max_tokens": 20,
    "response_format": {"type": "json_object"},
    "messages": [{"role": "user", "content": "x"}],
}
GOOD = json.dumps({"messages": [{"role": "seeker", "content": "x"}], "recommendations": []})


def params(**values):
    return domain.params(teacher={"backend": "openai", "base_url": URL} | values).teacher


def raw(content, **choice):
    return json.dumps({"choices": [{"message": {"content": content}} | choice]})


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, None, "bad", "permanent"),
        (413, None, "too large", "permanent"),
        (422, "x", "bad", "permanent"),
        (451, None, "by law", "permanent"),
        (403, "content_filter", "no", "permanent"),
        (401, None, "key", "account"),
        (402, None, "pay", "account"),
        (403, None, "region", "account"),
        (404, "model_not_found", "m", "account"),
        (410, None, "gone", "account"),
        (429, "insufficient_quota", "q", "account"),
        (400, None, "Your credit balance is too low", "account"),
        (429, None, "You have insufficient credits", "account"),
        (429, "rate_limit_exceeded", "slow", "busy"),
        (503, None, "later", "busy"),
        (529, None, "overloaded", "busy"),
        (408, None, "", "passing"),
        (409, None, "", "passing"),
        (425, None, "", "passing"),
        (500, None, "", "passing"),
        (599, None, "", "passing"),
    ],
)
def test_what_a_status_means(status, code, message, kind):
    error = openai.refusal(status, code, None, message, 2.0)
    assert error.kind == kind and str(error).startswith(f"{code or status}: HTTP {status}")
    assert error.retry_after == (2.0 if kind in ("busy", "passing") else None)
    assert not error.billed


def test_a_kind_of_error_may_say_what_its_code_does_not():
    assert openai.refusal(429, None, "insufficient_quota", "no").kind == "account"


@pytest.mark.parametrize(
    ("cause", "kind", "billed"),
    [
        (httpx2.ConnectError("refused"), "passing", False),
        (httpx2.ProxyError("no"), "passing", False),
        (httpx2.ReadError("reset"), "passing", True),
        (httpx2.WriteError("reset"), "passing", True),
        (httpx2.RemoteProtocolError("garbage"), "passing", True),
        (httpx2.LocalProtocolError("illegal header"), "account", False),
        (httpx2.UnsupportedProtocol("ftp"), "account", False),
    ],
)
def test_a_call_is_free_only_where_it_cannot_have_been_sent(cause, kind, billed):
    error = OSError("Connection error.")
    error.__cause__ = cause
    found = openai.unconnected(error)
    assert (found.kind, found.billed) == (kind, billed)


def test_a_wrong_certificate_is_no_passing_fault():
    cause = httpx2.ConnectError("tls")
    cause.__cause__ = OSError()
    cause.__cause__.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    error = OSError()
    error.__cause__ = cause
    assert openai.unconnected(error).code == "tls"


@pytest.mark.parametrize("text", ["sk-0123456789abc", "key-0123456789", "Bearer pk-abcdefgh_1"])
def test_what_looks_like_a_key_is_in_no_message(text):
    assert "***" in openai.short(f"you sent {text}!") and "01234" not in openai.short(text)


def test_a_message_is_one_short_line():
    assert openai.short("a\n b\t" + "c" * 999) == "a b " + "c" * 295 + "…"


def test_a_dialect_is_learnt_word_by_word():
    dialect = openai.Dialect()
    schema = BODY | {"response_format": {"type": "json_schema", "json_schema": {}}}
    assert dialect.shaped(schema) == schema
    assert dialect.adapts(schema, "response_format: json_schema is unknown")
    assert dialect.shaped(schema)["response_format"] == {"type": "json_object"}
    assert dialect.shaped(BODY) == BODY
    assert dialect.adapts(dialect.shaped(schema), "response_format is unknown")
    assert "response_format" not in dialect.shaped(schema)
    assert dialect.adapts(schema, "no grammar")  # one that was in flight all the while
    assert "response_format" not in dialect.shaped(schema)
    assert not dialect.adapts(dialect.shaped(schema), "response_format is unknown")
    assert dialect.adapts(dialect.shaped(schema), "use max_completion_tokens")
    shaped = dialect.shaped(schema)
    assert shaped["max_completion_tokens"] == 20 and "max_tokens" not in shaped
    assert not dialect.adapts(shaped, "use max_completion_tokens")
    assert schema["max_tokens"] == 20  # what was written stays


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as opened:
        yield opened


KEY = request_key("openai", URL, BODY)


def receive(ledger, body, text):
    key = request_key("openai", URL, body)
    row = ledger.reserve(key, URL, "m", 0.0, body=body, max_calls=0, max_usd=0.0)
    ledger.receive(row, text)


def stands(ledger, **values):
    return openai.standing(KEY, BODY, params(**values), ledger)


def test_a_request_nobody_asked_has_no_outcome(ledger):
    assert stands(ledger) == openai.Standing(None)


def test_the_latest_answer_stands(ledger):
    for text in (raw(None), raw(GOOD, index=1), raw(GOOD, index=2), raw(None)):
        receive(ledger, BODY, text)
    assert stands(ledger).outcome == Answer(json.loads(raw(GOOD, index=2)), KEY)


def test_responses_without_text_add_up_to_a_failure(ledger):
    receive(ledger, BODY, raw(None))
    receive(ledger, BODY, "<html>")
    assert stands(ledger, attempts=3) == openai.Standing(None, 2)
    assert stands(ledger, attempts=2).outcome == Failure("no_answer", "not JSON: '<html>'")


def test_a_refusal_is_a_failure_at_once(ledger):
    receive(ledger, BODY, json.dumps({"choices": [{"message": {"refusal": "No."}}]}))
    receive(ledger, BODY, raw(None))
    assert stands(ledger).outcome == Failure("refusal", "the teacher refused: No.")


def test_where_a_repair_stands(ledger):
    again = repair_of(BODY, "prose")
    key = request_key("openai", URL, again)
    receive(ledger, BODY, raw("prose"))
    first = Answer(json.loads(raw("prose")), KEY)
    assert stands(ledger) == openai.Standing(first, 0, (key, again), False)
    assert stands(ledger, repair=False) == openai.Standing(first)
    receive(ledger, again, raw("prose again"))
    assert stands(ledger) == openai.Standing(first, 0, (key, again), True)
    receive(ledger, again, raw(GOOD))
    better = Answer(json.loads(raw(GOOD)), key, repaired=True)
    assert stands(ledger) == openai.Standing(better, 0, (key, again), True)

"""What the batch backend does when an endpoint, a network or a kill misbehaves: real HTTP."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests import domain
from tests.faults.batch_server import (
    Gate,
    answered,
    cut_off,
    instead,
    lost_reply,
    mangled,
    never_ran,
    nothing,
    refused,
)
from tests.faults.server import CONTENT, KEY, error, requests, reset, say, teacher, write_requests

from seedtalk import teacher as layer
from seedtalk.errors import InputError, RunError
from seedtalk.teacher import batch
from seedtalk.teacher.answers import REPAIR
from seedtalk.teacher.budget import most
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.prices import Price

PRICED = {"usd_per_million_input": 1000.0, "usd_per_million_output": 2000.0}


def group(server, **values):
    return teacher(server, **({"backend": "batch", "batch_poll": 0.01} | values))


def ask(server, tmp_path, rows, **values):
    return layer.generate(rows, group(server, **values), seed=0, cache_dir=tmp_path)


def query(tmp_path, statement):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        return db.execute(statement).fetchall()


def rows_of(tmp_path):
    return query(tmp_path, "SELECT state, error, usd, attempt FROM attempts ORDER BY id")


def states_of(tmp_path):
    return [state for (state,) in query(tmp_path, "SELECT state FROM batches ORDER BY created")]


def texts(lines):
    """The user messages of request lines."""
    return [line["body"]["messages"][-1]["content"] for line in lines]


def contents(lines):
    return [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines]


def say_who(name):
    return CONTENT.replace('"x"', json.dumps(f"I am {name}"))


# The way it goes


def test_answers_come_in_request_order_whatever_the_order_of_results(server, tmp_path):
    server.shuffle = lambda lines: lines[::-1]
    server.plan = {f"q{n}": [answered(say_who(n))] for n in range(5)}
    lines, summary = ask(server, tmp_path, requests(5))
    assert [line["custom_id"] for line in lines] == ["q0", "q1", "q2", "q3", "q4"]
    assert contents(lines) == [say_who(n) for n in range(5)]
    assert summary["answered"] == 5 and summary["tokens"] == {"input": 50, "output": 25}
    assert server.created == 1 and states_of(tmp_path) == ["done"]


def test_the_file_and_the_batch_are_what_the_endpoint_documents(server, tmp_path):
    lines, _ = ask(server, tmp_path, requests(2))
    sent = server.lines()
    assert [line["body"] for line in sent] == [row["body"] for row in requests(2)]
    assert {(line["method"], line["url"]) for line in sent} == {("POST", "/v1/chat/completions")}
    assert [line["custom_id"] for line in sent] == [
        line["response"]["request_id"] for line in lines
    ]
    (file,) = server.files.values()
    (made,) = server.batches.values()
    ((token,),) = query(tmp_path, "SELECT token FROM batches")
    assert file["purpose"] == "batch" and token in file["filename"]
    assert file["filename"].endswith(".jsonl")
    assert made["metadata"] == {"seedtalk": token} and made["completion_window"] == "24h"
    assert made["endpoint"] == "/v1/chat/completions"


def test_what_is_known_asks_the_endpoint_nothing(server, tmp_path):
    first, _ = ask(server, tmp_path, requests(3))
    calls = server.calls.copy()
    again, _ = ask(server, tmp_path, requests(3))
    assert again == first and server.calls == calls


def test_one_more_request_costs_one_line(server, tmp_path):
    ask(server, tmp_path, requests(5))
    ask(server, tmp_path, requests(6))
    assert texts(server.lines()) == ["q5"] and set(server.paid.values()) == {1}


def test_equal_requests_share_a_line(server, tmp_path):
    twice = [*requests(1), requests(1)[0] | {"custom_id": "again"}]
    lines, _ = ask(server, tmp_path, twice)
    assert len(server.lines()) == 1 and lines[0]["response"] == lines[1]["response"]


@pytest.mark.parametrize("first", ["openai", "batch"])
def test_answers_are_known_to_the_other_backend(server, tmp_path, first):
    second = {"openai": "batch", "batch": "openai"}[first]
    bought, _ = ask(server, tmp_path, requests(2), backend=first)
    calls = server.calls.copy()
    assert ask(server, tmp_path, requests(2), backend=second)[0] == bought
    assert ask(server, tmp_path, requests(2), backend="replay")[0] == bought
    assert server.calls == calls


def test_requests_are_cut_into_batches(server, tmp_path):
    lines, _ = ask(server, tmp_path, requests(5), batch_requests=2)
    assert [texts(server.lines(n)) for n in range(3)] == [["q0", "q1"], ["q2", "q3"], ["q4"]]
    assert len(lines) == 5 and states_of(tmp_path) == ["done"] * 3


def test_a_file_stays_under_the_byte_limit(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.MOST_BYTES", 700)
    ask(server, tmp_path, requests(5))
    sizes = [len(content) for name, content in server.contents.items() if name.startswith("file")]
    assert max(sizes) <= 700 and len(sizes) == server.created == 3


def test_a_request_longer_than_a_batch_is_bad_input(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.MOST_BYTES", 50)
    with pytest.raises(InputError, match="longer than a whole batch"):
        ask(server, tmp_path, requests(1))
    assert rows_of(tmp_path) == [] and not server.calls


def test_half_a_surrogate_pair_and_controls_travel(server, tmp_path):
    rows = requests(1)
    rows[0]["body"]["messages"][1]["content"] = "a\ud83d\u0000\u202e\u2028b"
    server.default = [answered(say_who("\ud83d\u2028"))]
    lines, _ = ask(server, tmp_path, rows)
    assert server.lines()[0]["body"] == rows[0]["body"]
    assert lines[0]["response"] and json.dumps(lines, ensure_ascii=False).encode()


@pytest.mark.parametrize("key", [KEY, "canary7of7another7form"])
def test_the_key_is_written_nowhere(server, tmp_path, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.plan = {
        "q0": [answered(say_who(key))],
        "q1": [refused(400, "bad", f"key {key} may not")],
        "q2": [answered(key), answered()],
    }
    lines, _ = ask(server, tmp_path, requests(4))
    assert key not in json.dumps(lines)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path
    assert {headers["authorization"] for _, headers in server.headers} == {f"Bearer {key}"}


def test_nothing_is_left_beside_the_ledger(server, tmp_path):
    ask(server, tmp_path, requests(3), batch_requests=2)
    assert list((tmp_path / "ledger.sqlite.batches").iterdir()) == []


def test_an_endpoint_of_the_default_address_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    params = domain.params(teacher={"backend": "batch", "model": "m", "base_url": ""}).teacher
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        layer.generate(requests(1), params, seed=0, cache_dir=tmp_path)


# Lines that come back otherwise


PASSING = {
    "429": refused(429, "rate_limit_exceeded"),
    "408": refused(408),
    "500": refused(500, "server_error"),
    "503": refused(503),
    "expired": never_ran(),
    "no status": never_ran("server_error", "something broke"),
    "missing": nothing,
    "null content": answered(None),
    "no text": answered("  "),
    "no choices": answered(choices=[]),
}


@pytest.mark.parametrize("ending", PASSING.values(), ids=PASSING)
def test_only_what_has_no_answer_is_sent_again(server, tmp_path, ending):
    server.plan = {"q1": [ending, answered(say_who("late"))]}
    lines, summary = ask(server, tmp_path, requests(3))
    assert summary["answered"] == 3 and contents(lines)[1] == say_who("late")
    assert server.created == 2 and texts(server.lines()) == ["q1"]
    assert len(rows_of(tmp_path)) == 4  # every attempt has a row


def test_a_request_that_never_comes_back_ends_the_run_and_keeps_the_rest(server, tmp_path):
    server.plan = {"q1": [never_ran("server_error", "broken")]}
    with pytest.raises(RunError, match=r"1 of 3 requests got no answer in 2 attempts.*broken"):
        ask(server, tmp_path, requests(3), attempts=2)
    assert server.asked == {"q0": 1, "q1": 2, "q2": 1}
    server.plan = {}
    ask(server, tmp_path, requests(3))
    assert texts(server.lines()) == ["q1"]


def test_an_answer_without_text_at_every_attempt_is_a_failure(server, tmp_path):
    server.plan = {"q1": [answered(None)]}
    lines, summary = ask(server, tmp_path, requests(2), attempts=3)
    assert lines[1]["error"]["code"] == "no_answer" and summary["failed"] == 1
    assert server.paid["q1"] == 3
    ask(server, tmp_path, requests(2), attempts=3)  # those of earlier runs are counted
    assert server.paid["q1"] == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_recorded_and_the_others_go_on(server, tmp_path, status):
    server.plan = {"q1": [refused(status, "bad_request", "not that")]}
    lines, summary = ask(server, tmp_path, requests(3))
    said = f"HTTP {status}: not that"
    assert lines[1]["error"] == {"code": "bad_request", "message": said}
    assert summary["answered"] == 2 and server.created == 1
    assert rows_of(tmp_path)[1][:3] == ("failed", f"permanent: bad_request: {said}", 0.0)


def test_a_refusal_is_not_sent_again(server, tmp_path):
    server.plan = {"q1": [refused(400, "content_filter", "no"), answered()]}
    first = ask(server, tmp_path, requests(3))
    calls = server.calls.copy()
    assert ask(server, tmp_path, requests(3)) == first
    for backend in ("openai", "replay"):
        assert ask(server, tmp_path, requests(3), backend=backend)[0] == first[0]
    assert server.calls == calls


ACCOUNT = {
    "401": (401, "invalid_api_key"),
    "403": (403, "forbidden"),
    "404": (404, "model_not_found"),
    "quota": (429, "insufficient_quota"),
}


@pytest.mark.parametrize("fault", ACCOUNT.values(), ids=ACCOUNT)
def test_a_line_refused_for_the_account_stops_the_run_after_the_batch_is_kept(
    server, tmp_path, fault
):
    server.plan = {"q1": [refused(*fault, "account trouble")]}
    with pytest.raises(RunError, match="account trouble"):
        ask(server, tmp_path, requests(3))
    assert server.created == 1 and [row[0] for row in rows_of(tmp_path)] == [
        "received",
        "failed",
        "received",
    ]
    server.plan = {}
    ask(server, tmp_path, requests(3))
    assert texts(server.lines()) == ["q1"]


def doubled(*copies):
    """Put further results for q0 before or after its own."""

    def change(raw):
        own, *rest = raw.splitlines(keepends=True)
        made = [own if copy is None else copy(own) for copy in copies]
        return b"".join([*made, *rest])

    return mangled(change)


def other(own):
    return own.replace(b"I am 0", b"I am another")


def empty(own):
    line = json.loads(own)
    line["response"]["body"]["choices"] = []
    return json.dumps(line).encode() + b"\n"


def failed(own):
    line = json.loads(own)
    line["response"] = {"status_code": 500, "body": {"error": {"message": "no", "code": "e"}}}
    return json.dumps(line).encode() + b"\n"


DOUBLES = {
    "identical": ((None, None), "I am 0", False),
    "the first of two": ((None, other), "I am 0", True),
    "the first valid one": ((empty, None, other), "I am 0", True),
    "an answer after an error": ((failed, None), "I am 0", False),
    "an answer before an error": ((None, failed), "I am 0", False),
    "an answer before an empty one": ((None, empty), "I am 0", True),
}


@pytest.mark.parametrize(("copies", "kept", "warned"), DOUBLES.values(), ids=DOUBLES)
def test_of_several_results_one_stands(server, tmp_path, capsys, copies, kept, warned):
    server.plan = {f"q{n}": [answered(say_who(n))] for n in range(3)}
    server.faults = {"GET /files/id/content": [doubled(*copies)]}
    lines, summary = ask(server, tmp_path, requests(3))
    assert kept in contents(lines)[0] and summary["answered"] == 3
    assert server.created == 1 and [row[0] for row in rows_of(tmp_path)] == ["received"] * 3
    assert ("two different answers" in capsys.readouterr().err) is warned


def test_results_of_unknown_requests_are_kept_aside(server, tmp_path, capsys):
    def change(raw):
        return raw + json.dumps(json.loads(raw.splitlines()[0]) | {"custom_id": "?"}).encode()

    server.faults = {"GET /files/id/content": [mangled(change)]}
    lines, _ = ask(server, tmp_path, requests(2))
    assert contents(lines) == [CONTENT, CONTENT] and server.created == 1
    assert "1 lines name a request the batch does not hold" in capsys.readouterr().err
    (aside,) = (tmp_path / "ledger.sqlite.batches").iterdir()
    assert json.loads(aside.read_text())["custom_id"] == "?"


# Batches that end otherwise


def test_an_expired_batch_is_kept_and_the_rest_sent_again(server, tmp_path):
    server.final = ["expired", "completed"]
    server.plan = {"q1": [never_ran(), answered()], "q2": [nothing, answered()]}
    _, summary = ask(server, tmp_path, requests(4), **PRICED)
    assert summary["answered"] == 4 and texts(server.lines()) == ["q1", "q2"]
    assert [usd for state, _, usd, _ in rows_of(tmp_path) if state == "failed"] == [0.0, 0.0]


def test_a_batch_that_expires_before_anything_ran_is_sent_again(server, tmp_path):
    server.final = ["expired", "completed"]
    server.default = [nothing, answered()]
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 2 and set(server.paid.values()) == {1}


def test_a_cancelled_batch_stops_the_run_and_the_next_asks_what_is_left(server, tmp_path):
    server.final = ["cancelled", "completed"]
    server.plan = {"q1": [never_ran("batch_cancelled", "cancelled"), answered()]}
    with pytest.raises(RunError, match="was cancelled at the endpoint"):
        ask(server, tmp_path, requests(3))
    assert server.created == 1
    _, summary = ask(server, tmp_path, requests(3))
    assert summary["answered"] == 3 and texts(server.lines()) == ["q1"]


def test_a_failed_batch_with_results_is_kept_and_the_rest_sent_again(server, tmp_path):
    server.final = ["failed", "completed"]
    server.plan = {"q2": [nothing, answered()]}
    _, summary = ask(server, tmp_path, requests(3))
    assert summary["answered"] == 3 and texts(server.lines()) == ["q2"]


def test_a_batch_refused_whole_ends_the_run_in_the_endpoints_words(server, tmp_path):
    server.final = [("invalid_json_line", "This line is not parseable as valid JSON.")]
    with pytest.raises(RunError, match="not parseable as valid JSON"):
        ask(server, tmp_path, requests(2), max_calls=2, **PRICED)
    assert rows_of(tmp_path) == [] and states_of(tmp_path) == ["done"]
    server.final = ["completed"]
    _, summary = ask(server, tmp_path, requests(2), max_calls=2, **PRICED)  # nothing was used up
    assert summary["answered"] == 2


def test_batches_the_queue_has_no_room_for_wait_for_the_others(server, tmp_path):
    full = ("token_limit_exceeded", "Enqueued token limit reached for m.")
    server.final = ["completed", full, full, "completed", full, "completed"]
    _, summary = ask(server, tmp_path, requests(3), batch_requests=1, max_calls=3)
    assert summary["answered"] == 3 and set(server.paid.values()) == {1}
    assert server.created == 6 and len(rows_of(tmp_path)) == 3


def test_a_queue_without_any_room_ends_the_run(server, tmp_path):
    server.final = [("token_limit_exceeded", "Enqueued token limit reached for m.")]
    with pytest.raises(RunError, match=r"Enqueued token limit.*batch_requests"):
        ask(server, tmp_path, requests(4), batch_requests=2)
    assert rows_of(tmp_path) == [] and server.created == 2


# Downloads


DOWNLOADS = {
    "cut off": cut_off(0.5),
    "reset": instead(reset()),
    "429": instead(error(429, "slow", retry_after="0")),
    "500": instead(error(500)),
    "truncated": mangled(lambda raw: raw[:-30]),
    "a line lost": mangled(lambda raw: b"".join(raw.splitlines(keepends=True)[:-1])),
    "a bad line": mangled(lambda raw: raw.replace(b'{"id"', b'{id"', 1)),
    "HTML with 200": mangled(lambda raw: b"<html>welcome</html>"),
    "empty": mangled(lambda raw: b""),
    "NUL": mangled(lambda raw: b"\0" * len(raw)),
}


@pytest.mark.parametrize("fault", DOWNLOADS.values(), ids=DOWNLOADS)
def test_a_damaged_download_is_fetched_again_and_nothing_paid_again(server, tmp_path, fault):
    server.faults = {"GET /files/id/content": [fault]}
    _, summary = ask(server, tmp_path, requests(3))
    assert summary["answered"] == 3 and server.created == 1
    assert server.calls["GET /files/id/content"] == 2
    assert list((tmp_path / "ledger.sqlite.batches").iterdir()) == []


def test_what_is_damaged_at_the_endpoint_is_kept_aside_and_only_that_asked_again(
    server, tmp_path, capsys
):
    server.faults = {"GET /files/id/content": [mangled(lambda raw: raw[:-30])] * 3}
    _, summary = ask(server, tmp_path, requests(3), attempts=3, **PRICED)
    assert summary["answered"] == 3 and texts(server.lines()) == ["q2"]
    assert "1 lines could not be read" in capsys.readouterr().err
    (aside,) = (tmp_path / "ledger.sqlite.batches").iterdir()
    assert aside.read_bytes().startswith(b'{"id"')
    lost = rows_of(tmp_path)[2]
    assert lost[:2] == ("failed", "passing: missing: " + batch.NO_RESULT["completed"][1])
    assert lost[2] > 0.02  # it may have been paid for: what was reserved stays


def test_bytes_that_are_no_utf8_cost_a_character_and_not_the_answer(server, tmp_path):
    server.plan = {"q0": [answered(say_who("ZZZ"))]}
    server.faults = {"GET /files/id/content": [mangled(lambda raw: raw.replace(b"ZZZ", b"\xff"))]}
    lines, _ = ask(server, tmp_path, requests(2))
    assert "I am \ufffd" in contents(lines)[0] and server.created == 1


def test_results_that_cannot_be_read_at_all_are_fetched_by_the_next_run(server, tmp_path):
    page = mangled(lambda raw: b"<html>sign in</html>")
    server.faults = {"GET /files/id/content": [page, page]}
    with pytest.raises(RunError, match="not one line of the output file"):
        ask(server, tmp_path, requests(3), attempts=2)
    _, summary = ask(server, tmp_path, requests(3), attempts=2)
    assert summary["answered"] == 3 and server.created == 1


def test_results_that_are_gone_are_asked_anew_by_the_next_run_only(server, tmp_path):
    server.faults = {"GET /files/id/content": [instead(error(404, "not_found"))]}
    with pytest.raises(RunError, match="gone from the endpoint"):
        ask(server, tmp_path, requests(2), **PRICED)
    assert server.created == 1 and [row[0] for row in rows_of(tmp_path)] == ["failed"] * 2
    assert all(usd > 0 for _, _, usd, _ in rows_of(tmp_path))
    _, summary = ask(server, tmp_path, requests(2), **PRICED)
    assert summary["answered"] == 2 and server.created == 2


# Uploading and creating


ONCE = {
    "429": instead(error(429, "slow", retry_after="0")),
    "500": instead(error(500)),
    "503": instead(error(503)),
    "reset": instead(reset()),
    "HTML with 200": instead(say(body=b"<html>hello</html>", content_type="text/html")),
    "no id": instead(say(body=b"{}")),
    "not JSON": instead(say(body=b"{")),
    "the reply is lost": lost_reply,
    "processed, then 500": lambda handler, proceed: (proceed(), error(500)(handler)),
    "processed, then HTML": lambda handler, proceed: (
        proceed(),
        say(body=b"<html>hello</html>", content_type="text/html")(handler),
    ),
}


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_a_failed_upload_is_repeated(server, tmp_path, fault):
    server.faults = {"POST /files": [fault, fault]}
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 1 and server.calls["POST /files"] == 3


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_a_batch_is_created_once_whatever_becomes_of_the_reply(server, tmp_path, fault):
    server.faults = {"POST /batches": [fault]}
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 1
    assert server.calls["POST /files"] == 1 and set(server.paid.values()) == {1}


def test_a_batch_that_comes_to_be_after_the_request_was_given_up_is_found(server, tmp_path):
    def late(handler, proceed):
        handler.close_connection = True
        threading.Timer(0.15, proceed).start()

    server.faults = {"POST /batches": [late]}
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == server.calls["POST /batches"] == 1


def test_a_batch_is_found_on_a_later_page_of_the_list(server, tmp_path):
    server.page = 2
    ask(server, tmp_path, requests(6), batch_requests=1)

    def drowned(handler, proceed):
        proceed()
        with server.lock:
            made = list(server.batches.values())[-1]
            for number in range(5):
                server.batches[f"later{number}"] = made | {
                    "id": f"later{number}",
                    "metadata": {"seedtalk": "another"},
                    "input_file_id": "another",
                }
        reset()(handler)

    server.faults = {"POST /batches": [None] * 6 + [drowned]}
    _, summary = ask(server, tmp_path, requests(7))
    assert summary["answered"] == 7 and server.calls["POST /batches"] == 7


def test_of_two_batches_with_one_token_the_younger_is_cancelled(server, tmp_path):
    def twice(handler, proceed):
        proceed()
        with server.lock:
            made = list(server.batches.values())[-1]
            made["created_at"] -= 5
            server.batches["second"] = made | {
                "id": "second",
                "created_at": made["created_at"] + 1,
                "request_counts": dict(made["request_counts"]),
            }
        reset()(handler)

    server.faults = {"POST /batches": [twice]}
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and set(server.paid.values()) == {1}
    assert server.batches["second"]["status"] == "cancelling"


REFUSALS = {
    "401": error(401, "invalid_api_key"),
    "403": error(403, "forbidden"),
    "404": error(404, "not_found"),
    "quota": error(429, "insufficient_quota"),
    "billing": error(400, "billing_hard_limit_reached"),
    "too large": error(413, "too_large"),
}


@pytest.mark.parametrize("route", ["POST /files", "POST /batches"])
@pytest.mark.parametrize("act", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_stops_at_once_and_leaves_nothing_reserved(server, tmp_path, route, act):
    server.faults = {route: [instead(act)]}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(3), max_calls=3, **PRICED)
    assert server.calls[route] == 1 and server.created == 0
    assert rows_of(tmp_path) == [] and states_of(tmp_path) == ["done"]
    assert list((tmp_path / "ledger.sqlite.batches").iterdir()) == []
    _, summary = ask(server, tmp_path, requests(3), max_calls=3, **PRICED)  # the key is mended
    assert summary["answered"] == 3


def test_a_refusal_of_the_second_batch_keeps_the_first(server, tmp_path):
    server.polls = 3
    server.faults = {"POST /batches": [None, instead(error(401, "invalid_api_key"))]}
    with pytest.raises(RunError, match="401"):
        ask(server, tmp_path, requests(4), batch_requests=2)
    assert states_of(tmp_path) == ["running", "done"] and len(rows_of(tmp_path)) == 2
    _, summary = ask(server, tmp_path, requests(4), batch_requests=2)
    assert summary["answered"] == 4 and server.created == 2 and set(server.paid.values()) == {1}


@pytest.mark.parametrize("route", ["POST /files", "POST /batches"])
def test_an_endpoint_that_stays_away_ends_the_run_and_the_next_goes_on(server, tmp_path, route):
    server.faults = {route: [instead(error(503))] * 3}
    with pytest.raises(RunError, match="503"):
        ask(server, tmp_path, requests(2), attempts=3, max_calls=2)
    assert server.calls[route] == 3 and server.created == 0
    _, summary = ask(server, tmp_path, requests(2), attempts=3, max_calls=2)
    assert summary["answered"] == 2 and server.created == 1


def test_retry_after_is_waited_for(server, tmp_path):
    server.faults = {"POST /files": [instead(error(429, "slow", retry_after="0.4"))]}
    start = time.monotonic()
    ask(server, tmp_path, requests(1))
    assert time.monotonic() - start >= 0.4


# Looking how it is


LOOKS = {
    "429": instead(error(429, "slow", retry_after="0")),
    "500": instead(error(500)),
    "529": instead(error(529)),
    "reset": instead(reset()),
    "HTML with 200": instead(say(body=b"<html>hello</html>", content_type="text/html")),
    "empty": instead(say(body=b"")),
    "no id": instead(say(body=b"{}")),
    "an unknown status": mangled(lambda raw: raw.replace(b'"completed",', b'"pondering",')),
}


@pytest.mark.parametrize("fault", LOOKS.values(), ids=LOOKS)
def test_a_look_that_fails_is_repeated(server, tmp_path, fault):
    server.faults = {"GET /batches/id": [fault] * 6}
    _, summary = ask(server, tmp_path, requests(2), attempts=2)
    assert summary["answered"] == 2 and server.created == 1
    assert server.calls["GET /batches/id"] == 7


def test_an_endpoint_that_is_silent_for_long_ends_the_run_and_the_next_collects(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 4)
    server.faults = {"GET /batches/id": [instead(error(500))] * 4}
    with pytest.raises(RunError, match="500"):
        ask(server, tmp_path, requests(2))
    assert states_of(tmp_path) == ["running"]
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 1


def test_only_failures_in_a_row_are_counted(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 3)
    server.polls = 3
    down = instead(error(500))
    server.faults = {"GET /batches/id": [down, down, None, down, down, None, down, down]}
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.calls["GET /batches/id"] == 9


def test_a_key_that_is_withdrawn_meanwhile_loses_nothing(server, tmp_path):
    server.faults = {"GET /batches/id": [instead(error(401, "invalid_api_key"))]}
    with pytest.raises(RunError, match="401"):
        ask(server, tmp_path, requests(2))
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 1


def test_a_batch_the_endpoint_does_not_know_is_not_asked_anew_before_it_must_be_lost(
    server, tmp_path, monkeypatch
):
    server.faults = {"GET /batches/id": [instead(error(404, "not_found"))] * 2}
    with pytest.raises(RunError, match="one of the project that sent it"):
        ask(server, tmp_path, requests(2))
    assert states_of(tmp_path) == ["running"]
    monkeypatch.setattr("seedtalk.teacher.batch.FILES_KEPT", 0.0)
    with pytest.raises(RunError, match="pay for"):
        ask(server, tmp_path, requests(2))
    assert server.created == 1 and states_of(tmp_path) == ["done"]
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 2


# Money


def price_of_all(rows, factor=1.0):
    price = Price(
        PRICED["usd_per_million_input"], PRICED["usd_per_million_output"], batch_factor=factor
    )
    return sum(most(price, row["body"], batch=True) for row in rows)


def half_price(tmp_path):
    table = tmp_path / "prices.yaml"
    table.write_text("m: {input: 1000.0, output: 2000.0, batch_factor: 0.5}\n")
    return table


def test_answers_cost_what_the_batch_takes(server, tmp_path):
    _, summary = ask(server, tmp_path, requests(2), prices=half_price(tmp_path))
    assert summary["usd"] == pytest.approx(0.02)  # half of 2 × (10 × 1000 + 5 × 2000) / 1e6
    assert [usd for _, _, usd, _ in rows_of(tmp_path)] == pytest.approx([0.01, 0.01])


def test_what_does_not_fit_under_the_cap_of_calls_is_not_begun(server, tmp_path):
    with pytest.raises(RunError, match=r"max_calls=3 .*5 requests .* 3 of them fit"):
        ask(server, tmp_path, requests(5), max_calls=3, batch_requests=2)
    assert not server.calls and rows_of(tmp_path) == [] and states_of(tmp_path) == []
    ask(server, tmp_path, requests(3), max_calls=3)
    with pytest.raises(RunError, match="0 of them fit"):
        ask(server, tmp_path, requests(4), max_calls=3)
    assert server.created == 1


def test_what_does_not_fit_under_the_cap_of_dollars_is_not_begun(server, tmp_path):
    rows, prices = requests(4), half_price(tmp_path)
    enough = price_of_all(rows, 0.5)
    with pytest.raises(RunError, match=r"max_usd=.* 3 of them fit \(for 0\.\d+ USD\)"):
        ask(server, tmp_path, rows, max_usd=enough * 0.99, prices=prices)
    assert not server.calls and rows_of(tmp_path) == []
    _, summary = ask(server, tmp_path, rows, max_usd=enough * 1.001, prices=prices)
    assert summary["answered"] == 4


def test_a_cap_reached_by_repetition_keeps_everything(server, tmp_path):
    server.plan = {"q1": [never_ran()]}
    with pytest.raises(RunError, match=r"max_calls=4 .*1 requests .* 0 of them fit"):
        ask(server, tmp_path, requests(3), max_calls=4)
    assert [row[0] for row in rows_of(tmp_path)].count("received") == 2
    server.plan = {}
    _, summary = ask(server, tmp_path, requests(3))
    assert summary["answered"] == 3 and texts(server.lines()) == ["q1"]


def test_a_resumed_batch_is_not_reserved_twice(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 1)
    server.faults = {"GET /batches/id": [instead(error(500))]}
    caps = {"max_calls": 2, "max_usd": price_of_all(requests(2)) * 1.001}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(2), **caps, **PRICED)
    _, summary = ask(server, tmp_path, requests(2), **caps, **PRICED)
    assert summary["answered"] == 2 and len(rows_of(tmp_path)) == 2


def test_an_unknown_price_under_a_cap_is_bad_input(server, tmp_path):
    with pytest.raises(InputError, match="max_usd"):
        ask(server, tmp_path, requests(1), max_usd=1.0)
    assert not server.calls


# Several runs


def test_two_runs_at_once_share_a_batch(server, tmp_path):
    server.polls = 30
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(ask, server, tmp_path, requests(4)) for _ in range(2)]
        lines = [run.result()[0] for run in runs]
    assert lines[0] == lines[1] and server.created == 1 and set(server.paid.values()) == {1}


def test_two_runs_that_overlap_pay_for_the_overlap_once(server, tmp_path):
    server.polls = 20
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(ask, server, tmp_path, requests(n)) for n in (6, 9)]
        assert [len(run.result()[0]) for run in runs] == [6, 9]
    assert set(server.paid.values()) == {1} and sum(server.paid.values()) == 9


def test_another_experiment_collects_what_an_interrupted_one_sent(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 1)
    server.faults = {"GET /batches/id": [instead(error(500))]}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(5))
    _, summary = ask(server, tmp_path, requests(8)[3:])
    assert summary["answered"] == 5 and texts(server.lines()) == ["q5", "q6", "q7"]
    calls = server.calls.copy()
    ask(server, tmp_path, requests(5))  # all five were put down, not only those asked for
    assert server.calls == calls


def test_a_batch_of_other_requests_is_left_alone(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 1)
    server.faults = {"GET /batches/id": [instead(error(500))]}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(2))
    ask(server, tmp_path, requests(2, "other"))
    assert states_of(tmp_path) == ["running", "done"]


def test_a_request_another_run_is_asking_by_a_call_is_waited_for(server, tmp_path, monkeypatch):
    looked = threading.Event()
    is_claimed = Ledger.is_claimed

    def look(ledger, key):
        looked.set()
        return is_claimed(ledger, key)

    monkeypatch.setattr(Ledger, "is_claimed", look)
    (key,) = batch.keys_of([row["body"] for row in requests(1)], group(server))
    with ThreadPoolExecutor(1) as pool, Ledger(tmp_path / "ledger.sqlite") as other:
        with other.claim(key) as mine:
            assert mine
            run = pool.submit(ask, server, tmp_path, requests(1))
            assert looked.wait(30)
            time.sleep(0.2)
            assert not server.calls
            caps = {"max_calls": 0, "max_usd": 0.0}
            row = other.reserve(key, batch.endpoint_of(server.url), "m", 0.0, **caps)
            other.receive(row, json.dumps({"choices": [{"message": {"content": CONTENT}}]}))
        assert contents(run.result()[0]) == [CONTENT] and not server.calls


def test_what_a_batch_is_asking_is_not_asked_by_calls_as_well(server, tmp_path, monkeypatch):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 1)
    server.faults = {"GET /batches/id": [instead(error(500))]}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(3))
    with pytest.raises(RunError, match=r"2 of the requests are under way in a batch \(batch_0\)"):
        ask(server, tmp_path, requests(5)[1:], backend="openai")
    assert "POST /chat/id" not in server.calls
    ask(server, tmp_path, requests(3))
    _, summary = ask(server, tmp_path, requests(5)[1:], backend="openai")
    assert summary["answered"] == 4 and server.calls["POST /chat/id"] == 2


def test_a_batch_that_begins_beside_calls_pays_for_nothing_twice(server, tmp_path):
    begun = threading.Event()

    def hold(handler, proceed):
        """Keep the first call until a batch with all other requests is under way."""
        begun.set()
        end = time.monotonic() + 30
        while not server.batches and time.monotonic() < end:
            time.sleep(0.01)
        handler.reply(*proceed())

    server.faults = {"POST /chat/id": [hold]}
    server.polls = 10**6
    with ThreadPoolExecutor(2) as pool:
        calls = pool.submit(ask, server, tmp_path, requests(5), backend="openai", concurrency=1)
        assert begun.wait(30)
        together = pool.submit(ask, server, tmp_path, requests(5)[1:])
        try:
            with pytest.raises(RunError, match=r"a batch has begun to ask the same.*\("):
                calls.result()
        finally:
            server.polls = 1
        assert together.result()[1]["answered"] == 4
    assert server.calls["POST /chat/id"] == 1 and set(server.paid.values()) == {1}
    assert ask(server, tmp_path, requests(5), backend="openai")[1]["answered"] == 5
    assert server.calls["POST /chat/id"] == 1


def test_a_call_that_begins_while_a_batch_is_planned_is_waited_for(server, tmp_path, monkeypatch):
    (key,) = batch.keys_of([row["body"] for row in requests(1)], group(server))
    wait = batch._Run._wait_for_calls
    with Ledger(tmp_path / "ledger.sqlite") as other:
        claim = other.claim(key)
        caps = {"max_calls": 0, "max_usd": 0.0}
        rows = []

        def race(run, keys):
            if not rows:  # nobody is asking; then, before the batch is reserved, somebody is
                wait(run, keys)
                assert claim.__enter__()
                rows.append(other.reserve(key, batch.endpoint_of(server.url), "m", 0.0, **caps))
                return
            answer = {"choices": [{"message": {"content": CONTENT}}]}
            other.receive(rows[0], json.dumps(answer))
            claim.__exit__(None, None, None)
            wait(run, keys)

        monkeypatch.setattr(batch._Run, "_wait_for_calls", race)
        assert contents(ask(server, tmp_path, requests(1))[0]) == [CONTENT]
    assert rows and not server.calls


def test_a_number_that_no_float_holds_is_no_answer(server, tmp_path):
    def change(raw):
        return raw.replace(b'"total_tokens"', b'"x": 1e999, "total_tokens"', 1)

    server.faults = {"GET /files/id/content": [mangled(change)]}
    lines, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 2
    assert "Infinity" not in json.dumps(lines)
    assert query(tmp_path, "SELECT * FROM attempts WHERE body LIKE '%Infinity%'") == []


@pytest.mark.parametrize("key", [KEY, "gQ_0123456789abcdefghijklmnop"])
def test_what_is_put_aside_holds_no_key(server, tmp_path, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    escaped = "".join(f"\\u{ord(char):04x}" for char in key)

    def change(raw):
        line = json.loads(raw.splitlines()[0]) | {"custom_id": "?", "echo": key}
        odd = f"not JSON {key} {escaped} \xff".encode("latin-1")
        return raw + json.dumps(line).encode() + b"\n" + odd + b"\n"

    server.faults = {"GET /files/id/content": [mangled(change)] * 9}
    server.plan = {"q0": [answered(f"you sent {escaped}")]}
    lines, _ = ask(server, tmp_path, requests(2), attempts=2, repair=False)
    assert contents(lines)[0] == "you sent ***"
    (aside,) = (tmp_path / "ledger.sqlite.batches").iterdir()
    kept = aside.read_bytes()
    assert b"not JSON *** *** \xff" in kept and b'"echo": "***"' in kept
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path


def test_an_endpoint_that_sends_callers_on_is_bad_input_and_gets_no_second_look(server, tmp_path):
    server.faults = {"POST /files": [instead(say(307, b"", location="http://127.0.0.1:9/v1"))]}
    with pytest.raises(InputError, match=r"set teacher\.base_url"):
        ask(server, tmp_path, requests(2))
    assert rows_of(tmp_path) == [] and server.created == 0


def deep(depth):
    return b"[" * depth + b"]" * depth


DEEP = {
    "a field": lambda depth: mangled(lambda raw: b'{"x": ' + deep(depth) + b"," + raw[1:]),
    "the whole": lambda depth: mangled(lambda raw: deep(depth)),
    "an error": lambda depth: instead(say(500, deep(depth))),
    "an error's code": lambda depth: instead(say(500, b'{"error":{"code":' + deep(depth) + b"}}")),
    "an error's type": lambda depth: instead(say(503, b'{"error":{"type":' + deep(depth) + b"}}")),
}


@pytest.mark.parametrize("depth", [60, 150, 500, 900, 960, 5000])
@pytest.mark.parametrize("fault", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize(
    "route", ["POST /files", "POST /batches", "GET /batches", "GET /batches/id"]
)
def test_a_reply_nested_deeply_costs_nothing_twice(server, tmp_path, route, fault, depth):
    server.faults = {"POST /batches": [lost_reply]} if route == "GET /batches" else {}
    server.faults[route] = [fault(depth)]
    _, summary = ask(server, tmp_path, requests(2))
    assert summary["answered"] == 2 and server.created == 1 and set(server.paid.values()) == {1}


@pytest.mark.parametrize("depth", [90, 150, 500, 900, 960, 5000])
@pytest.mark.parametrize("where", ["score", "error", "code"])
def test_a_result_nested_deeply_is_a_bad_line_at_any_depth(server, tmp_path, where, depth):
    """In a response, in the error beside one, and in an error in its place."""

    def change(raw):
        lines = raw.splitlines(keepends=True)
        head, within = lines[0][:-2], deep(depth - 10)
        told = {
            "score": lines[0].replace(b'"choices"', b'"score": ' + within + b', "choices"', 1),
            "error": head.replace(b'"error": null', b'"error": ' + within) + b"}\n",
            "code": head.replace(b', "error": null', b"").replace(
                b'"response": {', b'"error": {"code": ' + within + b'}, "r": {'
            )
            + b"}\n",
        }
        return b"".join([told[where], *lines[1:]])

    server.faults = {"GET /files/id/content": [mangled(change)]}
    _, summary = ask(server, tmp_path, requests(3), attempts=2)
    assert summary["answered"] == 3 and len(server.paid) == 3
    # What can be read needs no second download; an error in a response's place is asked again.
    again = server.calls["GET /files/id/content"]
    assert again == (2 if depth > 90 or where == "code" else 1)


# Kills


def start(server, tmp_path, count, script=(), **values):
    """Run the stage in a process of its own."""
    told = {"backend": "batch", "model": "m", "base_url": server.url, "batch_poll": 0.01}
    domain.write_params(tmp_path / "params.yaml", teacher=told | values)
    write_requests(tmp_path / "requests.jsonl", requests(count))
    command = [
        *(sys.executable, *(script or [str(domain.ROOT / "stages" / "generate.py")])),
        *("--params", "params.yaml", "--requests", "requests.jsonl"),
        *("--responses", "out.jsonl", "--summary", "out.json"),
    ]
    environment = os.environ | {"DVC_ROOT": str(tmp_path)}
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )


def uninterrupted(server, tmp_path, count, **values):
    """What a run that nothing disturbs writes, from a ledger of its own."""
    server.faults = {}
    return ask(server, tmp_path / "apart", requests(count), **values)[0]


GATES = {
    "before the upload": ("POST /files", Gate.before),
    "upload unrecorded": ("POST /files", Gate.after),
    "before the creation": ("POST /batches", Gate.before),
    "creation unrecorded": ("POST /batches", Gate.after),
    "creation under way": ("POST /batches", Gate.late),
    "before a look": ("GET /batches/id", Gate.before),
    "after a look": ("GET /batches/id", Gate.after),
    "before the download": ("GET /files/id/content", Gate.before),
    "amid the download": ("GET /files/id/content", Gate.halfway),
}


@pytest.mark.parametrize(("route", "hold"), GATES.values(), ids=GATES)
def test_kill_9_never_makes_a_second_batch(server, tmp_path, route, hold):
    gate = Gate()
    server.faults = {route: [lambda handler, proceed: hold(gate, handler, proceed)]}
    server.plan = {f"q{n}": [answered(say_who(n))] for n in range(4)}
    process = start(server, tmp_path, 4)
    assert gate.reached.wait(30), process.communicate(timeout=1)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "out.jsonl").exists()
    opening = threading.Timer(0.2 if hold is Gate.late else 0.0, gate.opened.set)
    opening.start()
    lines, _ = ask(server, tmp_path / ".cache", requests(4), max_calls=4)
    assert server.created == 1 and set(server.paid.values()) == {1}
    # The file is sent again only where the endpoint never had it.
    assert len(server.files) == 1
    assert server.calls["POST /files"] == 1 + (hold is Gate.before and route == "POST /files")
    assert lines == uninterrupted(server, tmp_path, 4)


@pytest.mark.parametrize("state", ["planned", "planned, file deleted", "uploaded", "creating"])
def test_a_ledger_put_back_to_an_earlier_state_makes_no_second_batch(
    server, tmp_path, monkeypatch, state
):
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 1)
    server.faults = {"GET /batches/id": [instead(error(500))]}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(2))
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        name, _, deleted = state.partition(", ")
        db.execute("UPDATE batches SET batch_id = NULL, state = ?", (name,))
        if name == "planned":
            db.execute("UPDATE batches SET file_id = NULL")
    if deleted:
        server.files.clear()
        for path in (tmp_path / "ledger.sqlite.batches").iterdir():
            path.unlink()
    _, summary = ask(server, tmp_path, requests(2), max_calls=2)
    assert summary["answered"] == 2 and server.created == server.calls["POST /files"] == 1


# Dies once the first of several commits of results is durable.
DIES_WHILE_RECORDING = """
import os, runpy, signal, sys
from seedtalk.teacher import batch_results
batch_results.COMMIT = 2
keep = batch_results.Harvest._keep
def die(harvest, responses):
    keep(harvest, responses)
    os.kill(os.getpid(), signal.SIGKILL)
batch_results.Harvest._keep = die
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
# Dies once a batch's reservation is durable, before its file is written.
DIES_WHILE_PLANNING = """
import os, runpy, signal, sys
from seedtalk.teacher import batch
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
batch.atomic_file = die
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize(
    ("program", "answers"),
    [(DIES_WHILE_RECORDING, 2), (DIES_WHILE_PLANNING, 0)],
    ids=["recording", "planning"],
)
def test_kill_9_within_the_run_never_makes_a_second_batch(server, tmp_path, program, answers):
    server.plan = {f"q{n}": [answered(say_who(n))] for n in range(5)}
    script = ["-c", program, str(domain.ROOT / "stages" / "generate.py")]
    process = start(server, tmp_path, 5, script)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, said
    put_down = query(tmp_path / ".cache", "SELECT count(*) FROM attempts WHERE state = 'received'")
    assert put_down == [(answers,)]
    lines, _ = ask(server, tmp_path / ".cache", requests(5), max_calls=5)
    assert server.created == 1 and set(server.paid.values()) == {1}
    assert lines == uninterrupted(server, tmp_path, 5)


# Dies where the results lie on the disk, half of them read.
DIES_WHILE_READING = """
import os, runpy, signal, sys
from seedtalk.teacher import batch_results
read = batch_results.read_result
def die(line, left=[2]):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(line)
batch_results.read_result = die
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_kill_9_while_results_are_read_leaves_no_key_on_the_disk(server, tmp_path, monkeypatch):
    key = "gQ_0123456789abcdefghijklmnop"
    escaped = "".join(f"\\u{ord(char):04x}" for char in key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.plan = {"q0": [answered(f"you sent {key} or {escaped}")], "q3": [answered(key)]}
    script = ["-c", DIES_WHILE_READING, str(domain.ROOT / "stages" / "generate.py")]
    process = start(server, tmp_path, 4, script, repair=False)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, said
    (results,) = (tmp_path / ".cache" / "ledger.sqlite.batches").glob("*.output.jsonl")
    assert results.read_bytes().count(b"***") == 3
    for path in tmp_path.rglob("*"):
        told = b"" if path.is_dir() else path.read_bytes()
        assert key.encode() not in told and escaped.encode() not in told, path
    lines, _ = ask(server, tmp_path / ".cache", requests(4), repair=False)
    assert contents(lines)[0] == "you sent *** or ***" and server.created == 1


def test_a_line_without_an_end_is_neither_held_nor_kept(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("seedtalk.teacher.batch_lines.MOST_LINE", 1000)
    server.faults = {
        "GET /files/id/content": [mangled(lambda raw: raw + b"x" * 300_000 + KEY.encode())] * 2
    }
    _, summary = ask(server, tmp_path, requests(3), attempts=2)
    assert summary["answered"] == 3 and server.created == 1
    assert "1 lines could not be read" in capsys.readouterr().err
    (aside,) = (tmp_path / "ledger.sqlite.batches").iterdir()
    assert aside.read_bytes() == b"a line of %d bytes was left out" % (300_000 + len(KEY))


def test_an_interrupt_leaves_the_batch_running_and_says_how_to_go_on(server, tmp_path):
    server.polls = 10_000
    process = start(server, tmp_path, 3)
    deadline = time.monotonic() + 30
    while server.calls["GET /batches/id"] < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1 and "Traceback" not in said
    assert "go on at the endpoint (batch_0)" in said and "run the stage again" in said
    assert not (tmp_path / "out.jsonl").exists()
    server.polls = 1
    again = start(server, tmp_path, 3)
    _, said = again.communicate(timeout=30)
    assert again.returncode == 0, said
    assert server.created == 1 and set(server.paid.values()) == {1}
    assert "POST /batches/id/cancel" not in server.calls
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == uninterrupted(server, tmp_path, 3)


# What an endpoint does not know, and answers of another form


def formats(lines):
    return [line["body"].get("response_format", {}).get("type") for line in lines]


def schema(rows):
    for row in rows:
        row["body"]["response_format"] = {"type": "json_schema", "json_schema": {"name": "d"}}
    return rows


def no_format(line):
    """Refuse a line for its format as long as it has one."""
    kind = line["body"].get("response_format", {}).get("type")
    words = f"Invalid parameter: 'response_format' of type '{kind}' is not supported"
    ending = refused(400, "invalid_value", words) if kind else answered()
    return ending(line)


def test_a_format_the_endpoint_refuses_is_left_out_step_by_step(server, tmp_path):
    server.default = [no_format]
    lines, summary = ask(server, tmp_path, schema(requests(3)))
    assert summary["answered"] == 3 and server.created == 3
    assert [set(formats(server.lines(n))) for n in range(3)] == [
        {"json_schema"},
        {"json_object"},
        {None},
    ]
    assert [line["response"]["request_id"] for line in lines] == [
        line["custom_id"] for line in server.lines(0)
    ]
    calls = server.calls.copy()
    assert ask(server, tmp_path, schema(requests(3)))[0] == lines and server.calls == calls


def test_a_format_that_is_refused_for_the_whole_batch_is_left_out(server, tmp_path):
    server.final = [("invalid_request", "response_format json_schema is not allowed"), "completed"]
    _, summary = ask(server, tmp_path, schema(requests(2)), max_calls=2)
    assert summary["answered"] == 2 and server.created == 2
    assert formats(server.lines()) == ["json_object", "json_object"]


def test_an_answer_of_another_form_is_repaired_in_a_second_batch(server, tmp_path):
    server.plan = {"q1": [answered("no JSON")]}
    lines, summary = ask(server, tmp_path, requests(3))
    assert summary["repaired"] == 1 and contents(lines) == [CONTENT] * 3
    assert [len(server.lines(n)) for n in range(2)] == [3, 1]
    (repair,) = server.lines()
    assert repair["body"]["messages"][-2] == {"role": "assistant", "content": "no JSON"}
    assert lines[1]["response"]["request_id"] == repair["custom_id"]
    calls = server.calls.copy()
    assert ask(server, tmp_path, requests(3))[0] == lines and server.calls == calls
    assert ask(server, tmp_path, requests(3), backend="replay")[0] == lines


@pytest.mark.parametrize(
    "ending",
    [answered("nor this"), answered(None), refused(400, "no", "not that")],
    ids=["another form", "empty", "refused"],
)
def test_an_answer_stands_where_its_one_repair_fails(server, tmp_path, ending):
    server.plan = {"q1": [answered("no JSON")]}
    server.default = [
        lambda line: (ending if len(line["body"]["messages"]) > 2 else answered())(line)
    ]
    lines, summary = ask(server, tmp_path, requests(3))
    assert contents(lines)[1] == "no JSON" and summary["repaired"] == 0
    assert server.created == 2


def test_an_answer_stands_where_the_cap_leaves_no_room_for_its_repair(server, tmp_path):
    server.plan = {"q1": [answered("no JSON")]}
    lines, summary = ask(server, tmp_path, requests(3), max_calls=3)
    assert contents(lines)[1] == "no JSON" and summary["answered"] == 3 and server.created == 1


def test_repairs_count_against_the_cap(server, tmp_path):
    server.plan = {"q1": [answered("no JSON")], REPAIR: [never_ran()]}
    lines, _ = ask(server, tmp_path, requests(3), max_calls=5)
    assert contents(lines)[1] == "no JSON" and server.asked[REPAIR] == 2 and server.created == 3


def test_no_repair_is_made_where_none_is_wanted(server, tmp_path):
    server.plan = {"q1": [answered("no JSON")]}
    ask(server, tmp_path, requests(3), repair=False)
    assert server.created == 1


def test_a_repair_under_way_is_collected_after_an_interruption(server, tmp_path, monkeypatch):
    server.plan = {"q1": [answered("no JSON")]}
    monkeypatch.setattr("seedtalk.teacher.batch.LOOKS", 1)
    server.faults = {"GET /batches/id": [None, instead(error(500))]}
    with pytest.raises(RunError):
        ask(server, tmp_path, requests(3))
    assert server.created == 2
    lines, summary = ask(server, tmp_path, requests(3))
    assert server.created == 2 and summary["repaired"] == 1 and contents(lines) == [CONTENT] * 3

"""What the teacher layer does when an endpoint misbehaves: real HTTP on the loopback."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from email.utils import formatdate

import pytest
from tests import domain
from tests.faults.server import (
    CONTENT,
    KEY,
    Endpoint,
    completion,
    drip,
    error,
    redirect,
    requests,
    reset,
    say,
    teacher,
    write_requests,
)

from seedtalk import teacher as layer
from seedtalk.errors import InputError, RunError
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.limiter import FIRST_WINDOW
from seedtalk.teacher.openai import endpoint_url

pytestmark = pytest.mark.usefixtures("impatient")


PRICE = {"usd_per_million_input": 1000.0, "usd_per_million_output": 2000.0}


def generate(endpoint, tmp_path, rows, **values):
    return layer.generate(rows, teacher(endpoint, **values), seed=0, cache_dir=tmp_path)


def rows_of(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        return db.execute("SELECT state, error, usd, attempt FROM attempts ORDER BY id").fetchall()


def test_answers_come_in_request_order(endpoint, tmp_path):
    endpoint.plan = {"q0": [say(delay=0.2)]}
    lines, summary = generate(endpoint, tmp_path, requests(5))
    assert [line["custom_id"] for line in lines] == ["q0", "q1", "q2", "q3", "q4"]
    assert all(line["response"]["status_code"] == 200 for line in lines)
    body = lines[0]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == CONTENT
    assert summary == {
        "backend": "openai",
        "model": "m",
        "requests": 5,
        "answered": 5,
        "failed": 0,
        "repaired": 0,
        "tokens": {"input": 50, "output": 25},
        "usd": None,
        "spent": {"calls": 5, "usd": None},
    }


def test_the_request_is_sent_as_it_was_written(endpoint, tmp_path):
    generate(endpoint, tmp_path, requests(1))
    assert endpoint.seen[0]["body"] == requests(1)[0]["body"]
    assert endpoint.seen[0]["path"] == "/v1/chat/completions"
    assert endpoint.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_concurrency_is_kept_to(endpoint, tmp_path):
    endpoint.default = [say(delay=0.05)]
    generate(endpoint, tmp_path, requests(12), concurrency=3)
    assert endpoint.most_open == 3


def test_equal_requests_share_a_call(endpoint, tmp_path):
    twice = [*requests(1), requests(1)[0] | {"custom_id": "again"}]
    lines, _ = generate(endpoint, tmp_path, twice)
    assert endpoint.total == 1
    assert lines[0]["response"] == lines[1]["response"]


PASSING = {
    "429": error(429, "rate_limit_exceeded"),
    "429 at once": error(429, "rate_limit_exceeded", retry_after="0"),
    "429 ms": error(429, "rate_limit_exceeded", retry_after_ms="30"),
    "429 date": error(429, "slow", retry_after=formatdate(0, usegmt=True)),
    "429 nonsense": error(429, "slow", retry_after="soon"),
    "408": error(408),
    "409": error(409),
    "425": error(425),
    "500": error(500),
    "501": error(501),
    "504": error(504),
    "520 html": say(520, b"<html>origin</html>", content_type="text/html"),
    "500 empty": say(500, b""),
    "500 with half a pair": say(500, b'{"error": {"message": "so \\ud83d bad"}}'),
    "502 html": say(502, b"<html>bad gateway</html>", content_type="text/html"),
    "503": error(503),
    "529": error(529),
    "reset": reset(),
    "reset within the body": reset(after=40),
    "truncated JSON": say(body=completion()[:-20]),
    "HTML with 200": say(body=b"<html>welcome</html>", content_type="text/html"),
    "empty": say(body=b""),
    "null content": say(body=completion(None)),
    "no choices": say(body=b'{"choices": []}'),
    "bad UTF-8": say(body=b'{"choices": \xff\xfe'),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(endpoint, tmp_path, fault):
    endpoint.plan = {"q1": [fault, say()]}
    lines, summary = generate(endpoint, tmp_path, requests(3))
    assert summary["answered"] == 3 and endpoint.calls == {"q0": 1, "q1": 2, "q2": 1}
    assert all(line["error"] is None for line in lines)
    states = [state for state, *_ in rows_of(tmp_path)]
    assert len(states) == 4  # every attempt has a row


def test_a_call_that_takes_too_long_is_tried_again(endpoint, tmp_path):
    endpoint.plan = {"q0": [say(delay=1.0), say()]}
    _, summary = generate(endpoint, tmp_path, requests(1), timeout=0.3)
    assert summary["answered"] == 1 and endpoint.total == 2
    assert rows_of(tmp_path)[0][:2] == ("failed", "passing: timeout: no answer in 0.3 s")


def test_an_answer_that_drips_is_given_up(endpoint, tmp_path):
    endpoint.plan = {"q0": [drip, say()]}
    start = time.monotonic()
    _, summary = generate(endpoint, tmp_path, requests(1), timeout=0.4)
    assert summary["answered"] == 1 and time.monotonic() - start < 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(endpoint, tmp_path, status):
    other = Endpoint()
    thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        endpoint.default = [redirect(f"{other.url}/chat/completions", status)]
        with pytest.raises(InputError, match=rf"HTTP {status}.*{other.server_port}.*base_url"):
            generate(endpoint, tmp_path, requests(20))
        assert other.total == 0 and endpoint.total <= FIRST_WINDOW
    finally:
        other.shutdown()
        other.server_close()
        thread.join()


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/meta-data/", "//metadata/", "/elsewhere", ""]
)
def test_a_redirect_anywhere_is_bad_input(endpoint, tmp_path, location):
    endpoint.default = [redirect(location)]
    with pytest.raises(InputError, match="sends callers on to"):
        generate(endpoint, tmp_path, requests(1))


def test_a_redirect_tells_no_secret_of_its_query(endpoint, tmp_path):
    endpoint.default = [redirect("http://user:word@127.0.0.1:9/login?token=abc")]
    with pytest.raises(InputError) as raised:
        generate(endpoint, tmp_path, requests(1))
    assert "127.0.0.1:9/login" in raised.value.message
    assert "word" not in raised.value.message and "abc" not in raised.value.message


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1:8000",
        "2852039166",  # the same in one number
        "0xa9fea9fe",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "metadata.google.internal",
        "METADATA",
        "metadata.google.internal.",
        "224.0.0.1",
    ],
)
def test_no_address_where_machines_keep_secrets_is_called(endpoint, tmp_path, host):
    with pytest.raises(InputError, match="teacher.base_url.*keep secrets"):
        generate(endpoint, tmp_path, requests(1), base_url=f"http://{host}/v1")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/v1",
        "http://localhost:1/v1",
        "http://[::1]:1",
        "http://0.0.0.0:8000/v1",
        "http://10.0.0.7/v1",
        "http://172.16.3.4/v1",
        "http://192.168.1.20:8080/v1",
    ],
)
def test_models_are_served_on_loopback_and_private_networks(endpoint, url):
    assert endpoint_url(teacher(endpoint, base_url=url)) == url


def test_a_host_that_cannot_be_found_is_a_failed_run(endpoint, tmp_path):
    values = {"base_url": "http://no-such-host.invalid/v1", "attempts": 2}
    with pytest.raises(RunError, match="2 of 2 requests got no answer.*connection"):
        generate(endpoint, tmp_path, requests(2), **values)
    assert {usd for *_, usd, _ in rows_of(tmp_path)} == {0.0}


def test_tls_to_a_server_that_speaks_none_stops_the_run(endpoint, tmp_path):
    values = {"base_url": endpoint.url.replace("http:", "https:")}
    with pytest.raises(RunError, match="tls.*does teacher.base_url begin with the right"):
        generate(endpoint, tmp_path, requests(100), **values)
    assert len(rows_of(tmp_path)) <= FIRST_WINDOW


def test_a_call_that_was_never_sent_costs_nothing(endpoint, tmp_path):
    values = {"base_url": "http://127.0.0.1:9/v1", "attempts": 2} | PRICE
    with pytest.raises(RunError, match="connection"):
        generate(endpoint, tmp_path, requests(2), **values)
    assert [usd for *_, usd, _ in rows_of(tmp_path)] == [0.0] * 4


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-with\u2014a-dash", "sk-bell\x07"])
def test_a_key_that_no_header_can_hold_is_bad_input(endpoint, tmp_path, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY: holds a character"):
        generate(endpoint, tmp_path, requests(1))
    assert endpoint.total == 0


@pytest.mark.parametrize("key", [f" {KEY}", f"{KEY}\n"])
def test_blanks_around_a_key_are_no_part_of_it(endpoint, tmp_path, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    generate(endpoint, tmp_path, requests(1))
    assert endpoint.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_retry_after_is_waited_for(endpoint, tmp_path):
    endpoint.plan = {"q0": [error(429, retry_after="0.4"), say()]}
    start = time.monotonic()
    generate(endpoint, tmp_path, requests(1))
    assert time.monotonic() - start >= 0.4


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_recorded_and_the_others_go_on(endpoint, tmp_path, status):
    endpoint.plan = {"q1": [error(status, "content_filter", "not that")]}
    lines, summary = generate(endpoint, tmp_path, requests(4))
    assert endpoint.calls["q1"] == 1 and summary["answered"] == 3 and summary["failed"] == 1
    assert lines[1]["response"] is None
    assert lines[1]["error"]["code"] == "content_filter"
    assert "not that" in lines[1]["error"]["message"]


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_api_key"), (403, None), (404, "model_not_found"), (429, "insufficient_quota")],
)
def test_a_refused_account_stops_the_run_and_keeps_what_is_paid(endpoint, tmp_path, status, code):
    endpoint.plan = {"q2": [error(status, code)]}
    with pytest.raises(RunError, match=rf"HTTP {status}.*8 of 10 requests.*is kept") as raised:
        generate(endpoint, tmp_path, requests(10), concurrency=1)
    assert raised.value.exit_code == 1 and endpoint.total == 3
    endpoint.plan = {}
    generate(endpoint, tmp_path, requests(10))
    assert endpoint.calls == {f"q{n}": 2 if n == 2 else 1 for n in range(10)}


def test_no_request_answered_is_a_failed_run(endpoint, tmp_path):
    endpoint.default = [error(400)]
    with pytest.raises(RunError, match="not one of 3 requests was answered.*HTTP 400"):
        generate(endpoint, tmp_path, requests(3))


def test_an_endpoint_that_stays_down_fails_the_run_and_keeps_the_rest(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(500)]}
    with pytest.raises(RunError, match="1 of 3 requests got no answer in 2 attempts.*HTTP 500"):
        generate(endpoint, tmp_path, requests(3), attempts=2)
    endpoint.plan = {}
    generate(endpoint, tmp_path, requests(3))
    assert endpoint.calls == {"q0": 1, "q1": 3, "q2": 1}


def test_nobody_listening_is_a_failed_run(endpoint, tmp_path):
    values = {"base_url": "http://127.0.0.1:9/v1", "attempts": 2}
    with pytest.raises(RunError, match="connection"):
        generate(endpoint, tmp_path, requests(2), **values)


def test_a_request_never_answered_with_text_is_given_up_for_good(endpoint, tmp_path):
    endpoint.plan = {"q1": [say(body=completion(None))]}
    lines, summary = generate(endpoint, tmp_path, requests(2), attempts=2)
    assert summary["failed"] == 1 and endpoint.calls["q1"] == 2
    assert lines[1]["error"] == {"code": "no_answer", "message": "no text in the first choice"}


def test_responses_without_text_are_not_paid_for_again_by_another_run(endpoint, tmp_path):
    endpoint.plan = {"q1": [say(body=completion(None))]}
    first = generate(endpoint, tmp_path, requests(2), attempts=2)
    assert generate(endpoint, tmp_path, requests(2), attempts=2) == first
    assert endpoint.calls == {"q0": 1, "q1": 2}
    endpoint.plan = {"q1": [say(body=completion(None))] * 3 + [say()]}
    assert generate(endpoint, tmp_path, requests(2), attempts=3)[1]["failed"] == 1
    assert endpoint.calls["q1"] == 3
    assert generate(endpoint, tmp_path, requests(2), attempts=5)[1]["failed"] == 0
    assert endpoint.calls["q1"] == 4


def test_runs_side_by_side_pay_once(endpoint, tmp_path):
    endpoint.default = [say(delay=0.1)]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(generate, endpoint, tmp_path, requests(10)) for _ in range(2)]
        one, other = (run.result() for run in runs)
    assert one == other and endpoint.calls == {f"q{n}": 1 for n in range(10)}


def test_processes_side_by_side_pay_once(endpoint, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    endpoint.default = [say(delay=0.1)]
    runs = [start(endpoint, tmp_path / name, 10, root=tmp_path) for name in ("one", "other")]
    for run in runs:
        assert run.wait(60) == 0, run.stderr.read()
    assert endpoint.calls == {f"q{n}": 1 for n in range(10)}
    written = [(tmp_path / name / "out.jsonl").read_bytes() for name in ("one", "other")]
    assert written[0] == written[1]


def test_a_run_that_waits_for_another_can_be_interrupted(endpoint, tmp_path, monkeypatch):
    def taken(_ledger, _key):
        os.kill(os.getpid(), signal.SIGINT)
        return nullcontext(False)

    monkeypatch.setattr(Ledger, "claim", taken)
    with pytest.raises(RunError, match="interrupted; 1 of 1 requests have no answer"):
        generate(endpoint, tmp_path, requests(1))
    assert endpoint.total == 0


def test_known_requests_cost_no_call_and_a_new_one_costs_one(endpoint, tmp_path):
    first, counts = generate(endpoint, tmp_path, requests(20))
    again, same = generate(endpoint, tmp_path, requests(20))
    assert (first, counts) == (again, same) and endpoint.total == 20
    generate(endpoint, tmp_path, requests(21))
    assert endpoint.total == 21


def test_failures_are_never_served(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(500)]}
    with pytest.raises(RunError, match="1 of 2 requests got no answer"):
        generate(endpoint, tmp_path, requests(2), attempts=2)
    endpoint.plan = {}
    lines, _ = generate(endpoint, tmp_path, requests(2))
    assert lines[1]["error"] is None and endpoint.calls == {"q0": 1, "q1": 3}


def test_a_refusal_of_a_request_is_final(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(400, "too_long"), say()]}
    first = generate(endpoint, tmp_path, requests(2))
    assert generate(endpoint, tmp_path, requests(2)) == first and endpoint.calls["q1"] == 1
    assert first[0][1]["error"]["code"] == "too_long"
    assert generate(endpoint, tmp_path, requests(2), backend="replay")[0] == first[0]


def test_another_sampling_is_another_request(endpoint, tmp_path):
    rows = requests(1)
    generate(endpoint, tmp_path, rows)
    rows[0]["body"]["temperature"] = 0.9
    generate(endpoint, tmp_path, rows)
    assert endpoint.total == 2


def test_replay_answers_from_the_ledger_alone(endpoint, tmp_path):
    lines, _ = generate(endpoint, tmp_path, requests(3))
    replayed, summary = generate(endpoint, tmp_path, requests(3), backend="replay")
    assert replayed == lines and endpoint.total == 3 and summary["backend"] == "replay"
    with pytest.raises(RunError, match="no answer to 2 of 5 requests"):
        generate(endpoint, tmp_path, requests(5), backend="replay")


def test_a_cap_on_calls_is_hard_and_holds_over_runs(endpoint, tmp_path):
    for _ in range(2):
        with pytest.raises(RunError, match=r"max_calls=4 reached: 4 calls.*6 of 10 requests"):
            generate(endpoint, tmp_path, requests(10), max_calls=4)
        assert endpoint.total == 4
    _, summary = generate(endpoint, tmp_path, requests(10), max_calls=10)
    assert endpoint.total == 10 and summary["answered"] == 10


def test_retries_count_against_the_cap(endpoint, tmp_path):
    endpoint.default = [error(500)]
    with pytest.raises(RunError, match="max_calls=5 reached"):
        generate(endpoint, tmp_path, requests(10), max_calls=5)
    assert endpoint.total == 5


COST = 10 * 0.001 + 5 * 0.002  # of every good answer


def test_a_cap_on_dollars_is_hard(endpoint, tmp_path):
    endpoint.default = [say(delay=0.02)]
    with pytest.raises(RunError, match=r"max_usd=0\.2 reached"):
        generate(endpoint, tmp_path, requests(50), max_usd=0.2, **PRICE)
    spent = sum(usd for *_, usd, _ in rows_of(tmp_path))
    assert spent <= 0.2 and endpoint.total * COST == pytest.approx(spent)
    assert endpoint.total >= 5  # reservations are released, not lost


def test_the_bill_is_the_answers(endpoint, tmp_path):
    endpoint.plan = {"q0": [error(500), say()]}
    _, summary = generate(endpoint, tmp_path, requests(4), max_usd=5.0, **PRICE)
    assert summary["usd"] == pytest.approx(4 * COST)


def test_a_response_without_text_is_billed_as_counted(endpoint, tmp_path):
    endpoint.plan = {"q0": [say(body=completion(None)), say()]}
    generate(endpoint, tmp_path, requests(1), max_usd=5.0, **PRICE)
    assert [usd for *_, usd, _ in rows_of(tmp_path)] == pytest.approx([COST, COST])


def test_tokens_an_endpoint_does_not_count_are_unknown(endpoint, tmp_path):
    endpoint.plan = {"q1": [say(body=completion(usage=None))]}
    _, summary = generate(endpoint, tmp_path, requests(3), **PRICE)
    assert summary["tokens"] == {"input": None, "output": None} and summary["usd"] is None


def test_a_lost_call_stays_reserved(endpoint, tmp_path):
    endpoint.plan = {"q0": [reset(), say()]}
    generate(endpoint, tmp_path, requests(1), max_usd=5.0, **PRICE)
    lost, answered = (usd for *_, usd, _ in rows_of(tmp_path))
    assert lost > answered == pytest.approx(COST)


def test_an_unknown_price_under_a_cap_makes_no_call(endpoint, tmp_path):
    with pytest.raises(InputError, match="price of 'm' is unknown"):
        generate(endpoint, tmp_path, requests(1), max_usd=1.0)
    assert endpoint.total == 0


def test_the_key_is_in_no_file(endpoint, tmp_path):
    echo = f"you sent {KEY}"
    endpoint.plan = {
        "q0": [error(500, message=echo), say()],
        "q1": [error(400, message=echo)],
        "q2": [say(body=completion(echo))],
        "q3": [say(body=f"<p>{echo}</p>".encode()), say()],
    }
    lines, _ = generate(endpoint, tmp_path, requests(5))
    (tmp_path / "out.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_a_placeholder_for_a_key_leaves_answers_as_they_came(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    endpoint.plan = {
        "q0": [say(body=completion("a local hero"))],
        "q1": [error(400, message="no local model")],
    }
    lines, _ = generate(endpoint, tmp_path, requests(2), repair=False)
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "a local hero"
    assert "no local model" in lines[1]["error"]["message"]


def test_a_short_key_is_in_no_error(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "tenletters")
    endpoint.plan = {"q1": [error(400, message="not with tenletters")]}
    lines, _ = generate(endpoint, tmp_path, requests(2))
    assert "not with ***" in lines[1]["error"]["message"]


def test_an_endpoint_without_key_is_asked_without(endpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    generate(endpoint, tmp_path, requests(1))
    assert endpoint.total == 1


def test_the_default_endpoint_needs_a_key(endpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        generate(endpoint, tmp_path, requests(1), base_url="")


def start(endpoint, tmp_path, count, root=None, **values):
    """Run the stage in a process of its own, with the ledger of the workspace `root`."""
    write_requests(tmp_path / "requests.jsonl", requests(count))
    group = {"backend": "openai", "model": "m", "base_url": endpoint.url, "concurrency": 4}
    domain.write_params(tmp_path / "params.yaml", teacher=group | values)
    environment = os.environ | {"DVC_ROOT": str(root or tmp_path), "OPENAI_API_KEY": KEY}
    command = [
        *(sys.executable, str(domain.ROOT / "stages" / "generate.py")),
        *("--params", "params.yaml", "--requests", "requests.jsonl"),
        *("--responses", "out.jsonl", "--summary", "out.json"),
    ]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )

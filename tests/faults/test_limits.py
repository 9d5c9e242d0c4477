"""What an endpoint can bear, and what may be spent on it: pace, breaker, caps."""

import sqlite3
import time
from email.utils import formatdate
from itertools import pairwise

import pytest
from tests.faults.server import KEY, at_most, completion, error, requests, reset, say, teacher

from seedtalk import teacher as layer
from seedtalk.errors import RunError
from seedtalk.teacher import limiter

pytestmark = pytest.mark.usefixtures("impatient")

PRICE = {"usd_per_million_input": 1000.0, "usd_per_million_output": 2000.0}
COST = 10 * 0.001 + 5 * 0.002  # of every good answer
BUSY = error(429, "rate_limit_exceeded")


def generate(endpoint, tmp_path, rows, **values):
    return layer.generate(rows, teacher(endpoint, **values), seed=0, cache_dir=tmp_path)


def settled(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        return db.execute("SELECT state, error, usd FROM attempts ORDER BY id").fetchall()


def longest_silence(endpoint):
    times = sorted(call["time"] for call in endpoint.seen)
    return max(later - earlier for earlier, later in pairwise(times))


ASKED = {
    "seconds": lambda: {"retry_after": "0.4"},
    "milliseconds": lambda: {"retry_after_ms": "400"},
    "both": lambda: {"retry_after_ms": "400", "retry_after": "60"},
    "a date": lambda: {"retry_after": formatdate(time.time() + 2, usegmt=True)},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("status", [429, 503, 529])
def test_all_calls_wait_as_long_as_the_endpoint_asks(endpoint, tmp_path, status, asked):
    endpoint.default = [say(delay=0.03)]

    def fault(handler):  # a date is told when the call comes
        error(status, "slow_down", **asked())(handler)

    endpoint.plan = {"q3": [fault, say()]}
    _, summary = generate(endpoint, tmp_path, requests(16), concurrency=2)
    assert summary["answered"] == 16 and endpoint.total == 17
    assert longest_silence(endpoint) > 0.3


@pytest.mark.parametrize("told", ["86400", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_without_measure_is_cut(endpoint, tmp_path, monkeypatch, told):
    monkeypatch.setattr(limiter, "LONGEST_PAUSE", 0.2)
    endpoint.plan = {"q0": [error(429, "slow", retry_after=told), say()]}
    start = time.monotonic()
    assert generate(endpoint, tmp_path, requests(2))[1]["answered"] == 2
    assert 0.15 < time.monotonic() - start < 5


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_busy_endpoint_has_not_tried_the_request(endpoint, tmp_path, status):
    endpoint.plan = {"q1": [error(status)] * 6 + [say()]}
    _, summary = generate(endpoint, tmp_path, requests(3), attempts=2)
    assert summary["answered"] == 3 and endpoint.calls["q1"] == 7


def test_a_request_the_endpoint_is_always_too_busy_for_is_given_up(endpoint, tmp_path):
    endpoint.plan = {"q1": [BUSY]}
    with pytest.raises(RunError, match="1 of 30 requests got no answer.*HTTP 429"):
        generate(endpoint, tmp_path, requests(30), attempts=2)
    assert endpoint.calls["q1"] == 10 and endpoint.total == 39


@pytest.mark.parametrize("serves", [1, 4, 16])
def test_no_row_is_lost_to_an_endpoint_that_serves_few_at_a_time(endpoint, tmp_path, serves):
    endpoint.default = [at_most(serves)]
    _, summary = generate(endpoint, tmp_path, requests(60), concurrency=32)
    assert summary["answered"] == 60
    assert endpoint.total < 60 + 60


@pytest.mark.parametrize(
    "fault",
    [BUSY, error(429, "slow", retry_after="0"), error(500), error(503), error(529), reset()],
    ids=["429", "429 at once", "500", "503", "529", "reset"],
)
def test_a_storm_without_end_is_left_after_few_calls(endpoint, tmp_path, fault):
    endpoint.default = [fault]
    with pytest.raises(RunError, match=r"failed \d+ times in a row.*500 of 500 .*is kept"):
        generate(endpoint, tmp_path, requests(500))
    assert endpoint.total < 100


def test_an_endpoint_that_comes_back_is_asked_again_by_one_probe(endpoint, tmp_path):
    for row in range(100):
        endpoint.plan[f"q{row}"] = [error(500), say()]
    _, summary = generate(endpoint, tmp_path, requests(100), concurrency=8)
    assert summary["answered"] == 100 and endpoint.total == 200


def test_what_was_answered_before_the_storm_is_not_asked_again(endpoint, tmp_path):
    endpoint.default = [error(500)]
    endpoint.plan = {f"q{row}": [say()] for row in range(50)}
    with pytest.raises(RunError, match="in a row.*50 of 100 requests have no answer"):
        generate(endpoint, tmp_path, requests(100), attempts=9, concurrency=8)
    endpoint.default = [say()]
    generate(endpoint, tmp_path, requests(100))
    assert all(endpoint.calls[f"q{row}"] == 1 for row in range(50))


def test_an_endpoint_that_refuses_everything_is_left_after_few_calls(endpoint, tmp_path):
    endpoint.default = [error(400, "unsupported_value", "temperature must be 1")]
    with pytest.raises(RunError, match="to any of the first 20 calls.*temperature must be 1"):
        generate(endpoint, tmp_path, requests(300))
    assert endpoint.total < 60


@pytest.mark.parametrize(
    "fault",
    [
        error(401, "invalid_api_key"),
        error(402),
        error(403, "unsupported_country"),
        error(404, "model_not_found"),
        error(405),
        error(407),
        error(410),
        error(429, "insufficient_quota"),
        error(429, "billing_hard_limit_reached"),
        error(400, "invalid_request_error", "Your credit balance is too low to use the API"),
        error(403, None, "this account has been suspended"),
    ],
    ids=lambda fault: None,
)
def test_what_is_wrong_with_the_account_stops_the_run_at_once(endpoint, tmp_path, fault):
    endpoint.default = [fault]
    with pytest.raises(RunError, match="50 of 50 requests have no answer"):
        generate(endpoint, tmp_path, requests(50))
    assert endpoint.total <= limiter.FIRST_WINDOW


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_policy_refuses_one_request_whatever_the_status(endpoint, tmp_path, code):
    endpoint.plan = {"q1": [error(403, code)]}
    lines, summary = generate(endpoint, tmp_path, requests(4))
    assert summary["answered"] == 3 and endpoint.total == 4
    assert lines[1]["error"]["code"] == code


def test_requests_per_minute_are_kept_to(endpoint, tmp_path):
    start = time.monotonic()
    generate(endpoint, tmp_path, requests(16), requests_per_minute=600)
    assert 0.4 < time.monotonic() - start < 5  # ten at once, then ten a second


def test_tokens_per_minute_are_kept_to(endpoint, tmp_path):
    start = time.monotonic()
    generate(endpoint, tmp_path, requests(16), tokens_per_minute=9000)  # 15 a call: ten a second
    assert 0.2 < time.monotonic() - start < 5


@pytest.mark.parametrize(
    "told",
    [
        {"x_ratelimit_limit_requests": "9", "x_ratelimit_reset_requests": "9s"},
        {"x_ratelimit_limit_requests": "9", "x_ratelimit_reset_requests": "9000ms"},
    ],
    ids=["s", "ms"],
)
def test_what_the_endpoint_states_is_kept_to(endpoint, tmp_path, told):
    """Nine seconds for nine requests: with none left, one a second."""
    endpoint.plan = {"q0": [say(x_ratelimit_remaining_requests="0", **told)]}
    endpoint.default = [say(delay=0.02)]
    generate(endpoint, tmp_path, requests(3), concurrency=1)
    assert longest_silence(endpoint) > 0.9


@pytest.mark.parametrize("value", ["", "-1", "0", "nan", "many", "1e400", "9" * 400])
def test_budgets_that_make_no_sense_are_passed_over(endpoint, tmp_path, value):
    names = ("limit", "remaining", "reset")
    kinds = ("requests", "tokens")
    told = {f"x_ratelimit_{name}_{kind}": value for name in names for kind in kinds}
    endpoint.default = [say(**told)]
    start = time.monotonic()
    assert generate(endpoint, tmp_path, requests(12))[1]["answered"] == 12
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("fault", [BUSY, error(500), reset(), say(body=completion(None))])
def test_a_cap_on_calls_holds_in_a_storm(endpoint, tmp_path, fault):
    endpoint.default = [fault]
    with pytest.raises(RunError, match="max_calls=11 reached"):
        generate(endpoint, tmp_path, requests(40), max_calls=11, concurrency=16)
    assert endpoint.total == 11
    with pytest.raises(RunError, match="max_calls=11 reached"):
        generate(endpoint, tmp_path, requests(40), max_calls=11, concurrency=16)
    assert endpoint.total == 11  # the calls of the run before count


@pytest.mark.parametrize("fault", [reset(), reset(after=40), say(delay=0.5)])
def test_a_cap_on_dollars_counts_what_got_lost(endpoint, tmp_path, fault):
    """Whether a lost call was billed nobody knows: it stays counted at the most it can cost."""
    endpoint.default = [fault]
    most = (len("s") + len("q0") + 32 + len('{"response_format": {"type": "json_object"}}')) * 1e-3
    most += 20 * 2e-3
    with pytest.raises(RunError, match=r"max_usd=0\.5 reached"):
        generate(endpoint, tmp_path, requests(40), max_usd=0.5, timeout=0.1, **PRICE)
    rows = settled(tmp_path)
    assert len(rows) == endpoint.total <= 0.5 / (most * 0.9)
    assert 0 < sum(usd for *_, usd in rows) <= 0.5


def test_a_cap_that_is_hit_in_flight_keeps_what_comes_back(endpoint, tmp_path):
    endpoint.default = [say(delay=0.1)]
    with pytest.raises(RunError, match=r"max_usd=0\.3 reached.*requests have no answer"):
        generate(endpoint, tmp_path, requests(40), max_usd=0.3, concurrency=16, **PRICE)
    states = [state for state, *_ in settled(tmp_path)]
    assert set(states) == {"received"} and len(states) == endpoint.total
    spent = sum(usd for *_, usd in settled(tmp_path))
    assert spent <= 0.3 and spent == pytest.approx(endpoint.total * COST)


def test_more_money_goes_on_where_less_stopped(endpoint, tmp_path):
    with pytest.raises(RunError, match="reached"):
        generate(endpoint, tmp_path, requests(30), max_usd=0.3, **PRICE)
    _, summary = generate(endpoint, tmp_path, requests(30), max_usd=3.0, **PRICE)
    assert endpoint.total == 30 and summary["usd"] == pytest.approx(30 * COST)


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_as_many_calls_fly_as_may_and_connections_are_used_again(endpoint, tmp_path, concurrency):
    endpoint.default = [say(delay=0.05)]
    made = []
    real = endpoint.process_request
    endpoint.process_request = lambda *told: made.append(told) or real(*told)
    generate(endpoint, tmp_path, requests(60), concurrency=concurrency)
    assert endpoint.most_open == concurrency == len(made) and endpoint.total == 60


def test_what_was_refused_costs_nothing(endpoint, tmp_path):
    endpoint.plan = {"q0": [BUSY, error(500), say()], "q1": [error(400)]}
    generate(endpoint, tmp_path, requests(3), max_usd=5.0, **PRICE)
    assert sum(usd for *_, usd in settled(tmp_path)) == pytest.approx(2 * COST)


def test_the_key_is_in_no_file_of_a_storm(endpoint, tmp_path):
    endpoint.default = [error(500, KEY, f"Bearer {KEY} {KEY[:14]}")]
    with pytest.raises(RunError) as raised:
        generate(endpoint, tmp_path, requests(100))
    assert KEY not in raised.value.message
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()

import heapq
import math
from email.utils import formatdate
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.teacher import limiter
from seedtalk.teacher.limiter import Bucket, Limiter, StoppedError


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def made(ceiling=64, clock=None, **budgets):
    return Limiter(ceiling, clock=clock or Clock(), chance=lambda: 0.5, **budgets)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": " 3 "}, 3.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-5"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 -0000"}, 40.0),
        ({"retry-after": "Thu, 32 Jan 1970 00:01:40 GMT"}, None),
        ({"retry-after": "whenever"}, None),
    ],
)
def test_retry_after_in_every_form(headers, seconds):
    assert limiter.retry_after(headers, now=60.0) == seconds


def test_a_date_is_told_against_the_clock():
    import time

    after = limiter.retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert 28 < after <= 30


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("20ms", 0.02),
        ("2m59.56s", 179.56),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
        ("500us", 0.0005),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("2000000010", 10.0),  # Unix seconds
        ("2000000010000", 10.0),  # Unix milliseconds
        ("2033-05-18T03:33:30Z", 10.0),
        ("2033-05-18T05:33:30+02:00", 10.0),
        ("2000-01-01T00:00:00Z", 0.0),
        ("2033-05-18T03:33:30", None),  # in whose time?
        ("6x", None),
        ("m", None),
        ("", None),
        ("1s later", None),
    ],
)
def test_resets_in_every_form(told, seconds):
    after = limiter.reset_after(told, now=2_000_000_000.0)
    assert after == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=40))
def test_no_header_is_a_crash(text):
    for value in (
        limiter.retry_after({"retry-after": text, "retry-after-ms": text}),
        limiter.reset_after(text),
    ):
        assert value is None or 0 <= value < math.inf


@given(st.dictionaries(st.sampled_from(["limit", "remaining", "reset"]), st.text(max_size=12)))
def test_no_statement_of_a_budget_is_a_crash(told):
    flow = made()
    headers = {f"x-ratelimit-{name}-requests": text for name, text in told.items()}
    flow.learn(headers)
    assert flow.wait(10) <= limiter.LONGEST_PAUSE


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_backoff_is_jittered_in_full_and_bounded(attempt, chance):
    wait = limiter.backoff(attempt, chance)
    bound = min(limiter.LONGEST_WAIT, limiter.FIRST_WAIT * 2.0 ** (attempt - 1))
    assert wait == pytest.approx(chance * bound)


@settings(max_examples=60)
@given(st.integers(1, 2000), st.lists(st.floats(0, 2), min_size=1, max_size=300))
def test_no_minute_holds_more_than_its_budget(limit, gaps):
    """Greedy callers with idle times between them, against a count over every minute."""
    now, times = 0.0, []
    bucket = Bucket.a_minute(limit, now)
    for gap in gaps:
        now += gap
        for _ in range(20):
            now += bucket.wait(1, now)
            bucket.spend(1, now)
            times.append(now)
    first = 0
    for last, time in enumerate(times):
        while times[first] <= time - 60 + 1e-6:
            first += 1
        assert last - first + 1 <= limit


def test_a_budget_refills_at_its_rate():
    bucket = Bucket.a_minute(600, 0.0)
    bucket.spend(10, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(60 / 590)
    assert bucket.wait(1, 60 / 590) == 0.0


def test_a_call_over_the_budget_goes_when_the_bucket_is_full_and_is_owed():
    bucket = Bucket(100, 10, 0.0)
    assert bucket.wait(1000, 0.0) == 0.0
    bucket.spend(1000, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(90.1)


def fly(flow, count):
    return [flow.start(1) for _ in range(count)]


def test_it_doubles_until_the_endpoint_pushes_back_and_then_adds_one_a_round_trip():
    flow = made(ceiling=1000)
    for window in (16, 32, 64):
        assert flow.window == window
        for ticket in fly(flow, window):
            flow.succeed(ticket)
    first, *others = fly(flow, 128)
    flow.push_back(first)
    assert flow.window == 96
    for ticket in others[:10]:  # of the same round trip
        flow.push_back(ticket)
    assert flow.window == 96
    for ticket in others[10:]:
        flow.succeed(ticket)
    flow._window, flow._busy_at = 100.0, 50.0
    for ticket in fly(flow, flow.window):
        flow.succeed(ticket)
    assert 100.9 < flow._window <= 101.0


def test_it_comes_back_fast_to_where_it_was_pushed_back_and_lingers_there():
    flow = made(ceiling=1000)
    flow._window, flow._doubling = 100.0, False
    tickets = fly(flow, 100)
    flow.push_back(tickets[0])
    for ticket in tickets[1:]:
        flow.drop(ticket)
    windows = []
    for _ in range(12):
        for ticket in fly(flow, flow.window):
            flow.succeed(ticket)
        windows.append(flow._window)
    assert windows[0] > 80 and 98 < windows[-1] < 101
    assert windows[-1] - windows[-2] < 0.3


def test_a_window_that_is_not_used_does_not_grow():
    flow = made()
    for _ in range(50):
        flow.succeed(flow.start(1))
    assert flow.window == limiter.FIRST_WINDOW


def test_the_window_holds_calls_back():
    flow = made(ceiling=2)
    first, _ = fly(flow, 2)
    assert flow.wait(1) == math.inf
    flow.succeed(first)
    assert flow.wait(1) == 0.0


@pytest.mark.parametrize("slow", [True, False])
def test_only_what_is_slow_or_busy_shrinks_the_window(slow):
    flow = made()
    flow.fail(flow.start(1), slow=slow)
    assert flow.window == (12 if slow else 16)


def test_all_calls_wait_as_long_as_the_endpoint_asks_and_no_longer_than_the_cap():
    clock = Clock()
    flow = made(clock=clock)
    one, other = fly(flow, 2)
    flow.push_back(one, 7.0)
    assert flow.wait(1) == pytest.approx(7.0)
    flow.push_back(other, 3.0)  # the longer wait stands
    clock.now += 4
    assert flow.wait(1) == pytest.approx(3.0)
    clock.now += 3
    assert flow.wait(1) == 0.0
    flow.push_back(flow.start(1), 86400.0)
    assert flow.wait(1) == pytest.approx(limiter.LONGEST_PAUSE)


def test_headers_teach_the_budget():
    clock = Clock()
    flow = made(clock=clock)
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "58s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "9.5s",
    }
    flow.learn(headers)
    assert flow.wait(500) == 0.0
    assert flow.wait(1500) == pytest.approx(1.0)  # 9,500 tokens in 9.5 s
    fly(flow, 2)
    assert flow.wait(1) == pytest.approx(1.0)  # 58 requests in 58 s
    clock.now += 1
    assert flow.wait(1) == 0.0


def test_what_is_in_flight_is_taken_off_what_remains():
    flow = made()
    fly(flow, 5)
    flow.learn({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "5"})
    assert flow.wait(1) == pytest.approx(1.0)


def test_anthropic_headers_are_understood():
    flow = made()
    flow.learn(
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2999-01-01T00:00:00Z",
        }
    )
    assert flow.wait(1) == 0.0  # nobody waits for that long: the endpoint is asked


def test_a_limit_alone_is_a_limit_a_minute():
    flow = made(ceiling=500)
    flow._window = 500.0
    flow.learn({"x-ratelimit-limit-requests": "30"})
    for _ in range(30):
        assert flow.wait(1) == 0.0
        flow.start(1)
    assert flow.wait(1) == pytest.approx(2.0)
    flow.learn({"x-ratelimit-limit-requests": "30"})  # said again, nothing is forgotten
    assert flow.wait(1) == pytest.approx(2.0)


def test_the_users_own_budget_is_kept_to_whatever_it_takes():
    clock = Clock()
    flow = made(clock=clock, requests_per_minute=1, tokens_per_minute=600)
    assert flow.wait(5) == 0.0
    flow.start(5)
    assert flow.wait(5) == pytest.approx(60.0)


def test_tokens_are_settled_by_what_the_endpoint_counted():
    clock = Clock()
    flow = made(clock=clock, tokens_per_minute=600)  # ten a second
    ticket = flow.start(10)
    assert flow.wait(10) > 0
    flow.succeed(ticket, 2)
    assert flow.wait(8) == 0.0
    flow.drop(flow.start(8))
    assert flow.wait(8) == 0.0


def test_many_failures_in_a_row_open_the_breaker_and_a_probe_closes_it():
    clock = Clock()
    flow = made(clock=clock)
    flow._window = 64.0
    tickets = fly(flow, 30)
    for ticket in tickets[: limiter.OPENS_AT]:
        flow.fail(ticket)
    assert flow.wait(1) == math.inf  # others are still in flight
    for ticket in tickets[limiter.OPENS_AT :]:
        flow.fail(ticket)
    cooling = limiter.FIRST_COOLING * limiter.FIRST_WAIT
    assert flow.wait(1) == pytest.approx(cooling)
    clock.now += cooling
    probe = flow.start(1)
    assert flow.wait(1) == math.inf  # one at a time
    flow.succeed(probe)
    assert flow.wait(1) == 0.0 and flow.window == limiter.FIRST_WINDOW


def test_probes_that_fail_come_later_each_time_and_end_the_run():
    clock = Clock()
    flow = made(ceiling=1, clock=clock)
    for _ in range(limiter.OPENS_AT):
        flow.fail(flow.start(1))
    waits = []
    for _ in range(limiter.PROBES - 1):
        waits.append(flow.wait(1))
        clock.now += waits[-1]
        flow.fail(flow.start(1))
    assert all(later >= earlier for earlier, later in pairwise(waits))
    assert sum(waits) >= 60  # a budget a minute may be whole again
    clock.now += flow.wait(1)
    failures = limiter.OPENS_AT + limiter.PROBES
    with pytest.raises(StoppedError, match=f"failed {failures} times in a row"):
        flow.fail(flow.start(1))


def test_a_success_between_keeps_the_breaker_closed():
    flow = made(ceiling=1)
    for _ in range(3):
        for _ in range(limiter.OPENS_AT - 1):
            flow.fail(flow.start(1))
        flow.succeed(flow.start(1))
    assert flow.wait(1) == 0.0


def test_a_probe_that_was_not_sent_does_not_count():
    clock = Clock()
    flow = made(ceiling=1, clock=clock)
    for _ in range(limiter.OPENS_AT):
        flow.fail(flow.start(1))
    for _ in range(3 * limiter.PROBES):
        clock.now += 1000
        flow.drop(flow.start(1))
    flow.fail(flow.start(1))


def test_a_round_of_push_backs_is_one_piece_of_news():
    flow = made()
    flow._window = 64.0
    for ticket in fly(flow, 64):
        flow.push_back(ticket)
    assert flow.wait(1) == 0.0


def test_an_endpoint_that_refuses_everything_is_left():
    flow = made(ceiling=1)
    for _ in range(limiter.OPENS_AT - 1):
        flow.refuse(flow.start(1))
        flow.disappointed()
    flow.refuse(flow.start(1))
    with pytest.raises(StoppedError, match="no answer to any of the first 20 calls"):
        flow.disappointed()
    other = made(ceiling=1)
    other.succeed(other.start(1))
    other.answered()
    for _ in range(5 * limiter.OPENS_AT):
        other.refuse(other.start(1))
        other.disappointed()


def test_responses_without_text_are_no_answers():
    flow = made(ceiling=1)
    for _ in range(limiter.OPENS_AT - 1):
        flow.succeed(flow.start(1))
        flow.disappointed()
    flow.succeed(flow.start(1))
    with pytest.raises(StoppedError, match="no answer to any"):
        flow.disappointed()


CALLS = st.lists(
    st.tuples(st.sampled_from("ssssbtfrd"), st.integers(0, 9), st.floats(0, 3)), max_size=200
)


@given(st.integers(1, 40), CALLS)
def test_whatever_happens_the_window_stays_in_its_bounds(ceiling, events):
    clock = Clock()
    flow = made(ceiling=ceiling, clock=clock)
    flying = []
    try:
        for what, which, gap in events:
            clock.now += gap
            while flow.wait(5) == 0.0:
                flying.append(flow.start(5))
            assert 1 <= flow.window <= ceiling and flow.in_flight == len(flying) <= ceiling
            if not flying:
                continue
            ticket = flying.pop(which % len(flying))
            before = flow._window
            if what == "s":
                flow.succeed(ticket)
                assert flow._window >= before
            elif what == "b":
                flow.push_back(ticket, gap)
            elif what in "tf":
                flow.fail(ticket, slow=what == "t")
            elif what == "r":
                flow.refuse(ticket)
            else:
                flow.drop(ticket)
            assert what in "sb" or flow._window <= max(before, limiter.FIRST_WINDOW)
    except StoppedError:
        pass


def simulated(count, serves, ceiling, latency=0.2, fault=None):
    """Run `count` requests at an endpoint that serves so many at a time; seconds and refusals."""
    clock = Clock()
    flow = made(ceiling=ceiling, clock=clock)
    begin, events, serving, refused, order = clock.now, [], 0, 0, 0
    fresh, late, done = count, [], 0
    while done < count:
        while (fresh or (late and late[0][0] <= clock.now)) and flow.wait(1) == 0.0:
            attempt = 1
            if late and late[0][0] <= clock.now:
                _, attempt = heapq.heappop(late)
            else:
                fresh -= 1
            served = serving < serves
            serving += served
            order += 1
            when = clock.now + (latency if served else 0.002)
            heapq.heappush(events, (when, order, flow.start(1), served, attempt))
        times = [events[0][0]] if events else []
        if flow.wait(1) < math.inf and (fresh or late):
            due = clock.now if fresh else late[0][0]
            times.append(max(due, clock.now + max(1e-6, flow.wait(1))))
        clock.now = min(times)
        while events and events[0][0] <= clock.now:
            _, _, ticket, served, attempt = heapq.heappop(events)
            if served:
                serving -= 1
                done += 1
                flow.succeed(ticket)
            else:
                refused += 1
                flow.push_back(ticket)
                heapq.heappush(late, (clock.now + flow.retry_in(attempt), attempt + 1))
    return clock.now - begin, refused


@pytest.mark.parametrize("ceiling", [64, 100, 256])
def test_it_finds_what_an_endpoint_can_bear(ceiling):
    seconds, refused = simulated(2000, 64, ceiling)
    assert seconds < 1.2 * 2000 / 64 * 0.2
    assert refused < 120


def test_an_endpoint_that_serves_one_at_a_time_is_not_stormed():
    seconds, refused = simulated(100, 1, 64)
    assert seconds < 1.1 * 100 * 0.2 and refused < 70

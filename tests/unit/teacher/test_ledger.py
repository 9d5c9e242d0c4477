import asyncio
import hashlib
import json
import multiprocessing
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import RunError
from seedtalk.teacher.answers import Usage
from seedtalk.teacher.ledger import VERSION, Ledger, Spent, endpoint_of, request_key, schema, upkeep
from seedtalk.teacher.ledger.schema import COLUMNS, seal

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
FREE = {"body": BODY, "max_calls": 0, "max_usd": 0.0}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def reserve(ledger, key="k", usd=0.0, **caps):
    return ledger.reserve(key, "e", "m", usd, **(FREE | caps))


def answer(text="an answer", **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return json.dumps({"choices": [choice]} | more)


def ask(ledger, body, raw=None, usd=0.0, endpoint="e"):
    """Ask a request under its real key; settle it where an answer is given."""
    key = request_key("openai", endpoint, body)
    row = ledger.reserve(key, endpoint, body["model"], usd, body=body, max_calls=0, max_usd=0.0)
    if raw is not None:
        ledger.receive(row, raw)
    return key, row


def test_a_key_hangs_on_everything_that_is_asked_and_on_who_is_asked():
    key = request_key("openai", "e", BODY)
    assert key == request_key("openai", "e", dict(reversed(BODY.items())))
    others = [
        request_key("batch", "e", BODY),
        request_key("openai", "f", BODY),
        request_key("openai", "e", BODY | {"temperature": 0.6}),
        request_key("openai", "e", BODY | {"model": "n"}),
        request_key("openai", "e", BODY | {"messages": []}),
    ]
    assert len({key, *others}) == 6


def test_keys_are_those_of_the_first_version():
    # Answers paid for long ago are found by these.
    text = (
        '{"backend":"openai","body":{"messages":[{"content":"hi","role":"user"}],"model":"m",'
        '"temperature":0.5},"endpoint":"e"}'
    )
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert request_key("openai", "e", BODY) == expected


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://user:pass@host:1/v1/?key=x#y", "http://host:1/v1"),
        ("https://host/v1", "https://host/v1"),
        ("", "default"),
    ],
)
def test_an_endpoint_holds_no_credentials(url, endpoint):
    assert endpoint_of(url) == endpoint


def test_what_was_received_is_found_again_latest_first(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for body in ("one", "two"):
            ledger.receive(reserve(ledger), body)
        ledger.fail(reserve(ledger), "500", 0.0)
        reserve(ledger)  # still in flight
    with Ledger(tmp_path / "l.sqlite") as again:
        assert list(again.received("k")) == ["two", "one"]
        assert list(again.received("other")) == []


@pytest.mark.parametrize(
    "body", ["", "a\0b", "\u202eright to left", "🎬" * 3, "x" * 3_000_000, '{"a": "\\ud83d"}']
)
def test_a_response_is_kept_as_it_came(ledger, body):
    ledger.receive(reserve(ledger), body)
    assert list(ledger.received("k")) == [body]


def test_half_of_a_surrogate_pair_is_kept_as_a_question_mark(ledger):
    ledger.receive(reserve(ledger), "a\ud83db")
    assert list(ledger.received("k")) == ["a?b"]


def test_the_request_is_kept_once_as_json(ledger):
    for _ in range(2):
        reserve(ledger, body={"model": "m", "messages": ["\ud83d\0\u202e"], "n": 1})
    rows = list(ledger.rows("SELECT backend, endpoint, model, body FROM requests"))
    body = '{"messages":["\\ud83d\\u0000\\u202e"],"model":"m","n":1}'
    assert rows == [("openai", "e", "m", body)]


def test_usage_and_cost_are_kept_with_the_answer(ledger):
    ledger.scope(["k"])
    ledger.receive(reserve(ledger, usd=2.0), "x", 0.5, Usage(10, None))
    ledger.receive(reserve(ledger, usd=2.0), "y", usage=Usage(1, 2))
    found = list(ledger.rows("SELECT usd, input_tokens, output_tokens FROM attempts ORDER BY id"))
    assert found == [(0.5, 10, None), (2.0, 1, 2)]
    assert ledger.spent() == Spent(2, 2.5)


# What each column becomes when it is damaged.
DAMAGE = {
    "body": "'an answex'",
    "key": "'l'",
    "attempt": "7",
    "endpoint": "'f'",
    "model": "'n'",
    "error": "'x'",
    "usd": "0.25",
    "input_tokens": "11",
    "output_tokens": "NULL",
    "created": "created + 1",
    "batch": "'t'",
    "digest": "CASE substr(digest, 1, 1) WHEN '0' THEN '1' ELSE '0' END || substr(digest, 2)",
}


@pytest.mark.parametrize("column", DAMAGE)
def test_a_damaged_row_is_no_answer_but_was_paid_for(ledger, column):
    ledger.receive(reserve(ledger, usd=0.5), "an answer", usage=Usage(10, 5))
    with closing(sqlite3.connect(ledger.path)) as other, other:
        other.execute(f"UPDATE attempts SET {column} = {DAMAGE[column]}")
    assert [*ledger.received("k"), *ledger.received("l")] == []
    ledger.scope(["k", "l"])
    assert ledger.spent() == Spent(1, 0.25 if column == "usd" else 0.5)
    assert any("row 1" in fault and "digest" in fault for fault in upkeep.faults(ledger))


def test_every_state_is_under_a_seal(ledger):
    for settle in (
        None,
        lambda row: ledger.receive(row, "x"),
        lambda row: ledger.fail(row, "e", 0),
    ):
        row = reserve(ledger)
        if settle:
            settle(row)
    ledger.price(1, 0.5)
    assert [attempt.whole for attempt in upkeep.attempts(ledger)] == [True] * 3
    with closing(sqlite3.connect(ledger.path)) as other, other:
        other.execute("UPDATE attempts SET state = 'received' WHERE id != 2")
    assert [attempt.whole for attempt in upkeep.attempts(ledger)] == [False, True, False]


@given(
    st.lists(st.one_of(st.none(), st.text(), st.integers(), st.floats(allow_nan=False)), max_size=6)
)
def test_a_seal_keeps_the_borders_of_its_columns(values):
    changed = [*values, None]
    assert seal(values) == seal(list(values)) != seal(changed)
    if len(values) > 1 and isinstance(values[0], str) and isinstance(values[1], str):
        joined = [values[0] + values[1][:1], values[1][1:], *values[2:]]
        assert (seal(joined) == seal(values)) == (joined == values)


def test_a_settled_row_that_is_gone_is_an_error(ledger):
    with pytest.raises(RunError, match="row 9 of an attempt under way is gone"):
        ledger.receive(9, "x")


def test_spending_counts_the_run_alone_and_what_is_in_flight(ledger):
    ledger.scope(["a", "b"])
    ledger.price(reserve(ledger, "a", 1.0), 0.25)
    reserve(ledger, "b", 2.0)
    ledger.fail(reserve(ledger, "b", 4.0), "429", 0.0)
    ledger.fail(reserve(ledger, "b", 8.0), "lost", None)
    reserve(ledger, "c", 16.0)
    assert ledger.spent() == Spent(4, 10.25)
    ledger.scope(["c"])
    assert ledger.spent() == Spent(1, 16.0)


def test_caps_refuse_and_record_nothing(ledger):
    ledger.scope(["a"])
    assert reserve(ledger, "a", 0.6, max_usd=1.0)
    assert reserve(ledger, "a", 0.6, max_usd=1.0) is None
    assert reserve(ledger, "a", 0.4, max_usd=1.0)
    assert reserve(ledger, "a", 0.0, max_calls=2) is None
    assert ledger.spent() == Spent(2, 1.0)


def test_fractions_of_a_cent_add_up_exactly(ledger):
    ledger.scope(["a"])
    rows = [reserve(ledger, "a", 0.1, max_usd=1.0) for _ in range(11)]
    assert all(rows[:10]) and rows[10] is None  # 0.1 ten times is 0.9999999999999999 in floats
    for row in rows[:10]:
        ledger.price(row, 3.75e-8)
    assert ledger.spent() == Spent(10, 3.75e-7)


class Model:
    """What a ledger should say of its spending: a list that is added up each time."""

    def __init__(self):
        self.rows, self.scope = [], set()

    def spent(self):
        mine = [usd for key, usd in self.rows if key in self.scope]
        return Spent(len(mine), sum(round(usd * 1e12) for usd in mine) / 1e12)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_running_sums_are_those_of_a_scan_whoever_writes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("sums") / "l.sqlite"
    model = Model()
    usd = st.sampled_from([0.0, 0.1, 0.25, 1e-7])
    with Ledger(path) as one, Ledger(path) as other:
        for _ in range(data.draw(st.integers(1, 20))):
            writer = data.draw(st.sampled_from([one, other]))
            steps = ["reserve", "settle", "scope", "widen", "gc", "withdraw"]
            step = data.draw(st.sampled_from(steps))
            if step == "reserve":
                key, cost = data.draw(st.sampled_from("abc")), data.draw(usd)
                assert reserve(writer, key, cost) == len(model.rows) + 1
                model.rows.append((key, cost))
            elif step == "settle" and model.rows:
                row = data.draw(st.integers(1, len(model.rows)))
                if not [*writer.rows("SELECT 1 FROM attempts WHERE id = ?", row)]:
                    continue  # collected
                cost = data.draw(usd)
                writer.fail(row, "no", cost)
                model.rows[row - 1] = (model.rows[row - 1][0], cost)
            elif step == "scope":
                model.scope = data.draw(st.sets(st.sampled_from("abc")))
                for each in (one, other):
                    each.scope(model.scope)
            elif step == "widen":
                key = data.draw(st.sampled_from("abc"))
                model.scope = model.scope | {key}
                for each in (one, other):
                    each.widen(key)
            elif step == "gc":
                upkeep.collect(writer, keep=None, failed=True, older_than=None, dry_run=False)
            elif step == "withdraw" and model.rows:
                row = data.draw(st.integers(1, len(model.rows)))
                if [*writer.rows("SELECT 1 FROM attempts WHERE id = ? AND state = 'sent'", row)]:
                    model.rows[row - 1] = ("", 0.0)  # in no scope: it was no call
                writer.withdraw([row])
            assert one.spent() == other.spent() == model.spent()


def test_a_run_far_behind_adds_up_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "_TABLES", schema._TABLES.replace("- 10000", "- 5"))
    with Ledger(tmp_path / "l.sqlite") as one, Ledger(tmp_path / "l.sqlite") as other:
        one.scope(["k"])
        for _ in range(20):
            reserve(other, usd=0.5)
        assert one.spent() == Spent(20, 10.0)
        ((kept,),) = one.rows("SELECT count(*) FROM changes")
        assert kept == 5


def test_spending_is_known_without_a_scan(tmp_path):
    """Steps of SQLite's machine for a reservation, after 100 and after 5,000 attempts."""

    def steps(count):
        with Ledger(tmp_path / f"{count}.sqlite") as ledger:
            keys = [str(n) for n in range(count)]
            ledger.scope(keys)
            with ledger.transaction():
                for key in keys:
                    reserve(ledger, key, 1.0)
            ledger.spent()
            ticks = []
            ledger.db.set_progress_handler(lambda: ticks.append(1) and None, 10)
            reserve(ledger, "7", 1.0, max_usd=1e9, max_calls=10**9)
            return len(ticks)

    assert steps(5000) < 2 * steps(100)


def test_a_block_is_kept_whole_or_not_at_all(ledger):
    ledger.scope(["k"])
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        reserve(ledger, usd=1.0)
        assert ledger.spent() == Spent(1, 1.0)
        _ = 1 / 0
    assert ledger.spent() == Spent(0, 0.0)
    with ledger.transaction():
        with ledger.transaction():
            reserve(ledger, usd=1.0)
        reserve(ledger, usd=2.0)
    assert ledger.spent() == Spent(2, 3.0)


def test_batches_are_recorded_changed_and_found_while_open(ledger):
    lines = [("q0", "k", 1), ("q1", "l", 2)]
    ledger.record_batch("t1", endpoint="e", state="uploaded", file_id="f", lines=lines)
    ledger.record_batch("t2", endpoint="other", state="uploaded", lines=[])
    (found,) = ledger.open_batches("e")
    assert (found.token, found.state, found.file_id, found.lines) == ("t1", "uploaded", "f", lines)
    ledger.record_batch("t1", state="created", batch_id="b")
    (again,) = ledger.open_batches("e")
    assert (again.batch_id, again.file_id, again.created) == ("b", "f", found.created)
    ledger.record_batch("t1", state="done")
    assert ledger.open_batches("e") == []
    with pytest.raises(RunError, match="cannot be read or written"):
        ledger.record_batch("t3", state="uploaded")


def test_a_batch_whose_lines_are_damaged_stops_the_run(ledger):
    ledger.record_batch("t1", endpoint="e", state="uploaded", lines=[("q0", "k", 1)])
    with closing(sqlite3.connect(ledger.path)) as other, other:
        other.execute("UPDATE batches SET lines = '[['")
    with pytest.raises(RunError, match=r"damaged.*ledger mend"):
        ledger.open_batches("e")


def _write(path, writer):
    with Ledger(path) as ledger:
        ledger.scope([str(n) for n in range(200)])
        taken = 0
        for number in range(60):
            row = reserve(ledger, str(number), 0.01, max_calls=100)
            if row is not None:
                ledger.receive(row, f"{writer}-{number}")
                taken += 1
    raise SystemExit(taken)


def _write_many(path, writer):
    """Reserve 0.02 a call under a shared cap of 1.00, settle at 0.01: 64 tasks at a time."""

    async def work(ledger):
        taken = 0

        async def one(number):
            nonlocal taken
            row = await group.reserve(
                str(number), "e", "m", 0.02, body=BODY, max_calls=0, max_usd=1.0
            )
            if row is not None:
                taken += 1
                assert ledger.spent().usd <= 1.0
                await group.receive(row, f"{writer}-{number}", 0.01)

        async with ledger.writer() as group:
            await asyncio.gather(*(one(number) for number in range(100)))
        return taken

    with Ledger(path) as ledger:
        ledger.scope([str(n) for n in range(200)])
        raise SystemExit(asyncio.run(work(ledger)))


def race(target, path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=target, args=(path, w)) for w in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    return [writer.exitcode for writer in writers]


def test_two_writers_lose_nothing_and_share_the_cap(tmp_path):
    path = tmp_path / "l.sqlite"
    assert sum(race(_write, path)) == 100
    with closing(sqlite3.connect(path)) as db, db:
        count, attempts = db.execute("SELECT count(*), max(attempt) FROM attempts").fetchone()
    assert (count, attempts) == (100, 2)


def test_two_group_writers_never_pass_a_shared_cap_in_dollars(tmp_path):
    path = tmp_path / "l.sqlite"
    codes = race(_write_many, path)
    with Ledger(path) as ledger:
        ledger.scope([str(n) for n in range(200)])
        spent = ledger.spent()
        assert spent.calls == sum(codes) >= 50 and spent.usd <= 1.0
        assert spent.usd == pytest.approx(spent.calls * 0.01)
        assert all(attempt.whole for attempt in upkeep.attempts(ledger))


def group(ledger, work):
    async def run():
        async with ledger.writer() as writer:
            return await work(writer)

    return asyncio.run(run())


def test_calls_in_flight_share_commits(ledger):
    commits = []
    ledger.db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    async def work(writer):
        async def one(number):
            row = await writer.reserve(str(number), "e", "m", 0.5, **FREE)
            await writer.receive(row, f"r{number}", 0.25, Usage(1, 2))

        await asyncio.gather(*(one(number) for number in range(200)))

    group(ledger, work)
    assert len(commits) <= 60
    ledger.db.set_trace_callback(None)
    assert all(list(ledger.received(str(n))) == [f"r{n}"] for n in range(200))
    ledger.scope(str(n) for n in range(200))
    assert ledger.spent() == Spent(200, 50.0)


def test_a_change_is_durable_before_it_is_awaited(ledger):
    async def work(writer):
        with closing(sqlite3.connect(ledger.path)) as other, other:
            row = await writer.reserve("k", "e", "m", 0.0, **FREE)
            assert other.execute("SELECT state FROM attempts").fetchall() == [("sent",)]
            await writer.receive(row, "x")
            assert other.execute("SELECT body FROM attempts").fetchall() == [("x",)]
            await writer.fail(await writer.reserve("k", "e", "m", 0.0, **FREE), "no", None)
            assert other.execute("SELECT count(*) FROM attempts").fetchone() == (2,)

    group(ledger, work)


def test_a_commit_does_not_hold_up_the_loop(ledger, tmp_path):
    """Another process holds the file for 0.3 s; the loop goes on turning."""
    held = threading.Event()

    def hold():
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other, other:
            other.execute("BEGIN IMMEDIATE")
            held.set()
            time.sleep(0.3)
            other.execute("ROLLBACK")

    async def work(writer):
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        waiting = asyncio.ensure_future(writer.reserve("k", "e", "m", 0.0, **FREE))
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.005)
            assert list(ledger.received("k")) == []  # reads go on too
            turns += 1
        thread.join()
        return turns, await waiting

    turns, row = group(ledger, work)
    assert turns > 15 and row == 1


def test_caps_hold_within_a_group(ledger):
    ledger.scope(["k"])

    async def work(writer):
        asks = (writer.reserve("k", "e", "m", 0.3, **FREE | {"max_usd": 1.0}) for _ in range(20))
        return await asyncio.gather(*asks)

    rows = group(ledger, work)
    assert sum(row is not None for row in rows) == 3 and ledger.spent() == Spent(3, 0.9)


def test_one_bad_change_of_a_group_leaves_the_others(ledger):
    async def work(writer):
        changes = [writer.reserve("k", "e", "m", 0.0, **FREE), writer.receive(99, "x")]
        return await asyncio.gather(*changes, return_exceptions=True)

    row, error = group(ledger, work)
    assert row == 1 and isinstance(error, RunError)


def test_a_change_no_file_takes_ends_in_an_error_and_harms_no_other(ledger):
    async def work(writer):
        rows = [await writer.reserve(str(n), "e", "m", 0.0, **FREE) for n in range(4)]
        changes = [
            writer.receive(rows[0], "a"),
            writer.reserve("k", "e", "m", 0.0, **FREE | {"body": {"a": object()}}),
            writer.receive(rows[1], "b"),
            writer.fail(10**30, "no such row", None),
            writer.receive(rows[2], "c"),
        ]
        return await asyncio.gather(*changes, return_exceptions=True)

    results = group(ledger, work)
    assert [type(result) for result in results] == [
        type(None),
        TypeError,
        type(None),
        OverflowError,
        type(None),
    ]
    assert [list(ledger.received(str(n))) for n in range(4)] == [["a"], ["b"], ["c"], []]


@pytest.mark.parametrize("usd", [float("inf"), float("nan"), 1e300, -5.0])
def test_an_endpoint_that_counts_nonsense_does_not_break_the_sums(ledger, usd):
    ledger.scope(["k"])
    for _ in range(20):
        ledger.receive(reserve(ledger, usd=1.0), "x", usd, Usage(10**30, 7))
    assert ledger.spent() == Spent(20, 0.0 if usd < 0 else 20_000.0)
    ledger.scope(["k"])
    assert ledger.spent() == Spent(20, 0.0 if usd < 0 else 20_000.0)
    assert set(ledger.rows("SELECT input_tokens, output_tokens FROM attempts")) == {(None, 7)}
    assert reserve(ledger, usd=usd, max_usd=1e6)


def test_names_that_no_file_can_hold_are_stored_all_the_same(ledger):
    body = BODY | {"model": "a\ud83d"}
    key = request_key("openai", "e", body)
    row = ledger.reserve(key, "e", body["model"], 0.0, body=body, max_calls=0, max_usd=0.0)
    ledger.fail(row, "\ud83d", None)
    assert list(ledger.rows("SELECT model, error FROM attempts")) == [("a?", "?")]
    assert list(upkeep.faults(ledger)) == []


def test_a_cancelled_task_still_has_its_answer_kept(ledger):
    async def work(writer):
        row = await writer.reserve("k", "e", "m", 0.0, **FREE)
        task = asyncio.ensure_future(writer.receive(row, "paid for"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    group(ledger, work)
    assert list(ledger.received("k")) == ["paid for"]


def test_a_writer_takes_nothing_once_it_is_closed(ledger):
    async def run():
        async with ledger.writer() as writer:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await writer.fail(1, "x", 0.0)

    asyncio.run(run())


def test_a_claim_is_held_by_one_alone(ledger):
    with Ledger(ledger.path) as other:
        with (
            ledger.claim("abc1") as mine,
            other.claim("abc1") as its,
            ledger.claim("abc1") as twice,
        ):
            assert (mine, its, twice) == (True, False, False)
        with other.claim("abc1") as its:
            assert its


def test_keys_of_one_lock_file_do_not_wait_for_each_other_in_a_process(ledger):
    with Ledger(ledger.path) as other:
        with ledger.claim("abc1") as mine, ledger.claim("abc2") as also:
            assert mine and also
        with other.claim("abc3") as its, ledger.claim("abc1") as mine:
            assert its and not mine
        first, second = ledger.claim("abc1"), ledger.claim("abc2")
        assert first.__enter__() and second.__enter__()
        first.__exit__(None, None, None)
        with other.claim("abc1") as its:
            assert not its  # the file is still held for abc2
        second.__exit__(None, None, None)
        with other.claim("abc1") as its:
            assert its


def test_a_claim_that_cannot_be_locked_stops_the_run(ledger):
    (ledger.path.parent / "ledger.sqlite.locks").write_text("a file in the folder's place")
    with pytest.raises(RunError, match="cannot be locked"), ledger.claim("abc"):
        pass


def test_it_survives_the_machine(ledger):
    read = ledger.db.execute
    assert read("PRAGMA journal_mode").fetchone() == ("wal",)
    assert read("PRAGMA synchronous").fetchone() == (2,)


V1 = """
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER NOT NULL,
    endpoint TEXT NOT NULL, model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'received', 'failed')),
    body TEXT, digest TEXT, error TEXT, usd REAL NOT NULL, UNIQUE (key, attempt)
);
CREATE INDEX attempts_key ON attempts (key, state);
PRAGMA user_version=1;
"""


def first_version(path, count=3):
    """Write a ledger as version 1 did: answers, one of them damaged, a failure, a lost call."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(V1)
    for n in range(count):
        body = answer(f"old {n}", usage={"prompt_tokens": n, "completion_tokens": 2})
        digest = hashlib.sha256(body.encode()).hexdigest()
        row = (f"k{n}", 1, "e", "m", "received", body, digest, None, 0.5)
        db.execute("INSERT INTO attempts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    others = [
        (
            "bad",
            1,
            "e",
            "m",
            "received",
            "flipqed",
            hashlib.sha256(b"flipped").hexdigest(),
            None,
            1.0,
        ),
        ("k0", 2, "e", "m", "failed", None, None, "500: no", 0.25),
        ("k1", 2, "e", "m", "sent", None, None, None, 0.125),
    ]
    for row in others:
        db.execute("INSERT INTO attempts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()


def test_an_older_file_is_brought_up_to_date(tmp_path):
    path = tmp_path / "l.sqlite"
    first_version(path)
    columns = "id, key, attempt, endpoint, model, state, body, error, usd"
    kept = f"SELECT {columns} FROM attempts ORDER BY id"
    with closing(sqlite3.connect(path)) as db, db:
        before = db.execute(kept).fetchall()
    with Ledger(path) as ledger:
        assert list(ledger.rows(kept)) == before
        assert list(ledger.received("k1")) == [before[1][6]]
        assert list(ledger.received("bad")) == []
        ledger.scope(["k0", "k1", "k2", "bad"])
        assert ledger.spent() == Spent(6, 2.875)
        assert [a.whole for a in upkeep.attempts(ledger)] == [True] * 3 + [False] + [True] * 2
        assert list(ledger.rows("PRAGMA user_version")) == [(VERSION,)]
        assert list(
            ledger.rows("SELECT input_tokens, output_tokens FROM attempts WHERE id = 2")
        ) == [(1, 2)]
        assert list(ledger.rows("SELECT count(*) FROM requests")) == [(4,)]
        assert [fault for fault in upkeep.faults(ledger) if "row 4 " not in fault] == []
        ledger.receive(6, "late")  # a row keeps its id
        assert list(ledger.received("k1")) == ["late", before[1][6]]
        assert reserve(ledger, "k1", body=BODY) == 7
        assert list(ledger.rows("SELECT 1 FROM requests WHERE key = 'k1' AND body NOT NULL"))
    with Ledger(path) as again:
        assert len(list(again.received("k1"))) == 2


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "l.sqlite"
    first_version(path)

    def broken(_values):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch, pytest.raises(RunError):
        patch.setattr(schema, "seal", broken)
        Ledger(path)
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM attempts").fetchone() == (6,)
    with Ledger(path) as ledger:
        assert list(ledger.received("k2"))


def _open(path, _writer):
    with Ledger(path) as ledger:
        raise SystemExit(len(list(ledger.received("k1"))))


def test_two_processes_bring_a_file_up_to_date_once(tmp_path):
    first_version(tmp_path / "l.sqlite", count=500)
    assert race(_open, tmp_path / "l.sqlite") == [1, 1]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert list(ledger.rows("SELECT count(*) FROM attempts")) == [(503,)]


def test_a_newer_or_foreign_file_is_refused(tmp_path):
    with closing(sqlite3.connect(tmp_path / "new.sqlite")) as db, db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(RunError, match=r"newer seedtalk \(ledger version 99, this one reads 2\)"):
        Ledger(tmp_path / "new.sqlite")
    with closing(sqlite3.connect(tmp_path / "mlflow.sqlite")) as db, db:
        db.execute("CREATE TABLE runs (id)")
    before = (tmp_path / "mlflow.sqlite").read_bytes()
    with pytest.raises(RunError, match="no ledger of seedtalk"):
        Ledger(tmp_path / "mlflow.sqlite")
    with closing(sqlite3.connect(tmp_path / "mlflow.sqlite")) as db, db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]
    assert len((tmp_path / "mlflow.sqlite").read_bytes()) == len(before)
    (tmp_path / "text.sqlite").write_text("no database at all, just a longer line of text" * 9)
    with pytest.raises(RunError, match="the file is damaged.*ledger mend"):
        Ledger(tmp_path / "text.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"):
        Ledger(tmp_path / "file" / "l.sqlite")


# --- upkeep -------------------------------------------------------------------------------


def body_of(text, **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | more


def test_statistics_count_by_endpoint_and_model(ledger):
    for n in range(3):
        _, row = ask(ledger, body_of(f"a{n}"), usd=1.0)
        ledger.receive(row, answer(), 0.25, Usage(10, 5))
    ledger.fail(ask(ledger, body_of("a0"), usd=1.0)[1], "500", None)
    ask(ledger, body_of("b", model="n"), usd=2.0, endpoint="f")
    with closing(sqlite3.connect(ledger.path)) as other, other:
        other.execute("UPDATE attempts SET body = 'x' WHERE id = 3")
    ledger.record_batch("t", endpoint="e", state="created", lines=[])
    found = upkeep.statistics(ledger)
    assert found.pop("bytes") == upkeep.size(ledger.path) > 0
    zero = dict.fromkeys(
        ("answered", "received", "failed", "damaged", "input_tokens", "output_tokens"), 0
    )
    assert found == {
        "version": VERSION,
        "calls": 5,
        "usd": 3.75,
        "damaged": 1,
        "open_batches": 1,
        "models": [
            {
                "endpoint": "e",
                "model": "m",
                "requests": 3,
                "answered": 2,
                "attempts": 4,
                "received": 2,
                "failed": 1,
                "sent": 0,
                "damaged": 1,
                "input_tokens": 20,
                "output_tokens": 10,
                "usd": 1.75,
            },
            {"endpoint": "f", "model": "n", "requests": 1, "attempts": 1, "sent": 1, "usd": 2.0}
            | zero,
        ],
    }


def test_answers_are_the_latest_with_text_by_key(ledger):
    keys = [ask(ledger, body_of(f"q{n}"), answer(f"a{n}"))[0] for n in range(5)]
    ask(ledger, body_of("q0"), answer("newer"))
    ask(ledger, body_of("q1"), answer(None))  # no text: the earlier one stands
    ask(ledger, body_of("q9"), answer(None))
    ask(ledger, body_of("other", model="n"), answer("of n"))
    found = list(upkeep.answers(ledger, "m"))
    assert [line["key"] for line in found] == sorted(keys)
    texts = {
        line["body"]["messages"][0]["content"]: line["response"]["choices"][0]["message"]["content"]
        for line in found
    }
    assert texts == {"q0": "newer", "q1": "a1", "q2": "a2", "q3": "a3", "q4": "a4"}
    assert {line["model"] for line in upkeep.answers(ledger, None)} == {"m", "n"}


def test_faults_name_the_rows(ledger):
    keys = [ask(ledger, body_of(f"q{n}"), answer())[0] for n in range(4)]
    ledger.record_batch("whole", endpoint="e", state="done", lines=[["q0", keys[0], 1]])
    assert list(upkeep.faults(ledger)) == []
    ledger.record_batch("lost", endpoint="e", state="running", lines=[["q0", keys[0], 77]])
    ledger.record_batch("over", endpoint="e", state="done", lines=[["q0", keys[0], 77]])
    ledger.record_batch("torn", endpoint="e", state="done", lines=[])
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("UPDATE batches SET lines = '[[1' WHERE token = 'torn'")
        db.execute("UPDATE attempts SET body = 'x' WHERE id = 2")
        db.execute("UPDATE requests SET body = '{}' WHERE key = ?", (keys[2],))
        db.execute("DELETE FROM requests WHERE key = ?", (keys[3],))
    assert list(upkeep.faults(ledger)) == [
        f"attempts, row 2 (request {keys[1]}): does not fit its digest; it counts as spent, its "
        "request is asked again",
        f"attempts, row 4 (request {keys[3]}): no such request",
        f"requests, row {keys[2]}: does not fit its key",
        "batches, row lost: 1 of its attempts are missing",
        "batches, row torn: its lines cannot be read",
    ]


def collect(ledger, **options):
    given = {"keep": None, "failed": False, "older_than": None, "dry_run": False}
    return upkeep.collect(ledger, **given | options)


def aged(ledger, row, days):
    """Let an attempt be made some days ago."""
    names = ", ".join(COLUMNS)
    ((*values,),) = ledger.rows(f"SELECT {names} FROM attempts WHERE id = ?", row)
    values[COLUMNS.index("created")] -= days * 86400
    with ledger.transaction():
        ledger.db.execute(
            "UPDATE attempts SET created = ?, digest = ? WHERE id = ?",
            (values[COLUMNS.index("created")], seal(values), row),
        )


def rows(ledger):
    return [row for (row,) in ledger.rows("SELECT id FROM attempts ORDER BY id")]


@pytest.fixture
def stocked(ledger):
    """Rows 1 to 4: answers, two of them old; 5, 6: failures, one old; 7 to 9: sent, two old."""
    for n in range(4):
        ask(ledger, body_of(f"q{n}"), answer(), usd=1.0)
    for n in (0, 5):
        ledger.fail(ask(ledger, body_of(f"q{n}"), usd=1.0)[1], "500", 0.5)
    for n in (0, 6, 7):
        ask(ledger, body_of(f"q{n}"), usd=2.0)
    for row in (3, 4, 6, 8, 9):
        aged(ledger, row, 10)
    ledger.record_batch("open", endpoint="e", state="created", lines=[])
    with ledger.transaction():
        ledger.db.execute("UPDATE attempts SET batch = 'open' WHERE id = 9")
    return ledger


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"failed": True}, [1, 2, 3, 4, 7, 9]),
        ({"older_than": 5.0}, [1, 2, 5, 7, 9]),
        ({"older_than": 5.0, "failed": True}, [1, 2, 3, 4, 5, 7, 9]),
        ({"older_than": 0.0}, [7, 9]),
        ({"keep": [body_of("q0"), body_of("q3")]}, [1, 4, 5, 7, 9]),
        ({"keep": [body_of("q0")], "older_than": 5.0}, [1, 2, 5, 7, 9]),
        ({"keep": [], "failed": True}, [1, 2, 3, 4, 7, 9]),
        ({"keep": []}, [7, 9]),
    ],
)
def test_gc_deletes_what_every_option_names_and_no_call_under_way(stocked, options, left):
    stocked.scope(request_key("openai", "e", body_of(f"q{n}")) for n in range(8))
    before = stocked.spent()
    would = collect(stocked, dry_run=True, **options)
    assert rows(stocked) == [*range(1, 10)]
    did = collect(stocked, **options)
    assert rows(stocked) == left
    assert (would.attempts, would.answers, would.requests, would.usd) == (
        did.attempts,
        did.answers,
        did.requests,
        did.usd,
    )
    assert did.attempts == 9 - len(left)
    assert did.answers == len({1, 2, 3, 4} - {*left})
    stocked.scope(request_key("openai", "e", body_of(f"q{n}")) for n in range(8))
    assert stocked.spent() == before  # the caps go on counting it
    assert upkeep.statistics(stocked)["usd"] == before.usd
    assert not [fault for fault in upkeep.faults(stocked) if "row 9" not in fault]


def test_gc_keeps_the_repairs_of_what_it_keeps_at_any_endpoint(ledger):
    bad = {"role": "assistant", "content": "bad"}
    again = {"role": "user", "content": "JSON only"}
    kept, gone = body_of("kept"), body_of("gone")
    for endpoint in "ef":
        for body in (kept, gone):
            ask(ledger, body, answer("bad"), endpoint=endpoint)
            repair = body | {"messages": [*body["messages"], bad, again]}
            ask(ledger, repair, answer("good"), endpoint=endpoint)
    assert collect(ledger, keep=[kept]).answers == 4
    assert rows(ledger) == [1, 2, 5, 6]


def test_gc_forgets_a_batch_that_is_done_with_its_last_attempt(ledger):
    for token, state in (("kept", "done"), ("gone", "done"), ("open", "running")):
        ledger.record_batch(token, endpoint="e", state=state, lines=[])
    _, row = ask(ledger, body_of("kept"), answer())
    _, other = ask(ledger, body_of("gone"), answer())
    for number, token in ((row, "kept"), (other, "gone")):
        with ledger.transaction():
            ledger.db.execute("UPDATE attempts SET batch = ? WHERE id = ?", (token, number))
    collect(ledger, keep=[body_of("kept")])
    assert list(ledger.rows("SELECT token FROM batches ORDER BY 1")) == [("kept",), ("open",)]


def test_gc_gives_room_back(ledger):
    for n in range(50):
        ask(ledger, body_of(f"q{n}"), "x" * 20_000)
    ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = upkeep.size(ledger.path)
    freed = collect(ledger, keep=[body_of("q7")])
    assert freed.answers == 49 and freed.bytes == before - upkeep.size(ledger.path) > 900_000
    assert len(list(upkeep.attempts(ledger))) == 1


def test_a_deleted_row_s_id_is_not_given_again(ledger):
    ask(ledger, body_of("a"), answer())
    collect(ledger, older_than=0.0)
    assert ask(ledger, body_of("b"))[1] == 2


def _ask_many(path, _writer):
    with Ledger(path) as ledger:
        for n in range(60):
            ask(ledger, body_of(f"p{n}"), answer("x" * 2000))
    raise SystemExit(0)


def test_gc_beside_a_run_loses_none_of_its_answers(tmp_path):
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        for n in range(200):
            aged(ledger, ask(ledger, body_of(f"q{n}"), answer("x" * 2000))[1], 30)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_ask_many, args=(path, "x"))
        process.start()
        freed = [collect(ledger, older_than=5.0).answers for _ in range(4)]
        process.join(60)
        assert process.exitcode == 0 and sum(freed) == 200
        assert len(rows(ledger)) == 60 and list(upkeep.faults(ledger)) == []


def test_gc_says_so_when_another_run_keeps_the_file_busy(ledger, monkeypatch):
    ledger.db.execute("PRAGMA busy_timeout=50")
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunError, match=r"another process has been writing.*wait for that one"):
            collect(ledger, failed=True)
        other.execute("ROLLBACK")


def test_mending_saves_whole_rows_and_what_was_spent(tmp_path):
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        for n in range(5):
            ask(ledger, body_of(f"q{n}"), answer(f"a{n}"), usd=1.0)
        ledger.fail(ask(ledger, body_of("q9"), usd=1.0)[1], "500", 0.25)
        collect(ledger, failed=True)
        ledger.record_batch("t", endpoint="e", state="created", lines=[["q0", "k", 1]])
        times = "SELECT id, created, settled FROM attempts WHERE id != 2 ORDER BY id"
        before = list(ledger.rows(times))
        with ledger.transaction():
            ledger.db.execute("UPDATE attempts SET body = 'x' WHERE id = 2")
            ledger.db.execute("UPDATE requests SET body = '[' WHERE rowid = 4")
    saved = upkeep.mend(path)
    assert (saved.requests, saved.attempts, saved.answers, saved.lost) == (4, 4, 4, 1)
    assert saved.old == tmp_path / "l.sqlite.damaged-1" and saved.old.is_file()
    with Ledger(path) as ledger:
        assert list(upkeep.faults(ledger)) == []
        assert list(ledger.rows(times)) == before and all(settled for *_, settled in before)
        ledger.scope(request_key("openai", "e", body_of(f"q{n}")) for n in range(10))
        assert ledger.spent() == Spent(6, 5.25)
        assert [batch.token for batch in ledger.open_batches("e")] == ["t"]
        assert [line["body"] is None for line in upkeep.answers(ledger, None)].count(True) == 1
    assert upkeep.mend(path).old == tmp_path / "l.sqlite.damaged-2"


def test_a_file_in_use_is_not_mended(ledger):
    ask(ledger, body_of("q"), answer())
    with pytest.raises(RunError, match="a run has it open"):
        upkeep.mend(ledger.path)
    assert len(list(upkeep.attempts(ledger))) == 1


def test_what_is_no_ledger_is_not_mended(tmp_path):
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(RunError, match="nothing can be read of it"):
        upkeep.mend(tmp_path / "text")
    first_version(tmp_path / "old")
    with pytest.raises(RunError, match="not a ledger of version 2"):
        upkeep.mend(tmp_path / "old")
    assert not [file for file in tmp_path.iterdir() if "damaged" in file.name]


def test_random_answers_survive_a_round_trip_through_every_command(tmp_path):
    rng = random.Random(0)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        texts = {
            f"q{n}": "".join(chr(rng.randrange(32, 0x2FF)) for _ in range(50)) for n in range(30)
        }
        for name, text in texts.items():
            ask(ledger, body_of(name), answer(text))
        collect(ledger, failed=True)
    upkeep.mend(tmp_path / "l.sqlite")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        found = {
            line["body"]["messages"][0]["content"]: line["response"]["choices"][0]["message"][
                "content"
            ]
            for line in upkeep.answers(ledger, None)
        }
    assert found == texts


OPENING = """
import sys, time
from pathlib import Path
from seedtalk.teacher.ledger import Ledger
folder = Path(sys.argv[1])
(folder / sys.argv[2]).touch()
while not (folder / "go").exists():
    pass
for number in range(20):
    with Ledger(folder / f"{number}.sqlite"):
        pass
"""


def test_processes_may_open_a_new_ledger_at_once(tmp_path):
    names = ("one", "two", "three")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, str(tmp_path), name], stderr=subprocess.PIPE, text=True
        )
        for name in names
    ]
    until = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in names) and time.monotonic() < until:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for run in runs:
        assert run.communicate(timeout=60)[1] == "" and run.returncode == 0

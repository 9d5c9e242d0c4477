import multiprocessing
import sqlite3

import pytest

from seedtalk.errors import RunError
from seedtalk.teacher.ledger import Ledger, Spent, endpoint_of, request_key

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
FREE = {"max_calls": 0, "max_usd": 0.0}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def reserve(ledger, key="k", usd=0.0, **caps):
    return ledger.reserve(key, "e", "m", usd, **(FREE | caps))


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


def test_a_damaged_answer_is_no_answer(ledger):
    ledger.receive(reserve(ledger), "whole")
    with sqlite3.connect(ledger.path) as other:
        other.execute("UPDATE attempts SET body = 'whola'")
    assert list(ledger.received("k")) == []


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


def test_two_writers_lose_nothing_and_share_the_cap(tmp_path):
    path = tmp_path / "l.sqlite"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, w)) for w in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert sum(writer.exitcode for writer in writers) == 100
    with sqlite3.connect(path) as db:
        count, attempts = db.execute("SELECT count(*), max(attempt) FROM attempts").fetchone()
    assert (count, attempts) == (100, 2)


def test_it_survives_the_machine(ledger):
    read = ledger._db.execute
    assert read("PRAGMA journal_mode").fetchone() == ("wal",)
    assert read("PRAGMA synchronous").fetchone() == (2,)


def test_a_newer_or_foreign_file_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "new.sqlite") as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(RunError, match="newer seedtalk"):
        Ledger(tmp_path / "new.sqlite")
    (tmp_path / "text.sqlite").write_text("no database at all, just a longer line of text" * 9)
    with pytest.raises(RunError, match="cannot be"):
        Ledger(tmp_path / "text.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"):
        Ledger(tmp_path / "file" / "l.sqlite")

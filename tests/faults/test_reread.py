"""What others do to the ledger after a run's calls and before its lines are written."""

import json
import sqlite3
from functools import partial

import pytest
from tests.faults.batch_server import answered, refused
from tests.faults.server import completion, error, requests, say, teacher

from seedtalk import teacher as layer
from seedtalk.errors import RunError
from seedtalk.records import write_jsonl
from seedtalk.teacher import batch
from seedtalk.teacher.ledger import Ledger, store
from seedtalk.teacher.ledger.upkeep import collect

pytestmark = pytest.mark.usefixtures("impatient")


def generate(endpoint, tmp_path, rows, between=lambda: None, **values):
    """Run and return the bytes that are written; `between` is done once the calls are over."""

    def write(lines):
        between()
        write_jsonl(tmp_path / "out.jsonl", lines)

    params = teacher(endpoint, **{"batch_poll": 0.01} | values)
    layer.stream(rows, params, seed=0, cache_dir=tmp_path, write=write)
    return (tmp_path / "out.jsonl").read_bytes()


def gc(tmp_path, **conditions):
    wanted = {"keep": None, "failed": False, "older_than": None} | conditions
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        return collect(ledger, dry_run=False, **wanted)


def test_a_failure_of_the_run_stays_one_when_the_ledger_forgets_it(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(400, "content_filter", "no"), say()]}
    found = generate(
        endpoint, tmp_path, requests(3), lambda: gc(tmp_path, failed=True).attempts == 1 or 1 / 0
    )
    assert json.loads(found.splitlines()[1])["error"]["code"] == "content_filter"
    again = generate(endpoint, tmp_path, requests(3))  # forgotten, and so asked anew
    assert endpoint.calls == {"q0": 1, "q1": 2, "q2": 1}
    assert json.loads(again.splitlines()[1])["error"] is None


@pytest.mark.parametrize("backend", ["openai", "replay"])
def test_a_failure_of_an_earlier_run_does_too(endpoint, tmp_path, backend):
    endpoint.plan = {"q1": [error(400, "content_filter", "no"), say()]}
    first = generate(endpoint, tmp_path, requests(3))
    forget = partial(gc, tmp_path, failed=True)
    assert generate(endpoint, tmp_path, requests(3), forget, backend=backend) == first


def test_so_does_a_line_of_a_batch(server, tmp_path):
    server.plan = {"q1": [refused(400, "content_filter")]}
    found = generate(
        server, tmp_path, requests(3), partial(gc, tmp_path, failed=True), backend="batch"
    )
    assert json.loads(found.splitlines()[1])["error"]["code"] == "content_filter"


@pytest.mark.parametrize("backend", ["openai", "replay"])
def test_an_answer_that_is_deleted_ends_the_run_and_leaves_the_old_lines(
    endpoint, tmp_path, backend
):
    first = generate(endpoint, tmp_path, requests(3))
    kept = partial(gc, tmp_path, keep=[row["body"] for row in requests(2)])
    with pytest.raises(RunError, match=r"answer to request [0-9a-f]{64} has gone.*ledger gc"):
        generate(endpoint, tmp_path, requests(3), kept, backend=backend)
    assert (tmp_path / "out.jsonl").read_bytes() == first
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.jsonl"]
    assert generate(endpoint, tmp_path, requests(3)) == first and endpoint.total == 4


def test_an_answer_of_a_batch_that_is_deleted_ends_the_run(server, tmp_path):
    with pytest.raises(RunError, match="has gone"):
        generate(server, tmp_path, requests(3), partial(gc, tmp_path, keep=[]), backend="batch")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_answer_that_is_damaged_ends_the_run(endpoint, tmp_path):
    def flip():
        with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
            db.execute("UPDATE attempts SET body = body || ' ' WHERE id = 2")

    with pytest.raises(RunError, match="has gone"):
        generate(endpoint, tmp_path, requests(3), flip)
    generate(endpoint, tmp_path, requests(3))
    assert endpoint.total == 4


def test_room_given_back_to_the_disk_meanwhile_changes_nothing(endpoint, tmp_path):
    first = generate(endpoint, tmp_path, requests(5))
    assert generate(endpoint, tmp_path, requests(5), partial(gc, tmp_path)) == first


def test_equal_requests_share_the_call_and_have_a_line_each(endpoint, tmp_path):
    rows = requests(3)
    rows += [{**row, "custom_id": f"again-{row['custom_id']}"} for row in rows]
    lines = [json.loads(line) for line in generate(endpoint, tmp_path, rows).splitlines()]
    assert endpoint.total == 3 and len(lines) == 6
    assert [line["response"] for line in lines[:3]] == [line["response"] for line in lines[3:]]


def forget_the_first(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("DELETE FROM attempts WHERE id = 1")


def test_an_answer_that_is_deleted_before_its_repair_is_asked_for_anew(endpoint, tmp_path):
    def act(handler):
        forget_the_first(tmp_path)
        say()(handler)

    endpoint.plan = {"q0": [say(body=completion("no JSON")), say()], "q1": [act]}
    found = generate(endpoint, tmp_path, requests(3), concurrency=1)
    assert endpoint.calls == {"q0": 2, "q1": 1, "q2": 1} and b"no JSON" not in found


def test_an_answer_that_is_deleted_before_its_repair_is_put_in_a_batch_ends_the_run(
    server, tmp_path, monkeypatch
):
    server.plan = {"q0": [answered("no JSON")]}
    real = batch._Run._put_down

    def put_down(self, todo):
        if server.created:
            forget_the_first(tmp_path)
        real(self, todo)

    monkeypatch.setattr(batch._Run, "_put_down", put_down)
    with pytest.raises(RunError, match="has gone"):
        generate(server, tmp_path, requests(2), backend="batch")
    assert server.created == 1


def test_nothing_is_written_of_a_ledger_that_was_read_while_it_changed(
    endpoint, tmp_path, monkeypatch
):
    generate(endpoint, tmp_path, requests(2))
    (tmp_path / "out.jsonl").unlink()
    monkeypatch.setattr(store, "is_writable", lambda path: False)

    def change():
        with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
            db.execute("UPDATE batches SET state = 'x'")
            db.execute("INSERT INTO bygone VALUES ('k', 1, 1)")

    with pytest.raises(RunError, match="was written to while it was read"):
        generate(endpoint, tmp_path, requests(2), change, backend="replay")
    assert not (tmp_path / "out.jsonl").exists()

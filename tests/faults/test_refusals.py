"""What an endpoint will not answer: remembered, replayed, and no reason to stop a run."""

import sqlite3

import pytest
from tests.faults.server import completion, error, requests, reset, say, teacher

from seedtalk import teacher as layer
from seedtalk.errors import RunError
from seedtalk.teacher.answers import REPAIR
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.ledger.upkeep import collect

pytestmark = pytest.mark.usefixtures("impatient")


def generate(endpoint, tmp_path, rows, **values):
    return layer.generate(rows, teacher(endpoint, **values), seed=0, cache_dir=tmp_path)


def test_a_refusal_is_not_asked_again_before_gc_has_it_forgotten(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(400, "content_filter", "not: that"), say()]}
    first = generate(endpoint, tmp_path, requests(2), max_calls=2)
    assert first[0][1]["error"]["code"] == "content_filter"
    assert first[0][1]["error"]["message"].endswith("not: that")
    assert generate(endpoint, tmp_path, requests(2), max_calls=2) == first
    assert generate(endpoint, tmp_path, requests(2), backend="replay")[0] == first[0]
    assert endpoint.calls == {"q0": 1, "q1": 1}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        collect(ledger, keep=None, failed=True, older_than=None, dry_run=False)
    lines, _ = generate(endpoint, tmp_path, requests(2))
    assert lines[1]["error"] is None and endpoint.calls == {"q0": 1, "q1": 2}


@pytest.mark.parametrize("fault", [error(500), error(500, "permanent"), reset()])
def test_what_passes_is_asked_again_by_the_next_run(endpoint, tmp_path, fault):
    endpoint.plan = {"q1": [fault, say()]}
    with pytest.raises(RunError, match="1 of 2 requests got no answer"):
        generate(endpoint, tmp_path, requests(2), attempts=1)
    assert generate(endpoint, tmp_path, requests(2), attempts=1)[1]["answered"] == 2


def test_a_refusal_of_the_form_of_answers_is_none_of_the_request(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(400, "x", "response_format is not supported"), error(500)]}
    with pytest.raises(RunError, match="1 of 2 requests got no answer"):
        generate(endpoint, tmp_path, requests(2), attempts=1)
    endpoint.plan = {}
    assert generate(endpoint, tmp_path, requests(2))[1]["answered"] == 2


def test_a_damaged_refusal_is_none(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(400, "content_filter"), say()]}
    generate(endpoint, tmp_path, requests(2))
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("UPDATE attempts SET error = error || '!' WHERE state = 'failed'")
    assert generate(endpoint, tmp_path, requests(2))[1]["answered"] == 2


def test_refusals_of_single_requests_do_not_stop_a_run(endpoint, tmp_path):
    refused = [error(400, "content_filter", "no"), error(400, None, "maximum context length is 9")]
    endpoint.plan = {f"q{n}": [refused[n % 2]] for n in range(40)}
    _, summary = generate(endpoint, tmp_path, requests(45))
    assert (summary["answered"], summary["failed"]) == (5, 40)


def test_nor_do_refusals_that_come_as_answers(endpoint, tmp_path):
    choice = {"message": {"content": ""}, "finish_reason": "content_filter"}
    refused = say(body=b'{"choices": [%s]}' % str(choice).replace("'", '"').encode())
    endpoint.plan = {f"q{n}": [refused] for n in range(40)}
    _, summary = generate(endpoint, tmp_path, requests(45))
    assert (summary["answered"], summary["failed"]) == (5, 40)


def test_refusals_of_repairs_do_not_stop_a_run_and_are_kept(endpoint, tmp_path):
    endpoint.default = [say(body=completion("prose"))]
    endpoint.plan = {REPAIR: [error(400, "bad_request", "no")]}
    first = generate(endpoint, tmp_path, requests(30))
    assert first[1]["answered"] == 30 and endpoint.total == 60
    assert generate(endpoint, tmp_path, requests(30)) == first and endpoint.total == 60


def test_repairs_left_over_may_all_be_refused(endpoint, tmp_path):
    endpoint.default = [say(body=completion("prose"))]
    generate(endpoint, tmp_path, requests(30), repair=False)
    endpoint.default = [error(400, "bad_request", "no")]
    assert generate(endpoint, tmp_path, requests(30))[1]["answered"] == 30


def test_an_endpoint_that_has_answered_before_is_trusted_to_refuse(endpoint, tmp_path):
    generate(endpoint, tmp_path, requests(2))
    endpoint.plan = {f"q{n}": [error(400, "bad_request", "no")] for n in range(2, 32)}
    assert generate(endpoint, tmp_path, requests(32))[1]["failed"] == 30

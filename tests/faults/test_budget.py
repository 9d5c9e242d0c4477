"""The caps against an endpoint that is slow, refuses, gets lost or counts as it likes."""

import json
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from tests import domain
from tests.faults import chain
from tests.faults.server import (
    CONTENT,
    completion,
    error,
    requests,
    reset,
    say,
    teacher,
    write_requests,
)

from seedtalk import teacher as layer
from seedtalk.errors import InputError, RunError
from seedtalk.teacher import answers, budget
from seedtalk.teacher.answers import REPAIR
from seedtalk.teacher.ledger import Ledger, endpoint_of
from seedtalk.teacher.openai import keys_of
from seedtalk.teacher.prices import Price

pytestmark = pytest.mark.usefixtures("impatient")

PRICED = {"usd_per_million_input": 1e6, "usd_per_million_output": 1e6}  # a dollar a token
COST = 15.0  # of an answer of the server's
MOST = budget.most(Price(1e6, 1e6), requests(10)[9]["body"])
EMPTY = say(body=completion(None))  # no text, but billed


def generate(endpoint, tmp_path, rows, **values):
    params = teacher(endpoint, **PRICED | values)
    return layer.generate(rows, params, seed=0, cache_dir=tmp_path)


def rows_of(tmp_path):
    with sqlite3.connect(tmp_path / layer.LEDGER) as db:
        return db.execute("SELECT state, usd FROM attempts ORDER BY id").fetchall()


def spent(tmp_path):
    return sum(usd for _, usd in rows_of(tmp_path))


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_cap_that_is_hit_in_flight_is_used_up_and_never_passed(endpoint, tmp_path, concurrency):
    endpoint.default = [say(delay=0.1)]
    cap = 5 * COST + MOST
    with pytest.raises(RunError, match=rf"max_usd={cap:g} reached: 6 calls, 90\.0000 USD") as told:
        generate(endpoint, tmp_path, requests(10), max_usd=cap, concurrency=concurrency)
    assert "4 of 10 requests have no answer" in told.value.message
    assert endpoint.total == 6 and spent(tmp_path) == 6 * COST <= cap


def test_what_is_in_flight_is_never_more_than_fits(endpoint, tmp_path):
    endpoint.default = [say(delay=0.05)]
    generate(endpoint, tmp_path, requests(9), max_usd=8 * COST + 3.5 * MOST, concurrency=9)
    assert endpoint.total == 9 and endpoint.most_open < 9


def test_a_cap_under_the_first_call_makes_none(endpoint, tmp_path):
    with pytest.raises(RunError, match=r"reached: 0 calls, 0\.0000 USD"):
        generate(endpoint, tmp_path, requests(3), max_usd=MOST - 1)
    assert endpoint.total == 0 and rows_of(tmp_path) == []


def test_a_cap_that_fits_to_the_last_cent_is_no_stop(endpoint, tmp_path):
    generate(endpoint, tmp_path, requests(10), max_usd=9 * COST + MOST, concurrency=4)
    assert endpoint.total == 10


@pytest.mark.parametrize("fault", [error(429), error(500), EMPTY], ids=["429", "500", "empty"])
def test_a_storm_of_retries_stays_under_a_cap_on_calls(endpoint, tmp_path, fault):
    endpoint.default = [fault]
    with pytest.raises(RunError, match="max_calls=7 reached: 7 calls"):
        generate(endpoint, tmp_path, requests(10), max_calls=7, attempts=9, concurrency=16)
    assert endpoint.total == 7


def test_a_storm_of_billed_answers_without_text_stays_under_a_cap(endpoint, tmp_path):
    endpoint.default = [EMPTY]
    cap = 9 * COST
    with pytest.raises(RunError, match="max_usd=135 reached"):
        generate(endpoint, tmp_path, requests(10), max_usd=cap, attempts=9, concurrency=16)
    assert endpoint.total * COST == spent(tmp_path) <= cap


def test_a_storm_of_refusals_costs_nothing(endpoint, tmp_path):
    endpoint.default = [error(429), error(503), error(500), say()]
    _, summary = generate(endpoint, tmp_path, requests(3), max_usd=2 * COST + MOST)
    assert endpoint.total == 12 and spent(tmp_path) == summary["usd"] == 3 * COST


@pytest.mark.parametrize(
    ("fault", "values"),
    [(say(delay=1.5), {"timeout": 0.3}), (reset(), {}), (reset(after=40), {})],
    ids=["timeout", "reset", "reset within the body"],
)
def test_what_may_be_billed_keeps_its_reservation(endpoint, tmp_path, fault, values):
    endpoint.default = [fault, say()]
    row = requests(1)
    most = budget.most(Price(1e6, 1e6), row[0]["body"])
    _, summary = generate(endpoint, tmp_path, row, max_usd=3 * most, **values)
    assert rows_of(tmp_path) == [("failed", most), ("received", COST)]
    assert summary["usd"] == COST  # of the answers alone


def test_lost_calls_use_the_cap_up(endpoint, tmp_path):
    endpoint.default = [reset()]
    with pytest.raises(RunError, match="max_usd=.* reached: 3 calls"):
        generate(endpoint, tmp_path, requests(1), max_usd=3 * MOST, attempts=9)
    assert endpoint.total == 3


def test_an_answer_without_a_count_of_tokens_keeps_its_reservation(endpoint, tmp_path):
    endpoint.default = [say(body=completion(usage=None))]
    _, summary = generate(endpoint, tmp_path, requests(1), max_usd=2 * MOST)
    ((state, usd),) = rows_of(tmp_path)
    assert (state, usd) == ("received", budget.most(Price(1e6, 1e6), requests(1)[0]["body"]))
    assert summary["usd"] is None and summary["tokens"]["input"] is None


def test_a_resumed_run_counts_what_was_spent(endpoint, tmp_path):
    cap = 2 * COST + MOST
    for calls in (3, 3):  # stopped, then stopped again without a call
        with pytest.raises(RunError, match="reached: 3 calls, 45"):
            generate(endpoint, tmp_path, requests(10), max_usd=cap, concurrency=2)
        assert endpoint.total == calls
    _, summary = generate(endpoint, tmp_path, requests(10), max_usd=9 * COST + MOST)
    assert endpoint.total == 10 and summary["usd"] == 10 * COST  # nothing was paid twice
    generate(endpoint, tmp_path, requests(10), max_usd=1.0)  # all known: nothing to stop
    assert endpoint.total == 10


def test_other_requests_do_not_count(endpoint, tmp_path):
    generate(endpoint, tmp_path, requests(5))
    generate(endpoint, tmp_path, requests(3, "other"), max_usd=2 * COST + MOST + 10, concurrency=1)
    assert endpoint.total == 8


def test_calls_of_a_run_that_was_killed_stay_reserved(endpoint, tmp_path):
    params = teacher(endpoint)
    bodies = [row["body"] for row in requests(4)]
    with Ledger(tmp_path / layer.LEDGER) as ledger:
        for key, body in zip(keys_of(bodies, params)[:2], bodies, strict=False):
            most = budget.most(Price(1e6, 1e6), body)
            ledger.reserve(
                key, endpoint_of(endpoint.url), "m", most, body=body, max_calls=0, max_usd=0.0
            )
    with pytest.raises(RunError, match="max_calls=5 reached: 5 calls"):
        generate(endpoint, tmp_path, requests(4), max_calls=5)
    assert endpoint.total == 3
    assert spent(tmp_path) == pytest.approx(2 * most + 3 * COST)


def test_an_endpoint_that_counts_more_than_was_reserved_is_settled_and_told(
    endpoint, tmp_path, capsys
):
    dear = completion(usage={"prompt_tokens": 10, "completion_tokens": 490})
    endpoint.default = [say(body=dear, delay=0.1)]
    cap = 4 * MOST
    with pytest.raises(RunError, match=r"max_usd=.* reached: (\d) calls, (\d+)") as told:
        generate(endpoint, tmp_path, requests(10), max_usd=cap, concurrency=16)
    calls = endpoint.total
    assert calls <= 4 and spent(tmp_path) == 500.0 * calls  # as counted, not as reserved
    assert f"{500 * calls}.0000 USD" in told.value.message
    assert spent(tmp_path) <= cap + 4 * (500 - MOST)  # the excess of those in flight


def test_an_overrun_by_the_last_calls_is_told_too(endpoint, tmp_path, capsys):
    endpoint.default = [say(body=completion(usage={"prompt_tokens": 10, "completion_tokens": 490}))]
    _, summary = generate(endpoint, tmp_path, requests(1), max_usd=2 * MOST)
    assert summary["usd"] == 500.0
    assert f"teacher.max_usd={2 * MOST:g} was passed" in capsys.readouterr().err


def test_tokens_from_the_prompt_cache_are_settled_at_their_price(endpoint, tmp_path):
    table = tmp_path / "prices.yaml"
    table.write_text("m: {input: 1000000, output: 1000000, cached_input: 500000}")
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    usage |= {"prompt_tokens_details": {"cached_tokens": 8}}
    endpoint.default = [say(body=completion(usage=usage))]
    unset = {"usd_per_million_input": -1.0, "usd_per_million_output": -1.0}
    _, summary = generate(endpoint, tmp_path, requests(2), prices=str(table), max_usd=500, **unset)
    assert summary["usd"] == 2 * 11.0 == spent(tmp_path)


def test_what_costs_nothing_is_never_stopped(endpoint, tmp_path):
    free = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0}
    _, summary = generate(endpoint, tmp_path, requests(5), max_usd=1e-9, **free)
    assert summary["answered"] == 5 and summary["usd"] == 0.0


def test_a_cap_without_a_price_makes_no_call(endpoint, tmp_path):
    unset = {"usd_per_million_input": -1.0, "usd_per_million_output": -1.0}
    with pytest.raises(InputError, match="price of 'm' is unknown"):
        generate(endpoint, tmp_path, requests(1), max_usd=5.0, **unset)
    assert endpoint.total == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("caps", [{"max_calls": 3}, {"max_usd": 2 * COST + MOST}])
def test_a_repair_counts_against_the_cap_and_its_answer_stands_without(endpoint, tmp_path, caps):
    endpoint.default = [say(body=completion("no JSON at all"))]
    _, summary = generate(endpoint, tmp_path, requests(3), **caps)
    assert endpoint.total == 3 and (summary["answered"], summary["repaired"]) == (3, 0)
    generate(endpoint, tmp_path, requests(3), **caps)
    assert endpoint.total == 3


def stage(tmp_path, endpoint, name, rows, **values):
    """Start the stage as a process of its own, with the ledger of all others."""
    group = {"backend": "openai", "model": "m", "base_url": endpoint.url, "timeout": 5.0}
    params = domain.write_params(tmp_path / f"{name}.yaml", teacher=group | PRICED | values)
    write_requests(tmp_path / f"{name}.jsonl", rows)
    arguments = ["--params", params, "--requests", tmp_path / f"{name}.jsonl"]
    arguments += [
        "--responses",
        tmp_path / name / "r.jsonl",
        "--summary",
        tmp_path / name / "t.json",
    ]
    return subprocess.Popen(
        [sys.executable, domain.ROOT / "stages" / "generate.py", *map(str, arguments)],
        env=os.environ | {"DVC_ROOT": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("values", "most"),
    [({"max_calls": 13}, 13), ({"max_usd": 12 * COST + MOST}, 13)],
    ids=["calls", "dollars"],
)
def test_two_processes_share_a_cap(endpoint, tmp_path, values, most):
    endpoint.default = [say(delay=0.15)]
    rows = requests(40)
    both = [
        stage(tmp_path, endpoint, "one", rows, concurrency=3, **values),
        stage(tmp_path, endpoint, "two", rows[::-1], concurrency=3, **values),
    ]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], told
    assert all(f"teacher.{next(iter(values))}=" in text for text in told)
    assert 10 <= endpoint.total <= most
    assert spent(tmp_path / ".cache") == endpoint.total * COST
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_a_run_that_was_killed_never_lets_the_cap_be_passed(endpoint, tmp_path):
    endpoint.default = [say(delay=0.3)]
    caps = {"max_usd": 7 * MOST, "concurrency": 4}
    process = stage(tmp_path, endpoint, "one", requests(30), **caps)
    while endpoint.total < 6 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = endpoint.total
    with pytest.raises(RunError, match="max_usd=.* reached"):
        generate(endpoint, tmp_path / ".cache", requests(30), **caps)
    assert endpoint.total >= before and spent(tmp_path / ".cache") <= 7 * MOST
    # What the endpoint was asked is in the ledger, each call of the killed run included.
    assert len(rows_of(tmp_path / ".cache")) >= endpoint.total


def test_the_summary_of_a_run_is_that_of_one_the_ledger_answers(endpoint, tmp_path):
    endpoint.plan = {"q1": [error(500), reset(), say()], "q2": [EMPTY, say()]}
    paid = generate(endpoint, tmp_path, requests(6))
    calls = endpoint.total
    known = generate(endpoint, tmp_path, requests(6), max_usd=1.0)
    assert known == paid and endpoint.total == calls
    assert paid[1]["usd"] == 6 * COST < spent(tmp_path)
    assert paid[1]["spent"] == {"calls": calls, "usd": spent(tmp_path)}


@pytest.mark.parametrize("again", ["openai", "replay"])
def test_what_was_spent_counts_retries_repairs_and_what_got_lost(endpoint, tmp_path, again):
    prose = say(body=completion("no JSON at all"))
    endpoint.plan = {
        "q0": [error(500), say()],
        "q1": [reset(), say()],
        "q2": [EMPTY, prose],
        "q3": [error(400, "content_filter")],
        REPAIR: [error(500), say()],
    }
    _, summary = generate(endpoint, tmp_path, requests(5))
    most = budget.most(Price(1e6, 1e6), requests(1)[0]["body"])
    assert summary["usd"] == 4 * COST and summary["repaired"] == 1
    # Asked: q0 and q1 twice, q2 twice and its repair twice, q3 and q4 once.
    told = {"calls": 10, "usd": 6 * COST + most}
    assert endpoint.total == 10 and summary["spent"] == told
    assert told["usd"] == spent(tmp_path)
    for values in ({}, {"repair": False}):  # over all runs, whatever this one asks for
        _, summary = generate(endpoint, tmp_path, requests(3), backend=again, **values)
        assert endpoint.total == 10
        assert summary["spent"] == {"calls": 8, "usd": 5 * COST + most}


def test_caps_count_repairs_after_they_are_switched_off(endpoint, tmp_path):
    endpoint.default = [say(body=completion("no JSON at all"))]
    generate(endpoint, tmp_path, requests(10), max_calls=20)
    assert endpoint.total == 20
    with pytest.raises(RunError, match="max_calls=20 reached: 20 calls"):
        generate(endpoint, tmp_path, requests(15), max_calls=20, repair=False)
    assert endpoint.total == 20


def test_the_extractive_teacher_makes_no_call_and_spends_nothing(tmp_path):
    folder = chain.tables(tmp_path)
    for stage in (chain.prompt, chain.generate, chain.curate):
        assert chain.run(stage, folder).exit_code == 0
    nothing = {"calls": 0, "usd": 0.0}
    assert json.loads((folder / "teacher.json").read_text())["spent"] == nothing
    assert json.loads((folder / "synthesis.json").read_text())["teacher"]["spent"] == nothing


def test_an_unknown_price_leaves_what_was_spent_unknown(endpoint, tmp_path):
    unset = {"usd_per_million_input": -1.0, "usd_per_million_output": -1.0}
    _, summary = generate(endpoint, tmp_path, requests(2), **unset)
    assert summary["spent"] == {"calls": 2, "usd": None}


def test_one_row_more_costs_one_call_however_many_are_known(endpoint, tmp_path):
    generate(endpoint, tmp_path, requests(1000), concurrency=64)
    assert endpoint.total == 1000
    _, summary = generate(endpoint, tmp_path, requests(1001), concurrency=64)
    assert endpoint.total == 1001 and summary["answered"] == 1001
    assert summary["spent"] == {"calls": 1001, "usd": 1001 * COST}


def test_a_changed_parser_costs_no_call(endpoint, tmp_path, monkeypatch):
    generate(endpoint, tmp_path, requests(5))

    def stricter(raw):
        body = answers.completion(raw)
        body["choices"][0]["message"]["content"] += " "
        return body

    def laxer(content):
        return answers.ParsedDialogue([{"role": "seeker", "text": content}], [])

    monkeypatch.setattr("seedtalk.teacher.openai.completion", stricter)
    monkeypatch.setattr("seedtalk.teacher.answers.parse_dialogue", laxer)
    lines, summary = generate(endpoint, tmp_path, requests(5), max_usd=1.0)
    assert endpoint.total == 5 and summary["spent"]["calls"] == 5
    contents = [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines]
    assert contents == [CONTENT + " "] * 5  # read anew, by the new parser


def test_a_parser_that_takes_a_bad_answer_makes_its_repair_needless(
    endpoint, tmp_path, monkeypatch
):
    endpoint.default = [say(body=completion("Seeker: something with boats"))]
    generate(endpoint, tmp_path, requests(5), repair=False)
    monkeypatch.setattr("seedtalk.teacher.answers.parse_dialogue", lambda content: None)
    generate(endpoint, tmp_path, requests(5))
    assert endpoint.total == 5

"""`seedtalk cost`: a table before anything is paid."""

import json
import re

import pytest
from click.testing import CliRunner
from tests import domain
from tests.faults.server import CONTENT, completion

from seedtalk.cli import main
from seedtalk.params import load_params
from seedtalk.teacher import LEDGER, budget, quote
from seedtalk.teacher.answers import repair_of, usage_in
from seedtalk.teacher.ledger import Ledger, endpoint_of
from seedtalk.teacher.openai import DEFAULT_URL, keys_of
from seedtalk.teacher.prices import Price

PRICED = {"usd_per_million_input": 10.0, "usd_per_million_output": 100.0}
FORM = {"response_format": {"type": "json_object"}}
WORDS = "nine words of which not one is over long"  # 40 bytes


def lines(count, model="m", start=0):
    return [
        {
            "custom_id": f"c{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": model,
                "max_tokens": 100,
                "messages": [{"role": "user", "content": f"{n:03d} {WORDS}"}],  # 44 bytes
            },
        }
        for n in range(start, start + count)
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", None)  # no call is made

    def make(count=4, **teacher):
        group = {"backend": "openai", "model": "m"} | teacher
        domain.write_params(tmp_path / "params.yaml", teacher=group)
        rows = lines(count, group["model"])
        (tmp_path / "requests.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return tmp_path

    return make


def run(folder, *more):
    arguments = ["cost", "--params", str(folder / "params.yaml")]
    arguments += ["--requests", str(folder / "requests.jsonl"), *more]
    return CliRunner().invoke(main, arguments)


def cells(output):
    found = re.findall(r"^( *\S.*?)  +(\S.*)$", output.split("\n\n")[0], flags=re.M)
    section, told = "", {}
    for name, values in found:
        section = section if name.startswith("  ") else name.split(",")[0]
        label = section + name if name.startswith("  ") else name
        told[label] = re.split(r"  +", values.strip())
    return told


def pay(folder, count, usage, state="received", usd=0.5):
    """Put answers to the first requests into the ledger."""
    params = load_params(folder / "params.yaml").teacher
    bodies = [line["body"] for line in lines(count, params.model)]
    with Ledger(folder / ".cache" / LEDGER) as ledger:
        for key, body in zip(keys_of(bodies, params), bodies, strict=True):
            endpoint = endpoint_of(params.base_url or DEFAULT_URL)
            row = ledger.reserve(
                key, endpoint, params.model, usd, body=body, max_calls=0, max_usd=0
            )
            if state == "received":
                raw = completion(usage=usage).decode()
                ledger.receive(row, raw, usd, usage_in(raw))


def test_the_table_says_what_is_known_and_what_is_bounded(project):
    folder = project(**PRICED)
    result = run(folder)
    assert result.exit_code == 0, result.output
    told = cells(result.output)
    assert told["requests"] == ["4"] and told["calls to make"] == ["4"]
    assert told["known from the ledger"] == ["0"]
    assert told["input tokens, about"] == [str(4 * 44 // 4)]
    assert told["input tokens  at least"] == [str(4 * 10)]
    assert told["input tokens  at most"] == [str(4 * (44 + 16))]
    assert told["output tokens, about"] == told["output tokens  at most"] == ["400"]
    assert told["price, about"] == ["0.0404 USD"]  # 44 at 10 and 400 at 100 a million
    assert told["price  at most"] == ["0.0424 USD"]
    assert "price with Batch, about" not in told
    assert told["spent so far"] == ["0.0000 USD"] and told["spent so far  in calls"] == ["0"]
    assert "no answer by 'm' yet" in result.output and "no cap is set" in result.output
    assert not (folder / ".cache").exists()


def test_what_the_ledger_knows_is_not_counted_and_teaches_the_estimate(project):
    folder = project(**PRICED)
    pay(folder, 1, {"prompt_tokens": 22, "completion_tokens": 30})
    told = cells(run(folder).output)
    assert told["known from the ledger"] == ["1"] and told["calls to make"] == ["3"]
    assert told["known from the ledger  which saves"] == ["0.0032 USD"]
    assert told["input tokens, about"] == ["66"]  # 44 bytes made 22 tokens
    assert told["output tokens, about"] == ["90"] and told["output tokens  at most"] == ["300"]
    assert told["spent so far"] == ["0.5000 USD"] and told["spent so far  in calls"] == ["1"]


def test_answers_to_other_requests_by_the_same_model_teach_the_output(project):
    folder = project(6, **PRICED)
    pay(folder, 6, {"prompt_tokens": 22, "completion_tokens": 250})
    rows = [json.dumps(line) + "\n" for line in lines(2, start=50)]
    (folder / "requests.jsonl").write_text("".join(rows))
    result = run(folder)
    told = cells(result.output)
    assert told["known from the ledger"] == ["0"] and told["spent so far"] == ["0.0000 USD"]
    assert told["output tokens, about"] == ["200"]  # no answer is longer than max_tokens
    assert "250 tokens an answer, the mean of 6 in the ledger" in result.output


def test_a_failed_or_lost_attempt_is_no_answer_but_spent(project):
    folder = project(max_usd=2.0, **PRICED)
    pay(folder, 2, None, state="sent")
    told = cells(run(folder).output)
    assert told["known from the ledger"] == ["0"] and told["calls to make"] == ["4"]
    assert told["spent so far"] == ["1.0000 USD"] and told["spent so far  in calls"] == ["2"]


def test_a_repair_that_is_due_is_a_call_and_one_that_was_made_is_spent(project):
    folder = project(2, **PRICED)
    rows = lines(2)
    for row in rows:
        row["body"]["response_format"] = {"type": "json_object"}
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = load_params(folder / "params.yaml").teacher

    def answer(body, content):
        (key,), raw = keys_of([body], params), completion(content).decode()
        with Ledger(folder / ".cache" / LEDGER) as ledger:
            row = ledger.reserve(
                key, endpoint_of(DEFAULT_URL), "m", 0.5, body=body, max_calls=0, max_usd=0
            )
            ledger.receive(row, raw, 0.5, usage_in(raw))

    answer(rows[0]["body"], "no JSON")
    answer(rows[1]["body"], CONTENT)
    told = cells(run(folder).output)
    assert told["known from the ledger"] == ["2"] and told["calls to make"] == ["1"]
    assert told["spent so far"] == ["1.0000 USD"] and told["spent so far  in calls"] == ["2"]
    again = repair_of(rows[0]["body"], "no JSON")
    assert int(told["input tokens  at most"][0]) == budget.most_input(again)
    answer(again, CONTENT)
    told = cells(run(folder).output)
    assert told["calls to make"] == ["0"] and told["spent so far"] == ["1.5000 USD"]


def test_what_failed_for_good_is_neither_known_nor_asked(project):
    folder = project(3, attempts=1, **PRICED)
    params = load_params(folder / "params.yaml").teacher
    body = lines(1)[0]["body"]
    (key,) = keys_of([body], params)
    with Ledger(folder / ".cache" / LEDGER) as ledger:
        row = ledger.reserve(
            key, endpoint_of(DEFAULT_URL), "m", 0.5, body=body, max_calls=0, max_usd=0
        )
        ledger.receive(row, completion(None).decode())
    told = cells(run(folder).output)
    assert told["failed for good"] == ["1"] and told["calls to make"] == ["2"]


def test_a_ledger_of_free_answers_has_no_unknown(project):
    folder = project()
    pay(folder, 4, {"prompt_tokens": 22, "completion_tokens": 30}, usd=0.0)
    told = cells(run(folder).output)
    assert told["calls to make"] == ["0"]
    assert told["known from the ledger  which saves"] == ["unknown"]


def test_an_unknown_price_still_shows_the_tokens_and_says_what_to_set(project):
    folder = project(model="nobody-knows", max_usd=1.0)
    result = run(folder)
    assert result.exit_code == 0
    told = cells(result.output)
    assert told["input tokens, about"] == ["44"] and told["price, about"] == ["unknown"]
    assert "price of 'nobody-knows' is unknown: set teacher.usd_per_million_input" in result.output
    assert "cannot be kept without a price: the generate stage refuses" in result.output


def test_the_batch_price_stands_beside_where_the_table_has_one(project):
    result = run(project(model="gpt-4o-mini-2024-07-18"))
    told = cells(result.output)
    assert told["price, about"] == ["0.0002 USD"]  # 400 at 0.6 a million, 44 at 0.15
    assert told["price with Batch, about"] == ["0.0001 USD"]
    assert re.search(r"prices\.yaml, gpt-4o-mini, as of 20\d\d-\d\d-\d\d", result.output)


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        ({"max_usd": 0.0424}, "max_usd=0.0424 (0.0000 spent) is enough, whatever"),
        ({"max_usd": 0.0405}, "max_usd=0.0405 (0.0000 spent) should be enough; the most"),
        ({"max_usd": 0.0304}, "would stop the run after about 3 of 4 calls"),
        ({"max_calls": 4}, "max_calls=4 (0 made) is enough, 0 left for retries and repairs"),
        ({"max_calls": 3}, "max_calls=3 (0 made) would stop the run after 3 of 4 calls"),
    ],
)
def test_it_says_whether_a_cap_would_stop_the_run(project, caps, said):
    result = run(project(**PRICED, **caps))
    assert result.exit_code == 0 and said in result.output


def test_what_was_spent_counts_against_the_caps(project):
    folder = project(**PRICED, max_usd=0.52, max_calls=3)
    pay(folder, 1, {"prompt_tokens": 22, "completion_tokens": 100})
    output = run(folder).output
    assert "max_calls=3 (1 made) would stop the run after 2 of 3 calls" in output
    # 0.02 are left, three calls of 22 and 100 tokens cost 0.0307
    assert "max_usd=0.52 (0.5000 spent) would stop the run after about 1 of 3 calls" in output


def test_several_numbers_of_seeds_are_columns(project):
    folder = project(**PRICED)
    pay(folder, 1, {"prompt_tokens": 22, "completion_tokens": 30})
    result = run(folder, "--seeds", "2", "--seeds", "4", "--seeds", "2000")
    told = cells(result.output)
    assert told["requests"] == ["2", "4", "2,000"]
    assert told["known from the ledger"] == ["1", "1", "1"]
    assert told["calls to make"] == ["1", "3", "1,999"]
    assert told["input tokens, about"] == ["22", "66", f"{1999 * 22:,}"]
    assert told["output tokens  at most"] == ["100", "300", "199,900"]
    assert "2,000 requests: no cap is set" in result.output


def test_the_document_holds_what_the_table_shows(project):
    folder = project(**PRICED, max_calls=2)
    result = run(folder, "--json", "--seeds", "3")
    document = json.loads(result.output)
    (told,) = document["quotes"]
    assert document["price"]["input"] == 10.0 and document["basis"]["output_tokens"] is None
    assert told["ask"] == 3 and told["usd"] == {
        "least": None,
        "about": pytest.approx((33 * 10 + 300 * 100) / 1e6),
        "most": pytest.approx((180 * 10 + 300 * 100) / 1e6),
    }
    assert told["caps"] == ["teacher.max_calls=2 (0 made) would stop the run after 2 of 3 calls"]


def test_the_extractive_teacher_costs_nothing(project):
    folder = project(backend="extractive")
    result = run(folder)
    assert result.exit_code == 0 and "costs nothing" in result.output
    assert json.loads(run(folder, "--json").output)["quotes"][0]["usd"]["most"] == 0.0


def test_requests_to_another_model_are_not_priced_as_this_one(project):
    folder = project()
    domain.write_params(folder / "params.yaml", teacher={"backend": "openai", "model": "other"})
    result = run(folder)
    assert result.exit_code == 2
    assert "request 'c0' is to the model 'm', but teacher.model is 'other'" in result.output


def test_a_wrong_table_or_file_ends_with_2(project):
    folder = project(prices=str(domain.ROOT / "no-such.yaml"))
    assert run(folder).exit_code == 2
    (folder / "requests.jsonl").write_text("{}\n")
    result = run(folder)
    assert result.exit_code == 2 and "row 1, field 'custom_id'" in result.output


def test_equal_requests_are_one_call():
    params = domain.params(teacher={"backend": "openai", "model": "m"}).teacher
    bodies = [line["body"] for line in [*lines(2), *lines(2)]]
    (told,), _ = quote.quote(bodies, params, Price(1.0, 1.0), None)
    assert (told.requests, told.ask) == (2, 2)
    assert told.input_tokens.most == 2 * budget.most_input(bodies[0])


def test_what_an_open_batch_is_asking_is_under_way_and_counted_once(project):
    folder = project(5, max_calls=6, **PRICED)
    pay(folder, 3, None, state="sent", usd=0.25)
    params = load_params(folder / "params.yaml").teacher
    endpoint = endpoint_of(DEFAULT_URL)
    keys = keys_of([line["body"] for line in lines(5)], params)
    told = [(f"c{n}", key, n + 1) for n, key in enumerate(keys[:3])]
    with Ledger(folder / ".cache" / LEDGER) as ledger:
        ledger.record_batch("t", endpoint=endpoint, state="running", lines=told)
        ledger.record_batch("u", endpoint="elsewhere", state="running", lines=[("x", keys[4], 9)])
    result = run(folder)
    shown = cells(result.output)
    assert shown["under way in a batch"] == ["3"] and shown["calls to make"] == ["2"]
    assert shown["input tokens, about"] == [str(2 * 44 // 4)]
    assert shown["spent so far"] == ["0.7500 USD"] and shown["spent so far  in calls"] == ["3"]
    assert "max_calls=6 (3 made) is enough, 1 left" in result.output
    assert cells(run(folder, "--seeds", "2").output)["calls to make"] == ["0"]
    with Ledger(folder / ".cache" / LEDGER) as ledger:
        ledger.record_batch("t", state="done")
    shown = cells(run(folder).output)
    assert "under way in a batch" not in shown and shown["calls to make"] == ["5"]


def test_a_repair_that_an_open_batch_is_asking_is_under_way(project):
    folder = project(**PRICED)
    params = load_params(folder / "params.yaml").teacher
    rows = [line | {"body": line["body"] | FORM} for line in lines(2)]
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Ledger(folder / ".cache" / LEDGER) as ledger:
        endpoint, caps = endpoint_of(DEFAULT_URL), {"max_calls": 0, "max_usd": 0}
        for row in rows:
            (key,) = keys_of([row["body"]], params)
            made = ledger.reserve(key, endpoint, "m", 1.0, body=row["body"], **caps)
            ledger.receive(made, completion("no JSON").decode(), 0.5)
        again = repair_of(rows[0]["body"], "no JSON")
        (key,) = keys_of([again], params)
        made = ledger.reserve(key, endpoint, "m", 1.0, body=again, batch="t", **caps)
        ledger.record_batch("t", endpoint=endpoint, state="running", lines=[("c0", key, made)])
    told = json.loads(run(folder, "--json").output)["quotes"][0]
    assert (told["known"], told["under_way"], told["ask"]) == (2, 1, 1)
    assert told["spent"] == {"calls": 3, "usd": 2.0}


def test_the_length_of_answers_can_be_given(project):
    """Four requests, each of whose answers is 100 tokens at most."""
    folder = project(4, **PRICED)
    found = json.loads(run(folder, "--answer-tokens", "25", "--json").stdout)
    [told] = found["quotes"]
    assert told["output_tokens"] == {"least": None, "about": 100.0, "most": 400}
    assert told["usd"]["about"] == pytest.approx(
        (told["input_tokens"]["about"] * 10 + 100 * 100) / 1e6
    )
    assert found["basis"]["output_tokens"] == 25
    assert found["basis"]["measured_output"] == 0
    said = run(folder, "--answer-tokens", "25").output
    assert "Output: 25 tokens an answer, as given by --answer-tokens; at most" in said
    over = json.loads(run(folder, "--answer-tokens", "900", "--json").stdout)["quotes"][0]
    assert over["output_tokens"]["about"] == 400, "no answer is over teacher.max_tokens"
    assert run(folder, "--answer-tokens", "0").exit_code == 2

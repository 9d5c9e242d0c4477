"""What stands around the backends: the lines, the summary, the price, the traces."""

import json
import tracemalloc

import pytest
from tests import domain
from tests.unit.teacher.test_calls import GOOD, body, key_of, make, raw

from seedtalk import teacher as layer
from seedtalk.errors import InputError, RunError
from seedtalk.teacher import batch, calls, openai, replay
from seedtalk.teacher.answers import Answer, Failure, completion
from seedtalk.teacher.ledger import Ledger, endpoint_of
from seedtalk.teacher.prices import Price

PRICED = {"usd_per_million_input": 1e6, "usd_per_million_output": 2e6}  # 1 and 2 USD a token


def teacher(backend="openai", **values):
    return domain.params(teacher={"backend": backend, "model": "m"} | values).teacher


def requests(*names):
    return [{"custom_id": name, "body": body(name)} for name in names]


def answer(name, usage=True, repaired=False):
    return Answer(completion(raw(GOOD, usage)), f"key of {name}", repaired)


@pytest.fixture
def backend(monkeypatch):
    """Stands in for every backend: gives `outcomes`, does `act` before."""

    class Stand:
        def __init__(self):
            self.outcomes, self.seen = [], {}

        def act(self, ledger):
            pass

        def answer_all(self, bodies, params, ledger, **told):
            self.seen = told
            self.act(ledger)
            return self.outcomes

    stand = Stand()
    for module in (openai, batch, replay):
        monkeypatch.setattr(module, "answer_all", stand.answer_all)
    return stand


def generate(tmp_path, *names, params=None, **more):
    return layer.generate(requests(*names), params or teacher(), seed=0, cache_dir=tmp_path, **more)


def test_lines_are_in_order_and_say_which_request_answered(backend, tmp_path):
    backend.outcomes = [answer("a"), Failure("content_filter", "no"), answer("r", repaired=True)]
    lines, summary = generate(tmp_path, "a", "b", "c", params=teacher(**PRICED))
    assert lines[0] == {
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": "key of a",
            "body": completion(raw(GOOD)),
        },
        "error": None,
    }
    assert lines[1] == {
        "custom_id": "b",
        "response": None,
        "error": {"code": "content_filter", "message": "no"},
    }
    assert lines[2]["response"]["request_id"] == "key of r"
    assert summary == {
        "backend": "openai",
        "model": "m",
        "requests": 3,
        "answered": 2,
        "failed": 1,
        "repaired": 1,
        "tokens": {"input": 10, "output": 4},
        "usd": 18.0,
        "spent": {"calls": 0, "usd": 0.0},  # this backend asked nobody
    }
    assert list(summary) == [
        *("backend", "model", "requests", "answered", "failed", "repaired", "tokens", "usd"),
        "spent",
    ]


@pytest.mark.parametrize(
    ("backend_name", "usd"), [("openai", 9.0), ("batch", 4.5), ("replay", 9.0)]
)
def test_answers_through_the_batch_api_cost_less(backend, tmp_path, backend_name, usd):
    table = tmp_path / "prices.yaml"
    table.write_text("m: {input: 1000000, output: 2000000, batch_factor: 0.5}")
    backend.outcomes = [answer("a")]
    params = teacher(backend_name, prices=str(table))
    with Ledger(tmp_path / "ledger.sqlite"):  # only a paid backend makes one
        pass
    _, summary = generate(tmp_path, "a", params=params)
    assert summary["usd"] == usd and summary["backend"] == backend_name
    if backend_name == "replay":
        assert backend.seen == {}
    else:
        price = backend.seen["prices"]
        assert price == Price(1e6, 2e6, None, 0.5, f"{table}, m")


def test_one_answer_without_a_count_makes_the_sums_unknown(backend, tmp_path):
    backend.outcomes = [answer("a"), answer("b", usage=False)]
    _, summary = generate(tmp_path, "a", "b", params=teacher(**PRICED))
    assert summary["tokens"] == {"input": None, "output": None} and summary["usd"] is None


def test_an_unknown_price_makes_the_cost_unknown(backend, tmp_path):
    backend.outcomes = [answer("a")]
    _, summary = generate(tmp_path, "a", params=teacher(max_calls=3))
    assert summary["usd"] is None and backend.seen == {"prices": None}


def test_a_cap_without_a_price_is_refused_before_anything_is_made(backend, tmp_path):
    with pytest.raises(InputError, match=r"teacher\.max_usd: a cap is set but the price of 'm'"):
        generate(tmp_path, "a", params=teacher(max_usd=1.0))
    assert list(tmp_path.iterdir()) == []


def test_requests_to_another_model_are_refused_before_anything_is_made(backend, tmp_path):
    with pytest.raises(InputError, match="'a' is to the model 'm', but teacher.model is 'other'"):
        generate(tmp_path, "a", params=teacher(model="other"))
    assert list(tmp_path.iterdir()) == []


def test_not_one_answer_is_a_failed_run(backend, tmp_path):
    backend.outcomes = [Failure("x", "first"), Failure("y", "then")]
    with pytest.raises(RunError, match=r"not one of 2 requests was answered \(the last: y: then"):
        generate(tmp_path, "a", "b")


def test_lines_hold_the_answers_not_copies(backend, tmp_path):
    backend.outcomes = [answer("a") for _ in range(3000)]
    names = [str(n) for n in range(3000)]
    rows, params = requests(*names), teacher(**PRICED)
    tracemalloc.start()
    lines, _ = layer.generate(rows, params, seed=0, cache_dir=tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines[7]["response"]["body"] is backend.outcomes[7].body
    assert held / 3000 < 1000  # bytes a line, whatever the length of its answer


def test_an_overrun_of_the_cap_is_told(backend, tmp_path, capsys):
    def act(ledger):
        ledger.scope([key_of(body("a"))])
        make(ledger, body("a"), usd=3.0)

    backend.act = act
    backend.outcomes = [answer("a")]
    generate(tmp_path, "a", params=teacher(max_usd=2.5, **PRICED))
    said = capsys.readouterr().err
    assert "teacher.max_usd=2.5 was passed" in said and "3.0000 USD are spent" in said
    generate(tmp_path, "a", params=teacher(max_usd=25.0, **PRICED))
    assert capsys.readouterr().err == ""


def asking(*names, then=None):
    def act(ledger):
        endpoint = endpoint_of(openai.DEFAULT_URL)
        for name in names:
            (key,) = openai.keys_of([body(name)], teacher())
            row = ledger.reserve(key, endpoint, "m", 1.0, body=body(name), max_calls=0, max_usd=0.0)
            ledger.receive(row, raw(GOOD))
        if then:
            raise then

    return act


@pytest.mark.parametrize("then", [None, RunError("the cap is reached")])
def test_what_was_asked_is_traced_also_where_the_run_stopped(backend, tmp_path, then):
    told = []

    def trace(spans, count):
        told.append((count, [whole.inputs[0]["content"] for whole, *_ in spans]))

    backend.act = asking("b", "a", then=then)
    backend.outcomes = [answer("a"), answer("b")]
    if then:
        with pytest.raises(RunError, match="cap is reached"):
            generate(tmp_path, "a", "b", trace=trace)
    else:
        generate(tmp_path, "a", "b", trace=trace)
    assert told == [(2, ["b", "a"])]


def test_what_the_ledger_answers_is_not_traced(backend, tmp_path):
    with Ledger(tmp_path / layer.LEDGER) as ledger:
        asking("a")(ledger)
    backend.outcomes = [answer("a")]
    told = []
    generate(tmp_path, "a", trace=lambda *spans: told.append(spans))
    assert told == []


def test_nothing_is_looked_up_where_nothing_is_traced(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "latest", None)
    backend.outcomes = [answer("a")]
    generate(tmp_path, "a")


def test_the_extractive_teachers_answers_have_a_key_of_request_and_seed():
    from tests.unit.teacher.test_extractive import requests as grounded

    rows = [request for request, _ in grounded()[:3]]
    params = domain.params().teacher

    def ids(seed):
        lines, summary = layer.generate(rows, params, seed=seed, cache_dir=None)
        assert (summary["repaired"], summary["usd"]) == (0, 0.0)
        return [line["response"]["request_id"] for line in lines]

    assert ids(0) == ids(0) and len({*ids(0), *ids(1)}) == 6
    assert all(len(each) == 64 for each in ids(0))


def write_file(path, rows, end="\n"):
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    return layer.read_requests(path)


@pytest.mark.parametrize("end", ["\n", "", "\n \n"])
def test_requests_of_a_file_are_those_of_a_list(tmp_path, end):
    rows = requests("a", "b", "ç é 界", "d")
    found = write_file(tmp_path / "r.jsonl", rows, end)
    assert len(found) == 4 and list(found) == rows
    assert [found[-1], found[2], *found[1:3]] == [rows[3], rows[2], *rows[1:3]]
    with pytest.raises(IndexError):
        found[4]


def test_a_files_requests_are_not_held(tmp_path):
    rows = requests(*map(str, range(2000)))
    for row in rows:
        row["body"]["messages"][0]["content"] = "word " * 1000
    tracemalloc.start()
    found = write_file(tmp_path / "r.jsonl", rows[:1])
    begun, _ = tracemalloc.get_traced_memory()
    path = tmp_path / "many.jsonl"
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    found = layer.read_requests(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 2000
    assert (held - begun) / 2000 < 100  # bytes a request of 5,000 characters


def test_answers_of_the_extractive_teacher_are_written_as_they_come(tmp_path):
    from tests.unit.teacher.test_extractive import requests as grounded

    rows = [request for request, _ in grounded()[:5]]
    params, begun, written = domain.params().teacher, [], []

    class Watched(list):
        def __getitem__(self, place):
            begun.append(place)
            return super().__getitem__(place)

    def write(lines):
        for line in lines:
            written.append((line["custom_id"], max(begun)))

    summary = layer.stream(Watched(rows), params, seed=0, cache_dir=None, write=write)
    assert written == [(row["custom_id"], place) for place, row in enumerate(rows)]
    assert summary["answered"] == 5
    lines, again = layer.generate(rows, params, seed=0, cache_dir=None)
    assert again == summary and [line["custom_id"] for line in lines] == [w[0] for w in written]


def test_a_run_without_an_answer_leaves_the_old_responses(backend, tmp_path):
    from seedtalk.records import write_jsonl

    path = tmp_path / "responses.jsonl"
    path.write_text("old\n")
    backend.outcomes = [Failure("x", "no")]
    with pytest.raises(RunError, match="not one of 1 requests"):
        layer.stream(
            requests("a"), teacher(), seed=0, cache_dir=tmp_path,
            write=lambda lines: write_jsonl(path, lines),
        )  # fmt: skip
    assert path.read_text() == "old\n" and [p.name for p in tmp_path.glob("*responses*")] == [
        "responses.jsonl"
    ]

"""The parts of the batch backend that need no endpoint: lines, cuts, results, reservations."""

import contextlib
import json
import re
from itertools import zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.teacher import batch_lines
from seedtalk.teacher.answers import completion
from seedtalk.teacher.batch_lines import (
    BadLineError,
    LineError,
    chunks,
    read_result,
    request_line,
    whole_lines,
)
from seedtalk.teacher.batch_results import Harvest, verdict
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.prices import Price

TEXTS = st.text(st.characters(codec=None), max_size=20)  # lone surrogates and controls too


@given(TEXTS)
def test_a_request_is_one_line_that_reads_back(text):
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    raw = request_line("k" * 64, body)
    assert raw.endswith(b"\n") and raw.count(b"\n") == 1 and raw.isascii()
    assert json.loads(raw) == {
        "custom_id": "k" * 64,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 7), st.integers(50, 120))
def test_cuts_keep_order_and_limits_and_are_no_more_than_needed(sizes, most, most_bytes):
    lines = [(f"k{n}", size) for n, size in enumerate(sizes)]
    cut = list(chunks(lines, most, most_bytes))
    assert [key for chunk in cut for key in chunk] == [key for key, _ in lines]
    told = dict(lines)
    for chunk, after in zip_longest(cut, cut[1:]):
        size = sum(told[key] for key in chunk)
        assert 0 < len(chunk) <= most and size <= most_bytes
        if after:  # the next line had no place in it
            assert len(chunk) == most or size + told[after[0]] > most_bytes


def test_a_line_of_just_the_limit_fits_and_one_byte_more_does_not():
    assert list(chunks([("a", 10), ("b", 10)], 5, 10)) == [["a"], ["b"]]
    with pytest.raises(InputError, match="11 bytes"):
        list(chunks([("a", 11)], 5, 10))


def result(response=None, error=None, custom_id="k"):
    return json.dumps({"custom_id": custom_id, "response": response, "error": error}).encode()


def test_a_response_is_kept_as_json():
    body = {"choices": [{"message": {"content": "half \ud83d of a pair, é"}}]}
    read = read_result(result({"status_code": 200, "body": body}))
    assert read.custom_id == "k" and read.error is None
    assert json.loads(read.raw) == body and read.raw.isascii()


def test_a_response_that_is_no_object_is_kept_for_the_parser_to_refuse():
    for body in (None, "text", []):
        assert read_result(result({"status_code": 200, "body": body})).raw == json.dumps(body)


ERRORS = {
    "of a call": (
        ({"status_code": 400, "body": {"error": {"code": "c", "type": "t", "message": "m"}}},),
        LineError("c", "m", "t", 400),
    ),
    "without words": (
        ({"status_code": 500, "body": None},),
        LineError(None, "no reason given", None, 500),
    ),
    "of another form": (
        ({"status_code": "x", "body": {"error": "no"}},),
        LineError(None, "no reason given"),
    ),
    "of the batch": (
        (None, {"code": "batch_expired", "message": "late"}),
        LineError("batch_expired", "late"),
    ),
    "with a number for a code": ((None, {"code": 7, "message": 8}), LineError("7", "8")),
}


@pytest.mark.parametrize(("parts", "error"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_told_in_the_endpoints_words(parts, error):
    read = read_result(result(*parts))
    assert read.raw is None and read.error == error


@given(
    st.lists(st.binary(max_size=8) | st.sampled_from([b"\n", b"a\nb", b"\n\n"]), max_size=12),
    st.integers(1, 12),
)
def test_lines_come_whole_whatever_parts_they_come_in(parts, most):
    raw = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_lines, "MOST_LINE", most)
        found = list(whole_lines(parts))
    lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", raw)
    note = b"a line of %d bytes was left out"
    for line, got in zip(lines, found, strict=True):
        bare = line.rstrip(b"\n")
        end = line[len(bare) :]
        assert got == (line if len(bare) <= most else note % len(bare) + end)


BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"custom_id": 1}',
    b'{"custom_id": "k"}',
    b"\xff\xfe",
    b"9" * 5000,
]


@pytest.mark.parametrize("raw", [*BAD, b"[" * 100_000])
def test_what_is_no_result_is_told(raw):
    with pytest.raises(BadLineError):
        read_result(raw)


@given(st.binary(max_size=60))
def test_no_bytes_end_the_reading(raw):
    with contextlib.suppress(BadLineError):
        read_result(raw)


KINDS = [
    (LineError("batch_expired", ""), "passing"),
    (LineError(None, "?"), "passing"),
    (LineError("insufficient_quota", ""), "account"),
    (LineError(None, "", "insufficient_quota"), "account"),
    (LineError("x", "", None, 500), "passing"),
    (LineError("x", "", None, 429), "busy"),
    (LineError("insufficient_quota", "", None, 429), "account"),
    (LineError("x", "", None, 401), "account"),
    (LineError("x", "", None, 400), "permanent"),
]


@pytest.mark.parametrize(("error", "kind"), KINDS)
def test_what_an_error_means(error, kind):
    assert verdict(error).kind == kind


# Reading a file of results


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def planned(ledger, keys, usd=1.0):
    rows = [ledger.reserve(k, "e", "m", usd, max_calls=0, max_usd=0.0, batch="t") for k in keys]
    lines = [(key, key, row) for key, row in zip(keys, rows, strict=True)]
    ledger.record_batch("t", endpoint="e", state="running", lines=lines)
    (batch,) = ledger.open_batches("e")
    return batch


def answer(key, content="text", tokens=1000):
    body = {
        "choices": [{"message": {"content": content}}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": tokens},
    }
    return result({"status_code": 200, "body": body}, custom_id=key)


def test_responses_go_to_the_ledger_at_the_batch_price(ledger, tmp_path):
    harvest = Harvest(planned(ledger, "ab"), ledger, Price(1.0, 3.0, batch_factor=0.5))
    path, aside = tmp_path / "out", tmp_path / "aside"
    path.write_bytes(answer("a") + b"\n\n" + answer("?") + b"\nnonsense")
    ledger.scope("ab")
    assert harvest.read(path, aside) == 2 and harvest.unread == 1
    assert [completion(raw)["choices"] for raw in ledger.received("a")]
    assert ledger.spent().usd == pytest.approx(1.0 + 0.002)
    assert aside.read_bytes() == answer("?") + b"\nnonsense"
    ((row, error, told),) = harvest.failures(LineError("missing", "no line")).values()
    assert (error.code, told) == ("missing", False) and row == harvest.rows["b"]
    assert harvest.oddities() == (
        "1 lines could not be read; 1 lines name a request the batch does not hold"
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["good", "other", "empty", "error"]), max_size=6), st.integers(1, 3)
)
def test_of_any_results_the_first_with_text_stands(tmp_path_factory, kinds, commit):
    from seedtalk.teacher import batch_results

    made = {
        "good": answer("a", "good"),
        "other": answer("a", "other"),
        "empty": answer("a", None),
        "error": result(None, {"code": "x", "message": "y"}, custom_id="a"),
    }
    folder = tmp_path_factory.mktemp("harvest")
    path = folder / "out"
    path.write_bytes(b"".join(made[kind] + b"\n" for kind in kinds))
    with pytest.MonkeyPatch.context() as patch, Ledger(folder / "ledger.sqlite") as ledger:
        patch.setattr(batch_results, "COMMIT", commit)
        harvest = Harvest(planned(ledger, "a"), ledger, None)
        harvest.read(path, folder / "aside")
        texts = [kind for kind in kinds if kind in ("good", "other")]
        kept = [json.loads(raw)["choices"][0]["message"]["content"] for raw in ledger.received("a")]
        if texts:
            assert kept == texts[:1]
        else:
            assert kept == [None] * ("empty" in kinds)
        failed = harvest.failures(LineError("missing", "no line"))
        assert bool(failed) is (not {"good", "other", "empty"} & set(kinds))
        if failed:
            assert failed["a"][1].code == ("x" if "error" in kinds else "missing")
        assert ("two different" in harvest.oddities()) is (
            bool(texts)
            and any(kind not in (texts[0], "error") for kind in kinds[kinds.index(texts[0]) :])
        )


def test_what_a_killed_run_put_down_is_no_failure(ledger, tmp_path):
    batch = planned(ledger, "ab")
    ledger.receive(batch.lines[0][2], "{}")
    harvest = Harvest(batch, ledger, None)
    assert harvest.failures(LineError("missing", "no line")).keys() == {"b"}


# Reservations


def test_what_is_withdrawn_was_never_spent(ledger):
    ledger.scope("abc")
    batch = planned(ledger, "ab", usd=0.25)
    rows = [row for _, _, row in batch.lines]
    assert (ledger.spent().calls, ledger.spent().usd) == (2, 0.5)
    ledger.receive(rows[0], "{}")
    ledger.withdraw(rows)  # what came back stays
    assert (ledger.spent().calls, ledger.spent().usd) == (1, 0.25)
    ledger.withdraw(rows)
    assert ledger.spent().calls == 1
    ledger.scope("abc")  # added up anew
    assert (ledger.spent().calls, ledger.spent().usd) == (1, 0.25)


def test_a_claim_of_another_run_is_seen(ledger, tmp_path):
    assert not ledger.is_claimed("abc")
    with Ledger(tmp_path / "ledger.sqlite") as other:
        with other.claim("abc") as mine:
            assert mine and ledger.is_claimed("abc")
        assert not ledger.is_claimed("abc")

"""The key stays out of every file, however it is spelt; an endpoint's words steer no terminal."""

import json
import re
import sqlite3
import time

import pytest
from tests.faults.server import KEY, completion, error, requests, say, teacher

from seedtalk import teacher as layer
from seedtalk.errors import RunError
from seedtalk.teacher.openai import scrub

pytestmark = pytest.mark.usefixtures("impatient")

OTHER_KEY = "gQ_0123456789/abcdefghijklmnop-9876543210"  # of a vendor whose keys look otherwise


def generate(endpoint, tmp_path, rows, **values):
    return layer.generate(rows, teacher(endpoint, **values), seed=0, cache_dir=tmp_path)


def spelt(key, times=1):
    """Return the key as JSON may spell it, within as many JSON texts."""
    for _ in range(times):
        key = "".join(f"\\u{ord(char):04X}" if char in "-_Q\\" else char for char in key)
        key = key.replace("/", "\\/")
    return key


def decoded(text):
    plain = re.sub(r"\\u(00..)", lambda found: chr(int(found[1], 16)), text)
    return plain.replace("\\/", "/")


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_key_that_is_spelt_otherwise_is_kept_nowhere(endpoint, tmp_path, monkeypatch, key, times):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    raw = completion(r"you sent it: \ HERE").replace(b"HERE", spelt(key, times).encode())
    endpoint.plan = {"q0": [say(body=raw)], "q1": [error(400, "x", f"sent {spelt(key, times)}")]}
    lines, _ = generate(endpoint, tmp_path, requests(3), repair=False)
    content = lines[0]["response"]["body"]["choices"][0]["message"]["content"]
    assert content == r"you sent it: \ ***"
    assert lines[1]["error"]["message"].endswith("sent ***")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        told = "\n".join(
            str(text) for row in db.execute("SELECT body, error FROM attempts") for text in row
        )
    for _ in range(5):
        assert key not in told
        told = decoded(told)


@pytest.mark.parametrize("key", [KEY, OTHER_KEY, 'a"b\\c/d"e\\f/0123456789'])
def test_what_is_scrubbed_is_json_still(key):
    for text in (f"\\{key}", f'"{key}', f"{key}\\", f"{key}\n{key}", f"x{key[1:]}"):
        raw = json.dumps([text]).replace("/", "\\/")
        for known in (raw, raw.replace(json.dumps(key[3])[1:-1], f"\\u{ord(key[3]):04x}")):
            (kept,) = json.loads(scrub(known, key, 16))
            assert key not in kept and ("***" in kept) == (key in text)


@pytest.mark.parametrize("cut", range(240, 300, 6))
def test_a_message_is_not_cut_within_the_key(endpoint, tmp_path, monkeypatch, cut):
    monkeypatch.setenv("OPENAI_API_KEY", OTHER_KEY)
    endpoint.plan = {"q1": [error(400, "y" * cut + OTHER_KEY, "y" * cut + OTHER_KEY)]}
    lines, _ = generate(endpoint, tmp_path, requests(2))
    assert OTHER_KEY[:4] not in json.dumps(lines[1]["error"])


def test_looking_for_the_key_takes_linear_time():
    start = time.process_time()
    for text in ("\\" * 400_000, "\\u005c" * 100_000, "s\\u00" * 100_000, "s\\\\u0073" * 50_000):
        scrub(text + "\\u0000", KEY, 16)
    assert time.process_time() - start < 5


def test_what_an_endpoint_says_steers_no_terminal(endpoint, tmp_path):
    endpoint.default = [error(401, "x\x1b[2J", "\x1b]0;owned\x07 \u202ehi\u200b")]
    with pytest.raises(RunError) as raised:
        generate(endpoint, tmp_path, requests(2))
    assert "x[2J: HTTP 401: " in raised.value.message and raised.value.message.isprintable()


def test_a_refusal_in_an_answer_steers_no_terminal(endpoint, tmp_path):
    message = {"message": {"content": None, "refusal": "\x1b[2J\u202eI will not."}}
    endpoint.plan = {"q1": [say(body=json.dumps({"choices": [message]}).encode())]}
    lines, _ = generate(endpoint, tmp_path, requests(2))
    assert lines[1]["error"]["message"] == "the teacher refused: [2JI will not."

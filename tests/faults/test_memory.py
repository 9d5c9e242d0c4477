"""How long prompts and answers are, and how many, does not show in what a run holds."""

import json
import os
import subprocess
import sys
from collections import deque

from tests import domain
from tests.faults.batch_server import answered
from tests.faults.server import completion, say

COUNTS = (50, 250)
LONG = 20_000  # characters of a prompt and of an answer
A_REQUEST = 500  # bytes: its key in a list, a dict and a set, and where its line begins
OTHERS = 200_000  # bytes: what a run of any length holds, give or take

CONTENT = json.dumps(
    {"messages": [{"role": "seeker", "content": "said " * (LONG // 5)}], "recommendations": []}
)


def peaks(folder, url, *backends):
    domain.write_params(folder / "params.yaml")
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.measured", str(folder), url, *backends],
        cwd=domain.ROOT,
        env=os.environ | {"PYTHONPATH": str(domain.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def check(found):
    few, many = COUNTS
    for backend, (small, large) in found.items():
        assert large - small < (many - few) * A_REQUEST + OTHERS, (backend, small, large)


def test_calls_and_replays_hold_neither_prompts_nor_answers(endpoint, tmp_path):
    endpoint.default = [say(body=completion(CONTENT))]
    endpoint.seen = deque(maxlen=1)
    check(peaks(tmp_path, endpoint.url, "openai", "replay"))
    assert endpoint.total == 1 + sum(COUNTS)


def test_batches_hold_neither_prompts_nor_answers(server, tmp_path):
    server.default = [answered(CONTENT)]
    check(peaks(tmp_path, server.url, "batch"))
    assert server.created == 1 + 1 + 3

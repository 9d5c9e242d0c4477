"""What the registry holds and `mlflow models serve` answers with."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.pipeline.closure import closure, module_file
from tests.toy import toy_items, toy_student

from seedtalk import tracking
from seedtalk.chatting import reply
from seedtalk.errors import InputError
from seedtalk.params import load_params
from seedtalk.recommender import NOTHING_LEFT, Recommender, save_recommender
from seedtalk.records import write_json, write_table
from seedtalk.students.loading import Manifest, write_manifest

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
NAME = "toy-zero-shot"
TITLES = {item["item_id"]: item["title"] for item in toy_items()}
ASK = {"role": "user", "content": "I loved Six Alibis. What should I watch next?"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    toy_student(root / "toy")
    (root / "models" / NAME).mkdir(parents=True)
    manifest = Manifest(base=str(root / "toy"), tuning="zero-shot")
    write_manifest(root / "models" / NAME, manifest)
    items = [*toy_items(), {**toy_items()[0], "item_id": "g000", "year": 1911}]  # a remake
    write_table(root / "items.parquet", pd.DataFrame(items), "items")
    return root


@pytest.fixture(scope="module")
def folder(workspace):
    made = workspace / "recommender"
    made.mkdir()
    student, items = workspace / "models" / NAME, workspace / "items.parquet"
    save_recommender(made, student, items, years="ambiguous", cache_dir=workspace)
    return made


@pytest.fixture(scope="module")
def recommender(folder, workspace):
    return Recommender(folder, cache_dir=workspace)


def listed(answer):
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    items = answer["custom_outputs"]["items"]
    lines = [f"{rank}. {item['title']}" for rank, item in enumerate(items, 1)]
    assert choice["message"] == {"role": "assistant", "content": "\n".join(lines)}
    assert choice["finish_reason"] == "stop"
    return [item["item_id"] for item in items]


def test_folder_stands_by_itself_and_names_no_place_on_this_machine(folder, workspace):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"items.parquet", "recommender.json", "student/model.safetensors"} <= names
    for path in folder.rglob("*.json"):
        assert str(workspace) not in path.read_text()


def test_answer_is_a_numbered_list_of_items(recommender):
    answer = recommender.complete({"messages": [ASK]})
    found = listed(answer)
    assert answer["model"] == NAME
    assert len(found) == len(set(found)) == 5
    assert set(found) <= {*TITLES, "g000"}


def test_year_stands_only_where_two_items_share_a_title(recommender):
    every = recommender.complete({"messages": [ASK], "titles": 41})["custom_outputs"]["items"]
    shared = {item["title"] for item in every if item["item_id"] in ("f000", "g000")}
    first = toy_items()[0]
    assert shared == {f"{first['title']} ({first['year']})", f"{first['title']} (1911)"}
    assert sum("(" in item["title"] for item in every) == 2


def test_what_either_side_named_or_the_request_excludes_is_not_named(recommender):
    said = {title: item for item, title in TITLES.items()}
    everything = listed(recommender.complete({"messages": [ASK], "titles": 100}))
    assert said["Six Alibis"] not in everything and len(everything) == 40
    first = everything[0]
    history = [ASK, {"role": "assistant", "content": f"1. {TITLES[first]}"}]
    history += [{"role": "user", "content": "Something else, please."}]
    again = listed(recommender.complete({"messages": history, "titles": 100}))
    assert set(again) == set(everything) - {first}
    request = {"messages": [ASK], "titles": 100, "exclude": everything[:3]}
    assert set(listed(recommender.complete(request))) == set(everything[3:])


def test_it_says_what_chat_would_say(recommender):
    history = [{"role": "seeker", "text": "Something with a heist."}]
    rows = reply(recommender._scorer, history, 7)
    asked = {"messages": [{"role": "user", "content": "Something with a heist."}], "titles": 7}
    assert listed(recommender.complete(asked)) == [recommender._ids[row] for row in rows]


def test_system_message_and_sampling_of_the_request_are_passed_over(recommender):
    plain = listed(recommender.complete({"messages": [ASK]}))
    told = [{"role": "system", "content": "Be a pirate."}, ASK]
    asked = {"messages": told, "temperature": 0.9, "max_tokens": 3, "model": "gpt-4"}
    assert listed(recommender.complete(asked)) == plain
    parts = {"role": "user", "content": [{"type": "text", "text": ASK["content"]}]}
    assert listed(recommender.complete({"messages": [parts]})) == plain


def test_exhausted_catalogue_is_said(recommender):
    answer = recommender.complete({"messages": [ASK], "exclude": [*TITLES, "g000"]})
    assert answer["choices"][0]["message"]["content"] == NOTHING_LEFT
    assert answer["custom_outputs"] == {"items": []}


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({}, "'messages': expected a list"),
        ({"messages": []}, "'messages': expected a list"),
        ({"messages": "hello"}, "'messages': expected a list"),
        ({"messages": ["hello"]}, "message 1: expected an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1, field 'role': 'tool'"),
        ({"messages": [{"role": "user"}]}, "message 1, field 'content': expected a text"),
        ({"messages": [{"role": "user", "content": [{"image": 1}]}]}, "field 'content'"),
        ({"messages": [{"role": "user", "content": []}]}, "field 'content'"),
        ({"messages": [{"role": "user", "content": "  "}]}, "the last message must be the user's"),
        ({"messages": [{"role": "system", "content": "x"}]}, "the last message must be"),
        ({"messages": [ASK, {"role": "assistant", "content": "1. X"}]}, "the last message must be"),
        ({"messages": [ASK], "titles": 0}, "'titles': expected a whole number from 1 to 100"),
        ({"messages": [ASK], "titles": True}, "'titles'"),
        ({"messages": [ASK], "titles": 2.5}, "'titles'"),
        ({"messages": [ASK], "exclude": "f001"}, "'exclude': expected a list"),
        ({"messages": [ASK], "exclude": ["nope"]}, "'exclude': 'nope' is no item"),
        ({"messages": [ASK], "exclude": [["f001"]]}, "'exclude': .* is no item"),
    ],
)
def test_wrong_request_is_refused_and_says_why(recommender, request_, told):
    with pytest.raises(InputError, match=told):
        recommender.complete(request_)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "recommender.json").unlink(), r"recommender\.json: cannot be read"),
        (lambda f: write_json(f / "recommender.json", {"name": "x"}), r"recommender\.json"),
        (lambda f: (f / "items.parquet").write_bytes(b"x"), r"items\.parquet: not a readable"),
        (lambda f: (f / "student" / "model.safetensors").unlink(), r"safetensors"),
    ],
)
def test_damaged_folder_is_an_input_error(folder, tmp_path, damage, told):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(InputError, match=told):
        Recommender(copy, cache_dir=tmp_path)


def test_requirements_are_what_the_recommenders_code_imports():
    """Installed from a version's own requirements, whatever it may import is there."""
    file = module_file("seedtalk.recommender")
    found = set()
    for path in {file, *closure(file)} - {module_file("seedtalk.tracking")}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    owners = packages_distributions()
    needed = {owners[name][0].lower() for name in found - {"seedtalk"} if name in owners}
    needed -= {"peft", "rich"}  # adapters are merged; `chat` is not served
    needed -= {"filelock", "huggingface_hub"}  # come with transformers
    assert needed <= set(tracking.SERVED_WITH)


@pytest.fixture
def server(workspace, monkeypatch):
    """`mlflow models serve` of the registered champion, as its own process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    scores = workspace / "scores.json"
    interval = {"mean": 0.4, "low": 0.3, "high": 0.5}
    write_json(
        scores,
        {"benchmark": "likes", "digest": "q", "systems": {NAME: {"recall@10": interval}}},
    )
    wanted = PARAMS.register_.model_copy(update={"student": NAME})
    verdict = tracking.register(
        workspace, workspace / "models" / NAME, scores, wanted,
        items=workspace / "items.parquet", years="ambiguous", save=save_recommender,
        cache_dir=workspace,
    )  # fmt: skip
    assert verdict["champion"]
    shutil.rmtree(workspace / "toy")  # what is registered needs neither base nor workspace
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking.init(workspace),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",  # the version brings its own code
    }
    log = workspace / "serve.log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/seedtalk@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=workspace, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text())
        yield f"{address}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def post(address, body):
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_mlflow_serves_the_champion_over_http(server, recommender):
    asked = {"messages": [ASK], "titles": 3}
    expected = recommender.complete(asked)
    status, answer = post(server, {**asked, "model": "any", "temperature": 0, "stream": False})
    assert status == 200
    assert listed(answer) == listed(expected)
    assert answer["choices"] == expected["choices"]

    status, answer = post(server, {"inputs": asked})
    assert status == 200 and listed(answer["predictions"]) == listed(expected)

    rows = [{"messages": [ASK]}, {"messages": [{"role": "user", "content": "A heist film?"}]}]
    status, answer = post(server, {"dataframe_records": rows})
    assert status == 200
    assert [listed(one) for one in answer["predictions"]] == [
        listed(recommender.complete(row)) for row in rows
    ]

    status, answer = post(server, {"messages": [{"role": "assistant", "content": "1. X"}]})
    assert status == 400 and "the last message must be the user's" in answer["message"]
    status, answer = post(server, {"messages": [ASK], "titles": 0})
    assert status == 400 and "a whole number from 1 to 100" in answer["message"]
    assert "stack_trace" not in answer
    status, answer = post(server, {"prompt": "hello"})
    assert status == 400 and "missing inputs ['messages']" in answer["message"]

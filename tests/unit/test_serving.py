import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

from seedtalk import serving
from seedtalk.cli import main
from seedtalk.errors import InputError, RunError
from seedtalk.serving import Serving, serve

ROOT = Path(__file__).parents[2]


class FakeParams:
    """The fields of llama.cpp's parameters that are set; another one is a mistake."""

    __slots__ = (
        "cache_prompt",
        "cors_origins",
        "cpuparams",
        "cpuparams_batch",
        "endpoint_props",
        "endpoint_slots",
        "hostnames",
        "model",
        "model_alias",
        "n_ctx",
        "n_parallel",
        "port",
        "speculative",
        "ui",
        "verbosity",
    )

    def __init__(self):
        self.model = SimpleNamespace(path="")
        self.cpuparams = SimpleNamespace(n_threads=-1, poll=50)
        self.cpuparams_batch = SimpleNamespace(n_threads=-1, poll=50)
        self.speculative = SimpleNamespace(types=[], ngram_simple=SimpleNamespace())


@pytest.fixture
def llama(monkeypatch):
    """Put a module in place of llama.cpp; return it, with the servers made."""
    module = ModuleType("xllamacpp")
    module.started, module.ended = [], []

    class Server:
        def __init__(self, params):
            self.params = params
            module.started.append(params)

        def __del__(self):
            module.ended.append(self.params)

    module.CommonParams = FakeParams
    module.Server = Server
    module.common_speculative_type = SimpleNamespace(
        COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE="ngram-simple"
    )
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    return module


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def options(model, **changed):
    told = {"host": "127.0.0.1", "port": free_port(), "threads": 1, "context": 512, "parallel": 2}
    return Serving(model=model, **(told | changed))


def stop_with(number):
    """Send this process a signal, as a terminal or a supervisor does."""
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_ends_cleanly(llama, model, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    serve(options(model), stop_with(number))
    assert len(llama.started) == len(llama.ended) == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_llama_is_told(llama, model):
    told = options(model, threads=3, context=1000, parallel=5)
    serve(told, stop_with(signal.SIGINT))
    (params,) = llama.started
    assert params.model.path == str(model)
    assert params.model_alias == {"tiny"} == {told.name}
    assert (params.hostnames, params.port) == (["127.0.0.1"], told.port)
    assert told.base_url == f"http://127.0.0.1:{told.port}/v1"
    assert (params.n_ctx, params.n_parallel) == (5000, 5)
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 3
    assert params.cors_origins == f"http://127.0.0.1:{told.port}"
    assert not params.ui


def test_it_is_ready_only_once_the_server_stands(llama, model):
    seen = []

    def ready():
        seen.append(len(llama.started))
        stop_with(signal.SIGTERM)()

    serve(options(model), ready)
    assert seen == [1]


def test_a_stop_while_the_model_loads_announces_nothing(llama, model, monkeypatch):
    load = llama.Server.__init__

    def slow(self, params):
        load(self, params)
        stop_with(signal.SIGINT)()

    monkeypatch.setattr(llama.Server, "__init__", slow)
    serve(options(model), lambda: pytest.fail("announced"))
    assert len(llama.ended) == 1


def test_a_missing_model_names_the_command_that_gets_it(llama, tmp_path):
    with pytest.raises(InputError, match=r"none\.gguf: no such model; `seedtalk fetch teacher`"):
        serve(options(tmp_path / "none.gguf"), pytest.fail)
    assert llama.started == []


def test_a_missing_wheel_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(InputError, match="pip install") as caught:
        serve(options(model), pytest.fail)
    assert "[local-teacher]" in caught.value.message
    assert serving.REQUIREMENT in caught.value.message
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["local-teacher"] == [serving.REQUIREMENT]
    assert not any("xllamacpp" in name for name in project["dependencies"])


def test_a_wheel_that_does_not_load_is_no_traceback(model, monkeypatch, tmp_path):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    with pytest.raises(RunError, match=r"does not load on this machine: GLIBC_2\.99"):
        serve(options(model), pytest.fail)


def test_a_taken_port_is_told_before_the_model_is_loaded(llama, model):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} cannot be listened on.*--port"):
            serve(options(model, port=port), pytest.fail)
    assert llama.started == []


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.org"])
def test_it_listens_on_this_machine_only(llama, model, host):
    with pytest.raises(InputError, match="asks for no key"):
        serve(options(model, host=host), pytest.fail)
    assert llama.started == []


def test_a_model_llama_refuses_is_a_run_error_and_the_signals_are_restored(
    llama, model, monkeypatch
):
    def refuse(self, params):
        self.params = params
        raise RuntimeError("Failed to init server")

    monkeypatch.setattr(llama.Server, "__init__", refuse)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunError, match=r"tiny\.gguf: llama\.cpp could not load it.*--verify"):
        serve(options(model), pytest.fail)
    assert signal.getsignal(signal.SIGTERM) == before


def run_cli(monkeypatch, tmp_path, *arguments):
    """Run the command with a server that ends at once; return the options and the output."""
    seen = []

    def at_once(told, ready):
        seen.append(told)
        ready()

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(serving, "serve", at_once)
    result = CliRunner().invoke(main, ["teacher", "serve", *arguments])
    assert result.exit_code == 0, result.output
    return seen[0], result.output


def test_the_command_prints_the_address_and_what_comes_next(monkeypatch, tmp_path):
    told, output = run_cli(monkeypatch, tmp_path)
    assert told.model == tmp_path / "corpora/teacher/qwen2.5-coder-1.5b-instruct.gguf"
    assert told.threads >= 1
    assert "http://127.0.0.1:8080/v1" in output
    assert "dvc exp run $(seedtalk overrides profiles/local-teacher.yaml)\n" in output


def test_the_small_one_is_named_in_the_next_command(monkeypatch, tmp_path):
    told, output = run_cli(monkeypatch, tmp_path, "--small")
    assert told.model == tmp_path / "corpora/teacher-small/qwen2.5-coder-0.5b-instruct.gguf"
    assert " -S teacher.model=qwen2.5-coder-0.5b-instruct\n" in output


def test_two_models_at_a_time_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    result = CliRunner().invoke(main, ["teacher", "serve", "--small", "--model", "m.gguf"])
    assert result.exit_code == 2
    assert "name one model, not two" in result.output


def test_what_differs_from_the_profile_is_in_the_next_command(monkeypatch, tmp_path):
    _, output = run_cli(monkeypatch, tmp_path, "--port", "9000", "--model", "mine/big.gguf")
    assert " -S teacher.base_url=http://127.0.0.1:9000/v1 -S teacher.model=big\n" in output


def test_the_command_and_the_profile_agree(monkeypatch, tmp_path):
    import yaml

    told, _ = run_cli(monkeypatch, tmp_path)
    profile = yaml.safe_load((ROOT / "profiles/local-teacher.yaml").read_text())
    assert profile["teacher"]["base_url"] == told.base_url
    assert profile["teacher"]["model"] == told.name


def test_a_real_server_binds_an_answer_to_its_schema(tmp_path):
    """SmolLM2 knows no film, but its answer must have the form asked for."""
    pytest.importorskip("xllamacpp")
    model = ROOT / "data/quickstart/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not model.is_file():
        pytest.skip("the quickstart is not fetched")
    port = free_port()
    command = [sys.executable, "-m", "seedtalk", "teacher", "serve", "--model", str(model)]
    command += ["--port", str(port), "--threads", "1", "--context", "512", "--parallel", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    late = threading.Timer(120, process.kill)
    late.start()
    try:
        assert f"http://127.0.0.1:{port}/v1" in process.stdout.readline()
        schema = {
            "type": "object",
            "properties": {"mood": {"type": "string", "enum": ["sad", "glad"]}},
            "required": ["mood"],
            "additionalProperties": False,
        }
        body = {
            "model": "any",
            "temperature": 0.0,
            "max_tokens": 24,
            "messages": [{"role": "user", "content": "How do you feel?"}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "mood", "strict": True, "schema": schema},
            },
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            content = json.load(response)["choices"][0]["message"]["content"]
        assert json.loads(content)["mood"] in ("sad", "glad")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert "The server has ended." in rest
        assert process.returncode == 0
    finally:
        late.cancel()
        process.kill()
        process.wait()

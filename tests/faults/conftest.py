import threading

import pytest
from tests.faults.batch_server import BatchEndpoint
from tests.faults.server import KEY, Endpoint


@pytest.fixture
def endpoint(monkeypatch):
    """A running server; proxies of the environment are out of its way, and the key is a canary."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def impatient(monkeypatch):
    """Waits between attempts are short."""
    monkeypatch.setattr("seedtalk.teacher.limiter.FIRST_WAIT", 0.02)
    monkeypatch.setattr("seedtalk.teacher.limiter.FIRST_COOLING", 1.0)


@pytest.fixture
def server(monkeypatch):
    """A running endpoint for batches, as `endpoint` is one for calls; waits are short."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("seedtalk.teacher.limiter.FIRST_WAIT", 0.01)
    monkeypatch.setattr("seedtalk.teacher.batch_endpoint.SETTLE", 0.4)
    endpoint = BatchEndpoint()
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield endpoint
    endpoint.shutdown()
    endpoint.server_close()
    thread.join()

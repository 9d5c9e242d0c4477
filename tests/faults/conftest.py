import threading

import pytest
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

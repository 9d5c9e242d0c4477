"""Whom the client calls, and by which way."""

import socket

import httpx2
import pytest

from seedtalk.errors import InputError
from seedtalk.teacher import transport


@pytest.fixture
def names(monkeypatch):
    """Names and where they are; addresses are where they say."""
    known = {
        "teacher.internal": ["10.1.2.3"],
        "teacher.example": ["93.184.216.34"],
        "both.example": ["10.1.2.3", "93.184.216.34"],
        "rebound.example": ["93.184.216.34", "169.254.169.254"],
        "rebound6.example": ["64:ff9b::a9fe:a9fe"],
    }
    ask = socket.getaddrinfo

    def answer(host, *more, **values):
        return [e for each in known.get(host, [host]) for e in ask(each, *more, **values)]

    monkeypatch.setattr(transport.socket, "getaddrinfo", answer)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",  # mapped
        "[::ffff:a9fe:a9fe]",
        "[::169.254.169.254]",  # compatible
        "[::a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",  # NAT64
        "[64:ff9b::100.100.100.200]",
        "[64:ff9b::168.63.129.16]",
        "[2002:a9fe:a9fe::1]",  # 6to4
        "[2002:6464:64c8::]",  # 100.100.100.200
        "[2001:0:a9fe:a9fe::]",  # Teredo, the server
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd20:ce::254]",
        "[FD20:CE:0:0::254]",
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata.azure.internal",
        "instance-data",
        "rebound.example",
        "rebound6.example",
    ],
)
@pytest.mark.usefixtures("names")
def test_no_form_of_an_address_of_secrets_passes(host):
    with pytest.raises(InputError, match="teacher.base_url.*keep secrets"):
        transport.check_address(f"http://{host}/v1")


@pytest.mark.parametrize(
    "host",
    [
        "[64:ff9b::5db8:d822]",  # 93.184.216.34 by NAT64
        "[2002:5db8:d822::1]",
        "[::ffff:93.184.216.34]",
        "[::1]",
        "127.0.0.1",
        "[fd12:3456::1]",
        "[fd20:ce::253]",
        "teacher.example",
    ],
)
@pytest.mark.usefixtures("names")
def test_other_addresses_pass(host):
    transport.check_address(f"http://{host}/v1")


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("[::1]", True),
        ("0.0.0.0", True),
        ("[::ffff:127.0.0.1]", True),
        ("10.0.0.7", True),
        ("192.168.1.20", True),
        ("172.31.0.1", True),
        ("[fd12::1]", True),
        ("teacher.internal", True),
        ("172.32.0.1", False),
        ("93.184.216.34", False),
        ("teacher.example", False),
        ("both.example", False),
        ("no-such-host.invalid", False),
    ],
)
@pytest.mark.usefixtures("names")
def test_near_teachers_are_called_directly_and_others_by_the_proxy(host, direct, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for scheme in ("http", "https"):
        url = httpx2.URL(f"{scheme}://{host}:8000/v1/chat/completions")
        with httpx2.Client(mounts=transport.direct(f"{scheme}://{host}:8000/v1")) as client:
            used = client._transport_for_url(url)
            assert (used is client._transport) is direct

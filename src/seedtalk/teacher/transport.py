"""The HTTP client under the SDK: whom it calls, and how.

No redirects, no endless bodies, no idle connections, no addresses of secrets.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from seedtalk.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Machines in a cloud tell their secrets to whoever asks these from within.
_METADATA_NAMES = (
    *("metadata", "metadata.google.internal", "metadata.goog", "instance-data"),
    *("instance-data.ec2.internal", "metadata.azure.internal", "metadata.tencentyun.com"),
)
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            *("100.100.100.200", "192.0.0.192", "168.63.129.16"),
            *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1
_PRIVATE = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)


LANE = 8  # connections of one pool: to find a free one it looks at each of them, by a system call


class TooLargeError(Exception):
    """A response that would not end."""


class _Capped(httpx2.AsyncByteStream):
    """A response's body, up to a number of bytes."""

    def __init__(self, body: httpx2.AsyncByteStream, most: int) -> None:
        self._body, self._most = body, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for part in self._body:
            left -= len(part)
            if left < 0:
                raise TooLargeError(f"a response of over {self._most} bytes")
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()


class _Lanes(DefaultAsyncHttpxClient):
    """The SDK's HTTP client over several, of few connections each; the least busy one sends.

    One pool for all took a fifth to a third of the time of a call at 64 at a time.

    Parameters
    ----------
    lanes
        What sends; this client makes the requests and closes the others.
    **options
        Of the SDK's client.
    """

    def __init__(self, lanes: Sequence[httpx2.AsyncClient], **options: Any) -> None:
        super().__init__(**options)
        self._lanes = lanes
        self._busy = [0] * len(lanes)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        lane = min(range(len(self._lanes)), key=self._busy.__getitem__)
        self._busy[lane] += 1
        try:
            return await self._lanes[lane].send(request, **options)
        finally:
            self._busy[lane] -= 1

    async def aclose(self) -> None:
        for lane in self._lanes:
            await lane.aclose()
        await super().aclose()


def check_address(url: str) -> None:
    """Refuse an endpoint that is, or leads to, an address where machines keep secrets.

    Loopback and private networks are fine: models are served there. An IPv4 address within an
    IPv6 one (mapped, compatible, NAT64, 6to4, Teredo) is judged as the address it leads to.

    Raises
    ------
    InputError
        When it is a link-local or multicast address, or one where a cloud keeps the secrets of
        its machines.
    """
    host = _host_of(url)
    found = [each for address in _addresses(host) for each in _leads_to(address)]
    if host in _METADATA_NAMES or any(map(_is_metadata, found)):
        raise InputError(
            f"teacher.base_url: {host} is an address where machines keep secrets, not a teacher; "
            "name the endpoint itself"
        )


def direct(url: str) -> dict[str, None]:
    """Return the SDK client's `mounts` for an endpoint, so that a near one is called directly.

    A proxy named in the environment (``http_proxy``) is for the world outside: one asked for
    "localhost" would look on its own machine. Other endpoints keep the environment's.
    """
    addresses = _addresses(_host_of(url))
    near = [any(map(_is_near, _leads_to(address))) for address in addresses]
    if not near or not all(near):
        return {}
    host = urlsplit(url).hostname or ""
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None}


def _host_of(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _addresses(host: str) -> set[Address]:
    """Return where a host is; none where it cannot be found, and so will not be called."""
    found = []
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}


def _leads_to(address: Address) -> Iterator[Address]:
    """Yield an address and the IPv4 ones it may be another form of."""
    yield address
    if not isinstance(address, ipaddress.IPv6Address):
        return
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    for inner in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
        if inner is not None:
            yield inner


def _is_metadata(address: Address) -> bool:
    return address.is_link_local or address.is_multicast or address in _METADATA


def _is_near(address: Address) -> bool:
    return (
        address.is_loopback
        or address.is_unspecified
        or any(address in network for network in _PRIVATE)
    )


@asynccontextmanager
async def connect(
    url: str,
    key: str,
    *,
    timeout: float,
    connections: int,
    most_bytes: int,
    most_packed: int,
    keep_alive: float,
) -> AsyncGenerator[AsyncOpenAI, None]:
    """Yield the SDK's client for an endpoint, without retries of its own.

    Parameters
    ----------
    url, key
        Of the endpoint, see `check_address` and `direct`; the key is sent nowhere else, since no
        redirect is followed.
    timeout
        Seconds without a byte.
    connections
        Open at a time at most.
    most_bytes, most_packed
        Of a response's body, and of one that comes compressed although none was asked for;
        more raises `TooLargeError`.
    keep_alive
        Seconds an idle connection is used again.
    """

    async def cap(response: httpx2.Response) -> None:
        packed = response.headers.get("content-encoding", "identity") != "identity"
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Capped(response.stream, most_packed if packed else most_bytes)

    shared: dict[str, Any] = {
        "follow_redirects": False,
        "headers": {"accept-encoding": "identity"},
        "timeout": timeout,
        "verify": httpx2.create_ssl_context(),
    }
    mounts = direct(url)
    limits = httpx2.Limits(
        max_connections=LANE, max_keepalive_connections=LANE, keepalive_expiry=keep_alive
    )
    lanes = [
        DefaultAsyncHttpxClient(
            **shared, limits=limits, event_hooks={"response": [cap]}, mounts=mounts
        )
        for _ in range(math.ceil(connections / LANE))
    ]
    client = AsyncOpenAI(
        api_key=key,
        base_url=url,
        timeout=timeout,
        max_retries=0,
        http_client=_Lanes(lanes, **shared),
    )
    async with client:
        yield client

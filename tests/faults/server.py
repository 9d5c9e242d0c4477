"""A loopback endpoint that speaks chat completions and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import domain

KEY = "sk-canary-0123456789abcdef"
CONTENT = json.dumps({"messages": [{"role": "seeker", "content": "x"}], "recommendations": []})


def completion(content: str | None = CONTENT, **more: Any) -> bytes:
    body = {
        "id": "c",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    return json.dumps(body | more).encode()


Act = Callable[["Handler"], None]


def say(status: int = 200, body: bytes | None = None, delay: float = 0.0, **headers: str) -> Act:
    """Answer with a status, a body (a good completion by default) and headers."""

    def act(handler: Handler) -> None:
        time.sleep(delay)
        text = completion() if body is None else body
        handler.send_response(status)
        names = {"content_type": "application/json"} | headers
        for name, value in names.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    return act


def error(status: int, code: str | None = None, message: str = "no", **headers: str) -> Act:
    """Answer with an error as OpenAI words it."""
    body = {"error": {"message": message, "type": code, "code": code, "param": None}}
    return say(status, json.dumps(body).encode(), **headers)


def reset(after: int = 0) -> Act:
    """Reset the connection, after so many bytes of an answer."""

    def act(handler: Handler) -> None:
        if after:
            handler.send_response(200)
            handler.send_header("content-length", "100000")
            handler.end_headers()
            handler.wfile.write(completion()[:after])
            handler.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        for part in (handler.rfile, handler.wfile, handler.connection):  # each keeps it open
            part.close()

    return act


def drip(handler: Handler) -> None:
    """Send an answer a byte at a time, without end."""
    handler.send_response(200)
    handler.send_header("content-length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def flood(size: int, **headers: str) -> Act:
    """Answer with so many bytes, in chunks, without saying how many."""

    def act(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in ({"transfer_encoding": "chunked"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        part = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(size // 65536):
            handler.wfile.write(part)
            handler.server.flooded += 65536
        handler.wfile.write(b"0\r\n\r\n")

    return act


def redirect(location: str, status: int = 307) -> Act:
    """Send the caller elsewhere."""
    return say(status, b"", location=location)


def at_most(count: int, delay: float = 0.02) -> Act:
    """Serve so many calls at a time, and turn the others away."""

    def act(handler: Handler) -> None:
        full = handler.server.open > count
        (error(429, "rate_limit_exceeded") if full else say(delay=delay))(handler)

    return act


class Handler(BaseHTTPRequestHandler):
    """Counts a call, then does what the server's plan says for its message."""

    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        body = json.loads(raw)
        text = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.calls[text] += 1
            turn = self.server.calls[text]
            said = {"path": self.path, "body": body, "headers": self.headers}
            self.server.seen.append(said | {"time": time.monotonic()})
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        plan = self.server.plan.get(text, self.server.default)
        act = plan[min(turn, len(plan)) - 1]
        try:
            act(self)
        except (BrokenPipeError, ConnectionResetError, OSError):
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.open -= 1

    def log_message(self, *_: Any) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()


class Endpoint(ThreadingHTTPServer):
    """The server; `plan` maps a user message to what happens at its first, second … call."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.seen: list[dict[str, Any]] = []
        self.plan: dict[str, list[Act]] = {}
        self.default: list[Act] = [say()]
        self.open = self.most_open = self.flooded = 0

    def handle_error(self, *_: Any) -> None:
        pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def total(self) -> int:
        return sum(self.calls.values())


def requests(count, prefix="q"):
    return [
        {
            "custom_id": f"{prefix}{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "temperature": 0.5,
                "max_tokens": 20,
                "response_format": {"type": "json_object"},
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": f"{prefix}{n}"},
                ],
            },
        }
        for n in range(count)
    ]


def teacher(endpoint, **values):
    group = {"backend": "openai", "model": "m", "base_url": endpoint.url, "timeout": 5.0}
    return domain.params(teacher=group | values).teacher


def write_requests(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

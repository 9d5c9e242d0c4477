"""A loopback endpoint that speaks the Batch API and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.faults.server import CONTENT, Act, completion, reset

Reply = tuple[int, bytes]
Fault = Callable[["Handler", Callable[[], Reply]], None]
Ending = Callable[[dict[str, Any]], tuple[str, dict[str, Any]] | None]


def answered(content: str | None = CONTENT, **more: Any) -> Ending:
    """End a line in a completion."""
    body = json.loads(completion(content, **more))
    return lambda line: ("output", _result(line, 200, body))


def refused(status: int, code: str | None = None, message: str = "no", param: Any = None) -> Ending:
    """End a line in an error the endpoint words as it does for a single call."""
    error = {"message": message, "type": code, "code": code, "param": param}
    return lambda line: ("error", _result(line, status, {"error": error}))


def never_ran(code: str = "batch_expired", message: str = "was not run in time") -> Ending:
    """End a line without a response, as those of an expired or cancelled batch do."""
    return lambda line: (
        "error",
        {
            "id": "r",
            "custom_id": line["custom_id"],
            "response": None,
            "error": {"code": code, "message": message},
        },
    )


def nothing(_line: dict[str, Any]) -> None:
    """Lose a line: no result names it."""


def _result(line: dict[str, Any], status: int, body: Any) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "q", "body": body}
    return {"id": "r", "custom_id": line["custom_id"], "response": response, "error": None}


def instead(act: Act) -> Fault:
    """Do `act`; the request is not processed."""
    return lambda handler, _proceed: act(handler)


def lost_reply(handler: Handler, proceed: Callable[[], Reply]) -> None:
    """Process the request, then reset the connection."""
    proceed()
    reset()(handler)


def mangled(change: Callable[[bytes], bytes]) -> Fault:
    """Reply with changed bytes."""

    def fault(handler: Handler, proceed: Callable[[], Reply]) -> None:
        status, body = proceed()
        handler.reply(status, change(body))

    return fault


def cut_off(share: float) -> Fault:
    """Promise a whole body, send a share of it and reset the connection."""

    def fault(handler: Handler, proceed: Callable[[], Reply]) -> None:
        _, body = proceed()
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: int(len(body) * share)])
        handler.wfile.flush()
        time.sleep(0.05)
        handler.close_connection = True

    return fault


class Gate:
    """Holds a request still, so that its sender can be killed meanwhile."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def before(self, handler: Handler, _proceed: Callable[[], Reply]) -> None:
        """Hold the request and then drop it unprocessed."""
        self._hold()
        handler.close_connection = True

    def after(self, handler: Handler, proceed: Callable[[], Reply]) -> None:
        """Process the request and hold the reply."""
        proceed()
        self._hold()
        handler.close_connection = True

    def late(self, handler: Handler, proceed: Callable[[], Reply]) -> None:
        """Hold the request and process it once the gate is opened."""
        self._hold()
        proceed()
        handler.close_connection = True

    def halfway(self, handler: Handler, proceed: Callable[[], Reply]) -> None:
        """Send half of the reply and hold the rest."""
        _, body = proceed()
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        self._hold()
        handler.close_connection = True

    def _hold(self) -> None:
        self.reached.set()
        self.opened.wait(30)


class Handler(BaseHTTPRequestHandler):
    """Counts a request, then answers it or does what the plan for its route says."""

    server: BatchEndpoint
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        split = urlsplit(self.path)
        parts = split.path.removeprefix("/v1/").split("/")
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        inner = ["", "/id", f"/id/{parts[-1]}"][len(parts) - 1]
        route = f"{self.command} /{parts[0]}{inner}"
        with self.server.lock:
            turn = self.server.calls[route]
            self.server.calls[route] += 1
            self.server.headers.append((route, dict(self.headers)))
        plan = self.server.faults.get(route, [])
        fault = plan[turn] if turn < len(plan) else None

        def proceed() -> Reply:
            with self.server.lock:
                return self.server.process(route, parts, query, raw, self.headers)

        try:
            if fault:
                fault(self, proceed)
            else:
                self.reply(*proceed())
        except OSError:
            self.close_connection = True

    def reply(self, status: int, body: bytes) -> None:
        """Send a whole reply."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()


class BatchEndpoint(ThreadingHTTPServer):
    """The server.

    `faults` maps a route (``POST /batches``, ``GET /files/id/content`` …) to what happens at
    its first, second … request (None: nothing amiss), `plan` a user message to how its line ends
    in the first, second … batch that holds it, `final` how the first, second … batch ends (a
    status, or a batch-wide error code and message).
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.calls: Counter[str] = Counter()
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.faults: dict[str, list[Fault | None]] = {}
        self.plan: dict[str, list[Ending]] = {}
        self.default: list[Ending] = [answered()]
        self.final: list[str | tuple[str, str]] = ["completed"]
        self.polls = 1  # looks at a batch before it has ended
        self.page = 100  # entries of a list at most
        self.shuffle: Callable[[list[bytes]], list[bytes]] = lambda lines: lines
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()  # lines by user message
        self.paid: Counter[str] = Counter()  # completions by user message
        self.bodies: list[dict[str, Any]] = []

    def handle_error(self, *_: Any) -> None:
        pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def created(self) -> int:
        """Batches made, however often that was asked for."""
        return len(self.batches)

    def lines(self, batch: int = -1) -> list[dict[str, Any]]:
        """Return the request lines of a batch, by its place in creation order."""
        file = list(self.batches.values())[batch]["input_file_id"]
        return [json.loads(line) for line in self.contents[file].splitlines()]

    def process(
        self, route: str, parts: list[str], query: dict[str, str], raw: bytes, headers: Any
    ) -> Reply:
        """Do what a request asks for."""
        if route == "POST /files":
            return self._upload(raw, headers["content-type"])
        if route == "GET /files":
            return self._page(list(self.files.values()), query)
        if route == "POST /batches":
            return self._create(json.loads(raw))
        if route == "GET /batches":
            return self._page(list(self.batches.values()), query)
        if parts == ["chat", "completions"]:
            return 200, completion()
        if route == "GET /files/id/content":
            if parts[1] not in self.contents:
                return _error(404, "not_found", f"No such File object: {parts[1]}")
            return 200, self.contents[parts[1]]
        if parts[0] == "batches" and parts[1] in self.batches:
            batch = self.batches[parts[1]]
            if parts[-1] == "cancel":
                batch["status"] = "cancelling"
            else:
                self._look(batch)
            return 200, json.dumps(batch).encode()
        return _error(404, "not_found", f"nothing at {route} {parts}")

    def _upload(self, raw: bytes, kind: str) -> Reply:
        boundary = b"--" + kind.partition("boundary=")[2].encode()
        fields: dict[str, tuple[str, bytes]] = {}
        for part in raw.split(boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            names = dict(
                item.strip().split("=", 1) for item in head.decode().split(";") if "=" in item
            )
            name = names["name"].split("\r\n")[0].strip('"')
            filename = names.get("filename", "").split("\r\n")[0].strip('"')
            fields[name] = (filename, content.removesuffix(b"\r\n"))
        filename, content = fields["file"]
        file = {
            "id": f"file-{len(self.files)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": filename,
            "purpose": fields["purpose"][1].decode(),
            "status": "processed",
        }
        self.files[file["id"]] = file
        self.contents[file["id"]] = content
        return 200, json.dumps(file).encode()

    def _create(self, asked: dict[str, Any]) -> Reply:
        file = self.files.get(asked["input_file_id"])
        if file is None or file["purpose"] != "batch":
            return _error(400, "invalid_file", f"Invalid file: {asked['input_file_id']}")
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "completion_window": asked["completion_window"],
            "input_file_id": file["id"],
            "status": "validating",
            "created_at": int(time.time()),
            "metadata": asked.get("metadata"),
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return 200, json.dumps(batch).encode()

    def _page(self, entries: list[dict[str, Any]], query: dict[str, str]) -> Reply:
        entries = entries[::-1]  # the newest first
        if query.get("purpose"):
            entries = [entry for entry in entries if entry["purpose"] == query["purpose"]]
        if "after" in query:
            places = [entry["id"] for entry in entries]
            entries = entries[places.index(query["after"]) + 1 :]
        size = min(int(query.get("limit", 20)), self.page)
        data = entries[:size]
        page = {"object": "list", "data": data, "has_more": len(entries) > size}
        if data:
            page |= {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return 200, json.dumps(page).encode()

    def _look(self, batch: dict[str, Any]) -> None:
        if batch["status"] in {"completed", "failed", "expired", "cancelled"}:
            return
        self.looks[batch["id"]] += 1
        lines = [json.loads(line) for line in self.contents[batch["input_file_id"]].splitlines()]
        batch["request_counts"]["total"] = len(lines)
        if self.looks[batch["id"]] < self.polls:
            batch["status"] = "in_progress"
            return
        number = list(self.batches).index(batch["id"])
        ending = self.final[min(number, len(self.final) - 1)]
        if batch["status"] == "cancelling":
            ending = "cancelled"
        fault = ending if isinstance(ending, tuple) else _invalid(lines)
        if fault:
            batch["status"] = "failed"
            error = {"code": fault[0], "message": fault[1], "line": None, "param": None}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        self._end(batch, lines)
        batch["status"] = ending

    def _end(self, batch: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        results: dict[str, list[bytes]] = {"output": [], "error": []}
        for line in lines:
            text = line["body"]["messages"][-1]["content"]
            plan = self.plan.get(text, self.default)
            ending = plan[min(self.asked[text], len(plan) - 1)](line)
            self.asked[text] += 1
            self.bodies.append(line["body"])
            if ending is None:
                continue
            name, result = ending
            self.paid[text] += name == "output"
            results[name].append(json.dumps(result).encode() + b"\n")
        batch["request_counts"] |= {
            "completed": len(results["output"]),
            "failed": len(results["error"]),
        }
        for name, made in results.items():
            if made:
                file = f"{batch['id']}-{name}"
                self.contents[file] = b"".join(self.shuffle(made))
                batch[f"{name}_file_id"] = file


def _invalid(lines: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Return what the endpoint refuses a whole batch for."""
    if len({line["custom_id"] for line in lines}) < len(lines):
        return "duplicate_custom_id", "The custom_id is not unique"
    if len({line["body"]["model"] for line in lines}) > 1:
        return "mismatched_model", "The provided model does not match the one in the batch"
    if any(line["method"] != "POST" or line["url"] != "/v1/chat/completions" for line in lines):
        return "invalid_url", "The URL does not match the batch's endpoint"
    return None


def _error(status: int, code: str, message: str) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
    return status, json.dumps({"error": error}).encode()

"""The endpoint of benchmarks/teacher.py: chat completions on loopback, with faults on demand.

    python teacher_server.py

It prints its port and ends when standard input does. A client's base URL says what it meets and
under what name it is counted: http://127.0.0.1:PORT/MODE,LATENCY_MS,LIMIT,NAME/v1, where more
than LIMIT calls at a time are refused with 429. Modes: `plain`; `cut` (every answer ends at its
token limit, within its JSON), `null` (no content), `storm` (429 with Retry-After: 1 for two
seconds, then plain). GET /MODE,LATENCY_MS,LIMIT,NAME tells what was counted. It is written
against asyncio's protocols, so that a core can serve what the client on the other one sends.
"""

import asyncio
import json
import sys

STORM = 2.0  # seconds


class Scene:
    """What one client meets, and what it did."""

    def __init__(self, name):
        self.mode, latency, limit, _ = name.split(",", 3)
        self.latency, self.limit = int(latency) / 1000, int(limit)
        self.open = self.most_open = self.calls = self.answered = self.refused = 0
        self.began = None

    def told(self):
        names = ("calls", "answered", "refused", "most_open")
        return {name: getattr(self, name) for name in names}

    def answer(self, prompt):
        """Return a completion that repeats the prompt's first word, so that rows can be told."""
        row = prompt.split()[0]
        wish = f"{row}: I want a quiet film about a lighthouse and the people who keep it."
        titles = [f"Film {number} ({1960 + number})" for number in range(10)]
        turns = [{"role": "seeker", "content": wish}]
        text = json.dumps({"messages": turns, "recommendations": titles})
        if self.mode == "cut":
            text = text[: len(text) // 2]
        message = {"role": "assistant", "content": None if self.mode == "null" else text}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "length" if self.mode == "cut" else "stop",
        }
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": {"prompt_tokens": 400, "completion_tokens": 150, "total_tokens": 550},
        }


class Connection(asyncio.Protocol):
    scenes: dict = {}  # noqa: RUF012 - shared by all connections

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while True:
            head, mark, rest = self.buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            lines = head.decode("latin-1").split("\r\n")
            fields = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
            size = int(fields.get("content-length", 0))
            if len(rest) < size:
                return
            body, self.buffer = rest[:size], rest[size:]
            method, path, _ = lines[0].split(" ")
            self.serve(method, path, body)

    def serve(self, method, path, body):
        name = path.split("/")[1]
        scene = self.scenes.setdefault(name, Scene(name))
        if method == "GET":
            self.send(200, scene.told())
            return
        messages = json.loads(body)["messages"]
        if not messages:  # a client that looks for the headers of a rate limit
            self.send(400, {"error": {"message": "no messages", "code": None}})
            return
        loop = asyncio.get_running_loop()
        scene.calls += 1
        scene.began = scene.began or loop.time()
        if scene.mode == "storm" and loop.time() - scene.began < STORM:
            self.refuse(scene, "retry-after: 1\r\n")
        elif scene.open >= scene.limit:
            self.refuse(scene, "")
        else:
            scene.open += 1
            scene.most_open = max(scene.most_open, scene.open)
            told = [m["content"] for m in messages if m["role"] == "user"]
            loop.call_later(scene.latency, self.done, scene, told[0])

    def refuse(self, scene, headers):
        scene.refused += 1
        said = {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}
        self.send(429, {"error": said}, headers)

    def done(self, scene, prompt):
        scene.open -= 1
        scene.answered += 1
        self.send(200, scene.answer(prompt))

    def send(self, status, value, headers=""):
        text = json.dumps(value).encode()
        head = (
            f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n{headers}"
            f"content-length: {len(text)}\r\n\r\n"
        )
        if not self.transport.is_closing():
            self.transport.write(head.encode() + text)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

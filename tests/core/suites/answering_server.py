"""A small server of OpenAI's interface, whose model adds and is wrong about every third problem."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class AnsweringServer(ThreadingHTTPServer):
    """`asked`: (path, body) so far; `fail_after`: requests after which it answers 400 to all; None: never."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fail_after: int | None = None
        self.models = ["adder"]


class Handler(BaseHTTPRequestHandler):
    server: AnsweringServer

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.fail_after is not None and len(self.server.asked) >= self.server.fail_after:
            self._reply(400, {"error": "enough"})
            return
        self.server.asked.append((self.path, body))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        first, second = map(int, re.findall(r"\d+", prompt)[-2:])
        answer = first + second + (1 if body["seed"] % 3 == 0 else 0)
        text = f"\\boxed{{{answer}}}"
        choice: dict[str, Any] = {"finish_reason": "stop"}
        if "messages" in body:
            choice["message"] = {"content": text, "reasoning_content": "I add."}
        else:
            choice["text"] = text
        self._reply(200, {"choices": [choice], "usage": {"completion_tokens": 7}})

    def _reply(self, status: int, content: Any) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def answering_server() -> Iterator[AnsweringServer]:
    server = AnsweringServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A small server that speaks vLLM's JSON; a test chooses how it misbehaves.

Its teacher always prefers the token after the one that stands there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.conftest import SYMBOLS
from tgpo_ray.models import character_tokenizer
from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.teachers.backends.remote_backend import RemoteBackend
from tgpo_ray.teachers.spec import ServerSpec

SIZE = len(SYMBOLS) + 2
Start = Callable[..., RemoteBackend]
Answer = tuple[int, Any]  # status, and JSON or raw bytes or None: cut the connection


def logprob(token: int, best: int) -> float:
    """Of a distribution in which `best` leads and each id further from it is less likely."""
    return -0.5 - ((token - best) % SIZE)


def prompt_row(token: int, k: int) -> dict[str, Any]:
    """What vLLM writes of one token: itself first, whatever its rank, then the k best."""
    best = (token + 1) % SIZE
    tokens = [token, *((best + rank) % SIZE for rank in range(k))]
    return {str(t): {"logprob": logprob(t, best), "rank": (t - best) % SIZE + 1, "decoded_token": "?"} for t in tokens}


def completion(body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length"}
    if body.get("prompt_logprobs"):
        rows = [prompt_row(token, body["prompt_logprobs"]) for token in body["prompt"]]
        choice["prompt_logprobs"] = [None, *rows[1:]]
    if body.get("return_token_ids"):
        length = body["max_tokens"]
        choice |= {"token_ids": [body["prompt"][-1]] * length, "logprobs": {"token_logprobs": [-0.25] * length}}
    return {"choices": [choice] * body.get("n", 1)}


class ServedTeacher(ThreadingHTTPServer):
    """`answers`: what the next requests to /v1/completions get instead; `asked`: (path, headers, body) so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.tokenizer = character_tokenizer(SYMBOLS)
        self.models = ["teacher"]
        self.answers: list[Answer | Callable[[dict[str, Any]], Answer]] = []
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []
        self.has_tokenize, self.open_now, self.most_open, self.pause_s = True, 0, 0, 0.0
        self.lock = threading.Lock()

    def bodies(self) -> list[dict[str, Any]]:
        """Of the completions that were asked for, the probe at the start left out."""
        return [body for path, _, body in self.asked if path == "/v1/completions"][1:]

    def reply(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in self.models]}
        if path == "/tokenize":
            tokens = self.tokenizer.encode(body["prompt"], add_special_tokens=False)
            return (200, {"tokens": tokens}) if self.has_tokenize else (404, {"detail": "Not Found"})
        answer = self.answers.pop(0) if self.answers else (200, completion(body))
        return answer(body) if callable(answer) else answer


class Handler(BaseHTTPRequestHandler):
    server: ServedTeacher  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: dict[str, Any]) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, self.headers, body))
            status, content = self.server.reply(self.path, body)
            self.server.open_now += 1
            self.server.most_open = max(self.server.most_open, self.server.open_now)
        time.sleep(self.server.pause_s)
        with self.server.lock:
            self.server.open_now -= 1
        if content is None:
            self.close_connection = True
            return
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[ServedTeacher]:
    """The server, at work in a thread."""
    with ServedTeacher() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def starting(server: ServedTeacher, folder: Path) -> Iterator[Start]:
    """start(**fields of ServerSpec) -> a backend of the server, stopped at the end; its tokenizer goes to `folder`."""
    character_tokenizer(SYMBOLS).save_pretrained(folder)
    started: list[RemoteBackend] = []

    def start(max_num_seqs: int = 4, **options: Any) -> RemoteBackend:
        started.append(RemoteBackend(engine(str(folder), max_num_seqs), spec_of(server, **options)))
        return started[-1]

    try:
        yield start
    finally:
        for backend in started:
            backend.stop()
            backend.stop()  # a second call does nothing


def engine(folder: str, max_num_seqs: int = 4) -> EngineSpec:
    return EngineSpec(folder, "float32", max_model_len=64, kv_cache_memory=0, max_num_seqs=max_num_seqs)


def spec_of(server: ServedTeacher, **options: Any) -> ServerSpec:
    return ServerSpec(**{"url": server.url, "timeout_s": 5.0, **options})

"""WatchServer, which serves the report and the page of tokens of runs that still go, to this machine alone."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tgpo_ray.reporting.tokens import TokenFiles, entry_of, newest_first, read_rows, shown, token_page

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # a page of another name that leads here is refused: it may not read what is served
REBUILD_S = 10.0  # least seconds between two drawings of the report, whose plots take time from the run
RUN_FILES = ("metrics.jsonl", "samples.jsonl", "config.yaml")
REFRESH = """"use strict";
setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.pathname, { cache: "no-cache", credentials: "omit" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const [here, there] = [document.querySelector("main"), page.querySelector("main")];
    if (there && here.innerHTML !== there.innerHTML) here.replaceWith(there);
  } catch { /* the server has ended; what is here stays */ }
}, 5000);
"""


class WatchServer:
    """Serves `/` (the report), `/tokens` (the page of tokens) and its data, at a port of 127.0.0.1.

    It only reads the folders. Every answer has an ETag, so that a browser's poll costs nothing while nothing changes.

    Args:
        folders: (label, the run's folder). No two labels are alike.
        report: draws the report's page, again when a run's files have changed. A ValueError of it is shown.
        port: 0 takes a free one.

    Raises:
        OSError: another process has the port.
    """

    def __init__(
        self,
        folders: Sequence[tuple[str, Path]],
        report: Callable[[], str],
        *,
        title: str,
        port: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._draw, self._title, self._clock = list(folders), report, title, clock
        self._lock = threading.Lock()  # each request has a thread of its own
        self._entries: dict[Path, tuple[str, list[dict[str, Any]]]] = {}  # file -> (stamp, what the list says)
        self._report: tuple[str, float, str] | None = None  # (stamp of the files, when drawn, page)
        self._server = ThreadingHTTPServer((HOST, port), type("Handler", (_Handler,), {"watch": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        """Answers until `close`, or until the thread is interrupted."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Ends `serve`, which runs in another thread, and gives the port free."""
        self._server.shutdown()
        self.release()

    def release(self) -> None:
        """Gives the port free, after `serve` has ended."""
        self._server.server_close()

    def answer(self, target: str) -> tuple[str, str] | None:
        """(content type, text) of a request's target, or None where there is no such thing."""
        parts = urlsplit(target)
        with self._lock:
            if parts.path == "/":
                return "text/html", self._page()
            if parts.path == "/tokens":
                return "text/html", token_page(self._title, None, report="./")
            if parts.path == "/index.json":
                return "application/json", json.dumps(self._index(), ensure_ascii=False)
            if parts.path == "/episode.json":
                found = self._episode(parse_qs(parts.query).get("key", [""])[0])
                return None if found is None else ("application/json", json.dumps(found, ensure_ascii=False))
        return None

    def _index(self) -> list[dict[str, Any]]:
        entries = [entry for label, _, path in self._files() for entry in self._entries_of(label, path)]
        return [entry | {"number": number} for number, entry in enumerate(entries)]

    def _episode(self, key: str) -> dict[str, Any] | None:
        for label, iteration, path in self._files():
            start, _, number = key.rpartition("/")
            if start == f"{label}/{iteration}" and number.isdecimal():
                rows = read_rows(path)  # again, because all episodes of a long run are larger than memory
                return shown(rows[int(number)]) if int(number) < len(rows) else None
        return None

    def _files(self) -> list[tuple[str, int, Path]]:
        return newest_first(
            [(label, *found) for label, folder in self._folders for found in TokenFiles(folder).paths()]
        )

    def _entries_of(self, label: str, path: Path) -> list[dict[str, Any]]:
        """What the list says of a file's episodes. One that has not changed is not read again."""
        stamp = _stamp([path])
        if self._entries.get(path, ("",))[0] != stamp:
            try:
                entries = [entry_of(label, number, row, stamp) for number, row in enumerate(read_rows(path))]
            except (OSError, ValueError):  # deleted since, as a restored run does, or damaged
                entries = []
            self._entries[path] = stamp, entries
        return self._entries[path][1]

    def _page(self) -> str:
        stamp = _stamp([folder / name for _, folder in self._folders for name in RUN_FILES])
        is_new = self._report is None or self._report[0] != stamp
        if is_new and (self._report is None or self._clock() - self._report[1] >= REBUILD_S):
            try:
                page = self._draw()
            except ValueError as error:  # no metrics yet
                page = (
                    f"<!DOCTYPE html><title>waiting</title><body><main><p>{html.escape(str(error))}</p></main></body>"
                )
            self._report = stamp, self._clock(), page.replace("</body>", f"<script>{REFRESH}</script></body>", 1)
        assert self._report is not None
        return self._report[2]


def _stamp(paths: Sequence[Path]) -> str:
    """Changes when one of the files does, appears or goes."""
    states = []
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue
        states.append((path.name, found.st_mtime_ns, found.st_size, found.st_ino))
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def _host_of(header: str) -> str | None:
    with contextlib.suppress(ValueError):  # an address that has no end
        return urlsplit(f"//{header}").hostname
    return None


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from this machine, under one of its own names."""

    watch: WatchServer  # whose answers these are

    server_version, sys_version = "tgpo-ray", ""
    timeout = 30  # seconds that a silent connection may hold its thread

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        if _host_of(self.headers.get("Host", "")) not in NAMES:
            return self._send(HTTPStatus.MISDIRECTED_REQUEST, {}, b"")
        try:
            found = self.watch.answer(self.path)
        except Exception as error:  # a run that is just beginning, or a damaged file
            text = f"this page cannot be drawn now: {error}".encode()
            return self._send(HTTPStatus.SERVICE_UNAVAILABLE, {"Content-Type": "text/plain; charset=utf-8"}, text)
        if found is None:
            return self._send(HTTPStatus.NOT_FOUND, {}, b"")
        kind, text = found
        body = text.encode("utf-8", "replace")
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Type": f"{kind}; charset=utf-8"}
        if tag in self.headers.get("If-None-Match", ""):
            return self._send(HTTPStatus.NOT_MODIFIED, headers, None)
        return self._send(HTTPStatus.OK, headers, body, with_body=with_body)

    def _send(
        self, status: HTTPStatus, headers: Mapping[str, str], body: bytes | None, *, with_body: bool = True
    ) -> None:
        self.send_response(status)
        fixed = {
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
        }
        length = {} if body is None else {"Content-Length": str(len(body))}
        for name, value in {**fixed, **headers, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a page that polls would fill the terminal."""

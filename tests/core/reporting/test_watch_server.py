"""The served report: for this machine alone, under its own name, with what has changed and nothing else."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests.core.reporting.token_episodes import token_episode
from tgpo_ray.reporting import TokenFiles, WatchServer

Get = Callable[..., tuple[int, dict[str, str], str]]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Drawn:
    """A report that counts how often it was drawn."""

    count, error = 0, ""

    def __call__(self) -> str:
        self.count += 1
        if self.error:
            raise ValueError(self.error)
        return f"<body><main><h1>{self.count}</h1></main></body>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    TokenFiles(tmp_path).write(1, [token_episode(), token_episode(member=1, outcome="wrong")])
    return tmp_path


@pytest.fixture
def report() -> Drawn:
    return Drawn()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(folder: Path, report: Drawn, clock: Clock) -> Iterator[WatchServer]:
    server = WatchServer([("TGPO <x>", folder)], report, title="Run", clock=clock)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join()


@pytest.fixture
def get(server: WatchServer) -> Get:
    def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=30)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read().decode()
        connection.close()
        return result

    return ask


def test_it_listens_on_this_machine_alone(server: WatchServer):
    assert server.url.startswith("http://127.0.0.1:")


def test_the_list_and_an_episode_are_served(get: Get):
    status, headers, text = get("/index.json")
    entries = json.loads(text)
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert [(it["number"], it["outcome"], it["key"]) for it in entries] == [
        (0, "correct", "TGPO <x>/1/0"), (1, "wrong", "TGPO <x>/1/1"),
    ]  # fmt: skip
    status, _, text = get(f"/episode.json?key={quote(entries[1]['key'])}")
    episode = json.loads(text)
    assert (status, episode["member"]) == (200, 1)
    assert episode["pieces"]["4"] == {"text": "⟨U+202E⟩turned", "special": False}


def test_an_episode_that_is_not_there_is_not_found(get: Get):
    for path in ("/episode.json?key=x", "/episode.json", "/tokens/000001.jsonl", "/../metrics.jsonl", "/metrics.jsonl"):
        assert get(path)[0] == 404


def test_what_has_not_changed_is_not_sent_again(get: Get, folder: Path):
    _, headers, _ = get("/index.json")
    status, _, text = get("/index.json", If_None_Match=headers["ETag"])
    assert (status, text) == (304, "")
    TokenFiles(folder).write(2, [token_episode(iteration=2)])
    status, _, text = get("/index.json", If_None_Match=headers["ETag"])
    assert (status, [it["iteration"] for it in json.loads(text)]) == (200, [2, 1, 1])


def test_files_of_iterations_that_were_taken_back_go(get: Get, folder: Path):
    TokenFiles(folder).truncate_after(0)
    assert json.loads(get("/index.json")[2]) == []


def test_a_damaged_file_is_left_out(get: Get, folder: Path):
    (folder / "tokens" / "000003.jsonl").write_text("{")
    assert len(json.loads(get("/index.json")[2])) == 2


def test_a_page_of_another_name_may_not_read(get: Get):
    """A name of someone's page may be made to mean 127.0.0.1: the browser would then let it read."""
    for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert get("/index.json", Host=name)[0] == 421
    assert get("/index.json", Host="[::1")[0] == 421
    assert get("/index.json", Host="localhost:1")[0] == 200


def test_only_reading_is_answered(get: Get):
    assert get("/", "POST")[0] == 501
    status, headers, text = get("/", "HEAD")
    assert (status, text) == (200, "") and int(headers["Content-Length"]) > 0


def test_answers_forbid_guessing_and_frames(get: Get):
    _, headers, _ = get("/tokens")
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_report_is_drawn_again_only_when_a_file_has_changed_and_not_too_often(
    get: Get, folder: Path, report: Drawn, clock: Clock
):
    assert "<h1>1</h1>" in get("/")[2] and "<h1>1</h1>" in get("/")[2]
    (folder / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n')
    assert "<h1>1</h1>" in get("/")[2]  # too soon
    clock.now += 60
    assert "<h1>2</h1>" in get("/")[2] and "<h1>2</h1>" in get("/")[2]
    assert report.count == 2


def test_a_run_that_has_not_begun_says_so_and_is_asked_again(get: Get, report: Drawn, folder: Path, clock: Clock):
    report.error = "holds no <metrics.jsonl>"
    status, _, text = get("/")
    assert status == 200 and "holds no &lt;metrics.jsonl&gt;" in text and "setInterval" in text
    report.error = ""
    (folder / "metrics.jsonl").write_text("")
    clock.now += 60
    assert "<h1>2</h1>" in get("/")[2]


def test_a_taken_port_is_an_error(server: WatchServer, folder: Path, report: Drawn):
    with pytest.raises(OSError, match="in use"):
        WatchServer([("x", folder)], report, title="x", port=urlsplit(server.url).port or 0)

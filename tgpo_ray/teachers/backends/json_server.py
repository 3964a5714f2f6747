"""JSON over HTTP with a server that may be busy. Connections are pooled and one deadline covers all retries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter

CONNECT_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 10.0
WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
LOST_CONNECTION = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class ServerError(RuntimeError):
    """The error of a server that refuses, gives no answer in time, or a wrong one. `status` is 0 without a reply."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class JsonServer:
    """The client of one server. Several threads may call its methods.

    Args:
        url: scheme, host and port.
        api_key_env: environment variable with the bearer token. None sends no token.
        num_connections: most connections that stay open.

    Raises:
        ValueError: `url` is no address, or the environment variable is not set.
    """

    def __init__(self, url: str, *, api_key_env: str | None = None, num_connections: int = 8) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {url!r}: write it as http://host:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._session = requests.Session()
        # set also without a key: requests would otherwise send the password that ~/.netrc has for this host
        self._session.auth = _bearer(api_key_env)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=num_connections))

    def get(self, path: str, *, deadline: float) -> Any:
        """Returns the answer to GET, as `post` does."""
        return self._ask("GET", path, None, deadline)

    def post(self, path: str, body: dict[str, Any], *, deadline: float) -> Any:
        """Returns the parsed JSON of the answer to POST.

        A request to a busy or broken server (429, 5xx, lost connections) is repeated before the deadline. The pause
        between two tries doubles, or is as long as the server's Retry-After says.

        Args:
            deadline: seconds of the monotonic clock.

        Raises:
            ServerError: another status, no JSON, or no answer by the deadline.
        """
        return self._ask("POST", path, body, deadline)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, deadline: float) -> Any:
        pause, tries, status = FIRST_PAUSE_S, 0, 0
        while True:
            tries += 1
            remaining = max(0.1, deadline - time.monotonic())
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, timeout=(min(CONNECT_TIMEOUT_S, remaining), remaining)
                )
                if answer.status_code not in WORTH_ANOTHER_TRY:
                    return self._content(answer, path)
                status, problem, wait = answer.status_code, _problem_of(answer), _retry_after(answer)
            except LOST_CONNECTION as error:
                status, problem, wait = 0, str(error), 0.0
            wait = max(pause, wait)  # Retry-After never shortens the pause
            if time.monotonic() + wait >= deadline:
                raise ServerError(f"{self.url}{path}: no answer in time after {tries} tries: {problem}", status)
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _content(self, answer: requests.Response, path: str) -> Any:
        if answer.status_code != 200:
            raise ServerError(f"{self.url}{path}: {_problem_of(answer)}", answer.status_code)
        try:
            return answer.json()
        except requests.exceptions.JSONDecodeError:
            raise ServerError(f"{self.url}{path}: the answer is not JSON: {answer.text[:200]!r}", 200) from None

    def close(self) -> None:
        """Close the connections. A second call does nothing."""
        self._session.close()


def _bearer(api_key_env: str | None) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Returns a function that adds the bearer token of this environment variable to a request."""
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise ValueError(
            f"api_key_env: the environment variable {api_key_env} is not set where the teacher runs: set it on every "
            "node, or in the runtime_env of the job"
        )

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return sign


def _problem_of(answer: requests.Response) -> str:
    return f"status {answer.status_code}: {answer.text[:500].strip()}"


def _retry_after(answer: requests.Response) -> float:
    """Returns the seconds of Retry-After, or 0 where the header is missing or a date."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0

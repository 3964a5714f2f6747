"""Chromium without a window, where this machine has one, spoken to over a pipe: no port, no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S = 60.0
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Home": 36, "End": 35, "Tab": 9}
DESCRIPTORS = 'exec 3<&{read} 4>&{write} {read}<&- {write}>&-; exec "$0" "$@"'  # where the browser expects its pipes


def find_browser() -> str | None:
    """The path of a Chromium: TGPO_RAY_BROWSER, or the first on the path; None without one."""
    return os.environ.get("TGPO_RAY_BROWSER") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless browser. `messages` has what its console said, `requests` what it asked a network for."""

    def __init__(self, program: str, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        (there_read, here_write), (here_read, there_write) = os.pipe(), os.pipe()
        self._write, self._read, self._buffer, self._number = here_write, here_read, b"", 0
        self.messages: list[str] = []
        self.requests: list[str] = []
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", DESCRIPTORS.format(read=there_read, write=there_write), program, *options],
            pass_fds=(there_read, there_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there_read)
        os.close(there_write)
        self._session: str | None = None
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(it["targetId"] for it in pages if it["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Opens a page and waits until its script says that it is drawn."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.documentElement.dataset.ready === 'yes'")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    def value(self, expression: str) -> Any:
        """The value of a script's expression in the page."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Waits until a script's expression is true; one that raises is not yet, as on a page that is not there."""
        deadline = time.monotonic() + WAIT_S
        while not self.value(f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"):
            assert time.monotonic() < deadline, f"{expression} did not become true; console: {self.messages}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key of the keyboard, as a person presses it."""
        code = KEYS.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def move(self, selector: str, *, click: bool = False) -> None:
        """The mouse onto the middle of an element."""
        script = f"(() => {{ const r = document.querySelector({selector!r}).getClientRects()[0];"
        x, y = self.value(f"{script} return [r.left + r.width / 2, r.top + r.height / 2]; }})()")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as the system says it."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> bytes:
        """The bytes of the PNG that is written to `path`."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        path.write_bytes(data)
        return data

    def close(self) -> None:
        """Ends the browser."""
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self.call("Browser.close")
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            if not data:
                raise OSError("the browser has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.messages.append(str([it.get("value") for it in parameters["args"]]))
        elif method in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(parameters))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        return message

"""A vLLM server in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tgpo_ray.models.engine_arguments import engine_environment

START_S = 240


@contextmanager
def vllm_server(folder: str, served_name: str, *arguments: str) -> Iterator[str]:
    """Base address of a server of the model in `folder`, on a CPU, with a context of 64 tokens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--port", str(port),
        "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "64", "--enforce-eager",
        "--kv-cache-memory-bytes", str(64 * 2**20), "--served-model-name", served_name, *arguments,
    ]  # fmt: skip
    environment = {**os.environ, **engine_environment(gpu=False)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(1.0)
    raise TimeoutError(f"no server at {url} after {START_S} s")

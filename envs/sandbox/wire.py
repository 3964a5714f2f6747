"""Frames between the sandbox's processes, and plain data as JSON. Nothing here trusts what it reads.

None, bool, int, float, str and list are JSON's own. Tuple, dict, set, frozenset, bytes and complex are tagged. Anything
else stays in its process and travels as a number, its handle.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any

TAG = "type"
MAX_FRAME = 64 << 20  # bytes, for frames of a trusted writer

# No limit on digits: an answer may have 30,000 of them. The deadline bounds the time that this takes.
sys.set_int_max_str_digits(0)


def send(descriptor: int, message: Any) -> None:
    payload = json.dumps(message).encode()
    data = memoryview(len(payload).to_bytes(4, "big") + payload)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, *, limit: int = MAX_FRAME, writer: int | None = None) -> Any:
    """The next message.

    Args:
        limit: bytes that it may have.
        writer: pidfd of the process that writes. When it ends, the pipe counts as closed, even if a child of it still
            holds the pipe open.

    Raises:
        EOFError: when the writer has gone.
        ValueError: when the message is too long or not JSON.
    """
    size = int.from_bytes(_read(descriptor, 4, writer), "big")
    if size > limit:
        raise ValueError(f"a message of {size:,} bytes, over the limit of {limit:,}")
    return json.loads(_read(descriptor, size, writer))


def _read(descriptor: int, count: int, writer: int | None) -> bytes:
    data = bytearray()
    while len(data) < count:
        if writer is not None:
            ready = select.select([descriptor, writer], [], [])[0]
            if descriptor not in ready:  # data go first: a writer that has replied and ended is still read
                raise EOFError
        chunk = os.read(descriptor, min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def pack(value: Any, keep: Callable[[Any], int]) -> Any:
    """`value` as JSON; `keep` gives the handle of other values. Raises RecursionError for a value inside itself."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [pack(item, keep) for item in value]
    if isinstance(value, tuple | set | frozenset):
        # A subclass, such as a named tuple, travels as its base.
        kind = next(base for base in (tuple, set, frozenset) if isinstance(value, base))
        return {TAG: kind.__name__, "items": [pack(item, keep) for item in value]}
    if isinstance(value, dict):
        return {TAG: "dict", "items": [[pack(key, keep), pack(item, keep)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {TAG: type(value).__name__, "hex": value.hex()}
    if isinstance(value, complex):
        return {TAG: "complex", "items": [value.real, value.imag]}
    return {TAG: "handle", "number": keep(value)}


def unpack(data: Any, resolve: Callable[[int], Any]) -> Any:
    """The value that `pack` wrote; `resolve` turns a handle into the object that stands for it.

    Raises:
        ValueError, TypeError, KeyError: for anything that `pack` does not write.
    """
    if isinstance(data, list):
        return [unpack(item, resolve) for item in data]
    if not isinstance(data, dict):
        return data
    kind = data[TAG]
    if kind == "handle":
        return resolve(int(data["number"]))
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray).fromhex(data["hex"])
    items = [unpack(item, resolve) for item in data["items"]]
    if kind == "dict":
        return dict(items)
    if kind == "complex":
        return complex(*items)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)

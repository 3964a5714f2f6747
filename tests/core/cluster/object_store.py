"""A small object store with the requests of S3 that pyarrow sends, in this process. It checks no signature."""

from __future__ import annotations

import hashlib
import itertools
import threading
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

XML = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
WHEN = "2026-01-01T00:00:00.000Z"


class ObjectStore(ThreadingHTTPServer):
    """`uri` has the bucket `bucket` and the options with which pyarrow finds this server."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = itertools.count(1)  # of uploads
        self.lost: str | None = None  # requests that end the upload of a key with this end get no answer
        self.lock = threading.Lock()
        self.uri = f"s3://key:secret@bucket/runs?endpoint_override=127.0.0.1:{self.server_port}&scheme=http&region=x"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet
    disable_nagle_algorithm = True
    server: ObjectStore

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def parsed(self) -> tuple[str, dict[str, str]]:
        """The object's key, empty for the bucket itself, and the query."""
        parts = urlsplit(self.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return key, query

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline().partition(b";")[0], 16):
                data += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole = b""
        while data:  # each chunk: its length in hexadecimal, its bytes; after the empty one come checksums
            line, _, data = data.partition(b"\r\n")
            length = int(line.partition(b";")[0], 16)
            if not length:
                break
            whole, data = whole + data[:length], data[length + 2 :]
        return whole

    def answer(self, status: int, body: bytes | str = b"", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        key, _ = self.parsed()
        data = self.server.objects.get(key)
        if not key and not self.path.startswith("/bucket"):  # by such a bucket pyarrow finds out who answers
            self.answer(404)
        elif not key:
            self.answer(200)
        elif data is None:
            self.answer(404)
        else:
            self.send_response(200)
            for name, value in (("Content-Length", str(len(data))), ("ETag", etag(data)), *KIND):
                self.send_header(name, value)
            self.end_headers()

    def do_GET(self) -> None:
        key, query = self.parsed()
        if not key:
            self.answer(200, listing(self.server.objects, query))
            return
        data = self.server.objects.get(key)
        if data is None:
            self.answer(404, f"<Error {XML}><Code>NoSuchKey</Code></Error>")
            return
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last or len(data)) + 1]
            self.answer(
                206, part, Content_Range=f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}", **dict(KIND)
            )
        else:
            self.answer(200, data, **dict(KIND))

    def do_PUT(self) -> None:
        (key, query), data = self.parsed(), self.body()
        with self.server.lock:
            if "uploadId" in query:
                self.server.uploads[query["uploadId"]][int(query["partNumber"])] = data
            elif key:
                self.server.objects[key] = data
        self.answer(200, ETag=etag(data))

    def do_POST(self) -> None:
        (key, query), data = self.parsed(), self.body()
        if "uploadId" in query and self.server.lost and key.endswith(self.server.lost):
            self.close_connection = True
            return
        with self.server.lock:
            if "uploads" in query:
                number = str(next(self.server.numbers))
                self.server.uploads[number] = {}
                self.answer(200, f"<InitiateMultipartUploadResult {XML}><UploadId>{number}</UploadId>"
                                 "</InitiateMultipartUploadResult>")  # fmt: skip
            elif "uploadId" in query:
                parts = self.server.uploads.pop(query["uploadId"])
                self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
                self.answer(200, f"<CompleteMultipartUploadResult {XML}><ETag>x</ETag></CompleteMultipartUploadResult>")
            else:  # ?delete
                for name in ElementTree.fromstring(data).iter():
                    if name.tag.endswith("Key"):
                        self.server.objects.pop(name.text or "", None)
                self.answer(200, f"<DeleteResult {XML}></DeleteResult>")

    def do_DELETE(self) -> None:
        key, query = self.parsed()
        with self.server.lock:
            self.server.uploads.pop(query.get("uploadId", ""), None)
            self.server.objects.pop(key, None)
        self.answer(204)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


KIND = (("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"), ("Content-Type", "application/octet-stream"))


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def listing(objects: dict[str, bytes], query: dict[str, str]) -> str:
    """ListObjectsV2: the objects below a prefix; with a delimiter those deeper down by their folder."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    contents, folders = [], set()
    for key in sorted(objects):
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
        else:
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{WHEN}</LastModified><ETag>x</ETag>"
                f"<Size>{len(objects[key])}</Size></Contents>"
            )
    common = [f"<CommonPrefixes><Prefix>{escape(it)}</Prefix></CommonPrefixes>" for it in sorted(folders)]
    return (
        f"<ListBucketResult {XML}><Name>bucket</Name><IsTruncated>false</IsTruncated>"
        f"<KeyCount>{len(contents) + len(common)}</KeyCount>{''.join(contents + common)}</ListBucketResult>"
    )

"""A stand-in for S3 in this process: as much of its protocol as ``pyarrow.fs`` speaks, objects in memory, no check of
signatures.

moto, the well-kept one, cannot be locked beside matplotlib: they need different versions of python-dateutil.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_STAMP = "2026-01-01T00:00:00.000Z"


class S3Server(ThreadingHTTPServer):
    """One bucket.

    Attributes:
        objects: Key -> content.
        reads: Keys of the objects whose content was asked for.
        refuse: Keys with this in them cannot be written, as if access were denied.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.reads: list[str] = []
        self.refuse: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def serve_s3() -> Iterator[S3Server]:
    """Serve an empty bucket."""
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Server

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self, answer: Any) -> None:
        url = urlsplit(self.path)
        bucket, _, self.key = unquote(url.path).lstrip("/").partition("/")
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.body = self._body()
        if bucket != BUCKET:
            return self._error(404, "NoSuchBucket")
        if self.server.refuse and self.server.refuse in self.key and self.command in ("PUT", "POST"):
            return self._error(403, "AccessDenied")
        return answer()  # type: ignore[no-any-return]

    def _get(self) -> None:
        if not self.key:
            return self._list() if "list-type" in self.query else self._send(200, b"")
        content = self.server.objects.get(self.key)
        if content is None:
            return self._error(404, "NoSuchKey")
        if self.command == "GET":
            self.server.reads.append(self.key)
        span = self.headers.get("Range")
        if span is None:
            return self._send(200, content)
        first, _, last = span.removeprefix("bytes=").partition("-")
        low, high = int(first), min(int(last or len(content) - 1), len(content) - 1)
        return self._send(206, content[low : high + 1], {"Content-Range": f"bytes {low}-{high}/{len(content)}"})

    def _put(self) -> None:
        if "partNumber" in self.query:
            self.server.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
        elif self.key:
            self.server.objects[self.key] = self.body
        self._send(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def _post(self) -> None:
        if "uploads" in self.query:
            upload = f"upload{len(self.server.uploads)}"
            self.server.uploads[upload] = {}
            return self._xml("InitiateMultipartUploadResult", f"<Bucket>{BUCKET}</Bucket><UploadId>{upload}</UploadId>")
        parts = self.server.uploads.pop(self.query["uploadId"])
        self.server.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
        return self._xml("CompleteMultipartUploadResult", f'<Key>{escape(self.key)}</Key><ETag>"whole"</ETag>')

    def _delete(self) -> None:
        if "uploadId" in self.query:
            self.server.uploads.pop(self.query["uploadId"], None)
        else:
            self.server.objects.pop(self.key, None)
        self._send(204, b"")

    def _list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        found = sorted(key for key in list(self.server.objects) if key.startswith(prefix))
        cut = {key: key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "") for key in found}
        folders = sorted({f"{prefix}{head}{delimiter}" for head, mark, _ in cut.values() if mark})
        files = [key for key, (_, mark, _) in cut.items() if not mark]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size><LastModified>{_STAMP}</LastModified></Contents>"
            for key in files
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in folders)
        self._xml(
            "ListBucketResult",
            f"<IsTruncated>false</IsTruncated><KeyCount>{len(files) + len(folders)}</KeyCount>{entries}",
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunks(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            # Pieces of "<size in hex>\r\n<content>\r\n" up to one of size 0, then checksums.
            pieces = b""
            while body:
                size, _, body = body.partition(b"\r\n")
                count = int(size.partition(b";")[0], 16)
                if not count:
                    break
                pieces, body = pieces + body[:count], body[count + 2 :]
            return pieces
        return body

    @staticmethod
    def _chunks(stream: Any) -> bytes:
        pieces = []
        while count := int(stream.readline().partition(b";")[0], 16):
            pieces.append(stream.read(count))
            stream.readline()
        while stream.readline().strip():
            pass
        return b"".join(pieces)

    def _xml(self, name: str, content: str) -> None:
        self._send(
            200,
            f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'.encode(),
            {"Content-Type": "application/xml"},
        )

    def _error(self, status: int, code: str) -> None:
        self._send(
            status,
            f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(),
            {"Content-Type": "application/xml"},
        )

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

"""A real S3 server (moto's) in this process, with what the tests need to see and to break."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, cast

BUCKET = "bucket"
_REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class _Objects(MutableMapping[str, bytes]):
    """The bucket as a mapping of key -> content."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getitem__(self, key: str) -> bytes:
        try:
            return cast(bytes, self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        except self._client.exceptions.NoSuchKey:
            raise KeyError(key) from None

    def __setitem__(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def __delitem__(self, key: str) -> None:
        self[key]  # S3 does not complain about a missing key, a mapping does
        self._client.delete_object(Bucket=BUCKET, Key=key)

    def __iter__(self) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return iter([entry["Key"] for page in pages for entry in page.get("Contents", [])])

    def __len__(self) -> int:
        return len(list(iter(self)))


class S3Server:
    """A server with one bucket.

    Attributes:
        objects: Key -> content.
        reads: Keys of the objects whose content was asked for, by anybody but ``objects``.
        refuse: Writing a key that contains this is denied; None denies nothing.
    """

    def __init__(self) -> None:
        # Importing moto and boto3 takes a second: only the tests that need S3 pay for it.
        import boto3
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.reads: list[str] = []
        self.refuse: str | None = None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
        )
        self._client.create_bucket(Bucket=BUCKET)
        self.objects = _Objects(self._client)

    def close(self) -> None:
        """Stop serving, and delete the bucket, whose objects moto would keep in a global variable of this process."""
        from moto.s3.models import s3_backends

        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        s3_backends.reset()

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which a process finds this server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        method, (_, _, key) = environ["REQUEST_METHOD"], environ["PATH_INFO"].lstrip("/").partition("/")
        if self.refuse and self.refuse in key and method in ("PUT", "POST"):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [_REFUSED]
        if method == "GET" and key and "Boto3" not in environ.get("HTTP_USER_AGENT", ""):
            self.reads.append(key)
        return cast(Iterable[bytes], self._moto(environ, start_response))


@contextmanager
def serve_s3() -> Iterator[S3Server]:
    """Serve an empty bucket."""
    server = S3Server()
    try:
        yield server
    finally:
        server.close()

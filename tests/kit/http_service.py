"""A small HTTP server for tests that ask whether a service answers."""

from __future__ import annotations

import http.server
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Respond = Callable[[str, Mapping[str, str]], tuple[int, str]]
"""Takes the path and the headers of a request; returns the status and the text to answer with."""


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """Serve on a free port of the loopback address; yield ``host:port``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = respond(self.path, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def like_mlflow(*accepted: str, open_health: bool = True) -> Respond:
    """Return how an MLflow server responds.

    Args:
        accepted: The values of the Authorization header that it accepts; none means that it asks for none.
        open_health: Whether it answers /health without credentials, as MLflow does but a proxy in front of it may not.
    """

    def respond(path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if path not in ("/health", "/api/2.0/mlflow/experiments/search?max_results=1"):
            return 404, "no such page"
        is_open = not accepted or (open_health and path == "/health")
        if is_open or headers.get("Authorization") in accepted:
            return 200, "{}"
        return 401, "You are not authenticated."

    return respond


def basic(user: str, password: str) -> str:
    """Return the Authorization header of basic authentication."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"

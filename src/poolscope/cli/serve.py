"""The HTTP endpoint of ``poolscope run``: ``/metrics`` and the live page, for all processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from poolscope.cli.live import PAGE, POLICY


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the base class's look-up of the host's full name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # a TCP address
        self.setup_environ()


class _ServerV6(_Server):
    address_family = AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Leave the command's standard error to the command."""


class Endpoint:
    """Serves a registry, and what ``state`` returns, from a thread of its own.

    Raises ``OSError`` (or ``OverflowError`` for a port beyond 65535) if it can't be opened.
    """

    def __init__(
        self, host: str, port: int, registry: Any, state: Callable[[], dict[str, Any]]
    ) -> None:
        self._state = state
        self._metrics = make_wsgi_app(registry)
        kind = _ServerV6 if _family(host) == AF_INET6 else _Server
        self._server = make_server(host, port, self._app, kind, _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="poolscope-endpoint", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _app(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO") or "/"
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start)
            return found
        status, kind, content = "404 Not Found", "text/plain", b"The metrics are at /metrics.\n"
        if path == "/":
            status, kind, content = "200 OK", "text/html", PAGE.read_bytes()
        elif path == "/state":
            state = json.dumps(self._state()).encode()
            status, kind, content = "200 OK", "application/json", state
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start(status, headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [content]


def _family(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET

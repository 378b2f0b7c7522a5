"""The HTTP endpoint of ``poolscope run``: ``/metrics``, for all processes of the command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app


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
    """Serves a registry from a thread of its own.

    Raises ``OSError`` (or ``OverflowError`` for a port beyond 65535) if it can't be opened.
    """

    def __init__(self, host: str, port: int, registry: Any) -> None:
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
        if environ.get("PATH_INFO") == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start)
            return found
        start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"The metrics are at /metrics.\n"]


def _family(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET

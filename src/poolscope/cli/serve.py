"""The HTTP endpoint of ``poolscope run``: ``/metrics`` and the live page, for all processes."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import threading
from collections.abc import Callable, Iterable
from io import StringIO
from socket import AF_INET, AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from poolscope.cli.live import PAGE, POLICY
from poolscope.scrape import is_loopback

_FRESH = 1.0  # seconds for which all pages that look are shown the same state
_PATIENCE = 10.0  # seconds for a client that connects and says nothing


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the base class's look-up of the host's full name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # a TCP address
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave the command's standard error to the command when a client hangs up."""


class _ServerV6(_Server):
    address_family = AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Leave the command's standard error to the command."""

    def get_stderr(self) -> Any:
        """Return where wsgiref prints what fails: likewise."""
        return StringIO()


class Endpoint:
    """Serves a registry, and what ``state`` returns, from a thread of its own.

    Raises ``OSError`` (or ``OverflowError`` for a port beyond 65535) if it can't be opened.
    """

    def __init__(
        self, host: str, port: int, registry: Any, state: Callable[[], dict[str, Any]]
    ) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._shown, self._since = b"", 0.0
        self._metrics = make_wsgi_app(registry)
        kind = _ServerV6 if _family(host) == AF_INET6 else _Server
        self._server = make_server(host, port, self._app, kind, _Handler)
        self._is_private = is_loopback(host)
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
        # A name that somebody else's page was loaded from, and that leads here all of a sudden,
        # must not open this one to it (DNS rebinding).
        if self._is_private and not _is_own(_host(environ)):
            status, content = "403 Forbidden", b"Ask for localhost, or for the address.\n"
        elif path == "/":
            status, kind, content = "200 OK", "text/html", PAGE.read_bytes()
        elif path == "/state":
            status, kind, content = "200 OK", "application/json", self._fresh()
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start(status, headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [content]

    def _fresh(self) -> bytes:
        """Return the state: with many upstreams it takes a while, however many pages look."""
        with self._lock:
            if not self._shown or monotonic() - self._since > _FRESH:
                self._shown = json.dumps(self._state()).encode()
                self._since = monotonic()
            return self._shown


def _host(environ: dict[str, Any]) -> str:
    try:
        return urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname or ""
    except ValueError:
        return ""


def _is_own(host: str) -> bool:
    """Tell whether a name stands for this machine alone, or is an address and no name."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return is_loopback(host)


def _family(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET

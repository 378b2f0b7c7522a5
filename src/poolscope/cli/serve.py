"""The HTTP endpoint of ``poolscope run``: ``/metrics`` and the live page, for all processes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from email.utils import formatdate
from time import monotonic
from typing import Any

from prometheus_client import make_wsgi_app

from poolscope.cli.asked import BadRequestError, Hosts, Request, read
from poolscope.cli.listener import Listener
from poolscope.cli.live import PAGE, POLICY

_FRESH = 1.0  # seconds for which all pages that look are shown the same state
_METHODS = ("GET", "HEAD")
#: On every answer: no page of somebody else's may show, read or keep it.
_SECURITY = (
    ("Content-Security-Policy", POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)

_Headers = Sequence[tuple[str, str]]
_Page = tuple[str, _Headers, bytes]


class Endpoint:
    """Serves a registry, and what ``state`` returns, from a thread of its own.

    ``allowed`` are the names by which it may be asked for besides those in :class:`Hosts`. Raises
    ``OSError`` (or ``OverflowError`` for a port beyond 65535) if it can't be opened.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: Any,
        state: Callable[[], dict[str, Any]],
        allowed: Sequence[str] = (),
    ) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._shown, self._since = b"", 0.0
        self._metrics_app = make_wsgi_app(registry)
        self._pages: dict[str, Callable[[Request], _Page]] = {
            "/": lambda _: _page("text/html", PAGE.read_bytes()),
            "/state": lambda _: _page("application/json", self._fresh()),
            "/metrics": self._metrics,
        }
        listening = _bound(host, port)
        bound, self._port, *_ = listening.getsockname()
        self._hosts = Hosts(bound, host, allowed)
        try:
            self._listener = Listener(listening, self._respond)
        except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is left
            listening.close()
            raise OSError(str(error)) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._port)

    def close(self) -> None:
        """Stop serving, at once."""
        self._listener.close()

    def _respond(self, head: bytes) -> bytes:
        """Return the whole answer to a request. Every path has the same rules."""
        is_head = False
        try:
            request = read(head)
            is_head = request.method == "HEAD"
            status, headers, content = self._found(request)
        except BadRequestError as error:
            status, sentence = error.args
            _, headers, content = _page("text/plain", f"{sentence}\n".encode())
        except Exception:  # noqa: BLE001 - the endpoint goes on, and the command's stderr is its own
            _, headers, content = _page("text/plain", b"That page can't be made.\n")
            status = "500 Internal Server Error"
        rows = [
            f"HTTP/1.1 {status}",
            f"Date: {formatdate(usegmt=True)}",
            *(f"{name}: {value}" for name, value in (*headers, *_SECURITY)),
            f"Content-Length: {len(content)}",
            "\r\n",
        ]
        return "\r\n".join(rows).encode("latin-1") + (b"" if is_head else content)

    def _found(self, request: Request) -> _Page:
        if not self._hosts.may_ask(request.host):
            raise BadRequestError(
                "403 Forbidden",
                "Ask for localhost or the address, or allow the name: poolscope run --allow-host.",
            )
        if request.method not in _METHODS:
            _, headers, content = _page("text/plain", b"There is nothing to do but GET.\n")
            return "405 Method Not Allowed", [*headers, ("Allow", ", ".join(_METHODS))], content
        page = self._pages.get(request.path)
        if page is None:
            raise BadRequestError("404 Not Found", "The metrics are at /metrics.")
        return page(request)

    def _metrics(self, request: Request) -> _Page:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.headers.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        told: list[tuple[str, _Headers]] = []
        content = b"".join(self._metrics_app(environ, lambda *said: told.append(said)))
        return *told[0], content

    def _fresh(self) -> bytes:
        """Return the state: with many upstreams it takes a while, however many pages look."""
        with self._lock:
            if not self._shown or monotonic() - self._since > _FRESH:
                self._shown = json.dumps(self._state()).encode()
                self._since = monotonic()
            return self._shown


def _page(kind: str, content: bytes) -> _Page:
    return "200 OK", [("Content-Type", f"{kind}; charset=utf-8")], content


def _bound(host: str, port: int) -> socket.socket:
    """Bind to the first address of a host. Raises ``OSError``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:  # a part of the name is empty or too long to be looked up
        raise OSError(f"{host!r} is not the name of a host") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening

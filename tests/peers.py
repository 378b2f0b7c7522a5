"""Scripted peers: servers that misbehave as told, and count for themselves. Loopback only.

A handler is a function of a :class:`Peer`, one accepted connection; when it returns, the
connection is closed.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 10.0
HOST = "127.0.0.1"
_RST = struct.pack("ii", 1, 0)
_used_ports: set[int] = set()


def eventually(condition: Callable[[], Any]) -> bool:
    """Ask until the answer is yes, for what garbage collectors and peers do in their own time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def listen(backlog: int = 64) -> socket.socket:
    """Bind to a port that nobody had before: an origin must have no history."""
    while True:
        listener = socket.socket()
        listener.bind((HOST, 0))
        port = listener.getsockname()[1]
        if port not in _used_ports:
            _used_ports.add(port)
            listener.listen(backlog)
            return listener
        listener.close()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with listen() as listener:
        return listener.getsockname()[1]


def asks(port: int) -> bool:
    """Make a request on a connection of its own; tell whether it was answered."""
    try:
        with socket.create_connection((HOST, port), 10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


class Request(NamedTuple):
    """What a client sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """One accepted connection, as its handler sees it."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.answered = 0
        #: All that came, byte for byte.
        self.raw = b""
        self._received = b""

    def __iter__(self) -> Iterator[Request]:
        while (request := self.request()) is not None:
            yield request

    def request(self) -> Request | None:
        """Read one request, head and body; None if the client hung up."""
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                return None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *rows = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        parts = [row.partition(":") for row in rows]
        headers = {name.lower(): value.strip() for name, _, value in parts}
        length = int(headers.get("content-length", "0"))
        return Request(method, target, headers, self.exactly(length))

    def exactly(self, length: int) -> bytes:
        """Read so many bytes."""
        while len(self._received) < length and self._receive():
            pass
        data, self._received = self._received[:length], self._received[length:]
        return data

    def chunks(self) -> bytes:
        """Read a body that comes in chunks."""
        body = b""
        while length := int(self._line() or b"0", 16):
            body += self.exactly(length)
            self._line()
        self._line()
        return body

    def _line(self) -> bytes:
        while b"\r\n" not in self._received and self._receive():
            pass
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except OSError:
            return False
        self.raw += data
        self._received += data
        return bool(data)

    def answer(
        self, body: bytes = b"ok", *headers: str, status: str = "200 OK", length: int | None = None
    ) -> None:
        """Count and send a response; ``length`` -1 leaves Content-Length out, others lie."""
        length = len(body) if length is None else length
        rows = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {length}"] * (length >= 0))]
        self.count()
        self.send("\r\n".join([*rows, "", ""]).encode() + body)

    def count(self) -> None:
        """Count an answer; before it is sent, so that nobody can know of it earlier."""
        self.answered += 1
        self.server.bump("answered")

    def send(self, data: bytes) -> None:
        """Send these bytes, whether or not anybody still listens."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def wait(self, event: threading.Event) -> None:
        """Wait for an event, or for the end of the test."""
        while not event.wait(0.01) and not self.server.stopping:
            pass

    def until_hung_up(self) -> None:
        """Say nothing until the client goes away."""
        while self._receive():
            pass

    def reset(self) -> None:
        """Hang up with an RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.sock.close()


Handler = Callable[[Peer], None]


class Server:
    """A listening socket and a thread for each connection that it accepts."""

    def __init__(
        self, handler: Handler, *, tls: ssl.SSLContext | None = None, path: str = ""
    ) -> None:
        self.handler = handler
        self.tls = tls
        self.path = path
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            self.listener.listen(64)
            self.port = 0
        else:
            self.listener = listen()
            self.port = self.listener.getsockname()[1]
        self.accepted = self.handshakes = self.asked = self.answered = self.closed = 0
        self.peers: list[Peer] = []
        self.stopping = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def per_connection(self) -> list[int]:
        """How many requests were answered on each connection."""
        return [peer.answered for peer in self.peers]

    def bump(self, name: str) -> None:
        """Count one more."""
        with self._changed:
            setattr(self, name, getattr(self, name) + 1)
            self._changed.notify_all()

    def wait(self, **counts: int) -> None:
        """Wait until the counts are reached."""
        with self._changed:
            reached = self._changed.wait_for(
                lambda: all(getattr(self, name) >= count for name, count in counts.items()),
                PATIENCE,
            )
        assert reached, f"{counts} not reached"

    def stop(self) -> None:
        """Hang up on everybody and see all threads off."""
        self.stopping = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        finally:
            self.listener.close()
        for peer in list(self.peers):
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a server's thread outlived its test"
        if self.path:
            Path(self.path).unlink()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if not self.path:
                # Else an answer waits for the acknowledgement of TLS's session tickets: 40 ms.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(self, sock)
            self.peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            self.bump("accepted")
            thread.start()

    def _serve(self, peer: Peer) -> None:
        try:
            if self.tls is not None:
                peer.sock = self.tls.wrap_socket(peer.sock, server_side=True)
                self.bump("handshakes")
            self.handler(peer)
        except OSError:
            pass  # the client did not like us
        finally:
            peer.sock.close()
            self.bump("closed")


# ---- handlers


def keep_alive(peer: Peer) -> None:
    """Answer until the client hangs up."""
    for _ in peer:
        peer.answer()


def hang_up_after(number: int) -> Handler:
    """Answer so many requests on a connection, then close it without a word."""

    def handler(peer: Peer) -> None:
        for _, _request in zip(range(number), peer):
            peer.answer()

    return handler


def big_body(peer: Peer) -> None:
    """Answer with more than any buffer holds."""
    for _ in peer:
        peer.answer(b"x" * 3_000_000)


def held_body(event: threading.Event) -> Handler:
    """Send the headers at once and the body when told."""

    def handler(peer: Peer) -> None:
        for _ in peer:
            peer.answer(b"", length=4)
            peer.wait(event)
            peer.send(b"body")

    return handler


def held_answer(event: threading.Event) -> Handler:
    """Answer when told."""

    def handler(peer: Peer) -> None:
        for _ in peer:
            peer.server.bump("asked")
            peer.wait(event)
            peer.answer()

    return handler


def scripted(*steps: Handler) -> Handler:
    """Take one step for each request, over all connections; the last step repeats."""
    remaining = list(steps)

    def handler(peer: Peer) -> None:
        for _ in peer:
            step = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            step(peer)
            if peer.sock.fileno() < 0:
                return

    return handler


# ---- steps of a script, after a request has been read


def ok(peer: Peer) -> None:
    """Answer and stay."""
    peer.answer()


def fin(peer: Peer) -> None:
    """Hang up without an answer."""
    peer.sock.shutdown(socket.SHUT_RDWR)
    peer.sock.close()


def rst(peer: Peer) -> None:
    """Hang up without an answer, rudely."""
    peer.reset()


def silence(peer: Peer) -> None:
    """Never answer."""
    peer.until_hung_up()

"""The sockets of the endpoint: one thread, bounded in clients, bytes and time, whoever connects."""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
import threading
from collections.abc import Callable
from time import monotonic

#: Bytes of a request's head; what is longer is answered as that, and not read on.
LONGEST_HEAD = 16 * 1024

_END = b"\r\n\r\n"
_CLIENTS = 32  # at once; who comes then takes the place of the one that has been there longest
_SHARE = 4  # of the process's descriptors, a quarter: the rest are the collector's
_UNSENT = 64 * 1024 * 1024  # bytes that wait for slow readers, all together
_PIECE = 256 * 1024  # bytes that one client gets before it is the next one's turn
_BACKLOG = 128
_PAUSE = 0.1  # seconds without descriptors until it is tried again
_LAST_WORDS = 1.0  # seconds that somebody waits for the thread's end
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Client:
    """A connection: first its request comes, then the answer goes, then it may hang up."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection = connection
        self.until = until
        self.head = bytearray()
        self.unsent: memoryview | None = None
        self.is_done = False


class Listener:
    """Answers each connection's one request by what ``respond`` makes of its head.

    A client that is not through with its request after ``patience`` seconds, or with the answer
    after three times as many, is hung up on.
    """

    def __init__(
        self, listening: socket.socket, respond: Callable[[bytes], bytes], patience: float = 10.0
    ) -> None:
        self._listening = listening
        self._respond = respond
        self._patience = patience
        self._clients: dict[int, _Client] = {}  # by descriptor, who has been there longest first
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = _CLIENTS
        if descriptors != resource.RLIM_INFINITY:
            self._most = max(1, min(_CLIENTS, descriptors // _SHARE))
        self._paused_until = 0.0
        self._is_closing = False
        listening.setblocking(False)  # noqa: FBT003 - the standard library's name
        listening.listen(_BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._woken, self._waker = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="poolscope-endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up on everybody, at once."""
        self._is_closing = True
        with contextlib.suppress(OSError):  # the thread has come to its end by itself
            self._waker.send(b"x")
        self._thread.join(_LAST_WORDS)  # it may be in the middle of a page

    def _run(self) -> None:
        try:
            while not self._is_closing:
                for key, _ in self._selector.select(self._next()):
                    self._turn(key)
                self._tidy()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._selector.close()
            for each in (self._listening, self._woken, self._waker):
                each.close()

    def _turn(self, key: selectors.SelectorKey) -> None:
        client = self._clients.get(key.fd)
        try:
            if key.fileobj is self._listening:
                self._accept()
            elif client is not None:
                self._serve(client)
        except Exception:  # noqa: BLE001 - whatever one client has brought about, the others go on
            if client is not None:
                self._drop(client)

    # ---- time and room

    def _next(self) -> float | None:
        """Return in how many seconds something has to be done though nobody says anything."""
        times = [client.until for client in self._clients.values()]
        if self._paused_until:
            times.append(self._paused_until)
        return max(0.0, min(times) - monotonic()) if times else None

    def _tidy(self) -> None:
        now = monotonic()
        for client in [one for one in self._clients.values() if one.until <= now]:
            self._drop(client)
        if self._paused_until and self._paused_until <= now:
            try:
                self._selector.register(self._listening, selectors.EVENT_READ)
                self._paused_until = 0.0
            except OSError:
                self._paused_until = now + _PAUSE

    def _make_room(self) -> None:
        """Hang up on who has been there longest; on those that read an answer, last."""
        clients = self._clients.values()
        idle = (one for one in clients if one.unsent is None or one.is_done)
        oldest = next(idle, None) or next(iter(clients), None)
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(client.connection)
        client.connection.close()

    # ---- a client's way

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                # Others need descriptors now; who waits to be accepted would make us spin.
                self._make_room()
                self._selector.unregister(self._listening)
                self._paused_until = monotonic() + _PAUSE
            return
        if len(self._clients) >= self._most:
            self._make_room()
        connection.setblocking(False)  # noqa: FBT003 - the standard library's name
        client = _Client(connection, monotonic() + self._patience)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve(self, client: _Client) -> None:
        try:
            if client.unsent is not None and not client.is_done:
                self._send(client)
            else:
                self._hear(client)
        except BlockingIOError:
            return

    def _hear(self, client: _Client) -> None:
        data = client.connection.recv(LONGEST_HEAD)
        if not data:
            self._drop(client)
        elif not client.is_done:  # else it is what nobody asked for, a body mostly
            before = max(0, len(client.head) - len(_END))
            client.head += data
            if client.head.find(_END, before) >= 0 or len(client.head) > LONGEST_HEAD:
                self._answer(client)

    def _answer(self, client: _Client) -> None:
        client.unsent = memoryview(self._respond(bytes(client.head)))
        client.head.clear()
        client.until = monotonic() + 3 * self._patience
        slow = [one for one in self._clients.values() if one.unsent and one is not client]
        waiting = sum(len(one.unsent or b"") for one in slow)
        while slow and waiting + len(client.unsent) > _UNSENT:
            waiting -= len(slow[0].unsent or b"")
            self._drop(slow.pop(0))
        self._selector.modify(client.connection, selectors.EVENT_WRITE)
        self._send(client)

    def _send(self, client: _Client) -> None:
        unsent = client.unsent or memoryview(b"")
        client.unsent = unsent[client.connection.send(unsent[:_PIECE]) :]
        if not client.unsent:
            # Closed at once, with something unread, the kernel would take the answer back.
            client.is_done = True
            client.until = monotonic() + _LAST_WORDS
            client.connection.shutdown(socket.SHUT_WR)
            self._selector.modify(client.connection, selectors.EVENT_READ)

"""The other end of ``poolscope run``: one account of all the processes of a command."""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from poolscope import events as ev
from poolscope.callsites import CallSite, CallSites
from poolscope.observers import Observer
from poolscope.origins import Origins
from poolscope.shield import say, spelled

_CHUNK = 1 << 16
_LEVELS = ("active", "idle", "pending", "max", "pools", "age_sum", "stale")


class Attached(NamedTuple):
    """A Python process of the command; of its arguments the program's name alone."""

    pid: int
    python: str
    program: str


class _Peer:
    """An attached process, for as long as its socket is open."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread = b""
        self.pid = 0
        #: By the process's own name of the origin; the levels carry the common one.
        self.levels: dict[ev.Origin, ev.Levels] = {}


class Collector:
    """Listens on a Unix socket and tells its observers what all processes say, as one.

    What they count adds up and stays; their levels are forgotten when their socket closes.
    """

    def __init__(self, path: str, observers: Sequence[Observer], max_origins: int) -> None:
        self.attached = 0
        #: Those that are there now; replaced, never changed, as other threads read it.
        self.processes: tuple[Attached, ...] = ()
        #: Processes that have not said good-bye, by their number.
        self.silent: set[int] = set()
        #: Python processes that could not be attached: their executables, and why.
        self.refused: list[tuple[str, str]] = []
        self._observers = list(observers)
        self._origins = Origins(max_origins)
        self._sites = CallSites()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._selector.register(self._stop_reader, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="poolscope-collector", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def finish(self) -> None:
        """Read what the processes that are gone have left in their sockets, and stop."""
        self._stop_writer.send(b"x")
        self._thread.join()
        self._selector.unregister(self._stop_reader)
        self._stop_reader.close()
        self._stop_writer.close()
        while ready := self._selector.select(timeout=0):
            for key, _ in ready:
                self._serve(key)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data.connection.close()
        self._selector.close()
        self._listener.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._stop_reader:
                    return
                self._serve(key)

    def _serve(self, key: selectors.SelectorKey) -> None:
        if key.data is None:
            connection, _ = self._listener.accept()
            self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))
            return
        peer: _Peer = key.data
        try:
            chunk = peer.connection.recv(_CHUNK)
        except OSError:
            chunk = b""
        if not chunk:
            self._leave(peer)
            return
        *lines, peer.unread = (peer.unread + chunk).split(b"\n")
        for line in lines:
            self._hear(peer, line)

    def _hear(self, peer: _Peer, line: bytes) -> None:
        try:
            message: dict[str, Any] = json.loads(line)
            told = ev.from_plain(message.get("events", ()))
            hello = _attached(message) if "pid" in message and "refused" not in message else None
        except (ValueError, KeyError, TypeError) as error:
            told = [ev.Faulted(f"collector.{type(error).__name__}")]
            message, hello = {}, None
        if "refused" in message:
            self.refused.append((str(message.get("executable")), str(message["refused"])))
        elif hello is not None:
            self.attached += 1
            peer.pid = hello.pid
            self.silent.add(peer.pid)
            self.processes += (hello,)
        elif "bye" in message:
            self.silent.discard(peer.pid)
        self._tell([self._as_one(peer, event) for event in told])

    def _leave(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()
        self.processes = tuple(one for one in self.processes if one.pid != peer.pid)
        left, peer.levels = peer.levels, {}
        self._tell([self._sum(origin) for origin in {levels.origin for levels in left.values()}])

    def _tell(self, told: Sequence[ev.AnyEvent]) -> None:
        for observer in list(self._observers):
            try:
                observer.tell(told)
            except Exception as error:  # noqa: BLE001 - the others go on, and so does the account
                self._observers.remove(observer)
                name = f"observer.{type(observer).__name__}"
                say("poolscope: a fault of its own in %s (%s).", name, spelled(error))
                self._tell([ev.Faulted(name)])

    def _as_one(self, peer: _Peer, event: ev.AnyEvent) -> ev.AnyEvent:
        """Bound the origins of all processes as those of one are bounded, and add up levels."""
        if isinstance(event, ev.Faulted):
            return event
        own = event.origin
        state, _ = self._origins.find(own)
        event = event._replace(origin=state.origin)
        if isinstance(event, ev.AskedFor | ev.Held) and event.path:
            site = self._sites.known(CallSite(event.path, event.function, event.line))
            return event._replace(**site._asdict())
        if not isinstance(event, ev.Levels):
            return event
        peer.levels[own] = event
        return self._sum(state.origin)

    def _sum(self, origin: ev.Origin) -> ev.Levels:
        peers = [key.data for key in self._selector.get_map().values() if key.data is not None]
        told = [
            levels for peer in peers for levels in peer.levels.values() if levels.origin == origin
        ]
        sums = {name: sum(getattr(levels, name) for levels in told) for name in _LEVELS}
        oldest = max((levels.oldest_age for levels in told), default=0.0)
        return ev.Levels(origin, **sums, oldest_age=oldest)


def _attached(hello: dict[str, Any]) -> Attached:
    """Read who says hello."""
    return Attached(int(hello["pid"]), str(hello.get("python")), str(hello.get("program")))

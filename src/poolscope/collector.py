"""The other end of ``poolscope run``: one account of all the processes of a command."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from poolscope import events as ev
from poolscope import wire
from poolscope.merging import Merger
from poolscope.observers import Observer
from poolscope.roster import Roster
from poolscope.shield import say, spelled

_CHUNK = 1 << 16
_QUEUE = 4096  # processes that may wait to be accepted; the kernel makes less of it if it has to
_TICK = 1.0  # seconds between looks for files, and at levels unless somebody asks for them
_PAUSE = 0.1  # seconds without new connections when descriptors have run out, or after a fault
_LAST_READING = 5.0  # seconds for what the processes have left in their sockets
_INDULGENCE = 100  # lines without a meaning after which nothing else is expected of somebody


class Attached(NamedTuple):
    """A Python process of the command; of its arguments the program's name alone."""

    pid: int
    python: str
    program: str


class _Peer:
    """The connection of a process, for as long as it is open; or the file that it has left."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        self.connection = connection
        self.unread = b""
        self.has_greeted = False
        self.said_bye = False
        self.rubbish = 0


class Collector:
    """Listens on a Unix socket and tells its observers what all processes say, as one.

    What they count adds up and stays; their levels are forgotten when their socket closes.
    Whatever comes in, it goes on: what can't be understood is counted, and told once.
    """

    def __init__(self, path: str, observers: Sequence[Observer], max_origins: int) -> None:
        self.roster = Roster()
        self._path = Path(path)
        self._observers = tuple(observers)
        self._merger = Merger(max_origins)
        #: Our own code's, and what was not understood, until the next time observers are told.
        self._faults: list[ev.AnyEvent] = []
        self._said: set[str] = set()
        #: A scrape tells observers, too.
        self._lock = threading.RLock()
        self._peers: set[_Peer] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._path.chmod(0o600)
        self._listener.listen(_QUEUE)
        self._listener.setblocking(False)  # noqa: FBT003 - the standard library's
        self._listens_again = 0.0
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for one in (self._listener, self._stop_reader):
            self._selector.register(one, selectors.EVENT_READ)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="poolscope-collector", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    @property
    def attached(self) -> int:
        """How many processes have been there."""
        return self.roster.attached

    @property
    def processes(self) -> tuple[Attached, ...]:
        """Those that are there now."""
        return tuple(Attached(*hello[1:]) for hello in self.roster.there)

    def drain(self) -> None:
        """Tell the observers what is open now, before somebody looks at them."""
        with self._lock:
            faults, self._faults = self._faults, []
            self._tell(faults)
            # What is told together is of one moment.
            for levels in (*self._merger.levels.take_peaks(), self._merger.levels.take()):
                self._tell(levels)

    def finish(self) -> None:
        """Read what the processes that are gone have left in their sockets, and stop."""
        self._stop_writer.send(b"x")
        self._thread.join()
        self._selector.unregister(self._stop_reader)
        deadline = monotonic() + _LAST_READING
        while self._shielded(self._read, 0.0) and monotonic() < deadline:
            pass
        for peer in list(self._peers):
            # It goes on without us; what it has open stays open in the account.
            self._hang_up(peer)
        # There may have been no descriptors left for these.
        while self._shielded(self._read, 0.0) and monotonic() < deadline:
            pass
        self._shielded(self._gather)
        self.drain()
        for one in (self._listener, self._selector, self._stop_reader, self._stop_writer):
            one.close()

    # ---- the thread

    def _run(self) -> None:
        next_tick = 0.0
        while not self._stopped:
            self._shielded(self._read, max(0.0, next_tick - monotonic()))
            if monotonic() >= next_tick:
                next_tick = monotonic() + _TICK
                self._shielded(self._gather)
                self._shielded(self.drain)

    def _shielded(self, step: Callable[..., Any], *what: Any) -> Any:
        try:
            return step(*what)
        except Exception as error:  # noqa: BLE001 - the account of the others goes on
            self._fault("collector.thread", spelled(error))
            sleep(_PAUSE)  # what lasts must not keep the machine busy
            return True

    def _read(self, seconds: float) -> bool:
        """Serve whoever has something to say within these seconds; tell whether anybody had."""
        if self._listens_again and monotonic() >= self._listens_again:
            self._listens_again = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        ready = self._selector.select(_PAUSE if self._listens_again else seconds)
        for key, _ in ready:
            if key.data is not None:
                self._serve(key.data)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                self._stopped = True
        return bool(ready or self._listens_again)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # Out of descriptors: who wants in can wait, and those who are in go on.
            self._say("accept", "poolscope: new processes have to wait: %s.", error.strerror)
            self._selector.unregister(self._listener)
            self._listens_again = monotonic() + _PAUSE
            return
        if _is_a_strangers(connection):
            connection.close()
            self._fault("collector.stranger", "another user's process wants to be heard")
            return
        connection.setblocking(False)  # noqa: FBT003 - the standard library's
        peer = _Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _serve(self, peer: _Peer) -> None:
        try:
            chunk = peer.connection.recv(_CHUNK) if peer.connection is not None else b""
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        *lines, peer.unread = (peer.unread + chunk).split(b"\n")
        self._hear(peer, lines)
        if len(peer.unread) > wire.LONGEST:
            self._fault("collector.line", "a line without an end")
            peer.unread, peer.rubbish = b"", _INDULGENCE
        if not chunk or peer.rubbish >= _INDULGENCE:
            self._leave(peer)

    def _leave(self, peer: _Peer) -> None:
        if peer.unread and not peer.has_greeted:  # else it was killed amid a line
            self._fault("collector.line", "half a line")
        self._hang_up(peer)
        self.roster.leave(peer, said_bye=peer.said_bye)
        with self._lock:
            self._merger.levels.forget(peer)

    def _hang_up(self, peer: _Peer) -> None:
        if peer.connection is not None:
            self._peers.discard(peer)
            self._selector.unregister(peer.connection)
            peer.connection.close()

    def _gather(self) -> None:
        """Read the files of those that could not be heard when they ended."""
        with contextlib.suppress(OSError):  # out of descriptors, for one: the next time, then
            for path in self._path.parent.glob(f"{self._path.name}.*[!~]"):
                text = path.read_bytes()
                path.unlink()
                peer = _Peer()
                self._hear(peer, text.splitlines())
                self._leave(peer)
                if not text:
                    self.roster.lost(path.suffix[1:])

    # ---- what they say

    def _hear(self, peer: _Peer, lines: Sequence[bytes]) -> None:
        told: list[ev.AnyEvent] = []
        for line in lines:
            try:
                message = wire.read(line)
            except wire.RubbishError as error:
                peer.rubbish += 1
                if peer.rubbish <= _INDULGENCE:
                    self._fault("collector.line", str(error))
                continue
            if message.is_incomplete:
                self._fault("collector.row", "a row that means nothing")
            if message.refused is not None:
                self.roster.refuse(*message.refused)
            if message.hello is not None:
                peer.has_greeted = True
                self.roster.enter(peer, message.hello)
            if message.rows:
                self.roster.heard(peer)
            # What comes after a good-bye makes it void.
            peer.said_bye = message.bye or (peer.said_bye and not message.rows)
            with self._lock:
                told += self._merger.heard(peer, message.rows)
        with self._lock:
            self._tell(told)

    def _tell(self, told: Sequence[ev.AnyEvent]) -> None:
        for observer in self._observers if told else ():
            try:
                observer.tell(told)
            except Exception as error:  # noqa: BLE001 - the others are told, and the next time it is
                self._fault(f"observer.{type(observer).__name__}", spelled(error))
                self._merger.levels.tell_again()

    def _fault(self, where: str, what: str) -> None:
        with self._lock:
            self._faults.append(ev.Faulted(where))
        self._say(where, "poolscope: a fault of its own in %s (%s).", where, what)

    def _say(self, where: str, sentence: str, *what: object) -> None:
        if where not in self._said:
            self._said.add(where)
            say(sentence, *what)


def _is_a_strangers(connection: socket.socket) -> bool:
    """Tell whether the process at the other end is another user's: those have no business here."""
    if not hasattr(socket, "SO_PEERCRED"):  # then the directory's mode has to do
        return False
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return user not in (0, os.geteuid())

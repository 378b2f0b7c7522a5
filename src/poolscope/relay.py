"""The end of ``poolscope run`` inside the command's processes: sends what a drain yields."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence

from poolscope import wire
from poolscope.backlog import Backlog
from poolscope.events import AnyEvent
from poolscope.observers import Observer

#: The variable that names the collector's Unix socket.
SOCKET = "POOLSCOPE_RUN_SOCKET"

_attached_to = ""

# The command must not notice our descriptor among its own, which are given out from 0 on.
_LOWEST_DESCRIPTOR = 512
_ROOT = 0
_BUFFER = 1 << 20  # bytes that the kernel may keep for a collector that is busy

# A command that has SIGPIPE's default back must not die of us.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
# Nobody will ever read there: the collector's end is closed, its directory removed or not ours.
_NEVER = (ConnectionError, FileNotFoundError, PermissionError, NotADirectoryError)


class Relay(Observer):
    """Sends rows as lines of JSON, and never waits for the collector.

    What it can't send now is added up and sent later; what is left when the process ends is left
    in a file beside the collector's socket. If the collector is gone, so is the whole account.
    """

    may_block = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        #: What the collector knows this process by: process numbers are used again.
        self._token = os.urandom(8).hex()
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._backlog = Backlog()
        #: Lines on their way; of the first so many bytes are sent.
        self._lines: deque[bytes] = deque()
        self._sent = 0
        self._greets = False
        self._greeted = False
        self._gone = False

    def hello(self) -> None:
        """Tell the collector that this process is there."""
        self._greets = True
        self._flush()

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Send what a drain yielded, and what could not be sent before."""
        if not self._gone:
            self._backlog.add(events)
            self._flush()

    def ended(self) -> None:
        """Say good-bye: nothing is missing. A process that has said nothing goes without."""
        if not self._gone and (self._greets or self._greeted or self._has_more()):
            self._spell()
            self._lines.append(wire.good_bye())
            if not self._flush():
                self._leave_behind()
        self._leave()
        self._greets = False

    def forked(self) -> None:
        """Leave the connection, and what is on its way, to the parent."""
        self._leave()
        self._begin()
        if os.geteuid() == _ROOT:
            # A server's worker may become another user next, who is let in no more.
            with contextlib.suppress(OSError):
                self._connect()

    # ---- sending

    def _has_more(self) -> bool:
        return bool(self._lines or self._backlog)

    def _flush(self) -> bool:
        """Send as much as the socket takes; tell whether nothing is left to be sent."""
        if self._gone:
            return True
        for _ in range(2):  # a connection that broke is tried once more
            try:
                if self._greets or self._has_more():
                    self._reach()
                while self._has_more():
                    if not self._lines:
                        self._spell()
                    self._send_first_line()
            except _NEVER:
                if self._socket is not None:
                    self._leave()
                    continue
                self._give_up()
            except (OSError, MemoryError):
                return False  # its queue is full, or we are short of something: later, then
            return True
        self._give_up()
        return True

    def _reach(self) -> None:
        if not self._is_ours():
            self._connect()
        if self._socket is not None and not self._greeted:
            self._socket.sendall(self._greeting(), _NO_SIGNAL)
            self._greeted = True

    def _spell(self) -> None:
        self._lines.extend(list(wire.spelled(self._backlog.rows())))
        self._backlog.clear()

    def _send_first_line(self) -> None:
        if self._socket is None:
            raise BrokenPipeError
        line = self._lines[0]
        while self._sent < len(line):
            self._sent += self._socket.send(memoryview(line)[self._sent :], _NO_SIGNAL)
        self._lines.popleft()
        self._sent = 0

    def _connect(self) -> None:
        self._leave()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.setblocking(False)  # noqa: FBT003 - the standard library's
            first.connect(self._path)
            made = _moved_up(first)
        made.setblocking(False)  # noqa: FBT003 - as above
        with contextlib.suppress(OSError):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        if hasattr(socket, "SO_NOSIGPIPE"):  # macOS
            made.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
        self._socket, self._identity = made, _identity(made.fileno())
        self._greeted = False

    def _greeting(self) -> bytes:
        python = sys.version.partition(" ")[0]
        return wire.greeting(wire.Hello(self._token, os.getpid(), python, _program()))

    def _is_ours(self) -> bool:
        # A daemon closes all descriptors, and the number may have become the command's file.
        return (
            self._socket is not None
            and self._identity is not None
            and _identity(self._socket.fileno()) == self._identity
        )

    def _leave(self) -> None:
        old, self._socket = self._socket, None
        self._sent = 0  # another connection begins with a whole line
        if old is None:
            return
        if _identity(old.fileno()) == self._identity:
            old.close()
        else:
            old.detach()

    def _give_up(self) -> None:
        self._leave()
        self._begin()
        self._gone = True

    def _leave_behind(self) -> None:
        """Leave what could not be sent in a file, which the collector reads when it can.

        On a full disk an empty one says that something is missing.
        """
        written = f"{self._path}.{self._token}"
        with contextlib.suppress(OSError):
            descriptor = os.open(f"{written}~", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                    file.writelines((self._greeting(), *self._lines))
            except OSError:
                os.truncate(f"{written}~", 0)
            os.rename(f"{written}~", written)  # noqa: PTH104 - strings will do


def _program() -> str:
    """Name the program that this process runs, without its arguments: they may hold secrets."""
    said = sys.argv[0] if sys.argv else ""
    if said == "-m":  # which becomes the module's file only after we are gone
        said = sys.orig_argv[-len(sys.argv)]  # the module's name stands before its arguments
    return os.path.basename(said) or "python"  # noqa: PTH119 - it is no path, mostly


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _moved_up(first: socket.socket) -> socket.socket:
    import fcntl  # noqa: PLC0415 - POSIX, as Unix sockets are

    with contextlib.suppress(OSError):  # beyond the process's limit: any number will do
        number = fcntl.fcntl(first.fileno(), fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
        return socket.socket(fileno=number)
    return first.dup()


def attach(path: str) -> None:
    """Attach this process to the collector at ``path``."""
    global _attached_to  # noqa: PLW0603 - there are two ways in, and one of them is enough
    if _attached_to == path or not os.path.exists(path):  # noqa: PTH110 - a string will do
        return  # or whoever started this is gone
    _attached_to = path
    import poolscope  # noqa: PLC0415 - the verbs sit on top of this module

    relay = Relay(path)
    poolscope.instrument(relay)
    relay.hello()

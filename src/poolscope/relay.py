"""The end of ``poolscope run`` inside the command's processes: sends what a drain yields."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import sys
from collections.abc import Sequence
from typing import Any

from poolscope.events import AnyEvent, to_plain
from poolscope.observers import Observer

#: The variable that names the collector's Unix socket.
SOCKET = "POOLSCOPE_RUN_SOCKET"

# The command must not notice our descriptor among its own, which are given out from 0 on.
_LOWEST_DESCRIPTOR = 512
_TIMEOUT = 5.0  # seconds that a collector may keep a drain waiting, never a request


class Relay(Observer):
    """Sends events as lines of JSON; a collector that went away costs nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._gone = False

    def hello(self) -> None:
        """Tell the collector that this process is there."""
        self._send({})

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Send what a drain yielded."""
        if events:
            self._send({"events": to_plain(events)})

    def ended(self) -> None:
        """Say good-bye: nothing is missing."""
        self._send({"bye": True})
        self._leave()

    def forked(self) -> None:
        """Leave the connection to the parent, which is the only one to end it."""
        self._leave()

    def _send(self, message: dict[str, Any]) -> None:
        if self._gone:
            return
        try:
            if not self._is_ours():
                self._connect()
            self._write(message)
        except OSError:
            self._gone = True
            self._leave()

    def _connect(self) -> None:
        self._leave()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.settimeout(_TIMEOUT)
            first.connect(self._path)
            self._socket = _moved_up(first)
        self._socket.settimeout(_TIMEOUT)
        if hasattr(socket, "SO_NOSIGPIPE"):  # macOS
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
        self._identity = _identity(self._socket.fileno())
        python = platform.python_version()
        self._write({"pid": os.getpid(), "python": python, "program": _program()})

    def _write(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            line = json.dumps(message).encode() + b"\n"
            # A command that has SIGPIPE's default back must not die of us.
            self._socket.sendall(line, getattr(socket, "MSG_NOSIGNAL", 0))

    def _is_ours(self) -> bool:
        # A daemon closes all descriptors, and the number may have become the command's file.
        return (
            self._socket is not None
            and self._identity is not None
            and _identity(self._socket.fileno()) == self._identity
        )

    def _leave(self) -> None:
        old, self._socket = self._socket, None
        if old is None:
            return
        if _identity(old.fileno()) == self._identity:
            old.close()
        else:
            old.detach()


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
    import poolscope  # noqa: PLC0415 - the verbs sit on top of this module

    relay = Relay(path)
    poolscope.instrument(relay)
    relay.hello()

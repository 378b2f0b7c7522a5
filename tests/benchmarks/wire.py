"""A socket in memory: answers at once and costs nothing, so that what is measured is ours.

The network's own cost is the same with and without poolscope, and a hundred times noisier.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n"
ANSWER = HEAD + b"\r\nok"
LAST = HEAD + b"Connection: close\r\n\r\nok"
URL = "http://upstream.example/"


class Wire:
    """As much of a socket as urllib3 uses."""

    family = socket.AF_INET

    def __init__(self, *_: Any, **__: Any) -> None:
        self._answer = ANSWER

    def sendall(self, data: bytes) -> None:
        """Take a request; remember whether it is the last."""
        if b"close" in data:
            self._answer = LAST

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        """Return the answer."""
        return io.BytesIO(self._answer)

    def getpeername(self) -> tuple[str, int]:
        """Return where it seems to lead."""
        return ("192.0.2.1", 80)

    def nothing(self, *_: Any) -> None:
        """Do nothing."""

    settimeout = setsockopt = shutdown = close = nothing


def _is_dropped(_: Any) -> bool:
    return False


@contextlib.contextmanager
def wires() -> Iterator[None]:
    """Let urllib3 connect to memory, whatever the host.

    Nor does it ask the kernel whether an idle connection was hung up: a call that lets go of
    Python's global lock for an instant wakes a waiting thread, the heartbeat, in vain each time,
    which does not happen where a request really waits for its answer.
    """
    with (
        mock.patch("urllib3.util.connection.create_connection", Wire),
        mock.patch("urllib3.connectionpool.is_connection_dropped", _is_dropped),
    ):
        yield

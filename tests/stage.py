"""The props of the stage: a fake clock, and stand-ins for what urllib3's hooks look at.

``stage_hooks`` calls the hooks, ``stage_threads`` does what urllib3 does around them.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import weakref
from types import SimpleNamespace
from typing import Any, NamedTuple

from poolscope.events import Origin

UNIX = "/run/stage.sock"


class EmptyPoolError(Exception):
    """The hooks know urllib3's by its name."""


class ClosedPoolError(Exception):
    """As above."""


class Meets(NamedTuple):
    """An error, why the connection closes then, and what is exported as the error's kind."""

    error: type[Exception]
    reason: str
    kind: str


#: How a request, or the reading of a body, fails.
ERRORS = {
    "reset": Meets(ConnectionResetError, "reset", "reset"),
    "timeout": Meets(TimeoutError, "timeout", "timeout"),
    "protocol": Meets(http.client.HTTPException, "error", "protocol"),
    "other": Meets(ValueError, "error", "other"),
}
#: How connecting fails, by where it does.
CONNECTS = {
    "tcp": {
        "refused": Meets(ConnectionRefusedError, "error", "refused"),
        "dns": Meets(socket.gaierror, "error", "dns"),
        "slow": Meets(TimeoutError, "timeout", "timeout"),
    },
    "tunnel": {"forbidden": Meets(OSError, "error", "proxy")},
    "tls": {
        "untrusted": Meets(ssl.SSLError, "error", "tls"),
        "slow tls": Meets(TimeoutError, "timeout", "timeout"),
    },
}
ANSWERS = (*("ok",) * 8, "close", "close", "no headers", "never sent", "given up", *ERRORS)
BODIES = (*("read",) * 8, "held", "held", "unread", "dropped", *ERRORS)


class Plan(NamedTuple):
    """What a request meets with, should it come to that."""

    connect: str = "ok"
    answer: str = "ok"
    body: str = "read"
    stale: bool = False
    gives_up: bool = False
    nested: tuple | None = None  # pool, plan: another request of the same thread meanwhile


class Clock:
    """Stands still until it is moved; who looks at it may be interrupted."""

    def __init__(self):
        self.now = 1000.0
        self.interruptions = []

    def __call__(self):
        if self.interruptions:
            self.interruptions.pop(0)()
        return self.now


class Pulse:
    """Counts how often it was woken; beats only when the test drains."""

    beating = False
    woken = 0

    def wake(self):
        self.woken += 1


class Socket:
    family = socket.AF_INET

    def version(self):
        return "TLSv1.3"


class UnixSocket(Socket):
    family = socket.AF_UNIX

    def getpeername(self):
        return UNIX


class Response(NamedTuple):
    """http.client's."""

    will_close: bool
    fp: Any


class Seen:
    """What the model knows of an object of the host's, also when that is gone."""

    facts = None


class Body:
    """The file from which a response's body is read."""

    def __init__(self, stage):
        self.seen = Seen()
        weakref.finalize(self, stage.body_gone, self.seen)


class HostConnection:
    def __init__(self, stage, pool):
        self.sock = None
        self.proxy = pool.proxy
        self._tunnel_host = pool.host if pool.kind == "tunnel" else None
        self.seen = Seen()
        # Made before the hooks' own references, so it is called after theirs.
        weakref.finalize(self, stage.conn_gone, self.seen)


class HostPool:
    def __init__(self, stage, kind, number, block, maxsize):
        self.kind = kind
        self.scheme = "http" if kind in ("http", "unix") else "https"
        self.host, self.port = f"host{number}", None
        self.block = block and kind != "unix"
        self.pool = SimpleNamespace(maxsize=maxsize, queue=[None] * maxsize)
        self.proxy = SimpleNamespace(scheme="https", host="proxy", port=3128)
        self.proxy = self.proxy if kind == "tunnel" else None
        self.is_open = True
        self.seen = Seen()
        weakref.finalize(self, stage.pool_gone, self.seen, self.pool.queue)

    @property
    def origin(self):
        return Origin(self.host, {"http": "80", "https": "443"}[self.scheme], self.scheme, CLIENT)


CLIENT = "urllib3"
PROXY = Origin("proxy", "3128", "https", CLIENT)

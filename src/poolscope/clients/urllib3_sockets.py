"""What is written down of urllib3's sockets: how each was opened, what it cost, why it closed.

Sockets, not connection objects: urllib3 opens one object again and again. As everything on the
host's stack: no lock, no log, no foreign code (see ``records``).
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any, NamedTuple

from poolscope.callsites import asking
from poolscope.clients.urllib3_causes import Why, is_requested, why_closed
from poolscope.clients.urllib3_errors import connect_failure, is_about_connecting, reached_proxy
from poolscope.clients.urllib3_records import Records, origin
from poolscope.events import Origin
from poolscope.records import Carrier, Connection, Ref
from poolscope.suppression import is_suppressed

#: For whom the code runs that gets no connection as an argument; true only as long as that one's
#: request is under way (``taken_at``) or it is ``connecting``. Every thread and every greenlet has
#: its own.
current: ContextVar[Carrier | None] = ContextVar("poolscope_current", default=None)


class _Handshake(NamedTuple):
    carrier: Carrier
    origin: Origin
    began: float


class _Connect(NamedTuple):
    carrier: Carrier | None
    conn: Any
    outer: Carrier | None
    began: float
    tunnels: bool  # before: closing a connection makes urllib3 2.x forget it


class Sockets(Records):
    """The hooks of urllib3 around one socket's life."""

    def take(self, carrier: Carrier, now: float) -> None:
        """Begin a request's clock: its connection is in hand."""
        carrier.taken_at = now
        connection = carrier.connection
        if connection is not None and not connection.reason and not connection.busy_since:
            connection.busy_since = now  # else it never came back from a request given up
        if not carrier.dirty:
            carrier.touch()
            self.pulse.wake()

    def create(self, host_pool: Any) -> Any:
        """Before a pool makes a connection object."""
        return host_pool

    def created(self, host_pool: Any, conn: Any, error: BaseException | None) -> None:
        """After a pool made a connection object: bound to its pool before it connects."""
        if error is None and self.carrier(conn) is None and not is_suppressed():
            self.bind(self.pool(host_pool), conn)

    def connect(self, conn: Any) -> _Connect | None:
        """Before ``connect``. A connection without a pool is nobody's: it hides who is around."""
        now = self.clock()
        carrier = self.carrier(conn)
        if carrier is not None:
            if carrier.connecting:
                return None
            carrier.connecting = True
            carrier.failed = ""
            if not carrier.taken_at and is_requested(sys._getframe(1), carrier):  # noqa: SLF001 - see close()
                self.take(carrier, now)  # a tunnel connects before its request is made
                carrier.is_early = True
        outer = current.get()
        current.set(carrier)
        return _Connect(carrier, conn, outer, now, bool(_tunnel_host(conn)))

    def connected(self, call: _Connect, _result: Any, error: BaseException | None) -> None:
        """After ``connect``: name, TCP, tunnel and TLS are done, or one of them failed."""
        current.set(call.outer)
        carrier, conn = call.carrier, call.conn
        if carrier is None:
            return
        carrier.connecting = False
        now = self.clock()
        log = carrier.ledger.log
        connection = carrier.connection
        is_open = connection is not None and connection.opened_at >= call.began
        if error is None:
            if connection is not None and is_open:
                connection.watch(conn.sock)
            log.append(("created", carrier.pool, now - call.began, ""))
            self.usable(connection, now - call.began)
            return
        tunnelling = is_open and call.tunnels
        kind = carrier.failed or connect_failure(error, tunnelling=tunnelling)
        carrier.failed = "timeout" if kind == "timeout" else "error"
        log.append(("created", carrier.pool, now - call.began, kind))
        if self.finish(carrier):
            log.append(("failed", carrier.pool, False, "connect"))

    def usable(self, connection: Connection | None, seconds: float) -> None:
        """Take note that a connection became usable after so many seconds: nobody is told."""

    def tcp(self, conn: Any) -> Carrier | None:
        """Before the TCP connection is made."""
        return self.carrier(conn)

    def tcp_opened(self, carrier: Carrier, _sock: Any, error: BaseException | None) -> None:
        """After the TCP connection was made: a server would have counted an accept."""
        now = self.clock()
        if error is None:
            self.open(carrier, now)
        elif reached_proxy(error):
            kind = connect_failure(error, tunnelling=False)
            self.open(carrier, now).end(now, "timeout" if kind == "timeout" else "error")

    def handshake(
        self, sock: Any, ssl_context: Any, tls_in_tls: Any, server_hostname: Any = None
    ) -> _Handshake | None:
        """Before a TLS handshake."""
        carrier = current.get()
        if carrier is None or not carrier.connecting:
            return None
        to = carrier.pool.origin
        conn = carrier.ref and carrier.ref()
        proxy: Any = getattr(conn, "proxy", None)
        is_tunnel = proxy is not None and bool(_tunnel_host(conn))
        if is_tunnel and proxy.scheme == "https" and not tls_in_tls:
            to = origin(proxy.host, proxy.port, proxy.scheme)
        return _Handshake(carrier, to, self.clock())

    def handshaken(self, state: _Handshake, sock: Any, error: BaseException | None) -> None:
        """After a TLS handshake."""
        carrier, to, began = state
        seconds = self.clock() - began
        version = resumed = failed = ""
        if error is None:
            spoken = getattr(sock, "version", None)  # a stand-in in somebody's tests may not tell
            spoken = spoken() if callable(spoken) else None
            version = spoken.removeprefix("TLSv") if isinstance(spoken, str) else ""
            reused = getattr(getattr(sock, "sslobj", sock), "session_reused", None)
            resumed = "" if reused is None else str(bool(reused)).lower()
        else:
            kind = connect_failure(error, tunnelling=False)
            failed = carrier.failed = "timeout" if kind == "timeout" else "tls"
        row = ("handshake", to, seconds, version, resumed, failed)
        carrier.ledger.log.append(row)

    def close(self, conn: Any) -> None:
        """Before ``close``, which urllib3 also calls on what is closed already."""
        carrier = self.carrier(conn)
        if carrier is None:
            return
        is_closed = getattr(conn, "sock", None) is None
        if is_closed and not carrier.taken_at:
            return
        pool, now = carrier.pool, self.clock()
        why = why_closed(sys._getframe(1), carrier)  # noqa: SLF001 - where it is called says why
        connection = carrier.connection
        if connection is None or connection.reason:
            connection = None if is_closed else self.find(carrier, carrier.taken_at or now)
        body = getattr(why.response, "fp", None)
        if carrier.taken_at and not carrier.connecting and why.response is None:
            self._fail(carrier, connection, why)
        if connection is None:
            return
        if body is not None:
            # http.client closes before the body is read: the response owns the socket now, and
            # carries it on, as the connection object may soon carry another one.
            ends_with = Ref(body, self.body_gone)
            ends_with.record = connection
            heir = Carrier(carrier.ledger, pool)
            heir.connection = connection
            heir.touch()
            connection.carrier = heir
            connection.ends_with = ends_with
            connection.reason = why.reason  # last, as it takes the connection from its carrier
            return
        if why.reason == "stale":
            idle = now - connection.idle_since
            carrier.ledger.log.append(("dropped", pool, why.reason, idle))
        connection.end(now, why.reason)
        self.pulse.wake()
        if why.reason == "explicit" and self.finds_call_sites:
            connection.taker = asking(sys._getframe(1))  # noqa: SLF001 - as above

    def _fail(self, carrier: Carrier, connection: Connection | None, why: Why) -> None:
        """Write down that the request under way will get no answer: its connection is given up."""
        began = self.finish(carrier)
        log = carrier.ledger.log
        if connection is None:
            kind = "connect" if is_about_connecting(why.error) else "other"
            log.append(("failed", carrier.pool, False, kind))
            return
        if connection.is_reused and why.failed in ("reset", "timeout"):
            log.append(("dropped", carrier.pool, why.failed, began - connection.idle_since))
        log.append(("failed", carrier.pool, connection.is_reused, why.failed))

    def finish(self, carrier: Carrier) -> float:
        """End the request under way, answered or not; return when it began."""
        if carrier.outer is not None:
            if current.get() is carrier:  # it is not if another thread closes the connection
                current.set(carrier.outer)
            carrier.outer = None
        carrier.is_early = False
        began, carrier.taken_at = carrier.taken_at, 0.0
        return began


def _tunnel_host(conn: Any) -> str | None:
    host: str | None = getattr(conn, "_tunnel_host", None)
    return host

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


class _Tcp(NamedTuple):
    carrier: Carrier
    before: Connection | None


class _Handshake:
    __slots__ = ("began", "carrier", "is_told", "origin")

    def __init__(self, carrier: Carrier, origin: Origin, began: float) -> None:
        self.carrier = carrier
        self.origin = origin
        self.began = began
        self.is_told = False


class _Connect:
    __slots__ = ("began", "carrier", "conn", "is_told", "outer", "tunnels")

    def __init__(self, carrier: Carrier | None, conn: Any, began: float) -> None:
        self.carrier = carrier
        self.conn = conn
        self.began = began
        self.outer = current.get()
        self.tunnels = bool(_tunnel_host(conn))  # closing a connection makes urllib3 2.x forget it
        self.is_told = False


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
        if carrier is not None and carrier.connecting:
            return None
        call = _Connect(carrier, conn, now)
        if carrier is not None:
            if not carrier.taken_at and is_requested(sys._getframe(1), carrier):  # noqa: SLF001 - see close()
                self.take(carrier, now)  # a tunnel connects before its request is made
                carrier.is_early = True
            carrier.failed = ""
            carrier.connecting = True
        current.set(carrier)
        return call

    def never_connected(self, conn: Any) -> None:
        """Instead of ``connect``, which a signal handler's exception has kept from being called."""
        carrier = self.carrier(conn)
        if carrier is not None:
            carrier.connecting = False

    def connected(self, call: _Connect, _result: Any, error: BaseException | None) -> None:
        """After ``connect``: name, TCP, tunnel and TLS are done, or one of them failed."""
        carrier, conn = call.carrier, call.conn
        if carrier is None:
            current.set(call.outer)
            return
        seconds = self.clock() - call.began
        connection = carrier.connection
        is_open = connection is not None and connection.opened_at >= call.began
        kind = ""
        if error is None:
            if connection is not None and is_open:
                connection.watch(conn.sock)
        else:
            tunnelling = is_open and call.tunnels
            kind = carrier.failed or connect_failure(error, tunnelling=tunnelling)
        if not call.is_told:
            current.set(call.outer)
            request_failed = kind != "" and carrier.taken_at != 0.0
            call.is_told = True
            carrier.ledger.log.append(("created", carrier.pool, seconds, kind, request_failed))
        carrier.connecting = False
        if kind:
            carrier.failed = "timeout" if kind == "timeout" else "error"
            self.finish(carrier)
        else:
            self.usable(connection, seconds)

    def usable(self, connection: Connection | None, seconds: float) -> None:
        """Take note that a connection became usable after so many seconds: nobody is told."""

    def tcp(self, conn: Any) -> _Tcp | None:
        """Before the TCP connection is made."""
        carrier = self.carrier(conn)
        return None if carrier is None else _Tcp(carrier, carrier.connection)

    def tcp_opened(self, call: _Tcp, sock: Any, error: BaseException | None) -> None:
        """After the TCP connection was made: a server would have counted an accept."""
        if error is not None and not reached_proxy(error):
            return
        carrier, now = call.carrier, self.clock()
        connection = carrier.connection
        if connection is None or connection is call.before:
            connection = self.open(carrier, now)
        if sock is not None:
            connection.watch(sock)
        if error is not None:
            kind = connect_failure(error, tunnelling=False)
            connection.end(now, "timeout" if kind == "timeout" else "error")

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
        carrier = state.carrier
        seconds = self.clock() - state.began
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
        if not state.is_told:
            row = ("handshake", state.origin, seconds, version, resumed, failed)
            state.is_told = True
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
        connection.end(now, why.reason)
        self.pulse.wake()
        if why.reason == "explicit" and self.finds_call_sites:
            connection.taker = asking(sys._getframe(1))  # noqa: SLF001 - as above

    def _fail(self, carrier: Carrier, connection: Connection | None, why: Why) -> None:
        """Write down that the request under way will get no answer: its connection is given up."""
        is_reused, kind, idle = False, why.failed, None
        if connection is None:
            kind = "connect" if is_about_connecting(why.error) else "other"
        elif connection.is_reused:
            is_reused = True
            # It is none if poolscope was taken out and put in again under the request.
            if kind in ("reset", "timeout") and carrier.taken_at >= connection.idle_since:
                idle = carrier.taken_at - connection.idle_since
        carrier.taken_at = 0.0
        carrier.ledger.log.append(("failed", carrier.pool, is_reused, kind, idle))
        self.finish(carrier)

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

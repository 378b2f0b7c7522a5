"""urllib3: which of its functions are hooked, and what each hook writes down.

The hooks see sockets, not connection objects: urllib3 opens one object again and again. They
fit 1.26 and every 2.x. Nothing here may lock, log or call foreign code (see ``records``).
"""

from __future__ import annotations

import sys
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from poolscope.clients.urllib3_causes import connect_failure, failure, why_closed
from poolscope.clients.urllib3_records import KEY, Records, origin, still_open
from poolscope.events import Origin
from poolscope.patching import Hook
from poolscope.pulse import Pulse
from poolscope.records import Carrier, Pool, Ref, Tally
from poolscope.scope import Scope

__all__ = ["Client", "refuse", "still_open"]

# urllib3.future's versions are those of urllib3 with a last part from here on.
_FUTURE = 900

# For whom the code runs that gets no connection as an argument.
_current: ContextVar[Carrier | None] = ContextVar("poolscope_current", default=None)


class _Wait(NamedTuple):
    pool: Pool
    token: object
    began: float


class _Handshake(NamedTuple):
    carrier: Carrier
    origin: Origin
    began: float


class _Connect(NamedTuple):
    carrier: Carrier | None
    conn: Any
    token: Token[Carrier | None]
    began: float


class Client(Records):
    """The hooks of urllib3, writing to a scope's ledger."""

    def __init__(self, scope: Scope, pulse: Pulse) -> None:
        super().__init__(scope, pulse)
        pools, conns = "urllib3.connectionpool", "urllib3.connection"
        pool, conn = "HTTPConnectionPool", "HTTPConnection"
        https_pool, https_conn = ("HTTPSConnectionPool",), ("HTTPSConnection",)
        self.hooks = (
            Hook(pools, f"{pool}._get_conn", self.wait, self.waited, https_pool, hot=True),
            Hook(pools, f"{pool}._put_conn", self.give_back, None, https_pool, hot=True),
            Hook(pools, f"{pool}._make_request", self.request, self.ended, https_pool, hot=True),
            # The headers are there when they are checked, by a function that each module
            # imports by name: 2.x calls connection's, 1.26 connectionpool's.
            Hook(conns, "assert_header_parsing", self.headers, group="headers", hot=True),
            Hook(pools, "assert_header_parsing", self.headers, group="headers", hot=True),
            Hook(pools, f"{pool}._new_conn", self.create, self.created, https_pool),
            Hook(pools, f"{pool}.close", self.close_pool, None, https_pool),
            Hook(conns, f"{conn}._new_conn", self.tcp, self.tcp_opened),
            Hook("urllib3.contrib.socks", "SOCKSConnection._new_conn", self.tcp, self.tcp_opened),
            Hook(conns, f"{conn}.connect", self.connect, self.connected, https_conn),
            Hook(conns, f"{conn}.close", self.close, None, https_conn),
            Hook("urllib3.util.ssl_", "_ssl_wrap_socket_impl", self.handshake, self.handshaken),
            Hook("urllib3._collections", "RecentlyUsedContainer.__setitem__", self.evict),
        )

    # ---- checkouts

    def wait(self, host_pool: Any, *_args: Any, **_kwargs: Any) -> _Wait | None:
        """Before ``_get_conn``, where only a blocking pool makes anybody wait."""
        if not host_pool.block:
            return None
        pool = self.pool(host_pool)
        token = object()
        pool.waiting[token] = None
        return _Wait(pool, token, self.clock())

    def waited(self, wait: _Wait, conn: Any, error: BaseException | None) -> None:
        """After ``_get_conn`` of a blocking pool."""
        pool = wait.pool
        seconds = self.clock() - wait.began
        pool.waiting.pop(wait.token, None)
        if error is None:
            carrier = self.carrier(conn) or self.bind(pool, conn)
            carrier.waits = carrier.waits or Tally()
            carrier.waits.add(seconds)
            carrier.touch()
        elif type(error).__name__ == "EmptyPoolError":
            pool.ledger.log.append(("wait_timed_out", pool, seconds))
            self.pulse.wake()

    def give_back(self, _pool: Any, conn: Any, *_args: Any, **_kwargs: Any) -> None:
        """Before ``_put_conn``: afterwards it may be somebody else's."""
        carrier = self.carrier(conn)
        if carrier is None:
            return
        carrier.taken_at = 0.0
        connection = carrier.connection
        if connection is not None and not connection.reason:
            connection.give_back(self.clock())
        if not carrier.dirty:
            carrier.touch()

    def _take(self, carrier: Carrier, now: float) -> None:
        """Begin a request's clock: its connection is in hand."""
        carrier.taken_at = now
        carrier.failed = ""
        connection = carrier.connection
        if connection is not None and not connection.reason:
            connection.busy = (connection.busy[0], now)
        if not carrier.dirty:
            carrier.touch()
        if not self.pulse.beating:
            self.pulse.wake()

    # ---- requests

    def request(
        self, host_pool: Any, conn: Any, *_args: Any, **_kwargs: Any
    ) -> tuple[Carrier, Token[Carrier | None]] | None:
        """Before ``_make_request``."""
        carrier = self.carrier(conn)
        if carrier is None:
            carrier = self.bind(self.pool(host_pool), conn)
        if carrier.requesting:  # somebody hooked a subclass, and we have both
            return None
        carrier.requesting = True
        if not carrier.taken_at:  # a tunnel has connected before, and began with that
            self._take(carrier, self.clock())
        return carrier, _current.set(carrier)

    def headers(self, *_args: Any, **_kwargs: Any) -> None:
        """Before the headers are checked: the response has come, its body has not."""
        carrier = _current.get()
        if carrier is not None and carrier.taken_at and carrier.requesting:
            self._answered(carrier)

    def _answered(self, carrier: Carrier) -> None:
        began, carrier.taken_at = carrier.taken_at, 0.0
        connection = carrier.connection
        if connection is None or connection.reason:
            connection = self.find(carrier, began) or connection
            if connection is None:
                return
        if connection.answered or connection.adopted:
            tally = carrier.reused
            if tally is None:
                tally = carrier.reused = Tally()
            tally.add(self.clock() - began)
        else:
            carrier.ledger.log.append(("first", carrier.pool, self.clock() - began))
        connection.answered += 1

    def ended(
        self,
        call: tuple[Carrier, Token[Carrier | None]],
        _result: Any,
        error: BaseException | None,
    ) -> None:
        """After ``_make_request``, which on 2.x may have read the body too."""
        carrier, token = call
        _current.reset(token)
        carrier.requesting = False
        if error is None:
            if carrier.taken_at:  # HTTP/2 checks no headers
                self._answered(carrier)
            return
        carrier.failed = carrier.failed or failure(error)
        if carrier.taken_at:
            self._failed(carrier)

    def _failed(self, carrier: Carrier) -> None:
        began, carrier.taken_at = carrier.taken_at, 0.0
        connection = carrier.connection
        if connection is None or (connection.reason and connection.closed_at < began):
            connection = self.find(carrier, began)
        log = carrier.ledger.log
        if connection is None:
            log.append(("failed", carrier.pool, False, "connect"))
            return
        kind = "protocol" if carrier.failed == "tls" else carrier.failed
        if connection.is_reused and kind in ("reset", "timeout"):
            log.append(("dropped", carrier.pool, kind, began - connection.idle_since))
        log.append(("failed", carrier.pool, connection.is_reused, kind))

    # ---- connections

    def create(self, host_pool: Any) -> Any:
        """Before a pool makes a connection object."""
        return host_pool

    def created(self, host_pool: Any, conn: Any, error: BaseException | None) -> None:
        """After a pool made a connection object: bound to its pool before it connects."""
        if error is None and self.carrier(conn) is None:
            self.bind(self.pool(host_pool), conn)

    def connect(self, conn: Any) -> _Connect | None:
        """Before ``connect``. A connection without a pool is nobody's: it hides who is around."""
        now = self.clock()
        carrier = self.carrier(conn)
        if carrier is not None:
            if carrier.connecting is not None:
                return None
            carrier.connecting = conn
            if not carrier.taken_at:  # a tunnel connects before its request is made
                self._take(carrier, now)
        return _Connect(carrier, conn, _current.set(carrier), now)

    def connected(self, call: _Connect, _result: Any, error: BaseException | None) -> None:
        """After ``connect``: name, TCP, tunnel and TLS are done, or one of them failed."""
        _current.reset(call.token)
        carrier, conn = call.carrier, call.conn
        if carrier is None:
            return
        carrier.connecting = None
        now = self.clock()
        log = carrier.ledger.log
        connection = carrier.connection
        is_open = connection is not None and connection.opened_at >= call.began
        if error is None:
            if connection is not None and is_open:
                connection.watch(conn.sock)
            log.append(("created", carrier.pool, now - call.began, ""))
            return
        tunnelling = is_open and bool(_tunnel_host(conn))
        kind = carrier.failed or connect_failure(error, tunnelling=tunnelling)
        carrier.failed = "timeout" if kind == "timeout" else "error"
        log.append(("created", carrier.pool, now - call.began, kind))
        if carrier.taken_at:
            carrier.taken_at = 0.0
            log.append(("failed", carrier.pool, False, "connect"))

    def tcp(self, conn: Any) -> Carrier | None:
        """Before the TCP connection is made."""
        return self.carrier(conn)

    def tcp_opened(self, carrier: Carrier, _sock: Any, error: BaseException | None) -> None:
        """After the TCP connection was made: a server would have counted an accept."""
        if error is None:
            self.open(carrier, self.clock())

    def handshake(
        self, _sock: Any, _context: Any, tls_in_tls: Any, *_args: Any, **_kwargs: Any
    ) -> _Handshake | None:
        """Before a TLS handshake."""
        carrier = _current.get()
        if carrier is None or carrier.connecting is None:
            return None
        to = carrier.pool.origin
        proxy: Any = getattr(carrier.connecting, "proxy", None)
        is_tunnel = proxy is not None and bool(_tunnel_host(carrier.connecting))
        if is_tunnel and proxy.scheme == "https" and not tls_in_tls:
            to = origin(proxy.host, proxy.port, proxy.scheme)
        return _Handshake(carrier, to, self.clock())

    def handshaken(self, state: _Handshake, sock: Any, error: BaseException | None) -> None:
        """After a TLS handshake."""
        carrier, to, began = state
        seconds = self.clock() - began
        version = resumed = failed = ""
        if error is None:
            version = str(sock.version() or "").removeprefix("TLSv")
            reused = getattr(getattr(sock, "sslobj", sock), "session_reused", None)
            resumed = "" if reused is None else str(bool(reused)).lower()
        else:
            kind = connect_failure(error, tunnelling=False)
            failed = carrier.failed = "timeout" if kind == "timeout" else "tls"
        row = ("handshake", to, seconds, version, resumed, failed)
        carrier.ledger.log.append(row)

    def close(self, conn: Any) -> None:
        """Before ``close``, which urllib3 also calls on what is closed already."""
        if getattr(conn, "sock", None) is None:
            return
        carrier = self.carrier(conn)
        if carrier is None:
            return
        connection = carrier.connection
        if connection is None or connection.reason:
            connection = self.find(carrier, self.clock())
            if connection is None:
                return
        pool, now = carrier.pool, self.clock()
        reason, response = why_closed(
            sys._getframe(1),  # noqa: SLF001 - where close() is called says why
            carrier.failed,
            evicted=pool.evicted,
            pool_closed=pool.closed,
        )
        body = getattr(response, "fp", None)
        if reason == "server_close" and body is not None:
            # http.client closes before the body is read: the response owns the socket now.
            connection.reason = reason
            connection.ends_with = Ref(body, self.body_gone)
            connection.ends_with.record = connection
            return
        if reason == "stale":
            idle = now - connection.idle_since
            carrier.ledger.log.append(("dropped", pool, reason, idle))
        connection.end(now, reason)
        carrier.ledger.log.append(("closed", connection))

    # ---- pools

    def close_pool(self, host_pool: Any) -> None:
        """Before a pool is closed."""
        pool = host_pool.__dict__.get(KEY)
        if isinstance(pool, Pool) and not pool.closed:
            pool.closed = True
            pool.ledger.log.append(("pool_gone", pool))

    def evict(self, container: Any, key: Any, _value: Any) -> None:
        """Before a manager stores a pool: the least recently used one may have to go."""
        pools = container._container  # noqa: SLF001 - nothing public names the victim
        if key in pools or not pools or len(pools) < container._maxsize:  # noqa: SLF001
            return
        pool = getattr(next(iter(pools.values())), "__dict__", {}).get(KEY)
        if isinstance(pool, Pool) and not pool.evicted:
            pool.evicted = True
            pool.ledger.log.append(("evicted", pool))


def _tunnel_host(conn: Any) -> str | None:
    host: str | None = getattr(conn, "_tunnel_host", None)
    return host


def refuse() -> str:
    """Return why the urllib3 that is being imported is not supported, or ""."""
    from urllib3 import _version  # noqa: PLC0415 - only once urllib3 itself is imported

    version = str(getattr(_version, "__version__", ""))
    last = version.rpartition(".")[2]
    if last.isdigit() and int(last) >= _FUTURE:
        return (
            f"urllib3.future {version} has taken the place of urllib3; it multiplexes its "
            "connections, so they are not watched"
        )
    return ""

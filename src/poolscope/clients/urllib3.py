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


class _Checkout(NamedTuple):
    pool: Pool
    token: object
    began: float


class _Handshake(NamedTuple):
    carrier: Carrier
    origin: Origin
    began: float


class _Call(NamedTuple):
    """A request or a connect under way."""

    carrier: Carrier | None
    conn: Any
    token: Token[Carrier | None]
    began: float


class Client(Records):
    """The hooks of urllib3, writing to a scope's ledger."""

    def __init__(self, scope: Scope, pulse: Pulse) -> None:
        super().__init__(scope, pulse)
        pool, conn = "urllib3.connectionpool", "urllib3.connection"
        https_pool, https_conn = ("HTTPSConnectionPool",), ("HTTPSConnection",)
        self.hooks = (
            Hook(pool, "HTTPConnectionPool._get_conn", self.checkout, self.checked_out, https_pool),
            Hook(pool, "HTTPConnectionPool._put_conn", self.give_back, None, https_pool),
            Hook(pool, "HTTPConnectionPool._make_request", self.request, self.ended, https_pool),
            Hook(pool, "HTTPConnectionPool._new_conn", self.create, self.created, https_pool),
            Hook(pool, "HTTPConnectionPool.close", self.close_pool, None, https_pool),
            # The headers are there when they are checked, by a function that each module
            # imports by name: 2.x calls connection's, 1.26 connectionpool's.
            Hook(conn, "assert_header_parsing", self.headers, None, group="headers"),
            Hook(pool, "assert_header_parsing", self.headers, None, group="headers"),
            Hook(conn, "HTTPConnection._new_conn", self.tcp, self.tcp_opened),
            Hook("urllib3.contrib.socks", "SOCKSConnection._new_conn", self.tcp, self.tcp_opened),
            Hook(conn, "HTTPConnection.connect", self.connect, self.connected, https_conn),
            Hook(conn, "HTTPConnection.close", self.close, None, https_conn),
            Hook("urllib3.util.ssl_", "_ssl_wrap_socket_impl", self.handshake, self.handshaken),
            Hook("urllib3._collections", "RecentlyUsedContainer.__setitem__", self.evict, None),
        )

    # ---- checkouts

    def checkout(self, host_pool: Any, _args: Any, _kwargs: Any) -> _Checkout:
        """Before ``_get_conn``, the only place where a blocking pool makes anybody wait."""
        pool = self.pool(host_pool)
        token = object()
        if pool.blocking:
            pool.waiting[token] = None
        return _Checkout(pool, token, self.clock())

    def checked_out(self, state: _Checkout, conn: Any, error: BaseException | None) -> None:
        """After ``_get_conn``."""
        pool, token, began = state
        now = self.clock()
        if pool.blocking:
            pool.waiting.pop(token, None)
        if error is not None:
            if type(error).__name__ == "EmptyPoolError" and pool.blocking:
                pool.ledger.log.append(("wait_timed_out", pool, now - began))
                self.pulse.wake()
            return
        carrier = self.carrier(conn) or self.bind(pool, conn)
        self._take(carrier, now)
        if pool.blocking:
            carrier.waits = carrier.waits or Tally()
            carrier.waits.add(now - began)

    def _take(self, carrier: Carrier, now: float) -> None:
        carrier.taken_at = now
        carrier.failed = ""
        connection = carrier.connection
        if connection is not None and not connection.reason:
            connection.take(now)
        carrier.touch()
        if not self.pulse.beating:
            self.pulse.wake()

    def give_back(self, _pool: Any, args: Any, kwargs: Any) -> None:
        """Before ``_put_conn``: afterwards it may be somebody else's."""
        conn = args[0] if args else kwargs.get("conn")
        carrier = self.carrier(conn)
        if carrier is None:
            return
        carrier.taken_at = 0.0
        if carrier.connection is not None and not carrier.connection.reason:
            carrier.connection.give_back(self.clock())
        carrier.touch()

    # ---- requests

    def request(self, host_pool: Any, args: Any, kwargs: Any) -> _Call | None:
        """Before ``_make_request``."""
        conn = args[0] if args else kwargs.get("conn")
        carrier = self.carrier(conn) or self.bind(self.pool(host_pool), conn)
        if carrier.requesting:  # somebody hooked a subclass, and we have both
            return None
        if not carrier.taken_at:  # an overridden _get_conn that does not call ours
            self._take(carrier, self.clock())
        carrier.requesting = True
        return _Call(carrier, conn, _current.set(carrier), 0.0)

    def headers(self, _module: Any, _args: Any, _kwargs: Any) -> None:
        """Before the headers are checked: the response has come, its body has not."""
        carrier = _current.get()
        if carrier is None or not carrier.taken_at or not carrier.requesting:
            return
        self._answered(carrier)

    def _answered(self, carrier: Carrier) -> None:
        now = self.clock()
        connection = carrier.connection
        if connection is None or connection.reason:
            connection = self.find(carrier) or connection
        seconds, carrier.taken_at = now - carrier.taken_at, 0.0
        if connection is None:
            return
        if connection.is_reused:
            carrier.reused = carrier.reused or Tally()
            carrier.reused.add(seconds)
        else:
            carrier.ledger.log.append(("first", carrier.pool, seconds))
        connection.answered += 1

    def ended(self, call: _Call | None, _result: Any, error: BaseException | None) -> None:
        """After ``_make_request``, which on 2.x may have read the body too."""
        if call is None or call.carrier is None:
            return
        carrier = call.carrier
        _current.reset(call.token)
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
            connection = self.find(carrier)
        log = carrier.ledger.log
        if connection is None:
            log.append(("failed", carrier.pool, False, "connect"))
            return
        kind = carrier.failed if carrier.failed in ("reset", "timeout", "protocol") else "other"
        if carrier.failed == "tls":
            kind = "protocol"
        if connection.is_reused and kind in ("reset", "timeout"):
            log.append(("dropped", carrier.pool, kind, began - connection.idle_since))
        log.append(("failed", carrier.pool, connection.is_reused, kind))

    # ---- connections

    def create(self, host_pool: Any, _args: Any, _kwargs: Any) -> Any:
        """Before a pool makes a connection object."""
        return host_pool

    def created(self, host_pool: Any, conn: Any, error: BaseException | None) -> None:
        """After a pool made a connection object: bound to its pool before it connects."""
        if error is None and self.carrier(conn) is None:
            self.bind(self.pool(host_pool), conn)

    def connect(self, conn: Any, _args: Any, _kwargs: Any) -> _Call | None:
        """Before ``connect``. A connection without a pool is nobody's: it hides who is around."""
        carrier = self.carrier(conn)
        if carrier is not None:
            if carrier.connecting is not None:
                return None
            carrier.connecting = conn
        return _Call(carrier, conn, _current.set(carrier), self.clock())

    def connected(self, call: _Call | None, _result: Any, error: BaseException | None) -> None:
        """After ``connect``: name, TCP, tunnel and TLS are done, or one of them failed."""
        if call is None:
            return
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

    def tcp(self, conn: Any, _args: Any, _kwargs: Any) -> Carrier | None:
        """Before the TCP connection is made."""
        return self.carrier(conn)

    def tcp_opened(self, carrier: Carrier | None, _sock: Any, error: BaseException | None) -> None:
        """After the TCP connection was made: a server would have counted an accept."""
        if carrier is not None and error is None:
            self.open(carrier, self.clock())

    def handshake(
        self, _module: Any, args: Any, kwargs: Any
    ) -> tuple[Carrier, Origin, float] | None:
        """Before a TLS handshake."""
        carrier = _current.get()
        if carrier is None or carrier.connecting is None:
            return None
        in_tls = args[2] if len(args) > 2 else kwargs.get("tls_in_tls", False)  # noqa: PLR2004
        to = carrier.pool.origin
        proxy: Any = getattr(carrier.connecting, "proxy", None)
        is_tunnel = proxy is not None and bool(_tunnel_host(carrier.connecting))
        if is_tunnel and proxy.scheme == "https" and not in_tls:
            to = origin(proxy.host, proxy.port, proxy.scheme)
        return _Handshake(carrier, to, self.clock())

    def handshaken(self, state: _Handshake | None, sock: Any, error: BaseException | None) -> None:
        """After a TLS handshake."""
        if state is None:
            return
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

    def close(self, conn: Any, _args: Any, _kwargs: Any) -> None:
        """Before ``close``, which urllib3 also calls on what is closed already."""
        if getattr(conn, "sock", None) is None:
            return
        carrier = self.carrier(conn)
        if carrier is None:
            return
        connection = carrier.connection
        if connection is None or connection.reason:
            connection = self.find(carrier)
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

    def close_pool(self, host_pool: Any, _args: Any, _kwargs: Any) -> None:
        """Before a pool is closed."""
        pool = host_pool.__dict__.get(KEY)
        if isinstance(pool, Pool) and not pool.closed:
            pool.closed = True
            pool.ledger.log.append(("pool_gone", pool))

    def evict(self, container: Any, args: Any, _kwargs: Any) -> None:
        """Before a manager stores a pool: the least recently used one may have to go."""
        pools = container._container  # noqa: SLF001 - nothing public names the victim
        if args[0] in pools or not pools or len(pools) < container._maxsize:  # noqa: SLF001
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

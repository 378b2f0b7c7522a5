"""Hangs records on urllib3's pools and connections, and finds them there again.

As everything on the host's stack: no lock, no log, no foreign code (see ``records``).
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from poolscope.callsites import asking
from poolscope.events import Origin
from poolscope.pulse import Pulse
from poolscope.records import KEY, Carrier, Connection, Pool, Ref
from poolscope.scope import Scope
from poolscope.shield import is_the_hosts

_PORTS = {"http": "80", "https": "443"}


class Records:
    """The records of one process's urllib3 pools and connections."""

    #: Whether to look which line of code asks for a connection.
    finds_call_sites = False
    #: Called now and then: not every fork is told of when it happens.
    notice_fork: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, scope: Scope, pulse: Pulse) -> None:
        self.scope = scope
        self.clock = scope.clock
        self.pulse = pulse
        self.body_gone = self._when_gone("body_gone", self._end)
        self._carrier_gone = self._when_gone("carrier_gone", self._collected)
        self._pool_gone = self._when_gone("pool_gone", self._gone)

    def pool(self, host_pool: Any) -> Pool:
        """Return the record of a pool, made on its first sight in this process."""
        pool: Pool | None = getattr(host_pool, KEY, None)
        if pool is not None and pool.told and pool.ledger is self.scope.ledger:
            return pool
        self.notice_fork()
        ledger = self.scope.ledger
        if pool is None or pool.ledger is not ledger:
            pool = Pool(
                ledger,
                origin_of(host_pool),
                blocking=bool(host_pool.block),
                maxsize=max(0, getattr(host_pool.pool, "maxsize", 0)),
            )
            pool.ref = Ref(host_pool, self._pool_gone)
            pool.ref.record = pool
            object.__setattr__(host_pool, KEY, pool)
        if not pool.told:
            pool.told = True
            ledger.log.append(("pool", pool))
        return pool

    def carrier(self, conn: Any) -> Carrier | None:
        """Return what hangs on a connection object; None for a stranger, or a parent's."""
        # Not by way of __dict__: asking for that makes an object's attributes slower for good.
        try:
            carrier: Carrier = conn._poolscope  # noqa: SLF001 - it is ours
            is_ours = carrier.ledger is self.scope.ledger
        except AttributeError:
            return None
        return carrier if is_ours else None

    def bind(self, pool: Pool, conn: Any) -> Carrier:
        """Hang a new record on a connection object; adopt the connection if it is open already."""
        conn = _behind(conn)
        carrier = Carrier(pool.ledger, pool)
        carrier.ref = Ref(conn, self._carrier_gone)
        carrier.ref.record = carrier
        pool.ledger.carriers.add(carrier)
        object.__setattr__(conn, KEY, carrier)
        if getattr(conn, "sock", None) is not None:
            self._place(pool, conn.sock)
            connection = carrier.connection = Connection(carrier, self.clock(), adopted=True)
            connection.watch(conn.sock)
            pool.ledger.log.append(("adopted", connection))
        return carrier

    def _place(self, pool: Pool, sock: Any) -> None:
        """File a pool under the path of its Unix socket, before its first connection is."""
        if getattr(sock, "family", None) == getattr(socket, "AF_UNIX", -1):
            origin = pool.origin._replace(address=_text(sock.getpeername()), port="")
            if origin != pool.origin:
                pool.ledger.log.append(("moved", pool, origin))

    def open(self, carrier: Carrier, now: float) -> Connection:
        """Write down that a socket was connected."""
        before = carrier.connection
        if before is not None and not before.reason:
            before.end(now, "explicit")  # its socket was replaced without a close
        connection = Connection(carrier, now)
        carrier.connection = connection
        carrier.ledger.log.append(("opened", connection))
        if self.finds_call_sites:
            # After the row: a fault in there costs a line of code, and not a count.
            connection.site = asking(sys._getframe(1))  # noqa: SLF001 - there is no other way
        self.pulse.wake()
        return connection

    def find(self, carrier: Carrier, opened_at: float) -> Connection | None:
        """Take note of a connection that opened past our hooks, as over a Unix socket."""
        conn = carrier.ref and carrier.ref()
        sock = getattr(conn, "sock", None)
        before = carrier.connection
        is_ended = before is not None and before.socket is not None and before.socket() is sock
        if sock is None or is_ended:  # a signal handler has kept the host from closing it
            return None
        self._place(carrier.pool, sock)
        connection = self.open(carrier, opened_at)
        connection.watch(sock)
        return connection

    # ---- called by the garbage collector, where nothing may be raised

    def _end(self, connection: Connection) -> None:
        """End a connection whose last response is done with."""
        if not connection.closed_at:
            connection.end(self.clock(), connection.reason)
            self.pulse.wake()

    def _collected(self, carrier: Carrier) -> None:
        carrier.collected(self.clock())
        self.pulse.wake()

    def _gone(self, pool: Pool) -> None:
        pool.ledger.log.append(("pool_gone", pool))

    def _when_gone(self, where: str, step: Callable[[Any], None]) -> Callable[[Ref], None]:
        """Return what a weak reference calls, to do something with its record."""

        def gone(ref: Ref) -> None:
            try:
                if hasattr(ref, "record"):  # else it was made, and then given up for another one
                    step(ref.record)
            except Exception as error:
                if not is_the_hosts(error):
                    self.scope.faults.append((f"urllib3.{where}", type(error).__name__))
                    return
                step(ref.record)
                raise
            except BaseException:
                step(ref.record)
                raise

        return gone


def still_open(connection: Connection) -> bool:
    """Tell whether a connection that nobody watched for a while is still the same, and open."""
    if connection.ends_with is not None:
        return connection.ends_with() is not None
    carrier = connection.carrier
    if carrier.connecting and carrier.connection is connection:
        return True  # it is being set up, and its connect() ends under our eyes
    conn = carrier.ref and carrier.ref()
    sock = getattr(conn, "sock", None)
    return sock is not None and connection.socket is not None and connection.socket() is sock


def is_checked_out(connection: Connection) -> bool:
    """Tell whether an open connection is not in its pool's queue; nobody watched for a while."""
    if connection.ends_with is not None:
        return connection.missed  # its response is still being read
    conn = connection.carrier.ref and connection.carrier.ref()
    host_pool = connection.carrier.pool.ref and connection.carrier.pool.ref()
    queue = getattr(getattr(host_pool, "pool", None), "queue", ())
    return connection.missed and not any(item is conn for item in list(queue))


def _behind(conn: Any) -> Any:
    """Return the connection that vcrpy's stub holds: what the stub plays was never on the wire.

    The stub asks it for what it lacks itself, so what hangs on it is found from both.
    """
    real = getattr(conn, "real_connection", conn)
    return real if isinstance(conn, type(real)) else conn


def _text(path: str | bytes) -> str:
    return path if isinstance(path, str) else path.decode("utf-8", "replace")


def _socket_path(path: str) -> str:
    """Return a socket's path, which requests-unixsocket quotes as the host of the whole URL."""
    _scheme, is_url, rest = path.partition("://")
    return unquote(re.split("[/?#]", rest, maxsplit=1)[0]) if is_url else path


def origin(address: str, port: object, scheme: str) -> Origin:
    """Name an address, with the scheme's own port where none is given."""
    return Origin(address, str(port or _PORTS.get(scheme, "")), scheme, "urllib3")


def origin_of(pool: Any) -> Origin:
    """Name where a pool's connections go: the target, or a plain forward proxy."""
    path = getattr(pool, "socket_path", None)  # docker, requests-unixsocket
    if isinstance(path, str | bytes):
        return Origin(_socket_path(_text(path)), "", pool.scheme, "urllib3")
    proxy, config = pool.proxy, getattr(pool, "proxy_config", None)
    forwards = getattr(config, "use_forwarding_for_https", False)
    if proxy is not None and forwards and pool.scheme == proxy.scheme == "https":
        return origin(proxy.host, proxy.port, "https")
    return origin(pool.host, pool.port, pool.scheme)

"""urllib3: which of its functions are hooked, and what is written down of pools and requests.

The hooks fit 1.26 and every 2.x. Nothing here may lock, log or call foreign code (see
``records``).
"""

from __future__ import annotations

from contextvars import Token
from typing import Any, NamedTuple

from poolscope.clients.urllib3_causes import failure
from poolscope.clients.urllib3_records import KEY, still_open
from poolscope.clients.urllib3_sockets import Sockets, current
from poolscope.patching import Hook
from poolscope.pulse import Pulse
from poolscope.records import Carrier, Pool, Tally
from poolscope.scope import Scope

__all__ = ["Client", "refuse", "still_open"]

# urllib3.future's versions are those of urllib3 with a last part from here on.
_FUTURE = 900


class _Wait(NamedTuple):
    pool: Pool
    token: object
    began: float


class Client(Sockets):
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
            self.take(carrier, self.clock())
        return carrier, current.set(carrier)

    def headers(self, *_args: Any, **_kwargs: Any) -> None:
        """Before the headers are checked: the response has come, its body has not."""
        carrier = current.get()
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
        current.reset(token)
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

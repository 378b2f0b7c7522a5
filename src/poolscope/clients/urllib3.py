"""urllib3: which of its functions are hooked, and what is written down of pools and requests.

The hooks fit 1.26 and every 2.x. Nothing here may lock, log or call foreign code (see
``records``).
"""

from __future__ import annotations

import _thread
import sys
from bisect import bisect_left
from typing import Any

from poolscope.callsites import asking
from poolscope.catalog import DURATION_BOUNDS
from poolscope.clients.urllib3_causes import is_requested
from poolscope.clients.urllib3_records import is_checked_out, origin, still_open
from poolscope.clients.urllib3_sockets import Sockets, current
from poolscope.patching import Hook
from poolscope.pulse import Pulse
from poolscope.records import KEY, Carrier, Ledger, Pool, Tally
from poolscope.scope import Scope
from poolscope.suppression import is_suppressed

__all__ = ["Client", "is_checked_out", "refuse", "still_open"]

# urllib3.future's versions are those of urllib3 with a last part from here on.
_FUTURE = 900
# http.client's own word for where a connection is in an exchange; nothing public tells.
_STATE, _IDLE = "_HTTPConnection__state", "Idle"


class _Wait:
    __slots__ = ("began", "is_told", "pool")

    def __init__(self, pool: Pool, began: float) -> None:
        self.pool = pool
        self.began = began
        self.is_told = False


class Client(Sockets):
    """The hooks of urllib3, writing to a scope's ledger."""

    def __init__(self, scope: Scope, pulse: Pulse) -> None:
        super().__init__(scope, pulse)
        pools, conns = "urllib3.connectionpool", "urllib3.connection"
        pool, conn = "HTTPConnectionPool", "HTTPConnection"
        https_pool, https_conn = ("HTTPSConnectionPool",), ("HTTPSConnection",)
        self.hooks = (
            Hook(
                pools, f"{pool}._get_conn", self.wait, self.waited, https_pool,
                params="self, timeout=None", when="self.block", undo=self.never_waited,
            ),
            Hook(pools, f"{pool}._put_conn", self.give_back, None, https_pool, params="self, conn"),
            # Every request begins with it, right before its connection is used.
            Hook(pools, f"{pool}._validate_conn", self.request, params="self, conn"),
            # The headers are there when they are checked, by a function that each module
            # imports by name: 2.x calls connection's, 1.26 connectionpool's.
            Hook(conns, "assert_header_parsing", self.headers, group="headers", params="headers"),
            Hook(pools, "assert_header_parsing", self.headers, group="headers", params="headers"),
            Hook(
                "urllib3.http2.connection", "HTTP2Connection.getresponse",
                self.carrier, self.responded, params="self",
            ),
            Hook(pools, f"{pool}._new_conn", self.create, self.created, https_pool, params="self"),
            Hook(pools, f"{pool}.close", self.close_pool, None, https_pool, params="self"),
            Hook(conns, f"{conn}._new_conn", self.tcp, self.tcp_opened, params="self"),
            Hook(
                "urllib3.contrib.socks", "SOCKSConnection._new_conn", self.tcp, self.tcp_opened,
                params="self",
            ),
            Hook(
                conns, f"{conn}.connect", self.connect, self.connected, https_conn,
                params="self", undo=self.never_connected,
            ),
            Hook(conns, f"{conn}.close", self.close, None, https_conn, params="self"),
            Hook(
                "urllib3.util.ssl_", "_ssl_wrap_socket_impl", self.handshake, self.handshaken,
                params="sock, ssl_context, tls_in_tls, server_hostname=None",
            ),
            Hook(
                "urllib3._collections", "RecentlyUsedContainer.__setitem__", self.evict,
                params="self, key, value",
            ),
        )  # fmt: skip

    # ---- checkouts

    def wait(self, host_pool: Any, timeout: Any = None) -> _Wait | None:
        """Before ``_get_conn``, where only a blocking pool makes anybody wait."""
        if not host_pool.block or is_suppressed():
            return None
        pool = self.pool(host_pool)
        wait = _Wait(pool, self.clock())
        thread = _thread.get_ident()  # a greenlet's, where gevent is patched in
        pool.waiting[wait] = thread
        return wait

    def never_waited(self, host_pool: Any, timeout: Any = None) -> None:
        """Instead of ``_get_conn``, which a signal handler's exception kept from being called."""
        waiting = self.pool(host_pool).waiting
        ours = [wait for wait, thread in list(waiting.items()) if thread == _thread.get_ident()]
        if ours:
            waiting.pop(ours[-1], None)

    def waited(self, wait: _Wait, conn: Any, error: BaseException | None) -> None:
        """After ``_get_conn`` of a blocking pool."""
        pool = wait.pool
        pool.waiting.pop(wait, None)
        seconds = self.clock() - wait.began
        if error is not None:
            row = "wait_timed_out" if type(error).__name__ == "EmptyPoolError" else ""
        else:
            row = "waited" if conn is None else ""  # a signal handler's exception took its place
        if row and not wait.is_told:
            wait.is_told = True
            pool.ledger.log.append((row, pool, seconds))
        if row:
            self.pulse.wake()
        elif error is None and not wait.is_told:
            carrier = self.carrier(conn) or self.bind(pool, conn)
            tally = carrier.waits = carrier.waits or Tally()
            bucket = bisect_left(DURATION_BOUNDS, seconds)
            wait.is_told = True
            tally.sums[bucket] += seconds  # as Tally.add() does it
            tally.counts[bucket] += 1
            carrier.touch()

    def give_back(self, _pool: Any, conn: Any) -> None:
        """Before ``_put_conn``: afterwards it may be somebody else's."""
        try:
            carrier: Carrier = conn._poolscope  # noqa: SLF001 - it is ours
            if carrier.ledger is not self.scope.ledger:
                return
        except AttributeError:
            return
        if carrier.taken_at:
            self._came_back(carrier, conn)
        connection = carrier.connection
        if connection is not None and not connection.reason and connection.busy_since:
            now, since = self.clock(), connection.busy_since
            connection.busy_since = 0.0  # as Connection.give_back() does it
            connection.busy_seconds += now - since
            connection.idle_since = now
        if not carrier.dirty:
            carrier.touch()

    # ---- requests

    # These and give_back() run with every request: the usual way is spelled out, as every call
    # would cost more than what it does, and everything else is left to _begin() and _answered().

    def request(self, host_pool: Any, conn: Any) -> None:
        """Before ``_validate_conn``: a request begins."""
        try:
            carrier: Carrier = conn._poolscope  # noqa: SLF001 - it is ours
            if carrier.taken_at or carrier.ledger is not self.scope.ledger:
                self._begin(host_pool, conn)
                return
        except AttributeError:
            self._begin(host_pool, conn)
            return
        now = carrier.taken_at = self.clock()
        connection = carrier.connection
        if connection is not None and not connection.reason and not connection.busy_since:
            connection.busy_since = now
        if not carrier.dirty:
            carrier.touch()
            self.pulse.wake()
        if current.get() is not carrier:
            self._enter(carrier)
        if carrier.pool.follows and connection is not None and not connection.reason:
            carrier.pool.follows -= 1
            connection.taker = asking(sys._getframe(1))  # noqa: SLF001 - there is no other way

    def headers(self, headers: Any) -> None:
        """Before the headers are checked: the response has come, its body has not."""
        carrier = current.get()
        if carrier is None or not carrier.taken_at:
            return
        connection, tally = carrier.connection, carrier.reused
        if (
            tally is None
            or connection is None
            or connection.reason
            or not connection.answered
            or carrier.outer is not None
            or (ref := carrier.ref) is None
            or getattr(ref(), _STATE, _IDLE) != _IDLE
        ):
            self._heard(carrier)
            return
        seconds = self.clock() - carrier.taken_at
        bucket = bisect_left(DURATION_BOUNDS, seconds)
        tally.sums[bucket] += seconds  # as Tally.add() does it
        tally.counts[bucket] += 1
        carrier.taken_at = 0.0
        connection.answered += 1

    def _begin(self, host_pool: Any, conn: Any) -> None:
        """Begin a request whose connection is new to us, or whose clock runs already."""
        carrier = self.carrier(conn)
        if carrier is None and is_suppressed():
            self._enter(self._nobody())
            return
        if carrier is None:
            carrier = self.bind(self.pool(host_pool), conn)
        if carrier.taken_at and not carrier.is_early:  # the last one was left without a word
            self.finish(carrier)
        carrier.is_early = False
        if not carrier.taken_at:
            self.take(carrier, self.clock())
        self._enter(carrier)

    def _nobody(self) -> Carrier:
        """Return a stand-in for a request that is not counted: it takes the headers to itself."""
        pool = Pool(Ledger(), origin("", "", ""), blocking=False, maxsize=0)
        carrier = Carrier(pool.ledger, pool)
        carrier.taken_at = self.clock()
        return carrier

    def _enter(self, carrier: Carrier) -> None:
        """Remember whose request this thread (or greenlet) makes now."""
        outer = current.get()
        if outer is not carrier:
            if outer is not None and outer.taken_at:
                carrier.outer = outer  # a signal or logging handler makes a request inside another
            current.set(carrier)

    def responded(self, carrier: Carrier, _response: Any, error: BaseException | None) -> None:
        """After HTTP/2's ``getresponse``, which checks no headers and reads the body as well."""
        if error is None and carrier.taken_at:
            self._answered(carrier)

    def _heard(self, carrier: Carrier) -> None:
        """Take headers for the answer to a request, unless they can only be another connection's.

        Somebody may use one without a pool while this one connects, or sends its body.
        """
        conn = carrier.ref and carrier.ref()
        if not carrier.connecting and getattr(conn, _STATE, _IDLE) == _IDLE:
            self._answered(carrier)

    def _answered(self, carrier: Carrier) -> None:
        began, now = carrier.taken_at, self.clock()
        connection = carrier.connection
        if connection is None or connection.reason:
            connection = self.find(carrier, began) or connection
        if connection is None:
            self.finish(carrier)
            return
        context, seconds = self.context(), now - began
        if connection.is_reused:
            tally = carrier.reused = carrier.reused or Tally()
            bucket = bisect_left(DURATION_BOUNDS, seconds)
            tally.sums[bucket] += seconds  # as Tally.add() does it
            tally.counts[bucket] += 1
            carrier.taken_at = 0.0
            connection.answered += 1
            if context is not None:
                if tally.examples is None:
                    tally.examples = {}
                tally.examples[bucket] = (seconds, context)
        else:
            carrier.taken_at = 0.0
            connection.answered += 1
            carrier.ledger.log.append(("first", carrier.pool, seconds, context))
        self.finish(carrier)

    def _came_back(self, carrier: Carrier, conn: Any) -> None:
        """End a request whose headers nobody has checked, as its connection is given back."""
        is_real = carrier.ref is not None and carrier.ref() is conn  # no stub that plays answers
        if is_real and not carrier.is_early and is_requested(sys._getframe(2), carrier):  # noqa: SLF001 - as above
            self._answered(carrier)  # somebody's connection class checks no headers
        else:
            self.finish(carrier)  # by hand: nothing was asked

    def context(self) -> Any:
        """Return what a latency is remembered with: nothing."""
        return None

    # ---- pools

    def close_pool(self, host_pool: Any) -> None:
        """Before a pool is closed."""
        pool = getattr(host_pool, KEY, None)
        if isinstance(pool, Pool) and not pool.closed:
            pool.closed = True
            pool.ledger.log.append(("pool_gone", pool))

    def evict(self, container: Any, key: Any, value: Any) -> None:
        """Before a manager stores a pool: the least recently used one may have to go."""
        pools = container._container  # noqa: SLF001 - nothing public names the victim
        if not pools or len(pools) < container._maxsize:  # noqa: SLF001 - as above
            return
        pool = getattr(next(iter(pools.values())), KEY, None)
        # The key comes last: in somebody else's container it may be anything.
        if isinstance(pool, Pool) and not pool.evicted and key not in pools:
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

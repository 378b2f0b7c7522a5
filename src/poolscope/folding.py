"""What hooks wrote, folded into events: the log's rows in their order, and carriers' numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from poolscope import events as ev
from poolscope.callsites import CallSites
from poolscope.origins import OTHER, Origins, OriginState, named
from poolscope.records import Carrier, Connection, Ledger, Pool
from poolscope.shield import is_the_hosts, say, spelled


class Folding:
    """What one process knows of its connections; a drain at a time reads on in the ledger.

    ``held_after`` is for how many seconds a response may keep its connection.
    """

    def __init__(self, max_origins: int, held_after: float) -> None:
        self.clock = perf_counter
        self.max_origins = max_origins
        self._held_after = held_after
        #: Where our own code failed, and how; told by the next drain.
        self.faults: deque[tuple[str, str]] = deque()
        self._told_faults: set[str] = set()
        named = ((name.removeprefix("_on_"), name) for name in dir(self))
        self._steps = {kind: getattr(self, name) for kind, name in named if kind != name}
        self.begin()

    def begin(self) -> None:
        """Start an empty history."""
        self.ledger = Ledger()
        self.faults.clear()
        self._origins = Origins(self.max_origins)
        self._sites = CallSites()
        self._events: list[ev.AnyEvent] = []

    def has_history(self) -> bool:
        """Tell whether hooks have written anything in this process."""
        return bool(self.ledger.log or self.ledger.dirty or self.faults) or any(self._origins)

    def has_open(self) -> bool:
        """Tell whether any connection is known to be open."""
        return any(state.open for state in self._origins)

    def fault(self, where: str, error: Exception) -> None:
        """Write down that our own code, or an observer, failed; the next drain tells."""
        self.faults.append((where, spelled(error)))

    def _fold(self) -> None:
        ledger = self.ledger
        self._read_log()
        now = self.clock()
        self._shielded(self._sweep, now)
        for _ in range(len(ledger.dirty)):
            self._shielded(self._fold_carrier, ledger.dirty.popleft(), now)
        for state in self._origins:
            self._shielded(self._add_up, state, now)
        while self.faults:
            self._on_fault(*self.faults.popleft())

    def _sweep(self, now: float) -> None:
        """Take note of what the garbage collector has taken without our being told.

        Python drops a callback in which a signal handler raises before its first line.
        """
        for carrier in list(self.ledger.carriers):
            if carrier.ref is not None and carrier.ref() is None:
                carrier.collected(now)
        for state in self._origins:
            for connection in list(state.open):
                body = connection.ends_with
                if body is not None and body() is None and not connection.closed_at:
                    connection.end(now, connection.reason)
            for pool in list(state.pools):
                if pool.ref is not None and pool.ref() is None:
                    self._on_pool_gone(pool)

    def _add_up(self, state: OriginState, now: float) -> None:
        self._events += state.told(now)

    def _read_log(self) -> None:
        log = self.ledger.log
        for _ in range(len(log)):
            kind, *what = log.popleft()
            self._shielded(self._steps[kind], *what)

    def _shielded(self, step: Callable[..., None], *what: Any) -> None:
        try:
            step(*what)
        except Exception as error:
            if is_the_hosts(error):
                raise
            self.fault(f"drain.{step.__name__}", error)

    def _state(self, pool: Pool) -> OriginState:
        state: OriginState | None = pool.state
        if state is None:
            state = pool.state = self._state_of(pool.origin)
        elif state.heir is not None:
            state = pool.state = state.heir
        return state

    def _state_of(self, origin: ev.Origin) -> OriginState:
        state, is_new = self._origins.find(named(origin))
        if is_new:
            self._events.append(ev.OriginSeen(state.origin))
        return state

    def _connecting_state(self, pool: Pool) -> OriginState:
        """Return the state of a pool that connects, which is worth a slot of its own."""
        state = self._state(pool)
        if state.origin.address != OTHER or pool.open:
            return state
        victim = self._origins.claim(named(pool.origin), self.clock())
        if victim is not None:
            heir = self._state_of(victim.origin)
            victim.bequeath(heir)
            self._events += (*victim.told(self.clock()), ev.OriginLeft(victim.origin, heir.origin))
        own = self._state_of(pool.origin)
        if own is not state:
            state.pools.pop(pool, None)
            pool.state = own
            if not pool.gone:
                own.pools[pool] = None
        return own

    # ---- what the log says, in its order

    def _on_pool(self, pool: Pool) -> None:
        state = self._state(pool)
        self._events.append(ev.PoolOpened(state.origin))
        if not pool.gone:
            state.pools[pool] = None

    def _on_pool_gone(self, pool: Pool) -> None:
        pool.gone = True
        self._state(pool).pools.pop(pool, None)

    def _on_moved(self, pool: Pool, origin: ev.Origin) -> None:
        self._state(pool).pools.pop(pool, None)
        pool.origin, pool.state = origin, None
        if not pool.gone:
            self._state(pool).pools[pool] = None

    def _on_evicted(self, pool: Pool) -> None:
        if pool.used:
            self._state(pool).evicted += 1

    def _on_opened(self, connection: Connection) -> None:
        pool = connection.carrier.pool
        state = self._connecting_state(pool)
        connection.cause = state.cause(pool)
        asked_for = self._sites.asked_for(connection, state.origin)
        self._events += (ev.Opened(state.origin, connection.cause), *asked_for)
        state.add(connection)
        connection.carrier.touch()  # a drain before it was open has forgotten that it is busy

    def _on_adopted(self, connection: Connection) -> None:
        pool = connection.carrier.pool
        pool.used = True
        state = self._connecting_state(pool)
        state.had_connections = True
        state.add(connection)

    def _on_closed(
        self, connection: Connection, now: float, reason: str, idle: float | None
    ) -> None:
        if not connection.known:
            return
        state = self._state(connection.carrier.pool)
        state.busy += connection.pass_on_busy(now)
        state.remove(connection, reason, now)
        self._sites.closed(connection, reason)
        if idle is not None:
            self._events.append(ev.FoundDropped(state.origin, reason, idle))
        if not connection.adopted:
            seconds = max(0.0, now - connection.opened_at)
            self._events.append(ev.Closed(state.origin, reason, seconds, connection.answered))

    def _on_first(self, pool: Pool, seconds: float, context: Any = None) -> None:
        self._state(pool).first.add(seconds, context)

    def _on_failed(
        self,
        pool: Pool,
        reused: bool,  # noqa: FBT001 - a log row
        error: str,
        idle: float | None = None,
    ) -> None:
        origin = self._state(pool).origin
        if idle is not None:
            self._events.append(ev.FoundDropped(origin, error, idle))
        self._events.append(ev.Failed(origin, reused, error))

    def _on_created(self, pool: Pool, seconds: float, error: str, request_failed: bool) -> None:  # noqa: FBT001 - a log row
        origin = self._state(pool).origin
        self._events.append(ev.Created(origin, seconds, error))
        if request_failed:
            self._events.append(ev.Failed(origin, reused=False, error="connect"))

    def _on_handshake(
        self, origin: ev.Origin, seconds: float, version: str, resumed: str, error: str
    ) -> None:
        to = self._state_of(origin).origin
        self._events.append(ev.Handshake(to, seconds, version, resumed, error))

    def _on_waited(self, pool: Pool, seconds: float) -> None:
        self._state(pool).waits.add(seconds)

    def _on_wait_timed_out(self, pool: Pool, seconds: float) -> None:
        state = self._state(pool)
        state.waits.add(seconds)
        self._events.append(ev.WaitTimedOut(state.origin))

    def _on_fault(self, where: str, what: str) -> None:
        self._events.append(ev.Faulted(where))
        if where not in self._told_faults:
            self._told_faults.add(where)
            say(
                "poolscope: a fault of its own in %s (%s). The application is not affected, "
                "there is just less telemetry.",
                where,
                what,
            )

    # ---- the numbers of carriers that moved

    def _fold_carrier(self, carrier: Carrier, now: float) -> None:
        # Cleared before reading: what is written from here on asks for another look.
        carrier.dirty = False
        state = self._state(carrier.pool)
        if carrier.reused is not None:
            carrier.reused.pass_on(state.reused)
        if carrier.waits is not None:
            carrier.waits.pass_on(state.waits)
        connection = carrier.connection
        if connection is None or connection.closed_at:
            return
        if not connection.known:
            carrier.touch()  # its opening is in the log, behind the part that was read
            return
        state.busy += connection.pass_on_busy(now)
        if connection.busy_since:
            state.active[connection] = None
            carrier.touch()  # time goes on while it is checked out
            if connection.is_held(now, self._held_after):
                self._events.append(self._sites.held(connection, state.origin))
        else:
            state.active.pop(connection, None)

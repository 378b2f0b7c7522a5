"""What the process knows of each origin: how many connections are open, and why one is opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from poolscope.events import Answered, AnyEvent, Busy, Levels, Origin, Waited
from poolscope.records import Tally
from poolscope.shield import say

if TYPE_CHECKING:
    from poolscope.records import Connection, Pool

#: The address that origins share once there are too many to name.
OTHER = "_other"


class OriginState:
    """The memory of one origin; only the drain reads or writes it."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        #: Open connections, oldest first.
        self.open: dict[Connection, None] = {}
        #: Those of them that are checked out. (Not a count: should a step fail, it heals.)
        self.active: dict[Connection, None] = {}
        self.opened_sum = 0.0
        self.pools: dict[Pool, None] = {}
        self.had_connections = False
        #: Evicted pools that had connections and that no new pool has replaced yet.
        self.evicted = 0
        self.told_levels: Levels | None = None
        #: Since the last telling: latencies of first and of reused requests, waits, busy seconds.
        self.first, self.reused, self.waits = Tally(), Tally(), Tally()
        self.busy = 0.0

    def cause(self, pool: Pool) -> str:
        """Decide why ``pool`` opens a connection now, and remember that it did."""
        had_connections, self.had_connections = self.had_connections, True
        pool.used = True
        if pool.unreplaced:
            return f"replaced_{pool.unreplaced.pop(0)}"
        if pool.open > 0:
            return "growth"
        # Too many origins share the memory of _other: it can't tell whose connections it had.
        if not had_connections or self.origin.address == OTHER:
            return "first"
        if self.evicted:
            self.evicted -= 1
            return "replaced_evicted"
        return "new_pool"

    def add(self, connection: Connection) -> None:
        """Count a connection as open, and as active until told otherwise."""
        connection.known = True
        youngest = next(reversed(self.open), connection)
        self.open[connection] = self.active[connection] = None
        if connection.opened_at < youngest.opened_at:  # its opening was noticed late
            self.open = dict.fromkeys(sorted(self.open, key=lambda known: known.opened_at))
        self.opened_sum += connection.opened_at
        connection.carrier.pool.open += 1

    def remove(self, connection: Connection, reason: str) -> None:
        """Count a connection as closed; its place in the pool waits for a replacement."""
        connection.known = False
        self.active.pop(connection, None)
        self.open.pop(connection, None)
        self.opened_sum -= connection.opened_at
        pool = connection.carrier.pool
        pool.open -= 1
        pool.unreplaced.append(reason)

    def told(self, now: float) -> Iterator[AnyEvent]:
        """Yield what has come since the last time, added up, and the levels if they changed."""
        origin = self.origin
        if first := self.first.take():
            yield Answered(origin, reused=False, latency=first)
        if reused := self.reused.take():
            yield Answered(origin, reused=True, latency=reused)
        if waits := self.waits.take():
            yield Waited(origin, waits)
        if self.busy:
            busy, self.busy = self.busy, 0.0
            yield Busy(origin, busy)
        levels = self.levels(now)
        if levels != self.told_levels:
            self.told_levels = levels
            yield levels

    def levels(self, now: float) -> Levels:
        """Read what is open now; ages in seconds."""
        count = len(self.open)
        if not count:
            self.opened_sum = 0.0  # rounding errors don't outlive the connections
        oldest = next(iter(self.open), None)
        return Levels(
            self.origin,
            active=len(self.active),
            idle=count - len(self.active),
            pending=sum(len(pool.waiting) for pool in self.pools if pool.blocking),
            max=sum(pool.maxsize for pool in self.pools),
            pools=len(self.pools),
            age_sum=max(0.0, now * count - self.opened_sum),
            oldest_age=now - oldest.opened_at if oldest else 0.0,
            stale=sum(one not in self.active and one.is_dead() for one in self.open),
        )


class Origins:
    """The known origins, bounded: later ones share the address ``_other``."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._states: dict[Origin, OriginState] = {}
        self._overflowed = False

    def __iter__(self) -> Iterator[OriginState]:
        return iter(self._states.values())

    def find(self, origin: Origin) -> tuple[OriginState, bool]:
        """Return the origin's state, and whether this is its first sight."""
        state = self._states.get(origin)
        if state is not None:
            return state, False
        if len(self._states) >= self.maximum and origin.address != OTHER:
            if not self._overflowed:
                self._overflowed = True
                say(
                    "poolscope: more than %d origins; further ones share the address %r "
                    "(max_origins sets the bound)",
                    self.maximum,
                    OTHER,
                )
            return self.find(origin._replace(address=OTHER, port=""))
        state = self._states[origin] = OriginState(origin)
        return state, True

"""What the process knows of each origin: how many connections are open, and why one is opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from poolscope.events import Answered, AnyEvent, Busy, Levels, Origin, Waited
from poolscope.records import Tally
from poolscope.shield import say

if TYPE_CHECKING:
    from poolscope.records import Connection, Pool

#: The address that origins share once there are too many to name; no host is spelled like that
#: (see :func:`named`).
OTHER = "_other"
_LONGEST = 255  # characters of a name; of a host the DNS takes 253
_LONG = 3600.0  # seconds without a request after which an origin makes way for another one
_PAUSE = 60.0  # seconds between two searches for such an origin


def named(origin: Origin) -> Origin:
    """Spell an origin so that every backend takes it: bounded, in UTF-8, and not ``_other``.

    A host of that name gets the dot that ends every host name, a Unix socket its directory's.
    """
    address, port, scheme, client = map(_spelled, origin)
    if address == OTHER:
        address = f"{OTHER}." if port else f"./{OTHER}"
    return Origin(address, port, scheme, client)


def _spelled(name: Any) -> str:
    text = name if isinstance(name, str) else str(name)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


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

        #: Who has taken over what was counted here, once this origin gave its slot up.
        self.heir: OriginState | None = None
        #: When its last connection was closed.
        self.closed_at = 0.0

    def gives_way(self, now: float) -> bool:
        """Tell whether another origin may have this one's slot."""
        if not self.had_connections:
            return True
        used = (now if one.busy_since else one.idle_since for one in self.open)
        return now - max(used, default=self.closed_at) > _LONG

    def bequeath(self, heir: OriginState) -> None:
        """Leave what is open, and all that comes late, to another origin's state."""
        self.heir = heir
        heir.pools |= self.pools
        heir.active |= self.active
        heir.open |= self.open
        heir.opened_sum += self.opened_sum
        heir.sort()
        self.pools, self.active, self.open, self.opened_sum = {}, {}, {}, 0.0

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
            self.sort()
        self.opened_sum += connection.opened_at
        connection.carrier.pool.open += 1

    def sort(self) -> None:
        """Put open connections in order again, oldest first."""
        self.open = dict.fromkeys(sorted(self.open, key=lambda known: known.opened_at))

    def remove(self, connection: Connection, reason: str, now: float) -> None:
        """Count a connection as closed; its place in the pool waits for a replacement."""
        connection.known = False
        self.closed_at = now
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
    """The known origins, bounded: later ones share the address ``_other``.

    Who makes requests to names that somebody else chooses must not lose sight of what it calls
    itself: an origin that never had a connection, or that nothing was sent to for an hour, gives
    its slot up to one that has connected (:meth:`claim`). It is one of the others from then on,
    for good, so that its counters never come back lower. No more slots than there are change
    hands, as some backends can't forget a name.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._states: dict[Origin, OriginState] = {}
        self._others: dict[Origin, OriginState] = {}
        self._gone: set[Origin] = set()
        self._overflowed = False
        self._look_again = 0.0

    def __iter__(self) -> Iterator[OriginState]:
        yield from self._states.values()
        yield from self._others.values()

    def find(self, origin: Origin) -> tuple[OriginState, bool]:
        """Return the origin's state, and whether this is its first sight."""
        states = self._states
        if origin not in states and (self._is_full() or not self._is_nameable(origin)):
            if self._is_full() and not self._overflowed:
                self._overflowed = True
                say(
                    "poolscope: more than %d origins; further ones share the address %r "
                    "(max_origins sets the bound)",
                    self.maximum,
                    OTHER,
                )
            states, origin = self._others, origin._replace(address=OTHER, port="")
        is_new = origin not in states
        if is_new:
            states[origin] = OriginState(origin)
        return states[origin], is_new

    def claim(self, origin: Origin, now: float) -> OriginState | None:
        """Find the origin that gives its slot up to one of the others, which has connected.

        Returns it, out of its slot already; None if there is none, or no need for one.
        """
        if origin in self._states or not self._is_full() or not self._is_nameable(origin):
            return None
        if now < self._look_again or len(self._gone) >= self.maximum:
            return None
        idle = [state for state in self._states.values() if state.gives_way(now)]
        if not idle:
            # While all slots are taken, only time makes another one idle.
            self._look_again = now + _PAUSE
            return None
        # Who never had a connection goes first, then who came first.
        victim = min(idle, key=lambda state: state.had_connections)
        del self._states[victim.origin]
        self._gone.add(victim.origin)
        return victim

    def _is_full(self) -> bool:
        return len(self._states) >= self.maximum

    def _is_nameable(self, origin: Origin) -> bool:
        return origin.address != OTHER and origin not in self._gone

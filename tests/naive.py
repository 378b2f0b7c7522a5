"""A naive account of what a client's connections do: the contract once more, in lists and dicts.

It is told every fact when it happens and decides at once what has to be exported; it shares
nothing with poolscope but the spelling of the events.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from poolscope import events as ev
from poolscope.catalog import DURATION_BOUNDS


class Wire:
    """A TCP connection."""

    def __init__(self, facts, opened_at, *, adopted):
        self.facts = facts
        self.pool = facts.pool
        self.opened_at = self.idle_since = opened_at
        self.adopted = adopted
        self.since = None
        self.seconds = 0.0
        self.answered = 0
        self.missed = False
        self.reason = ""

    @property
    def is_reused(self):
        return self.adopted or self.missed or self.answered > 0

    def busy(self, now):
        return self.seconds + (now - self.since if self.since is not None else 0.0)


class PoolFacts:
    def __init__(self, origin, *, blocking, maxsize):
        self.origin = origin
        self.blocking = blocking
        self.maxsize = maxsize
        self.waiting = 0
        self.open = 0
        self.had_any = self.evicted = self.shut = self.gone = False
        self.closed = []
        #: As which origin it is exported.
        self.placed = None


class ConnFacts:
    """What is known of an object that carries one connection after another."""

    def __init__(self, pool):
        self.pool = pool
        self.wire = None
        self.began = None
        self.requesting = self.connecting = False

    @property
    def live(self):
        """The connection that it owns now."""
        return self.wire if self.wire is not None and not self.wire.reason else None


class Sums:
    """Samples of durations, by bucket."""

    def __init__(self):
        self.counts = [0] * (len(DURATION_BOUNDS) + 1)
        self.sums = [0.0] * len(self.counts)
        self.samples = []

    def add(self, seconds):
        self.samples.append(seconds)
        bucket = bisect_left(DURATION_BOUNDS, seconds)
        self.counts[bucket] += 1
        self.sums[bucket] += seconds

    def merge(self, histogram):
        for bucket, (count, total) in enumerate(zip(histogram.counts, histogram.sums)):
            assert count >= 0
            assert count or not total, histogram
            self.counts[bucket] += count
            self.sums[bucket] += total

    def __eq__(self, other):
        return (self.counts, self.sums) == (other.counts, other.sums)

    __hash__ = None

    def __repr__(self):
        return f"{self.counts} {self.sums}"


def merge(sums, origin, heir):
    """Add an origin's samples to its heir's, by whatever else they are told apart."""
    for key in [key for key in sums if key == origin or key[0] == origin]:
        theirs = heir if key == origin else (heir, *key[1:])
        left = sums.pop(key)
        sums[theirs].merge(left)
        sums[theirs].samples += left.samples


class Model:
    """One process's history, from its birth or from the fork that made it."""

    def __init__(self, clock, max_origins):
        self.clock = clock
        self.max_origins = max_origins
        #: Events that come one by one, in order.
        self.told = []
        self.latency = defaultdict(Sums)
        self.waits = defaultdict(Sums)
        self.origins = []
        #: Those that gave their slot up, with the one that has what they counted.
        self.left = {}
        self.pools = []
        self.wires = []
        self.busy_before = defaultdict(float)
        self._had = set()
        self._evicted = defaultdict(int)

    # ---- origins and pools

    def place(self, origin):
        """Name an origin as it is exported."""
        if origin in self.left:
            return self.left[origin]
        if origin not in self.origins and len(self.named()) >= self.max_origins:
            origin = origin._replace(address="_other", port="")
        if origin not in self.origins:
            self.origins.append(origin)
            self.told.append(ev.OriginSeen(origin))
        return origin

    def named(self):
        return [origin for origin in self.origins if origin.address != "_other"]

    def place_of(self, pool):
        """Name a pool's origin as it is exported; it stays that unless it gives its slot up."""
        pool.placed = self.left.get(pool.placed, pool.placed) or self.place(pool.origin)
        return pool.placed

    def claim(self, pool):
        """Give a pool that connects a slot, if an origin has one that never did."""
        if self.place_of(pool).address != "_other" or pool.open:
            return
        idle = [origin for origin in self.named() if origin not in self._had]
        is_new = pool.origin not in (*self.left, *self.origins)
        is_full = len(self.named()) >= self.max_origins > len(self.left)
        if idle and is_new and is_full:
            self.leave(idle[0])
        pool.placed = self.place(pool.origin)

    def leave(self, origin):
        self.origins.remove(origin)
        self.left[origin] = heir = origin._replace(address="_other", port="")
        self.place(heir)
        self.told.append(ev.OriginLeft(origin, heir))
        merge(self.latency, origin, heir)
        merge(self.waits, origin, heir)

    def tell(self, kind, pool, *what):
        self.told.append(kind(self.place_of(pool), *what))

    def pool(self, origin, *, blocking, maxsize):
        pool = PoolFacts(origin, blocking=blocking, maxsize=maxsize)
        self.tell(ev.PoolOpened, pool)
        self.pools.append(pool)
        return pool

    def evicted(self, pool):
        if not pool.evicted:
            pool.evicted = True
            self._evicted[self.place_of(pool)] += pool.had_any

    def cause(self, pool):
        """Section 5 of the contract, word by word."""
        origin = self.place_of(pool)
        if pool.closed:
            return f"replaced_{pool.closed.pop(0)}"
        if pool.open:
            return "growth"
        if origin in self._had and origin.address != "_other":
            if self._evicted[origin]:
                self._evicted[origin] -= 1
                return "replaced_evicted"
            return "new_pool"
        return "first"

    # ---- connections

    def opened(self, facts, opened_at):
        if facts.live:
            self.ended(facts.wire, "explicit")
        pool = facts.pool
        self.claim(pool)
        self.tell(ev.Opened, pool, self.cause(pool))
        self._stands(facts, Wire(facts, opened_at, adopted=False))
        facts.wire.since = facts.began if facts.began is not None else opened_at

    def adopted(self, facts):
        self.claim(facts.pool)
        self._stands(facts, Wire(facts, self.clock.now, adopted=True))
        facts.wire.since = self.clock.now

    def _stands(self, facts, wire):
        facts.wire = wire
        facts.pool.open += 1
        facts.pool.had_any = True
        self._had.add(self.place_of(facts.pool))
        self.wires.append(wire)

    def ended(self, wire, reason):
        if wire not in self.wires:
            return
        now = self.clock.now
        wire.reason = wire.reason or reason
        self.wires.remove(wire)
        wire.pool.open -= 1
        wire.pool.closed.append(wire.reason)
        self.busy_before[self.place_of(wire.pool)] += wire.busy(now)
        if not wire.adopted:
            self.tell(ev.Closed, wire.pool, wire.reason, now - wire.opened_at, wire.answered)

    # ---- requests

    def began(self, facts):
        """Begin a request: its connection is in hand."""
        facts.began = self.clock.now
        if facts.live and facts.wire.since is None:
            facts.wire.since = self.clock.now

    def over(self, facts):
        began, facts.began = facts.began, None
        facts.requesting = False
        return began

    def answered(self, facts):
        seconds = self.clock.now - self.over(facts)
        wire = facts.wire
        if wire is None:
            return
        origin = self.place_of(wire.pool)
        if wire.is_reused:
            self.latency[origin, True].add(seconds)
        else:
            self.latency[origin, False].add(seconds)
        wire.answered += 1

    def failed(self, facts, error):
        began, wire = self.over(facts), facts.live
        if wire is None:
            error = "other" if error in ("other", "protocol") else "connect"
        error = {"tls": "protocol", "proxy": "other"}.get(error, error)
        reused = wire is not None and wire.is_reused
        if reused and error in ("reset", "timeout"):
            self.tell(ev.FoundDropped, facts.pool, error, began - wire.idle_since)
        self.tell(ev.Failed, facts.pool, reused, error)

    def given_back(self, facts):
        if facts.began is not None:
            self.answered(facts)
        if facts.live:
            self.rests(facts.wire)

    def rests(self, wire):
        if wire.since is not None:
            wire.seconds += self.clock.now - wire.since
            wire.since, wire.idle_since = None, self.clock.now

    def exit(self):
        """End with the interpreter."""
        for wire in list(self.wires):
            self.ended(wire, "exit")

    # ---- what it comes to

    def busy(self):
        """Seconds that connections were checked out, by origin."""
        total = defaultdict(float, self.busy_before)
        for wire in self.wires:
            total[self.place_of(wire.pool)] += wire.busy(self.clock.now)
        return {origin: seconds for origin, seconds in total.items() if seconds}

    def levels(self, origin):
        now = self.clock.now
        wires = [wire for wire in self.wires if self.place_of(wire.pool) == origin]
        pools = [one for one in self.pools if not one.gone and self.place_of(one) == origin]
        ages = [now - wire.opened_at for wire in wires]
        active = sum(wire.since is not None for wire in wires)
        return ev.Levels(
            origin,
            active=active,
            idle=len(wires) - active,
            pending=sum(pool.waiting for pool in pools),
            max=sum(pool.maxsize for pool in pools),
            pools=len(pools),
            age_sum=sum(ages),
            oldest_age=max(ages, default=0.0),
        )

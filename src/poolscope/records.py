"""All that hooks write, and nothing that they could wait for: plain stores and deque.append.

A finalizer may be calling: garbage collection closes connections on any thread, while that
thread holds any lock. So nothing in here locks, logs or calls anybody. Whoever has a connection
checked out is the only writer of its numbers, and the pool's own queue is the hand-over.

A signal handler of the host may raise at every call, and what it has interrupted is done once
more. So a row and the marks that say it is written stand together, with no call between.
"""

from __future__ import annotations

import math
import weakref
from bisect import bisect_left
from collections import deque
from typing import Any

from poolscope.catalog import DURATION_BOUNDS
from poolscope.events import Histogram, Origin
from poolscope.hangups import has_hung_up, silent_for

#: The name under which records hang on the host's connections and pools.
KEY = "_poolscope"

_BUCKETS = len(DURATION_BOUNDS) + 1


class Ledger:
    """What this process has written down since the last drain.

    ``log`` keeps what happened in the order in which it happened, so that causes can be decided
    later; ``dirty`` names the carriers whose numbers moved. ``carriers`` keeps those whose
    connection object lives, as their weak references have to outlive it. A forked child gets a
    new ledger: records that point to another one belong to the parent.
    """

    __slots__ = ("carriers", "dirty", "log")

    def __init__(self) -> None:
        self.carriers: set[Carrier] = set()
        self.log: deque[tuple[Any, ...]] = deque()
        self.dirty: deque[Carrier] = deque()


class Ref(weakref.ref[Any]):
    """A weak reference that knows the record to which its referent belongs."""

    __slots__ = ("record",)
    record: Any


class Tally:
    """Durations in seconds, added up per bucket of ``DURATION_BOUNDS``; one writer."""

    __slots__ = ("counts", "examples", "passed_on", "sums")

    def __init__(self) -> None:
        #: The last sample of each bucket that was taken under a span, with its context.
        self.examples: dict[int, tuple[float, Any]] | None = None
        self.counts = [0] * _BUCKETS
        self.sums = [0.0] * _BUCKETS
        #: How much of it earlier drains have passed on; only the drain touches it.
        self.passed_on: Tally | None = None

    def add(self, seconds: float, context: Any = None) -> None:
        """Add one sample, and remember the context if there is one."""
        bucket = bisect_left(DURATION_BOUNDS, seconds)
        # Sum before count: a drain in between then sees a sum without its count, which it
        # leaves for the next time, and not a count whose mean lies outside its bucket.
        self.sums[bucket] += seconds
        self.counts[bucket] += 1
        if context is not None:
            # Last, and read first: an example is always among the samples that were counted.
            examples = self.examples
            if examples is None:
                examples = self.examples = {}
            examples[bucket] = (seconds, context)

    def pass_on(self, to: Tally) -> None:
        """Add to ``to`` what has come since the last call; for the drain alone."""
        if self.examples is not None:
            examples, self.examples = self.examples, None
            to.examples = {**(to.examples or {}), **examples}
        done = self.passed_on
        if done is None:
            done = self.passed_on = Tally()
        for bucket, count in enumerate(self.counts):
            if count != done.counts[bucket]:
                seconds = self.sums[bucket]
                to.counts[bucket] += count - done.counts[bucket]
                to.sums[bucket] += seconds - done.sums[bucket]
                done.counts[bucket], done.sums[bucket] = count, seconds

    def take(self) -> Histogram | None:
        """Return everything and begin anew; None if there is nothing."""
        if not any(self.counts):
            return None
        everything = Histogram(tuple(self.counts), tuple(self.sums), self.examples or {})
        self.examples = None
        self.counts, self.sums = [0] * _BUCKETS, [0.0] * _BUCKETS
        return everything


class _Uncopied:
    """A record that stays behind when the host's object is copied or pickled."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class Pool(_Uncopied):
    """One host pool, as hooks see it; the fields below the line belong to the drain."""

    __slots__ = (
        "blocking", "closed", "evicted", "follows", "ledger", "maxsize", "origin", "ref", "told",
        "waiting",
        "state", "used", "open", "unreplaced", "losers", "gone",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, origin: Origin, *, blocking: bool, maxsize: int) -> None:
        self.ledger = ledger
        self.origin = origin
        self.blocking = blocking
        self.maxsize = maxsize
        self.closed = False
        self.evicted = False
        #: Of how many requests from now on it is looked which line makes them. (The drain says so
        #: when responses are held or given up here; it costs each some microseconds.)
        self.follows = 0
        #: Its row is in the log.
        self.told = False
        #: Checkouts under way, with their threads: len() of it needs no lock.
        self.waiting: dict[object, int] = {}
        self.ref: Ref | None = None
        # ---- the drain's
        self.state: Any = None  # an OriginState, but records know nobody
        self.used = False
        self.open = 0
        self.unreplaced: list[str] = []
        #: Who gave up the unread response, for each of those that were closed for that, if any.
        self.losers: list[Any] | None = None
        self.gone = False


class Carrier(_Uncopied):
    """What we hang on a client's connection object: it carries one connection after another."""

    __slots__ = (
        "connecting", "connection", "dirty", "failed", "is_early", "ledger", "outer", "pool",
        "ref", "reused", "taken_at", "waits",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, pool: Pool) -> None:
        self.ledger = ledger
        self.pool = pool
        self.connection: Connection | None = None
        self.ref: Ref | None = None
        #: When the request under way had its connection in hand; 0.0 when there is none.
        self.taken_at = 0.0
        #: Its request's clock runs already, as a tunnel connects before its request is made.
        self.is_early = False
        #: Whose request it is that this one interrupts, on the same thread.
        self.outer: Carrier | None = None
        #: Its connection object is connecting.
        self.connecting = False
        #: The class of the error that ended the last connect, "" if none did.
        self.failed = ""
        self.reused: Tally | None = None
        self.waits: Tally | None = None
        self.dirty = False

    def collected(self, now: float) -> None:
        """End what its connection object carried, which the garbage collector has taken."""
        connection = self.connection
        if connection is not None and not connection.reason:
            connection.end(now, "collected")
        self.taken_at = 0.0  # a fault of ours may have left it so
        self.touch()
        self.ledger.carriers.discard(self)

    def touch(self) -> None:
        """Ask the next drain to look here."""
        if not self.dirty:
            self.dirty = True
            self.ledger.dirty.append(self)


class Connection:
    """One socket, from connect to close. ``reason`` is empty as long as the carrier owns it."""

    __slots__ = (
        "adopted", "answered", "busy_seconds", "busy_since", "carrier", "closed_at", "ends_with",
        "idle_since", "missed", "opened_at", "reason", "site", "socket", "taker",
        "busy_told", "cause", "held_by", "held_since", "known",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, opened_at: float, *, adopted: bool = False) -> None:
        self.carrier = carrier
        self.opened_at = opened_at
        #: It was open before we attached: neither its opening nor its closing is ours to count.
        self.adopted = adopted
        #: Requests sent on it that were answered.
        self.answered = 0
        #: Since when it is checked out, 0.0 while it is not; and the seconds of earlier checkouts.
        #: A drain on another thread reads the seconds first, and we write them last: whatever
        #: comes in between, it sees too little for once, and never too much.
        self.busy_since = carrier.taken_at or opened_at
        self.busy_seconds = 0.0
        self.idle_since = opened_at
        self.reason = ""
        self.closed_at = 0.0
        #: A request was under way on it when poolscope was taken out.
        self.missed = False
        #: Keeps watch over the response that outlives it (``Connection: close``).
        self.ends_with: Ref | None = None
        #: Which line of the application asked for it, if that is looked for.
        self.site: Any = None  # a Site, but records know nobody
        #: Which line made the last request on it, if the pool ``follows`` that, or closed it.
        self.taker: Any = None  # likewise
        #: The socket, weakly, to tell after a pause whether it is still the same.
        self.socket: weakref.ref[Any] | None = None
        # ---- the drain's
        self.cause = ""
        self.known = False
        self.busy_told = 0.0
        #: The checkout (its ``busy_since``) that has its answer, and since when that is seen.
        self.held_by = 0.0
        self.held_since = 0.0

    @property
    def is_reused(self) -> bool:
        """Whether the next request on it is not its first."""
        return self.adopted or self.answered > 0 or self.missed

    def watch(self, socket: Any) -> None:
        """Remember the socket, if it can be remembered without keeping it alive."""
        try:
            self.socket = weakref.ref(socket)
        except TypeError:
            self.socket = None

    def is_dead(self) -> bool:
        """Tell whether the peer has hung up, as far as the kernel can tell; for the drain."""
        return self.socket is not None and has_hung_up(self.socket())

    def give_back(self, now: float) -> None:
        """End a checkout."""
        since = self.busy_since
        if since:
            self.busy_since = 0.0
            self.busy_seconds += now - since
            self.idle_since = now

    def busy(self, now: float) -> float:
        """Return how many seconds it was checked out until ``now``; for the drain."""
        seconds, since = self.busy_seconds, self.busy_since
        return seconds + max(0.0, now - since) if since else seconds

    def pass_on_busy(self, now: float) -> float:
        """Return how many of these seconds have come since the last call; for the drain alone."""
        seconds = max(0.0, self.busy(now) - self.busy_told)
        self.busy_told += seconds
        return seconds

    def is_held(self, now: float, limit: float) -> bool:
        """Tell, once, that a response has kept it for ``limit`` seconds; for the drain alone.

        And that nothing has come on it for as long, where the kernel can tell.
        """
        if self.carrier.taken_at or not self.answered:
            return False  # the answer has not come yet
        if self.held_by != self.busy_since:
            self.held_by, self.held_since = self.busy_since, now
        if now - self.held_since < limit:
            return False
        silence = silent_for(self.socket()) if self.socket is not None else None
        if silence is not None and silence < limit:
            return False  # a long body, or a stream
        self.held_since = math.inf
        return True

    def end(self, now: float, reason: str) -> None:
        """Stop the clocks and write down that it is closed; the first reason wins."""
        reason = self.reason or reason
        idle = now - self.idle_since if reason == "stale" else None
        self.give_back(now)
        # The row comes before the marks: should anything fail, it is closed once more, and
        # counted once, instead of staying open for ever.
        self.carrier.ledger.log.append(("closed", self, now, reason, idle))
        self.reason = reason
        self.closed_at = now

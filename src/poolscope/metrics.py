"""The one translation of events into the catalogue's metrics; backends say where they go."""

from __future__ import annotations

from abc import ABC, abstractmethod

from poolscope import catalog
from poolscope import events as ev
from poolscope.catalog import Metric
from poolscope.observers import Observer


class MetricObserver(Observer, ABC):
    """An observer to which everything is a metric of the catalogue.

    ``values`` are the attributes' values in the order of ``metric.all_attributes``; an empty one
    means that the attribute is not there.
    """

    @abstractmethod
    def add(self, metric: Metric, values: tuple[str, ...], amount: float) -> None:
        """Add to a counter."""

    @abstractmethod
    def set(self, metric: Metric, values: tuple[str, ...], value: float) -> None:
        """Set a level."""

    @abstractmethod
    def record(self, metric: Metric, values: tuple[str, ...], value: float) -> None:
        """Add one sample to a histogram."""

    @abstractmethod
    def merge(self, metric: Metric, values: tuple[str, ...], histogram: ev.Histogram) -> None:
        """Add samples to a histogram; its buckets are those of the metric."""

    # ---- events

    def origin_seen(self, event: ev.OriginSeen) -> None:
        """Create what ratios divide by, so that rate() works from the first event."""
        nothing = ev.Histogram((0,) * (len(catalog.DURATION_BOUNDS) + 1), ())
        for reused in ("false", "true"):
            self.merge(catalog.REQUEST, (*event.origin, reused), nothing)

    def pool_opened(self, event: ev.PoolOpened) -> None:
        """Count."""
        self.add(catalog.POOLS_OPENED, event.origin, 1)

    def opened(self, event: ev.Opened) -> None:
        """Count by cause."""
        self.add(catalog.OPENED, (*event.origin, event.cause), 1)

    def asked_for(self, event: ev.AskedFor) -> None:
        """Count by line of code."""
        self.add(catalog.BY_CALLSITE, tuple(event.origin) + event[1:], 1)

    def held(self, event: ev.Held) -> None:
        """Count by line of code."""
        self.add(catalog.HELD, tuple(event.origin) + event[1:], 1)

    def created(self, event: ev.Created) -> None:
        """Record the time to a usable connection."""
        self.record(catalog.CREATE_TIME, (*event.origin, event.error), event.seconds)

    def handshake(self, event: ev.Handshake) -> None:
        """Record the handshake."""
        values = (*event.origin, event.version, event.resumed, event.error)
        self.record(catalog.HANDSHAKE, values, event.seconds)

    def answered(self, event: ev.Answered) -> None:
        """Merge latencies."""
        reused = "true" if event.reused else "false"
        self.merge(catalog.REQUEST, (*event.origin, reused), event.latency)

    def failed(self, event: ev.Failed) -> None:
        """Count by kind of error."""
        reused = "true" if event.reused else "false"
        self.add(catalog.FAILED, (*event.origin, reused, event.error), 1)

    def waited(self, event: ev.Waited) -> None:
        """Merge waits."""
        self.merge(catalog.WAIT_TIME, event.origin, event.wait)

    def wait_timed_out(self, event: ev.WaitTimedOut) -> None:
        """Count."""
        self.add(catalog.TIMEOUTS, event.origin, 1)

    def found_dropped(self, event: ev.FoundDropped) -> None:
        """Record the idle time."""
        self.record(catalog.IDLE_TIME, (*event.origin, event.reason), event.seconds)

    def busy(self, event: ev.Busy) -> None:
        """Add the seconds."""
        self.add(catalog.BUSY_TIME, event.origin, event.seconds)

    def closed(self, event: ev.Closed) -> None:
        """Count by reason, record lifetime and requests served."""
        self.add(catalog.CLOSED, (*event.origin, event.reason), 1)
        self.record(catalog.LIFETIME, event.origin, event.seconds)
        self.record(catalog.REQUESTS, event.origin, event.requests)

    def levels(self, event: ev.Levels) -> None:
        """Set all levels of the origin."""
        origin = event.origin
        self.set(catalog.OPEN, (*origin, "active"), event.active)
        self.set(catalog.OPEN, (*origin, "idle"), event.idle)
        self.set(catalog.AGE_SUM, origin, event.age_sum)
        self.set(catalog.OLDEST_AGE, origin, event.oldest_age)
        self.set(catalog.MAX, origin, event.max)
        self.set(catalog.POOLS_OPEN, origin, event.pools)
        self.set(catalog.PENDING, origin, event.pending)
        self.set(catalog.STALE, origin, event.stale)

    def faulted(self, event: ev.Faulted) -> None:
        """Count."""
        self.add(catalog.FAULTS, (event.where,), 1)

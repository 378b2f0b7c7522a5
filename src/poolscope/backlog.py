"""What waits to be sent to ``poolscope run``, added up so that it stays small while it waits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from poolscope import catalog
from poolscope import events as ev

#: How often a row's event may have happened; if it was more often there are several rows.
MOST = 10_000

#: A number of times, and the event that happened so often.
Row = tuple[int, ev.AnyEvent]


class Backlog:
    """Adds events up: however many there were, there is a row for each kind, origin and bucket.

    Counts and sums stay what they were, a sample becomes the mean of its bucket. Of an origin's
    levels the last are kept, and before them those that had more pools: they say what there was.
    """

    def __init__(self) -> None:
        self._sums: dict[Hashable, _Sum] = {}
        self._widest: dict[ev.Origin, ev.Levels] = {}
        self._levels: dict[ev.Origin, ev.Levels] = {}

    def __bool__(self) -> bool:
        return bool(self._sums or self._levels)

    def add(self, events: Sequence[ev.AnyEvent]) -> None:
        """Take in what a drain yielded."""
        for event in events:
            if isinstance(event, ev.Levels):
                self._add_levels(event)
                continue
            kind: Any = type(event)
            make = _SUMS.get(kind, _Equal)
            # Events of two kinds are equal if their values are: the kind is part of the key.
            key = (kind, make.key(event))
            if key not in self._sums:
                self._sums[key] = make(event)
            self._sums[key].add(event)

    def _add_levels(self, levels: ev.Levels) -> None:
        origin = levels.origin
        before = self._levels.get(origin, levels)
        if before.pools > max(levels.pools, self._widest.get(origin, levels).pools):
            self._widest[origin] = before
        self._levels[origin] = levels

    def rows(self) -> Iterator[Row]:
        """Yield everything as rows, in an order in which it may have happened."""
        yield from ((1, one) for one in self._widest.values())
        for one in self._sums.values():
            yield from one.rows()
        yield from ((1, one) for one in self._levels.values())

    def clear(self) -> None:
        """Forget everything: it is told."""
        for kept in (self._widest, self._sums, self._levels):
            kept.clear()


class _Sum(ABC):
    """Events of a kind that become one row, or a few."""

    def __init__(self, event: Any) -> None:
        self.event = event

    @staticmethod
    @abstractmethod
    def key(event: Any) -> Hashable:
        """Return what those that are added up have in common."""

    @abstractmethod
    def add(self, event: Any) -> None:
        """Take in one more."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Yield what they have become."""


class _Equal(_Sum):
    """Events that say nothing but that they happened."""

    count = 0

    @staticmethod
    def key(event: Any) -> Hashable:
        return event  # type: ignore[no-any-return] # an event is hashable

    def add(self, _event: Any) -> None:
        self.count += 1

    def rows(self) -> Iterator[Row]:
        yield from _times(self.count, self.event)


class _Sampled(_Sum):
    """Events with a duration, all of one bucket."""

    bounds: tuple[float, ...] = catalog.DURATION_BOUNDS

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self.count, self.seconds = 0, 0.0

    @classmethod
    def key(cls, event: Any) -> Hashable:
        return event._replace(seconds=bisect_left(cls.bounds, event.seconds))  # type: ignore[no-any-return] # as above

    def add(self, event: Any) -> None:
        self.count += 1
        self.seconds += event.seconds

    def rows(self) -> Iterator[Row]:
        yield from _times(self.count, self.event._replace(seconds=self.mean()))

    def mean(self) -> float:
        """Return the mean duration, which is in the same bucket: rounding must not lift it out."""
        bucket = bisect_left(self.bounds, self.event.seconds)
        mean = self.seconds / self.count
        return min(mean, self.bounds[bucket]) if bucket < len(self.bounds) else mean


class _Dropped(_Sampled):
    bounds = catalog.IDLE_BOUNDS


class _Closed(_Sampled):
    """Closings, of one bucket by the connections' lifetime and one by their requests."""

    bounds = catalog.LIFETIME_BOUNDS

    def __init__(self, event: ev.Closed) -> None:
        super().__init__(event)
        self.requests = 0

    @classmethod
    def key(cls, event: ev.Closed) -> Hashable:
        bucket = bisect_left(catalog.REQUESTS_BOUNDS, event.requests)
        return event.origin, event.reason, bisect_left(cls.bounds, event.seconds), bucket

    def add(self, event: ev.Closed) -> None:
        super().add(event)
        self.requests += event.requests

    def rows(self) -> Iterator[Row]:
        """Yield two kinds of them if their requests can't be shared out evenly."""
        each, more = divmod(self.requests, self.count)
        event = self.event._replace(seconds=self.mean(), requests=each)
        yield from _times(self.count - more, event)
        yield from _times(more, event._replace(requests=each + 1))


class _Merged(_Sum):
    """Histograms."""

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        size = len(event[-1].counts)
        self.counts, self.sums = [0] * size, [0.0] * size

    @staticmethod
    def key(event: Any) -> Hashable:
        return event[:-1]  # type: ignore[no-any-return] # as above

    def add(self, event: Any) -> None:
        more: ev.Histogram = event[-1]
        self.counts = [a + b for a, b in zip(self.counts, more.counts)]
        self.sums = [a + b for a, b in zip(self.sums, more.sums)]

    def rows(self) -> Iterator[Row]:
        merged = ev.Histogram(tuple(self.counts), tuple(self.sums))
        yield 1, type(self.event)(*self.event[:-1], merged)


class _Seconds(_Sum):
    """Seconds that add up."""

    def __init__(self, event: ev.Busy) -> None:
        super().__init__(event)
        self.seconds = 0.0

    @staticmethod
    def key(event: ev.Busy) -> Hashable:
        return event.origin

    def add(self, event: ev.Busy) -> None:
        self.seconds += event.seconds

    def rows(self) -> Iterator[Row]:
        yield 1, self.event._replace(seconds=self.seconds)


_SUMS: dict[type, type[_Sum]] = {
    ev.Created: _Sampled,
    ev.Handshake: _Sampled,
    ev.FoundDropped: _Dropped,
    ev.Closed: _Closed,
    ev.Answered: _Merged,
    ev.Waited: _Merged,
    ev.Busy: _Seconds,
}


def _times(count: int, event: ev.AnyEvent) -> Iterator[Row]:
    while count > 0:
        yield min(count, MOST), event
        count -= MOST

"""The catalogue's metrics as numbers that can be asked: kept in memory, or read from a scrape."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from time import perf_counter
from typing import Any

from poolscope import catalog
from poolscope.catalog import Metric
from poolscope.events import AnyEvent, Histogram, Levels, Origin, OriginLeft, OriginSeen
from poolscope.metrics import MetricObserver


class Distribution:
    """A histogram's totals: samples per bucket (one more than bounds) and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0.0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> float:
        """How many samples."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The samples' mean, or None without samples."""
        return self.sum / self.count if self.count else None

    @property
    def lowest(self) -> float | None:
        """A bound that the lowest sample did not exceed; None without samples, or beyond all."""
        return next((bound for bound, count in zip(self.bounds, self.counts) if count), None)

    def add(self, other: Distribution) -> None:
        """Add another one with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts)]
        self.sum += other.sum

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile as PromQL's ``histogram_quantile`` does, linear within a bucket.

        None without samples; the last bound if it lies beyond.
        """
        total = self.count
        if not total:
            return None
        cumulative = list(accumulate(self.counts))
        rank = q * total
        index = bisect_left(cumulative, rank)
        while index < len(self.counts) - 1 and not self.counts[index]:
            index += 1
        if index >= len(self.bounds):
            return self.bounds[-1]
        lower = self.bounds[index - 1] if index else 0.0
        below = cumulative[index - 1] if index else 0.0
        return lower + (self.bounds[index] - lower) * (rank - below) / self.counts[index]


class Readings(MetricObserver):
    """The totals of one process, or of one scrape.

    As an observer it keeps totals because it is what ``snapshot()`` and the report read.
    """

    may_block = False

    def __init__(self) -> None:
        self.numbers: dict[Metric, dict[tuple[str, ...], float]] = defaultdict(dict)
        self.distributions: dict[Metric, dict[tuple[str, ...], Distribution]] = defaultdict(dict)
        #: The keys of both by metric and origin: there may be a hundred of these.
        self._keys: dict[tuple[Metric, tuple[str, ...]], list[tuple[str, ...]]] = defaultdict(list)
        #: How many connections each pool of an origin kept, and how many pools there were, at most.
        self.pool_sizes: dict[Origin, int] = {}
        self.most_pools = 0
        self._pools: dict[Origin, int] = {}
        self._began: float | None = None
        self._seconds: float | None = None

    def forked(self) -> None:
        """Forget everything, at once."""
        vars(self).update(vars(type(self)()))

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Take in a drain; its levels are those of one moment."""
        super().tell(events)
        self.most_pools = max(self.most_pools, sum(self._pools.values()))

    def origin_seen(self, event: OriginSeen) -> None:
        """Note when the first one was seen."""
        self._began = self._began or perf_counter()
        super().origin_seen(event)

    def origin_left(self, event: OriginLeft) -> None:
        """Hand its totals over, and forget its levels."""
        for metric in catalog.CATALOG:
            for values in self._keys.pop((metric, tuple(event.origin)), ()):
                heirs = (*event.heir, *values[4:])
                if metric.kind == "histogram":
                    histogram = self.distributions[metric].pop(values)
                    self.distribution_at(metric, heirs).add(histogram)
                elif metric in catalog.LEVELS:
                    del self.numbers[metric][values]
                else:
                    self.add(metric, heirs, self.numbers[metric].pop(values))
        self._pools.pop(event.origin, None)
        self.pool_sizes.pop(event.origin, None)

    def levels(self, event: Levels) -> None:
        """Set the levels, and remember of the pools what is gone when they are closed."""
        super().levels(event)
        origin = event.origin
        self._pools[origin] = event.pools
        if event.pools:
            size = math.ceil(event.max / event.pools)
            self.pool_sizes[origin] = max(self.pool_sizes.get(origin, 0), size)

    @property
    def seconds(self) -> float | None:
        """In how many seconds all this was counted; None if nobody knows.

        Unless set, it is the time since the first origin was seen: a start may take long.
        """
        if self._seconds is None and self._began is not None:
            return perf_counter() - self._began
        return self._seconds

    @seconds.setter
    def seconds(self, seconds: float | None) -> None:
        self._seconds = seconds

    def stop(self) -> None:
        """Stop the clock: nothing more is counted."""
        self._seconds = self.seconds

    def remember(self, other: Readings) -> None:
        """Take over what a scrape does not show: since when it counts, and pools that are gone."""
        self.seconds = other.seconds
        self.pool_sizes, self.most_pools = dict(other.pool_sizes), other.most_pools

    # ---- writing

    def add(self, metric: Metric, values: tuple[str, ...], amount: float) -> None:
        """Add to a counter."""
        kept, values = self.numbers[metric], tuple(values)
        if values not in kept:
            self._keys[metric, values[:4]].append(values)
        kept[values] = kept.get(values, 0.0) + amount

    def set(self, metric: Metric, values: tuple[str, ...], value: float) -> None:
        """Set a level."""
        self.add(metric, values, 0.0)  # so that it is there
        self.numbers[metric][tuple(values)] = value

    def record(self, metric: Metric, values: tuple[str, ...], value: float) -> None:
        """Add one sample to a histogram."""
        distribution = self.distribution_at(metric, values)
        distribution.counts[bisect_left(metric.bounds, value)] += 1
        distribution.sum += value

    def merge(self, metric: Metric, values: tuple[str, ...], histogram: Histogram) -> None:
        """Add samples to a histogram."""
        distribution = self.distribution_at(metric, values)
        distribution.counts = [a + b for a, b in zip(distribution.counts, histogram.counts)]
        distribution.sum += sum(histogram.sums)

    def distribution_at(self, metric: Metric, values: tuple[str, ...]) -> Distribution:
        """Return the histogram with exactly these attributes, made if it is not there."""
        kept, values = self.distributions[metric], tuple(values)
        if values not in kept:
            self._keys[metric, values[:4]].append(values)
            kept[values] = Distribution(metric.bounds)
        return kept[values]

    def drop(self, metric: Metric, origin: Origin) -> None:
        """Forget an origin's values of a counter or level."""
        for values in self._keys.pop((metric, tuple(origin)), ()):
            del self.numbers[metric][values]

    def plain(self) -> list[list[Any]]:
        """Return everything as plain values, for :meth:`include` in another process."""
        numbers = [
            [metric.name, list(values), number]
            for metric, kept in self.numbers.items()
            for values, number in kept.items()
        ]
        return numbers + [
            [metric.name, list(values), each.counts, each.sum]
            for metric, several in self.distributions.items()
            for values, each in several.items()
        ]

    def include(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add what :meth:`plain` returned elsewhere."""
        for name, values, *rest in rows:
            metric, key = catalog.BY_NAME[name], tuple(values)
            if len(rest) > 1:
                other = Distribution(metric.bounds)
                other.counts, other.sum = rest
                self.distribution_at(metric, key).add(other)
            elif metric.merge == "max":
                self.set(metric, key, max(rest[0], self.numbers[metric].get(key, rest[0])))
            else:
                self.add(metric, key, rest[0])

    # ---- reading

    def origins(self) -> list[Origin]:
        """Return every origin that any metric names, in the order of first sight."""
        found: dict[Origin, None] = {}
        keys = [(metric, list(kept)) for metric, kept in self.distributions.items()]
        keys += [(metric, list(kept)) for metric, kept in self.numbers.items()]
        for metric, several in keys:
            if metric.common:
                found.update(dict.fromkeys(Origin(*values[:4]) for values in several))
        return list(found)

    def by(self, metric: Metric, origin: Origin) -> dict[str, float]:
        """Return an origin's values of a counter or level by its last attribute."""
        found: dict[str, float] = {}
        for values, number in self._of(metric, origin):
            found[values[-1]] = found.get(values[-1], 0.0) + number
        return found

    def further(self, metric: Metric, origin: Origin) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield an origin's values by the attributes that come after the common ones."""
        return ((values[4:], number) for values, number in self._of(metric, origin))

    def total(self, metric: Metric, origin: Origin) -> float:
        """Return an origin's sum over the further attributes."""
        return sum(number for _, number in self._of(metric, origin))

    def distribution(self, metric: Metric, origin: Origin, *further: str) -> Distribution:
        """Return an origin's histogram over those further attributes that end with ``further``."""
        whole = Distribution(metric.bounds)
        for values in self._keys.get((metric, tuple(origin)), ()):
            if values[len(values) - len(further) :] == further:
                whole.add(self.distributions[metric][values])
        return whole

    def _of(self, metric: Metric, origin: Origin) -> Iterator[tuple[tuple[str, ...], float]]:
        for values in self._keys.get((metric, tuple(origin)), ()):
            yield values, self.numbers[metric][values]

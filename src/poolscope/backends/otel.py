"""OpenTelemetry metrics through its API: exact at each collection, by whatever SDK there is.

Counters and levels are observable: a collection asks for them, and drains first. Histograms have
no observable kind, so a drain records their samples, never a request: a ``record()`` takes the
SDK 5 to 24 microseconds.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from poolscope import __version__, catalog, events
from poolscope.catalog import Metric
from poolscope.metrics import MetricObserver
from poolscope.readings import Readings
from poolscope.shield import is_the_hosts

#: The version of the semantic conventions from which names are taken.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.30.0"

# What the conventions want as something else than text.
_TYPED: Mapping[str, Callable[[str], Any]] = {
    "server.port": int,
    "code.line.number": int,
    "poolscope.reused": "true".__eq__,
    "tls.resumed": "true".__eq__,
}

# One per provider, for good: an SDK knows no way to take an instrument back. The global one may
# be set later, so there is one for whatever it is or will be.
_OBSERVERS: weakref.WeakKeyDictionary[MeterProvider, OtelObserver] = weakref.WeakKeyDictionary()
_global: OtelObserver | None = None


def observer(provider: MeterProvider | None, drain: Callable[[], None]) -> OtelObserver:
    """Return the observer that reports to ``provider``; None means the global one, set or to be."""
    global _global  # noqa: PLW0603 - there is one global provider
    if provider is None or provider is get_meter_provider():
        _global = _global or OtelObserver(None, drain)
        return _global
    if provider not in _OBSERVERS:
        _OBSERVERS[provider] = OtelObserver(provider, drain)
    return _OBSERVERS[provider]


class OtelObserver(MetricObserver):
    """The catalogue's metrics in one meter, of the scope ``poolscope``."""

    def __init__(self, provider: MeterProvider | None, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._provider = provider
        self._totals = Readings()
        self._histograms: dict[Metric, Histogram] = {}
        self._attributes: dict[tuple[Metric, tuple[str, ...]], dict[str, Any]] = {}
        provider = provider or get_meter_provider()
        meter = provider.get_meter("poolscope", __version__, SCHEMA_URL)
        # All are made here: an SDK takes its locks for that, and a drain must not wait for one
        # that a collection holds while it waits for the drain.
        for metric in catalog.CATALOG:
            self._make(meter, metric)

    def _make(self, meter: Meter, metric: Metric) -> None:
        about = (metric.unit, metric.help)
        callbacks = [partial(self._observe, metric)]
        if metric.kind == "counter":
            meter.create_observable_counter(metric.name, callbacks, *about)
        elif metric.kind == "gauge":
            meter.create_observable_gauge(metric.name, callbacks, *about)
        elif metric.kind == "updowncounter":
            meter.create_observable_up_down_counter(metric.name, callbacks, *about)
        else:
            bounds = metric.bounds
            self._histograms[metric] = meter.create_histogram(
                metric.name, *about, explicit_bucket_boundaries_advisory=bounds
            )

    def _observe(self, metric: Metric, _options: CallbackOptions) -> Iterable[Observation]:
        try:
            return self._observed(metric)
        except Exception as error:
            if is_the_hosts(error):
                raise
            # The SDK would log it with every collection.
            with contextlib.suppress(Exception):
                self._totals.add(catalog.FAULTS, ("observer.OtelObserver",), 1)
            return []

    def _observed(self, metric: Metric) -> list[Observation]:
        # An SDK calls back in the order in which instruments were made: the first one drains, so
        # that all of a collection tell of one moment, and the histograms' samples are in it.
        if metric is catalog.CATALOG[0]:
            self._drain()
        number = float if metric.unit == "s" else int
        rows = list(self._totals.numbers.get(metric, {}).items())
        return [Observation(number(value), self._named(metric, values)) for values, value in rows]

    def _named(self, metric: Metric, values: tuple[str, ...]) -> dict[str, Any]:
        key = (metric, values)
        found = self._attributes.get(key)
        if found is None:
            named = zip(metric.all_attributes, values)
            found = {name: _TYPED.get(name, str)(value) for name, value in named if value}
            self._attributes[key] = found
        return found

    def forked(self) -> None:
        """Forget the parent's totals."""
        self._totals.forked()

    def levels(self, event: events.Levels) -> None:
        """Set all levels of the origin; the series of one where nothing is left end."""
        super().levels(event)
        if not (event.pools or event.active or event.idle or event.pending):
            for metric in catalog.LEVELS:
                self._totals.drop(metric, event.origin)

    # ---- metrics

    def add(self, metric: Metric, values: tuple[str, ...], amount: float) -> None:
        """Add to a counter."""
        self._totals.add(metric, values, amount)

    def set(self, metric: Metric, values: tuple[str, ...], value: float) -> None:
        """Set a level."""
        self._totals.set(metric, values, value)

    def record(
        self, metric: Metric, values: tuple[str, ...], value: float, context: Any = None
    ) -> None:
        """Add one sample; with the context of a sampled span an SDK may keep it as exemplar."""
        self._histograms[metric].record(value, self._named(metric, tuple(values)), context)

    def merge(self, metric: Metric, values: tuple[str, ...], histogram: events.Histogram) -> None:
        """Add samples, each as the mean of those in its bucket: counts and the sum are exact.

        Skipped while there is no SDK, so that a process without one does not pay for it.
        """
        if _is_deaf(self._provider or get_meter_provider()):
            return
        edges = pairwise((-math.inf, *metric.bounds, math.inf))
        sums = enumerate(zip(edges, histogram.counts, histogram.sums))
        for bucket, ((lower, upper), count, total) in sums:
            rest = count
            if bucket in histogram.examples:
                seconds, context = histogram.examples[bucket]
                self.record(metric, values, seconds, context)
                rest, total = count - 1, total - seconds  # noqa: PLW2901 - what is left of it
            if rest:
                # Rounding must not move it into the next bucket.
                mean = min(max(total / rest, math.nextafter(lower, math.inf)), upper)
                for _ in range(rest):
                    self.record(metric, values, mean)


def _is_deaf(provider: MeterProvider) -> bool:
    """Tell a provider that the API itself brings along: a no-op, or one that waits for an SDK."""
    return type(provider).__module__.startswith("opentelemetry.metrics")

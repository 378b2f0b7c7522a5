"""Native prometheus_client metrics, exact at the moment of a scrape: drain first, then collect."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.values import ValueClass

from poolscope import catalog, events
from poolscope.metrics import MetricObserver
from poolscope.shield import is_the_hosts

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

_KINDS: dict[str, type[Counter | Gauge | Histogram]] = {
    "counter": Counter,
    "gauge": Gauge,
    "updowncounter": Gauge,
    "histogram": Histogram,
}

_ROOM = 4 << 20  # bytes; a file begins with one million and grows by as much as it has

# One per registry, for good: counts go on after uninstrument() and instrument().
_OBSERVERS: weakref.WeakKeyDictionary[CollectorRegistry, PrometheusObserver] = (
    weakref.WeakKeyDictionary()
)


def observer(registry: CollectorRegistry | None, drain: Callable[[], None]) -> PrometheusObserver:
    """Return the observer that reports to ``registry`` (None: the default one).

    Raises ``ValueError`` if the registry has metrics of these names from somebody else.
    """
    registry = REGISTRY if registry is None else registry
    if registry not in _OBSERVERS:
        made = PrometheusObserver(drain)
        try:
            registry.register(made)
        except ValueError:
            names = {family.name for family in registry.collect()}
            taken = sorted(names & {family.name for family in made.describe()})
            raise ValueError(
                f"The registry already has metrics named {', '.join(taken)} from somebody else: "
                "give poolscope a registry of its own."
            ) from None
        _OBSERVERS[registry] = made
    return _OBSERVERS[registry]


class PrometheusObserver(MetricObserver, Collector):
    """Native metrics behind one collector, which drains before it shows them.

    The metrics themselves are in no registry, so that nothing shows them without a drain. In
    prometheus_client's multiprocess mode they write to its directory all the same.
    """

    def __init__(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._build()

    def _build(self) -> None:
        self._metrics = {metric: _native(metric) for metric in catalog.CATALOG}
        self._children: dict[tuple[catalog.Metric, tuple[str, ...]], Any] = {}

    def describe(self) -> Iterable[Family]:
        """Name the metrics; called by the registry under its lock, so it must not drain."""
        return [family for native in self._metrics.values() for family in native.describe()]

    def collect(self) -> Iterable[Family]:
        """Drain, then show what there is; a metric without series is left out.

        A fault of ours must not fail the host's whole scrape; the next one shows it.
        """
        try:
            self._drain()
            families = (family for native in self._metrics.values() for family in native.collect())
            return [family for family in families if family.samples]
        except Exception as error:
            if is_the_hosts(error):
                raise
            with contextlib.suppress(Exception):
                self.add(catalog.FAULTS, ("observer.PrometheusObserver",), 1)
            return []

    def forked(self) -> None:
        """Begin with new metrics, which also have new locks: an old one may be held for ever."""
        self._build()

    def origin_left(self, event: events.OriginLeft) -> None:
        """Hand its totals over, and forget its series.

        In multiprocess mode they are in a file that nothing is taken out of: there its totals
        stay where they are, and its levels are those of nothing.
        """
        if getattr(ValueClass, "_multiprocess", False):
            return
        for metric, values in [key for key in self._children if key[1][:4] == event.origin]:
            child = self._children.pop((metric, values))
            self._metrics[metric].remove(*values)
            heirs = (*event.heir, *values[4:])
            if metric.kind == "counter":
                self.add(metric, heirs, child._value.get())  # noqa: SLF001 - see merge()
            elif metric.kind == "histogram":
                counts = [int(bucket.get()) for bucket in child._buckets]  # noqa: SLF001 - see merge()
                self.merge(metric, heirs, events.Histogram(tuple(counts), (child._sum.get(),)))  # noqa: SLF001 - see merge()

    # ---- metrics

    def _child(self, metric: catalog.Metric, values: tuple[str, ...]) -> Any:
        key = (metric, values)
        child = self._children.get(key)
        if child is None:
            _require_room()
            child = self._children[key] = self._metrics[metric].labels(*values)
        return child

    def add(self, metric: catalog.Metric, values: tuple[str, ...], amount: float) -> None:
        """Add to a counter."""
        self._child(metric, values).inc(amount)

    def set(self, metric: catalog.Metric, values: tuple[str, ...], value: float) -> None:
        """Set a level."""
        self._child(metric, values).set(value)

    def record(self, metric: catalog.Metric, values: tuple[str, ...], value: float) -> None:
        """Add one sample."""
        self._child(metric, values).observe(value)

    def merge(
        self, metric: catalog.Metric, values: tuple[str, ...], histogram: events.Histogram
    ) -> None:
        """Add samples bucket by bucket: observe() would take a microsecond for each.

        prometheus_client has no public way to do that; ``_buckets`` and ``_sum`` are the same
        in every version from 0.16 on, and the tests run with the oldest and the newest.
        """
        child = self._child(metric, values)
        for bucket, count in zip(child._buckets, histogram.counts):  # noqa: SLF001 - see above
            if count:
                bucket.inc(count)
        child._sum.inc(sum(histogram.sums))  # noqa: SLF001 - see above


def _require_room() -> None:
    """Raise ``OSError`` if the directory of multiprocess mode is about to be full.

    Its files are sparse and mapped: to write to a page for which no room is left ends the host
    (SIGBUS). What has its page goes on, and the next drain asks again.
    """
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory and getattr(ValueClass, "_multiprocess", False):
        disk = os.statvfs(directory)
        if disk.f_bavail * disk.f_frsize < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)


def _native(metric: catalog.Metric) -> Counter | Gauge | Histogram:
    kind = _KINDS[metric.kind]
    options: dict[str, Any] = {}
    if kind is Histogram:
        options["buckets"] = metric.bounds
    if kind is Gauge:
        # Levels of workers that died must not stay; see "mark_process_dead" in the README.
        options["multiprocess_mode"] = "livemax" if metric.merge == "max" else "livesum"
    return kind(metric.prometheus_name, metric.help, metric.labels, registry=None, **options)

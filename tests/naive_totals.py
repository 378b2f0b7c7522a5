"""What Prometheus has to show for a :class:`naive.Model`, put together sample by sample."""

from __future__ import annotations

from collections import defaultdict

from naive import Sums
from poolscope import events as ev

BOUNDS = {
    "request": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    "lifetime": (
        0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600,
    ),
    "requests": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000),
    "idle": (1, 5, 10, 15, 30, 60, 75, 120, 240, 300, 350, 600, 1800),
}  # fmt: skip
COUNTERS = {
    ev.PoolOpened: ("poolscope_pools_opened_total",),
    ev.Opened: ("poolscope_connections_opened_total", "cause"),
    ev.Closed: ("poolscope_connections_closed_total", "reason"),
    ev.Failed: ("poolscope_requests_failed_total", "reused", "error"),
    ev.WaitTimedOut: ("poolscope_connection_timeouts_total",),
}
REQUEST = "poolscope_request_duration_seconds"
WAIT_TIME = "poolscope_connection_wait_time_seconds"
BUSY_TIME = "poolscope_connection_busy_time_seconds_total"
OPEN = "http_client_open_connections"
HISTOGRAMS = (
    (ev.Closed, "http_client_connection_duration_seconds", "lifetime", "seconds"),
    (ev.Closed, "poolscope_connection_requests", "requests", "requests"),
    (ev.Created, "poolscope_connection_create_time_seconds", "request", "seconds", "error"),
    (
        *(ev.Handshake, "poolscope_tls_handshake_duration_seconds", "request"),
        *("seconds", "version", "resumed", "error"),
    ),
    (ev.FoundDropped, "poolscope_connection_idle_time_seconds", "idle", "seconds", "reason"),
)
LEVELS = {
    "pending": "poolscope_connection_pending_requests",
    "stale": "poolscope_connections_stale",
    "max": "poolscope_connection_max",
    "pools": "poolscope_pools_open",
    "age_sum": "poolscope_connection_age_sum_seconds",
    "oldest_age": "poolscope_connection_oldest_age_seconds",
}


def exposition(model, levels):
    """Return every sample that a scrape of the model would yield, by name and label values."""
    found = defaultdict(float)
    for event in model.told:
        if getattr(event, "origin", None) in model.left:
            event = event._replace(origin=model.left[event.origin])  # noqa: PLW2901 - as exported
        if type(event) in COUNTERS:
            name, *fields = COUNTERS[type(event)]
            found[(name, *labels(event, fields))] += 1
        for kind, name, bounds, value, *fields in HISTOGRAMS:
            if type(event) is kind:
                series = (name, *labels(event, fields))
                add(found, series, BOUNDS[bounds], [getattr(event, value)])
    for origin in model.origins:
        for reused in (False, True):
            samples = model.latency.get((origin, reused), Sums()).samples
            add(found, (REQUEST, *origin, spelled(reused)), BOUNDS["request"], samples)
        show_levels(found, levels(origin))
    for origin, waits in model.waits.items():
        add(found, (WAIT_TIME, *origin), BOUNDS["request"], waits.samples)
    for origin, seconds in model.busy().items():
        found[(BUSY_TIME, *origin)] = seconds
    return dict(found)


def show_levels(found, levels):
    for state in ("active", "idle"):
        found[(OPEN, *levels.origin, state)] = getattr(levels, state)
    for field, name in LEVELS.items():
        found[(name, *levels.origin)] = getattr(levels, field)


def spelled(value):
    return str(value).lower() if isinstance(value, bool) else value


def labels(event, fields):
    return (*event.origin, *(spelled(getattr(event, field)) for field in fields))


def add(found, series, bounds, samples):
    name, *values = series
    for bound in (*bounds, float("inf")):
        edge = "+Inf" if bound == float("inf") else str(float(bound))
        found[(f"{name}_bucket", *values, edge)] += sum(value <= bound for value in samples)
    found[(f"{name}_count", *values)] += len(samples)
    found[(f"{name}_sum", *values)] += sum(samples)


def exposed(families):
    """Return what was scraped in the same way."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def kept(readings):
    """Return what a process's own totals are, in the same way."""
    found = {}
    for metric, by in readings.numbers.items():
        for values, number in by.items():
            found[(metric.prometheus_name, *values)] = number
    for metric, by in readings.distributions.items():
        for values, distribution in by.items():
            name, total = metric.prometheus_name, 0
            for bound, count in zip((*metric.bounds, float("inf")), distribution.counts):
                total += count
                edge = "+Inf" if bound == float("inf") else str(bound)
                found[(f"{name}_bucket", *values, edge)] = total
            found[(f"{name}_count", *values)] = distribution.count
            found[(f"{name}_sum", *values)] = distribution.sum
    return found

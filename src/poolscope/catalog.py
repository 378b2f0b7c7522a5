"""Every metric once: its name, kind, unit, attributes, buckets and help text.

The OpenTelemetry name is the master. The Prometheus name is its standard translation, so one
dashboard serves both paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "updowncounter", "histogram"]

#: Attributes of every metric but ``poolscope.faults``, in this order.
COMMON = ("server.address", "server.port", "url.scheme", "poolscope.client")

#: Upper bounds in seconds for requests, waits, connection set-up and handshakes.
DURATION_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: The semantic convention's edges for a connection's lifetime in seconds, and a longer tail.
LIFETIME_BOUNDS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1800.0, 3600.0, 21600.0,
)  # fmt: skip
#: Upper bounds for the number of requests that one connection served.
REQUESTS_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0)
#: Upper bounds in seconds around the idle time-outs that servers and NATs are shipped with.
IDLE_BOUNDS = (
    1.0, 5.0, 10.0, 15.0, 30.0, 60.0, 75.0, 120.0, 240.0, 300.0, 350.0, 600.0, 1800.0,
)  # fmt: skip

_PROMETHEUS_UNITS = {"s": "seconds"}


@dataclass(frozen=True, eq=False)  # compared by identity: there is one object for each
class Metric:
    """One metric of the catalogue.

    ``unit`` is in UCUM (``s``, ``{connection}``), ``attributes`` come after the common ones.
    ``merge`` says how values of several processes become one: their sum, or their maximum.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    attributes: tuple[str, ...] = ()
    common: bool = True
    bounds: tuple[float, ...] = ()
    merge: Literal["sum", "max"] = "sum"

    @property
    def all_attributes(self) -> tuple[str, ...]:
        """The attribute names in the order in which their values are passed around."""
        return (COMMON if self.common else ()) + self.attributes

    @property
    def labels(self) -> tuple[str, ...]:
        """The attribute names as Prometheus spells them."""
        return tuple(prometheus_label(name) for name in self.all_attributes)

    @property
    def prometheus_name(self) -> str:
        """The standard translation: underscores, the unit's suffix, ``_total`` on counters."""
        name = self.name.replace(".", "_")
        suffix = _PROMETHEUS_UNITS.get(self.unit, "")
        if suffix and not name.endswith(f"_{suffix}"):
            name = f"{name}_{suffix}"
        return f"{name}_total" if self.kind == "counter" else name


def prometheus_label(attribute: str) -> str:
    """Spell an attribute's name as a Prometheus label."""
    return attribute.replace(".", "_")


OPENED = Metric(
    "poolscope.connections.opened",
    "counter",
    "{connection}",
    "Connections opened, by why one was needed.",
    ("poolscope.cause",),
)
BY_CALLSITE = Metric(
    "poolscope.connections.by_callsite",
    "counter",
    "{connection}",
    "Connections that the application need not have opened, by the line of code to blame.",
    ("code.file.path", "code.function.name", "code.line.number", "poolscope.cause"),
)
CLOSED = Metric(
    "poolscope.connections.closed",
    "counter",
    "{connection}",
    "Connections closed, by why.",
    ("poolscope.reason",),
)
HELD = Metric(
    "poolscope.connections.held",
    "counter",
    "{connection}",
    "Responses that kept their connection for too long, by the line of code that asked for them.",
    ("code.file.path", "code.function.name", "code.line.number"),
)
CREATE_TIME = Metric(
    "poolscope.connection.create_time",
    "histogram",
    "s",
    "Time to a usable connection: name resolution, TCP, proxy and TLS. error_type on failure.",
    ("error.type",),
    bounds=DURATION_BOUNDS,
)
HANDSHAKE = Metric(
    "poolscope.tls.handshake.duration",
    "histogram",
    "s",
    "Duration of TLS handshakes. error_type on failure.",
    ("tls.protocol.version", "tls.resumed", "error.type"),
    bounds=DURATION_BOUNDS,
)
REQUEST = Metric(
    "poolscope.request.duration",
    "histogram",
    "s",
    "Time from having a pooled connection to the response's headers, set-up included.",
    ("poolscope.reused",),
    bounds=DURATION_BOUNDS,
)
FAILED = Metric(
    "poolscope.requests.failed",
    "counter",
    "{request}",
    "Requests that got no response headers, by why.",
    ("poolscope.reused", "error.type"),
)
WAIT_TIME = Metric(
    "poolscope.connection.wait_time",
    "histogram",
    "s",
    "Time that checkouts from a blocking pool waited for a connection.",
    bounds=DURATION_BOUNDS,
)
TIMEOUTS = Metric(
    "poolscope.connection.timeouts",
    "counter",
    "{timeout}",
    "Checkouts from a blocking pool that gave up waiting.",
)
PENDING = Metric(
    "poolscope.connection.pending_requests",
    "gauge",
    "{request}",
    "Requests that wait for a connection of a blocking pool now.",
)
MAX = Metric(
    "poolscope.connection.max",
    "gauge",
    "{connection}",
    "Connections that the open pools may keep, added up.",
)
BUSY_TIME = Metric(
    "poolscope.connection.busy_time",
    "counter",
    "s",
    "Seconds that connections were checked out; its rate is the mean number in use.",
)
REQUESTS = Metric(
    "poolscope.connection.requests",
    "histogram",
    "{request}",
    "Requests that a connection served, recorded when it closes.",
    bounds=REQUESTS_BOUNDS,
)
IDLE_TIME = Metric(
    "poolscope.connection.idle_time",
    "histogram",
    "s",
    "How long a connection had been idle when it turned out to be dropped.",
    ("poolscope.reason",),
    bounds=IDLE_BOUNDS,
)
AGE_SUM = Metric(
    "poolscope.connection.age_sum",
    "gauge",
    "s",
    "Ages of the connections that are open now, added up.",
)
OLDEST_AGE = Metric(
    "poolscope.connection.oldest_age",
    "gauge",
    "s",
    "Age of the oldest connection that is open now.",
    merge="max",
)
OPEN = Metric(
    "http.client.open_connections",
    "updowncounter",
    "{connection}",
    "Connections that are open now, active (checked out) or idle.",
    ("http.connection.state",),
)
STALE = Metric(
    "poolscope.connections.stale",
    "gauge",
    "{connection}",
    "Idle connections whose peer has hung up already (asked on Linux only).",
)
LIFETIME = Metric(
    "http.client.connection.duration",
    "histogram",
    "s",
    "How long connections lived, recorded when the socket is done with.",
    bounds=LIFETIME_BOUNDS,
)
POOLS_OPENED = Metric(
    "poolscope.pools.opened",
    "counter",
    "{pool}",
    "Connection pools that were put to use.",
)
POOLS_OPEN = Metric(
    "poolscope.pools.open",
    "gauge",
    "{pool}",
    "Connection pools that are open now.",
)
FAULTS = Metric(
    "poolscope.faults",
    "counter",
    "{fault}",
    "Faults of poolscope's own code; the application was not touched by them.",
    ("poolscope.where",),
    common=False,
)

CATALOG = (
    OPENED, BY_CALLSITE, CLOSED, HELD, CREATE_TIME, HANDSHAKE, REQUEST, FAILED, WAIT_TIME,
    TIMEOUTS, PENDING, MAX, BUSY_TIME, REQUESTS, IDLE_TIME, AGE_SUM, OLDEST_AGE, OPEN, STALE,
    LIFETIME, POOLS_OPENED, POOLS_OPEN, FAULTS,
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in CATALOG}

#: What is open now, read at each drain.
LEVELS = tuple(metric for metric in CATALOG if metric.kind in ("gauge", "updowncounter"))

#: Why a connection closed (``poolscope.reason``), a fixed set; the first cause seen wins.
REASONS = (
    "server_close", "stale", "reset", "pool_full", "unread", "pool_closed", "evicted",
    "collected", "timeout", "error", "explicit", "exit",
)  # fmt: skip

#: Why a connection was opened (``poolscope.cause``), by who can do something about it.
AVOIDABLE_CAUSES = (
    "new_pool", "replaced_pool_full", "replaced_unread", "replaced_evicted", "replaced_collected",
    "replaced_explicit", "replaced_pool_closed",
)  # fmt: skip
OTHER_SIDE_CAUSES = (
    "replaced_server_close", "replaced_stale", "replaced_reset", "replaced_timeout",
    "replaced_error",
)  # fmt: skip
NEEDED_CAUSES = ("first", "growth")

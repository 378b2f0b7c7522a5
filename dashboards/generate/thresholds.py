"""Every number that an alert compares with, once; also where panels draw their lines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """A number that people may change: it is recorded as a series of its own."""

    name: str
    value: float
    meaning: str

    @property
    def record(self) -> str:
        """The series' name."""
        return f"poolscope:{self.name}:threshold"


MIN_REQUESTS = Threshold(
    "min_requests_per_second", 1, "Upstreams with fewer requests a second are not judged."
)
MIN_EACH = Threshold(
    "min_requests_per_second_and_instance",
    0.1,
    "Nor are those that each instance asks more seldom.",
)
REQUESTS_PER_CONNECTION = Threshold(
    "expected_requests_per_connection", 5, "A connection should serve that many requests at least."
)
HANDSHAKES = Threshold("handshakes_per_request", 0.2, "TLS handshakes that a request may cost.")
FIRST_GAP = Threshold(
    "first_request_gap_seconds",
    0.25,
    "By how much the p99 of first requests may exceed that of re-used ones.",
)
FIRST_SHARE = Threshold(
    "first_request_share", 0.01, "Below that share of first requests their latency does not matter."
)
DISCARDS = Threshold(
    "discards_per_request", 0.01, "Connections that a full pool may throw away, per request."
)
POOL_WAIT = Threshold("pool_wait_seconds", 0.05, "The p99 of waits for a pool's connection.")
POOL_TIMEOUTS = Threshold(
    "pool_timeouts_per_request", 0.001, "The share of requests that may give up waiting."
)
LIFETIME = Threshold(
    "connection_lifetime_seconds", 1, "How long connections should live on average at least."
)
MIN_CLOSED = Threshold(
    "min_closed_per_second", 0.5, "With fewer closings a second, lifetimes are not judged."
)
IDLE_RESETS = Threshold(
    "idle_resets_per_request", 0.001, "Requests that a re-used connection may lose, per request."
)
NEW_POOLS = Threshold(
    "new_pools_per_request", 0.1, "Connections that new Sessions may open, per request."
)
UNREAD = Threshold(
    "unread_per_request", 0.05, "Connections that unread responses may cost, per request."
)
APPLICATION_CLOSES = Threshold(
    "application_closes_per_request",
    0.05,
    "Connections that may replace one which the application has closed, per request.",
)
SERVER_CLOSES = Threshold(
    "server_closes_per_request", 0.05, "Answers that may end their connection, per request."
)
HELD = Threshold(
    "held_per_request", 0.01, "Responses that may keep their connection too long, per request."
)
TIMEOUTS = Threshold("timeouts_per_request", 0.01, "The share of requests that may time out.")
CUT_OFF = Threshold("cut_off_per_request", 0.01, "The share of requests that may be cut off.")
EVICTIONS = Threshold(
    "evictions_per_request", 0.05, "Connections that evicted pools may cost, per request."
)
CONNECT_FAILURES = Threshold(
    "connect_failures_per_request", 0.05, "The share of requests that may fail to connect."
)
MIN_FAILURES = Threshold(
    "min_connect_failures_per_second", 0.02, "Fewer failures to connect than that are not judged."
)

THRESHOLDS = (
    MIN_REQUESTS, MIN_EACH, REQUESTS_PER_CONNECTION, HANDSHAKES, FIRST_GAP, FIRST_SHARE, DISCARDS,
    POOL_WAIT, POOL_TIMEOUTS, LIFETIME, MIN_CLOSED, IDLE_RESETS, NEW_POOLS, UNREAD,
    APPLICATION_CLOSES, SERVER_CLOSES, HELD, TIMEOUTS, CUT_OFF, EVICTIONS, CONNECT_FAILURES,
    MIN_FAILURES,
)  # fmt: skip

"""The recording rules: what a job does at an upstream, added up over all of its instances."""

from __future__ import annotations

from poolscope.catalog import (
    AGE_SUM,
    CLOSED,
    CREATE_TIME,
    FAILED,
    FAULTS,
    HANDSHAKE,
    HELD,
    IDLE_TIME,
    LIFETIME,
    OPEN,
    OPENED,
    POOLS_OPEN,
    REQUEST,
    TIMEOUTS,
    WAIT_TIME,
    Metric,
)
from poolscope.catalog import PENDING as PENDING_REQUESTS
from promql import JOB, UPSTREAM, WINDOW, mean, quantile, rate, requests, total


def _counter(metric: Metric, *further: str) -> tuple[str, str]:
    name = metric.prometheus_name.removesuffix("_total")
    return f"upstream:{name}:rate5m", total(rate(metric), (*UPSTREAM, *further))


def _per_request(record: str) -> str:
    return f"{total(record, UPSTREAM)} / ({REQUESTS} > 0)"


REQUESTS = "upstream:poolscope_requests:rate5m"
OPENED_RATE, _OPENED = _counter(OPENED, "poolscope_cause")
CLOSED_RATE, _CLOSED = _counter(CLOSED, "poolscope_reason")
FAILED_RATE, _FAILED = _counter(FAILED, "poolscope_reused", "error_type")
HELD_RATE, _HELD = _counter(HELD)
TIMEOUTS_RATE, _TIMEOUTS = _counter(TIMEOUTS)
HANDSHAKES_RATE = "upstream:poolscope_tls_handshakes:rate5m"
CREATE_SECONDS = "upstream:poolscope_connection_create_time_seconds:rate5m"
OPENED_RATIO = "upstream:poolscope_opened_per_request:ratio_rate5m"
HANDSHAKES_RATIO = "upstream:poolscope_handshakes_per_request:ratio_rate5m"
LATENCY = "upstream:poolscope_request_duration_seconds:p99_rate5m"
FIRST_GAP = "upstream:poolscope_first_request_gap_seconds:p99_rate5m"
WAIT = "upstream:poolscope_connection_wait_time_seconds:p99_rate5m"
STUCK = "upstream:poolscope_connection_stuck_requests:min5m"
LIVED = "upstream:http_client_connection_duration_seconds:mean_rate5m"
IDLE = "upstream:poolscope_connection_idle_time_seconds:p50_rate5m"
OPEN_NOW = "upstream:http_client_open_connections:sum"
AGE = "upstream:poolscope_connection_age_seconds:mean"
CALLERS = "upstream:poolscope_instances:count"
INSTANCES = "job:poolscope_instances:count"
FAULTY = "job:poolscope_faults:sum"
OTHERS = "job:poolscope_other_upstreams:count"

_PENDING = PENDING_REQUESTS.prometheus_name
_ENDED = total(rate(WAIT_TIME, suffix="_count"), (*UPSTREAM, "instance"))
_JOB, _ALL = ", ".join(JOB), ", ".join(UPSTREAM)
_RAW_POOLS = POOLS_OPEN.prometheus_name

#: In the order in which they are evaluated: later ones read earlier ones.
RECORDINGS: dict[str, str] = {
    REQUESTS: total(requests(), UPSTREAM),
    OPENED_RATE: _OPENED,
    CLOSED_RATE: _CLOSED,
    FAILED_RATE: _FAILED,
    HELD_RATE: _HELD,
    TIMEOUTS_RATE: _TIMEOUTS,
    HANDSHAKES_RATE: total(rate(HANDSHAKE, 'error_type=""', suffix="_count"), UPSTREAM),
    CREATE_SECONDS: total(rate(CREATE_TIME, suffix="_sum"), UPSTREAM),
    OPENED_RATIO: _per_request(OPENED_RATE),
    HANDSHAKES_RATIO: _per_request(HANDSHAKES_RATE),
    LATENCY: quantile(0.99, REQUEST, (*UPSTREAM, "poolscope_reused")),
    FIRST_GAP: (
        f'{LATENCY}{{poolscope_reused="false"}} - ignoring (poolscope_reused) '
        f'{LATENCY}{{poolscope_reused="true"}}'
    ),
    WAIT: quantile(0.99, WAIT_TIME, UPSTREAM),
    # At instances where no wait ends: a queue that moves is what WAIT is about.
    STUCK: total(
        f"(min_over_time({_PENDING}[{WINDOW}]) > 0) unless on "
        f"({', '.join((*UPSTREAM, 'instance'))}) ({_ENDED} > 0)",
        UPSTREAM,
    ),
    LIVED: mean(LIFETIME, UPSTREAM),
    IDLE: quantile(0.5, IDLE_TIME, (*UPSTREAM, "poolscope_reason")),
    OPEN_NOW: total(OPEN.prometheus_name, (*UPSTREAM, "http_connection_state")),
    AGE: f"{total(AGE_SUM.prometheus_name, UPSTREAM)} / ({total(OPEN_NOW, UPSTREAM)} > 0)",
    CALLERS: f"count by ({_ALL}) (group by ({_ALL}, instance) ({_RAW_POOLS}))",
    INSTANCES: f"count by ({_JOB}) (group by ({_JOB}, instance) ({_RAW_POOLS}))",
    FAULTY: total(FAULTS.prometheus_name, (*JOB, "poolscope_where")),
    OTHERS: (
        f'count by ({_JOB}) (group by ({_JOB}, instance) ({_RAW_POOLS}{{server_address="_other"}}))'
    ),
}

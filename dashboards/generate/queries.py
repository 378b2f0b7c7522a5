"""Queries of the service view: one job's raw series, narrowed down by the dashboard's variables."""

from __future__ import annotations

from poolscope.catalog import Metric
from promql import quantile, rate, requests, total

BY = ("url_scheme", "server_address", "server_port")
AT = "{{url_scheme}}://{{server_address}}:{{server_port}}"
GOOD = 'error_type=""'
FIRST, LATER = 'poolscope_reused="false"', 'poolscope_reused="true"'
IDLE = 'http_connection_state="idle"'
FULL = 'poolscope_reason="pool_full"'

#: The whole job, and what the other variables leave of it.
JOB = 'job="$job", cluster=~"$cluster", namespace=~"$namespace"'
_WHERE = f'{JOB}, instance=~"$instance", server_address=~"$upstream", poolscope_client=~"$client"'
_WINDOW = "$__rate_interval"
_ANY_REQUEST = requests(_WHERE, _WINDOW)
_REQUESTS_BY = total(_ANY_REQUEST, BY)
ALL_REQUESTS = f"sum({_ANY_REQUEST})"


def _where(more: str) -> str:
    return f"{_WHERE}, {more}" if more else _WHERE


def now(metric: Metric, more: str = "") -> str:
    """Spell a level's series."""
    return f"{metric.prometheus_name}{{{_where(more)}}}"


def rated(metric: Metric, more: str = "", suffix: str = "") -> str:
    """Spell a counter's rate."""
    return rate(metric, _where(more), suffix=suffix, window=_WINDOW)


def summed(metric: Metric, by: tuple[str, ...] = (), more: str = "", suffix: str = "") -> str:
    """Spell a sum of rates."""
    each = rated(metric, more, suffix)
    return total(each, by) if by else f"sum({each})"


def at(q: float, metric: Metric, by: tuple[str, ...] = (), more: str = "") -> str:
    """Spell a quantile."""
    return quantile(q, metric, by, _where(more), _WINDOW)


def grown(metric: Metric) -> str:
    """Spell by how much a histogram's buckets have grown between two points of the picture."""
    return total(f"increase({metric.prometheus_name}_bucket{{{_WHERE}}}[{_WINDOW}])", ("le",))


def or_zero(some: str) -> str:
    """Spell 0 for upstreams that had requests and none of these."""
    return f"{some} or 0 * {_REQUESTS_BY}"


def per_request(some: str) -> str:
    """Spell a share of an upstream's requests."""
    return f"({or_zero(some)}) / ({_REQUESTS_BY} > 0)"

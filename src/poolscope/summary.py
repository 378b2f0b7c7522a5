"""An origin's five signals in plain numbers, out of readings; what snapshot() and reports show.

Durations are in seconds; None stands for "no such thing was seen".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from poolscope import catalog
from poolscope.events import Origin
from poolscope.readings import Distribution, Readings


def summarize(readings: Readings, incomplete: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``{"seconds": ..., "origins": [...], "faults": {...}}``, ready for ``json.dumps``.

    ``incomplete`` are sentences about what may be missing, if anybody knows.
    """
    origins = [summarize_origin(readings, origin) for origin in readings.origins()]
    pools_open = sum(origin["pool"]["pools_open"] for origin in origins)
    return {
        "seconds": readings.seconds,
        "most_pools_open": max(readings.most_pools, pools_open),
        "origins": origins,
        "faults": {
            values[0]: _whole(number)
            for values, number in readings.numbers.get(catalog.FAULTS, {}).items()
        },
        "incomplete": list(incomplete),
    }


def summarize_origin(readings: Readings, origin: Origin) -> dict[str, Any]:
    """Return the five signals of one origin, S1 to S5, and the evidence behind them."""
    first = readings.distribution(catalog.REQUEST, origin, "false")
    reused = readings.distribution(catalog.REQUEST, origin, "true")
    created = readings.distribution(catalog.CREATE_TIME, origin, "")
    completed = readings.distribution(catalog.HANDSHAKE, origin, "")
    waits = readings.distribution(catalog.WAIT_TIME, origin)
    lifetime = readings.distribution(catalog.LIFETIME, origin)
    requests = _whole(first.count + reused.count)
    opened = _whole(readings.total(catalog.OPENED, origin))
    by_state = readings.by(catalog.OPEN, origin)
    open_now = _whole(sum(by_state.values()))
    age_sum = readings.total(catalog.AGE_SUM, origin)
    lived = lifetime.count + open_now
    closed = {key: _whole(n) for key, n in readings.by(catalog.CLOSED, origin).items()}
    most, pools_open = (readings.total(m, origin) for m in (catalog.MAX, catalog.POOLS_OPEN))
    size = math.ceil(most / pools_open) if pools_open else 0
    return {
        "address": origin.address,
        "port": origin.port,
        "scheme": origin.scheme,
        "client": origin.client,
        "requests": {
            "answered": requests,
            "first": _whole(first.count),
            "reused": _whole(reused.count),
            "reused_share": reused.count / requests if requests else None,
            "failed": {key: _whole(n) for key, n in readings.by(catalog.FAILED, origin).items()},
        },
        "connections": {
            "opened": opened,
            "requests_per_connection": requests / opened if opened else None,
            "opened_by_cause": {
                key: _whole(n) for key, n in readings.by(catalog.OPENED, origin).items()
            },
            "call_sites": _call_sites(readings, origin),
            "held": _whole(readings.total(catalog.HELD, origin)),
            "held_call_sites": _held_call_sites(readings, origin),
            "create_failed": _create_failed(readings, origin),
            "closed": sum(closed.values()),
            "closed_by_reason": closed,
            "open": open_now,
            "active": _whole(by_state.get("active", 0)),
            "idle": _whole(by_state.get("idle", 0)),
            "stale": _whole(readings.total(catalog.STALE, origin)),
            "busy_seconds": readings.total(catalog.BUSY_TIME, origin),
        },
        "handshakes": {
            "completed": _whole(completed.count),
            "per_request": completed.count / requests if requests else None,
            "seconds": completed.sum,
            "failed": _whole(
                readings.distribution(catalog.HANDSHAKE, origin).count - completed.count
            ),
        },
        "latency": {
            "first": _quantiles(first),
            "reused": _quantiles(reused),
            "gap_p50": _gap(first, reused, 0.5),
            "gap_p99": _gap(first, reused, 0.99),
            "create": _quantiles(created),
        },
        "pool": {
            "waits": _whole(waits.count),
            "wait": _quantiles(waits),
            "timeouts": _whole(readings.total(catalog.TIMEOUTS, origin)),
            "pending": _whole(readings.total(catalog.PENDING, origin)),
            "discarded": closed.get("pool_full", 0),
            "max": _whole(most),
            "size": max(size, readings.pool_sizes.get(origin, 0)),
            "pools_opened": _whole(readings.total(catalog.POOLS_OPENED, origin)),
            "pools_open": _whole(pools_open),
        },
        "lifetime": {
            "mean": (lifetime.sum + age_sum) / lived if lived else None,
            "mean_closed": lifetime.mean,
            "mean_age": age_sum / open_now if open_now else None,
            "oldest_age": readings.total(catalog.OLDEST_AGE, origin) if open_now else None,
            "idle_when_dropped": {
                reason: {
                    "count": _whole(idle.count),
                    "shortest_at_most": idle.lowest,
                    **_quantiles(idle),
                }
                for reason in ("stale", "reset", "timeout")
                if (idle := readings.distribution(catalog.IDLE_TIME, origin, reason)).count
            },
        },
    }


def _call_sites(readings: Readings, origin: Origin) -> list[dict[str, Any]]:
    """Return the lines of code that asked for connections without need, the busiest first."""
    rows = [
        {"path": path, "function": function, "line": int(line), "cause": cause, "count": _whole(n)}
        for (path, function, line, cause), n in readings.further(catalog.BY_CALLSITE, origin)
        if path
    ]
    return sorted(rows, key=_busiest)


def _held_call_sites(readings: Readings, origin: Origin) -> list[dict[str, Any]]:
    """Return the lines of code whose responses held on to connections, the busiest first."""
    rows = [
        {"path": path, "function": function, "line": int(line), "count": _whole(n)}
        for (path, function, line), n in readings.further(catalog.HELD, origin)
        if path
    ]
    return sorted(rows, key=_busiest)


def _busiest(row: dict[str, Any]) -> tuple[int, str, int]:
    return -row["count"], row["path"], row["line"]


def _create_failed(readings: Readings, origin: Origin) -> dict[str, int]:
    """Return how many connections never became usable, by kind of error."""
    return {
        error: _whole(failed.count)
        for error in ("dns", "refused", "timeout", "tls", "proxy", "other")
        if (failed := readings.distribution(catalog.CREATE_TIME, origin, error)).count
    }


def _whole(number: float) -> int:
    return round(number)


def _quantiles(distribution: Distribution) -> dict[str, float | None]:
    return {
        "mean": distribution.mean,
        "p50": distribution.quantile(0.5),
        "p99": distribution.quantile(0.99),
    }


def _gap(first: Distribution, reused: Distribution, q: float) -> float | None:
    slow, fast = first.quantile(q), reused.quantile(q)
    return None if slow is None or fast is None else slow - fast

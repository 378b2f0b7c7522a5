"""What is wrong at one origin, whose move it is, and which setting or line of code changes it.

Every case needs enough evidence: a finding that is not true costs more trust than one that is
missing. Wording is for somebody who has never heard of connection pools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poolscope import catalog
from poolscope.advice import failures, waste
from poolscope.advice.evidence import ENOUGH_REQUESTS, Evidence, Finding

__all__ = ["ENOUGH_REQUESTS", "Finding", "findings", "is_judged", "seconds_lost"]

#: In the order in which they stand when they weigh the same.
_CASES: tuple[Callable[[Evidence], Finding | None], ...] = (
    failures.connect_failures,
    failures.requests_time_out,
    failures.requests_break,
    waste.pool_wait,
    waste.session_per_call,
    waste.pool_too_small,
    waste.unread_responses,
    waste.pool_evictions,
    waste.server_closes,
    waste.idle_race,
)


def findings(origin: dict[str, Any]) -> list[Finding]:
    """Return what is wrong at an origin of :func:`poolscope.summary.summarize`, worst first."""
    evidence = Evidence(origin)
    found = [finding for case in _CASES if (finding := case(evidence)) is not None]
    return sorted(found, key=lambda one: (one.severity != "failing", -one.seconds))


def seconds_lost(origin: dict[str, Any]) -> float:
    """Return the seconds that callers waited for connections which need not have been opened.

    That is connections by avoidable and other-side causes, times the mean time to open one, plus
    the time spent waiting for a pool.
    """
    evidence = Evidence(origin)
    needless = catalog.AVOIDABLE_CAUSES + catalog.OTHER_SIDE_CAUSES
    return evidence.cost(*needless) + evidence.waited


def is_judged(origin: dict[str, Any]) -> bool:
    """Tell whether an origin saw enough requests to say how its connections are used."""
    return Evidence(origin).attempts >= ENOUGH_REQUESTS

"""What is wrong with connections, whose move it is, and which setting or line of code changes it.

A pure function of a snapshot. Every case needs enough evidence: a finding that is not true costs
more trust than one that is missing. Wording is for somebody who has never heard of pools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from poolscope import catalog
from poolscope.advice import churn, failures, waste, words
from poolscope.advice.evidence import ENOUGH_REQUESTS, Cost, Evidence, Finding

__all__ = ["ENOUGH_REQUESTS", "Cost", "Finding", "Upstream", "findings", "worst_first"]

#: In the order in which they stand when they weigh the same.
_CASES: tuple[Callable[[Evidence], Finding | None], ...] = (
    failures.connect_failures,
    failures.requests_time_out,
    failures.requests_break,
    waste.held_connections,
    waste.pool_wait,
    waste.session_per_call,
    waste.pool_too_small,
    waste.unread_responses,
    waste.pool_evictions,
    waste.server_closes,
    waste.idle_race,
    churn.application_closes,
)


class Upstream(NamedTuple):
    """An origin of a summary with what is wrong there, the worst first."""

    origin: dict[str, Any]
    findings: list[Finding]
    #: How many requests there were, and how many of these were answered.
    attempts: int
    answered: int

    @property
    def failed(self) -> int:
        """How many got no answer, those that never got a connection included."""
        return self.attempts - self.answered

    @property
    def is_judged(self) -> bool:
        """Whether these are enough to say how connections are used."""
        return self.attempts >= ENOUGH_REQUESTS

    @property
    def verdict(self) -> str:
        """The worst finding's severity; "well" without any, "few" where that means nothing."""
        if self.findings:
            return self.findings[0].severity
        return "well" if self.is_judged else "few"


def findings(summary: dict[str, Any]) -> list[Finding]:
    """Return all that is wrong in a snapshot: what fails first, then what costs most."""
    found = [finding for one in worst_first(summary) for finding in one.findings]
    return sorted(found, key=_weight)


def worst_first(summary: dict[str, Any]) -> list[Upstream]:
    """Return a snapshot's origins: failing before costly, then by seconds lost, then by size.

    Seconds lost are those that callers waited for connections which need not have been opened
    (all but first ones and growth) times the mean time to open one, and for a pool.
    """
    ranked = []
    for origin in summary["origins"]:
        seen = Evidence(origin, summary["seconds"], _upstreams(summary))
        found = _found(seen)
        worst = 2 if not found else 0 if found[0].severity == "failing" else 1
        needless = (cause for cause in seen.opened if cause not in catalog.NEEDED_CAUSES)
        lost = seen.cost(*needless).seconds + seen.waited
        name = (origin["address"], origin["port"])
        ranked.append(
            (
                (worst, -lost, -seen.answered, name),
                Upstream(origin, found, seen.attempts, seen.answered),
            )
        )
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


def _found(seen: Evidence) -> list[Finding]:
    """Return an origin's findings, the worst first, and last what no other one explains."""
    found = [finding for case in _CASES if (finding := case(seen)) is not None]
    rest = churn.connection_churn(seen, [finding.id for finding in found])
    return sorted([*found, *([rest] if rest else [])], key=_weight)


def _upstreams(summary: dict[str, Any]) -> int:
    """Return for how many upstreams a manager should keep pools; 0 if nobody knows.

    That there were never pools for all of them says that there is one for each: more pools than
    upstreams come from other settings for the same host, or from several managers. If all are
    closed, a scrape does not know how many there were.
    """
    upstreams = summary["origins"]
    is_known = all(one["address"] != words.OTHER for one in upstreams)
    return len(upstreams) if is_known and 0 < summary["most_pools_open"] < len(upstreams) else 0


def _weight(finding: Finding) -> tuple[bool, float]:
    return finding.severity != "failing", -finding.cost.seconds

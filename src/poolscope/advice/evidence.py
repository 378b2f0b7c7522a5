"""What a case of advice is made of: an origin's evidence, when it is enough, and a finding."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from poolscope import catalog
from poolscope.advice import words

Severity = Literal["failing", "costly"]
Whose = Literal["the application", "the other side", "the application or the other side"]

#: Requests below which an origin's connections are not judged.
ENOUGH_REQUESTS = 10
#: Seconds below which nothing is said about an hour, or about means over time.
ENOUGH_SECONDS = 3.0
#: How often something must have happened, and to which share of the requests.
TIMES = 3
COSTLY_SHARE = 0.05
FAILING_SHARE = 0.01  # a failed request hurts more than one that had to connect
_SELDOM = 0.1  # requests a second and pool
#: Lines of code that are named in one finding.
_SITES = 3
#: Seconds; who was idle for less than the lowest bound was hardly idle.
HARDLY_IDLE = catalog.IDLE_BOUNDS[0]
_HOUR = 3600.0

#: Seconds of the client's CPU for one TLS handshake, rounded: 0.8 to 0.9 ms were measured on
#: 2026-11-21 on a shared x86_64 machine, with TLS 1.2 and 1.3, ECDSA P-256 and RSA 2048.
HANDSHAKE_CPU = 0.001


@dataclass(frozen=True)
class Cost:
    """What something has cost so far, as far as that can be told."""

    #: Connections opened for it.
    connections: int = 0
    #: Seconds that callers waited: for these to be opened, by the mean, or for a pool.
    seconds: float = 0.0
    #: Seconds of this side's CPU for these connections' TLS handshakes, by estimate.
    cpu_seconds: float = 0.0
    #: Callers' seconds in an hour at this rate; None if it is not known how long this took.
    seconds_per_hour: float | None = None
    #: By how many seconds a request that has to open a connection is slower; None if unknown.
    first_request: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong at an origin.

    ``id`` is the name of the alert about it, and in small letters the runbook's anchor.
    ``problem`` is the evidence in numbers, ``cause`` why it comes to that, ``change`` what to
    do, ``saves`` what that saves; ``whose`` says who can do it.
    """

    id: str
    upstream: str
    severity: Severity
    whose: Whose
    problem: str
    cause: str
    change: str
    saves: str = ""
    cost: Cost = Cost()
    #: The lines of code that it is about, if that is who can change it.
    where: str = ""
    #: The values that ``change`` recommends, by the setting's name.
    settings: dict[str, int] = field(default_factory=dict)


class Evidence:
    """An origin's summary, as the cases ask about it.

    ``seconds`` is how long it took to come about (None if nobody knows), ``upstreams`` how many
    origins one manager should keep pools for (0 if nobody knows).
    """

    def __init__(self, origin: dict[str, Any], seconds: float | None, upstreams: int) -> None:
        requests, connections = origin["requests"], origin["connections"]
        latency = origin["latency"]
        self.upstream = words.upstream(origin)
        self.upstreams = upstreams
        self.seconds = seconds if seconds is not None and seconds >= ENOUGH_SECONDS else None
        self.answered: int = requests["answered"]
        self.failed: dict[str, int] = requests["failed"]
        self.opened: dict[str, int] = connections["opened_by_cause"]
        self.opened_total: int = connections["opened"]
        self.call_sites: list[dict[str, Any]] = connections["call_sites"]
        self.held: int = connections["held"]
        self.held_sites: list[dict[str, Any]] = connections["held_call_sites"]
        self.busy: float = connections["busy_seconds"]
        self.closed: dict[str, int] = connections["closed_by_reason"]
        self.connect_errors: dict[str, int] = connections["create_failed"]
        self.pool: dict[str, Any] = origin["pool"]
        self.pools_opened: int = self.pool["pools_opened"]
        #: How many there are, or were.
        self.pools: int = self.pool["pools_open"] or self.pools_opened or 1
        self.pool_size: int = self.pool["size"]
        self.dropped: dict[str, dict[str, Any]] = origin["lifetime"]["idle_when_dropped"]
        self.create_mean: float = latency["create"]["mean"] or 0.0
        self.reused: dict[str, float | None] = latency["reused"]
        self.gap: float | None = latency["gap_p50"]
        self.handshakes: int = origin["handshakes"]["completed"]
        self.scheme: str = origin["scheme"]
        self.waited: float = self.pool["waits"] * (self.pool["wait"]["mean"] or 0.0)
        self.attempts: int = self.answered + sum(self.failed.values()) + int(self.pool["timeouts"])

    def often(self, times: int, share: float = COSTLY_SHARE) -> bool:
        """Tell whether so many requests paid for something that it is worth a sentence."""
        enough = self.attempts >= ENOUGH_REQUESTS and times >= TIMES
        return enough and times >= share * self.attempts

    def fails(self, times: int) -> bool:
        """Tell whether so many requests failed that it is worth a sentence."""
        if not self.answered:
            return times > 0
        return times >= TIMES and times >= FAILING_SHARE * self.attempts

    def asks_seldom(self) -> bool:
        """Tell whether each pool has a request in ten seconds or fewer, if that is known.

        Who asks once a minute finds its connection closed, and nothing is wrong. The alerts have
        the same bound (``poolscope:min_requests_per_second_and_instance:threshold``).
        """
        return self.seconds is not None and self.attempts < _SELDOM * self.seconds * self.pools

    # ---- what it costs

    def number(self, *causes: str) -> int:
        """Return how many connections were opened by these causes."""
        return sum(self.opened.get(cause, 0) for cause in causes)

    def cost(self, *causes: str) -> Cost:
        """Return what connections opened by these causes have cost."""
        number = self.number(*causes)
        seconds = number * self.create_mean
        has_tls = self.handshakes > 0
        return Cost(
            number,
            seconds,
            number * HANDSHAKE_CPU if has_tls else 0.0,
            self.hourly(seconds),
            self._slower() if number else None,
        )

    def _slower(self) -> float | None:
        """Return the seconds that opening adds to a request: the medians' gap, or else the mean."""
        return self.gap if self.gap is not None and self.gap > 0 else self.create_mean or None

    def hourly(self, seconds: float) -> float | None:
        """Return how many seconds these would be in an hour; None if that can't be told."""
        return None if self.seconds is None else seconds / self.seconds * _HOUR

    def price(self, *causes: str) -> str:
        """Say what it cost to open connections by these causes, if any were."""
        number = self.number(*causes)
        if not number or not self.create_mean:
            return ""
        each = words.duration(self.create_mean)
        total = words.duration(number * self.create_mean)
        tls = ", TLS included," if self.handshakes else ""
        return f" Opening one{tls} takes {each} on average; for these that is {total} in all."

    def saves(self, *causes: str) -> str:
        """Say what it would save not to open connections by these causes, if any were."""
        cost = self.cost(*causes)
        if not cost.connections:
            return ""
        parts = [f"{cost.connections:,} of {words.counted(self.opened_total, 'connection')}"]
        if cost.first_request is not None:
            slower = words.about(cost.first_request)
            parts.append(f"{slower} on each request that opens one")
        if cost.seconds_per_hour:
            parts.append(f"at this rate {self._an_hour(cost)}")
        return "; ".join(parts) + "."

    def _an_hour(self, cost: Cost) -> str:
        waiting = words.about(cost.seconds_per_hour or 0.0)
        cpu = self.hourly(cost.cpu_seconds)
        more = f" and {words.duration(cpu)} of CPU" if cpu else ""
        return f"{waiting} of waiting{more} an hour"

    # ---- where it comes from

    def where(self, *causes: str) -> str:
        """Say which lines of code asked for connections by these causes, the busiest first."""
        return _lines([site for site in self.call_sites if site["cause"] in causes])

    def where_held(self) -> str:
        """Say which lines of code took the responses that held on to a connection."""
        return _lines(self.held_sites)

    # ---- idle connections and pools

    def idle_resets(self) -> int:
        """Return how many requests were cut off on a connection that had been idle."""
        found = self.dropped.get("reset")
        return found["count"] if found and found["p50"] >= HARDLY_IDLE else 0

    def peak(self) -> int:
        """Return how many connections a pool had in use at once, on average over the pools.

        A pool opens one by ``growth`` only when all that it has are in use, and one that takes a
        closed one's place has another cause, so counting its places gives the peak. 0 if pools
        are older than what is looked at: then nobody knows how many places they had before.
        """
        places = self.number("first", "new_pool", "replaced_evicted", "growth")
        pools = self.pools_opened
        return math.ceil(places / pools) if pools >= max(self.pool["pools_open"], 1) else 0


def _lines(sites: list[dict[str, Any]]) -> str:
    """Name lines of code, the busiest first."""
    lines: dict[str, int] = {}
    for site in sites:
        name = words.call_site(site)
        lines[name] = lines.get(name, 0) + site["count"]
    busiest = sorted(lines.items(), key=lambda line: -line[1])
    shown = [f"{name}, {words.times(count)}" for name, count in busiest][:_SITES]
    more = len(lines) - len(shown)
    return "; ".join(shown) + (f"; and {words.counted(more, 'more line')}" if more else "")

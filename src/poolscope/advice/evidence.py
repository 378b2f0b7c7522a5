"""What a case of advice is made of: an origin's evidence, when it is enough, and a finding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from poolscope import catalog
from poolscope.advice import words

Severity = Literal["failing", "costly"]
Whose = Literal["the application", "the other side", "the application or the other side"]

#: Requests below which an origin's connections are not judged.
ENOUGH_REQUESTS = 10
#: How often something must have happened, and to which share of the requests.
TIMES = 3
COSTLY_SHARE = 0.05
FAILING_SHARE = 0.01  # a failed request hurts more than one that had to connect
#: Lines of code that are named in one finding.
_SITES = 3
#: Seconds; who was idle for less than the lowest bound was hardly idle.
HARDLY_IDLE = catalog.IDLE_BOUNDS[0]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong at an origin.

    ``problem`` is the evidence in numbers, ``cause`` why it comes to that, ``change`` what to
    do; ``whose`` says who can do it. ``seconds`` is the time that it has cost so far, as far as
    that can be told: connections opened for this reason times the mean time to open one, or
    time spent waiting.
    """

    id: str
    severity: Severity
    whose: Whose
    problem: str
    cause: str
    change: str
    seconds: float = 0.0
    #: The lines of code that asked for these connections, if that is who can change it.
    where: str = ""


class Evidence:
    """An origin's summary, as the cases ask about it."""

    def __init__(self, origin: dict[str, Any]) -> None:
        requests, connections = origin["requests"], origin["connections"]
        self.answered: int = requests["answered"]
        self.failed: dict[str, int] = requests["failed"]
        self.opened: dict[str, int] = connections["opened_by_cause"]
        self.opened_total: int = connections["opened"]
        self.call_sites: list[dict[str, Any]] = connections["call_sites"]
        self.idle: int = connections["idle"]
        self.dead: int = connections["stale"]
        self.closed: dict[str, int] = connections["closed_by_reason"]
        self.connect_errors: dict[str, int] = connections["create_failed"]
        self.pool: dict[str, Any] = origin["pool"]
        self.dropped: dict[str, dict[str, Any]] = origin["lifetime"]["idle_when_dropped"]
        self.create_mean: float = origin["latency"]["create"]["mean"] or 0.0
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

    def cost(self, *causes: str) -> float:
        """Return the seconds spent on opening connections by these causes."""
        return sum(self.opened.get(cause, 0) for cause in causes) * self.create_mean

    def price(self, *causes: str) -> str:
        """Say what it cost to open connections by these causes, if any were."""
        number = sum(self.opened.get(cause, 0) for cause in causes)
        if not number or not self.create_mean:
            return ""
        each = words.duration(self.create_mean)
        total = words.duration(number * self.create_mean)
        tls = ", TLS included," if self.handshakes else ""
        return f" Opening one{tls} takes {each} on average; for these that is {total} in all."

    def where(self, *causes: str) -> str:
        """Say which lines of code asked for connections by these causes, the busiest first."""
        lines: dict[str, int] = {}
        for site in self.call_sites:
            if site["cause"] in causes:
                name = words.call_site(site)
                lines[name] = lines.get(name, 0) + site["count"]
        shown = [f"{name}, {words.times(count)}" for name, count in lines.items()][:_SITES]
        more = len(lines) - len(shown)
        return "; ".join(shown) + (f"; and {words.counted(more, 'more line')}" if more else "")

    def idle_resets(self) -> int:
        """Return how many requests were cut off on a connection that had been idle."""
        found = self.dropped.get("reset")
        return found["count"] if found and found["p50"] >= HARDLY_IDLE else 0

    def pool_size(self) -> int:
        """Return how many connections each pool keeps; 0 if that is not the same for all."""
        most: int = self.pool["max"]
        pools: int = self.pool["pools_open"] or 1
        return 0 if most % pools else most // pools

    def peak(self) -> int:
        """Return how many connections a pool had in use at once, on average over the pools.

        A pool opens one by ``growth`` only when all that it has are in use, and one that takes a
        closed one's place has another cause, so counting its places gives the peak.
        """
        places = ("first", "new_pool", "replaced_evicted", "growth")
        number = sum(self.opened.get(cause, 0) for cause in places)
        pools: int = self.pool["pools_opened"] or 1
        return math.ceil(number / pools)

"""How many connections a pool should have room for: by Little's law, and by the peak in use.

Little's law (J. D. C. Little, Operations Research 9, 1961): the mean number of things in a place
is the time that they spent there, divided by the time for which one looked. So the seconds that
connections were checked out, per second, are the mean number in use; the seconds that requests
waited, per second, the mean number that queued.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import NamedTuple

from poolscope.advice import words
from poolscope.advice.evidence import Evidence
from poolscope.catalog import DURATION_BOUNDS

#: Room for the swings around the mean: twice the mean where latency is steady, five times where
#: it varies much, as slow answers then pile up.
_STEADY, _VARYING = 2, 5
_TIMES = {_STEADY: "twice", _VARYING: "five times"}
#: Latency varies much if the p99 is so many buckets above the p50: four times as long, or more.
_APART = 3


class Size(NamedTuple):
    """A pool's size, and how one comes to it."""

    connections: int
    why: str


def pool_size(seen: Evidence) -> Size | None:
    """Return the size that the pools at an origin need; None if there is no evidence of one.

    That is room for the swings around the mean in use, and for all that were wanted at once: of
    a pool that does not block the peak in use, of one that blocks those in use and in the queue.
    """
    wanted, said = 0, []
    if seen.seconds is not None and seen.busy:
        mean, queued = (each / seen.seconds / seen.pools for each in (seen.busy, seen.waited))
        factor, latency = _swings(seen)
        wanted = math.ceil(factor * mean)
        said.append(
            f"{words.ratio(mean)} are in use on average (by Little's law); {latency}, so there "
            f"should be room for {_TIMES[factor]} as many, {wanted:,}"
        )
        if seen.pool["waits"] and math.ceil(mean + queued) > wanted:
            wanted = math.ceil(mean + queued)
            said.append(f"with those that queue {wanted:,} are wanted on average")
    peak = 0 if seen.pool["waits"] else seen.peak()
    if peak > max(wanted, seen.pool_size, 1):
        wanted = peak
        # Of several pools only the mean of their peaks is known.
        up_to = "up to" if seen.pools_opened == 1 else "about"
        said.append(f"{up_to} {peak:,} were in use at once")
    # A pool that is closed tells its size no more. If it is the only one, its peak was beyond it.
    is_larger = wanted > seen.pool_size if seen.pool_size else seen.pools_opened == 1 and peak > 0
    if wanted <= 1 or not is_larger:
        return None
    return Size(wanted, "; ".join(said))


def _swings(seen: Evidence) -> tuple[int, str]:
    """Return by how much there must be more room than the mean, and why."""
    p50, p99 = seen.reused["p50"], seen.reused["p99"]
    if p50 is None or p99 is None:
        return _STEADY, "latency is not known to vary"
    low, high = (bisect_left(DURATION_BOUNDS, quantile) for quantile in (p50, p99))
    if high - low < _APART:
        return _STEADY, "latency is steady"
    spelled = (words.estimate(quantile, DURATION_BOUNDS) for quantile in (p50, p99))
    return _VARYING, "latency varies much (p50 {}, p99 {})".format(*spelled)

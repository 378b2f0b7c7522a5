"""Scripted histories of an upstream, for what reads summaries: reports and advice."""

from bisect import bisect_left

from poolscope import events as ev
from poolscope.catalog import DURATION_BOUNDS
from poolscope.readings import Readings
from poolscope.summary import summarize

API = ev.Origin("api.example.com", "443", "https", "urllib3")


def histogram(seconds, times):
    """Return ``times`` samples of the same duration."""
    counts = [0] * (len(DURATION_BOUNDS) + 1)
    sums = [0.0] * len(counts)
    index = bisect_left(DURATION_BOUNDS, seconds)
    counts[index], sums[index] = times, seconds * times
    return ev.Histogram(tuple(counts), tuple(sums))


def answered(first=0, reused=0, *, origin=API, slow=0.04, fast=0.004):
    """Return answers, so many on new connections and so many on re-used ones."""
    return [
        ev.OriginSeen(origin),
        ev.Answered(origin, reused=False, latency=histogram(slow, first)),
        ev.Answered(origin, reused=True, latency=histogram(fast, reused)),
    ]


def opened(cause, times=1, *, origin=API, seconds=0.03):
    """Return connections opened, with TLS if the origin has it."""
    one = [ev.Opened(origin, cause), ev.Created(origin, seconds)]
    if origin.scheme == "https":
        one.append(ev.Handshake(origin, seconds / 2, "1.3", "false"))
    return one * times


def closed(reason, times=1, *, origin=API, seconds=0.05, requests=1):
    """Return connections closed."""
    return [ev.Closed(origin, reason, seconds, requests)] * times


def failed(error, times, *, origin=API, reused=False):
    """Return requests that got no answer."""
    return [ev.OriginSeen(origin)] + [ev.Failed(origin, reused, error)] * times


def session_per_call(origin=API):
    """Play 1,200 times ``requests.get()``."""
    return [
        *answered(1200, origin=origin),
        *[ev.PoolOpened(origin)] * 1200,
        *opened("first", origin=origin),
        *opened("new_pool", 1199, origin=origin),
        *closed("collected", 1200, origin=origin),
    ]


def small_pool(origin=API):
    """Play 16 threads on a pool that keeps 2 connections."""
    return [
        *answered(56, 944, origin=origin),
        ev.PoolOpened(origin),
        *opened("first", origin=origin),
        *opened("growth", 15, origin=origin),
        *opened("replaced_pool_full", 40, origin=origin),
        *closed("pool_full", 54, origin=origin, seconds=1.0, requests=17),
        ev.Levels(origin, idle=2, max=2, pools=1, age_sum=60.0, oldest_age=40.0),
    ]


def idle_race(origin=API):
    """Play a server that hangs up after 5 s of silence, at times under a request."""
    return [
        *answered(60, 240, origin=origin),
        *failed("reset", 6, origin=origin, reused=True),
        ev.PoolOpened(origin),
        *opened("first", origin=origin),
        *opened("replaced_stale", 53, origin=origin),
        *opened("replaced_reset", 6, origin=origin),
        *closed("stale", 53, origin=origin, seconds=12.0, requests=5),
        *closed("reset", 6, origin=origin, seconds=12.0, requests=5),
        *[ev.FoundDropped(origin, "stale", 7.0)] * 53,
        *[ev.FoundDropped(origin, "reset", 5.1)] * 6,
        ev.Levels(origin, idle=1, max=10, pools=1, age_sum=3.0, oldest_age=3.0),
    ]


def healthy(origin=API):
    """Play a Session that is kept."""
    return [
        *answered(3, 1197, origin=origin),
        ev.PoolOpened(origin),
        *opened("first", origin=origin),
        *opened("growth", 2, origin=origin),
        ev.Levels(origin, idle=3, max=10, pools=1, age_sum=900.0, oldest_age=300.0),
    ]


def told(*histories):
    """Return the readings of an observer that was told all this."""
    readings = Readings()
    readings.tell([event for history in histories for event in history])
    return readings


def summary(*histories):
    """Return the summary of these histories."""
    return summarize(told(*histories))

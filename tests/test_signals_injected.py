"""A time limit that strikes at any line of ours: it reaches the host, and costs no count.

An exception that a signal handler raises is the host's own, and may come while our code happens
to run. Here it comes to every line of ours once, and the servers' counts are ours all the same.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys

import pytest
import urllib3

import poolscope
from injection import points_of, striking
from scenarios import SCENARIOS, Player, obliging

#: What is open before we come is not counted when it closes.
ADOPTS = ("a_connection_that_was_open_before",)


class Struck(Exception):  # noqa: N818 - what a time limit raises
    """Raised by a signal handler."""


def strike(_number=None, _frame=None):
    raise Struck


@pytest.fixture
def _handled():
    before = signal.signal(signal.SIGUSR1, strike)
    yield
    signal.signal(signal.SIGUSR1, before)


def totals():
    poolscope._process.pulse.stop()  # it beats for nobody here, and the main thread would ask it
    rows = poolscope.snapshot()["origins"]
    sums = [row["connections"] for row in rows]
    return {
        "accepted": sum(row["opened"] for row in sums),
        "handshakes": sum(row["handshakes"]["completed"] for row in rows),
        "answered": sum(row["requests"]["answered"] for row in rows),
        "closed": sum(row["closed"] for row in sums),
    }


def levels():
    """Return how many connections are open, requests pending, and pools open."""
    rows = poolscope.snapshot()["origins"]
    return [
        sum(row[part][name] for row in rows)
        for part, name in (("connections", "open"), ("pool", "pending"), ("pool", "pools_open"))
    ]


def theirs(world):
    """Return what the servers count; through a proxy, connections are those of the proxy."""
    proxies = [server for server in world.servers if server.handler is not obliging]
    accepted = sum(server.accepted for server in proxies or world.servers)
    counts = world.counts()
    return {
        "accepted": accepted,
        "handshakes": counts.handshakes,
        "answered": counts.answered,
        "closed": accepted,
    }


def gains(player):
    """Play the scenario, and return what ours and what the servers' totals gain."""
    player.world.closed = sum(server.closed for server in player.world.servers)
    before = totals(), theirs(player.world)
    # A blocking pool misses for good what the host could not put back.
    with contextlib.suppress(Struck, urllib3.exceptions.EmptyPoolError):
        player.run()
    gc.collect()
    for server in player.world.servers:
        server.wait(closed=server.accepted)
    after = totals(), theirs(player.world)
    return [{name: now[name] - then[name] for name in now} for now, then in zip(after, before)]


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("_handled", "scope")
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ADOPTS])
def test_a_time_limit_at_any_line_of_ours_costs_no_count(world, monkeypatch, tried, name):
    monkeypatch.setattr(sys, "unraisablehook", lambda _what: None)
    player, process = Player(world, name), poolscope._process
    monkeypatch.setattr(process.pulse, "_beat", lambda: None)
    player.play()
    process.pulse.stop()
    points = [point for point in points_of(player.play, of_handlers=True) if point not in tried]
    tried.update(points)
    lost = {}
    for point in points:
        process.pulse.stop()
        before = levels()
        with striking(point, strike) as struck:
            ours, servers = gains(player)
        assert struck, point
        assert process.pulse._running.locked() == process.pulse.beating, point
        wrong = {key: (ours[key], servers[key]) for key in ours if ours[key] != servers[key]}
        # http.client has the answer then, closes the connection, and the host never sees it.
        if point.entry == "close" and servers["answered"] - ours["answered"] == 1:
            wrong.pop("answered")
        if levels() != before:
            wrong["levels"] = levels()
        if wrong:
            lost[str(point)] = wrong
    assert not lost, "\n".join(f"{point}: {wrong}" for point, wrong in lost.items())

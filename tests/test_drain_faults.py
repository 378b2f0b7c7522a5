"""A fault in the drain, or in an observer, costs that row or that observer, and nothing else."""

from __future__ import annotations

import pytest

import poolscope
from injection import points_of, raising
from scenarios import Player

#: Between them, all kinds of rows.
ROWS = (
    *("a_blocking_pool", "tls_and_a_server_that_closes", "an_idle_connection_dropped"),
    *("requests_without_an_answer", "pools_evicted_and_cleared", "a_unix_socket"),
    *("all_left_to_the_garbage_collector", "a_connection_that_was_open_before"),
)


@pytest.fixture
def process(scope, monkeypatch):
    """Return the process with nobody to drain but the test."""
    process = poolscope._process
    process.pulse.stop()
    monkeypatch.setattr(process.pulse, "wake", lambda: None)
    return process


def totals():
    rows = poolscope.snapshot()["origins"]
    return [
        sum(row[part][name] for row in rows)
        for part, name in (
            ("connections", "opened"),
            ("connections", "closed"),
            ("handshakes", "completed"),
            ("requests", "answered"),
        )
    ]


def begin_anew(process):
    """Begin a new history, as a forked child does."""
    process.scope.begin()
    process.readings.forked()


def gains(player):
    """Return what the totals gain when the scenario is played once more."""
    before = totals()
    player.play()
    return [after - then for after, then in zip(totals(), before)]


def levels():
    rows = poolscope.snapshot()["origins"]
    return [
        number
        for row in rows
        for number in (
            *(row["connections"][name] for name in ("active", "idle")),
            *(row["pool"][name] for name in ("pending", "max", "pools_open")),
        )
    ]


@pytest.mark.parametrize("name", ROWS)
def test_a_fault_at_any_line_of_the_drain_is_told_and_forgotten(scope, world, process, name):
    player = Player(world, name)
    player.play()
    begin_anew(process)
    player.play()
    points = points_of(process.scope.drain, within="_fold")
    usually = gains(player)
    for point in points:
        begin_anew(process)
        player.play()
        with raising(point, ZeroDivisionError) as struck:
            process.scope.drain()
        assert struck, point
        (where,) = poolscope.snapshot()["faults"]
        assert where.startswith("drain."), point
        assert min(levels()) >= 0, point
        assert gains(player) == usually, point
        assert min(levels()) >= 0, point
    scope.faults = poolscope.snapshot()["faults"]

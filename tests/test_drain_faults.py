"""A fault in the drain, or in an observer, costs that row or that observer, and nothing else."""

from __future__ import annotations

import pytest
import urllib3

import poolscope
from injection import points_of, raising
from peers import HOST, keep_alive
from poolscope import events as ev
from poolscope.observers import Observer
from scenarios import Player

#: Between them, all kinds of rows.
ROWS = (
    *("a_blocking_pool", "tls_and_a_server_that_closes", "an_idle_connection_dropped"),
    *("requests_without_an_answer", "pools_evicted_and_cleared", "a_unix_socket"),
    *("all_left_to_the_garbage_collector", "a_connection_that_was_open_before"),
)


@pytest.fixture
def process(scope, monkeypatch):  # noqa: ARG001 - only attached there is one
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
def test_a_fault_at_any_line_of_the_drain_is_told_and_forgotten(scope, world, process, tried, name):
    player = Player(world, name)
    player.play()
    begin_anew(process)
    player.play()
    points = [one for one in points_of(process.scope.drain, within="_fold") if one not in tried]
    tried.update(points)
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


class SullenError(Exception):
    def __repr__(self):
        raise LookupError


class Picky(Observer):
    """Raises when it hears of something, or at the good-bye."""

    def __init__(self, kind, error):
        self.kind = kind
        self.error = error

    def tell(self, events):
        if any(isinstance(event, self.kind) for event in events):
            raise self.error

    def ended(self):
        if self.kind is Observer:
            raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError(), SullenError()], ids=["zero", "sullen"])
@pytest.mark.parametrize("kind", [ev.OriginSeen, ev.Opened, ev.Closed, ev.Levels])
def test_an_observer_that_raises_is_let_go_and_the_others_go_on(scope, serve, process, kind, error):
    server = serve(keep_alive)
    seen = scope.of(server)
    poolscope.instrument(picky := Picky(kind, error))
    for _ in range(2):
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            pool.request("GET", "/")
            poolscope.snapshot()
    assert picky not in process.scope.observers
    assert len(process.scope.observers) == 2  # the readings, and the registry's
    seen.agrees_with(server)
    assert seen.opened == {"first": 1, "new_pool": 1}
    scope.faults = {"observer.Picky": 1}


@pytest.mark.parametrize("error", [ZeroDivisionError(), SullenError()], ids=["zero", "sullen"])
def test_an_observer_that_raises_when_it_is_introduced_does_not_fail_instrument(
    scope, serve, process, error
):
    server = serve(keep_alive)
    heard = []

    class Listener(Observer):
        def opened(self, event):
            heard.append(event.cause)

    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        poolscope.snapshot()
        poolscope.instrument([picky := Picky(ev.OriginSeen, error), listener := Listener()])
        assert picky not in process.scope.observers
        with urllib3.HTTPConnectionPool(HOST, server.port) as other:
            other.request("GET", "/")
    poolscope.snapshot()
    assert heard == ["new_pool"]
    assert listener in process.scope.observers
    scope.faults = {"observer.Picky": 1}


def test_an_observer_that_raises_at_the_good_bye_keeps_nobody(scope, serve, process):
    server = serve(keep_alive)
    poolscope.instrument(Picky(Observer, SullenError()))
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        scope.detach()
        assert process.scope.observers == []
        scope.attach()
        pool.request("GET", "/")
    scope.of(server).agrees_with(server)
    scope.faults = {"observer.Picky": 1}


def test_a_clock_that_fails_in_a_drain_costs_the_levels_of_that_drain(scope, serve, process):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        clock, process.scope.clock = process.scope.clock, lambda: 1 / 0
        poolscope.snapshot()
        process.scope.clock = clock
        assert seen.open == {"active": 0, "idle": 1}
        pool.request("GET", "/")
    seen.agrees_with(server)
    scope.faults = {"drain._fold": 1}

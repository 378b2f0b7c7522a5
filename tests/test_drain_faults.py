"""A fault in the drain, or in an observer, costs that row or that drain, and nothing else."""

from __future__ import annotations

import threading

import pytest
import urllib3

import poolscope
from injection import kinds_for, points_of, raising
from peers import HOST, keep_alive
from poolscope import events as ev
from poolscope.audience import MOST_EVENTS
from poolscope.observers import Observer
from poolscope.pulse import Pulse
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
    for point, kind in kinds_for(points):
        begin_anew(process)
        player.play()
        with raising(point, kind) as struck:
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


ERRORS = pytest.mark.parametrize(
    "error", [ZeroDivisionError(), SullenError(), MemoryError()], ids=["zero", "sullen", "memory"]
)


@ERRORS
@pytest.mark.parametrize("kind", [ev.OriginSeen, ev.Opened, ev.Closed, ev.Levels])
def test_an_observer_that_raises_costs_itself_that_drain_and_nobody_else(
    scope, serve, process, kind, error
):
    server = serve(keep_alive)
    seen = scope.of(server)
    poolscope.instrument(picky := Picky(kind, error))
    for _ in range(2):
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            pool.request("GET", "/")
            poolscope.snapshot()
    assert picky in process.scope.observers
    seen.agrees_with(server)
    assert seen.opened == {"first": 1, "new_pool": 1}
    faults = poolscope.snapshot()["faults"]
    assert set(faults) == {"observer.Picky"}
    process.scope.dismiss()
    scope.attach()
    scope.faults = poolscope.snapshot()["faults"]


@ERRORS
@pytest.mark.usefixtures("process")
def test_a_fault_that_passes_costs_an_observer_that_drain_alone(scope, serve, error):
    """It is visible in the metrics, and the levels are told anew, though none of them changed."""
    server = serve(keep_alive)
    heard = []

    class Listener(Observer):
        fails = False

        def tell(self, events):
            if self.fails:
                raise error
            super().tell(events)

        def opened(self, event):
            heard.append(event.cause)

        def levels(self, event):
            heard.append(event.active + event.idle)

    poolscope.instrument(listener := Listener())
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        poolscope.snapshot()
        heard.clear()
        listener.fails = True
    poolscope.snapshot()
    listener.fails = False
    poolscope.snapshot()
    assert heard == [0]
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
    poolscope.snapshot()
    assert heard == [0, "new_pool"]
    rows = scope.registry.collect()
    faults = {
        sample.labels["poolscope_where"]: sample.value
        for family in rows
        for sample in family.samples
        if sample.name == "poolscope_faults_total"
    }
    assert faults == {"observer.Listener": 1}
    scope.faults = {"observer.Listener": 1}


def test_a_registry_that_fails_once_goes_on(scope, serve, process, monkeypatch):
    server = serve(keep_alive)
    seen = scope.of(server)
    (backend,) = [one for one in process.scope.observers if type(one).__name__.startswith("Prom")]
    monkeypatch.setattr(backend, "pool_opened", None)  # whose call is a TypeError
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        poolscope.snapshot()
        monkeypatch.undo()
        pool.request("GET", "/")
        assert seen.requests == {"first": 0, "reused": 1}
        assert seen.open == {"active": 0, "idle": 1}
    scope.seen.clear()  # it has missed an opening, so that its numbers can't be those of the server
    scope.faults = {"observer.PrometheusObserver": 1}


def test_news_of_an_observer_that_hangs_are_bounded(scope, serve, process):
    """It loses the oldest, hears of that as a fault, and everything that comes once it is back."""
    server = serve(keep_alive)
    inside, go_on = threading.Event(), threading.Event()
    heard = []

    class Slow(Observer):
        def tell(self, events):
            inside.set()
            go_on.wait()
            heard.extend(events)

    poolscope.instrument(Slow())
    thread = threading.Thread(target=poolscope.snapshot)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        thread.start()
        assert inside.wait(10)
        (listener,) = [one for one in process.scope._listeners if type(one.observer) is Slow]
        listener._hangs = True  # as it is after ten seconds
        for _ in range(3):
            listener.hear([ev.Faulted("x")] * (MOST_EVENTS // 2))
        for _ in range(3):
            pool.request("GET", "/")
            poolscope.snapshot()
        go_on.set()
        thread.join()
    poolscope.snapshot()
    assert sum(event == ev.Faulted("x") for event in heard) == MOST_EVENTS // 2
    assert isinstance(heard[-1], ev.Levels)
    scope.of(server).agrees_with(server)
    scope.faults = {"observer.Slow": poolscope.snapshot()["faults"]["observer.Slow"]}


@ERRORS
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
        poolscope.instrument([Picky(ev.OriginSeen, error), listener := Listener()])
        with urllib3.HTTPConnectionPool(HOST, server.port) as other:
            other.request("GET", "/")
    poolscope.snapshot()
    assert heard == ["new_pool"]
    assert listener in process.scope.observers
    process.scope.dismiss()
    scope.attach()
    scope.faults = poolscope.snapshot()["faults"]
    assert set(scope.faults) == {"observer.Picky"}


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


def test_who_asks_for_a_beat_that_fails_is_answered():
    """And not left to wait, for a thread that is gone."""
    began, go_on = threading.Event(), threading.Event()

    def beat():
        began.set()
        go_on.wait()
        raise SystemExit

    pulse = Pulse(beat, lambda: None, first=0.0)
    pulse.wake()
    began.wait()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(pulse.beat_now(30)))
    thread.start()
    while not pulse._asking:
        pass
    go_on.set()
    thread.join(10)
    assert answers == [False]

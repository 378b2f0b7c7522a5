"""The command's end of ``poolscope run``, with a collector that is gone, full, or never was."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

import pytest
import urllib3

import poolscope
from peers import HOST, keep_alive
from poolscope import events as ev
from poolscope import relay
from poolscope.collector import Collector
from poolscope.observers import Observer


@pytest.fixture
def collector(tmp_path):
    """Return a listening socket and its path; nobody accepts unless the test does."""
    path = str(tmp_path / "collector")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        yield listener, path


def test_an_observer_that_fails_does_not_end_the_account(tmp_path, caplog):
    told = []

    class Broken(Observer):
        def tell(self, events):
            raise ZeroDivisionError

    class Sound(Observer):
        def tell(self, events):
            told.extend(events)

    path = str(tmp_path / "collector")
    account = Collector(path, [Broken(), Sound()], 100)
    account.start()
    opened = ev.Opened(ev.Origin("api", "443", "https", "urllib3"), "first")
    for _ in range(2):
        link = relay.Relay(path)
        link.hello()
        link.tell([opened])
        link.ended()
    account.finish()
    assert told.count(opened) == 2
    assert told.count(ev.Faulted("observer.Broken")) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "poolscope: a fault of its own in observer.Broken (ZeroDivisionError())."
    ]


def play(server, times=3):
    for _ in range(times):
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            assert pool.request("GET", "/").data == b"ok"
        poolscope.snapshot()


def test_a_collector_that_never_was_costs_nothing(scope, serve, tmp_path):
    server = serve(keep_alive)
    relay.attach(str(tmp_path / "nobody"))
    play(server)
    scope.of(server).agrees_with(server)


@pytest.mark.parametrize("farewell", ["closed", "reset", "shut"])
def test_a_collector_that_goes_away_costs_nothing(scope, serve, collector, farewell):
    server = serve(keep_alive)
    listener, path = collector
    relay.attach(path)
    connection, _ = listener.accept()
    if farewell == "shut":
        connection.shutdown(socket.SHUT_RD)
    elif farewell == "reset":
        listener.close()
    if farewell != "shut":
        connection.close()
    play(server)
    connection.close()
    scope.of(server).agrees_with(server)


@pytest.mark.usefixtures("scope")
def test_a_collector_that_reads_nothing_keeps_no_request_waiting(serve, collector, monkeypatch):
    """Not even one whose connection dies while the drain is stuck."""
    server = serve(keep_alive)
    listener, path = collector
    stuck, go_on = threading.Event(), threading.Event()

    class Slow(relay.Relay):
        def _write(self, message):
            if "events" in message:
                stuck.set()
                go_on.wait()
            super()._write(message)

    monkeypatch.setattr(relay, "Relay", Slow)
    relay.attach(path)
    with contextlib.closing(listener.accept()[0]):
        thread = threading.Thread(target=poolscope.snapshot)
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            pool.request("GET", "/")
            thread.start()
            assert stuck.wait(10)
            for _ in range(3):
                with urllib3.HTTPConnectionPool(HOST, server.port) as other:
                    assert other.request("GET", "/").data == b"ok"
            assert pool.request("GET", "/").data == b"ok"
        go_on.set()
        thread.join()


def test_a_full_socket_is_given_up_after_its_time(scope, serve, collector, monkeypatch):
    monkeypatch.setattr(relay, "_TIMEOUT", 0.05)
    server = serve(keep_alive)
    listener, path = collector
    relay.attach(path)
    mine = next(one for one in poolscope._process.scope.observers if isinstance(one, relay.Relay))
    with contextlib.closing(listener.accept()[0]):
        while not mine._gone:
            mine._send({"events": ["x" * 100_000]})
        assert mine._socket is None
        play(server)
    scope.of(server).agrees_with(server)


@pytest.mark.parametrize("step", ["_write", "_connect", "_is_ours"])
@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_a_fault_of_the_relay_costs_nobody_else(scope, serve, collector, monkeypatch, step, error):
    def broken(*_args):
        raise error

    server = serve(keep_alive)
    _, path = collector
    relay.attach(path)
    monkeypatch.setattr(relay.Relay, step, broken)
    if step == "_connect":
        monkeypatch.setattr(relay.Relay, "_is_ours", lambda _self: False)
    play(server)
    scope.of(server).agrees_with(server)
    poolscope.uninstrument()
    scope.attach()
    scope.faults = poolscope.snapshot()["faults"]
    assert set(scope.faults) == {"observer.Relay"}


@pytest.mark.parametrize(
    ("command", "argv", "program"),
    [
        (["python", "-m", "gunicorn", "-m", "x"], ["-m", "-m", "x"], "gunicorn"),
        (["python", "-um", "gunicorn"], ["-m"], "gunicorn"),
        (["python", "-u", "app/main.py", "-m"], ["app/main.py", "-m"], "main.py"),
        (["python", "-c", "pass"], ["-c"], "-c"),
        (["python"], [""], "python"),
    ],
)
def test_a_process_is_named_after_its_program(monkeypatch, command, argv, program):
    """As ``sys.argv`` is before the first line of the program runs."""
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(sys, "argv", argv)
    assert relay._program() == program

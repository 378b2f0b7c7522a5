"""The command's end of ``poolscope run``, with a collector that is gone, full, or never was."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
from collections import Counter

import pytest
import urllib3

import poolscope
from peers import HOST, keep_alive
from poolscope import events as ev
from poolscope import relay, wire


@pytest.fixture
def collector(tmp_path):
    """Return a listening socket and its path; nobody accepts unless the test does."""
    path = str(tmp_path / "collector")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        yield listener, path


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
        def tell(self, events):
            if events:
                stuck.set()
                go_on.wait()
            super().tell(events)

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


ORIGIN = ev.Origin("api", "443", "https", "urllib3")


def lines_of(connection):
    """Return what is read until the other side hangs up."""
    with contextlib.closing(connection), connection.makefile("rb") as file:
        return [wire.read(line) for line in file]


def summed(messages):
    """Add up the rows that say how often something happened."""
    found = Counter()
    for message in messages:
        for count, event in message.rows:
            found[event] += count
    return found


def stuff(link):
    """Tell things until the socket takes no more; return how often each was told."""
    told = Counter()
    while not link._has_more():
        event = ev.Opened(ORIGIN._replace(address="x" * 900 + str(len(told))), "first")
        link.tell([event])
        told[event] += 1
    return told


def test_what_a_full_socket_does_not_take_is_added_up_and_sent_later(collector):
    listener, path = collector
    link = relay.Relay(path)
    link.hello()
    connection, _ = listener.accept()
    told = stuff(link)
    opened = ev.Opened(ORIGIN, "first")
    for _ in range(25_000):
        link.tell([opened])
    told[opened] += 25_000
    rows = list(link._backlog.rows())
    assert sum(count for count, _ in rows) >= 25_000 - 1
    assert len(rows) <= 5  # whatever their number
    got = []
    thread = threading.Thread(target=lambda: got.extend(lines_of(connection)))
    thread.start()
    while link._has_more():
        link.tell([])
    link.ended()
    thread.join()
    assert summed(got) == told
    assert got[0].hello is not None
    assert [message.bye for message in got].index(True) == len(got) - 1


def test_who_cannot_be_heard_at_its_end_leaves_a_file(collector, tmp_path):
    """It has the line whole of which the socket has half."""
    listener, path = collector
    link = relay.Relay(path)
    link.hello()
    connection, _ = listener.accept()
    told = stuff(link)
    link.ended()
    assert link._socket is None
    with contextlib.closing(connection), connection.makefile("rb") as file:
        sent = [wire.read(line) for line in file if line.endswith(b"\n")]
    [left] = tmp_path.glob("collector.*")
    rest = [wire.read(line) for line in left.read_bytes().splitlines()]
    assert summed([*sent, *rest]) == told
    assert rest[0].hello == sent[0].hello
    assert rest[-1].bye
    assert left.stat().st_mode & 0o777 == 0o600


def test_a_process_that_finds_a_full_queue_is_heard_later(tmp_path):
    path = str(tmp_path / "collector")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        links = [relay.Relay(path) for _ in range(8)]
        for link in links:
            link.hello()
        waiting = [link for link in links if link._socket is None]
        assert waiting
        opened = ev.Opened(ORIGIN, "first")
        for link in waiting:
            link.tell([opened])
        heard = []
        while links:
            heard.append(listener.accept()[0])
            for link in links:
                link.tell([])
            for link in [link for link in links if link._socket is not None]:
                links.remove(link)
                link.ended()
        heard += [listener.accept()[0] for _ in range(8 - len(heard))]
        messages = [message for connection in heard for message in lines_of(connection)]
    assert summed(messages) == {opened: len(waiting)}
    assert len({message.hello.token for message in messages if message.hello}) == 8
    assert list(tmp_path.glob("collector.*")) == []


def test_a_full_disk_leaves_an_empty_file(collector, tmp_path, monkeypatch):
    listener, path = collector
    link = relay.Relay(path)
    link.hello()
    connection, _ = listener.accept()
    stuff(link)
    monkeypatch.setattr(relay, "open", lambda *_args: io.FileIO("/dev/full", "wb"), raising=False)
    link.ended()
    connection.close()
    [left] = tmp_path.glob("collector.*")
    assert left.read_bytes() == b""


def test_a_child_says_nothing_of_what_its_parent_has_to_say(collector):
    listener, path = collector
    link = relay.Relay(path)
    link.hello()
    connection, _ = listener.accept()
    stuff(link)
    link.forked()
    assert not link._has_more()
    link.ended()
    connection.close()
    listener.settimeout(0)
    # As root it has connected, for the case that it becomes somebody else, and has said nothing.
    with contextlib.suppress(BlockingIOError):
        assert lines_of(listener.accept()[0]) == []


def test_two_ways_in_attach_once(collector):
    _, path = collector
    with contextlib.ExitStack() as stack:
        stack.callback(poolscope.uninstrument)
        for _ in range(2):
            relay.attach(path)
        heard = poolscope._process.scope.observers
        assert sum(isinstance(one, relay.Relay) for one in heard) == 1


@pytest.mark.parametrize("step", ["_spell", "_connect", "_is_ours"])
def test_a_fault_of_the_relay_costs_the_host_nothing(scope, serve, collector, monkeypatch, step):
    def broken(*_args):
        raise ZeroDivisionError

    server = serve(keep_alive)
    _, path = collector
    relay.attach(path)
    monkeypatch.setattr(relay.Relay, step, broken)
    play(server)
    monkeypatch.undo()
    scope.of(server).agrees_with(server)
    scope.faults = poolscope.snapshot()["faults"]
    assert scope.faults.keys() <= {"observer.Relay"}


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

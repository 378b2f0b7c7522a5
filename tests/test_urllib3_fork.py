"""Forks: a child starts its own history and does not count what its parent left it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest
import urllib3

import poolscope
from peers import HOST, eventually, held_answer, keep_alive
from poolscope.observers import Observer

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_child(work):
    """Return what ``work`` returns in a forked child, as JSON over a pipe."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        except BaseException as error:  # noqa: BLE001 - told over the pipe
            os.write(writer, json.dumps(repr(error)).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = json.loads(pipe.read())
    _, status = os.waitpid(pid, 0)
    assert status == 0, told
    return told


def tell(seen):
    return {
        "opened": seen.opened,
        "closed": seen.closed,
        "requests": seen.requests,
        "open": sum(seen.open.values()),
    }


NOTHING = {"opened": {}, "closed": {}, "requests": {"first": 0, "reused": 0}, "open": 0}


def test_a_child_begins_with_nothing(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        assert in_child(lambda: tell(seen)) == NOTHING
        assert seen.requests == {"first": 1, "reused": 0}


def test_a_child_does_not_count_the_closing_of_what_it_inherited(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")

    def child():
        pool.close()
        return tell(seen)

    told = in_child(child)
    assert (told["opened"], told["closed"], told["open"]) == ({}, {}, 0)
    assert seen.closed == {}
    assert seen.open == {"active": 0, "idle": 1}
    pool.close()
    assert seen.closed == {"pool_closed": 1}
    seen.agrees_with(server)


def test_a_child_counts_requests_on_what_it_inherited_as_reused(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")

    def child():
        for _ in range(2):
            pool.request("GET", "/")
        before = tell(seen)
        pool.close()
        return [before, tell(seen)]

    before, after = in_child(child)
    assert before == {**NOTHING, "requests": {"first": 0, "reused": 2}, "open": 1}
    assert after == {**NOTHING, "requests": {"first": 0, "reused": 2}}
    assert seen.requests == {"first": 1, "reused": 0}
    assert server.answered == 3
    assert server.accepted == 1
    pool.close()


def test_a_childs_own_connections_are_its_first(scope, serve, tls, authority):
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    with urllib3.PoolManager(ca_certs=authority.file) as manager:
        manager.request("GET", server.url)

    def child():
        with urllib3.PoolManager(ca_certs=authority.file) as own:
            for _ in range(3):
                own.request("GET", server.url)
        return {**tell(seen), "handshakes": seen.handshakes}

    assert in_child(child) == {
        "opened": {"first": 1},
        "closed": {"pool_closed": 1},
        "requests": {"first": 1, "reused": 2},
        "open": 0,
        "handshakes": 1,
    }
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 0}
    assert (server.accepted, server.handshakes, server.answered) == (2, 2, 4)


def test_a_parent_goes_on_as_if_nothing_had_happened(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            pool.request("GET", "/")
            in_child(lambda: None)
        assert seen.open == {"active": 0, "idle": 1}
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.closed == {"pool_closed": 1}
    seen.agrees_with(server)


class Listener(Observer):
    """Counts the answers that it is told of; unlike a scrape it asks for nothing."""

    def __init__(self):
        self.answers = 0

    def answered(self, event):
        self.answers += sum(event.latency.counts)


@pytest.fixture
def listener(scope):
    listener = Listener()
    poolscope.instrument([scope.registry, listener])
    return listener


def test_a_parent_that_only_forks_from_now_on_has_told_everything(serve, listener, monkeypatch):
    """Nobody wakes the pulse of a server's master again, which was stopped for the fork."""
    monkeypatch.setattr(poolscope._process.pulse, "_first", 3600)
    server = serve(keep_alive)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        assert listener.answers == 0
        in_child(lambda: None)
        assert listener.answers == server.answered == 1


def test_what_is_answered_after_a_fork_wakes_the_pulse(serve, listener, monkeypatch):
    monkeypatch.setattr(poolscope._process.pulse, "_first", 0.01)
    event = threading.Event()
    server = serve(held_answer(event))
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        thread = threading.Thread(target=pool.request, args=("GET", "/"))
        thread.start()
        server.wait(asked=1)
        in_child(lambda: None)
        event.set()
        thread.join()
        assert eventually(lambda: listener.answers == 1)


ALONE = """
    import os, sys, warnings
    import poolscope, urllib3
    poolscope.instrument(())
    pulse = poolscope._process.pulse
    with warnings.catch_warnings(record=True) as warned, urllib3.PoolManager() as manager:
        warnings.simplefilter("always")
        for _ in range(20):
            manager.request("GET", sys.argv[1])
            assert pulse.beating
            if not os.fork():
                os._exit(0)
            os.wait()
            assert not pulse.beating
    print([str(warning.message) for warning in warned])
"""


def test_a_fork_finds_no_thread_of_ours_before_or_after(serve):
    """Python 3.12 and later warn the host of a fork amid threads; some count them afterwards."""
    server = serve(keep_alive)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ALONE), server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_grandchild_begins_with_nothing_too(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)

    def child():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            pool.request("GET", "/")
            return [tell(seen), in_child(lambda: tell(seen))]

    mine, theirs = in_child(child)
    assert mine["opened"] == {"first": 1}
    assert theirs == NOTHING


def test_too_many_origins_share_one_address(serve):
    """The bound holds, it shows, and nothing is lost by it."""
    servers = [serve(keep_alive) for _ in range(5)]
    program = f"""
        import json, logging, sys
        import poolscope, urllib3
        from prometheus_client import CollectorRegistry
        logging.basicConfig(stream=sys.stderr)
        registry = CollectorRegistry()
        poolscope.instrument(registry, max_origins=2)
        with urllib3.PoolManager() as manager:
            for port in {[server.port for server in servers]}:
                for _ in range(2):
                    manager.request("GET", f"http://{HOST}:{{port}}/")
        found = [
            (sample.labels["server_address"], sample.labels["server_port"],
             sample.labels["poolscope_cause"], sample.value)
            for family in registry.collect() for sample in family.samples
            if sample.name == "poolscope_connections_opened_total"
        ]
        assert poolscope.snapshot()["faults"] == {{}}
        print(json.dumps(found))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert sorted(json.loads(done.stdout)) == sorted(
        [
            [HOST, str(servers[0].port), "first", 1.0],
            [HOST, str(servers[1].port), "first", 1.0],
            ["_other", "", "first", 3.0],
        ]
    )
    assert done.stderr.count("_other") == 1

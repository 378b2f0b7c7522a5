"""The calling code closes: bodies unread, pools closed, cleared, evicted or forgotten."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest
import requests
import urllib3

from peers import HOST, big_body, eventually, held_body, keep_alive


def get(pool, **kwargs):
    return pool.request("GET", "/", retries=False, **kwargs)


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


def test_a_streamed_body_keeps_the_connection_active_until_it_is_read(scope, serve, release):
    server = serve(held_body(release))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = get(pool, preload_content=False)
        assert seen.requests == {"first": 1, "reused": 0}
        assert seen.open == {"active": 1, "idle": 0}
        release.set()
        assert response.read() == b"body"
        response.release_conn()
        assert seen.open == {"active": 0, "idle": 1}
        get(pool)
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 1}
    seen.agrees_with(server)


def test_a_response_that_is_dropped_unread_costs_its_connection(scope, serve):
    server = serve(big_body)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            get(pool, preload_content=False)
            gc.collect()
        assert eventually(lambda: seen.closed == {"unread": 3})
        assert seen.opened == {"first": 1, "replaced_unread": 2}
        assert seen.requests == {"first": 3, "reused": 0}
        assert seen.served == (3, 3)
    seen.agrees_with(server)


def test_a_response_that_is_closed_unread_costs_its_connection(scope, serve, tls, authority):
    server = serve(big_body, tls=tls)
    seen = scope.of(server)
    with requests.Session() as session:
        session.verify = authority.file
        for _ in range(3):
            with session.get(server.url, stream=True) as response:
                assert response.status_code == 200
        assert seen.closed == {"unread": 3}
    assert seen.opened == {"first": 1, "replaced_unread": 2}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.handshakes == 3
    seen.agrees_with(server)


def test_a_response_that_is_closed_after_part_of_its_body_is_unread(scope, serve):
    server = serve(big_body)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = get(pool, preload_content=False)
        assert len(response.read(100)) == 100
        response.close()
        assert seen.closed == {"unread": 1}
    seen.agrees_with(server)


def test_a_response_that_is_held_unread_holds_its_connection(scope, serve):
    server = serve(big_body)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        held = [get(pool, preload_content=False) for _ in range(3)]
        assert seen.opened == {"first": 1, "growth": 2}
        assert seen.open == {"active": 3, "idle": 0}
        assert seen.closed == {}
        for response in held:
            response.close()
        assert seen.closed == {"unread": 3}
    seen.agrees_with(server)


def test_user_code_that_closes_a_connection_is_explicit(scope, serve):
    server = serve(big_body)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = get(pool, preload_content=False)
        response.connection.close()
        assert seen.closed == {"explicit": 1}
    seen.agrees_with(server)


def test_closing_a_pool_closes_its_connections(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    get(pool)
    assert seen.pools == (1, 1)
    pool.close()
    assert seen.closed == {"pool_closed": 1}
    assert seen.pools == (1, 0)
    seen.agrees_with(server)


def test_clearing_a_manager_closes_its_pools_connections(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    manager = urllib3.PoolManager()
    manager.request("GET", server.url)
    manager.clear()
    assert seen.closed == {"pool_closed": 1}
    manager.request("GET", server.url)
    assert seen.opened == {"first": 1, "new_pool": 1}
    manager.clear()
    assert seen.pools == (2, 0)
    seen.agrees_with(server)


def test_a_pool_closed_under_a_response_closes_its_connection_on_return(scope, serve, release):
    server = serve(held_body(release))
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    response = get(pool, preload_content=False)
    pool.close()
    assert seen.closed == {}
    release.set()
    assert response.read() == b"body"
    response.release_conn()
    assert seen.closed == {"pool_closed": 1}
    assert seen.served == (1, 1)
    seen.agrees_with(server)


def test_a_held_response_makes_a_closed_sessions_connection_collected(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with requests.Session() as session:
        response = session.get(server.url)
    assert seen.closed == {}
    assert seen.open == {"active": 0, "idle": 1}
    del response
    assert eventually(lambda: seen.closed)
    assert seen.closed == {"collected": 1}
    seen.agrees_with(server)


def test_a_forgotten_pool_is_collected(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    get(pool)
    del pool
    assert eventually(lambda: gc.collect() or seen.closed)
    assert seen.closed == {"collected": 1}
    assert seen.pools == (1, 0)
    seen.agrees_with(server)


def test_a_forgotten_connection_is_collected(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        connection = pool._get_conn()
        pool._make_request(connection, "GET", "/")
        assert seen.open == {"active": 1, "idle": 0}
        del connection
        assert eventually(lambda: gc.collect() or seen.closed)
        assert seen.closed == {"collected": 1}
        assert seen.open == {"active": 0, "idle": 0}
        assert seen.served == (1, 1)
    seen.agrees_with(server)


def test_the_least_recently_used_pool_is_evicted(scope, serve):
    one, two = serve(keep_alive), serve(keep_alive)
    manager = urllib3.PoolManager(num_pools=1)
    for _ in range(2):
        manager.request("GET", one.url)
        manager.request("GET", two.url)
    first, second = scope.of(one), scope.of(two)
    assert eventually(lambda: first.closed == {"evicted": 2})
    assert first.opened == {"first": 1, "replaced_evicted": 1}
    assert second.opened == {"first": 1, "replaced_evicted": 1}
    assert second.closed == {"evicted": 1}
    manager.clear()
    assert second.closed == {"evicted": 1, "pool_closed": 1}
    for seen, server in ((first, one), (second, two)):
        assert seen.requests == {"first": 2, "reused": 0}
        assert seen.pools == (2, 0)
        seen.agrees_with(server)


def test_a_pool_evicted_under_a_response_closes_when_the_response_is_gone(scope, serve, release):
    one, two = serve(held_body(release)), serve(keep_alive)
    manager = urllib3.PoolManager(num_pools=1)
    response = manager.request("GET", one.url, preload_content=False)
    manager.request("GET", two.url)
    seen = scope.of(one)
    assert seen.closed == {}
    release.set()
    assert response.read() == b"body"
    response.release_conn()
    assert seen.closed == {}
    del response
    assert eventually(lambda: gc.collect() or seen.closed)
    assert seen.closed == {"evicted": 1}
    seen.agrees_with(one)
    manager.clear()


def test_a_manager_below_its_limit_evicts_nobody(scope, serve):
    servers = [serve(keep_alive) for _ in range(3)]
    with urllib3.PoolManager(num_pools=3) as manager:
        for _ in range(2):
            for server in servers:
                manager.request("GET", server.url)
        for server in servers:
            seen = scope.of(server)
            assert seen.opened == {"first": 1}
            assert seen.requests == {"first": 1, "reused": 1}
            assert seen.closed == {}


def test_what_is_open_at_the_end_closes_by_exit(serve):
    server = serve(keep_alive)
    program = f"""
import poolscope, urllib3
from poolscope.observers import Observer
class Recorder(Observer):
    def opened(self, event): print("opened", event.cause, flush=True)
    def closed(self, event): print("closed", event.reason, event.requests, flush=True)
poolscope.instrument(Recorder())
manager = urllib3.PoolManager()
for _ in range(3):
    manager.request("GET", {server.url!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.splitlines() == ["opened first", "closed exit 3"]
    assert done.stderr == ""

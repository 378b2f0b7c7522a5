"""Attach, detach, attach again: counts go on, and what was open before is not invented."""

from __future__ import annotations

import gc

import pytest
import requests
import urllib3
from prometheus_client import CollectorRegistry

import poolscope
from conftest import Seen
from peers import HOST, eventually, fin, hang_up_after, keep_alive, ok, scripted


def test_a_connection_that_was_open_before_is_adopted(scope, serve, tls, authority):
    scope.detach()
    server = serve(keep_alive, tls=tls)
    pool = urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file)
    pool.request("GET", "/")
    scope.attach()
    seen = scope.of(server)
    pool.request("GET", "/")
    pool.request("GET", "/")
    assert seen.requests == {"first": 0, "reused": 2}
    assert seen.open == {"active": 0, "idle": 1}
    assert seen.opened == seen.closed == {}
    assert seen.handshakes == seen.created == 0
    pool.close()
    assert seen.open == {"active": 0, "idle": 0}
    assert seen.closed == {}
    assert seen.lifetimes == 0
    assert server.accepted == 1


def test_the_pool_of_an_adopted_connection_grows(scope, serve):
    scope.detach()
    server = serve(keep_alive)
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=2)
    pool.request("GET", "/")
    scope.attach()
    seen = scope.of(server)
    held = [pool.request("GET", "/", preload_content=False) for _ in range(2)]
    assert seen.opened == {"growth": 1}
    assert seen.open == {"active": 2, "idle": 0}
    for response in held:
        response.read()
        response.release_conn()
    pool.close()
    assert seen.closed == {"pool_closed": 1}
    assert seen.requests == {"first": 1, "reused": 1}


def test_an_adopted_connection_that_is_found_dropped_is_replaced(scope, serve):
    scope.detach()
    server = serve(hang_up_after(1))
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")
    server.wait(closed=1)
    scope.attach()
    seen = scope.of(server)
    pool.request("GET", "/")
    assert sum(seen.opened.values()) == 1
    assert seen.requests == {"first": 1, "reused": 0}
    assert seen.closed == {}
    pool.close()
    assert seen.closed == {"pool_closed": 1}


def test_counts_go_on_where_they_stopped(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        scope.detach()
        assert seen.open == {"active": 0, "idle": 0}
        assert seen.requests == {"first": 1, "reused": 0}
        scope.attach()
        assert seen.open == {"active": 0, "idle": 1}
        pool.request("GET", "/")
        assert seen.requests == {"first": 1, "reused": 1}
    assert seen.opened == {"first": 1}
    assert seen.closed == {"pool_closed": 1}
    assert seen.served == (1, 2)
    seen.agrees_with(server)


def test_what_happens_while_detached_is_not_counted(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    scope.detach()
    for _ in range(3):
        with requests.Session() as session:
            session.get(server.url)
    scope.attach()
    assert seen.opened == seen.closed == {}
    assert server.answered == 3


def test_a_connection_that_closed_while_detached_is_closed_at_the_next_attach(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")
    scope.detach()
    pool.close()
    scope.attach()
    assert sum(seen.closed.values()) == 1
    assert seen.open == {"active": 0, "idle": 0}
    assert seen.served == (1, 1)


def test_a_connection_that_was_collected_while_detached_is_closed_once(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    response = requests.get(server.url, timeout=5)
    scope.detach()
    del response
    gc.collect()
    scope.attach()
    assert sum(seen.closed.values()) == 1
    assert seen.open == {"active": 0, "idle": 0}


def test_a_connection_that_was_replaced_while_detached_is_told_apart(scope, serve):
    server = serve(hang_up_after(1))
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")
    server.wait(closed=1)
    scope.detach()
    pool.request("GET", "/")
    server.wait(closed=2)
    scope.attach()
    assert seen.opened == {"first": 1}
    assert sum(seen.closed.values()) == 1
    assert seen.open == {"active": 0, "idle": 0}
    pool.close()


def test_a_connection_that_was_opened_while_detached_is_adopted(scope, serve):
    server = serve(scripted(ok, fin, ok))
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")
    scope.detach()
    pool.request("GET", "/", retries=1)
    scope.attach()
    pool.request("GET", "/")
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 1}
    assert sum(seen.closed.values()) == 1
    scope.adopted = 1
    assert seen.open == {"active": 0, "idle": 1}
    pool.close()
    assert seen.open == {"active": 0, "idle": 0}
    assert sum(seen.closed.values()) == 1


def test_a_response_in_flight_survives_detach_and_attach(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    response = pool.request("GET", "/", preload_content=False)
    scope.detach()
    scope.attach()
    assert seen.open == {"active": 1, "idle": 0}
    response.read()
    response.release_conn()
    assert seen.open == {"active": 0, "idle": 1}
    pool.close()
    assert seen.closed == {"pool_closed": 1}
    seen.agrees_with(server)


def test_a_response_that_is_given_back_while_detached_is_idle_afterwards(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    response = pool.request("GET", "/", preload_content=False)
    scope.detach()
    response.read()
    response.release_conn()
    scope.attach()
    pool.request("GET", "/")
    assert seen.open == {"active": 0, "idle": 1}
    assert seen.requests == {"first": 1, "reused": 1}
    pool.close()
    seen.agrees_with(server)


def test_instrumenting_twice_counts_once(scope, serve):
    scope.attach()
    scope.attach()
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            pool.request("GET", "/")
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.opened == {"first": 1}
    assert seen.closed == {"pool_closed": 1}
    seen.agrees_with(server)


def test_uninstrumenting_twice_is_as_good_as_once(scope):
    scope.detach()
    scope.detach()
    scope.attach()


def test_an_observer_that_comes_late_hears_of_what_follows(scope, serve):
    server = serve(keep_alive)
    scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        late = CollectorRegistry()
        poolscope.instrument(late)
        seen = Seen(late, HOST, server.port, "http")
        pool.request("GET", "/")
        assert seen.requests == {"first": 0, "reused": 1}
        assert seen.opened == {}
        assert scope.seen[0].requests == {"first": 1, "reused": 1}


@pytest.mark.parametrize("rounds", [3])
def test_attach_and_detach_under_traffic_leaves_levels_right(scope, serve, rounds):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    for _ in range(rounds):
        pool.request("GET", "/")
        scope.detach()
        pool.request("GET", "/")
        scope.attach()
    assert seen.open == {"active": 0, "idle": 1}
    assert seen.requests == {"first": 1, "reused": rounds - 1}
    pool.close()
    assert eventually(lambda: seen.open == {"active": 0, "idle": 0})
    assert seen.closed == {"pool_closed": 1}

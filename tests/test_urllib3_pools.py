"""Pools that are too small: those that make one wait, and those that throw away."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from urllib3.exceptions import EmptyPoolError

from peers import HOST, big_body, eventually, held_answer, keep_alive


def drain(responses):
    """Read the bodies and give the connections back, in this order."""
    for response in responses:
        response.read()
        response.release_conn()


def test_every_checkout_from_a_blocking_pool_is_a_wait(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=2, block=True) as pool:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: pool.request("GET", "/").status, range(40)))
        assert seen.waits == 40
        assert seen.wait_timeouts == 0
        assert seen.pending == 0
        assert seen.max == 2
        assert sum(seen.opened.values()) <= 2
    assert seen.max == 0
    assert sum(seen.requests.values()) == 40
    seen.agrees_with(server)


def test_a_checkout_that_times_out_is_a_wait_and_a_timeout(scope, serve):
    release = threading.Event()
    server = serve(held_answer(release))
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1, block=True)
    with pool, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(pool.request, "GET", "/")
        server.wait(asked=1)
        for _ in range(2):
            with pytest.raises(EmptyPoolError):
                pool.request("GET", "/", pool_timeout=0.01, retries=False)
        assert seen.waits == 3
        assert seen.wait_timeouts == 2
        assert seen.pending == 0
        release.set()
        assert answer.result().status == 200
    assert seen.requests == {"first": 1, "reused": 0}
    assert seen.opened == {"first": 1}
    assert seen.failed == {}
    seen.agrees_with(server)


def test_who_waits_now_is_pending(scope, serve):
    release = threading.Event()
    server = serve(held_answer(release))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1, block=True) as pool:
        with ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(pool.request, "GET", "/") for _ in range(4)]
            server.wait(asked=1)  # three may wait before the fourth has connected
            assert eventually(lambda: seen.pending == 3)
            server.wait(asked=1)
            assert seen.open == {"active": 1, "idle": 0}
            release.set()
            assert [answer.result().status for answer in answers] == [200] * 4
        assert seen.pending == 0
        assert seen.waits == 4
        assert seen.open == {"active": 0, "idle": 1}
    assert seen.requests == {"first": 1, "reused": 3}
    seen.agrees_with(server)


def test_a_pool_that_does_not_block_has_no_waits(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
    for name in ("wait_time_seconds_count", "timeouts_total"):
        assert not list(seen.samples(f"poolscope_connection_{name}"))


def test_a_full_pool_throws_connections_away(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1) as pool:
        for _ in range(3):
            drain([pool.request("GET", "/", preload_content=False) for _ in range(2)])
        assert seen.opened == {"first": 1, "growth": 1, "replaced_pool_full": 2}
        assert seen.closed == {"pool_full": 3}
        assert seen.open == {"active": 0, "idle": 1}
    # The newcomer is the one that goes: it serves one request each.
    assert seen.requests == {"first": 4, "reused": 2}
    assert seen.served == (4, 6)
    assert sorted(server.per_connection) == [1, 1, 1, 3]
    seen.agrees_with(server)


def test_a_pool_with_room_throws_nothing_away(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=2) as pool:
        for _ in range(3):
            drain([pool.request("GET", "/", preload_content=False) for _ in range(2)])
        assert seen.opened == {"first": 1, "growth": 1}
        assert seen.closed == {}
        assert seen.open == {"active": 0, "idle": 2}
    assert seen.requests == {"first": 2, "reused": 4}
    seen.agrees_with(server)


def test_two_pools_of_one_origin_add_up(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pools = [urllib3.HTTPConnectionPool(HOST, server.port, maxsize=3) for _ in range(2)]
    for pool in pools:
        for _ in range(2):
            pool.request("GET", "/")
    assert seen.pools == (2, 2)
    assert seen.max == 6
    assert seen.open == {"active": 0, "idle": 2}
    assert seen.opened == {"first": 1, "new_pool": 1}
    assert seen.requests == {"first": 2, "reused": 2}
    for pool in pools:
        pool.close()
    assert seen.pools == (2, 0)
    assert seen.max == 0
    seen.agrees_with(server)


def test_a_blocking_pool_whose_responses_are_lost_still_counts_them(scope, serve):
    server = serve(big_body)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1, block=True) as pool:
        for _ in range(3):
            response = pool.request("GET", "/", preload_content=False)
            response.close()
            response.release_conn()
        assert seen.closed == {"unread": 3}
        assert seen.waits == 3
    assert seen.opened == {"first": 1, "replaced_unread": 2}
    seen.agrees_with(server)


def test_busy_time_is_the_time_checked_out(scope, serve):
    release = threading.Event()
    server = serve(held_answer(release))
    seen = scope.of(server)
    name = "poolscope_connection_busy_time_seconds_total"
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(pool.request, "GET", "/")
            server.wait(asked=1)
            assert eventually(lambda: seen.total(name) > 0)
            before = seen.total(name)
            assert eventually(lambda: seen.total(name) > before)
            release.set()
            answer.result()
        at_rest = seen.total(name)
        assert seen.total(name) == at_rest >= before
        latency = sum(value for _, value in seen.samples("poolscope_request_duration_seconds_sum"))
        assert latency <= at_rest

"""Why a connection was opened: section 5 of the contract, edge by edge."""

from __future__ import annotations

import gc

import pytest
import requests
import urllib3

from peers import HOST, big_body, eventually, fin, hang_up_after, keep_alive, ok, scripted


def read(response):
    response.read()
    response.release_conn()


def test_growth_is_for_those_that_come_while_all_others_are_in_use(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=4) as pool:
        held = [pool.request("GET", "/", preload_content=False) for _ in range(4)]
        assert seen.opened == {"first": 1, "growth": 3}
        for response in held:
            read(response)
        for response in [pool.request("GET", "/", preload_content=False) for _ in range(4)]:
            read(response)
        assert seen.opened == {"first": 1, "growth": 3}
    seen.agrees_with(server)


def test_a_second_pool_is_a_new_pool_once_and_grows_thereafter(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pools = [urllib3.HTTPConnectionPool(HOST, server.port, maxsize=2) for _ in range(2)]
    for pool in pools:
        for response in [pool.request("GET", "/", preload_content=False) for _ in range(2)]:
            read(response)
    assert seen.opened == {"first": 1, "growth": 2, "new_pool": 1}
    for pool in pools:
        pool.close()


def test_the_first_connection_of_a_pool_is_the_origins_first_even_if_it_failed_before(scope, serve):
    server = serve(scripted(fin, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        assert pool.request("GET", "/", retries=1).status == 200
    assert seen.opened == {"first": 1, "replaced_reset": 1}


def test_the_oldest_closed_connection_is_replaced_first(scope, serve):
    def bye(peer):
        peer.answer(b"bye", "Connection: close")
        fin(peer)

    server = serve(scripted(ok, bye, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=2) as pool:
        one = pool.request("GET", "/", preload_content=False)
        two = pool.request("GET", "/", preload_content=False)
        one.connection.close()  # explicit comes first
        read(two)  # then server_close
        assert eventually(lambda: sum(seen.closed.values()) == 2)
        assert seen.closed == {"explicit": 1, "server_close": 1}
        three = pool.request("GET", "/", preload_content=False)
        assert seen.opened == {"first": 1, "growth": 1, "replaced_explicit": 1}
        four = pool.request("GET", "/", preload_content=False)
        assert seen.opened == {
            "first": 1,
            "growth": 1,
            "replaced_explicit": 1,
            "replaced_server_close": 1,
        }
        read(three)
        read(four)
        del one, two


def test_what_was_replaced_is_not_replaced_again(scope, serve):
    server = serve(big_body)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=3) as pool:
        pool.request("GET", "/", preload_content=False).close()
        held = [pool.request("GET", "/", preload_content=False) for _ in range(2)]
        assert seen.opened == {"first": 1, "replaced_unread": 1, "growth": 1}
        for response in held:
            response.close()
    seen.agrees_with(server)


def test_a_connection_collected_from_a_living_pool_is_replaced(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        connection = pool._get_conn()
        pool._make_request(connection, "GET", "/")
        del connection
        assert eventually(lambda: gc.collect() or seen.closed == {"collected": 1})
        pool.request("GET", "/")
        assert seen.opened == {"first": 1, "replaced_collected": 1}


@pytest.mark.parametrize("number", [1, 2])
def test_an_evicted_pool_is_replaced_once(scope, serve, number):
    one, two = serve(keep_alive), serve(keep_alive)
    seen = scope.of(one)
    manager = urllib3.PoolManager(num_pools=1)
    manager.request("GET", one.url)
    manager.request("GET", two.url)
    for _ in range(number):
        with requests.Session() as session:
            session.get(one.url)
    expected = {"first": 1, "replaced_evicted": 1, "new_pool": number - 1}
    assert seen.opened == {cause: count for cause, count in expected.items() if count}
    manager.clear()


def test_an_evicted_pool_without_a_connection_is_not_replaced(scope, serve):
    one, two = serve(keep_alive), serve(keep_alive)
    seen = scope.of(one)
    manager = urllib3.PoolManager(num_pools=1)
    manager.connection_from_url(one.url)
    manager.request("GET", two.url)
    manager.request("GET", one.url)
    assert seen.opened == {"first": 1}
    manager.clear()


def test_a_name_has_its_own_history(scope, serve):
    server = serve(keep_alive)
    with urllib3.PoolManager() as manager:
        manager.request("GET", f"http://{HOST}:{server.port}/")
        manager.request("GET", f"http://localhost:{server.port}/")
    assert scope.of(server).opened == {"first": 1}
    assert scope.of(server, address="localhost").opened == {"first": 1}


def test_a_drop_found_by_nobody_until_the_pool_is_closed_has_no_replacement(scope, serve):
    server = serve(hang_up_after(1))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        server.wait(closed=1)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
    assert seen.opened == {"first": 1, "new_pool": 1}
    assert seen.closed == {"pool_closed": 2}

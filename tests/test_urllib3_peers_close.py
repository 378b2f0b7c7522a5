"""The other side hangs up: between requests, under one, in a body, or as announced."""

from __future__ import annotations

import threading

import pytest
import urllib3
from urllib3.exceptions import ProtocolError

from peers import HOST, eventually, fin, hang_up_after, held_body, keep_alive, ok, rst, scripted


def get(pool, **kwargs):
    return pool.request("GET", "/", retries=False, **kwargs)


def test_a_server_that_closes_after_n_requests_makes_stale_connections(scope, serve):
    server = serve(hang_up_after(3))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for number in range(7):
            get(pool)
            server.wait(closed=(number + 1) // 3)
    assert seen.opened == {"first": 1, "replaced_stale": 2}
    assert seen.closed == {"stale": 2, "pool_closed": 1}
    assert seen.requests == {"first": 3, "reused": 4}
    assert seen.served == (3, 7)
    assert seen.idle_times == {"stale": 2}
    assert seen.failed == {}
    assert server.per_connection == [3, 3, 1]
    seen.agrees_with(server)


def test_an_idle_time_out_is_seen_over_tls_too(scope, serve, tls, authority):
    server = serve(hang_up_after(1), tls=tls)
    seen = scope.of(server)
    with urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file) as pool:
        get(pool)
        server.wait(closed=1)
        get(pool)
    assert seen.opened == {"first": 1, "replaced_stale": 1}
    assert seen.requests == {"first": 2, "reused": 0}
    assert seen.idle_times == {"stale": 1}
    assert seen.handshakes == 2
    seen.agrees_with(server)


def test_unasked_bytes_make_a_connection_stale(scope, serve):
    received = threading.Event()

    def chatty(peer):
        peer.answer()
        peer.wait(received)
        peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        peer.server.bump("asked")

    server = serve(scripted(chatty))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        get(pool)
        received.set()
        server.wait(asked=1)
        get(pool)
        assert seen.closed == {"stale": 1}
        assert seen.opened == {"first": 1, "replaced_stale": 1}


def says_close(peer):
    peer.answer(b"bye", "Connection: close")
    fin(peer)


def test_connection_close_on_the_first_response_costs_a_connection_each(scope, serve):
    server = serve(scripted(says_close))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            get(pool)
        assert seen.closed == {"server_close": 3}
    assert seen.opened == {"first": 1, "replaced_server_close": 2}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.served == (3, 3)
    assert seen.idle_times == {}
    seen.agrees_with(server)


def test_connection_close_on_a_later_response_ends_that_connection(scope, serve, tls, authority):
    server = serve(scripted(ok, ok, says_close, ok), tls=tls)
    seen = scope.of(server)
    with urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file) as pool:
        for _ in range(4):
            get(pool)
        assert seen.closed == {"server_close": 1}
        assert seen.served == (1, 3)
        assert seen.opened == {"first": 1, "replaced_server_close": 1}
        assert seen.requests == {"first": 2, "reused": 2}
        assert seen.handshakes == 2
    seen.agrees_with(server)


@pytest.mark.parametrize("length", ["Content-Length: 2\r\n", ""])
def test_http_1_0_closes_every_connection(scope, serve, length):
    def old(peer):
        peer.count()
        peer.send(f"HTTP/1.0 200 OK\r\n{length}\r\nok".encode())
        fin(peer)

    server = serve(scripted(old))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            assert get(pool).data == b"ok"
    assert seen.opened == {"first": 1, "replaced_server_close": 2}
    assert seen.closed == {"server_close": 3}
    assert seen.requests == {"first": 3, "reused": 0}
    seen.agrees_with(server)


def test_a_closing_connection_lives_until_its_body_is_read(scope, serve):
    release = threading.Event()

    def slow_bye(peer):
        peer.answer(b"", "Connection: close", length=4)
        peer.wait(release)
        peer.send(b"body")
        fin(peer)

    server = serve(scripted(slow_bye))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = get(pool, preload_content=False)
        assert seen.closed == {}
        assert seen.open == {"active": 1, "idle": 0}
        release.set()
        assert response.read() == b"body"
        assert eventually(lambda: seen.closed)
        assert seen.closed == {"server_close": 1}
        assert seen.open == {"active": 0, "idle": 0}
    seen.agrees_with(server)


def test_the_server_closed_first_even_if_the_body_is_never_read(scope, serve):
    def big_bye(peer):
        peer.answer(b"x" * 3_000_000, "Connection: close")

    server = serve(scripted(big_bye))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        get(pool, preload_content=False).close()
        get(pool, preload_content=False)
        assert eventually(lambda: seen.closed == {"server_close": 2})
        assert seen.opened == {"first": 1, "replaced_server_close": 1}
    seen.agrees_with(server)


@pytest.mark.parametrize("drop", [fin, rst])
def test_a_drop_under_the_first_request_is_a_reset(scope, serve, drop):
    server = serve(scripted(drop, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with pytest.raises(ProtocolError):
            get(pool)
        assert seen.failed == {("first", "reset"): 1}
        assert seen.closed == {"reset": 1}
        assert seen.served == (1, 0)
        assert seen.idle_times == {}
        get(pool)
    assert seen.opened == {"first": 1, "replaced_reset": 1}
    assert seen.requests == {"first": 1, "reused": 0}
    seen.agrees_with(server)


@pytest.mark.parametrize("drop", [fin, rst])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_drop_under_a_later_request_is_a_reset_of_an_idle_connection(
    scope, serve, tls, authority, drop, secure
):
    server = serve(scripted(ok, ok, drop, ok), tls=tls if secure else None)
    seen = scope.of(server)
    with urllib3.PoolManager(ca_certs=authority.file) as manager:
        manager.request("GET", server.url)
        manager.request("GET", server.url)
        with pytest.raises(ProtocolError):
            manager.request("GET", server.url, retries=False)
        assert seen.failed == {("reused", "reset"): 1}
        assert seen.closed == {"reset": 1}
        assert seen.served == (1, 2)
        assert seen.idle_times == {"reset": 1}
        manager.request("GET", server.url)
    assert seen.opened == {"first": 1, "replaced_reset": 1}
    assert seen.requests == {"first": 2, "reused": 1}
    seen.agrees_with(server)


def test_a_retry_hides_a_drop_from_the_caller_and_not_from_us(scope, serve):
    server = serve(scripted(ok, fin, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        assert pool.request("GET", "/", retries=2).status == 200
    assert seen.failed == {("reused", "reset"): 1}
    assert seen.closed == {"reset": 1, "pool_closed": 1}
    assert seen.requests == {"first": 2, "reused": 0}
    seen.agrees_with(server)


def half_a_body(peer):
    peer.answer(b"half", length=10)
    fin(peer)


def half_a_chunk(peer):
    peer.answer(b"a\r\nhalf", "Transfer-Encoding: chunked", length=-1)
    fin(peer)


def half_the_chunks(peer):
    peer.answer(b"4\r\nhalf\r\n", "Transfer-Encoding: chunked", length=-1)
    fin(peer)


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("truncated", [half_a_body, half_a_chunk, half_the_chunks])
def test_a_truncated_body_is_a_reset_of_an_answered_request(scope, serve, truncated, preload):
    server = serve(scripted(ok, truncated, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        get(pool)
        with pytest.raises(ProtocolError):
            get(pool, preload_content=preload, enforce_content_length=True).read()
        assert eventually(lambda: seen.closed)
        assert seen.closed == {"reset": 1}
        assert seen.served == (1, 2)
        assert seen.failed == {}
        get(pool)
    assert seen.opened == {"first": 1, "replaced_reset": 1}
    assert seen.requests == {"first": 2, "reused": 1}
    seen.agrees_with(server)


def test_a_body_that_breaks_off_in_a_stream_of_chunks_is_a_reset(scope, serve):
    server = serve(scripted(half_the_chunks, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with pytest.raises(ProtocolError):
            list(get(pool, preload_content=False).stream(2))
        assert eventually(lambda: seen.closed)
        assert seen.closed == {"reset": 1}
    seen.agrees_with(server)


def test_rubbish_instead_of_a_response_is_a_protocol_error(scope, serve):
    def rubbish(peer):
        peer.send(b"220 smtp.example ESMTP\r\n")
        fin(peer)

    server = serve(scripted(rubbish))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with pytest.raises(ProtocolError):
            get(pool)
        assert seen.failed == {("first", "protocol"): 1}
        assert seen.closed == {"error": 1}
        assert seen.opened == {"first": 1}
    seen.agrees_with(server)


def test_a_peer_that_is_found_dropped_and_never_replaced_is_still_closed_once(scope, serve):
    server = serve(hang_up_after(1))
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    get(pool)
    server.wait(closed=1)
    pool.close()
    assert seen.closed == {"pool_closed": 1}
    assert seen.idle_times == {}


def test_the_body_may_come_late_without_moving_the_connection(scope, serve):
    release = threading.Event()
    release.set()
    server = serve(held_body(release))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            assert get(pool).data == b"body"
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    seen.agrees_with(server)


def test_hosts_are_told_apart_by_port(scope, serve):
    one, two = serve(keep_alive), serve(keep_alive)
    with urllib3.PoolManager() as manager:
        manager.request("GET", one.url)
        manager.request("GET", two.url)
        manager.request("GET", two.url)
    assert scope.of(one).requests == {"first": 1, "reused": 0}
    assert scope.of(two).requests == {"first": 1, "reused": 1}

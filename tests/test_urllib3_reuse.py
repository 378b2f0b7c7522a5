"""Keep-alive, kept and lost, against what the server counted."""

from __future__ import annotations

import http.client
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import urllib3
from urllib3.util.retry import Retry

from peers import HOST, eventually, keep_alive, scripted


def test_one_connection_serves_all_requests_of_a_session(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with requests.Session() as session:
        for _ in range(5):
            session.get(server.url)
        assert seen.open == {"active": 0, "idle": 1}
        assert seen.opened == {"first": 1}
        assert seen.closed == {}
    assert seen.requests == {"first": 1, "reused": 4}
    assert seen.closed == {"pool_closed": 1}
    assert seen.served == (1, 5)
    assert seen.handshakes == 0
    assert seen.created == 1
    seen.agrees_with(server)


def test_one_handshake_serves_all_requests_of_a_session(scope, serve, tls, authority):
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    with requests.Session() as session:
        session.verify = authority.file
        for _ in range(5):
            session.get(server.url)
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 4}
    assert seen.handshakes == seen.created == 1
    assert seen.closed == {"pool_closed": 1}
    assert seen.served == (1, 5)
    seen.agrees_with(server)


def test_the_handshake_is_told_with_its_protocol_version(scope, serve, tls, authority):
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    with urllib3.PoolManager(ca_certs=authority.file) as manager:
        manager.request("GET", server.url)
        version = server.peers[0].sock.version().removeprefix("TLSv")
    labels = [labels for labels, _ in seen.samples("poolscope_tls_handshake_duration_seconds_sum")]
    assert [(each["tls_protocol_version"], each["tls_resumed"]) for each in labels] == [
        (version, "false")
    ]


def test_a_session_per_call_opens_a_connection_per_call(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    for _ in range(4):
        with requests.Session() as session:
            session.get(server.url)
    assert seen.opened == {"first": 1, "new_pool": 3}
    assert seen.requests == {"first": 4, "reused": 0}
    assert seen.closed == {"pool_closed": 4}
    assert seen.pools == (4, 0)
    seen.agrees_with(server)


def test_a_bare_get_keeps_its_connection_open_as_long_as_the_response_lives(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    response = requests.get(server.url, timeout=5)
    assert seen.open == {"active": 0, "idle": 1}
    assert seen.closed == {}
    del response
    assert eventually(lambda: sum(seen.closed.values()))
    assert seen.closed == {"collected": 1}
    assert seen.open == {"active": 0, "idle": 0}
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 0}
    seen.agrees_with(server)


def test_bare_gets_are_first_requests_all(scope, serve, tls, authority):
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    for _ in range(3):
        requests.get(server.url, timeout=5, verify=authority.file)
    assert eventually(lambda: seen.open == {"active": 0, "idle": 0})
    assert seen.opened == {"first": 1, "new_pool": 2}
    assert seen.closed == {"collected": 3}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.handshakes == 3
    assert seen.served == (3, 3)
    seen.agrees_with(server)


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("POST", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ],
)
def test_every_kind_of_body_leaves_the_connection_to_the_next(
    scope, serve, method, response, preload
):
    def step(peer):
        peer.count()
        peer.send(response.encode())

    server = serve(scripted(step))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            answer = pool.request(method, "/", preload_content=preload)
            answer.read()
            answer.release_conn()
        assert seen.open == {"active": 0, "idle": 1}
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.served == (1, 3)
    seen.agrees_with(server)


def test_a_redirect_to_the_same_origin_is_a_second_request(scope, serve):
    def redirect(peer):
        peer.answer(b"", "Location: /there", status="302 Found")

    server = serve(scripted(redirect, lambda peer: peer.answer()))
    seen = scope.of(server)
    with urllib3.PoolManager() as manager:
        manager.request("GET", server.url)
        manager.clear()
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 1}
    seen.agrees_with(server)


def test_a_redirect_to_another_origin_counts_at_each_of_them(scope, serve):
    there = serve(keep_alive)

    def redirect(peer):
        peer.answer(b"", f"Location: {there.url}/", status="302 Found")

    here = serve(scripted(redirect))
    with urllib3.PoolManager() as manager:
        manager.request("GET", here.url)
        for server in (here, there):
            seen = scope.of(server)
            assert seen.opened == {"first": 1}
            assert seen.requests == {"first": 1, "reused": 0}
            assert seen.open == {"active": 0, "idle": 1}
            seen.agrees_with(server)


def test_every_retry_is_a_request(scope, serve):
    def busy(peer):
        peer.answer(b"busy", status="503 Service Unavailable")

    server = serve(scripted(busy, busy, lambda peer: peer.answer()))
    seen = scope.of(server)
    with urllib3.PoolManager(retries=Retry(3, status_forcelist=[503])) as manager:
        assert manager.request("GET", server.url).status == 200
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.failed == {}
    seen.agrees_with(server)


def test_eight_threads_count_as_exactly_as_one(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.PoolManager(maxsize=8) as manager, ThreadPoolExecutor(8) as threads:
        for status in threads.map(lambda _: manager.request("GET", server.url).status, range(400)):
            assert status == 200
        seen.agrees_with(server)
        assert sum(seen.requests.values()) == 400
        assert set(seen.opened) <= {"first", "growth"}
        assert seen.requests["first"] == seen.created == sum(seen.opened.values())
        assert seen.open == {"active": 0, "idle": sum(seen.opened.values())}
        manager.clear()
    assert seen.closed == {"pool_closed": server.accepted}
    assert seen.served == (server.accepted, 400)


def test_a_connection_without_a_pool_is_not_counted(scope, serve):
    server = serve(keep_alive)
    connection = urllib3.connection.HTTPConnection(HOST, server.port)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()
    plain = http.client.HTTPConnection(HOST, server.port)
    plain.request("GET", "/")
    plain.getresponse().read()
    plain.close()
    assert server.answered == 2
    assert scope.of(server).nothing


def test_a_request_inside_a_request_is_told_apart(scope, serve):
    """urllib3 1.26 logs between the answer and its headers' check; a handler may ship logs."""
    outer, inner = serve(keep_alive), serve(keep_alive)
    pool = urllib3.PoolManager()

    class Shipper(logging.Handler):
        def emit(self, record):
            log.removeHandler(self)
            pool.request("POST", inner.url)
            log.addHandler(self)

    log = logging.getLogger("urllib3.connectionpool")
    log.addHandler(shipper := Shipper())
    log.setLevel(logging.DEBUG)
    try:
        for _ in range(3):
            pool.request("GET", outer.url)
    finally:
        log.setLevel(logging.NOTSET)
        log.removeHandler(shipper)
    pool.clear()
    scope.of(outer).agrees_with(outer)
    scope.of(inner).agrees_with(inner)

"""Requests that get no answer, and connections that do not come about."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
)

from peers import HOST, PATIENCE, free_port, held_body, keep_alive, listen, ok, scripted, silence

SHORT = 0.1
IS_OLD = urllib3.__version__.startswith("1.")


def get(pool, **kwargs):
    return pool.request("GET", "/", retries=False, **kwargs)


def test_a_refused_connection_is_never_opened(scope):
    port = free_port()
    seen = scope.of(port)
    with urllib3.HTTPConnectionPool(HOST, port) as pool:
        for _ in range(2):
            with pytest.raises(NewConnectionError):
                get(pool)
        assert seen.not_created == {"refused": 2}
        assert seen.failed == {("first", "connect"): 2}
        assert seen.opened == seen.closed == {}
        assert seen.created == 0
        assert seen.requests == {"first": 0, "reused": 0}
        assert seen.open == {"active": 0, "idle": 0}


def test_every_retry_of_a_refused_connection_fails_anew(scope):
    port = free_port()
    seen = scope.of(port)
    with urllib3.HTTPConnectionPool(HOST, port) as pool, pytest.raises(MaxRetryError):
        pool.request("GET", "/", retries=2)
    assert seen.not_created == {"refused": 3}
    assert seen.failed == {("first", "connect"): 3}


def test_a_name_that_is_not_found_is_a_dns_failure(scope, monkeypatch):
    def getaddrinfo(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = free_port()
    seen = scope.of(port, address="nowhere.example")
    with (
        urllib3.HTTPConnectionPool("nowhere.example", port) as pool,
        pytest.raises(NewConnectionError),
    ):
        get(pool)
    assert seen.not_created == {"dns": 1}
    assert seen.failed == {("first", "connect"): 1}
    assert seen.opened == {}


@pytest.fixture
def deaf_port():
    """Fill the queue of a port's connections, so that one more is never answered."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(backlog=0))
        port = listener.getsockname()[1]
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0)
            sock.connect_ex((HOST, port))
        yield port


def test_a_connect_that_times_out_is_never_opened(scope, deaf_port):
    seen = scope.of(deaf_port)
    with (
        urllib3.HTTPConnectionPool(HOST, deaf_port, timeout=SHORT) as pool,
        pytest.raises(ConnectTimeoutError),
    ):
        get(pool)
    assert seen.not_created == {"timeout": 1}
    assert seen.failed == {("first", "connect"): 1}
    assert seen.opened == seen.closed == {}


def assert_tls_failed(seen, server):
    server.wait(closed=1)
    assert seen.opened == {"first": 1}
    assert seen.closed == {"error": 1}
    assert seen.served == (1, 0)
    assert seen.not_created == {"tls": 1}
    assert seen.failed_handshakes == {"tls": 1}
    assert seen.created == 0
    assert seen.failed == {("first", "connect"): 1}
    assert seen.requests == {"first": 0, "reused": 0}
    assert (server.accepted, server.handshakes) == (1, seen.handshakes) == (1, 0)


def test_a_certificate_that_is_not_trusted_is_a_tls_failure(scope, serve, tls):
    server = serve(keep_alive, tls=tls)
    with urllib3.HTTPSConnectionPool(HOST, server.port) as pool:
        with pytest.raises(HTTPError):
            get(pool)
        assert_tls_failed(scope.of(server), server)


@pytest.mark.skipif(IS_OLD, reason="1.26 checks names itself, after the handshake")
def test_a_certificate_for_another_name_is_a_tls_failure(scope, serve, authority):
    server = serve(keep_alive, tls=authority.server("other.example"))
    with urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file) as pool:
        with pytest.raises(HTTPError):
            get(pool)
        assert_tls_failed(scope.of(server), server)


@pytest.mark.parametrize(
    "options",
    [
        {"assert_hostname": "other.example"},
        {"assert_fingerprint": "00" * 32, "cert_reqs": "CERT_NONE"},
    ],
)
def test_what_urllib3_itself_checks_fails_after_the_handshake(
    scope, serve, tls, authority, options
):
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    with urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file, **options) as pool:
        with pytest.raises(HTTPError):
            get(pool)
        assert seen.opened == {"first": 1}
        assert seen.handshakes == 1
        assert seen.failed_handshakes == {}
        assert seen.not_created == {"tls": 1}
        assert seen.failed == {("first", "connect"): 1}
        assert seen.closed == {"error": 1}
        assert seen.created == 0
    seen.agrees_with(server)


def test_a_server_without_tls_is_a_tls_failure(scope, serve):
    def plain(peer):
        peer.exactly(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = serve(plain)
    seen = scope.of(server, scheme="https")
    with urllib3.HTTPSConnectionPool(HOST, server.port) as pool:
        with pytest.raises(HTTPError):
            get(pool)
        assert seen.opened == {"first": 1}
        assert seen.closed == {"error": 1}
        assert seen.not_created == {"tls": 1}
        assert seen.failed == {("first", "connect"): 1}


def test_a_handshake_that_times_out_is_a_failure_to_connect(scope, serve):
    server = serve(silence)
    seen = scope.of(server, scheme="https")
    with urllib3.HTTPSConnectionPool(HOST, server.port, timeout=SHORT) as pool:
        with pytest.raises(HTTPError):
            get(pool)
        assert seen.opened == {"first": 1}
        assert seen.closed == {"timeout": 1}
        assert seen.not_created == {"timeout": 1}
        assert seen.failed_handshakes == {"timeout": 1}
        assert seen.failed == {("first", "connect"): 1}
    assert (server.accepted, server.answered) == (1, 0)


def test_a_read_time_out_on_the_first_request_closes_the_connection(scope, serve):
    server = serve(scripted(silence, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with pytest.raises(ReadTimeoutError):
            get(pool, timeout=SHORT)
        assert seen.failed == {("first", "timeout"): 1}
        assert seen.closed == {"timeout": 1}
        assert seen.served == (1, 0)
        assert seen.idle_times == {}
        get(pool, timeout=PATIENCE)
        assert seen.opened == {"first": 1, "replaced_timeout": 1}
        assert seen.requests == {"first": 1, "reused": 0}
        assert seen.open == {"active": 0, "idle": 1}
    seen.agrees_with(server)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_read_time_out_on_a_later_request_tells_how_long_it_was_idle(
    scope, serve, tls, authority, secure
):
    server = serve(scripted(ok, ok, silence, ok), tls=tls if secure else None)
    seen = scope.of(server)
    with urllib3.PoolManager(ca_certs=authority.file) as manager:
        manager.request("GET", server.url)
        manager.request("GET", server.url)
        with pytest.raises(ReadTimeoutError):
            manager.request("GET", server.url, timeout=SHORT, retries=False)
        assert seen.failed == {("reused", "timeout"): 1}
        assert seen.closed == {"timeout": 1}
        assert seen.served == (1, 2)
        assert seen.idle_times == {"timeout": 1}
        manager.request("GET", server.url)
    assert seen.opened == {"first": 1, "replaced_timeout": 1}
    assert seen.requests == {"first": 2, "reused": 1}
    seen.agrees_with(server)


@pytest.mark.parametrize("preload", [True, False])
def test_a_body_that_times_out_belongs_to_an_answered_request(scope, serve, preload):
    release = threading.Event()
    server = serve(held_body(release))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with pytest.raises(ReadTimeoutError):
            get(pool, timeout=SHORT, preload_content=preload).read()
        assert seen.closed == {"timeout": 1}
        assert seen.requests == {"first": 1, "reused": 0}
        assert seen.failed == {}
        assert seen.idle_times == {}
        assert seen.served == (1, 1)
        release.set()
        get(pool)
    assert seen.opened == {"first": 1, "replaced_timeout": 1}
    seen.agrees_with(server)


def test_a_request_that_is_interrupted_is_counted_as_failed(scope, serve):
    class Impatience(BaseException):
        pass

    def body():
        yield b"part"
        raise Impatience

    server = serve(scripted(ok, ok))
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        get(pool)
        with pytest.raises(Impatience):
            pool.request("POST", "/", body=body(), retries=False)
        assert seen.failed == {("reused", "other"): 1}
        assert seen.closed == {"error": 1}
        assert seen.requests == {"first": 1, "reused": 0}


def test_a_pool_that_is_closed_already_fails_nobody(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    get(pool)
    pool.close()
    with pytest.raises(urllib3.exceptions.ClosedPoolError):
        get(pool)
    assert seen.failed == {}
    assert seen.requests == {"first": 1, "reused": 0}
    seen.agrees_with(server)

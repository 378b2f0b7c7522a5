"""Unix sockets, as docker and requests-unixsocket reach them: past most of our hooks."""

from __future__ import annotations

import socket

import pytest
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from peers import fin, keep_alive, ok, scripted


class UnixConnection(HTTPConnection):
    def __init__(self, socket_path):
        super().__init__("localhost")
        self.socket_path = socket_path

    def connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(self.socket_path)
        self.sock = sock


class UnixPool(HTTPConnectionPool):
    """As docker's: the pool has the path."""

    def __init__(self, socket_path):
        super().__init__("localhost")
        self.socket_path = socket_path

    def _new_conn(self):
        return UnixConnection(self.socket_path)


class SecretivePool(HTTPConnectionPool):
    """The pool does not tell where it leads."""

    def __init__(self, path):
        super().__init__("localhost")
        self._path = path

    def _new_conn(self):
        return UnixConnection(self._path)


kinds = pytest.mark.parametrize("kind", [UnixPool, SecretivePool])


@kinds
def test_the_address_of_a_unix_socket_is_its_path(scope, serve, tmp_path, kind):
    server = serve(keep_alive, path=str(tmp_path / "socket"))
    seen = scope.of(server)
    with kind(server.path) as pool:
        for _ in range(3):
            pool.request("GET", "/")
        assert seen.open == {"active": 0, "idle": 1}
        assert seen.pools[1] == 1
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.closed == {"pool_closed": 1}
    assert seen.served == (1, 3)
    assert seen.pools[1] == 0
    seen.agrees_with(server)


@kinds
def test_a_unix_socket_that_says_close_is_opened_anew(scope, serve, tmp_path, kind):
    def bye(peer):
        peer.answer(b"bye", "Connection: close")
        fin(peer)

    server = serve(scripted(bye), path=str(tmp_path / "socket"))
    seen = scope.of(server)
    with kind(server.path) as pool:
        for _ in range(3):
            pool.request("GET", "/")
    assert seen.opened == {"first": 1, "replaced_server_close": 2}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.closed == {"server_close": 3}
    seen.agrees_with(server)


@kinds
def test_a_unix_socket_that_drops_a_later_request_is_reset(scope, serve, tmp_path, kind):
    server = serve(scripted(ok, fin, ok), path=str(tmp_path / "socket"))
    seen = scope.of(server)
    with kind(server.path) as pool:
        pool.request("GET", "/")
        with pytest.raises(urllib3.exceptions.ProtocolError):
            pool.request("GET", "/", retries=False)
        pool.request("GET", "/")
    assert seen.failed == {("reused", "reset"): 1}
    assert seen.opened == {"first": 1, "replaced_reset": 1}
    assert seen.requests == {"first": 2, "reused": 0}
    assert seen.closed == {"reset": 1, "pool_closed": 1}
    seen.agrees_with(server)


@kinds
def test_a_unix_socket_that_drops_the_first_request_is_reset(scope, serve, tmp_path, kind):
    server = serve(scripted(fin, ok), path=str(tmp_path / "socket"))
    seen = scope.of(server)
    with kind(server.path) as pool:
        with pytest.raises(urllib3.exceptions.ProtocolError):
            pool.request("GET", "/", retries=False)
        pool.request("GET", "/")
    assert seen.failed == {("first", "reset"): 1}
    assert sum(seen.opened.values()) == server.accepted == 2
    assert seen.requests == {"first": 1, "reused": 0}
    assert sum(seen.closed.values()) == 2


def test_a_unix_socket_that_is_not_there_fails_to_connect(scope, tmp_path):
    path = str(tmp_path / "nobody")
    with UnixPool(path) as pool, pytest.raises((OSError, urllib3.exceptions.HTTPError)):
        pool.request("GET", "/", retries=False)

    class Nobody:
        port = 0

    Nobody.path = path
    seen = scope.of(Nobody, scheme="http")
    assert seen.failed == {("first", "connect"): 1}
    assert seen.opened == {}

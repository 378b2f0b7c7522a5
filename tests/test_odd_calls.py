"""Calls that nobody makes, or that only somebody's subclass makes: as without us."""

from __future__ import annotations

import copy
import functools
import pickle
from http.client import HTTPMessage
from types import SimpleNamespace

import pytest
import urllib3
import urllib3.contrib.socks
import urllib3.util.ssl_
from urllib3._collections import RecentlyUsedContainer
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from outcomes import attempt, natively_and_attached
from peers import HOST, keep_alive

headers_checked_in = next(
    module
    for module in (urllib3.connection, urllib3.connectionpool)
    if hasattr(module, "assert_header_parsing")
)


class Overriding(HTTPConnectionPool):
    """Has ways of its own with everything that is hooked."""

    class ConnectionCls(HTTPConnection):
        def connect(self, *_args, **_kwargs):
            super().connect()
            self.connected = True

        def close(self, *, quietly=True):
            super().close()

    timed = functools.partialmethod(HTTPConnectionPool._get_conn, timeout=1)

    def _get_conn(self, timeout=None, *, kind=None):
        conn = super()._get_conn(timeout=timeout)
        conn.kind = kind
        return conn

    def _put_conn(self, conn, *rest):
        return super()._put_conn(conn=conn)

    def _new_conn(self, *_hints):
        return super()._new_conn()

    def close(self):
        super().close()
        return "closed"


class OnItsOwn(HTTPConnectionPool):
    """Overrides without ``super()``."""

    class ConnectionCls(HTTPConnection):
        def connect(self):
            self.sock = self._new_conn()

        def close(self):
            sock, self.sock = self.sock, None
            if sock is not None:
                sock.close()

    kept = None

    def _get_conn(self, timeout=None):
        conn, self.kept = self.kept, None
        return conn or self._new_conn()

    def _put_conn(self, conn):
        self.kept = conn

    def close(self):
        if self.kept is not None:
            self.kept.close()


def wrong(function, *args):
    """Return what comes of calls that no signature of urllib3's has."""
    return [
        attempt(function, *args, 1, 2, 3, 4, 5, 6),
        attempt(function, *args, unknown=1),
    ]


def checkouts(pool):
    calls = (
        pool._get_conn,
        functools.partial(pool._get_conn, 0.5),
        functools.partial(pool._get_conn, None),
        functools.partial(pool._get_conn, timeout=0.5),
        functools.partial(type(pool)._get_conn, pool),
        functools.partial(type(pool)._get_conn, self=pool, timeout=1),
    )
    conns = [call() for call in calls]
    seen = [type(conn).__name__ for conn in conns]
    for conn in conns:
        pool._put_conn(conn)
    return seen, wrong(pool._get_conn), attempt(type(pool)._get_conn)


def returns(pool):
    taken = [pool._get_conn() for _ in range(4)]
    return [
        attempt(pool._put_conn, taken[0]),
        attempt(pool._put_conn, conn=taken[1]),
        attempt(type(pool)._put_conn, pool, taken[2]),
        attempt(type(pool)._put_conn, self=pool, conn=taken[3]),
        attempt(pool._put_conn, None),
        attempt(pool._put_conn),
        attempt(type(pool)._put_conn),
        *wrong(pool._put_conn),
    ]


def strangers_given_back(pool):
    pool._get_conn()
    pool._put_conn("not a connection")
    return attempt(pool.request, "GET", "/", retries=False), attempt(pool.close)


def validations(pool):
    conn = pool._new_conn()
    return [
        attempt(pool._validate_conn, conn),
        attempt(pool._validate_conn, conn=conn),
        attempt(type(pool)._validate_conn, pool, conn),
        attempt(pool._validate_conn),
        *wrong(pool._validate_conn),
    ]


def new_connections(pool):
    return [
        attempt(pool._new_conn),
        attempt(type(pool)._new_conn, pool),
        attempt(type(pool)._new_conn, self=pool),
        attempt(type(pool)._new_conn),
        *wrong(pool._new_conn),
    ]


def connecting(pool):
    conn = pool._new_conn()
    seen = [attempt(conn.close), attempt(conn.connect), attempt(conn.connect), wrong(conn.connect)]
    seen += [attempt(type(conn).connect), attempt(type(conn)._new_conn), wrong(conn._new_conn)]
    seen += [attempt(conn.close), attempt(conn.close), attempt(type(conn).close, conn)]
    seen += [attempt(type(conn).close), wrong(conn.close)]
    sock = conn._new_conn()
    sock.close()
    return seen


def closing_pools(pool):
    seen = [attempt(pool.request, "GET", "/"), wrong(pool.close), attempt(type(pool).close)]
    seen += [attempt(pool.close), attempt(pool.close), attempt(type(pool).close, self=pool)]
    return [*seen, attempt(pool.request, "GET", "/"), attempt(pool._get_conn)]


def header_checks(_pool):
    check = headers_checked_in.assert_header_parsing
    return [
        attempt(check, HTTPMessage()),
        attempt(check, headers=HTTPMessage()),
        attempt(check, None),
        attempt(check, "text"),
        attempt(check),
        *wrong(check),
    ]


def handshakes(_pool):
    wrap = urllib3.util.ssl_._ssl_wrap_socket_impl
    no = False
    context = SimpleNamespace(wrap_socket=lambda sock, **options: (sock, options))
    return [
        attempt(wrap, "a socket", context, no),
        attempt(wrap, sock="a socket", ssl_context=context, tls_in_tls=no),
        attempt(wrap, "a socket", context, no, "a name"),
        attempt(wrap, "a socket", context, tls_in_tls=no, server_hostname="a name"),
        attempt(wrap, "a socket", None, no),
        attempt(wrap),
        *wrong(wrap),
    ]


def least_recently_used(_pool):
    disposed = []
    container = RecentlyUsedContainer(1, dispose_func=disposed.append)
    container[None] = None
    container[("a", 1)] = object
    container.__setitem__("b", "c")
    container.__setitem__(key="d", value="e")
    RecentlyUsedContainer.__setitem__(container, "f", "g")
    seen = [attempt(container.__setitem__, [], 1), attempt(container.__setitem__, "a")]
    seen += wrong(container.__setitem__)
    nothing = RecentlyUsedContainer(0)
    return seen, disposed, container.keys(), attempt(nothing.__setitem__, "a", 1), len(nothing)


def used_normally(pool):
    seen = [attempt(pool.request, "GET", "/") for _ in range(3)]
    return seen, pool.num_requests, pool.num_connections


def used_through_partial_methods(pool):
    timed = getattr(pool, "timed", pool._get_conn)
    conn = timed()
    pool._put_conn(conn)
    return attempt(pool.request, "GET", "/")


def copied(pool):
    again = copy.copy(pool)
    seen = [attempt(one.request, "GET", "/") for one in (pool, again, pool)]
    return seen, attempt(copy.deepcopy, pool), attempt(pickle.dumps, pool)


CALLS = (
    *(checkouts, returns, strangers_given_back, validations, new_connections, connecting),
    *(closing_pools, header_checks, handshakes, least_recently_used, used_normally),
    *(used_through_partial_methods, copied),
)


@pytest.mark.parametrize("kind", [HTTPConnectionPool, Overriding, OnItsOwn])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_comes_to_what_it_comes_to_natively(scope, serve, call, kind):
    def play(server):
        with kind(HOST, server.port, maxsize=6) as pool:
            return call(pool)

    natively, attached, server = natively_and_attached(scope, serve, keep_alive, play)
    assert attached == natively
    if call not in (connecting, strangers_given_back):  # those have connections of nobody's
        scope.of(server).agrees_with(server)


def test_a_manager_that_is_copied_is_counted_once(scope, serve):
    def play(server):
        manager = urllib3.PoolManager()
        managers = (manager, copy.copy(manager), manager)
        seen = [attempt(one.request, "GET", server.url) for one in managers]
        manager.clear()
        return seen

    natively, attached, server = natively_and_attached(scope, serve, keep_alive, play)
    assert attached == natively
    scope.of(server).agrees_with(server)

"""Idle connections whose peer has hung up are seen before a request finds out."""

from __future__ import annotations

import socket
import sys
import textwrap
import threading
from functools import partial
from unittest.mock import Mock

import pytest
import urllib3

from commands import Running
from peers import HOST, eventually, keep_alive
from poolscope.hangups import has_hung_up, silent_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel is asked")


@pytest.fixture
def hang_up():
    return threading.Event()


@pytest.fixture(params=["plain", "tls"])
def server(serve, tls, hang_up, request):
    """Answer, and hang up on everybody once it is told."""

    def handler(peer):
        peer.request()
        peer.answer()
        peer.wait(hang_up)

    return serve(handler, tls=tls if request.param == "tls" else None)


def pool_of(server, **options):
    return urllib3.PoolManager(cert_reqs="NONE", **options).connection_from_url(server.url)


def opened(pool, number):
    """Leave so many idle connections behind in a pool."""
    held = [pool.request("GET", "/", preload_content=False) for _ in range(number)]
    for response in held:
        response.drain_conn()
        response.release_conn()


def test_they_are_counted_while_they_lie_there(scope, server, hang_up):
    pool = pool_of(server, maxsize=3)
    opened(pool, 3)
    seen = scope.of(server)
    assert (seen.open["idle"], seen.stale) == (3, 0)
    hang_up.set()
    assert eventually(lambda: scope.of(server).stale == 3)
    assert scope.of(server).open["idle"] == 3
    pool.close()
    assert (scope.of(server).open["idle"], scope.of(server).stale) == (0, 0)


def test_a_request_finds_them_as_it_always_did(scope, server, hang_up):
    """Looking takes nothing away: urllib3 still notices, and still reads what there is."""
    pool = pool_of(server)
    opened(pool, 1)
    hang_up.set()
    assert eventually(lambda: scope.of(server).stale == 1)
    assert pool.request("GET", "/").status == 200
    seen = scope.of(server)
    assert seen.opened == {"first": 1, "replaced_stale": 1}


def test_under_run_they_add_up_over_processes(serve):
    told = threading.Event()

    def handler(peer):
        peer.request()
        peer.answer()
        peer.wait(told)

    script = """
        import os, sys, urllib3
        pid = os.fork()
        pool = urllib3.PoolManager()
        pool.request("GET", sys.argv[1])
        if pid:
            print("asked", flush=True)
            sys.stdin.read()
            os.kill(pid, 9)
        else:
            import time
            time.sleep(60)
    """
    server = serve(handler)
    with Running(sys.executable, "-c", textwrap.dedent(script), server.url) as service:
        assert service.line() == "asked"
        server.wait(answered=2)
        stale = partial(service.total, "poolscope_connections_stale")
        assert stale() == 0
        told.set()
        assert eventually(lambda: stale() == 2)
        service.process.stdin.close()


def test_one_that_is_checked_out_is_not_asked(scope, serve):
    def handler(peer):
        peer.request()
        peer.answer(b"x" * 100_000)

    server = serve(handler)
    pool = pool_of(server)
    response = pool.request("GET", "/", preload_content=False)
    server.wait(closed=1)
    assert (scope.of(server).open["active"], scope.of(server).stale) == (1, 0)
    assert len(response.read()) == 100_000


def test_a_unix_socket_a_closed_one_and_a_stand_in_say_no():
    one, other = socket.socketpair()
    with one:
        other.close()
        assert not has_hung_up(one)
    assert not has_hung_up(one)
    assert not has_hung_up(object())
    assert not has_hung_up(None)
    assert not has_hung_up(Mock())


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_both_ways_to_hang_up_are_seen(serve, how):
    def handler(peer):
        peer.request()
        if how == "rst":
            peer.reset()

    server = serve(handler)
    with socket.create_connection((HOST, server.port)) as sock:
        assert not has_hung_up(sock)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert eventually(lambda: has_hung_up(sock))


def test_who_keeps_alive_is_not_dead(scope, serve):
    server = serve(keep_alive)
    pool = pool_of(server)
    for _ in range(3):
        pool.request("GET", "/")
        assert (scope.of(server).open["idle"], scope.of(server).stale) == (1, 0)


def test_how_long_nothing_came_is_known_of_a_tcp_socket_alone(serve):
    server = serve(keep_alive)
    with socket.create_connection((HOST, server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(1000).endswith(b"ok")
        assert eventually(lambda: silent_for(sock) >= 0.05)
        before = silent_for(sock)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(1000).endswith(b"ok")
        assert silent_for(sock) < before
    one, other = socket.socketpair()
    with one, other:
        assert silent_for(one) is None
    for nothing in (sock, None, object(), Mock()):
        assert silent_for(nothing) is None

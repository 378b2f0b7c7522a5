"""What somebody tried in order to break the host, or the numbers, with poolscope attached."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import logging
import os
import pickle
import signal
import threading
import time

import pytest
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

import poolscope
from peers import HOST, eventually, held_answer, held_body, keep_alive, scripted
from poolscope.observers import Observer

posix_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer")


def test_a_host_function_with_more_parameters_keeps_them(scope, serve, monkeypatch):
    """Another wrapper, or a urllib3 to come: ours takes what the one below takes."""
    scope.detach()
    seen = []
    original = HTTPConnectionPool._put_conn

    def theirs(self, conn, *, reason=None):
        seen.append(reason)
        return original(self, conn)

    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "_put_conn", theirs)
        scope.attach()
        assert inspect.signature(HTTPConnectionPool._put_conn) == inspect.signature(theirs)
        with HTTPConnectionPool(HOST, serve(keep_alive).port) as pool:
            conn = pool._get_conn()
            pool._put_conn(conn=conn, reason="x")
            pool.request("GET", "/")
        assert seen == ["x", None]
        scope.detach()
    scope.attach()


def test_hooked_functions_take_keywords_as_natively(scope, serve):
    server = serve(keep_alive)
    with HTTPConnectionPool(HOST, server.port, block=True) as pool:
        conn = pool._get_conn(timeout=1)
        pool._put_conn(conn=conn)
        pool._validate_conn(conn=conn)
        pool.request("GET", "/")
    scope.of(server)


class SoftTimeLimitError(Exception):
    pass


class TimeLimit:
    def strike(self, _number, _frame):
        raise SoftTimeLimitError

    __call__ = strike


class Inherited(TimeLimit):
    pass


def strike(_error, _number, _frame):
    raise SoftTimeLimitError


@posix_timer
@pytest.mark.parametrize(
    "handler", [TimeLimit().strike, Inherited(), functools.partial(strike, None)]
)
@pytest.mark.usefixtures("scope")
def test_a_time_limit_that_strikes_inside_a_hook_reaches_the_caller(serve, monkeypatch, handler):
    """Celery's soft time limit is an exception that a signal handler raises, anywhere."""
    client = poolscope._process.patchers["urllib3"].hooks[0].before.__self__
    before = signal.signal(signal.SIGUSR1, handler)

    def struck():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1)

    monkeypatch.setattr(client, "clock", struck)
    try:
        with (
            HTTPConnectionPool(HOST, serve(keep_alive).port) as pool,
            pytest.raises(SoftTimeLimitError),
        ):
            pool.request("GET", "/", retries=False)
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGUSR1, before)


def test_a_logging_filter_that_raises_does_not_reach_a_scrape(scope):
    class Picky(logging.Filter):
        def filter(self, record):
            raise ValueError("not this one")

    log = logging.getLogger("poolscope")
    log.addFilter(picky := Picky())
    try:
        poolscope._process.scope.faults.append(("a test", "on purpose"))
        poolscope._process.scope._told_faults.discard("a test")
        list(scope.registry.collect())
    finally:
        log.removeFilter(picky)
    scope.faults = {"a test": 1}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.usefixtures("scope")
def test_a_connection_object_is_copied_without_its_record(copied):
    pool = HTTPConnectionPool(HOST, 9)
    again = copied(pool._new_conn())
    assert isinstance(again, HTTPConnection)
    assert (again.host, again._poolscope) == (HOST, None)


def test_a_snapshot_is_taken_while_others_drain(scope, serve):
    server = serve(keep_alive)
    stop = threading.Event()
    errors = []

    def traffic():
        while not stop.is_set():
            with urllib3.PoolManager() as pool:
                pool.request("GET", server.url)
            poolscope._process.scope.drain()

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for _ in range(200):
            poolscope.snapshot()
    except RuntimeError as error:
        errors.append(error)
    finally:
        stop.set()
        thread.join()
    assert errors == []
    scope.of(server).agrees_with(server)


@pytest.mark.usefixtures("scope")
def test_two_threads_that_fork_at_once_leave_the_scope_open(monkeypatch):
    process = poolscope._process
    monkeypatch.setattr("poolscope.scope._PATIENCE", 0.05)
    inside, go = threading.Event(), threading.Event()

    def first():
        process._before_fork()
        inside.set()
        go.wait()
        process._after_in_parent()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    process._before_fork()  # can't hold: the other one does
    process._after_in_parent()
    go.set()
    thread.join()
    assert process.scope._lock.acquire(timeout=1)
    process.scope._lock.release()


@pytest.mark.usefixtures("scope")
def test_a_fork_in_the_midst_of_a_fork_leaves_the_scope_open(serve):
    """A signal handler may fork, too."""
    process = poolscope._process
    poolscope.instrument(Observer())
    process._before_fork()
    process._before_fork()
    process._after_in_parent()
    process._after_in_parent()
    server = serve(keep_alive)
    thread = threading.Thread(target=poolscope.snapshot)
    with urllib3.PoolManager() as pool:
        pool.request("GET", server.url)
        thread.start()
        thread.join(10)
    assert not thread.is_alive()
    assert process._forking == []


def test_a_child_of_a_parent_that_had_let_go_starts_its_own_history(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.PoolManager() as pool:
        pool.request("GET", server.url)
    scope.detach()
    reader, writer = os.pipe()
    if os.fork() == 0:
        scope.attach()
        with urllib3.PoolManager() as pool:
            pool.request("GET", server.url)
        os.write(writer, repr((seen.opened, seen.requests)).encode())
        os._exit(0)
    os.wait()
    assert eval(os.read(reader, 1000)) == ({"first": 1}, {"first": 1, "reused": 0})
    scope.attach()


def test_the_pulse_comes_back_after_a_fork_and_after_re_attaching(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    process = poolscope._process
    pool = HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    assert process.pulse.beating
    pool.close()
    assert eventually(lambda: process.readings.numbers and not process.scope.ledger.log)
    with HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        scope.detach()
        scope.attach()
        assert process.pulse.beating
    assert seen.open == {"active": 0, "idle": 0}


def test_a_response_that_closes_its_connection_keeps_it_busy_while_it_streams(scope, serve):
    event = threading.Event()

    def streams(peer):
        peer.answer(b"", "Connection: close", length=4)
        peer.wait(event)
        peer.send(b"body")

    server = serve(scripted(lambda peer: peer.answer(), streams))
    seen = scope.of(server)
    with HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        response = pool.request("GET", "/", preload_content=False)
        poolscope.snapshot()
        assert seen.open == {"active": 1, "idle": 0}
        event.set()
        response.read()
    assert seen.closed == {"server_close": 1}


def test_a_response_that_comes_back_while_detached_is_not_busy_for_ever(scope, serve):
    event = threading.Event()
    server = serve(held_body(event))
    seen = scope.of(server)
    with HTTPConnectionPool(HOST, server.port) as pool:
        response = pool.request("GET", "/", preload_content=False)
        scope.detach()
        event.set()
        response.read()
        response.release_conn()
        scope.attach()
        assert seen.open == {"active": 0, "idle": 1}


def test_a_request_under_way_at_detach_leaves_a_used_connection(scope, serve):
    event = threading.Event()
    server = serve(held_answer(event))
    seen = scope.of(server)
    with HTTPConnectionPool(HOST, server.port) as pool:
        thread = threading.Thread(target=pool.request, args=("GET", "/"))
        thread.start()
        server.wait(asked=1)
        scope.detach()
        event.set()
        thread.join()
        scope.attach()
        pool.request("GET", "/")
    assert seen.requests == {"first": 0, "reused": 1}


def test_a_connection_that_is_set_up_while_we_come_and_go_is_one(scope, serve, tls, authority):
    release = threading.Event()
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    pool = urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file)

    class Slow(pool.ConnectionCls):
        def _new_conn(self):
            sock = super()._new_conn()
            release.wait()
            return sock

    pool.ConnectionCls = Slow
    thread = threading.Thread(target=pool.request, args=("GET", "/"))
    thread.start()
    server.wait(accepted=1)
    assert eventually(lambda: seen.opened)
    scope.detach()
    scope.attach()
    release.set()
    thread.join()
    pool.request("GET", "/")
    pool.close()
    assert sum(seen.opened.values()) == server.accepted == 1


def test_a_tls_socket_that_knows_no_version_is_a_handshake_all_the_same(scope, serve):
    """urllib3's own tests wrap sockets into such stand-ins."""

    class Plain:
        def __init__(self, sock):
            self.makefile, self.sendall, self.close = sock.makefile, sock.sendall, sock.close
            self.settimeout, self.fileno = sock.settimeout, sock.fileno
            self.getpeercert = dict

    class Context:
        verify_mode, check_hostname, sock = 0, False, None

        def wrap_socket(self, sock, **_options):
            self.sock = sock
            return Plain(sock)

        def set_alpn_protocols(self, _protocols):
            pass

    server = serve(keep_alive)
    seen = scope.of(server, scheme="https")
    pool = urllib3.HTTPSConnectionPool(HOST, server.port, ssl_context=Context(), cert_reqs=0)
    with pool, pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        pool.request("GET", "/")
    assert (seen.handshakes, server.accepted) == (1, 1)


def test_a_users_function_of_a_pools_name_is_the_users(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = HTTPConnectionPool(HOST, server.port)
    pool.request("GET", "/")
    conn = pool.pool.get()

    def _get_conn():
        conn.close()

    _get_conn()
    pool.pool.put(conn)
    pool.close()
    assert (seen.closed, seen.idle_times) == ({"explicit": 1}, {})


def test_an_exception_that_does_not_like_to_be_asked_is_other(scope, serve):
    class ShyError(Exception):
        def __getattr__(self, name):
            raise RuntimeError(name)

    def body():
        yield b"one"
        raise ShyError

    server = serve(keep_alive)
    seen = scope.of(server)
    with HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(6):
            with pytest.raises(ShyError):
                pool.request("POST", "/", body=body(), retries=False)
    assert seen.failed == {("first", "other"): 6}
    gc.collect()

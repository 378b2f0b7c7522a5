"""Connections handled by hand: warmed, used without a pool, or closed in odd places."""

from __future__ import annotations

import functools
import gc
import http.client
import logging
import threading
import time

import pytest
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError

import poolscope
from peers import HOST, Peer, free_port, keep_alive, silence
from proxies import connect_proxy
from worlds import trusting

WARMED = 3
PAUSE = 0.25


def get(pool, **options):
    return pool.request("GET", "/", retries=False, **options)


def reading(peer):
    """Answer every request when its body, which comes in chunks, has been read."""
    for _ in peer:
        peer.chunks()
        peer.answer()


# ---- warmed


def taken(pool):
    return [pool._get_conn() for _ in range(WARMED)]


def made(pool):
    while not pool.pool.empty():
        pool._get_conn()
    return [pool._new_conn() for _ in range(WARMED)]


def connected(_pool, conn):
    conn.connect()


def validated(pool, conn):
    """Warm it as people do who know that this connects where TLS is spoken."""
    pool._validate_conn(conn)
    if conn.sock is None:
        conn.connect()


def put_back(pool, conn):
    pool._put_conn(conn)


def put_into_the_queue(pool, conn):
    pool.pool.put(conn, block=False)


@pytest.fixture(params=["http", "https"])
def peer(request, serve, authority):
    """Start servers of a scheme, and make pools of it."""
    if request.param == "http":
        return serve, urllib3.HTTPConnectionPool
    context = authority.server(HOST)
    context.num_tickets = 0  # bytes that nobody reads would make urllib3 take it for dropped
    return (
        functools.partial(serve, tls=context),
        functools.partial(urllib3.HTTPSConnectionPool, ca_certs=authority.file),
    )


@pytest.mark.parametrize("take", [taken, made])
@pytest.mark.parametrize("warm", [connected, validated])
@pytest.mark.parametrize("give_back", [put_back, put_into_the_queue])
def test_a_pool_that_is_warmed_by_hand_has_answered_nothing(scope, peer, take, warm, give_back):
    start, kind = peer
    server = start(keep_alive)
    seen = scope.of(server)
    with kind(HOST, server.port, maxsize=WARMED) as pool:
        conns = take(pool)
        for conn in conns:
            warm(pool, conn)
        assert seen.opened == {"first": 1, "growth": WARMED - 1}
        for conn in conns:
            give_back(pool, conn)
        time.sleep(PAUSE)
        assert seen.requests == {"first": 0, "reused": 0}
        assert seen.created == WARMED
        for _ in range(5):
            get(pool)
        assert seen.requests == {"first": 1, "reused": 4}
        if give_back is put_back:
            assert seen.open == {"active": 0, "idle": WARMED}
        latency = seen.total("poolscope_request_duration_seconds_sum")
        assert latency < PAUSE, "the time in the pool is nobody's latency"
        assert seen.failed == {}
    assert seen.served == (WARMED, 5)
    seen.agrees_with(server)


def test_a_tunnel_that_is_warmed_by_hand_has_answered_nothing(scope, serve, tls, authority):
    target, proxy = serve(keep_alive, tls=tls), serve(connect_proxy)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url, ca_certs=authority.file) as manager:
        pool = manager.connection_from_url(target.url)
        conn = pool._get_conn()
        pool._prepare_proxy(conn)
        pool._put_conn(conn)
        assert seen.requests == {"first": 0, "reused": 0}
        assert seen.opened == {"first": 1}
        if not urllib3.__version__.startswith("1."):  # which uses no tunnel a second time
            manager.request("GET", target.url)
            assert seen.requests == {"first": 1, "reused": 0}
    assert seen.failed == {}
    seen.agrees_with(target)


def test_a_connection_that_cannot_be_warmed_is_no_request_that_failed(scope):
    port = free_port()
    seen = scope.of(port)
    with urllib3.HTTPConnectionPool(HOST, port) as pool:
        conn = pool._get_conn()
        with pytest.raises(HTTPError):
            conn.connect()
        pool._put_conn(conn)
        assert seen.not_created == {"refused": 1}
        assert seen.failed == {}
        with pytest.raises(HTTPError):
            get(pool)
        assert seen.not_created == {"refused": 2}
        assert seen.failed == {("first", "connect"): 1}


# ---- used without a pool, while a pool's request is under way


def ask(conn):
    conn.request("GET", "/")
    response = conn.getresponse()
    assert (response.read() or response.data) == b"ok"  # urllib3 2.x has read it already


class Bare(HTTPSConnection):
    assert_hostname = None  # which 1.26 leaves to its pools


BARE = {
    "urllib3, http": lambda port, _: HTTPConnection(HOST, port, timeout=5),
    "urllib3, https": lambda port, tls: Bare(HOST, port, timeout=5, ssl_context=tls),
    "http.client": lambda port, _: http.client.HTTPConnection(HOST, port),
}


@pytest.fixture(params=BARE)
def bare(request, serve, tls, authority):
    """Return a connection without a pool, and its server."""
    server = serve(keep_alive, tls=tls if request.param.endswith("https") else None)
    conn = BARE[request.param](server.port, trusting(authority))
    yield conn, server
    conn.close()


@pytest.mark.parametrize("before", [False, True], ids=["", "open before"])
def test_an_answer_without_a_pool_is_not_that_of_the_request_around_it(scope, serve, bare, before):
    conn, inner = bare
    outer = serve(reading)
    seen = scope.of(outer)
    if before:
        ask(conn)

    def body():
        yield b"one"
        ask(conn)
        time.sleep(0.06)
        yield b"two"

    with urllib3.HTTPConnectionPool(HOST, outer.port) as pool:
        for _ in range(3):
            pool.request("POST", "/", body=body(), chunked=True, retries=False)
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.total("poolscope_request_duration_seconds_sum") >= 3 * 0.06
    assert seen.opened == {"first": 1}
    assert scope.of(inner).nothing
    seen.agrees_with(outer)


def test_an_answer_without_a_pool_is_not_that_of_the_request_that_connects(scope, peer, bare):
    """A name is looked up over HTTP, say."""
    start, kind = peer
    outer, (conn, inner) = start(keep_alive), bare
    seen = scope.of(outer)
    with kind(HOST, outer.port) as pool:

        class Connection(pool.ConnectionCls):
            def _new_conn(self):
                ask(conn)
                time.sleep(0.06)
                return super()._new_conn()

        pool.ConnectionCls = Connection
        get(pool)
        assert seen.requests == {"first": 1, "reused": 0}
        assert seen.total("poolscope_request_duration_seconds_sum") >= 0.06
    assert scope.of(inner).nothing
    seen.agrees_with(outer)


# ---- closed in odd places: only the frames around that concern the connection say why


def _post(outer, act):
    def body():
        yield b"one"
        act()
        yield b"two"

    with urllib3.HTTPConnectionPool(HOST, outer.port) as pool:
        pool.request("POST", "/", body=body(), chunked=True, retries=False)


def in_a_stream(serve, act):
    """While somebody reads another body."""

    def bodies(peer):
        for _ in peer:
            peer.answer(b"2\r\nok\r\n" * 2, "Transfer-Encoding: chunked", length=-1)

    with urllib3.HTTPConnectionPool(HOST, serve(bodies).port) as pool:
        response = get(pool, preload_content=False)
        for _ in response.stream(2):
            act()
            break
        response.close()


def in_a_body_generator(serve, act):
    _post(serve(reading), act)


def in_a_log_handler(serve, act):
    """While urllib3 logs what another pool does."""

    class Handler(logging.Handler):
        def emit(self, _record):
            logger.removeHandler(self)
            act()

    logger = logging.getLogger("urllib3.connectionpool")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Handler())
    try:
        with urllib3.HTTPConnectionPool(HOST, serve(keep_alive).port) as pool:
            get(pool)
    finally:
        logger.setLevel(before)


def in_an_except_block(_serve, act):
    try:
        {}["nothing"]
    except KeyError:
        act()


def in_a_retry(serve, act):
    """While another pool's request has failed and is to be repeated."""

    class Retry(urllib3.Retry):
        def increment(self, *args, **kwargs):
            act()
            return super().increment(*args, **kwargs)

    def hang_up(peer):
        peer.request()

    with (
        urllib3.HTTPConnectionPool(HOST, serve(hang_up).port) as pool,
        pytest.raises(HTTPError),
    ):
        pool.request("GET", "/", retries=Retry(0))


def in_a_time_out(serve, act):
    """While another pool's request has timed out."""
    with urllib3.HTTPConnectionPool(HOST, serve(silence).port, timeout=0.05) as pool:
        try:
            get(pool)
        except HTTPError:
            act()


def in_a_checkout(serve, act):
    """While another pool looks for a connection."""

    class Pool(HTTPConnectionPool):
        def _get_conn(self, timeout=None):
            act()
            return super()._get_conn(timeout)

    with Pool(HOST, serve(keep_alive).port) as pool:
        get(pool)


def in_another_close(serve, act):
    """While somebody's own connection class closes."""

    class Connection(HTTPConnection):
        def close(self):
            act()
            super().close()

    pool = HTTPConnectionPool(HOST, serve(keep_alive).port)
    pool.ConnectionCls = Connection
    get(pool)
    pool.close()


def in_a_finalizer(serve, act):
    """While another pool is collected."""

    class Pool(HTTPConnectionPool):
        pass

    class Guard:
        def __del__(self):
            act()

    with urllib3.HTTPConnectionPool(HOST, serve(keep_alive).port) as pool:
        pool.guard = Guard()
        get(pool)
    del pool
    gc.collect()


def in_a_thread(_serve, act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


PLACES = (
    *(in_a_body_generator, in_a_stream, in_a_log_handler, in_an_except_block, in_a_retry),
    *(in_a_time_out, in_a_checkout, in_another_close, in_a_finalizer, in_a_thread),
)


def once(act):
    done = []
    return lambda: done or (done.append(1), act())


@pytest.mark.parametrize("place", PLACES)
def test_a_connection_that_is_closed_by_hand_is_explicit_wherever_that_is(scope, serve, place):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        get(pool)
        conn = pool.pool.queue[-1]
        place(serve, once(conn.close))
        assert seen.closed == {"explicit": 1}
        get(pool)
        assert seen.opened == {"first": 1, "replaced_explicit": 1}
        assert seen.failed == {}
    assert seen.idle_times == {}
    seen.agrees_with(server)


def half(peer):
    for _ in peer:
        peer.answer(b"x", length=3_000_000)


@pytest.mark.parametrize("place", PLACES)
def test_a_response_that_is_closed_by_hand_is_unread_wherever_that_is(scope, serve, place):
    server = serve(half)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = get(pool, preload_content=False)
        place(serve, once(response.close))
        assert seen.closed == {"unread": 1}
    seen.agrees_with(server)


@pytest.mark.parametrize("place", PLACES)
def test_a_pool_that_is_closed_by_hand_is_told_so_wherever_that_is(scope, serve, place):
    server = serve(keep_alive)
    seen = scope.of(server)
    pool = urllib3.HTTPConnectionPool(HOST, server.port)
    get(pool)
    place(serve, once(pool.close))
    assert seen.closed == {"pool_closed": 1}
    seen.agrees_with(server)


class ByAge(HTTPConnectionPool):
    """Replaces connections by a rule of its own, when they are taken."""

    def _get_conn(self, timeout=None):
        conn = super()._get_conn(timeout)
        conn.close()
        return conn


class ByUse(HTTPConnectionPool):
    """Replaces connections by a rule of its own, when they come back."""

    def _put_conn(self, conn):
        if conn is not None:
            conn.close()
        super()._put_conn(conn)


@pytest.mark.parametrize("kind", [ByAge, ByUse])
def test_a_pool_that_closes_by_a_rule_of_its_own_is_explicit(scope, serve, kind):
    server = serve(keep_alive)
    seen = scope.of(server)
    with kind(HOST, server.port) as pool:
        for _ in range(3):
            get(pool)
    last = {"pool_closed": 1} if kind is ByAge else {}
    assert seen.closed == {"explicit": 3 - len(last)} | last
    assert seen.opened == {"first": 1, "replaced_explicit": 2}
    assert seen.idle_times == {}
    seen.agrees_with(server)


def test_a_connection_that_is_closed_within_its_own_request_is_explicit(scope, serve):
    server = serve(Peer.until_hung_up)  # what comes after that is no request
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, timeout=0.5) as pool:
        conns = []

        def body():
            yield b"one"
            conns[0].close()
            yield b"two"

        conns.append(pool._get_conn())
        pool._put_conn(conns[0])
        with pytest.raises(HTTPError):
            pool.request("POST", "/", body=body(), chunked=True, retries=False)
        assert seen.closed["explicit"] == 1
    assert poolscope.snapshot()["faults"] == {}

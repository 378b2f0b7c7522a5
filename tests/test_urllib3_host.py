"""The host: patched without a trace, called once, and never the wiser."""

from __future__ import annotations

import traceback

import pytest
import urllib3
import urllib3.contrib.socks
import urllib3.util.ssl_
from urllib3._collections import RecentlyUsedContainer
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from peers import HOST, free_port, keep_alive, ok, scripted, silence

OWNERS = (
    HTTPConnection,
    HTTPSConnection,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    RecentlyUsedContainer,
    urllib3.contrib.socks.SOCKSConnection,
    urllib3.contrib.socks.SOCKSHTTPSConnection,
    urllib3.connection,
    urllib3.connectionpool,
    urllib3.poolmanager,
    urllib3.response,
    urllib3.util.ssl_,
)


def attributes():
    return [{name: id(value) for name, value in vars(owner).items()} for owner in OWNERS]


def requests_of(seen):
    return sum(seen.requests.values())


def test_uninstrument_restores_every_attribute_exactly(scope):
    scope.detach()
    before = attributes()
    for _ in range(2):
        scope.attach()
        assert attributes() != before
        scope.detach()
        assert attributes() == before


def test_an_original_that_was_put_back_over_ours_is_hooked_again(scope, serve):
    """As mock.patch does when it began before we attached."""
    scope.detach()
    original = vars(HTTPConnectionPool)["_validate_conn"]
    scope.attach()
    HTTPConnectionPool._validate_conn = original
    scope.detach()
    assert vars(HTTPConnectionPool)["_validate_conn"] is original
    scope.attach()
    server = serve(keep_alive)
    with urllib3.PoolManager() as manager:
        manager.request("GET", server.url)
    assert scope.of(server).requests == {"first": 1, "reused": 0}


def test_somebody_elses_wrapper_on_top_stays_where_it_is(scope, serve, monkeypatch):
    calls = []
    ours = vars(HTTPConnectionPool)["_validate_conn"]

    def theirs(self, *args, **kwargs):
        calls.append(len(args))
        return ours.__get__(self)(*args, **kwargs)

    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(HTTPConnectionPool, "_validate_conn", theirs)
            pool.request("GET", "/")
            assert requests_of(seen) == 1
            scope.detach()
            assert vars(HTTPConnectionPool)["_validate_conn"] is theirs
            pool.request("GET", "/")
            assert requests_of(seen) == 1
            scope.attach()
            pool.request("GET", "/")
            assert requests_of(seen) == 2
            assert calls == [1] * 3
            scope.detach()
        scope.attach()
        assert vars(HTTPConnectionPool)["_validate_conn"] is ours
        scope.detach()
        assert vars(HTTPConnectionPool)["_validate_conn"] is not ours
        scope.attach()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_wrapper_on_a_subclass_neither_hides_a_request_nor_doubles_it(
    scope, serve, tls, authority, monkeypatch, frozen
):
    """New Relic puts its wrapper of the inherited method on HTTPSConnectionPool."""
    scope.detach()
    inherited = HTTPSConnectionPool._make_request

    def theirs(self, *args, **kwargs):
        method = inherited if frozen else HTTPConnectionPool._make_request
        return method(self, *args, **kwargs)

    server = serve(scripted(ok, ok, ok, silence), tls=tls)
    seen = scope.of(server)
    with monkeypatch.context() as patch:
        patch.setattr(HTTPSConnectionPool, "_make_request", theirs, raising=False)
        scope.attach()
        with urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file) as pool:
            for _ in range(3):
                pool.request("GET", "/")
            with pytest.raises(urllib3.exceptions.HTTPError):
                pool.request("GET", "/silence", timeout=0.1, retries=False)
        assert seen.requests == {"first": 1, "reused": 2}
        assert seen.failed == {("reused", "timeout"): 1}
        scope.detach()
    scope.attach()
    seen.agrees_with(server)


def test_a_subclass_that_calls_super_is_counted_once(scope, serve):
    class Connection(HTTPConnection):
        def connect(self):
            super().connect()

        def close(self):
            super().close()

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

        def _make_request(self, *args, **kwargs):
            return super()._make_request(*args, **kwargs)

        def _get_conn(self, timeout=None):
            return super()._get_conn(timeout=timeout)

        def _put_conn(self, conn):
            return super()._put_conn(conn)

    server = serve(keep_alive)
    seen = scope.of(server)
    with Pool(HOST, server.port, block=True) as pool:
        for _ in range(3):
            pool.request("GET", "/")
    assert seen.opened == {"first": 1}
    assert seen.created == 1
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.closed == {"pool_closed": 1}
    assert seen.waits == 3
    seen.agrees_with(server)


class Alarm(BaseException):
    pass


def call_while_handling(error, function, arguments):
    try:
        raise error
    except LookupError:
        function(*arguments)


@pytest.mark.parametrize("error", [Alarm("now"), ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["_get_conn", "_put_conn", "_make_request", "_new_conn"])
def test_the_hosts_exception_is_the_same_object(scope, serve, monkeypatch, error, method):
    def raises(*_args, **_kwargs):
        raise error

    server = serve(keep_alive)
    scope.of(server)
    scope.detach()
    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnectionPool, method, raises)
        scope.attach()
        pool = urllib3.HTTPConnectionPool(HOST, server.port)
        error.__context__ = error.__cause__ = None
        error.__suppress_context__ = False
        connection = HTTPConnection(HOST, server.port)
        arguments = {
            "_put_conn": (connection,),
            "_make_request": (connection, "GET", "/"),
        }.get(method, ())
        with pytest.raises(type(error)) as caught:
            getattr(pool, method)(*arguments)
        assert caught.value is error
        assert (error.__context__, error.__cause__, error.__suppress_context__) == (
            None,
            None,
            False,
        )
        outer = LookupError("the caller's own business")
        with pytest.raises(type(error)):
            call_while_handling(outer, getattr(pool, method), arguments)
        assert error.__context__ is outer
        assert outer.__context__ is None
        scope.detach()
    scope.attach()


def shape(error):
    """Describe an exception and its chain, without what differs from run to run."""
    chain = []
    while error is not None:
        chain.append((type(error), error.__suppress_context__, error.__cause__ is None))
        error = error.__cause__ or error.__context__
    return chain


@pytest.mark.parametrize("how", ["refused", "timeout", "dropped"])
def test_an_exceptions_chain_is_as_without_us(scope, serve, how):
    def fail():
        server = serve(scripted(silence if how == "timeout" else lambda peer: peer.reset()))
        port = free_port() if how == "refused" else server.port
        pool = urllib3.HTTPConnectionPool(HOST, port, timeout=0.1, retries=1)
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            pool.request("GET", "/")
        pool.close()
        return caught.value

    watched = fail()
    scope.detach()
    native = fail()
    scope.attach()
    assert shape(watched) == shape(native)
    ours = ("poolscope", "wrapt")
    frames = [
        frame.name
        for frame in traceback.extract_tb(watched.__traceback__)
        if not any(name in frame.filename for name in ours)
    ]
    assert frames == [frame.name for frame in traceback.extract_tb(native.__traceback__)]


def test_headers_and_arguments_reach_the_server_untouched(scope, serve):
    received = []

    def handler(peer):
        for request in peer:
            received.append(request)
            ok(peer)

    server = serve(handler)
    scope.of(server)
    headers = {"X-Odd": "1;", "Accept-Encoding": "identity", "User-Agent": "us"}

    def call():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            pool.urlopen("POST", "/a?b=c", b"body", headers)
            pool.request("GET", "/", headers=headers)

    call()
    scope.detach()
    call()
    scope.attach()
    assert received[:2] == received[2:]
    assert headers == {"X-Odd": "1;", "Accept-Encoding": "identity", "User-Agent": "us"}

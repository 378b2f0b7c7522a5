"""urllib3's own HTTP/2: another connection class, swapped in before or after we attach."""

from __future__ import annotations

from importlib import import_module

import pytest
import urllib3

from peers import HOST, keep_alive

http2 = pytest.importorskip("urllib3.http2", reason="this urllib3 speaks no HTTP/2")
h2 = pytest.importorskip("h2", reason="h2 is not installed")
for part in ("config", "connection", "events"):
    import_module(f"h2.{part}")


def answer(peer):
    """Speak HTTP/2; do not answer when asked for /silence."""
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    conn.initiate_connection()
    peer.send(conn.data_to_send())
    while data := peer.sock.recv(65536):
        for event in conn.receive_data(data):
            if not isinstance(event, h2.events.RequestReceived):
                continue
            if dict(event.headers)[b":path"] == b"/silence":
                continue
            peer.count()
            conn.send_headers(event.stream_id, [(":status", "200")])
            conn.send_data(event.stream_id, b"ok", end_stream=True)
        peer.send(conn.data_to_send())


@pytest.fixture
def inject():
    """Swap HTTP/2 in; swapped out again when the test is over, if not before."""
    yield http2.inject_into_urllib3
    if http2.orig_HTTPSConnection is not None:
        http2.extract_from_urllib3()


@pytest.fixture
def server(serve, authority):
    context = authority.server(HOST)
    context.set_alpn_protocols(["h2"])
    return serve(answer, tls=context)


@pytest.fixture
def plain(serve, tls):
    return serve(keep_alive, tls=tls)


def ask(server, authority, *paths, **options):
    versions = []
    with urllib3.HTTPSConnectionPool(HOST, server.port, ca_certs=authority.file) as pool:
        for path in paths or ("/", "/", "/"):
            try:
                versions.append(pool.request("GET", path, retries=False, **options).version)
            except urllib3.exceptions.HTTPError:
                versions.append(None)
    return versions


@pytest.mark.parametrize("order", ["injected first", "attached first"])
def test_both_protocols_are_counted_in_either_order(scope, server, plain, inject, authority, order):
    if order == "injected first":
        scope.detach()
        inject()
        scope.attach()
    else:
        inject()
    assert ask(server, authority) == [20] * 3
    http2.extract_from_urllib3()
    assert ask(plain, authority) == [11] * 3
    scope.detach()
    scope.attach()
    assert ask(plain, authority) == [11] * 3
    for peer, times in ((server, 1), (plain, 2)):
        seen = scope.of(peer)
        assert seen.opened == ({"first": 1} if times == 1 else {"first": 1, "new_pool": 1})
        assert seen.created == seen.handshakes == times
        assert seen.requests == {"first": times, "reused": 2 * times}
        assert seen.closed == {"pool_closed": times}
        seen.agrees_with(peer)


def test_a_timeout_is_told_from_an_answer(scope, server, inject, authority):
    seen = scope.of(server)
    inject()
    assert ask(server, authority, "/", "/silence", "/", timeout=0.3) == [20, None, 20]
    assert seen.failed == {("reused", "timeout"): 1}
    assert seen.opened == {"first": 1, "replaced_timeout": 1}
    assert seen.closed == {"timeout": 1, "pool_closed": 1}
    assert seen.requests == {"first": 2, "reused": 0}
    seen.agrees_with(server)


def test_a_response_that_never_gives_its_connection_back(scope, server, inject, authority):
    """urllib3's HTTP/2 response can't."""
    seen = scope.of(server)
    inject()
    assert ask(server, authority, preload_content=False) == [20] * 3
    seen.agrees_with(server)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_hook_that_faults_five_times_goes_dormant(
    scope, server, inject, authority, break_hook, side
):
    inject()
    name = "urllib3.http2.connection.HTTP2Connection.getresponse"
    calls = break_hook(name, side)
    for _ in range(3):
        assert ask(server, authority) == [20] * 3
    assert len(calls) == 5
    scope.faults = {name: 5}
    scope.of(server).agrees_with(server)  # what is given back has been answered

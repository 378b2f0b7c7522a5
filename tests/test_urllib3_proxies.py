"""Proxies: whose connection it is, and whose handshake."""

from __future__ import annotations

import pytest
import requests
import urllib3
from urllib3.contrib.socks import SOCKSProxyManager
from urllib3.exceptions import HTTPError

from peers import HOST, free_port, keep_alive, silence
from proxies import connect_proxy, refusing_proxy, refusing_socks5, socks5


def test_a_tunnel_belongs_to_its_target(scope, serve, tls, authority):
    target, proxy = serve(keep_alive, tls=tls), serve(connect_proxy)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url, ca_certs=authority.file) as manager:
        for _ in range(4):
            manager.request("GET", target.url)
        assert seen.open == {"active": 0, "idle": 1}
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 3}
    assert seen.handshakes == seen.created == 1
    assert seen.closed == {"pool_closed": 1}
    assert seen.served == (1, 4)
    assert scope.of(proxy).nothing
    assert proxy.accepted == 1
    seen.agrees_with(target)


def test_a_tunnel_to_a_server_that_closes_is_replaced(scope, serve, tls, authority):
    def bye(peer):
        for _ in peer:
            peer.answer(b"ok", "Connection: close")

    target, proxy = serve(bye, tls=tls), serve(connect_proxy)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url, ca_certs=authority.file) as manager:
        for _ in range(3):
            manager.request("GET", target.url)
        assert seen.closed == {"server_close": 3}
    assert seen.opened == {"first": 1, "replaced_server_close": 2}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.handshakes == 3
    assert proxy.accepted == 3
    seen.agrees_with(target)


def test_a_tunnel_that_was_dropped_while_idle_is_stale(scope, serve, tls, authority):
    def one(peer):
        peer.request()
        peer.answer()

    target, proxy = serve(one, tls=tls), serve(connect_proxy)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url, ca_certs=authority.file) as manager:
        for number in range(2):
            manager.request("GET", target.url)
            proxy.wait(closed=number + 1)
        manager.request("GET", target.url)
    assert seen.closed == {"stale": 2, "pool_closed": 1}
    assert seen.opened == {"first": 1, "replaced_stale": 2}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.idle_times == {"stale": 2}
    seen.agrees_with(target)


def test_a_plain_forward_proxy_is_the_origin(scope, serve):
    proxy, target = serve(keep_alive), free_port()
    seen = scope.of(proxy)
    with urllib3.ProxyManager(proxy.url) as manager:
        for _ in range(3):
            manager.request("GET", f"http://{HOST}:{target}/")
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert scope.of(target).nothing
    seen.agrees_with(proxy)


def test_a_forward_proxy_for_https_is_the_origin(scope, serve, tls, authority):
    proxy, target = serve(keep_alive, tls=tls), free_port()
    seen = scope.of(proxy)
    with urllib3.ProxyManager(
        proxy.url, ca_certs=authority.file, use_forwarding_for_https=True
    ) as manager:
        for _ in range(3):
            manager.request("GET", f"https://{HOST}:{target}/")
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.handshakes == 1
    assert scope.of(target, scheme="https").nothing
    seen.agrees_with(proxy)


def test_tls_in_tls_is_a_handshake_each_for_proxy_and_target(scope, serve, tls, authority):
    target, proxy = serve(keep_alive, tls=tls), serve(connect_proxy, tls=tls)
    to_target, to_proxy = scope.of(target), scope.of(proxy)
    with urllib3.ProxyManager(proxy.url, ca_certs=authority.file) as manager:
        for _ in range(3):
            manager.request("GET", target.url)
    assert to_target.opened == {"first": 1}
    assert to_target.requests == {"first": 1, "reused": 2}
    assert to_target.handshakes == target.handshakes == 1
    assert to_target.created == 1
    assert to_proxy.handshakes == proxy.handshakes == 1
    assert to_proxy.opened == to_proxy.closed == {}
    assert to_proxy.requests == {"first": 0, "reused": 0}
    to_target.agrees_with(target)


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "503 Service Unavailable"])
def test_a_tunnel_that_is_refused_is_a_failure_of_the_target(scope, serve, tls, status):
    target, proxy = serve(keep_alive, tls=tls), serve(refusing_proxy(status))
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url) as manager:
        for _ in range(2):
            with pytest.raises((HTTPError, OSError)):
                manager.request("GET", target.url, retries=False)
    assert seen.opened == {"first": 1, "replaced_error": 1}
    assert seen.closed == {"error": 2}
    assert seen.not_created == {"proxy": 2}
    assert seen.created == seen.handshakes == 0
    assert seen.failed == {("first", "connect"): 2}
    assert seen.requests == {"first": 0, "reused": 0}
    assert scope.of(proxy).nothing
    assert (proxy.accepted, target.accepted) == (2, 0)


def test_a_proxy_that_hangs_up_under_connect_is_a_proxy_failure(scope, serve, tls):
    def hang_up(peer):
        peer.request()

    target, proxy = serve(keep_alive, tls=tls), serve(hang_up)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url) as manager, pytest.raises((HTTPError, OSError)):
        manager.request("GET", target.url, retries=False)
    assert seen.opened == {"first": 1}
    assert sum(seen.closed.values()) == 1
    assert seen.not_created == {"proxy": 1}
    assert seen.failed == {("first", "connect"): 1}


def test_a_proxy_that_is_silent_under_connect_times_out(scope, serve, tls):
    target, proxy = serve(keep_alive, tls=tls), serve(silence)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url, timeout=0.1) as manager:
        with pytest.raises((HTTPError, OSError)):
            manager.request("GET", target.url, retries=False)
        assert seen.opened == {"first": 1}
        assert seen.closed == {"timeout": 1}
        assert seen.not_created == {"timeout": 1}
        assert seen.failed == {("first", "connect"): 1}


def test_a_proxy_that_is_not_there_is_refused(scope, serve, tls):
    target, port = serve(keep_alive, tls=tls), free_port()
    seen = scope.of(target)
    with (
        urllib3.ProxyManager(f"http://{HOST}:{port}") as manager,
        pytest.raises((HTTPError, OSError)),
    ):
        manager.request("GET", target.url, retries=False)
    assert seen.opened == {}
    assert seen.not_created == {"refused": 1}
    assert seen.failed == {("first", "connect"): 1}


def test_a_proxy_that_is_not_trusted_fails_by_tls(scope, serve, tls):
    target, proxy = serve(keep_alive, tls=tls), serve(connect_proxy, tls=tls)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url) as manager, pytest.raises((HTTPError, OSError)):
        manager.request("GET", target.url, retries=False)
    assert seen.opened == {"first": 1}
    assert seen.closed == {"error": 1}
    assert seen.not_created == {"tls": 1}
    assert seen.failed == {("first", "connect"): 1}
    assert seen.handshakes == 0
    assert scope.of(proxy).failed_handshakes == {"tls": 1}


def test_requests_through_a_proxy_belong_to_the_target(scope, serve, tls, authority):
    target, proxy = serve(keep_alive, tls=tls), serve(connect_proxy)
    seen = scope.of(target)
    with requests.Session() as session:
        session.verify = authority.file
        session.proxies = {"https": proxy.url}
        for _ in range(3):
            session.get(target.url)
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.closed == {"pool_closed": 1}
    seen.agrees_with(target)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_connection_through_socks_belongs_to_its_target(scope, serve, tls, authority, secure):
    target, proxy = serve(keep_alive, tls=tls if secure else None), serve(socks5)
    seen = scope.of(target)
    with SOCKSProxyManager(f"socks5h://{HOST}:{proxy.port}", ca_certs=authority.file) as manager:
        for _ in range(3):
            manager.request("GET", target.url)
    assert seen.opened == {"first": 1}
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.handshakes == int(secure)
    assert seen.created == 1
    assert seen.closed == {"pool_closed": 1}
    assert scope.of(proxy).nothing
    assert proxy.accepted == 1
    seen.agrees_with(target)


def test_socks_that_refuses_has_opened_a_connection_for_nothing(scope, serve):
    target, proxy = serve(keep_alive), serve(refusing_socks5)
    seen = scope.of(target)
    with (
        SOCKSProxyManager(f"socks5h://{HOST}:{proxy.port}") as manager,
        pytest.raises((HTTPError, OSError)),
    ):
        manager.request("GET", target.url, retries=False)
    assert seen.not_created == {"proxy": 1}
    assert seen.failed == {("first", "connect"): 1}
    assert proxy.accepted == 1
    assert seen.opened == {"first": 1}
    assert seen.closed == {"error": 1}


def stalls_after(number):
    """Let a SOCKS proxy say nothing more after so many of its answers."""

    def handler(peer):
        answers = (b"\x05\x00", b"\x05\x00\x00")  # the second one is a part
        for answer in answers[:number]:
            peer.exactly(3)
            peer.send(answer)
        peer.until_hung_up()

    return handler


@pytest.mark.parametrize("version", ["socks4", "socks5h"])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_socks_that_stalls_is_a_time_out(scope, serve, tls, version, number, secure):
    target, proxy = serve(keep_alive, tls=tls if secure else None), serve(stalls_after(number))
    seen = scope.of(target)
    with SOCKSProxyManager(f"{version}://{HOST}:{proxy.port}", timeout=0.1) as manager:
        for _ in range(2):
            with pytest.raises((HTTPError, OSError)):
                manager.request("GET", target.url, retries=False)
    assert seen.not_created == {"timeout": 2}
    assert seen.failed == {("first", "connect"): 2}
    assert seen.opened == {"first": 1, "replaced_timeout": 1}
    assert seen.closed == {"timeout": 2}
    assert (proxy.accepted, target.accepted) == (2, 0)


@pytest.mark.parametrize("through", ["nothing", "a tunnel", "socks"])
def test_a_target_that_stalls_under_its_handshake_is_a_time_out(scope, serve, through):
    target = serve(silence)
    url = f"https://{HOST}:{target.port}"
    seen = scope.of(target, scheme="https")
    manager = {
        "nothing": lambda: urllib3.PoolManager(timeout=0.2),
        "a tunnel": lambda: urllib3.ProxyManager(serve(connect_proxy).url, timeout=0.2),
        "socks": lambda: SOCKSProxyManager(f"socks5h://{HOST}:{serve(socks5).port}", timeout=0.2),
    }[through]()
    for _ in range(2):
        with pytest.raises((HTTPError, OSError)):
            manager.request("GET", url, retries=False)
    manager.clear()
    assert seen.not_created == {"timeout": 2}
    assert seen.failed == {("first", "connect"): 2}
    assert seen.opened == {"first": 1, "replaced_timeout": 1}
    assert seen.closed == {"timeout": 2}
    assert seen.failed_handshakes == {"timeout": 2}
    assert target.accepted == 2


def test_a_tls_proxy_that_stalls_under_its_handshake_is_a_time_out(scope, serve, tls):
    target, proxy = serve(keep_alive, tls=tls), serve(silence)
    seen = scope.of(target)
    with urllib3.ProxyManager(f"https://{HOST}:{proxy.port}", timeout=0.1) as manager:
        with pytest.raises((HTTPError, OSError)):
            manager.request("GET", target.url, retries=False)
        assert seen.opened == {"first": 1}
        assert seen.closed == {"timeout": 1}
        assert seen.not_created == {"timeout": 1}
    assert scope.of(proxy, scheme="https").failed_handshakes == {"timeout": 1}


def test_a_proxy_that_stalls_within_its_answer_to_connect_is_a_time_out(scope, serve, tls):
    def half(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 Connection")
        peer.until_hung_up()

    target, proxy = serve(keep_alive, tls=tls), serve(half)
    seen = scope.of(target)
    with urllib3.ProxyManager(proxy.url, timeout=0.1) as manager:
        for _ in range(2):
            with pytest.raises((HTTPError, OSError)):
                manager.request("GET", target.url, retries=False)
    assert seen.opened == {"first": 1, "replaced_timeout": 1}
    assert seen.closed == {"timeout": 2}
    assert seen.not_created == {"timeout": 2}
    assert seen.failed == {("first", "connect"): 2}


def test_socks_that_is_not_there_is_refused(scope, serve):
    target, port = serve(keep_alive), free_port()
    seen = scope.of(target)
    with (
        SOCKSProxyManager(f"socks5h://{HOST}:{port}") as manager,
        pytest.raises((HTTPError, OSError)),
    ):
        manager.request("GET", target.url, retries=False)
    assert seen.not_created == {"refused": 1}
    assert seen.failed == {("first", "connect"): 1}
    assert seen.opened == {}

"""What happens to a service's connections, once each: small, repeatable, whatever watches it.

A scenario sets its servers up and returns a function that plays it once and returns what the
host saw. ``accepted``, ``handshakes`` and ``answered`` are what all its servers count then.
"""

from __future__ import annotations

import gc
import socket

import urllib3
from urllib3.contrib.socks import SOCKSProxyManager

from outcomes import attempt
from peers import HOST, fin, free_port, ok, rst, silence
from proxies import connect_proxy, refusing_proxy, refusing_socks5, socks5
from worlds import SCENARIOS, Player, scenario, trusting

__all__ = ["SCENARIOS", "Player"]

# ---- one server for all: what it does is what it is asked for


def bye(peer):
    peer.answer(b"bye", "Connection: close")
    fin(peer)


def lose(peer):
    peer.answer()
    fin(peer)


def truncated(peer):
    peer.answer(b"half", length=10)
    fin(peer)


def bad_chunk(peer):
    peer.answer(b"rubbish\r\n", "Transfer-Encoding: chunked", length=-1)
    fin(peer)


def no_chunk(peer):
    peer.answer(b"3\r\nabc\r\n", "Transfer-Encoding: chunked", length=-1)
    fin(peer)


def garbage(peer):
    peer.send(b"no such protocol\r\n\r\n")
    fin(peer)


def big(peer):
    peer.answer(b"x" * 300_000)


STEPS = {
    f"/{step.__name__}": step
    for step in (ok, fin, rst, silence, bye, lose, truncated, bad_chunk, no_chunk, garbage, big)
}


def obliging(peer):
    """Do with every request what its target says."""
    for request in peer:
        STEPS[request.target](peer)
        if peer.sock.fileno() < 0:
            return


def get(pool, target="/ok", **options):
    """Ask once; the body is read unless told otherwise."""
    options = {"retries": False} | options
    return pool.request("GET", target, **options)


# ---- scenarios


@scenario(accepted=1, answered=2)
def a_blocking_pool(world):
    server = world.serve(obliging)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1, block=True) as pool:
            # Not for ever, should its only connection have been lost.
            seen = [attempt(get, pool, pool_timeout=0.1) for _ in range(2)]
            conn = pool._get_conn(timeout=0.1)
            seen.append(attempt(pool._get_conn, timeout=0.001))
            pool._put_conn(conn)
        return [*seen, attempt(get, pool)]

    return run


@scenario(accepted=2, answered=2)
def a_pool_that_is_too_small(world):
    server = world.serve(obliging)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1) as pool:
            several = [get(pool, preload_content=False) for _ in range(2)]
            return [(one.read(), attempt(one.release_conn)) for one in several]

    return run


@scenario(accepted=1, answered=1)
def a_pool_closed_under_a_response(world):
    server = world.serve(obliging)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            response = get(pool, preload_content=False)
        return response.read(), attempt(response.release_conn), attempt(pool.close)

    return run


@scenario(accepted=1, handshakes=1, answered=3)
def tls_and_a_server_that_closes(world):
    server = world.serve(obliging, tls=world.tls)

    def run():
        with world.https_pool(server.port) as pool:
            seen = [attempt(get, pool), attempt(get, pool)]
            response = get(pool, "/bye", preload_content=False)
            return [*seen, response.read(), attempt(response.release_conn)]

    return run


@scenario(accepted=1)
def a_certificate_that_nobody_vouches_for(world):
    server = world.serve(obliging, tls=world.tls)
    nobody = trusting(None)

    def run():
        with urllib3.HTTPSConnectionPool(HOST, server.port, ssl_context=nobody) as pool:
            return attempt(get, pool)

    return run


@scenario(accepted=2, handshakes=1, answered=2)  # the proxy's and the target's
def a_tunnel(world):
    proxy, server = world.serve(connect_proxy), world.serve(obliging, tls=world.tls)

    def run():
        manager = urllib3.ProxyManager(proxy.url, ssl_context=world.trusting)
        seen = [attempt(get, manager, f"{server.url}/ok") for _ in range(2)]
        manager.clear()
        return seen

    return run


@scenario(accepted=1)
def a_tunnel_refused(world):
    proxy = world.serve(refusing_proxy("403 Forbidden"))

    def run():
        manager = urllib3.ProxyManager(proxy.url)
        return attempt(get, manager, "https://target.example/")

    return run


@scenario(accepted=3, answered=1)  # two at the proxy, one of them goes on
def socks_proxies(world):
    server = world.serve(obliging)
    proxies = [world.serve(kind) for kind in (socks5, refusing_socks5)]

    def run():
        seen = []
        for proxy in proxies:
            manager = SOCKSProxyManager(f"socks5://{HOST}:{proxy.port}")
            seen.append(attempt(get, manager, f"{server.url}/ok"))
            manager.clear()
        return seen

    return run


@scenario(accepted=2, answered=2)
def an_idle_connection_dropped(world):
    server = world.serve(obliging)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            seen = [attempt(get, pool, "/lose")]
            server.wait(closed=world.closed + 1)
            return [*seen, attempt(get, pool)]

    return run


@scenario(accepted=4, answered=2)
def requests_without_an_answer(world):
    server = world.serve(obliging)
    soon = urllib3.Timeout(connect=5, read=0.01)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            seen = [attempt(get, pool, target) for target in ("/ok", "/fin", "/ok")]
            seen.append(attempt(get, pool, "/silence", timeout=soon))
            return [*seen, attempt(get, pool, "/garbage"), attempt(get, pool, "/rst", retries=0)]

    return run


@scenario()
def a_port_on_which_nobody_listens(_world):
    port = free_port()

    def run():
        with urllib3.HTTPConnectionPool(HOST, port) as pool:
            return attempt(get, pool), attempt(get, pool, retries=1)

    return run


@scenario(accepted=4, answered=4)
def bodies_that_are_not_read_to_their_end(world):
    server = world.serve(obliging)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            unread = get(pool, "/big", preload_content=False)
            unread.close()
            broken = ("/truncated", "/bad_chunk", "/no_chunk")
            return [attempt(get, pool, target) for target in broken]

    return run


@scenario(accepted=3, answered=3)
def pools_evicted_and_cleared(world):
    servers = [world.serve(obliging) for _ in range(3)]

    def run():
        manager = urllib3.PoolManager(num_pools=1)
        seen = [attempt(get, manager, f"{server.url}/ok") for server in servers]
        manager.clear()
        return seen

    return run


class InACycle:
    """Something that only the garbage collector can free."""

    def __init__(self, *held):
        self.held = held
        self.itself = self


@scenario(accepted=4, answered=3)
def all_left_to_the_garbage_collector(world):
    server = world.serve(obliging)

    def run():
        pools = [urllib3.HTTPConnectionPool(HOST, server.port) for _ in range(3)]
        seen = attempt(get, pools[0])
        held = [
            get(pool, target, preload_content=False)
            for pool, target in zip(pools[1:], ("/ok", "/bye"))
        ]
        conn = pools[0]._new_conn()
        conn.connect()
        InACycle(pools, held, conn)
        del pools, held, conn
        gc.collect()
        return seen

    return run


@scenario(accepted=1, answered=1)
def a_unix_socket(world):
    server = world.serve(obliging, path=world.socket_path)

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self):
            self.sock = unix_socket(server.path)

    def run():
        with urllib3.HTTPConnectionPool("localhost") as pool:
            pool.ConnectionCls = Connection
            return attempt(get, pool)

    return run


def unix_socket(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


@scenario(accepted=1, answered=2)
def a_connection_that_was_open_before(world):
    server = world.serve(obliging)

    def run():
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            conn = pool.ConnectionCls(HOST, server.port)
            conn.connect()
            pool.pool.get()
            pool.pool.put(conn)
            return attempt(get, pool), attempt(get, pool)

    return run


@scenario(accepted=2, answered=2)
def a_request_inside_a_request(world):
    outer, inner = world.serve(obliging), world.serve(obliging)

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self):
            super().connect()
            with urllib3.HTTPConnectionPool(HOST, inner.port) as pool:
                get(pool)

    def run():
        with urllib3.HTTPConnectionPool(HOST, outer.port) as pool:
            pool.ConnectionCls = Connection
            return attempt(get, pool)

    return run

"""A hook of ours that raises: shielded, counted, told once, and dormant after five times."""

from __future__ import annotations

import gc
import signal
import weakref
from itertools import cycle

import pytest
import urllib3

import poolscope
from outcomes import attempt
from peers import HOST, fin, free_port, keep_alive, scripted
from poolscope.clients.urllib3 import Client
from poolscope.clients.urllib3_sockets import current
from poolscope.pulse import Pulse
from poolscope.scope import Scope
from scenarios import Player

SIDES = [
    (hook.name, side)
    for hook in Client(Scope(1), Pulse(lambda: None, lambda: None)).hooks
    for side in ("before", "after")
    # No scenario speaks HTTP/2; test_http2 breaks that hook.
    if getattr(hook, side) and hook.module != "urllib3.http2.connection"
]
#: Which scenario comes to a hook, if it is not that of a pool that is used.
COMES_TO = {
    "SOCKSConnection._new_conn": "socks_proxies",
    "_ssl_wrap_socket_impl": "tls_and_a_server_that_closes",
    "RecentlyUsedContainer.__setitem__": "pools_evicted_and_cleared",
}


# All of them with an ordinary exception, and in turns with one of the two that are not.
@pytest.mark.parametrize(
    ("name", "side", "kind"),
    [(*side, ZeroDivisionError) for side in SIDES]
    + [(*side, kind) for side, kind in zip(SIDES, cycle((MemoryError, RecursionError)))],
)
def test_a_hook_that_faults_five_times_goes_dormant(scope, world, break_hook, name, side, kind):
    patcher = poolscope._process.patchers["urllib3"]
    if name in (hook.name for hook in patcher.missing):
        pytest.skip(reason="this urllib3 does not have it")
    if "http2" in name:
        pytest.skip(reason="only HTTP/2 comes to it: test_http2 breaks it")
    chosen = (one for end, one in COMES_TO.items() if name.endswith(end))
    player = Player(world, next(chosen, "a_blocking_pool"))
    scope.detach()
    natively = player.play()
    calls = break_hook(name, side, kind)
    for _ in range(8):
        assert player.play() == natively
    assert len(calls) == 5
    scope.faults = {name: 5}
    dormant = [patch.target for patch in patcher.patches if not patch.active]
    assert dormant == [name]
    scope.detach()
    scope.attach()
    assert all(patch.active for patch in patcher.patches)


def test_a_fault_while_the_host_raises_leaves_the_hosts_exception(scope, break_hook):
    target = "urllib3.connection.HTTPConnection.connect"
    port = free_port()

    def fail():
        with urllib3.HTTPConnectionPool(HOST, port) as pool:
            return attempt(pool.request, "GET", "/", retries=False)

    scope.detach()
    natively = fail()
    assert natively[0][0] == "NewConnectionError"
    break_hook(target, "after")
    assert fail() == natively
    scope.faults = {target: 1}


class Unwilling:
    """A signal handler that does not like to be asked for anything."""

    def __getattr__(self, name):
        raise LookupError(name)

    def __call__(self, *_args):
        pass


def test_a_fault_is_told_from_the_hosts_whatever_its_signal_handlers_are(scope, serve, break_hook):
    target = "urllib3.connectionpool.HTTPConnectionPool._validate_conn"
    before = signal.signal(signal.SIGUSR1, Unwilling())
    try:
        break_hook(target, "before")
        with urllib3.HTTPConnectionPool(HOST, serve(keep_alive).port) as pool:
            assert pool.request("GET", "/").data == b"ok"
    finally:
        signal.signal(signal.SIGUSR1, before)
    scope.faults = {target: 1}


def test_a_checkout_whose_hook_faults_is_not_pending_for_ever(scope, serve, monkeypatch):
    server = serve(keep_alive)
    client = poolscope._process.patchers["urllib3"].hooks[0].before.__self__
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, block=True) as pool:
        pool.request("GET", "/")
        for readings in ([], [1.0]):  # it fails before the checkout, and after it
            with monkeypatch.context() as patch:
                patch.setattr(client, "clock", readings.pop)
                conn = pool._get_conn()
            pool._put_conn(conn)
            assert seen.pending == 0
    scope.faults = {"urllib3.connectionpool.HTTPConnectionPool._get_conn": 2}


def test_a_fault_while_a_connection_is_made_keeps_nobodys_connection(scope, serve, monkeypatch):
    monkeypatch.setattr("poolscope.clients.urllib3_sockets.is_requested", lambda *_: 1 / 0)
    with urllib3.HTTPConnectionPool(HOST, serve(keep_alive).port) as pool:
        conn = pool._new_conn()
        conn.connect()
        gone = weakref.ref(conn)
        del conn
        gc.collect()
        assert gone() is None
    scope.faults = {"urllib3.connection.HTTPConnection.connect": 1}


def test_a_request_whose_end_is_missed_surrounds_no_later_one(scope, serve, break_hook):
    target = "urllib3.connection.HTTPConnection.close"
    break_hook(target, "before")
    with urllib3.HTTPConnectionPool(HOST, serve(scripted(fin)).port) as pool:
        assert attempt(pool.request, "GET", "/", retries=False)[0][0] == "ProtocolError"
        assert current.get().taken_at
    gc.collect()
    assert not current.get().taken_at
    scope.faults = poolscope.snapshot()["faults"]
    assert set(scope.faults) == {target}

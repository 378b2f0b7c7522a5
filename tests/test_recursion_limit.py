"""Close to the recursion limit: our own lack of stack never replaces what the host did."""

from __future__ import annotations

import sys

import pytest
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

import poolscope
from peers import HOST, free_port, keep_alive


@pytest.fixture(autouse=True)
def _nothing_is_told_of_finalizers(monkeypatch):
    """Let those that run close to the limit fail as they do natively, without pytest in it."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _what: None)


def with_frames_left(number, call):
    """Call when this many frames are left of the stack."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back

    def down(further):
        return down(further - 1) if further > 0 else call()

    return down(sys.getrecursionlimit() - depth - number)


class Refusing(HTTPConnection):
    def __init__(self, *_args, **_kwargs):
        raise LookupError


def checked_out(pool):
    pool.request("GET", "/")
    return pool._get_conn()


def connected(pool):
    conn = pool.ConnectionCls(pool.host, pool.port)
    conn.connect()
    return conn


def a_first_request(pool):
    return lambda: pool.urlopen("GET", "/", retries=False).data


def another_request(pool):
    pool.request("GET", "/")
    return a_first_request(pool)


def a_refused_request(pool):
    pool.port = free_port()
    return a_first_request(pool)


def a_checkout_in_vain(pool):
    pool.block = True
    pool._get_conn()
    return lambda: pool._get_conn(timeout=0.001)


def a_new_connection(pool):
    return lambda: type(pool._new_conn())


def a_new_connection_that_fails(pool):
    pool.ConnectionCls = Refusing
    return pool._new_conn


def validating(pool):
    conn = HTTPConnection(pool.host, pool.port)  # it has no record yet, but will need one
    return lambda: pool._validate_conn(conn)


def giving_back(pool):
    conn = checked_out(pool)
    return lambda: pool._put_conn(conn)


def giving_back_one_too_many(pool):
    pool.request("GET", "/")
    conn = connected(pool)
    return lambda: pool._put_conn(conn)


def closing(pool):
    return checked_out(pool).close


def closing_the_pool(pool):
    pool.request("GET", "/")
    return pool.close


#: How many frames of ours are on the stack at most: one for a hook, two if it waits for the end.
CALLS = {
    a_first_request: 4,  # connect() makes the TCP connection inside
    another_request: 0,  # something else goes deeper
    a_refused_request: 4,
    a_checkout_in_vain: 2,
    a_new_connection: 2,
    a_new_connection_that_fails: 2,
    validating: 1,
    giving_back: 1,
    giving_back_one_too_many: 1,
    closing: 1,
    closing_the_pool: 2,  # its connections close inside
}


def outcomes_of(prepare, server, lengths):
    """Return what comes of a call with so many frames left, for each of these numbers."""
    outcomes = []
    for length in lengths:
        for patch in poolscope._process.patchers["urllib3"].patches:
            patch.fault_count = 0  # or the hook would be dormant before it gets interesting
        with HTTPConnectionPool(HOST, server.port) as pool:
            call = prepare(pool)
            try:
                outcomes.append(with_frames_left(length, call))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
                outcomes.append(type(error))
    return outcomes


@pytest.mark.parametrize(("prepare", "ours"), CALLS.items())
def test_the_stack_that_we_take_is_all_that_we_take(scope, serve, prepare, ours):
    compare(scope, serve(keep_alive), prepare, ours)


def test_what_the_host_did_without_any_stack_stays_done(scope, serve, monkeypatch):
    def given(self):
        return self.given

    def prepare(pool):
        pool.given = HTTPConnection(HOST, pool.port)
        return lambda: type(pool._new_conn())

    scope.detach()
    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "_new_conn", given)
        compare(scope, serve(keep_alive), prepare, 2)
        scope.detach()
    scope.attach()


def compare(scope, server, prepare, ours):
    """Hold a call at every small depth against what comes of it without us."""
    lengths = range(1, 50)
    scope.detach()
    (enough,) = outcomes_of(prepare, server, [500])  # and whatever is imported late is imported
    natively = outcomes_of(prepare, server, lengths)
    scope.attach()
    attached = outcomes_of(prepare, server, lengths)
    assert set(natively) == {RecursionError, enough}
    first = natively.index(enough)
    assert natively == [RecursionError] * first + [enough] * (len(lengths) - first)
    assert attached[:first] == natively[:first]
    assert attached[first + ours :] == natively[first + ours :]
    assert set(attached) == set(natively)
    # What we could not do for lack of stack is a fault.
    scope.faults = poolscope.snapshot()["faults"]

"""Close to the recursion limit: our own lack of stack never replaces what the host did."""

from __future__ import annotations

import sys

import pytest
import urllib3

import poolscope
from peers import HOST, free_port, keep_alive

#: Two for each hook on the stack, and connect() makes the TCP connection inside.
OUR_FRAMES = 4


def with_frames_left(number, call):
    """Call when this many frames are left of the stack."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back

    def down(further):
        return down(further - 1) if further > 0 else call()

    return down(sys.getrecursionlimit() - depth - number)


class Refusing(urllib3.connection.HTTPConnection):
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


CALLS = (
    *(a_first_request, another_request, a_refused_request, a_checkout_in_vain, a_new_connection),
    *(a_new_connection_that_fails, giving_back, giving_back_one_too_many, closing),
    closing_the_pool,
)


def outcomes_of(prepare, server, lengths):
    """Return what comes of a call with so many frames left, for each of these numbers."""
    outcomes = []
    for length in lengths:
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            call = prepare(pool)
            try:
                outcomes.append(with_frames_left(length, call))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
                outcomes.append(type(error))
    return outcomes


@pytest.mark.parametrize("prepare", CALLS)
def test_the_stack_that_we_take_is_all_that_we_take(scope, serve, prepare):
    server = serve(keep_alive)
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
    assert attached[first + OUR_FRAMES :] == natively[first + OUR_FRAMES :]
    assert set(attached) == set(natively)
    # What we could not do for lack of stack is a fault, and some hooks are dormant now.
    scope.faults = poolscope.snapshot()["faults"]
    scope.detach()
    scope.attach()
    assert outcomes_of(prepare, server, [500]) == [enough]

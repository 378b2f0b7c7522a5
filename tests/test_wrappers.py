"""Somebody else's wrappers on the very functions that we hook: they see what they saw before."""

from __future__ import annotations

import functools

import pytest
import urllib3

import poolscope
from peers import keep_alive


def wrapt_of(package):
    """Wrap as tracers do, with wrapt or with a copy of their own."""

    def wrap(function, see):
        wrapt = pytest.importorskip(package, reason=f"{package} is not installed")

        def wrapper(wrapped, instance, args, kwargs):
            see(type(instance), args, kwargs)
            return wrapped(*args, **kwargs)

        return wrapt.FunctionWrapper(function, wrapper)

    return wrap


def closure(function, see):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        see(None, args, kwargs)
        return function(*args, **kwargs)

    return wrapper


WRAPPERS = {
    "wrapt": wrapt_of("wrapt"),
    "New Relic's wrapt": wrapt_of("newrelic.packages.wrapt"),
    "closure": closure,
}


class Theirs:
    """Wrappers around all that we hook."""

    def __init__(self, points, wrap):
        self.points, self.wrap = points, wrap
        self.calls = []

    def attach(self):
        self.below = [vars(owner)[name] for owner, name in self.points]
        for (owner, name), function in zip(self.points, self.below):
            setattr(owner, name, self.wrap(function, functools.partial(self.see, name)))

    def see(self, name, instance, args, kwargs):
        self.calls.append((name, instance, [type(arg) for arg in args], sorted(kwargs)))

    def detach(self):
        for (owner, name), function in zip(self.points, self.below):
            setattr(owner, name, function)

    def taken(self):
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def points(scope):
    """Return all functions that we hook, with poolscope detached."""
    patches = poolscope._process.patchers["urllib3"].patches
    points = [(patch.owner, patch.attribute) for patch in patches]
    scope.detach()
    return [(owner, name) for owner, name in points if name in vars(owner)]


@pytest.fixture
def traffic(serve, tls, authority):
    """Ask two servers, with and without TLS."""
    servers = serve(keep_alive), serve(keep_alive, tls=tls)

    def traffic():
        for server in servers:
            with urllib3.PoolManager(ca_certs=authority.file) as manager:
                for _ in range(3):
                    manager.request("GET", server.url)

    traffic.servers = servers
    return traffic


def attributes(points):
    return [vars(owner)[name] for owner, name in points]


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_below_ours_see_what_they_saw_before(scope, points, traffic, kind):
    before = attributes(points)
    theirs = Theirs(points, WRAPPERS[kind])
    theirs.attach()
    traffic()
    without_us = theirs.taken()
    assert {name for name, *_ in without_us} >= {"_validate_conn", "_get_conn", "connect"}
    counts = [(server.accepted, server.answered) for server in traffic.servers]
    scope.attach()
    traffic()
    assert theirs.taken() == without_us
    for server, (opened, answered) in zip(traffic.servers, counts):
        seen = scope.of(server)
        assert seen.opened == {"first": server.accepted - opened}
        assert sum(seen.requests.values()) == server.answered - answered
        assert seen.handshakes == (seen.created if server.tls else 0)
    scope.detach()
    traffic()
    assert theirs.taken() == without_us
    theirs.detach()
    assert attributes(points) == before


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_above_ours_see_what_they_saw_before(scope, points, traffic, kind):
    before = attributes(points)
    theirs = Theirs(points, WRAPPERS[kind])
    theirs.attach()
    traffic()
    without_us = theirs.taken()
    theirs.detach()
    counts = [(server.accepted, server.answered) for server in traffic.servers]
    scope.attach()
    theirs.attach()
    traffic()
    assert theirs.taken() == without_us
    seen = [scope.of(server) for server in traffic.servers]
    told = [(each.opened, each.requests, each.handshakes) for each in seen]
    for each, server, (opened, answered) in zip(seen, traffic.servers, counts):
        assert each.opened == {"first": server.accepted - opened}
        assert sum(each.requests.values()) == server.answered - answered
    scope.detach()
    traffic()
    assert theirs.taken() == without_us
    assert [(each.opened, each.requests, each.handshakes) for each in seen] == told
    scope.attach()
    traffic()
    assert theirs.taken() == without_us
    for each in seen:
        assert each.requests == {"first": 2, "reused": 4}
    theirs.detach()
    traffic()
    for each in seen:
        assert each.requests == {"first": 3, "reused": 6}
    scope.detach()
    assert attributes(points) == before


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_from_before_us_that_are_taken_out_under_us(scope, points, traffic, kind):
    """They take our hooks out with them, as mock.patch does; the next attach mends that."""
    before = attributes(points)
    theirs = Theirs(points, WRAPPERS[kind])
    theirs.attach()
    scope.attach()
    theirs.detach()
    for rounds in (1, 2):
        scope.detach()
        assert attributes(points) == before
        scope.attach()
        traffic()
        assert theirs.taken() == []
        for server in traffic.servers:
            assert scope.of(server).requests == {"first": rounds, "reused": 2 * rounds}
    scope.detach()
    assert attributes(points) == before


def test_a_wrapper_that_is_gone_with_its_method_is_forgotten(scope, monkeypatch):
    """As vcrpy's of an inherited method, if we attach while a cassette is in."""
    patcher = poolscope._process.patchers["urllib3"]
    usual = len(patcher.patches)
    scope.detach()
    theirs = closure(urllib3.HTTPConnectionPool._get_conn, lambda *_what: None)
    with monkeypatch.context() as patch:
        patch.setattr(urllib3.HTTPSConnectionPool, "_get_conn", theirs, raising=False)
        scope.attach()
    assert len(patcher.patches) == usual + 1
    scope.detach()
    assert patcher.patches == []
    scope.attach()
    assert len(patcher.patches) == usual

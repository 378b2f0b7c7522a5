"""What all tests share: peers, certificates, and a reader of the exported metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import ssl

import pytest
import trustme
from prometheus_client import CollectorRegistry

import poolscope
from peers import HOST, Server
from worlds import World, trusting


def pytest_configure():
    """Leave the environment's own proxies, certificates and settings behind."""
    for name in list(os.environ):
        if name.lower().endswith(("_proxy", "ca_bundle")) or name.startswith(
            ("SSL_CERT_", "POOLSCOPE_")
        ):
            del os.environ[name]


class Seen:
    """What the exported Prometheus metrics say of one origin, read anew at every look."""

    def __init__(self, registry, address, port, scheme):
        self.registry = registry
        self.labels = {
            "server_address": address,
            "server_port": str(port),
            "url_scheme": scheme,
            "poolscope_client": "urllib3",
        }

    def samples(self, name):
        """Yield the labels and the value of each of the origin's samples of this name."""
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name == name and self.labels.items() <= sample.labels.items():
                    yield sample.labels, sample.value

    def _by(self, name, *labels):
        found = {}
        for values, number in self.samples(name):
            key = tuple(values[label] for label in labels)
            key = key[0] if len(key) == 1 else key
            found[key] = found.get(key, 0) + number
        return found

    def _counts(self, name, *labels):
        return {key: int(number) for key, number in self._by(name, *labels).items()}

    def total(self, name):
        """Return the sum over all further labels."""
        return sum(number for _, number in self.samples(name))

    def _without_error(self, name):
        return self._counts(name, "error_type").get("", 0)

    def _errors(self, name):
        return {key: number for key, number in self._counts(name, "error_type").items() if key}

    @property
    def opened(self):
        return self._counts("poolscope_connections_opened_total", "poolscope_cause")

    @property
    def closed(self):
        return self._counts("poolscope_connections_closed_total", "poolscope_reason")

    @property
    def requests(self):
        by = self._counts("poolscope_request_duration_seconds_count", "poolscope_reused")
        return {"first": by.get("false", 0), "reused": by.get("true", 0)}

    @property
    def failed(self):
        """By kind of error, of first and of reused requests."""
        by = self._counts("poolscope_requests_failed_total", "poolscope_reused", "error_type")
        word = {"false": "first", "true": "reused"}
        return {(word[reused], error): number for (reused, error), number in by.items()}

    @property
    def handshakes(self):
        return self._without_error("poolscope_tls_handshake_duration_seconds_count")

    @property
    def failed_handshakes(self):
        return self._errors("poolscope_tls_handshake_duration_seconds_count")

    @property
    def created(self):
        return self._without_error("poolscope_connection_create_time_seconds_count")

    @property
    def not_created(self):
        return self._errors("poolscope_connection_create_time_seconds_count")

    @property
    def open(self):
        by = self._counts("http_client_open_connections", "http_connection_state")
        return {"active": by.get("active", 0), "idle": by.get("idle", 0)}

    @property
    def stale(self):
        return int(self.total("poolscope_connections_stale"))

    @property
    def served(self):
        """How many connections closed, and how many requests these had served together."""
        name = "poolscope_connection_requests"
        return int(self.total(f"{name}_count")), int(self.total(f"{name}_sum"))

    @property
    def idle_times(self):
        return self._counts("poolscope_connection_idle_time_seconds_count", "poolscope_reason")

    @property
    def waits(self):
        return int(self.total("poolscope_connection_wait_time_seconds_count"))

    @property
    def wait_timeouts(self):
        return int(self.total("poolscope_connection_timeouts_total"))

    @property
    def pending(self):
        return int(self.total("poolscope_connection_pending_requests"))

    @property
    def max(self):
        return int(self.total("poolscope_connection_max"))

    @property
    def lifetimes(self):
        return int(self.total("http_client_connection_duration_seconds_count"))

    @property
    def pools(self):
        """How many pools were opened, and how many are open."""
        names = ("poolscope_pools_opened_total", "poolscope_pools_open")
        return tuple(int(self.total(name)) for name in names)

    @property
    def nothing(self):
        """Whether there is no series of this origin at all."""
        return not any(
            self.labels.items() <= sample.labels.items()
            for family in self.registry.collect()
            for sample in family.samples
        )

    def agrees_with(self, server):
        """Hold what was exported against what the server has counted."""
        ours = (sum(self.opened.values()), self.handshakes, sum(self.requests.values()))
        server.wait(accepted=ours[0], handshakes=ours[1], answered=ours[2])
        assert ours == (server.accepted, server.handshakes, server.answered)

    def obeys_the_laws(self, adopted):
        """At rest: opened = closed + open, and what is told of each closed one is told once."""
        opened, closed = sum(self.opened.values()), sum(self.closed.values())
        levels = self.open
        if not adopted:
            assert opened == closed + sum(levels.values()), (self.opened, self.closed, levels)
        assert self.lifetimes == self.served[0] == closed
        assert self.created <= opened + adopted
        numbers = [*levels.values(), self.pending, self.max, *self.pools]
        assert min(numbers) >= 0, numbers
        assert self.total("poolscope_connection_age_sum_seconds") >= 0
        assert self.total("poolscope_connection_oldest_age_seconds") >= 0


class Scope:
    """poolscope, attached, with a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.seen = []
        #: What a test does to the laws on purpose.
        self.adopted = 0
        self.faults = {}
        self.attach()

    def attach(self):
        poolscope.instrument(self.registry)

    def detach(self):
        poolscope.uninstrument()

    def of(self, server, *, address=HOST, scheme=None):
        """Read the metrics of a server, or of a port."""
        port = server if isinstance(server, int) else server.port
        scheme = scheme or getattr(server, "scheme", "http")
        if getattr(server, "path", ""):
            address, port = server.path, ""
        seen = Seen(self.registry, address, port, scheme)
        self.seen.append(seen)
        return seen


def _forget():
    """Begin a new history as a forked child does; a long one makes every look slow."""
    process = poolscope._process
    process.scope.begin()
    process.readings.forked()


@pytest.fixture(scope="session", autouse=True)
def _many_origins():
    """Every test has origins of its own, all in one process.

    What is imported by now stays: no collection has to look at it again.
    """
    gc.collect()
    gc.freeze()
    poolscope.instrument((), max_origins=100_000)
    poolscope.uninstrument()


@pytest.fixture
def scope(_many_origins):
    """Attach poolscope, and hold it to its laws when the test is over."""
    _forget()
    scope = Scope()
    try:
        yield scope
        if not poolscope._process.attached:
            scope.attach()
        gc.collect()
        # Our shield would hide our own faults from a test.
        assert poolscope.snapshot()["faults"] == scope.faults
        for seen in scope.seen:
            seen.obeys_the_laws(scope.adopted)
    finally:
        poolscope.uninstrument()


@pytest.fixture
def break_hook(scope, monkeypatch):
    """Make a hook of ours raise; the list that comes back has an entry for every time."""

    def break_hook(name, side, kind=ZeroDivisionError):
        calls = []

        def broken(*_args, **_kwargs):
            calls.append(name)
            raise kind

        patcher = poolscope._process.patchers["urllib3"]
        scope.detach()
        hooks = [
            dataclasses.replace(hook, **{side: broken}) if hook.name == name else hook
            for hook in patcher.hooks
        ]
        monkeypatch.setattr(patcher, "hooks", tuple(hooks))
        scope.attach()
        return calls

    return break_hook


@pytest.fixture
def serve():
    """Start servers that live as long as the test."""
    with contextlib.ExitStack() as stack:

        def serve(*args, **kwargs):
            server = Server(*args, **kwargs)
            stack.callback(server.stop)
            return server

        yield serve


class Authority:
    """Hands out certificates that only its own file vouches for."""

    def __init__(self, directory):
        self._ca = trustme.CA()
        self.file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *names):
        """Return a server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def tls(authority):
    """Return the context of a server with a good certificate."""
    return authority.server(HOST, "localhost")


@pytest.fixture
def world(serve, tls, authority, tmp_path):
    """Return the peers of a scenario that is played again and again."""
    gc.collect()
    gc.freeze()  # a collection then looks at the scenario alone
    gc.disable()  # and comes only where the scenario asks for it
    yield World(serve, tls, trusting(authority), str(tmp_path / "socket"))
    gc.enable()
    gc.unfreeze()


@pytest.fixture(scope="module")
def tried():
    """Hold the points of injection that an earlier scenario has come to."""
    return set()

"""How many origins are told apart, who makes way for whom, and how each is spelled."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from peers import HOST, keep_alive
from poolscope import catalog, origins
from poolscope import events as ev
from poolscope.backends.prometheus import PrometheusObserver
from poolscope.observers import Observer
from poolscope.origins import OTHER, Origins, named
from poolscope.readings import Readings
from poolscope.records import Carrier, Connection, Pool
from poolscope.scope import Scope

API = ev.Origin("api.example.com", "443", "https", "urllib3")
NASTY = (
    "\x1b[31m", "a\nb", "a\0b", "\udcff\udcfe", "\u202eevil", "x" * 100_000, "\N{PILE OF POO}",
    '"', "'", "</script>", "{{ $labels }}", "%s", "\\", "", " ",
)  # fmt: skip


@pytest.mark.parametrize("part", ["address", "port", "scheme", "client"])
@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_every_name_can_be_told_and_is_bounded(part, text):
    spelled = named(API._replace(**{part: text}))
    for name in spelled:
        assert name.encode().decode() == name
        assert len(name) <= 255
    observer = PrometheusObserver(lambda: None)
    observer.tell([ev.OriginSeen(spelled), ev.Opened(spelled, "first")])
    registry = CollectorRegistry()
    registry.register(observer)
    assert b"poolscope_connections_opened_total{" in generate_latest(registry)


def test_no_host_and_no_socket_is_spelled_as_the_others_are():
    assert named(API._replace(address=OTHER)).address == "_other."
    assert named(API._replace(address=OTHER, port="")).address == "./_other"
    assert named(API) == API


def test_what_is_no_text_is_spelled_all_the_same():
    assert named(API._replace(address=None, port=443)) == API._replace(address="None", port="443")


def test_a_host_named_like_the_others_counts_against_the_bound(scope_of_two):
    """Whoever chooses the URLs of a webhook sender can choose that one, on 20,000 ports."""
    told = scope_of_two
    for port in range(20_000):
        told.fails(API._replace(address=OTHER, port=str(port)))
    told.drain()
    assert len(told.origins()) == 3
    assert told.failed() == 20_000


class Told:
    """A scope with room for two origins, and what it has told Prometheus and the readings."""

    def __init__(self):
        self.now = 1.0
        self.scope = Scope(2)
        self.scope.clock = lambda: self.now
        self.readings = Readings()
        self.registry = CollectorRegistry()
        observer = PrometheusObserver(self.scope.drain)
        self.registry.register(observer)
        self.scope.introduce([self.readings, observer])
        self.seen = {}

    def drain(self):
        """Drain, and hold the scrape to the last one."""
        self.scope.drain()
        now = {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if family.type in ("counter", "histogram") and not sample.name.endswith("_created")
        }
        for series, value in now.items():
            assert value >= self.seen.get(series, 0.0), series
        self.seen |= now

    def pool(self, origin):
        pool = Pool(self.scope.ledger, origin, blocking=False, maxsize=1)
        self.scope.ledger.log.append(("pool", pool))
        return pool

    def fails(self, origin):
        pool = self.pool(origin)
        self.scope.ledger.log.append(("failed", pool, False, "connect"))
        self.scope.ledger.log.append(("pool_gone", pool))

    def connects(self, origin):
        carrier = Carrier(self.scope.ledger, self.pool(origin))
        connection = carrier.connection = Connection(carrier, self.now)
        self.scope.ledger.log.append(("opened", connection))
        return connection

    def origins(self):
        return {
            sample.labels["server_address"] + sample.labels["server_port"]
            for family in self.registry.collect()
            for sample in family.samples
            if "server_address" in sample.labels
        }

    def failed(self):
        """Count failed requests over all origins, as both tell them."""
        kept = sum(self.readings.numbers[catalog.FAILED].values())
        scraped = sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "poolscope_requests_failed_total"
        )
        assert kept == scraped
        return kept


@pytest.fixture
def scope_of_two():
    return Told()


def host(number):
    return API._replace(address=f"host{number}.example.com")


def test_one_that_never_had_a_connection_makes_way_for_one_that_has(scope_of_two):
    """And what it has counted is the others' from then on, so that no sum ever goes down."""
    told = scope_of_two
    told.fails(host(1))
    told.fails(host(2))
    told.fails(host(3))
    told.drain()
    assert told.origins() == {"host1.example.com443", "host2.example.com443", OTHER}
    told.connects(host(4))
    told.drain()
    assert told.origins() == {"host4.example.com443", "host2.example.com443", OTHER}
    assert told.failed() == 3
    told.connects(host(5))
    told.drain()
    assert told.origins() == {"host4.example.com443", "host5.example.com443", OTHER}
    assert told.failed() == 3
    told.connects(host(6))
    told.drain()
    assert told.origins() == {"host4.example.com443", "host5.example.com443", OTHER}


def test_one_that_gave_way_is_among_the_others_for_good(scope_of_two):
    told = scope_of_two
    told.fails(host(1))
    told.fails(host(2))
    told.connects(host(3))
    told.drain()
    told.connects(host(1))
    told.fails(host(1))
    told.drain()
    assert told.origins() == {"host3.example.com443", "host2.example.com443", OTHER}
    assert told.failed() == 3


def test_one_that_nothing_was_sent_to_for_an_hour_makes_way(scope_of_two):
    """With the connections that it still has open, which close among the others."""
    told = scope_of_two
    idle, busy = told.connects(host(1)), told.connects(host(2))
    told.drain()
    idle.give_back(told.now)
    told.now += 3590
    told.drain()
    busy.give_back(told.now)
    told.connects(host(3))
    told.drain()
    assert told.origins() == {"host1.example.com443", "host2.example.com443", OTHER}
    told.now += 70
    told.connects(host(4))
    told.drain()
    assert told.origins() == {"host4.example.com443", "host2.example.com443", OTHER}
    idle.end(told.now, "explicit")
    told.drain()
    value = told.registry.get_sample_value
    others = {
        "server_address": OTHER,
        "server_port": "",
        "url_scheme": "https",
        "poolscope_client": "urllib3",
    }
    assert value("http_client_open_connections", {**others, "http_connection_state": "active"}) == 1
    assert value("http_client_open_connections", {**others, "http_connection_state": "idle"}) == 0
    assert (
        value("poolscope_connections_closed_total", {**others, "poolscope_reason": "explicit"}) == 1
    )


def test_no_more_slots_than_there_are_change_hands():
    """Some backends can't forget a name, so that the names of a process have to end somewhere."""
    known = Origins(2)
    for number in range(2):
        known.find(host(number))
    for number in range(2, 4):
        assert known.claim(host(number), 0.0) is not None
        known.find(host(number))
    assert known.claim(host(4), 0.0) is None
    assert known.find(host(4))[0].origin.address == OTHER
    assert len(list(known)) == 3


def test_an_observer_is_told_who_has_what_was_counted(scope_of_two):
    told = scope_of_two
    heard = []

    class Listener(Observer):
        def origin_left(self, event):
            heard.append(event)

    told.scope.introduce([Listener()])
    told.fails(host(1))
    told.fails(host(2))
    told.connects(host(3))
    told.scope.drain()
    assert heard == [ev.OriginLeft(host(1), host(1)._replace(address=OTHER, port=""))]


def test_in_multiprocess_mode_what_was_counted_stays_where_it_is(tmp_path):
    """Nothing can be taken out of its files; the sums are the same."""
    script = f"""
    import sys
    sys.path[:0] = {sys.path!r}
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector
    from test_origins import Told, host
    told = Told()
    told.fails(host(1)); told.fails(host(2)); told.connects(host(3))
    told.drain()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    print(sorted((sample.labels["server_address"], sample.value)
        for family in registry.collect() for sample in family.samples
        if sample.name in ("poolscope_requests_failed_total", "poolscope_pools_open")))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(result.stdout) == [
        *[(OTHER, 0.0)],
        *[("host1.example.com", 0.0), ("host1.example.com", 1.0)],
        *[("host2.example.com", 0.0), ("host2.example.com", 1.0)],
        *[("host3.example.com", 1.0)],
    ]
    assert "more than 2 origins" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_bogus_hosts_hide_no_upstream(serve):
    """A hundred names that lead nowhere, and then the upstream that matters."""
    server = serve(keep_alive)
    script = f"""
    import poolscope, urllib3
    poolscope.instrument(())
    for number in range(2, 152):
        pool = urllib3.HTTPConnectionPool(f"127.0.0.{{number}}", 1)
        for _ in range(2):
            try:
                pool.request("GET", "/", retries=False)
            except urllib3.exceptions.HTTPError:
                pass
    with urllib3.HTTPConnectionPool("{HOST}", {server.port}) as pool:
        for _ in range(20):
            pool.request("GET", "/")
    rows = poolscope.snapshot()["origins"]
    print(len(rows), sum(sum(row["requests"]["failed"].values()) for row in rows))
    print([row["requests"]["answered"] for row in rows if row["port"] == "{server.port}"])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "101 300\n[20]\n"
    assert "more than 100 origins" in result.stderr
    assert (server.accepted, server.answered) == (1, 20)


def test_a_search_that_found_nobody_is_not_repeated_at_once(monkeypatch):
    """It would cost every connection of an origin without a slot."""
    known = Origins(1)
    known.find(host(1))
    next(iter(known)).had_connections = True
    looks = []
    monkeypatch.setattr(
        origins.OriginState, "gives_way", lambda _self, now: looks.append(now) or False
    )
    for now in (0.0, 1.0, 59.0, 61.0):
        assert known.claim(host(2), now) is None
    assert looks == [0.0, 61.0]

"""What telemetry's exporters send is not counted; what instrumented libraries send, is."""

from __future__ import annotations

import contextlib

import pytest
import requests
import urllib3
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

import poolscope
from otlp import Receiver
from peers import HOST, free_port, keep_alive


@contextlib.contextmanager
def suppressed_by(key):
    token = context.attach(context.set_value(key, value=True))
    try:
        yield
    finally:
        context.detach(token)


KEYS = {
    "the utilities": suppress_instrumentation,
    "the API's key": lambda: suppressed_by(context._SUPPRESS_INSTRUMENTATION_KEY),
    "the plain key": lambda: suppressed_by("suppress_instrumentation"),
}


@pytest.mark.parametrize("suppress", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("block", [False, True])
def test_nothing_of_a_suppressed_request_is_counted(scope, serve, tls, authority, suppress, block):
    server = serve(keep_alive, tls=tls)
    seen = scope.of(server)
    with (
        suppress(),
        urllib3.HTTPSConnectionPool(
            HOST, server.port, ca_certs=authority.file, block=block
        ) as pool,
    ):
        for _ in range(3):
            assert pool.request("GET", "/").data == b"ok"
    assert (server.accepted, server.answered) == (1, 3)
    assert seen.nothing


def test_the_http_only_key_is_somebody_elses(scope, serve):
    """The requests and botocore instrumentors set it around the requests of their users."""
    server = serve(keep_alive)
    with suppress_http_instrumentation(), requests.Session() as session:
        session.get(server.url)
    scope.of(server).agrees_with(server)
    assert server.answered == 1


def test_a_connection_that_was_opened_suppressed_is_adopted_by_the_first_that_is_not(scope, serve):
    server = serve(keep_alive)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with suppress_instrumentation():
            pool.request("GET", "/")
        pool.request("GET", "/")
        assert seen.requests == {"first": 0, "reused": 1}
        assert seen.opened == {}
    scope.adopted = 1


def test_a_suppressed_request_inside_another_leaves_that_alone(scope, serve):
    """As an exporter that is called in the midst of a request, by its log line."""
    server, collector = serve(keep_alive), serve(keep_alive)
    seen = scope.of(server)
    exporter = urllib3.PoolManager()
    times = []

    class Connection(urllib3.connection.HTTPConnection):
        def getresponse(self, *args, **kwargs):
            with suppress_instrumentation():
                times.append(exporter.request("GET", collector.url).status)
                with pytest.raises(urllib3.exceptions.HTTPError):
                    exporter.request("GET", f"http://{HOST}:{free_port()}", retries=False)
            return super().getresponse(*args, **kwargs)

    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.ConnectionCls = Connection
        for _ in range(3):
            pool.request("GET", "/")
    assert set(times) == {200}  # 1.26 asks twice for the response
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.failed == {}
    seen.agrees_with(server)
    assert scope.of(collector).nothing
    exporter.clear()


def test_an_exporters_connections_are_not_counted_however_often_it_exports(scope, serve):
    receiver = Receiver()
    server = serve(keep_alive)
    exporter = OTLPMetricExporter(endpoint=f"{receiver.url}/v1/metrics")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
    poolscope.instrument([scope.registry, provider])
    with urllib3.PoolManager() as pool:
        for _ in range(3):
            pool.request("GET", server.url)
            provider.force_flush()
    provider.shutdown()
    assert receiver.requests == 4
    ports = {dict(labels).get("server_port") for _, labels in receiver.samples}
    assert ports == {str(server.port)}
    assert scope.of(int(receiver.url.rpartition(":")[2])).nothing
    scope.of(server).agrees_with(server)
    receiver.stop()

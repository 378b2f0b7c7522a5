"""The OpenTelemetry backend: the catalogue's metrics, exact at each collection of any SDK."""

from __future__ import annotations

import pytest
import urllib3
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import poolscope
from otlp import METRICS, metrics_of, samples_of
from peers import HOST, keep_alive, ok, scripted, silence
from poolscope import catalog

KINDS = {"counter": "Sum", "updowncounter": "Sum", "gauge": "Gauge", "histogram": "Histogram"}
CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA


@pytest.fixture
def provide(scope):
    """Attach meter providers; they are told beside the Prometheus registry of ``scope``."""
    made = []

    def provide(*readers, **options):
        made.append(MeterProvider(list(readers), shutdown_on_exit=False, **options))
        poolscope.instrument([scope.registry, made[-1]])
        return made[-1]

    yield provide
    for provider in made:
        provider.shutdown()


def traffic(server, authority):
    """Make every kind of event that one HTTPS upstream can cause in a moment."""
    options = {"ca_certs": authority.file, "retries": False}
    with urllib3.HTTPSConnectionPool(HOST, server.port, block=True, **options) as pool:
        for _ in range(3):
            pool.request("GET", "/")
        with pytest.raises(urllib3.exceptions.HTTPError):
            pool.request("GET", "/", timeout=0.05)
        held = pool.request("GET", "/", preload_content=False)
        with pytest.raises(urllib3.exceptions.EmptyPoolError):
            pool.urlopen("GET", "/", pool_timeout=0.01)
        yield
        held.drain_conn()
        held.release_conn()


def prometheus_samples(registry, port):
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.labels.get("server_port") == str(port) and not sample.name.endswith("_created")
    }


def comparable(samples, growing=("age",)):
    """Leave out empty labels and series, which the dialects spell differently, and what grows."""
    found = {}
    for (name, labels), value in samples.items():
        if not any(word in name for word in growing) and value:
            found[name, frozenset((key, text) for key, text in labels if text)] = pytest.approx(
                value
            )
    return found


#: Lines of code are not looked for, nothing is held, and we have no faults.
ABSENT = ("connections.by_callsite", "connections.held", "faults")


def test_every_number_is_that_of_the_server_and_of_prometheus(
    scope, serve, tls, authority, provide
):
    server = serve(scripted(ok, ok, ok, silence, ok), tls=tls)
    reader = InMemoryMetricReader()
    provide(reader)
    for _ in traffic(server, authority):
        during = samples_of(reader.get_metrics_data())
        native = prometheus_samples(scope.registry, server.port)
        growing = ("age", "busy")
        assert comparable(during, growing) == comparable(native, growing)
    after = samples_of(reader.get_metrics_data())
    assert comparable(after) == comparable(prometheus_samples(scope.registry, server.port))
    scope.of(server).agrees_with(server)
    seen = {name for name, _ in during} | {name for name, _ in after}
    absent = [
        metric.name
        for metric in catalog.CATALOG
        if not any(name.startswith(metric.prometheus_name) for name in seen)
    ]
    assert absent == [f"poolscope.{name}" for name in ABSENT]


def test_names_units_kinds_and_bounds_are_the_catalogues(serve, tls, authority, provide):
    server = serve(scripted(ok, ok, ok, silence, ok), tls=tls)
    reader = InMemoryMetricReader()
    provide(reader)
    for _ in traffic(server, authority):
        pass
    data = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    assert (scope.scope.name, scope.scope.version) == ("poolscope", poolscope.__version__)
    assert scope.schema_url.startswith("https://opentelemetry.io/schemas/")
    for told in metrics_of(data):
        metric = METRICS[told.name]
        assert (told.unit, told.description) == (metric.unit, metric.help)
        assert type(told.data).__name__ == KINDS[metric.kind]
        if metric.kind in ("counter", "updowncounter"):
            assert told.data.is_monotonic == (metric.kind == "counter")
        for point in told.data.data_points:
            named = [name for name in metric.all_attributes if name in point.attributes]
            assert list(point.attributes) == named
            assert point.attributes["server.port"] == server.port
            assert isinstance(point.attributes.get("poolscope.reused", True), bool)
            if metric.kind == "histogram":
                assert point.explicit_bounds == metric.bounds


def test_each_of_several_readers_gets_everything(scope, serve, provide):
    server = serve(keep_alive)
    names = ("counter", "histogram")
    readers = [
        InMemoryMetricReader(),
        InMemoryMetricReader(preferred_temporality=dict.fromkeys(_instruments(), DELTA)),
    ]
    provide(*readers)
    pool = urllib3.PoolManager()
    total = {}
    for turn in range(1, 4):
        for _ in range(turn):
            pool.request("GET", server.url)
        cumulative, delta = (samples_of(reader.get_metrics_data()) for reader in readers)
        for key, value in delta.items():
            total[key] = total.get(key, 0.0) + value
        for (name, labels), value in cumulative.items():
            kind = next(
                metric.kind for metric in catalog.CATALOG if name.startswith(metric.prometheus_name)
            )
            if kind in names:
                assert total[name, labels] == pytest.approx(value), name
    assert server.answered == 6
    pool.clear()
    scope.of(server)


def _instruments():
    from opentelemetry.sdk import metrics  # noqa: PLC0415 - only here

    return (metrics.Counter, metrics.ObservableCounter, metrics.Histogram)


def test_the_series_of_an_origin_that_is_gone_end(scope, serve, provide):
    server = serve(keep_alive)
    reader = InMemoryMetricReader()
    provide(reader)
    levels = {metric.name for metric in catalog.LEVELS}
    with urllib3.PoolManager() as pool:
        pool.request("GET", server.url)
        assert levels <= {metric.name for metric in metrics_of(reader.get_metrics_data())}
    del pool
    told = {metric.name for metric in metrics_of(reader.get_metrics_data())}
    assert not levels & told
    assert "poolscope.connections.closed" in told
    scope.of(server)


def test_views_drop_attributes_and_change_histograms(scope, serve, provide):
    server = serve(keep_alive)
    reader = InMemoryMetricReader()
    provide(
        reader,
        views=[
            View(instrument_name="poolscope.connections.*", attribute_keys={"poolscope.cause"}),
            View(
                instrument_name="poolscope.request.duration",
                aggregation=ExponentialBucketHistogramAggregation(),
            ),
        ],
    )
    with urllib3.PoolManager() as pool:
        for _ in range(5):
            pool.request("GET", server.url)
    by_name = {metric.name: metric.data for metric in metrics_of(reader.get_metrics_data())}
    (opened,) = by_name["poolscope.connections.opened"].data_points
    assert (dict(opened.attributes), opened.value) == ({"poolscope.cause": "first"}, 1)
    points = by_name["poolscope.request.duration"].data_points
    assert type(by_name["poolscope.request.duration"]).__name__ == "ExponentialHistogram"
    assert {point.attributes["poolscope.reused"]: point.count for point in points} == {
        False: 1,
        True: 4,
    }
    scope.of(server)


def test_counts_go_on_after_detaching_and_attaching(scope, serve, provide):
    server = serve(keep_alive)
    reader = InMemoryMetricReader()
    provider = provide(reader)
    pool = urllib3.PoolManager()
    pool.request("GET", server.url)
    scope.detach()
    pool.request("GET", server.url)
    poolscope.instrument([scope.registry, provider])
    pool.request("GET", server.url)
    counts = {
        dict(labels)["poolscope_reused"]: value
        for (name, labels), value in samples_of(reader.get_metrics_data()).items()
        if name == "poolscope_request_duration_seconds_count"
    }
    assert counts == {"false": 1, "true": 1}
    pool.clear()
    scope.of(server)

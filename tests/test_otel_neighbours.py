"""OpenTelemetry's own exporter for Prometheus, and its instrumentations beside our backend."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import poolscope
from otlp import samples_of
from peers import keep_alive

LATE = str(Path(__file__).with_name("late_sdk_app.py"))
INSTRUMENTORS = {
    "urllib3": "URLLib3Instrumentor",
    "requests": "RequestsInstrumentor",
    "botocore": "BotocoreInstrumentor",
}
OPENED = "poolscope_connections_opened_total"


def samples(registry, port):
    """Return what an exposition says of an upstream, without what grows by itself."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = sample.labels
            if labels.get("server_port") != str(port) or not sample.value:
                continue
            if "age" in sample.name or sample.name.endswith("_created"):
                continue
            told = frozenset(
                (name, text.lower())
                for name, text in labels.items()
                if text and not name.startswith("otel_scope_") and name != "le"
            )
            bound = float(labels["le"]) if "le" in labels else None
            found[sample.name, told, bound] = pytest.approx(sample.value)
    return found


def test_opentelemetrys_prometheus_exporter_gives_the_same_series(scope, serve):
    exporter = pytest.importorskip("opentelemetry.exporter.prometheus", reason="it is missing")
    server = serve(keep_alive)
    before = set(REGISTRY._collector_to_names)
    reader = exporter.PrometheusMetricReader(scope_info_enabled=False)
    [collector] = set(REGISTRY._collector_to_names) - before
    REGISTRY.unregister(collector)
    theirs = CollectorRegistry()
    theirs.register(collector)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    poolscope.instrument([scope.registry, provider])
    with urllib3.PoolManager() as pool:
        for _ in range(3):
            pool.request("GET", server.url)
        with urllib3.PoolManager() as other:
            other.request("GET", server.url)
        found = samples(theirs, server.port)
        assert found == samples(scope.registry, server.port)
        opened = [value for key, value in found.items() if key[0] == OPENED]
        assert opened == [1, 1]  # first, new_pool
        assert server.accepted == 2
    scope.of(server)


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("name", ["urllib3", "requests", "botocore"])
def test_theirs_and_ours_are_both_right(name, first, scope, serve):
    instrumentation = f"opentelemetry.instrumentation.{name}"
    module = pytest.importorskip(instrumentation, reason="it is not installed")
    instrumentor = getattr(module, INSTRUMENTORS[name])()
    server, reader, exporter = serve(keep_alive), InMemoryMetricReader(), InMemorySpanExporter()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    attach = [
        lambda: poolscope.instrument(provider),
        lambda: instrumentor.instrument(tracer_provider=tracers, meter_provider=provider),
    ]
    scope.detach()
    for step in attach if first == "ours" else reversed(attach):
        step()
    try:
        _get_three(name, server.url)
    finally:
        instrumentor.uninstrument()
    told = samples_of(reader.get_metrics_data())
    answered = {
        dict(labels)["poolscope_reused"]: value
        for (metric, labels), value in told.items()
        if metric == "poolscope_request_duration_seconds_count"
    }
    assert len(exporter.get_finished_spans()) == server.answered == 3
    assert answered == {"false": 1, "true": 2}
    assert server.accepted == 1
    provider.shutdown()


def _get_three(name, url):
    if name == "botocore":
        with contextlib.closing(_s3(url)) as client:
            for _ in range(3):
                client.get_object(Bucket="bucket", Key="key")["Body"].read()
    elif name == "requests":
        requests = pytest.importorskip("requests", reason="requests is not installed")
        with requests.Session() as session:
            for _ in range(3):
                session.get(url, timeout=5)
    else:
        with urllib3.PoolManager() as pool:
            for _ in range(3):
                pool.request("GET", url)


def _s3(url):
    botocore = pytest.importorskip("botocore.session", reason="botocore is not installed")
    return botocore.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )


def test_an_sdk_that_is_set_up_late_gets_all_counts(serve):
    server = serve(keep_alive)
    command = [sys.executable, LATE, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "poolscope_connections_opened_total": server.accepted,
        "poolscope_request_duration_seconds_count": server.answered - 1,
    }

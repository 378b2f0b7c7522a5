"""A service for test_spans: requests under spans; prints what spans and exemplars know, as JSON."""

import contextlib
import json
import sys

import urllib3
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import poolscope

EXPORTER = InMemorySpanExporter()
READER = InMemoryMetricReader()


def spans(url, sampler=ALWAYS_ON):
    """Make five requests: two on a connection, one after a close, one in a new pool, one lost."""
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("test")
    with urllib3.PoolManager(retries=False) as pool, urllib3.PoolManager(retries=False) as other:
        for number, manager in enumerate((pool, pool, pool, other, pool), start=1):
            lost = contextlib.suppress(urllib3.exceptions.HTTPError)
            with tracer.start_as_current_span(str(number)), lost:
                manager.request("GET", url)


def main():
    """Be the service."""
    url, sampled, *_ = sys.argv[1:]
    poolscope.instrument(MeterProvider([READER]))
    spans(url, ALWAYS_ON if sampled == "on" else ALWAYS_OFF)
    finished = EXPORTER.get_finished_spans()
    ids = {span.get_span_context().span_id: span.name for span in finished}
    examples, sums = [], {}
    for scope in READER.get_metrics_data().resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            if metric.name == "poolscope.request.duration":
                for point in metric.data.data_points:
                    reused = point.attributes["poolscope.reused"]
                    sums[str(reused)] = [point.count, point.sum]
                    examples += [
                        [ids.get(example.span_id), reused, example.value]
                        for example in point.exemplars
                    ]
    found = {span.name: dict(span.attributes) for span in finished}
    faults = poolscope.snapshot()["faults"]
    told = {"spans": found, "examples": sorted(examples), "sums": sums, "faults": faults}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()

"""A service for test_otel_neighbours: its SDK is set up after poolscope; prints counts as JSON."""

import json
import sys

import urllib3
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import poolscope
from otlp import samples_of


def main():
    """Make a request before there is an SDK, and two afterwards."""
    poolscope.instrument()
    reader = InMemoryMetricReader()
    with urllib3.PoolManager() as pool:
        pool.request("GET", sys.argv[1])
        poolscope.snapshot()
        metrics.set_meter_provider(MeterProvider([reader]))
        for _ in range(2):
            pool.request("GET", sys.argv[1])
    names = ("poolscope_connections_opened_total", "poolscope_request_duration_seconds_count")
    samples = samples_of(reader.get_metrics_data())
    json.dump({name: value for (name, _), value in samples.items() if name in names}, sys.stdout)


if __name__ == "__main__":
    main()

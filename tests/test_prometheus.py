"""The Prometheus backend: native metrics, exact at a scrape, summed over workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import prometheus_client
import pytest
import urllib3
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import poolscope
from peers import HOST, keep_alive
from poolscope import catalog, events
from poolscope.backends import prometheus

ORIGIN = events.Origin("api.example", "443", "https", "urllib3")


def observer_of(registry):
    return prometheus.observer(registry, lambda: None)


def in_a_process(code, *args, **environ):
    """Run code in a Python of its own and return what it printed, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_scrape_is_exact_without_waiting_for_the_pulse(scope, serve):
    server = serve(keep_alive)
    pool = urllib3.PoolManager()
    for expected in range(1, 20):
        pool.request("GET", server.url)
        text = generate_latest(scope.registry).decode()
        counts = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "poolscope_request_duration_seconds_count"
            and sample.labels["server_port"] == str(server.port)
        ]
        assert sum(counts) == expected
    pool.clear()
    scope.of(server)


def test_one_metric_can_be_asked_for(scope, serve):
    """A restricted scrape (``?name[]=``) drains first, too."""
    server = serve(keep_alive)
    pool = urllib3.PoolManager()
    pool.request("GET", server.url)
    restricted = scope.registry.restricted_registry(["poolscope_connections_opened_total"])
    samples = [sample for family in restricted.collect() for sample in family.samples]
    ports = {sample.labels["server_port"]: sample.value for sample in samples}
    assert ports[str(server.port)] == 1
    assert {sample.name for sample in samples} == {"poolscope_connections_opened_total"}
    pool.clear()


def test_several_registries_hear_the_same(scope, serve):
    other = CollectorRegistry()
    poolscope.instrument([other, scope.registry])
    server = serve(keep_alive)
    pool = urllib3.PoolManager()
    pool.request("GET", server.url)
    labels = {
        "server_address": HOST,
        "server_port": str(server.port),
        "url_scheme": "http",
        "poolscope_client": "urllib3",
        "poolscope_cause": "first",
    }
    for registry in (other, scope.registry):
        assert registry.get_sample_value("poolscope_connections_opened_total", labels) == 1
    pool.clear()


def test_both_sides_of_reuse_exist_from_the_first_sight():
    """rate() needs a zero to start from; nothing else is there that did not happen."""
    registry = CollectorRegistry()
    observer_of(registry).tell([events.OriginSeen(ORIGIN)])
    series = {
        (sample.name, sample.labels["poolscope_reused"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.endswith("_count")
    }
    assert series == {
        ("poolscope_request_duration_seconds_count", "false"): 0,
        ("poolscope_request_duration_seconds_count", "true"): 0,
    }


def test_merged_samples_are_what_observed_samples_would_be():
    """Bulk addition uses private parts of prometheus_client; its result is the public one's."""
    bounds = catalog.DURATION_BOUNDS
    values = [0.0005, 0.001, 0.02, 0.02, 3.0, 99.0]
    counts = [0] * (len(bounds) + 1)
    sums = [0.0] * (len(bounds) + 1)
    for value in values:
        index = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
        counts[index] += 1
        sums[index] += value
    merged, observed = CollectorRegistry(), CollectorRegistry()
    latency = events.Histogram(tuple(counts), tuple(sums))
    observer_of(merged).tell([events.Answered(ORIGIN, reused=True, latency=latency)])
    for value in values:
        observer_of(observed).record(catalog.REQUEST, (*ORIGIN, "true"), value)

    def shown(registry):
        return {
            (sample.name, sample.labels.get("le")): sample.value
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert shown(merged) == pytest.approx(shown(observed))
    assert shown(merged)["poolscope_request_duration_seconds_count", None] == len(values)


def test_a_registry_with_somebody_elses_metrics_of_that_name_is_refused():
    registry = CollectorRegistry()
    prometheus_client.Counter("poolscope_faults", "Not ours.", registry=registry)
    with pytest.raises(ValueError, match="already has metrics named poolscope_faults"):
        poolscope.instrument(registry)
    assert not poolscope._process.attached


def test_something_that_is_no_observer_is_refused():
    with pytest.raises(TypeError, match="MeterProvider or an object of a class derived"):
        poolscope.instrument(42)
    with pytest.raises(TypeError, match="'text'"):
        poolscope.instrument(["text"])


def test_the_default_is_the_default_registry(serve):
    server = serve(keep_alive)
    code = """
        import json, sys
        import poolscope, prometheus_client, urllib3
        poolscope.instrument()
        urllib3.PoolManager().request("GET", sys.argv[1])
        text = prometheus_client.generate_latest().decode()
        print(json.dumps(text.count("poolscope_connections_opened_total{")))
    """
    assert in_a_process(code, server.url) == 1


WORKERS = """
    import json, os, sys
    import poolscope, prometheus_client, urllib3
    from prometheus_client import multiprocess

    poolscope.instrument()
    pool = urllib3.PoolManager()
    pool.request("GET", sys.argv[1])
    pids = []
    for number in (2, 3):
        pid = os.fork()
        if pid == 0:
            own = urllib3.PoolManager()
            for _ in range(number):
                own.request("GET", sys.argv[1])
            sys.exit()
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    poolscope.snapshot()
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    found = {"labels": sorted({(family.name, *sorted(sample.labels)) for family in
             registry.collect() for sample in family.samples if "le" not in sample.labels})}
    for family in registry.collect():
        for sample in family.samples:
            key = " ".join([sample.name] + [
                sample.labels[label] for label in ("poolscope_cause", "poolscope_reason",
                "poolscope_reused", "http_connection_state") if label in sample.labels
            ])
            if "le" not in sample.labels:
                found[key] = found.get(key, 0) + sample.value
    print(json.dumps(found))
"""


def test_multiprocess_mode_adds_up_over_workers(serve, tmp_path):
    server = serve(keep_alive)
    found = in_a_process(WORKERS, server.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert (server.accepted, server.answered) == (3, 6)
    assert found["poolscope_connections_opened_total first"] == 3
    assert found["poolscope_request_duration_seconds_count false"] == 3
    assert found["poolscope_request_duration_seconds_count true"] == 3
    assert found["poolscope_connections_closed_total exit"] == 2
    # The workers are gone: what is open now is the parent's.
    assert found["http_client_open_connections idle"] == 1
    assert found["http_client_open_connections active"] == 0
    assert found["poolscope_pools_open"] == 1
    # No label more than anywhere else: the same dashboards show them.
    known = {m.prometheus_name.removesuffix("_total"): sorted(m.labels) for m in catalog.CATALOG}
    assert len(found["labels"]) == 15
    assert all(labels == known[name] for name, *labels in found["labels"])


def test_a_forked_child_starts_its_own_history(serve):
    """Outside multiprocess mode a child does not show what its parent counted."""
    server = serve(keep_alive)
    code = """
        import json, os, sys
        import poolscope, urllib3
        from prometheus_client import CollectorRegistry
        registry = CollectorRegistry()
        poolscope.instrument(registry)
        pool = urllib3.PoolManager()
        for _ in range(3):
            pool.request("GET", sys.argv[1])
        poolscope.snapshot()

        def total(name):
            return sum(
                sample.value for family in registry.collect() for sample in family.samples
                if sample.name == name
            )

        names = ("poolscope_connections_opened_total", "poolscope_request_duration_seconds_count")
        reader, writer = os.pipe()
        if os.fork() == 0:
            before = [total(name) for name in names]
            urllib3.PoolManager().request("GET", sys.argv[1])
            os.write(writer, json.dumps([before, [total(name) for name in names]]).encode())
            os._exit(0)
        os.wait()
        print(json.dumps([json.loads(os.read(reader, 1000)), [total(name) for name in names]]))
    """
    child, parent = in_a_process(code, server.url)
    assert child == [[0, 0], [1, 1]]
    assert parent == [1, 3]

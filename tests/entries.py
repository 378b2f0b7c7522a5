"""The ways besides requests by which a host comes to our code, each as a call that repeats."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import socket
import threading
import traceback
from functools import partial

import urllib3
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import Counter

import poolscope
from peers import HOST
from poolscope import aside, relay
from poolscope.clients import CLIENTS
from poolscope.importing import when_imported

#: By name: a function of a stage that does what a host does, and returns what the host sees of it.
ENTRIES = {}
_numbers = itertools.count()
#: Those that are our own verbs: they may raise, but must work when they are called again.
VERBS = ("a_snapshot", "taking_out_and_putting_in")
#: After these poolscope is attached anew: it had to be, or the fault has left it unattached.
REPAIRED = (*VERBS, "an_import_of_the_client", "an_attachment_by_run", "the_end_of_the_process")


def entry(function):
    ENTRIES[function.__name__] = function
    return function


class Stage:
    """A process with traffic, with metrics of its own, and poolscope attached to its backends."""

    def __init__(self, scope, server, directory):
        self.scope, self.server, self.directory = scope, server, directory
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])
        self.provider.get_meter("host").create_counter("hosts").add(1)
        Counter("hosts", "The host's own.", registry=scope.registry).inc()
        self.targets = [scope.registry, self.provider]
        poolscope.instrument(self.targets)

    @contextlib.contextmanager
    def collector(self):
        """Listen as ``poolscope run`` does."""
        path = str(self.directory / f"socket{next(_numbers)}")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(8)
            yield path

    def again(self, name):
        """Prepare for a way in, attached anew if need be, and with something to tell."""
        process = poolscope._process
        if name in REPAIRED:
            poolscope.uninstrument()
            poolscope.instrument(self.targets)
        self.traffic()
        if name == "an_import_of_the_client":  # as if it had not been imported yet
            process.patchers.pop("urllib3").detach()
            process._watched.clear()
            self.client = f"imported_{next(_numbers)}"
            (self.directory / f"{self.client}.py").write_text("")
            importlib.invalidate_caches()
            when_imported(self.client, partial(process._watch, *CLIENTS), process.scope.faults)

    def traffic(self):
        """Open a connection and use it twice."""
        with urllib3.HTTPConnectionPool(HOST, self.server.port) as pool:
            for _ in range(2):
                pool.request("GET", "/")

    def totals(self):
        """Return what is known to be opened, closed and answered."""
        rows = poolscope.snapshot()["origins"]
        row = next((row for row in rows if row["port"] == str(self.server.port)), None)
        if row is None:
            return [0, 0, 0]
        connections = row["connections"]
        return [connections["opened"], connections["closed"], row["requests"]["answered"]]

    def gains(self):
        """Return what the totals gain by traffic; None if that does not come to an end.

        On another thread: whatever this one may have kept locked must not keep others waiting.
        """
        found = []

        def look():
            before = self.totals()
            self.traffic()
            found.append([after - then for after, then in zip(self.totals(), before)])

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(5)
        return found[0] if found else None


def in_child(call):
    """Return what a call returns in a child that ends at once, with its exit status."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        told, status = "", 1
        try:
            told, status = repr(call()), 0
        except BaseException:  # noqa: BLE001 - told over the pipe
            told = traceback.format_exc()
        finally:
            os.write(writer, told.encode())
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode()
    return told, os.waitpid(pid, 0)[1]


@entry
def a_scrape(stage):
    return [family.name for family in stage.scope.registry.collect() if family.name == "hosts"]


@entry
def a_collection(stage):
    data = stage.reader.get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    return [metric.name for scope in scopes for metric in scope.metrics if metric.name == "hosts"]


@entry
def a_snapshot(_stage):
    return sorted(poolscope.snapshot())


@entry
def taking_out_and_putting_in(stage):
    return [poolscope.uninstrument(), poolscope.instrument(stage.targets)]


@entry
def a_fork(stage):
    return in_child(stage.traffic)


@entry
def a_beat_of_the_pulse(_stage):
    pulse = poolscope._process.pulse
    pulse.beating = False  # so that it is the last one
    pulse._running.acquire(blocking=False)
    pulse._run(pulse._called, pulse._running)


@entry
def becoming_a_child(_stage):
    try:
        poolscope._process._after_in_child()
    finally:
        aside._Process.is_child = False  # what comes next is told where it can be watched


@entry
def an_import_of_the_client(stage):
    """Let a module stand for the client, which is there already."""
    return type(importlib.import_module(stage.client)).__name__


@entry
def an_attachment_by_run(stage):
    """As ``bootstrap`` does it."""
    with stage.collector() as path:
        with contextlib.suppress(Exception):
            relay.attach(path)
        stage.traffic()
        poolscope._process.scope.drain()


@entry
def the_end_of_the_process(_stage):
    process = poolscope._process
    try:
        process._exit()
    finally:
        process.pulse._over = False

"""What poolscope adds to a request and to a new connection, and what its drain takes."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import urllib3
from prometheus_client import CollectorRegistry
from table import row
from wire import URL, wires

import poolscope

MICRO = 1e6
WARM_UP = 0.06  # seconds
INSTRUMENTATION = "opentelemetry.instrumentation.urllib3"

Work = Callable[[int], None]  # does something so many times


def reused(threads: int) -> Work:
    """Return work that sends requests over connections that are open."""
    pool = urllib3.PoolManager(maxsize=threads)

    def some(number: int) -> None:
        for _ in range(number):
            pool.request("GET", URL)

    def spread(number: int) -> None:
        workers = [threading.Thread(target=some, args=(number // threads,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return some if threads == 1 else spread


def reopened(number: int) -> None:
    """Open a connection for each request, in one and the same pool."""
    pool = urllib3.PoolManager(headers={"Connection": "close"})
    for _ in range(number):
        pool.request("GET", URL)


def fresh(number: int) -> None:
    """Open a pool and a connection for each request."""
    for _ in range(number):
        with urllib3.PoolManager() as pool:
            pool.request("GET", URL)


@dataclass(eq=False)
class Way:
    """A way to be instrumented, and what it was found to add, in microseconds a piece."""

    title: str
    attach: Callable[[], Any]
    detach: Callable[[], Any]
    drain: Callable[[], Any] | None = None
    added: list[float] = field(default_factory=list)
    drained: list[float] = field(default_factory=list)

    @property
    def total(self) -> list[float]:
        """The request path and the drain's share together."""
        return [sum(both) for both in zip(self.added, self.drained, strict=True)]


def ways() -> list[Way]:
    """Return the ways that are installed here."""
    found = [
        _poolscope("Prometheus", CollectorRegistry()),
        _poolscope("Prometheus and call_sites", CollectorRegistry(), call_sites=True),
    ]
    if importlib.util.find_spec("opentelemetry.sdk") is not None:
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415 - as above

        found.append(_poolscope("OpenTelemetry", MeterProvider([InMemoryMetricReader()])))
        found.append(_with_spans(MeterProvider([InMemoryMetricReader()])))
    if importlib.util.find_spec(INSTRUMENTATION) is not None:
        theirs = importlib.import_module(INSTRUMENTATION).URLLib3Instrumentor()
        found.append(Way(INSTRUMENTATION, theirs.instrument, theirs.uninstrument))
    return found


def _poolscope(name: str, target: Any, **settings: bool) -> Way:
    kept = None  # each way has a process of its own, as the setting holds for good

    def attach() -> None:
        poolscope._process = kept
        poolscope.instrument(target, **settings)

    def detach() -> None:
        nonlocal kept
        poolscope.uninstrument()
        kept = poolscope._process

    return Way(f"poolscope with {name}", attach, detach, poolscope._drain)


def _with_spans(target: Any) -> Way:
    """Return OpenTelemetry with span_attributes, under a span that is recording."""
    from opentelemetry import context, trace  # noqa: PLC0415 - its SDK is an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above

    way = _poolscope("OpenTelemetry and span_attributes", target, span_attributes=True)
    span = TracerProvider(shutdown_on_exit=False).get_tracer("benchmark").start_span("all")
    tokens: list[Any] = []

    def attach() -> None:
        way.attach()
        tokens.append(context.attach(trace.set_span_in_context(span)))

    def detach() -> None:
        context.detach(tokens.pop())
        way.detach()

    return Way(way.title, attach, detach, way.drain)


def measure(work: Work, number: int, drain: Callable[[], Any] | None) -> tuple[float, float]:
    """Return the process's CPU microseconds per piece, of the work and of a drain after it.

    Some work goes before, unmeasured: the interpreter adapts itself to functions that were put
    in or taken out, once in a service's life, and the heartbeat's first beat comes and goes.
    """
    warm = time.monotonic() + WARM_UP
    while time.monotonic() < warm:
        work(8)
    if drain is not None:
        drain()
    began = time.process_time()
    work(number)
    ended = time.process_time()
    if drain is not None:
        drain()
    over = time.process_time()
    return (ended - began) / number * MICRO, (over - ended) / number * MICRO


def compare(work: Work, number: int, rounds: int) -> tuple[list[float], list[Way]]:
    """Measure work bare and in every way in turns, each beside the bare ones around it."""
    every = ways()
    gc.collect()
    gc.freeze()
    before, _ = measure(work, number, None)
    bare = [before]
    for _ in range(rounds):
        for way in every:
            way.attach()
            path, drained = measure(work, number, way.drain)
            way.detach()
            after, _ = measure(work, number, None)
            way.added.append(path - (before + after) / 2)
            way.drained.append(drained)
            bare.append(after)
            before = after
    gc.unfreeze()
    return bare, every


def requests_and_connections(rounds: int) -> None:
    """Print what a re-used request and a new connection cost."""
    with wires():
        for title, work, number in (
            ("Re-used request, 1 thread", reused(1), 400),
            ("Re-used request, 8 threads", reused(8), 400),
            ("New connection in a pool", reopened, 100),
            ("New pool and connection", fresh, 100),
        ):
            print(f"{title}; one drain for {number}")
            bare, every = compare(work, number, rounds)
            row("bare", bare)
            paths = {way: row(f"added by {way.title}", way.added) for way in every}
            for way in every:
                if way.drain is not None:
                    row(f"and by the drain of {way.title}", way.drained)
                    total = row("  together", way.total)
                    others = [path for other, path in paths.items() if other.drain is None]
                    for theirs in others:
                        print(f"  {'  beside the instrumentation':<62}{total / theirs:8.1%}")

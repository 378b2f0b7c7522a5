"""What poolscope holds in memory, and what a scrape of much of it costs."""

from __future__ import annotations

import gc
import socket
import time
import tracemalloc
from pathlib import Path

import urllib3
from prometheus_client import CollectorRegistry, generate_latest
from table import row
from wire import URL, wires

import poolscope
from poolscope.backends import prometheus
from poolscope.events import Origin
from poolscope.hangups import has_hung_up
from poolscope.readings import Readings
from poolscope.records import Carrier, Connection, Pool, Tally
from poolscope.scope import Scope


def memory(number: int) -> None:
    """Print bytes per open connection, per idle pool and per origin, as poolscope holds them."""
    here = tracemalloc.Filter(
        inclusive=True, filename_pattern=str(Path(poolscope.__file__).parent / "*")
    )

    def held() -> int:
        gc.collect()
        poolscope.snapshot()
        traces = tracemalloc.take_snapshot().filter_traces([here]).statistics("filename")
        return sum(trace.size for trace in traces)

    print("Memory")
    with wires():
        poolscope.instrument(CollectorRegistry())
        tracemalloc.start()
        pool = urllib3.PoolManager(maxsize=number)
        pool.request("GET", URL)
        before = held()
        responses = [pool.request("GET", URL, preload_content=False) for _ in range(number)]
        print(f"  {'per open connection':<52}{(held() - before) / number:8.0f} bytes")
        for response in responses:
            response.close()
        del responses
        before = held()
        pools = [urllib3.connection_from_url(URL) for _ in range(number)]
        for one in pools:
            one.request("GET", URL)
            one.pool.get().close()
        print(f"  {'per idle pool':<52}{(held() - before) / number:8.0f} bytes")
        tracemalloc.stop()
        poolscope.uninstrument()


def idle(number: int) -> None:
    """Print what it takes a drain to ask the kernel whether idle connections are dead."""
    with socket.create_server(("127.0.0.1", 0), backlog=number) as listener:
        sides = []
        for _ in range(number):
            sides += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
        times = []
        for _ in range(10):
            began = time.process_time()
            sum(map(has_hung_up, sides[::2]))
            times.append((time.process_time() - began) * 1000)
        print(f"Asking the kernel about {number:,} idle connections, once a drain")
        row("all of them", times, "ms")
        for side in sides:
            side.close()


def growth(requests: int, connections: int) -> None:
    """Print how much poolscope holds after much traffic that nobody scraped."""
    with wires():
        poolscope.instrument(())
        pool = urllib3.PoolManager()
        poolscope.snapshot()
        sizes = []
        for turn in range(2):
            tracemalloc.start()
            for _ in range(requests // 2):
                pool.request("GET", URL)
            for _ in range(connections // 2):
                with urllib3.PoolManager() as one:
                    one.request("GET", URL)
            time.sleep(1.5)  # the pulse has been
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0] / 1024)
            tracemalloc.stop()
            del turn
        print(f"Memory kept of {requests:,} requests and {connections:,} connections, unscraped")
        print(f"  {'first half, second half':<52}{sizes[0]:8.1f} {sizes[1]:.1f} KiB")
        poolscope.uninstrument()


def scrapes(origins: int, connections: int, rounds: int) -> None:
    """Print what a scrape costs with so many origins and open connections, all just used."""
    registry = CollectorRegistry()
    scope = Scope(origins)
    observer = prometheus.observer(registry, scope.drain)
    scope.introduce((Readings(), observer))
    carriers = []
    for number in range(connections):
        origin = Origin(f"host-{number % origins}", "443", "https", "urllib3")
        pool = Pool(scope.ledger, origin, blocking=False, maxsize=10)
        carrier = Carrier(scope.ledger, pool)
        carrier.connection = Connection(carrier, scope.clock())
        carrier.reused = Tally()
        for entry in (("pool", pool), ("opened", carrier.connection)):
            scope.ledger.log.append(entry)
        carriers.append(carrier)
    generate_latest(registry)
    times, quiet = [], []
    for _ in range(rounds):
        for carrier in carriers:
            carrier.reused.add(0.01)
            carrier.touch()
        began = time.process_time()
        scope.drain()
        times.append((time.process_time() - began) * 1e3)
        began = time.process_time()
        generate_latest(registry)
        quiet.append((time.process_time() - began) * 1e3)
    print(f"Scrape, {origins} origins and {connections:,} open connections, all in use")
    row("drain", times, "ms")
    row("collect and render", quiet, "ms")

"""What poolscope costs the application: CPU per request and per connection, memory, scrapes.

    python tests/benchmarks/cost.py            # about 3 minutes
    python tests/benchmarks/cost.py --quick    # does it run at all

Everything is measured in one process and one run, in turns (bare, poolscope, bare, ...), as CPU
time of the whole process, so that the drain's share is in it; what is printed are medians of
paired differences, with quartiles. Machines are noisy: look at the ratios.
Needs opentelemetry-instrumentation-urllib3 for the comparison; without it that row is left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import platform
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import urllib3
import wrapt
from peer import server
from prometheus_client import CollectorRegistry, generate_latest

import poolscope
from poolscope.backends import prometheus
from poolscope.events import Origin
from poolscope.readings import Readings
from poolscope.records import Carrier, Connection, Pool, Tally
from poolscope.scope import Scope

MICRO = 1e6
OTEL = "opentelemetry.instrumentation.urllib3"
REGISTRY = CollectorRegistry()

Work = Callable[[], int]  # does something and returns how often


def reused(url: str, threads: int, requests: int) -> Work:
    """Return work that sends requests over connections that are open."""
    pool = urllib3.PoolManager(maxsize=threads)
    each = requests // threads

    def some() -> None:
        for _ in range(each):
            pool.request("GET", url)

    def work() -> int:
        workers = [threading.Thread(target=some) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return each * threads

    work()
    return work


def reopened(url: str, connections: int) -> Work:
    """Return work that opens a connection for each request, in one and the same pool."""
    pool = urllib3.PoolManager(headers={"Connection": "close"})

    def work() -> int:
        for _ in range(connections):
            pool.request("GET", url)
        return connections

    return work


def fresh(url: str, connections: int) -> Work:
    """Return work that opens a pool and a connection for each request."""

    def work() -> int:
        for _ in range(connections):
            with urllib3.PoolManager() as pool:
                pool.request("GET", url)
        return connections

    return work


def cpu(work: Work) -> float:
    """Return the CPU microseconds of this process per piece of work."""
    gc.collect()
    began = time.process_time()
    number = work()
    return (time.process_time() - began) / number * MICRO


def compare(work: Work, warm_up: Work, rounds: int) -> dict[str, list[float]]:
    """Measure work bare and attached in turns; return the paired differences by name.

    A little work goes before each turn, unmeasured: the interpreter adapts itself to functions
    that were put in or taken out, once in a service's life.
    """
    ways = {"poolscope": (lambda: poolscope.instrument(REGISTRY), poolscope.uninstrument)}
    if importlib.util.find_spec(OTEL) is not None:
        instrumentor = importlib.import_module(OTEL).URLLib3Instrumentor()
        ways["otel"] = (instrumentor.instrument, instrumentor.uninstrument)
    found: dict[str, list[float]] = {name: [] for name in ("bare", *ways)}
    for _ in range(rounds):
        for name, (attach, detach) in ways.items():
            warm_up()
            bare = cpu(work)
            attach()
            warm_up()
            attached = cpu(work)
            detach()
            found["bare"].append(bare)
            found[name].append(attached - bare)
    return found


def row(label: str, values: list[float], unit: str = "µs") -> float:
    """Print a median with its quartiles, and return it."""
    low, median, high = statistics.quantiles(values, n=4)
    print(f"  {label:<52}{median:8.2f} {unit}   ({low:.2f} to {high:.2f})")
    return median


def requests_and_connections(rounds: int, size: int) -> None:
    """Print what a re-used request and a new connection cost."""
    with server() as url:
        few = max(16, size // 20)
        for title, work, warm_up in (
            ("Re-used request, 1 thread", reused(url, 1, size), reused(url, 1, few)),
            ("Re-used request, 8 threads", reused(url, 8, size), reused(url, 8, few)),
            ("New connection in a pool", reopened(url, size // 8), reopened(url, few)),
            ("New pool and connection", fresh(url, size // 8), fresh(url, few)),
        ):
            print(title)
            found = compare(work, warm_up, rounds)
            row("bare", found["bare"])
            ours = row("added by poolscope with Prometheus", found["poolscope"])
            if "otel" in found:
                theirs = row("added by opentelemetry-instrumentation-urllib3", found["otel"])
                print(f"  {'ratio':<52}{ours / theirs:8.1%}")


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
    with server() as url:
        poolscope.instrument(REGISTRY)
        tracemalloc.start()
        pool = urllib3.PoolManager(maxsize=number)
        pool.request("GET", url)
        before = held()
        responses = [pool.request("GET", url, preload_content=False) for _ in range(number)]
        print(f"  {'per open connection':<52}{(held() - before) / number:8.0f} bytes")
        for response in responses:
            response.close()
        del responses
        before = held()
        pools = [urllib3.connection_from_url(url) for _ in range(number)]
        for one in pools:
            one.request("GET", url)
            one.pool.get().close()
        print(f"  {'per idle pool':<52}{(held() - before) / number:8.0f} bytes")
        tracemalloc.stop()
        poolscope.uninstrument()


def growth(requests: int, connections: int) -> None:
    """Print how much poolscope holds after much traffic that nobody scraped."""
    with server() as url:
        poolscope.instrument(())
        pool = urllib3.PoolManager()
        poolscope.snapshot()
        sizes = []
        for turn in range(2):
            tracemalloc.start()
            for _ in range(requests // 2):
                pool.request("GET", url)
            for _ in range(connections // 2):
                with urllib3.PoolManager() as one:
                    one.request("GET", url)
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


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="see that it runs; no numbers to quote"
    )
    parser.add_argument("--long", action="store_true", help="5 million requests for the growth")
    options = parser.parse_args()
    extension = "with" if wrapt.FunctionWrapper.__module__ == "_wrappers" else "without"
    print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
        f"urllib3 {urllib3.__version__}, wrapt {extension} its C extension, "
        f"{platform.machine()} {sys.platform}"
    )
    quick = options.quick
    requests_and_connections(rounds=3 if quick else 40, size=200 if quick else 2000)
    memory(50 if quick else 500)
    if options.long:
        growth(5_000_000, 1_000_000)
    else:
        growth(200 if quick else 100_000, 100 if quick else 20_000)
    scrapes(5 if quick else 100, 50 if quick else 10_000, rounds=3 if quick else 20)


if __name__ == "__main__":
    main()

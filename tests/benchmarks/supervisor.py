"""What ``poolscope run`` costs: time added to a command, and the account of many processes.

    python tests/benchmarks/supervisor.py            # about 2 minutes
    python tests/benchmarks/supervisor.py --quick    # does it run at all

Commands are run in turns, bare and under ``poolscope run``; what is printed are medians of paired
differences, with quartiles, as time on the clock and as CPU. Machines are noisy: look at the CPU,
and at the ratios. For the account a process of its own plays all processes of a command, each of
which tells of traffic and levels at all its origins once a round, as it would once a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from table import row

from poolscope import catalog, relay
from poolscope import events as ev
from poolscope.backends import prometheus
from poolscope.collector import Collector
from poolscope.readings import Readings

RUN = [sys.executable, "-m", "poolscope", "run", "--port", "0", "--no-report", "--"]
COMMANDS = {"true": ["true"], "python -c pass": [sys.executable, "-c", "pass"]}
SECOND = 1000.0  # milliseconds


def took(command: Sequence[str], environ: dict[str, str]) -> tuple[float, float]:
    """Run a command; return the milliseconds that it took, and those of CPU."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (time.perf_counter() - began) * SECOND, cpu * SECOND


def commands(rounds: int) -> None:
    """Print what ``run`` adds to commands that do nothing, and to each Python among them."""
    environ = {key: value for key, value in os.environ.items() if key != relay.SOCKET}
    print("Added to a command that does nothing")
    for name, command in COMMANDS.items():
        pairs = [(took(command, environ), took([*RUN, *command], environ)) for _ in range(rounds)]
        row(f"{name}: time", [ours[0] - bare[0] for bare, ours in pairs], "ms")
        row(f"{name}: CPU", [ours[1] - bare[1] for bare, ours in pairs], "ms")
    print("Added to each Python process of a command")
    with account() as (path, _, _):
        attached = environ | {relay.SOCKET: path}
        command = COMMANDS["python -c pass"]
        pairs = [(took(command, environ), took(command, attached)) for _ in range(rounds)]
        row("time", [ours[0] - bare[0] for bare, ours in pairs], "ms")
        row("CPU", [ours[1] - bare[1] for bare, ours in pairs], "ms")


@contextlib.contextmanager
def account():
    """Have a collector that listens; yields its path, itself and its readings."""
    with tempfile.TemporaryDirectory() as home:
        path, readings, registry = f"{home}/collector", Readings(), CollectorRegistry()
        observers = [prometheus.observer(registry, int), readings]  # nobody scrapes
        collector = Collector(path, observers, max_origins=1000)
        collector.start()
        try:
            yield path, collector, readings
        finally:
            collector.finish()


def talk(path: str, processes: int, origins: int, rounds: int, until: int | None = None) -> int:
    """Play the processes in a forked one, which stay until a pipe closes; return its number."""
    if child := os.fork():
        return child
    names = [ev.Origin(f"host-{n}", "443", "https", "urllib3") for n in range(origins)]
    some = ev.Histogram((1,) * (len(catalog.DURATION_BOUNDS) + 1), (0.1,) * 14)
    links = [relay.Relay(path) for _ in range(processes)]
    for link in links:
        link.hello()
    for turn in range(rounds):
        events = [
            event
            for name in names
            for event in (
                ev.Opened(name, "first"),
                ev.Answered(name, True, some),  # noqa: FBT003 - an event's fields
                ev.Busy(name, 0.5),
                ev.Levels(name, 1, 2, 0, 10, 1, 3.0 * turn, 1.0 * turn, 0),
            )
        ]
        for link in links:
            link.tell(events)
    if until is not None:
        os.closerange(until + 1, until + 2)
        os.read(until, 1)
    for link in links:
        link.ended()
    os._exit(0)


def load(processes: int, origins: int, rounds: int) -> float:
    """Return the milliseconds of CPU for a round of the processes."""
    with account() as (path, collector, readings):
        before = resource.getrusage(resource.RUSAGE_SELF)
        os.waitpid(talk(path, processes, origins, rounds), 0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    opened = sum(readings.total(catalog.OPENED, origin) for origin in readings.origins())
    if opened != processes * origins * rounds or collector.roster.silent:
        sys.exit(f"{opened:.0f} opened instead of {processes * origins * rounds}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu / rounds * SECOND


def held(processes: int, origins: int) -> float:
    """Return the MiB that the account holds while so many processes are there."""
    last = ev.Origin(f"host-{origins - 1}", "443", "https", "urllib3")
    with account() as (path, collector, readings):
        tracemalloc.start()
        reader, writer = os.pipe()
        child = talk(path, processes, origins, 2, until=reader)
        while readings.total(catalog.OPEN, last) < 3 * processes:
            time.sleep(0.05)
            collector.drain()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        os.close(writer)
        os.waitpid(child, 0)
        os.close(reader)
    return size / 2**20


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that it runs; nothing to quote")
    options = parser.parse_args()
    commands(rounds=3 if options.quick else 30)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("An account of all, for each second that everybody is busy at every origin")
    sizes = ((10, 100), (20, 100), (40, 100), (80, 100), (500, 20))
    for processes, origins in sizes[: 2 if options.quick else None]:
        cpu = load(processes, origins, rounds=2 if options.quick else 20)
        each = cpu / processes / origins * 1000
        memory = held(processes, origins)
        print(
            f"  {processes:4} processes, {origins:3} origins each: {cpu:5.0f} ms of CPU, "
            f"{each:.0f} µs for each of both, {memory:.1f} MiB"
        )


if __name__ == "__main__":
    main()

"""The process that the chaos comes over: threads, forks, signals, garbage, observers, scrapes.

Started by ``chaos.py`` with its orders as JSON. It, and each child that it has, leaves an account
of what poolscope has counted there in the orders' directory, to be held against the servers'.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import multiprocessing
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import urllib3
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

import poolscope
from chaos_acts import Actor, Cycle, Host
from peers import eventually
from poolscope.observers import Observer
from worlds import trusting

#: Seconds after which a child, or the end, counts as hung; its stacks are then on stderr.
CHILD_LIMIT, END_LIMIT = 25.0, 60.0
#: By how many bytes the second half of a round may make it larger.
MAY_GROW = 64_000_000
#: Where an exception can break the host by itself: between a lock and the ``with`` that frees it.
_SOURCE = str(Path(poolscope.__file__).parent)
_BREAKABLE = (threading.__file__, queue.__file__, logging.__file__)


class Struck(Exception):  # noqa: N818 - what a time limit raises
    """Raised by a signal handler, anywhere."""


class Slow(Observer):
    """Takes its time now and then."""

    def tell(self, events):
        if events and not len(events) % 7:
            time.sleep(0.02)


class Failing(Observer):
    """Fails on purpose now and then."""

    told = 0

    def tell(self, events):
        self.told += 1
        if not self.told % 5:
            raise (MemoryError, ZeroDivisionError, RecursionError)[self.told // 5 % 3]


class Listener(Observer):
    """Hears answers without asking for them, as only the pulse tells it of any."""

    answers = 0

    def answered(self, event):
        self.answers += sum(event.latency.counts)

    def forked(self):
        self.answers = 0


class Scraper:
    """Reads a backend again and again: no counter may go down, no level below nothing."""

    def __init__(self, read):
        self._read = read
        self._before = {}
        self.looks = 0
        self.wrongs = []

    def look(self):
        self.looks += 1
        now = {}
        for key, value, is_counter in self._read():
            if value < 0:
                self.wrongs.append(f"{key} is {value}")
            if is_counter:
                now[key] = value
        for key, value in self._before.items():
            if now.get(key, 0) < value:
                self.wrongs.append(f"{key} went from {value} to {now.get(key)}")
        self._before = now


def samples_of(registry):
    for family in registry.collect():
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            yield str(key), sample.value, sample.name.endswith(("_total", "_count", "_bucket"))


def points_of(reader):
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                is_counter = getattr(metric.data, "is_monotonic", False)
                for point in metric.data.data_points:
                    key = f"{metric.name} {sorted(point.attributes.items())}"
                    if hasattr(point, "count"):
                        yield key, point.count, True
                    else:
                        yield key, point.value, is_counter


class Subject:
    """One process: the subject itself, or a child of its."""

    def __init__(self, orders, name="subject"):
        self.orders = SimpleNamespace(**orders)
        self.name = name
        self.rng = random.Random(f"{self.orders.seed} {name}")
        self.wrongs = []
        self.over = False
        self.raised = 0

    def attach(self):
        """Attach poolscope to all there is."""
        self.registry, self.reader = CollectorRegistry(), InMemoryMetricReader()
        provider = MeterProvider(metric_readers=[self.reader])
        self.listener = Listener()
        self.observers = [self.registry, provider, self.listener, Slow(), Failing()]
        poolscope.instrument(self.observers, max_origins=50)

    def begin(self, *, with_tls=True):
        """Make what connects."""
        authority = SimpleNamespace(file=self.orders.authority)
        urls = [url for url in self.orders.urls if with_tls or url.startswith("http:")]
        self.host = Host(urls, trusting(authority), self.orders.nobody)

    # ---- children

    def fork(self, name, acts):
        """Fork amid everything; the child acts with pools of its own and leaves an account."""
        is_main = threading.current_thread() is threading.main_thread()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                self._be_child(name, acts)
                status = 0
            except BaseException:  # noqa: BLE001 - a child must not go on as its parent
                traceback.print_exc()
            if status or not is_main:
                os._exit(status)
            multiprocessing.process._children.clear()  # they are the parent's
            sys.exit()  # all the way through Python's own ending
        self._await(pid, name)

    def _be_child(self, name, acts):
        watch_over(CHILD_LIMIT)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        forget_finalizers()
        # OpenSSL's own locks don't survive a fork that comes amid handshakes of other threads.
        child = Subject(vars(self.orders), name)
        child.begin(with_tls=False)
        child.play(acts)
        child.account(child.settle())

    def _await(self, pid, name):
        deadline = time.monotonic() + CHILD_LIMIT + 5
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGABRT)
            time.sleep(0.005)
        if status:
            self.wrongs.append(f"{name} ended with {os.waitstatus_to_exitcode(status)}")

    def spawn(self, method, name):
        """Have a child by multiprocessing."""
        context = multiprocessing.get_context(method)
        child = context.Process(target=be_multiprocessing_child, args=(vars(self.orders), name))
        child.start()
        child.join(CHILD_LIMIT + 5)
        if child.exitcode != 0:
            self.wrongs.append(f"{name} ended with {child.exitcode}")
            child.kill()

    def play(self, acts):
        """Act so many times."""
        actor = Actor(self.host, f"{self.orders.seed} {self.name}")
        for _ in range(acts):
            actor.act()

    # ---- threads

    def until_over(self, act, name):
        """Act until it is over; what goes wrong is told with what was done last."""
        try:
            while not self.over:
                act()
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            self.wrongs.append(f"{name}: {traceback.format_exc()}")

    def threads(self):
        """Yield what goes on meanwhile: a name, and what it does again and again."""
        for number in range(self.orders.threads):
            name = f"thread {number}"
            yield name, Actor(self.host, f"{self.orders.seed} {name}").act
        self.scrapers = [
            Scraper(lambda: samples_of(self.registry)),
            Scraper(lambda: points_of(self.reader)),
        ]
        for name, scraper in zip(("prometheus", "opentelemetry"), self.scrapers):
            yield name, scraper.look
        if self.orders.forks:
            yield "forks", self._forks()
        if self.orders.comings:
            yield "comings", self._comings
        if self.orders.signals:
            yield "signals", self._strikes()

    def _forks(self):
        rng, numbers = random.Random(f"{self.orders.seed} forks"), iter(range(1_000_000))

        def fork():
            number = next(numbers)
            kind = ("spawn", "forkserver")[number // 20 % 2] if number % 20 == 3 else "fork"
            if kind == "fork" and rng.random() < 0.9:
                self.fork(f"fork {number}", rng.randint(0, 4))
            else:
                self.spawn(kind, f"{kind} {number}")
            time.sleep(rng.random() * 0.05)

        return fork

    def _comings(self):
        poolscope.uninstrument()
        time.sleep(self.rng.random() * 0.02)
        poolscope.instrument(self.observers)
        time.sleep(self.rng.random() * 0.3)

    def _strikes(self):
        rng, main = random.Random(f"{self.orders.seed} signals"), threading.main_thread().ident

        def strike():
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(rng.random() * (0.004 if self.orders.signals == "anywhere" else 0.001))

        return strike

    # ---- the main thread, where signals strike

    armed = False

    def _on_signal(self, _number, frame):
        file = frame.f_code.co_filename
        is_wanted = file not in _BREAKABLE if self.orders.signals == "anywhere" else is_ours(file)
        if self.armed and is_wanted:
            self.armed = False
            self.raised += 1
            raise Struck

    def main_act(self, actor):
        """Act as any thread does, and be struck."""
        # Each with pools of its own: what an exception leaves of the host is the host's matter.
        if self.orders.signals:
            actor.host = Host(self.host.urls, self.host.context, self.host.nobody)
        with contextlib.suppress(Struck):
            self.armed = bool(self.orders.signals)
            actor.act()
            self.armed = False

    def run(self):
        """Let it all go on for the ordered time, then settle and account for it."""
        watch_over(self.orders.seconds + END_LIMIT)
        sys.setswitchinterval(self.rng.choice((1e-6, 1e-4, 0.005)))
        gc.set_threshold(*self.rng.choice(((700, 10, 10), (50, 5, 5), (7, 3, 2))))
        signal.signal(signal.SIGUSR1, self._on_signal)
        self.attach()
        self.begin()
        threads = [
            threading.Thread(target=self.until_over, args=(act, name), name=name)
            for name, act in self.threads()
        ]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        actor = Actor(self.host, f"{self.orders.seed} main")
        half_way = 0
        try:
            while (gone := time.monotonic() - began) < self.orders.seconds:
                self.main_act(actor)
                if gone > self.orders.seconds / 2:
                    half_way = half_way or resident()
                if self.orders.forks and not actor.acted % 40:
                    self.fork(f"main {actor.acted}", 3)
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            self.wrongs.append(f"main: {traceback.format_exc()} {actor.last}")
        self.over = True
        for thread in threads:
            thread.join()
        gc.set_threshold(700, 10, 10)
        del actor
        if resident() > half_way + MAY_GROW:
            self.wrongs.append(f"grew from {half_way} to {resident()} bytes")
        if self.orders.comings:
            poolscope.instrument(self.observers)
        self._is_heard()
        snapshot = self.settle()
        for scraper in self.scrapers:
            scraper.look()
            self.wrongs += scraper.wrongs[:5]
        self.account(snapshot, looks=[scraper.looks for scraper in self.scrapers])
        leave_no_server()

    def _is_heard(self):
        """Hold the pulse to its word: a request is told of without anybody's asking."""
        heard = self.listener.answers
        with urllib3.PoolManager() as manager:
            manager.request("GET", f"{self.host.urls[0]}/ok")
            if not eventually(lambda: self.listener.answers > heard):
                self.wrongs.append("the pulse does not beat any more")

    # ---- the account

    def settle(self):
        """Let go of all connections; return the last snapshot."""
        self.host.end()
        del self.host

        def is_all_closed():
            gc.collect()
            rows = poolscope.snapshot()["origins"]
            return not any(row["connections"]["open"] or row["pool"]["pools_open"] for row in rows)

        # A fork amid another thread's garbage collection leaves a child in which none ever runs.
        if collects() and not eventually(is_all_closed):
            self.wrongs.append("connections or pools stay open")
        return poolscope.snapshot()

    def account(self, snapshot, **more):
        """Write down what poolscope has counted here, and what went wrong."""
        rows = [row for row in snapshot["origins"] if row["port"] in self.orders.ports]
        for row in rows:
            sums = row["connections"]
            if sums["opened"] != sums["closed"] + sums["open"]:
                self.wrongs.append(f"opened is not closed and open: {sums}")
        ledger = poolscope._process.scope.ledger
        left = [len(part) for part in (ledger.log, ledger.dirty, ledger.carriers)]
        if max(left) > 20 and not self.orders.signals:
            self.wrongs.append(f"the ledger keeps {left}")
        told = {
            "name": self.name,
            "by_port": {row["port"]: counts_of(row) for row in rows},
            "faults": snapshot["faults"],
            "wrongs": self.wrongs,
            "raised": self.raised,
            **more,
        }
        path = Path(self.orders.directory, self.name.replace(" ", "-"))
        path.with_suffix(".part").write_text(json.dumps(told))
        path.with_suffix(".part").rename(path.with_suffix(".json"))


def is_ours(file):
    """Tell whether a line belongs to poolscope, or to what it puts in a host function's place."""
    return file.startswith((_SOURCE, "<hook of"))


def counts_of(row):
    """Return what of an origin can be held against a server's own counts."""
    return [
        row["connections"]["opened"],
        row["handshakes"]["completed"],
        row["requests"]["answered"],
    ]


def collects():
    """Tell whether the garbage collector works; it does nothing while another thread's does."""

    def is_gone():
        gone = weakref.ref(Cycle())
        gc.collect()
        return gone() is None

    return is_gone() or (threading.active_count() > 1 and eventually(is_gone))


def resident():
    """Return how many bytes of memory this process has (Linux; else 0)."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if status.exists() else 0


def watch_over(seconds):
    """Have all stacks written, and the process ended, if it is not over by then."""
    faulthandler.enable()
    # Not dump_traceback_later(): in a forked child that waits for a thread of the parent's.
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(int(seconds))


def be_multiprocessing_child(orders, name):
    """Act in a child of multiprocessing, which was forked from the subject or from a server."""
    watch_over(CHILD_LIMIT)
    warnings.simplefilter("ignore")
    if name.startswith("fork "):
        forget_finalizers()
    child = Subject(orders, name)
    if not poolscope._process or not poolscope._process.attached:
        child.attach()
    child.begin(with_tls=not name.startswith("fork "))
    child.play(5)
    child.account(child.settle())


def forget_finalizers():
    """Keep urllib3 from closing the parent's pools in a child.

    Another thread of the parent may have held the lock of a pool's queue, and natively, too, the
    child would wait for it for ever.
    """
    weakref.finalize._registry.clear()


def leave_no_server():
    """Stop multiprocessing's servers, which would outlive us for a moment."""
    from multiprocessing import forkserver, resource_tracker  # noqa: PLC0415 - if they are there

    with contextlib.suppress(Exception):
        forkserver._forkserver._stop()
    with contextlib.suppress(Exception):
        resource_tracker._resource_tracker._stop()


if __name__ == "__main__":
    "".encode("idna")  # nobody may be struck while that is being imported
    warnings.simplefilter("ignore")
    Subject(json.loads(sys.argv[1])).run()

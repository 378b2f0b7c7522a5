"""Lose nothing, invent nothing: mixed traffic, watched all the time."""

from __future__ import annotations

import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import urllib3

from peers import PATIENCE, eventually, fin, ok, scripted


def bye(peer):
    peer.answer(b"bye", "Connection: close")
    fin(peer)


def lose(peer):
    peer.answer()
    fin(peer)


def large(peer):
    peer.answer(b"x" * 300_000)


def truncated(peer):
    peer.answer(b"half", length=10)
    fin(peer)


def mixed(*steps):
    """Answer each request in one of these ways, the same ones in every run."""
    dice = random.Random(7)

    def step(peer):
        dice.choice(steps)(peer)

    return scripted(step)


def counters(registry):
    """Return every value that may only grow, by its name and labels."""
    growing = ("_total", "_count", "_sum", "_bucket")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if family.type in ("counter", "histogram") and sample.name.endswith(growing)
    }


class Watch:
    """Looks at all counters again and again, and remembers which went down."""

    def __init__(self, registry):
        self.registry = registry
        self.fallen = []
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._over.set()
        self._thread.join(PATIENCE)

    def _run(self):
        last = {}
        while True:
            over = self._over.wait(0.005)
            now = counters(self.registry)
            self.fallen += [key for key, value in last.items() if now.get(key, -1) < value]
            last = now
            self.looks += 1
            if over:
                return


def test_nothing_ever_decreases_and_all_adds_up(scope, serve, tls, authority):
    server = serve(mixed(ok, ok, ok, bye, lose, fin, large, truncated), tls=tls)
    seen = scope.of(server)
    dice = random.Random(11)
    chances = [dice.random() for _ in range(300)]

    def call(manager, chance):
        try:
            response = manager.request(
                "GET",
                server.url,
                retries=False,
                preload_content=chance < 0.6,
                enforce_content_length=True,
            )
            if 0.6 <= chance < 0.8:
                response.read()
                response.release_conn()
            elif 0.8 <= chance < 0.9:
                response.close()
        except urllib3.exceptions.HTTPError:
            pass

    with Watch(scope.registry) as watch, ThreadPoolExecutor(8) as threads:
        for maxsize in (1, 3):
            manager = urllib3.PoolManager(maxsize=maxsize, ca_certs=authority.file)
            list(threads.map(call, [manager] * 150, chances[:150]))
            chances = chances[150:]
            manager.clear()
            del manager
            gc.collect()
    assert watch.looks > 1
    assert watch.fallen == []
    assert eventually(lambda: gc.collect() or sum(seen.open.values()) == 0)
    seen.agrees_with(server)
    assert sum(seen.closed.values()) == server.accepted
    assert seen.served == (server.accepted, server.answered)
    assert sum(server.per_connection) == server.answered
    assert sum(seen.requests.values()) + sum(seen.failed.values()) == 300
    assert sum(seen.opened.values()) == seen.created
    assert set(seen.closed) <= {
        *("server_close", "stale", "reset", "pool_full", "unread", "pool_closed", "collected")
    }


def test_nothing_decreases_over_detach_and_attach(scope, serve):
    server = serve(mixed(ok, ok, bye))
    seen = scope.of(server)
    with Watch(scope.registry) as watch, urllib3.PoolManager() as manager:
        for number in range(60):
            manager.request("GET", server.url)
            if number % 20 == 10:
                scope.detach()
                scope.attach()
    assert watch.fallen == []
    seen.agrees_with(server)
    assert sum(seen.requests.values()) == 60


def test_levels_survive_detach_and_attach_in_the_middle_of_traffic(scope, serve):
    server = serve(mixed(ok, ok, ok, bye))
    seen = scope.of(server)
    over = threading.Event()

    def traffic(manager):
        while not over.is_set():
            manager.request("GET", server.url)

    manager = urllib3.PoolManager(maxsize=2)
    with Watch(scope.registry) as watch, ThreadPoolExecutor(4) as threads:
        running = [threads.submit(traffic, manager) for _ in range(4)]
        for _ in range(10):
            asked = server.answered
            server.wait(answered=asked + 20)
            scope.detach()
            server.wait(answered=asked + 25)
            scope.attach()
        over.set()
        for each in running:
            each.result()
    del running
    manager.clear()
    assert watch.fallen == []
    assert seen.open == {"active": 0, "idle": 0}
    assert sum(seen.opened.values()) == sum(seen.closed.values()) <= server.accepted
    assert sum(seen.requests.values()) <= server.answered
    assert seen.failed == {}

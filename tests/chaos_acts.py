"""What one process of the chaos does with connections: acts that are drawn from a seed."""

from __future__ import annotations

import collections
import contextlib
import gc
import random
import time

import requests
import urllib3

#: What acts may raise: what urllib3 and requests raise where a server misbehaves.
USUAL = (urllib3.exceptions.HTTPError, requests.RequestException, OSError)
_SOON = urllib3.Timeout(connect=5, read=0.01)
_ODD = ("/fin", "/rst", "/bye", "/lose", "/truncated", "/bad_chunk", "/no_chunk", "/garbage")


class Cycle:
    """Something that only the cyclic garbage collector can free."""

    def __init__(self, *held):
        self.held = held
        self.itself = self


class Host:
    """A process's pools and sessions, as a service has them; a child makes its own."""

    def __init__(self, urls, context, nobody):
        self.urls = urls
        #: A port on which nobody listens.
        self.nobody = nobody
        self.context = context
        self.shared = urllib3.PoolManager(num_pools=8, maxsize=1, ssl_context=context)
        self.evicting = urllib3.PoolManager(num_pools=1, maxsize=2, ssl_context=context)
        self.blocking = urllib3.PoolManager(maxsize=1, block=True, ssl_context=context)
        self.session = requests.Session()
        #: Responses that are held for a while: bounded, so the oldest is dropped.
        self.held = collections.deque(maxlen=6)

    def url(self, rng, path="/ok"):
        return rng.choice(self.urls) + path

    def plain(self, rng, path="/ok"):
        return rng.choice([url for url in self.urls if url.startswith("http:")]) + path

    def manager(self, rng):
        return rng.choice((self.shared, self.shared, self.evicting))

    def end(self):
        """Let go of everything."""
        self.held.clear()
        self.session.close()
        for manager in (self.shared, self.evicting, self.blocking):
            manager.clear()


# ---- acts: functions of a host and the thread's own random numbers


def ask(host, rng):
    for _ in range(rng.randint(1, 4)):
        host.manager(rng).request("GET", host.url(rng), retries=False)


def ask_for_odd_things(host, rng):
    host.manager(rng).request("GET", host.url(rng, rng.choice(_ODD)), retries=rng.randint(0, 1))


def meet_silence(host, rng):
    host.manager(rng).request("GET", host.url(rng, "/silence"), timeout=_SOON, retries=False)


def find_nobody(host, rng):
    host.manager(rng).request("GET", f"http://127.0.0.1:{host.nobody}/", retries=rng.randint(0, 1))


def ask_barely(host, rng):
    requests.get(host.plain(rng), timeout=30)


def ask_with_a_session(host, rng):
    host.session.get(host.plain(rng), timeout=30)


def give_up_half_way(host, rng):
    """Do what clients of exports, of watches and of language models do."""
    response = host.manager(rng).request(
        "GET", host.url(rng, rng.choice(("/chunks", "/big"))), preload_content=False, retries=False
    )
    for _ in zip(range(rng.randint(0, 3)), response.stream(64)):
        pass
    _leave(host, rng, response)


def give_up_lines(host, rng):
    response = host.session.get(host.plain(rng, "/chunks"), stream=True, timeout=30)
    for _ in response.iter_lines():
        break
    _leave(host, rng, response)


def _leave(host, rng, response):
    fate = rng.choice(("close", "drop", "hold", "cycle", "release"))
    if fate == "close":
        response.close()
    elif fate == "hold":
        host.held.append(response)
    elif fate == "cycle":
        Cycle(response)
    elif fate == "release" and hasattr(response, "drain_conn"):
        response.drain_conn()
        response.release_conn()


def wait_in_a_queue(host, rng):
    url = host.plain(rng, "/chunks")
    held = host.blocking.request("GET", url, preload_content=False, retries=False, pool_timeout=0.5)
    pool = host.blocking.connection_from_url(url)
    with contextlib.suppress(urllib3.exceptions.EmptyPoolError):
        pool._get_conn(timeout=0.001).close()
        pool._put_conn(None)
    held.drain_conn()
    held.release_conn()


def make_and_drop_a_manager(host, rng):
    manager = urllib3.PoolManager(ssl_context=host.context)
    for _ in range(rng.randint(1, 3)):
        manager.request("GET", host.url(rng), retries=False)
    fate = rng.choice(("clear", "drop", "cycle", "cycle and response"))
    if fate == "clear":
        manager.clear()
    elif fate == "cycle":
        Cycle(manager)
    elif fate == "cycle and response":
        Cycle(
            manager,
            manager.request("GET", host.url(rng, "/big"), preload_content=False, retries=False),
        )


def close_pools_under_others(host, rng):
    if rng.random() < 0.5:
        host.shared.clear()
    else:
        host.session.close()


def connect_by_hand(host, rng):
    """Warm a pool."""
    pool = host.shared.connection_from_url(host.plain(rng))
    conn = pool._get_conn()
    conn.connect()
    pool._put_conn(conn)


def collect(_host, rng):
    gc.collect(rng.randint(0, 2))


def rest(_host, rng):
    time.sleep(rng.random() * 0.02)


ACTS = {
    ask: 8,
    ask_for_odd_things: 6,
    give_up_half_way: 6,
    make_and_drop_a_manager: 5,
    give_up_lines: 3,
    ask_barely: 3,
    ask_with_a_session: 3,
    wait_in_a_queue: 2,
    collect: 2,
    rest: 2,
    meet_silence: 1,
    find_nobody: 1,
    close_pools_under_others: 1,
    connect_by_hand: 1,
}


class Actor:
    """One thread's own play: the same name and seed draw the same acts in the same order."""

    def __init__(self, host, name, acts=None):
        self.host = host
        self.rng = random.Random(name)
        self._acts, self._weights = zip(*(acts or ACTS).items())
        #: The last acts, to be told if something goes wrong.
        self.last = collections.deque(maxlen=8)
        self.acted = 0

    def act(self):
        """Do the next thing; what servers do to us is usual."""
        (act,) = self.rng.choices(self._acts, self._weights)
        # Each act's own: how far one comes, and what it asks for, must not shift the next ones.
        rng = random.Random(self.rng.random())
        self.last.append(act.__name__)
        self.acted += 1
        with contextlib.suppress(*USUAL):
            act(self.host, rng)

"""Services with one fault each, or none: ``python faulty_app.py FAULT URL ...``.

Findings, the lines that they name and the values that they recommend are known beforehand.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time

import requests
import urllib3
from urllib3.exceptions import HTTPError

TIMES = 30
session = requests.Session()


def bare(url):
    requests.get(url)  # HERE: bare


def session_per_request(url):
    for _ in range(TIMES):
        bare(url)


def take(pool):
    return pool.request("GET", "/", preload_content=False)  # HERE: small


def small_pool(url):
    """Six at once, now and then, where there is room for two."""
    pool = urllib3.PoolManager(maxsize=2).connection_from_url(url)
    for _ in range(10):
        several = [take(pool) for _ in range(6)]
        for one in several:
            one.drain_conn()
            one.release_conn()
        time.sleep(0.15)


def queue(url):
    """Four threads, all the time, where there is one connection and an answer takes a while."""
    pool = urllib3.PoolManager(maxsize=1, block=True).connection_from_url(url)
    end = time.monotonic() + 3

    def ask():
        while time.monotonic() < end:
            pool.request("GET", "/slow")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def impatient(url):
    """Others get nothing while the one connection is taken, and give up."""
    pool = urllib3.PoolManager(maxsize=1, block=True).connection_from_url(url)
    for _ in range(TIMES):
        pool.request("GET", "/")
    taken = pool.request("GET", "/", preload_content=False)
    for _ in range(5):
        with contextlib.suppress(HTTPError):
            pool.request("GET", "/", pool_timeout=0.001, retries=False)
    taken.drain_conn()
    taken.release_conn()


manager = urllib3.PoolManager()


def glance(url):
    manager.request("GET", f"{url}/long", preload_content=False).close()  # HERE: unread


def leave(url):
    with session.get(f"{url}/long", stream=True):  # HERE: left
        pass


def unread(url, give_up=glance, read=lambda url: manager.request("GET", url)):
    """Others are read well, and have to open a new connection each time."""
    give_up(url)
    time.sleep(2.5)  # from then on it is looked who takes a connection
    for _ in range(TIMES - 1):
        read(url)
        give_up(url)
    read(url)


def unread_by_requests(url):
    """Do the same where a closed connection goes back to its pool, and is opened again."""
    unread(url, leave, session.get)


def peek(url):
    return session.get(url, stream=True)  # HERE: held


def held(url):
    """Keep responses; the first takes a connection that another line has opened."""
    kept = []
    for leaks in (1, 3):
        for _ in range(TIMES):
            session.get(url)
        kept += [peek(url) for _ in range(leaks)]
        time.sleep(2.5)
    for one in kept:
        one.content  # noqa: B018 - it is read there


def evicting(*urls):
    """Three hosts in turn, where two are remembered."""
    manager = urllib3.PoolManager(num_pools=2)
    for _ in range(TIMES):
        for url in urls:
            manager.request("GET", url)  # HERE: evicted


def asking(url):
    """Behave well; if anything is wrong it is the other side."""
    for _ in range(TIMES):
        with contextlib.suppress(requests.RequestException):
            session.get(url, timeout=0.1)
        time.sleep(0.02)


def mixed(one, two, three, four):
    session_per_request(one)
    small_pool(two)
    asking(three)
    asking(four)


# ---- nothing is wrong with these


def in_threads(url):
    """Give each of a few long-lived threads its Session."""

    def work():
        with requests.Session() as own:
            for _ in range(TIMES * 4):
                own.get(url)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def a_pool_with_room(url):
    manager = urllib3.PoolManager(maxsize=6)
    pool = manager.connection_from_url(url)
    for _ in range(TIMES):
        several = [take(pool) for _ in range(6)]
        for one in several:
            one.drain_conn()
            one.release_conn()


def streams(url):
    for _ in range(TIMES):
        with session.get(f"{url}/long", stream=True) as response:
            for _ in response.iter_content(65536):
                pass


def short(url):
    """Too little to say anything."""
    for _ in range(3):
        requests.get(url)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

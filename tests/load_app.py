"""A service that treats its upstreams as its arguments say, until it is told otherwise.

``python load_app.py [--native PORT | --otel PORT] HABIT=URL ...``; without a port it does not
attach poolscope. "fix" on standard input makes it behave: one Session for everything; "stop" ends
all requests.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time

import prometheus_client
import requests
import urllib3
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider

import poolscope

PAUSE = 0.1  # seconds; some ten requests a second and thread
TIME_OUT = 5
HELD_AFTER = 1

fixed, stopped = threading.Event(), threading.Event()
session = requests.Session()
for scheme in ("http://", "https://"):
    session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=32))


def good(url):
    """Use the one Session."""
    session.get(url, verify=False, timeout=TIME_OUT)


def bare(url):
    """Make a Session for each request."""
    requests.get(url, verify=False, timeout=TIME_OUT)


class Pooled:
    """A pool with a habit, used by several threads."""

    def __init__(self, threads, path="/", *, read=True, patience=TIME_OUT, **options):
        self.threads, self.path, self.read, self.patience = threads, path, read, patience
        self.manager = urllib3.PoolManager(cert_reqs="NONE", **options)

    def __call__(self, url):
        response = self.manager.request(
            "GET", url + self.path, preload_content=self.read, retries=False, timeout=TIME_OUT,
            pool_timeout=self.patience,
        )  # fmt: skip
        if not self.read:
            response.close()


class Evicting:
    """A manager that keeps one host's pool, and is asked for two."""

    threads = 1

    def __init__(self):
        self.manager = urllib3.PoolManager(num_pools=1, cert_reqs="NONE")

    def __call__(self, url):
        for host in ("127.0.0.1", "localhost"):
            self.manager.request("GET", url.replace("127.0.0.1", host))


class Holding:
    """Takes a response, and thinks before it reads it."""

    threads = 1

    def __init__(self):
        self.manager = urllib3.PoolManager(cert_reqs="NONE")

    def __call__(self, url):
        response = self.manager.request("GET", url, preload_content=False)
        time.sleep(2.5 * HELD_AFTER)
        response.drain_conn()
        response.release_conn()


HABITS = {
    "good": good,
    "bare": bare,
    "small": Pooled(4, "/slow", maxsize=1),
    "waiting": Pooled(4, "/slow", maxsize=1, block=True),
    "impatient": Pooled(4, "/slow", maxsize=1, block=True, patience=0.01),
    "unread": Pooled(1, "/long", read=False),
    "evicting": Evicting(),
    "racing": Pooled(1, "/fin"),
    "holding": Holding(),
    "refused": Pooled(1),
}


def live(habit, url):
    """Make requests until it is told to stop."""
    while not stopped.is_set():
        with contextlib.suppress(requests.RequestException, urllib3.exceptions.HTTPError):
            (good if fixed.is_set() else habit)(url)
        time.sleep(PAUSE)


def attach(options):
    """Attach poolscope in the way that the arguments ask for, if they do."""
    settings = {"call_sites": True, "held_after": HELD_AFTER}
    if options.native is not None:
        poolscope.instrument(**settings)
    elif options.otel is not None:
        poolscope.instrument(MeterProvider([PrometheusMetricReader()]), **settings)
    else:
        return
    prometheus_client.start_http_server(options.native or options.otel, "127.0.0.1")


def main():
    urllib3.disable_warnings()
    parser = argparse.ArgumentParser()
    parser.add_argument("--native", type=int)
    parser.add_argument("--otel", type=int)
    parser.add_argument("habits", nargs="+")
    options = parser.parse_args()
    attach(options)
    for each in options.habits:
        name, url = each.split("=", 1)
        habit = HABITS[name]
        for _ in range(getattr(habit, "threads", 1)):
            threading.Thread(target=live, args=(habit, url), daemon=True).start()
    for line in sys.stdin:
        {"fix": fixed, "stop": stopped}[line.strip()].set()


if __name__ == "__main__":
    main()

"""No deadlock, ever: connections close in garbage collections, on any thread, under any lock.

Each storm runs in a process of its own, so that one that hangs is killed and seen to fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from peers import PATIENCE, keep_alive

COMMON = """
    import gc, json, logging, signal, sys, threading, time
    import poolscope, urllib3
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    urls = sys.argv[1:]
    registry = CollectorRegistry()
    poolscope.instrument(registry, max_origins=10_000)
    deadline = time.monotonic() + 1.5
    errors = []

    def die_in_a_cycle(turn):
        # A pool and a response that nothing but the cyclic collector can free.
        pool = urllib3.PoolManager()
        pool.itself = pool
        response = pool.request("GET", urls[turn % len(urls)], preload_content=False)
        response.itself = response
        if turn % 3:
            response.read()

    def until_the_end(act):
        turn = 0
        try:
            while time.monotonic() < deadline:
                turn += 1
                act(turn)
        except BaseException as error:
            errors.append(repr(error))

    def storm(*acts):
        threads = [threading.Thread(target=until_the_end, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def tell():
        # Another thread may be collecting at this moment; then ours does nothing.
        patience = time.monotonic() + 20
        while time.monotonic() < patience:
            gc.collect()
            snapshot = poolscope.snapshot()
            if not sum(origin["connections"]["open"] for origin in snapshot["origins"]):
                break
            time.sleep(0.05)
        print(json.dumps([errors, snapshot]))
"""

PLAIN = """
    storm(*[die_in_a_cycle] * 8, lambda turn: generate_latest(registry))
    tell()
"""

# The host's own metrics and logs take locks while garbage collections close connections.
UNDER_LOCKS = """
    counter = Counter("own", "Own.", ["label"], registry=registry)
    logging.basicConfig(stream=open("/dev/null", "w"), level=logging.DEBUG)

    def count(turn):
        counter.labels(str(turn % 500)).inc()
        logging.info("turn %d", turn)

    storm(*[die_in_a_cycle] * 4, *[count] * 4, lambda turn: generate_latest(registry))
    tell()
"""

SIGNAL_HANDLER = """
    requests = urllib3.PoolManager(maxsize=50)

    # The next alarm is set when one is over: on a slow machine they would bury each other.
    def handler(number, frame):
        requests.request("GET", urls[0])
        die_in_a_cycle(1)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    "".encode("idna")  # the handler must not come while that is being imported
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    until_the_end(lambda turn: (die_in_a_cycle(turn), generate_latest(registry)))
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    requests.clear()
    tell()
"""

LOGGING_HANDLER = """
    shipping = threading.local()
    pool = urllib3.PoolManager()

    class Shipper(logging.Handler):
        def emit(self, record):
            if not getattr(shipping, "now", False):
                shipping.now = True
                try:
                    pool.request("POST", urls[0])
                finally:
                    shipping.now = False

    logging.getLogger().addHandler(Shipper())
    logging.getLogger().setLevel(logging.DEBUG)
    storm(*[die_in_a_cycle] * 4, lambda turn: generate_latest(registry))
    pool.clear()
    tell()
"""


@pytest.mark.parametrize(
    "script",
    [PLAIN, UNDER_LOCKS, SIGNAL_HANDLER, LOGGING_HANDLER],
    ids=["pools die", "under the host's locks", "signal handler", "logging handler"],
)
def test_a_storm_ends_and_everything_is_counted(script, serve):
    servers = [serve(keep_alive) for _ in range(20)]
    code = textwrap.dedent(COMMON) + textwrap.dedent(script)
    storm = subprocess.run(
        [sys.executable, "-c", code, *(server.url for server in servers)],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert storm.returncode == 0, storm.stderr
    errors, snapshot = json.loads(storm.stdout)
    assert (errors, snapshot["faults"]) == ([], {})
    rows = {row["port"]: row for row in snapshot["origins"]}
    assert len(rows) > 1
    for server in servers:
        if not server.accepted:  # a slow machine did not come that far
            continue
        row = rows[str(server.port)]
        connections = row["connections"]
        assert connections["opened"] == connections["closed"] == server.accepted
        assert connections["open"] == 0
        assert row["requests"]["answered"] == server.answered

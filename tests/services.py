"""A gunicorn service, real: under ``poolscope run`` or in prometheus_client's multiprocess mode."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from commands import Running, origin_of, report_in
from peers import PATIENCE, eventually, listen
from poolscope import scrape
from poolscope.summary import summarize

# Two requests to the upstream for each one of its own: one on a connection that is kept (with
# --preload the master's), one on a connection that is opened and closed for it.
APP = """
    import os
    import urllib3

    if os.environ.get("INSTRUMENT") == "app":
        import poolscope
        poolscope.instrument()
    upstream, authority = os.environ["UPSTREAM"], os.environ["AUTHORITY"]
    kept = urllib3.PoolManager(maxsize=8, ca_certs=authority)
    if os.environ["PRELOAD"]:
        kept.request("GET", upstream)

    def app(environ, start_response):
        kept.request("GET", upstream)
        with urllib3.PoolManager(ca_certs=authority) as own:
            own.request("GET", upstream)
        body = str(os.getpid()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""
SETTINGS = """
    import os
    from pathlib import Path

    here = Path(__file__).parent
    loglevel = "critical"
    control_socket_disable = True
    workers = 2
    graceful_timeout = 10
    # Read again at a reload.
    max_requests = int((here / "max_requests").read_text())

    if os.environ.get("INSTRUMENT") == "settings":
        import poolscope
        poolscope.instrument()

    def note(name, pid):
        with open(here / name, "a") as file:
            file.write(f"{pid}\\n")

    def post_worker_init(worker):
        note("born", worker.pid)

    def child_exit(server, worker):
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from prometheus_client import multiprocess
            multiprocess.mark_process_dead(worker.pid)
        note("dead", worker.pid)
"""


def row_of(report, upstream):
    """Return a report's row for an upstream, its only one; None before anything is known."""
    assert report["faults"] == {}
    assert len(report["origins"]) <= 1
    return origin_of(report, upstream) if report["origins"] else None


def page_of(directory):
    """Return the metrics in a directory of prometheus_client's multiprocess mode."""
    while True:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(directory))
        # A process makes its files and then fills them.
        with contextlib.suppress(struct.error):
            return generate_latest(registry).decode()


class Service:
    """Two workers behind a socket that listens already, and what the metrics say of them."""

    def __init__(self, directory, upstream, kind, authority, *, preload=False, early=False):
        self.directory = directory
        self.upstream = upstream
        #: The app is imported, and its first connection opened, before the workers are forked.
        self.preload = preload
        #: If it is instrumented by itself: in the settings, which are the master's, or in the app.
        self.early = early
        #: How many requests each worker has answered.
        self.served = Counter()
        self._before = {}
        self.set_max_requests(2)
        (directory / "app.py").write_text(textwrap.dedent(APP))
        (directory / "settings.py").write_text(textwrap.dedent(SETTINGS))
        self.listener = listen()
        environ = os.environ | {
            "UPSTREAM": upstream.url,
            "AUTHORITY": authority,
            "PRELOAD": "yes" if preload else "",
            "HOME": str(directory),
        }
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{self.listener.fileno()}"]
        command += ["--config", "settings.py", "--worker-class", kind, *["--preload"] * preload]
        # With more than one thread gunicorn takes "sync" for "gthread".
        command += ["--threads", "4" if kind == "gthread" else "1"]
        self.start(
            [*command, "app:app"],
            {"env": environ, "cwd": directory, "pass_fds": [self.listener.fileno()]},
        )

    # ---- what is done to it

    def set_max_requests(self, number):
        """Let workers end after so many requests (0: never), from the next reload on."""
        self.max_requests = number or math.inf
        (self.directory / "max_requests").write_text(str(number))

    def ask(self, times=1):
        """Ask so many times at once."""
        with ThreadPoolExecutor(times) as pool:
            self.served.update(pool.map(lambda _: self._ask(), range(times)))

    def _ask(self):
        connection = http.client.HTTPConnection(*self.listener.getsockname(), timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Connection": "close"})
            answer = connection.getresponse()
            assert answer.status == 200
            return int(answer.read())

    def reload(self):
        """Send SIGHUP and wait until all workers are new ones, with the settings of now."""
        old = self.workers
        self.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: len(self.workers - old) == len(self.workers) == 2)

    def kill(self, worker):
        """Send a worker SIGKILL and wait until another one has taken its place."""
        os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: worker not in self.workers and len(self.workers) == 2)

    # ---- what is seen of it

    def is_settled(self):
        """Tell whether two workers are there, and neither is about to end.

        One that has just been forked would miss a signal.
        """
        are_staying = [self.served[worker] < self.max_requests for worker in self.workers]
        return are_staying == [True, True]

    def _noted(self, name):
        path = self.directory / name
        return set(map(int, path.read_text().split())) if path.exists() else set()

    @property
    def workers(self):
        """The workers that are there now."""
        return self._noted("born") - self._noted("dead")

    def row(self):
        """Read the metrics of the upstream; no counter may have gone down since the last time."""
        page = self.page()
        counters = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name.endswith(("_total", "_count", "_sum", "_bucket"))
        }
        assert self._before.keys() <= counters.keys()
        went_down = {key: now for key, now in counters.items() if now < self._before.get(key, 0)}
        assert not went_down
        self._before = counters
        return row_of(summarize(scrape.read(page)), self.upstream)

    def is_told(self, lost=0):
        """Tell whether the metrics say what the upstream says, but for connections that were lost.

        An inherited connection is open in every process that uses it.
        """
        row, upstream = self.row(), self.upstream
        return (
            row is not None
            and row["requests"]["answered"] == upstream.answered
            and row["connections"]["opened"] == upstream.accepted
            and row["handshakes"]["completed"] == upstream.handshakes
            and row["connections"]["closed"] == upstream.closed - lost
            and row["connections"]["open"] == self.preload + len(self.served.keys() & self.workers)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.listener.close()


class UnderRun(Service):
    """Attached from outside."""

    def start(self, command, options):
        self.running = Running(*command, **options)
        self.process = self.running.process

    def page(self):
        return self.running.scrape()

    def end(self):
        """Stop it and return the report's row for its upstream."""
        self.process.terminate()
        status, errors = self.running.end()
        assert status == 0
        return row_of(report_in(errors), self.upstream)

    def __exit__(self, *exc):
        self.running.__exit__(*exc)
        super().__exit__(*exc)


class Multiprocess(Service):
    """Instrumented by itself; the metrics are read from its directory."""

    def start(self, command, options):
        self.files = self.directory / "metrics"
        self.files.mkdir()
        options["env"] |= {
            "PROMETHEUS_MULTIPROC_DIR": str(self.files),
            "INSTRUMENT": "settings" if self.early else "app",
        }
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)

    def page(self):
        return page_of(self.files)

    def end(self):
        """Stop it and return the metrics' row for its upstream."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, errors) == (0, "")
        return self.row()

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=PATIENCE)
        super().__exit__(*exc)

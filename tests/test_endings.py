"""Processes that end in ways of their own have told everything, down to their last request."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from commands import counts_of, origin_of, own_counts, report_of, run
from peers import keep_alive
from poolscope import scrape
from poolscope.summary import summarize
from services import page_of


@pytest.fixture
def program(tmp_path):
    """Write a program whose ``fetch`` makes a request on a connection that it keeps open."""

    def write(text):
        path = tmp_path / "program.py"
        head = """
            import os, sys
            import urllib3
            kept = urllib3.PoolManager()
            def fetch(*_):
                kept.request("GET", os.environ["UPSTREAM"])
        """
        path.write_text(textwrap.dedent(head) + textwrap.dedent(text))
        return path

    return write


CHILD = """
    import multiprocessing, threading
    from concurrent.futures import ThreadPoolExecutor

    over = threading.Event()

    def late():
        over.wait()
        fetch()

    def work():
        global executor
        fetch()
        # Called when the main thread begins to wait for the others, whichever Python it is.
        threading._register_atexit(over.set)
        executor = ThreadPoolExecutor(1)
        executor.submit(late)
        threading.Thread(target=late).start()

    if __name__ == "__main__":
        child = multiprocessing.get_context(sys.argv[1]).Process(target=work)
        child.start()
        child.join()
        sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_that_waits_for_its_threads(serve, program, kind):
    server = serve(keep_alive)
    result = run(sys.executable, program(CHILD), kind, env=os.environ | {"UPSTREAM": server.url})
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server)
    assert server.answered == 3
    connections = origin_of(report, server)["connections"]
    assert connections["closed"] == connections["opened"]


ATTACHED_LATE = """
    import multiprocessing

    def attach():
        import poolscope
        poolscope.instrument()

    if "forkserver" in sys.argv:
        attach()

    if __name__ == "__main__":
        initializer = attach if sys.argv[1] == "fork" else None
        pool = multiprocessing.get_context(sys.argv[1]).Pool(2, initializer, maxtasksperchild=3)
        pool.map(fetch, range(8), chunksize=1)
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("kind", ["fork", "forkserver"])
def test_a_child_of_multiprocessing_that_attaches_itself(serve, program, tmp_path, kind):
    """In an initializer, or in the module that a server of forks imports for it."""
    server = serve(keep_alive)
    files = tmp_path / "metrics"
    files.mkdir()
    environ = {"UPSTREAM": server.url, "PROMETHEUS_MULTIPROC_DIR": str(files)}
    subprocess.run(
        [sys.executable, program(ATTACHED_LATE), kind], env=os.environ | environ, check=True
    )
    report = summarize(scrape.read(page_of(files)))
    assert counts_of(report, server) == own_counts(server)
    connections = origin_of(report, server)["connections"]
    assert connections["closed_by_reason"] == {"exit": server.accepted}


CELERY = """
    from celery import signals

    pid = os.fork()
    if pid == 0:
        fetch()
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
        os._exit(0)
    os.waitpid(pid, 0)
"""
SIGNALS = """
    class Signal:
        receivers = ()
        def connect(self, receiver, weak):
            assert not weak
            self.receivers += (receiver,)
        def send(self, **named):
            for receiver in self.receivers:
                receiver(signal=self, **named)

    worker_process_shutdown = Signal()
"""


def test_a_worker_of_celery(serve, program, tmp_path):
    """Leaves right after its signal, as celery's own do; celery itself is a stand-in."""
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery" / "__init__.py").touch()
    (tmp_path / "celery" / "signals.py").write_text(textwrap.dedent(SIGNALS))
    server = serve(keep_alive)
    result = run(sys.executable, program(CELERY), env=os.environ | {"UPSTREAM": server.url})
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server) == (1, 0, 1)
    assert origin_of(report, server)["connections"]["closed_by_reason"] == {"exit": 1}

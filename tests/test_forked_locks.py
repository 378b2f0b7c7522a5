"""A lock that a fork left locked is waited for by nobody without an end, and forks that hide."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest

from peers import HOST, eventually, keep_alive

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

START = """
import os, sys, threading, time, urllib3
import poolscope
from poolscope.observers import Observer

def request(pool=None):
    with urllib3.HTTPConnectionPool("{host}", {port}) as pool:
        pool.request("GET", "/")

def end(pid, seconds=25):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"
"""


def run(code, server, **environ):
    script = START.format(host=HOST, port=server.port) + textwrap.dedent(code)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr


HELD = """
lock = threading.Lock()
class Locked(Observer):
    def tell(self, events):
        with lock:
            pass
    ended = tell_ended = lambda self: self.tell(())

class Counts(Observer):
    opened_by_now = 0
    def opened(self, event):
        self.opened_by_now += 1
    def forked(self):
        self.opened_by_now = 0

counts = Counts()
poolscope.instrument([Locked(), counts])
request()
poolscope.snapshot()
def hold():
    with lock:
        held.set()
        time.sleep(60)
held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
"""
WAYS = {
    "by itself": "sys.exit()",
    "by os._exit after a snapshot": "poolscope.snapshot(); os._exit(0)",
    "by uninstrument": "poolscope.uninstrument(); os._exit(0)",
    "in another thread": "t = threading.Thread(target=request); t.start(); t.join(); sys.exit()",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_child_whose_observer_waits_for_ever_counts_and_ends(serve, way):
    """The others hear everything, and the child ends with the status that it has chosen."""
    server = serve(keep_alive)
    code = f"""
    {textwrap.indent(HELD, "    ").strip()}
    pid = os.fork()
    if not pid:
        for _ in range(3):
            request()
        (row,) = poolscope.snapshot()["origins"]
        print(row["connections"]["opened"], counts.opened_by_now, flush=True)
        {WAYS[way]}
    print(end(pid))
    os._exit(0)
    """
    printed, _ = run(code, server)
    assert printed == ["3", "3", "0"]


def test_children_forked_while_opentelemetry_collects_all_end(serve):
    """It goes on collecting and Prometheus is scraped: both take locks at any moment."""
    server = serve(keep_alive)
    code = """
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from prometheus_client import CollectorRegistry, generate_latest
    reader, registry = InMemoryMetricReader(), CollectorRegistry()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    poolscope.instrument([provider, registry])
    for _ in range(5):
        request()
    def collect():
        while True:
            reader.collect()
    def scrape():
        while True:
            generate_latest(registry)
    for work in (collect, scrape):
        threading.Thread(target=work, daemon=True).start()
    ends = []
    for number in range(40):
        pid = os.fork()
        if not pid:
            request()
            if number % 2:
                sys.exit(7)
            poolscope._process._exit()
            os._exit(7)
        request()
        ends.append(end(pid))
    print(*sorted(set(map(str, ends))))
    rows = poolscope.snapshot()["origins"]
    print(*(row["connections"]["opened"] for row in rows), flush=True)
    os._exit(0)
    """
    printed, _ = run(code, server)
    assert printed == ["7", "45"]
    assert (server.accepted, server.answered) == (85, 85)


def test_a_child_forked_by_a_thread_ends_with_that_thread(serve):
    """As it does without poolscope, of which a thread is left there."""
    server = serve(keep_alive)
    code = """
    heard = []
    class Heard(Observer):
        def ended(self):
            os.write(writer, b"ended")
    reader, writer = os.pipe()
    poolscope.instrument(Heard())
    def fork():
        pid = os.fork()
        if pid:
            heard.append(end(pid))
        else:
            request()
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    print(*heard, os.read(reader, 10).decode())
    """
    assert run(code, server)[0] == ["0", "ended"]


UWSGI = """
class Uwsgi:
    pass
sys.modules["uwsgi"] = uwsgi = Uwsgi()
{before}
poolscope.instrument(())
{after}
request()
poolscope.snapshot()
import ctypes
pid = ctypes.CDLL(None).fork()
if not pid:
    hook = getattr(uwsgi, "post_fork_hook", None)
    if hook is not None:
        hook()
    {hook}
    request()
    time.sleep(0.2)  # longer than its first beat
    print(*(row["connections"]["opened"] for row in poolscope._process.readings and
            poolscope.snapshot()["origins"]), poolscope._process.pulse.beating, flush=True)
    os._exit(0)
print(end(pid), *(row["connections"]["opened"] for row in poolscope.snapshot()["origins"]))
"""
POSTFORK = "uwsgi.post_fork_hook = lambda: print('theirs', flush=True)"


@pytest.mark.parametrize(
    ("before", "after", "printed"),
    [
        ("", "", []),
        (POSTFORK, "", ["theirs"]),
        ("", POSTFORK, ["theirs"]),
        ("", "uwsgi.post_fork_hook = None", []),
    ],
    ids=["told", "after theirs", "theirs took its place", "nobody is told"],
)
def test_a_fork_that_python_is_not_told_of_begins_a_history(serve, before, after, printed):
    """As uWSGI's workers are made, after a request of the master."""
    server = serve(keep_alive)
    code = UWSGI.format(before=before, after=after, hook="")
    assert run(code, server)[0] == [*printed, "1", "True", "0", "1"]
    assert (server.accepted, server.answered) == (2, 2)


@pytest.mark.parametrize("way", ["os._exit(0)", "sys.exit()"])
def test_a_fork_that_nobody_told_of_ends_as_a_child(serve, way):
    """It neither says what its parent has to say, nor waits for a thread that it has not got."""
    server = serve(keep_alive)
    code = f"""
    class Heard(Observer):
        may_block = False
        def tell(self, events):
            os.write(writer, b"t" * sum(type(event).__name__ == "Opened" for event in events))
        def ended(self):
            os.write(writer, b"e")
    import ctypes
    reader, writer = os.pipe()
    poolscope.instrument(Heard())
    request()
    poolscope.snapshot()
    for _ in range(3):
        request()
    began = time.monotonic()
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        {way}
    print(end(pid, seconds=8))
    poolscope.uninstrument()
    print(os.read(reader, 100).count(b"t"))
    """
    assert run(code, server)[0] == ["0", "4"]


@pytest.mark.skipif(
    importlib.util.find_spec("pyuwsgi") is None, reason="uWSGI is not installed here"
)
def test_workers_of_uwsgi_count_from_their_first_request(serve, tmp_path):
    server = serve(keep_alive)
    (tmp_path / "app.py").write_text(
        textwrap.dedent(f"""
        import urllib3
        KEYS = urllib3.PoolManager().request("GET", "{server.url}").data

        def application(environ, start):
            data = urllib3.PoolManager().request("GET", "{server.url}").data
            start("200 OK", [("Content-Length", str(len(data)))])
            return [data]
        """)
    )
    scripts = Path(sys.executable).parent
    command = [
        *(str(scripts / "poolscope"), "run", "--port", "0", "--", str(scripts / "uwsgi")),
        *("--http-socket", "127.0.0.1:0", "--wsgi-file", "app.py", "--master", "--need-app"),
        *("--processes", "2", "--enable-threads", "-H", sys.prefix),
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        said = []
        while not any("spawned uWSGI worker 2" in line for line in said):
            said.append(process.stderr.readline())
        text = "".join(said)
        port = re.search(r"bound to TCP address 127\.0\.0\.1:(\d+)", text)[1]
        metrics = re.search(r"metrics at (\S+)", text)[1]
        for _ in range(6):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").read() == b"ok"

        def opened():
            page = urllib.request.urlopen(metrics).read().decode()
            name = r"^poolscope_connections_opened_total\{.*\} (\S+)$"
            return sum(float(number) for number in re.findall(name, page, re.MULTILINE))

        eventually(lambda: opened() == 7)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert (server.accepted, server.answered) == (7, 7)

"""gevent, patched in before or after us: its hub is never blocked, and the counts are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from commands import counts_of, origin_of, own_counts, report_of, run
from peers import keep_alive

pytest.importorskip("gevent", reason="gevent is not installed")

ORDERS = {
    "patched first": "monkey.patch_all(); poolscope.instrument(())",
    # All greenlets have one thread's number then.
    "sockets alone": "monkey.patch_socket(); monkey.patch_select(); poolscope.instrument(())",
    "attached first": "poolscope.instrument(()); monkey.patch_all()",
}
GREENLETS = """
    import json, sys
    import poolscope
    from gevent import monkey, pool
    {order}
    import urllib3
    manager = urllib3.PoolManager(maxsize=8)
    pool.Pool(8).map(lambda _: manager.request("GET", sys.argv[1]).status, range(40))
    manager.clear()
    print(json.dumps(poolscope.snapshot()))
"""


@pytest.mark.parametrize("order", ORDERS)
def test_greenlets_are_counted_in_either_order(serve, order):
    server = serve(keep_alive)
    code = textwrap.dedent(GREENLETS).format(order=ORDERS[order])
    result = subprocess.run(
        [sys.executable, "-c", code, server.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    snapshot = json.loads(result.stdout)
    assert counts_of(snapshot, server) == own_counts(server)
    assert origin_of(snapshot, server)["requests"]["first"] == server.accepted
    assert snapshot["faults"] == {}
    assert "Warning" not in result.stderr


def test_a_patched_program_is_attached_by_run(serve):
    server = serve(keep_alive)
    code = textwrap.dedent(GREENLETS).format(order="monkey.patch_all()")
    code = "\n".join(line for line in code.splitlines() if "poolscope" not in line)
    result = run(sys.executable, "-c", code, server.url)
    assert result.returncode == 0, result.stderr
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server)
    assert report["faults"] == {}


APP = """
    import os
    import urllib3
    manager = urllib3.PoolManager(maxsize=8)

    def app(environ, start_response):
        manager.request("GET", os.environ["UPSTREAM"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""
DRIVER = """
    import os, signal, socket, subprocess, sys, time, urllib.request
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = subprocess.Popen([
        sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}",
        "--log-level", "error", "app:app",
    ])
    for turn in range(30):
        for attempt in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
                break
            except OSError:
                time.sleep(0.1)
    service.terminate()
    sys.exit(service.wait())
"""


def test_gunicorns_gevent_workers_are_counted(serve, tmp_path):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    server = serve(keep_alive)
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    result = run(
        sys.executable,
        Path("driver.py"),
        cwd=tmp_path,
        env=os.environ | {"UPSTREAM": server.url, "HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert counts_of(report_of(result), server) == own_counts(server)
    assert server.answered == 30

"""Responses that keep their connection for too long are counted, each once, with who took them."""

from __future__ import annotations

import sys
import textwrap
import time
from time import perf_counter

import pytest
import urllib3

import poolscope
from commands import origin_of, report_of, run
from peers import HOST, keep_alive
from poolscope import records

HELD = "poolscope_connections_held_total"


@pytest.fixture
def later(scope, monkeypatch):  # noqa: ARG001 - it has to be attached
    """Return a function that lets time go by, for the drains."""
    skipped = [0.0]
    monkeypatch.setattr(records, "silent_for", lambda _socket: None)  # the kernel's time goes on
    monkeypatch.setattr(poolscope._process.scope, "clock", lambda: perf_counter() + skipped[0])

    def later(seconds):
        poolscope.snapshot()
        skipped[0] += seconds
        poolscope.snapshot()

    return later


def held(scope, server):
    return scope.of(server).total(HELD)


def test_a_response_that_nobody_reads_is_counted_once(scope, serve, later):
    server = serve(keep_alive)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = pool.request("GET", "/", preload_content=False)
        later(59)
        assert held(scope, server) == 0
        later(2)
        assert held(scope, server) == 1
        later(600)
        assert held(scope, server) == 1
        response.drain_conn()
        response.release_conn()
        again = pool.request("GET", "/", preload_content=False)
        later(61)
        assert held(scope, server) == 2
        again.drain_conn()
        again.release_conn()
    assert server.accepted == 1


def test_who_waits_for_an_answer_holds_nothing(scope, serve, later):
    """Nor does a connection that lies in its pool, however long."""
    waiting = []

    def slow(peer):
        peer.request()
        waiting.append(None)
        later(61)
        later(61)
        peer.answer()
        peer.request()

    server = serve(slow)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        assert pool.request("GET", "/").data == b"ok"
        later(61)
        later(61)
    assert waiting == [None]
    assert held(scope, server) == 0


def test_what_was_held_is_free_when_it_is_let_go_of(scope, serve, later):
    server = serve(keep_alive)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        response = pool.request("GET", "/", preload_content=False)
        later(30)
        response.drain_conn()
        response.release_conn()
        for _ in range(3):
            pool.request("GET", "/")
            later(30)
    assert held(scope, server) == 0


def played(directory, server, script, *options):
    (directory / "main.py").write_text(textwrap.dedent(script))
    result = run(sys.executable, "main.py", server.url, cwd=directory, options=options)
    assert result.returncode == 0, result.stderr
    return origin_of(report_of(result), server)


LEAK = """
    import sys, time, requests
    session, kept = requests.Session(), []
    def peek(url):
        kept.append(session.get(url, stream=True))
    def ask(url):
        return session.get(url).text
    for leaks in (1, 3):
        for _ in range(10):
            ask(sys.argv[1])
        for _ in range(leaks):
            peek(sys.argv[1])
        time.sleep(2.5)
"""


def test_the_report_names_the_line_that_took_them(serve, tmp_path):
    """The first one took a connection that another line had opened: from then on it is known."""
    server = serve(keep_alive)
    origin = played(tmp_path, server, LEAK, "--held-after", "0.1")
    assert origin["connections"]["held"] == 4
    assert origin["connections"]["held_call_sites"] == [
        {"path": "main.py", "function": "peek", "line": 5, "count": 3}
    ]
    [finding] = origin["findings"]
    assert finding["id"] == "PoolscopeHeldConnections"
    assert finding["where"] == "main.py:5 in peek, 3 times"


def test_a_stream_that_flows_is_not_held(serve, tmp_path):
    """However long it takes: the kernel knows that something comes."""

    def flow(peer):
        for _ in peer:
            peer.answer(b"", length=30)
            for _ in range(30):
                time.sleep(0.1)
                peer.send(b"x")

    server = serve(flow)
    script = "import sys, requests\nassert len(requests.get(sys.argv[1]).content) == 30\n"
    origin = played(tmp_path, server, script, "--held-after", "0.5")
    assert origin["requests"]["answered"] == 1
    assert origin["connections"]["held"] == 0


def test_without_call_sites_they_are_counted(serve, tmp_path):
    server = serve(keep_alive)
    origin = played(tmp_path, server, LEAK, "--held-after", "0.1", "--no-call-sites")
    assert origin["connections"]["held"] == 4
    assert origin["connections"]["held_call_sites"] == []
    [finding] = origin["findings"]
    assert (finding["id"], finding["where"]) == ("PoolscopeHeldConnections", "")


def test_a_minute_is_allowed_unless_it_is_set(serve, tmp_path):
    server = serve(keep_alive)
    origin = played(tmp_path, server, LEAK)
    assert origin["connections"]["held"] == 0
    assert origin["findings"] == []

"""The examples run as they stand, and poolscope counts what their upstream counts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

# Every example with settings that make it short, and how many requests that is.
SHORT = {
    "bare_get": (["--orders=4"], 12),
    "one_session": (["--orders=4"], 12),
    "small_pool": (["--pages=4"], 32),
    "idle_upstream": (["--requests=3"], 3),
    "gunicorn_service": (["--requests=12"], 12),
}

# An environment in which nothing works that takes its proxy or its CA from there.
HOSTILE = {
    "REQUESTS_CA_BUNDLE": "/nowhere/ca.pem",
    "CURL_CA_BUNDLE": "/nowhere/ca.pem",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "",
    "no_proxy": "internal.example",
}

# Runs an unchanged script in a process that is attached, and prints the snapshot after it.
ATTACHED = """
import json, runpy, sys
import poolscope

poolscope.instrument(())
del sys.argv[0]
sys.path.insert(0, sys.argv[1])
script = runpy.run_path(f"{sys.argv[1]}/{sys.argv.pop(0)}.py", run_name="__main__")
print(json.dumps(poolscope.snapshot()))
"""


def python(*args):
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env=os.environ | HOSTILE | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def counted(line):
    """Return what the upstream counted, out of the line that every example prints."""
    pairs = re.findall(r"(accepts|handshakes|answered) (\d+)", line)
    return {name: int(number) for name, number in pairs}


def attached(name, *more):
    """Run an example attached; return its origin's snapshot, which equals the upstream's counts."""
    ran = python("-c", ATTACHED, name, EXAMPLES, *SHORT[name][0], *more)
    assert (ran.returncode, ran.stderr) == (0, "")
    line, snapshot = ran.stdout.splitlines()
    snapshot = json.loads(snapshot)
    [origin] = snapshot["origins"]
    assert counted(line) == {
        "accepts": origin["connections"]["opened"],
        "handshakes": origin["handshakes"]["completed"],
        "answered": origin["requests"]["answered"],
    }
    assert origin["requests"]["answered"] == SHORT[name][1]
    assert origin["requests"]["failed"] == {}
    assert snapshot["faults"] == {}
    return origin


@pytest.mark.parametrize("name", SHORT)
def test_runs_as_it_stands(name):
    args, requests = SHORT[name]
    ran = python(EXAMPLES / f"{name}.py", *args)
    assert (ran.returncode, ran.stderr) == (0, "")
    [line] = ran.stdout.splitlines()
    counts = counted(line)
    assert counts["answered"] == requests
    assert counts["accepts"] == counts["handshakes"] <= requests


def test_bare_get_opens_a_connection_for_every_call():
    origin = attached("bare_get")
    assert origin["connections"]["opened_by_cause"] == {"first": 1, "new_pool": 11}
    assert origin["connections"]["closed_by_reason"] == {"collected": 12}
    assert origin["requests"]["reused"] == 0


def test_one_session_opens_one():
    origin = attached("one_session")
    assert origin["connections"]["opened_by_cause"] == {"first": 1}
    assert origin["connections"]["closed_by_reason"] == {}
    assert origin["requests"]["reused"] == 11


def test_small_pool_throws_connections_away():
    origin = attached("small_pool")
    opened = origin["connections"]["opened"]
    assert origin["pool"]["discarded"] > 0
    assert origin["connections"]["closed_by_reason"] == {"pool_full": opened - 2}
    assert origin["connections"]["opened_by_cause"]["replaced_pool_full"] > 0
    assert origin["pool"]["waits"] == 0


def test_small_pool_that_blocks_makes_threads_wait():
    origin = attached("small_pool", "--block")
    assert origin["connections"]["opened_by_cause"] == {"first": 1, "growth": 1}
    assert origin["pool"]["waits"] == 32
    assert origin["pool"]["wait"]["p99"] > 0.02  # at least somebody else's round trip
    assert origin["pool"]["discarded"] == 0


def test_a_pool_with_room_for_all_does_neither():
    origin = attached("small_pool", "--pool=8")
    assert origin["connections"]["opened"] <= 8
    assert origin["pool"]["discarded"] == origin["pool"]["waits"] == 0


def test_idle_upstream_leaves_every_connection_stale():
    origin = attached("idle_upstream")
    assert origin["connections"]["opened_by_cause"] == {"first": 1, "replaced_stale": 2}
    assert origin["connections"]["closed_by_reason"] == {"stale": 2}
    assert origin["lifetime"]["idle_when_dropped"]["stale"]["mean"] == pytest.approx(0.4, abs=0.2)


def test_patient_upstream_leaves_it_alone():
    origin = attached("idle_upstream", "--idle-ms=5000")
    assert origin["connections"]["opened_by_cause"] == {"first": 1}


def test_gunicorn_workers_open_a_connection_for_every_request():
    ran = python(EXAMPLES / "gunicorn_service.py", *SHORT["gunicorn_service"][0])
    assert ran.stdout.startswith("12 of 12 requests good")
    assert "gunicorn ended with 0;" in ran.stdout
    assert counted(ran.stdout) == {"accepts": 12, "handshakes": 12, "answered": 12}


def test_the_first_request_on_a_connection_pays_three_round_trips():
    origin = attached("one_session", "--rtt-ms=60")
    first, reused = origin["latency"]["first"]["mean"], origin["latency"]["reused"]["mean"]
    assert first >= 0.18
    assert 0.06 <= reused < 0.12


@pytest.mark.parametrize("plain", [False, True])
def test_upstream_counts_by_itself(plain):
    url, ca = r"UPSTREAM_URL=http(s?)://127\.0\.0\.1:(\d+)", r"UPSTREAM_CA=(\S+)"
    command = [sys.executable, EXAMPLES / "upstream.py", "--rtt-ms=0", *["--plain"] * plain]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as upstream:
        secure, port, ca_file = re.fullmatch(f"{url} {ca}\n", upstream.stdout.readline()).groups()
        assert (secure, Path(ca_file).exists()) == (("", False) if plain else ("s", True))
        if plain:
            assert python(EXAMPLES / "load.py", f"127.0.0.1:{port}", "--requests=5").returncode == 0
        told, _ = upstream.communicate("\n")
    assert json.loads(told) == {"accepts": 5 * plain, "handshakes": 0, "answered": 5 * plain}
    assert upstream.returncode == 0
    assert not Path(ca_file).exists()


@pytest.mark.parametrize("name", [*SHORT, "upstream", "load"])
def test_help(name):
    ran = python(EXAMPLES / f"{name}.py", "--help")
    assert ran.returncode == 0
    assert "usage:" in ran.stdout


@pytest.mark.parametrize("name", [*SHORT, "upstream", "gunicorn_app"])
def test_says_what_to_install(name):
    # Without the site module there are no site-packages, so nothing is installed.
    ran = python("-S", EXAMPLES / f"{name}.py")
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert re.fullmatch(r"[^\n]* pip install 'poolscope\[examples\]'\n", ran.stderr)

"""Services with known faults: the report finds these and no others, and names line and value."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from commands import origin_of, report_of, run
from peers import HOST, fin, free_port, hang_up_after

APP = Path(__file__).with_name("faulty_app.py")
LINES = {
    match[1]: number
    for number, line in enumerate(APP.read_text().splitlines(), 1)
    if (match := re.search("# HERE: (.+)$", line))
}


def place(name, function, times):
    return f"tests/faulty_app.py:{LINES[name]} in {function}, {times}"


def well(peer):
    """Do what the path asks for."""
    for request in peer:
        if request.target == "/slow":
            time.sleep(0.02)
        peer.answer(b"x" * 300_000 if request.target == "/long" else b"ok")


def says_close(peer):
    peer.request()
    peer.answer(b"ok", "Connection: close")
    fin(peer)


def mute_at_times(peer):
    for number, _request in enumerate(peer):
        if number == 4:
            peer.until_hung_up()
            return
        peer.answer()


def cuts_off_at_times(server_count):
    def handler(peer):
        for request in peer:
            server_count.append(request)
            if len(server_count) % 5 == 0:
                fin(peer)
                return
            peer.answer(b"ok", "Connection: close")
            fin(peer)
            return

    return handler


BARE = ("PoolscopeSessionPerRequest", place("bare", "bare", "29 times"), {})
SMALL = ("PoolscopePoolTooSmall", place("small", "take", "36 times"), {"pool_maxsize": 6})
HELD = ("PoolscopeHeldConnections", place("held", "peek", "3 times"), {})
EVICTED = ("PoolscopePoolEviction", place("evicted", "evicting", "29 times"), {"num_pools": 3})

#: What each service does, to which upstreams, and what is to be found at each of them.
FAULTS = {
    "session_per_request": [(well, [BARE])],
    "small_pool": [(well, [SMALL])],
    "queue": [(well, [("PoolscopePoolWait", "", {"pool_maxsize": 4})])],
    "impatient": [(well, [("PoolscopePoolWaitTimeouts", "", {})])],
    "unread": [(well, [("PoolscopeUnreadResponses", place("unread", "glance", "30 times"), {})])],
    "unread_by_requests": [
        (well, [("PoolscopeUnreadResponses", place("left", "leave", "30 times"), {})])
    ],
    "held": [(well, [HELD])],
    "evicting": [(well, [EVICTED])] * 3,
    "asking a server that closes": [(says_close, [("PoolscopeServerCloses", "", {})])],
    "asking a server that forgets": [(hang_up_after(1), [("PoolscopeIdleTimeoutRace", "", {})])],
    "asking a server that is slow": [(mute_at_times, [("PoolscopeRequestTimeouts", "", {})])],
    "asking nobody": [(None, [("PoolscopeConnectFailures", "", {})])],
    "mixed": [
        (well, [BARE]),
        (well, [SMALL]),
        (says_close, [("PoolscopeServerCloses", "", {})]),
        (well, []),
    ],
}  # fmt: skip
HEALTHY = {
    "asking": [(well, [])],
    "in_threads": [(well, [])],
    "a_pool_with_room": [(well, [])],
    "streams": [(well, [])],
    "short": [(well, [])],
}


@pytest.mark.parametrize("service", [*FAULTS, *HEALTHY])
def test_what_is_found_is_what_is_wrong(serve, service):
    habit, rows = service.partition(" ")[0], (FAULTS | HEALTHY)[service]
    servers = [serve(handler) if handler else None for handler, _ in rows]
    urls = [one.url if one else f"http://{HOST}:{free_port()}" for one in servers]
    result = run(
        sys.executable, APP, habit, *urls, cwd=APP.parent.parent, options=("--held-after", "0.5")
    )
    assert result.returncode == 0, result.stderr
    report = report_of(result)
    found = {
        row["port"]: [
            (finding["id"], finding["where"], finding["settings"]) for finding in row["findings"]
        ]
        for row in report["origins"]
    }
    ports = [url.rpartition(":")[2] for url in urls]
    assert found == {port: expected for port, (_, expected) in zip(ports, rows, strict=True)}
    for server in filter(None, servers):
        assert origin_of(report, server)["connections"]["opened"] == server.accepted


def test_every_finding_has_its_service():
    ids = {name for rows in FAULTS.values() for _, found in rows for name, *_ in found}
    assert len(ids) == 11  # PoolscopeRequestsCutOff is below


def test_requests_that_are_cut_off(serve):
    """On new connections, so that it can be no matter of idle time."""
    server = serve(cuts_off_at_times([]))
    result = run(sys.executable, APP, "asking", server.url, cwd=APP.parent.parent)
    found = [finding["id"] for finding in origin_of(report_of(result), server)["findings"]]
    assert found == ["PoolscopeRequestsCutOff", "PoolscopeServerCloses"]

"""The examples under ``poolscope run``: what it reports is what their upstream has counted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from commands import report_of, run

EXAMPLES = Path(__file__).parent.parent / "examples"
RTT = ("--rtt-ms", 2)


def example(name, *args):
    """Run an example; return its row of the report, and what the upstream has counted."""
    result = run(sys.executable, EXAMPLES / f"{name}.py", *RTT, *args)
    assert result.returncode == 0, result.stderr
    counted = re.search(r"accepts (\d+), handshakes (\d+), answered (\d+)", result.stdout)
    report = report_of(result)
    assert report["faults"] == {}
    (row,) = report["origins"]
    connections = row["connections"]
    assert connections["opened"] == connections["closed"]
    assert (
        connections["opened"],
        row["handshakes"]["completed"],
        row["requests"]["answered"],
    ) == tuple(map(int, counted.groups()))
    return row


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("bare_get", ["PoolscopeSessionPerRequest"]),
        ("one_session", []),
        ("small_pool", ["PoolscopePoolTooSmall"]),
        ("small_pool --pool 8", []),
        ("idle_upstream --idle-ms 50 --pause-ms 150", ["PoolscopeIdleTimeoutRace"]),
        ("gunicorn_service", ["PoolscopeSessionPerRequest"]),
    ],
)
def test_the_report_names_what_the_example_is_about(command, found):
    row = example(*command.split())
    assert [finding["id"] for finding in row["findings"]] == found


def test_the_causes_and_reasons_of_bare_requests():
    connections = example("bare_get", "--orders", 5)["connections"]
    assert connections["opened_by_cause"] == {"first": 1, "new_pool": 14}
    assert connections["closed_by_reason"] == {"collected": 15}


def test_every_worker_has_a_first_connection_of_its_own():
    row = example("gunicorn_service", "--workers", 3, "--requests", 60)
    causes = row["connections"]["opened_by_cause"]
    assert sum(causes.values()) == 60
    assert causes.keys() == {"first", "new_pool"}
    assert 1 <= causes["first"] <= 3

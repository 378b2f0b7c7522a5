"""Holds the house: import arrows, the public surface, the catalogue, types and linters."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poolscope
from poolscope import catalog

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "poolscope"

# Which modules each part may import, besides the standard library and itself.
VOCABULARY = {"catalog", "events"}
ARROWS = {
    "catalog": set(),
    "events": set(),
    "config": set(),
    "aside": set(),
    "pulse": {"aside"},
    "shield": {"aside"},
    "hangups": set(),
    "suppression": set(),
    "spans": set(),
    "records": VOCABULARY | {"hangups"},
    "observers": {"events"},
    "metrics": VOCABULARY | {"observers"},
    "readings": VOCABULARY | {"metrics"},
    "summary": VOCABULARY | {"readings"},
    "advice": VOCABULARY | {"summary"},
    "table": VOCABULARY | {"summary", "advice"},
    "fetching": set(),
    "scrape": VOCABULARY | {"fetching", "readings"},
    "history": VOCABULARY | {"fetching", "readings", "scrape"},
    "callsites": VOCABULARY | {"records"},
    "origins": {"events", "records", "shield"},
    "folding": {"callsites", "events", "origins", "records", "shield"},
    "audience": {"aside", "events", "observers", "shield"},
    "scope": {"audience", "config", "events", "folding", "observers", "records", "shield"},
    "importing": {"shield"},
    "patching": {"shield"},
    "patcher": {"importing", "patching", "shield"},
    "departures": {"shield"},
    "forks": {"importing"},
    "process": {
        "aside",
        "clients",
        "config",
        "departures",
        "forks",
        "importing",
        "observers",
        "patcher",
        "pulse",
        "readings",
        "scope",
        "shield",
    },
    "backlog": VOCABULARY,
    "wire": VOCABULARY | {"backlog"},
    "relay": {"backlog", "events", "observers", "wire", "__init__"},
    "roster": {"wire"},
    "levels": {"events"},
    "merging": {"backlog", "callsites", "events", "levels", "origins"},
    "collector": {"events", "merging", "observers", "roster", "shield", "wire"},
    "clients": VOCABULARY
    | {"callsites", "patching", "pulse", "records", "scope", "shield", "spans", "suppression"},
    "backends": VOCABULARY | {"metrics", "observers", "readings", "shield", "__version__"},
    "instrumentor": {"__init__"},
    "pytest_plugin": {"__init__", "advice", "readings", "summary", "table"},
    "__init__": {"backends", "config", "observers", "process", "readings", "shield", "summary"},
}
# Outermost, they may use everything.
FREE = {"cli", "__main__", "bootstrap"}
# Third-party packages, by the only parts that know them.
VENDORS = {
    "wrapt": {"patching", "cli"},
    "prometheus_client": {"backends", "scrape", "cli"},
    "pytest": {"pytest_plugin"},
    "urllib3": {"clients"},
    "opentelemetry": {"backends", "instrumentor", "spans", "cli"},
}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "poolscope":
            found |= {f"poolscope.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path):
    part = part_of(path)
    names = imports_of(path)
    ours = {[*name.split("."), "__init__"][1] for name in names if name.startswith("poolscope")}
    if part not in FREE:
        assert ours - {part} <= ARROWS[part]
    for vendor, knowing in VENDORS.items():
        if part not in knowing:
            assert vendor not in {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_are_small_and_say_what_they_are_for(path):
    text = path.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) <= 330


def test_importing_poolscope_imports_no_client_and_no_vendor():
    script = "import poolscope, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "poolscope" in loaded
    foreign = {"wrapt", "urllib3", "requests", "prometheus_client", "opentelemetry", "ssl"}
    assert foreign.isdisjoint(loaded)


def test_attaching_imports_no_client_and_no_vendor():
    """Run attaches in every Python process of the command, before its first line.

    wrapt waits for the first client as well: it takes longer than all the rest.
    """
    script = "import poolscope, sys; poolscope.instrument(()); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "poolscope.patching" in loaded
    foreign = {"wrapt", "asyncio", "http.client", "prometheus_client", "urllib3", "opentelemetry"}
    assert foreign.isdisjoint(loaded)


def test_wrapt_runs_without_its_c_extension_where_the_matrix_says_so():
    """The variable is wrapt's own; a run that it did not reach would prove nothing."""
    told_off = bool(os.environ.get("WRAPT_DISABLE_EXTENSIONS"))
    found = importlib.util.find_spec("wrapt._wrappers") is not None
    assert ("wrapt._wrappers" in sys.modules) == (found and not told_off)


def test_the_public_surface_is_three_verbs():
    assert set(poolscope.__all__) == {
        "instrument", "uninstrument", "snapshot", "ConfigError", "__version__",
    }  # fmt: skip


# The contract's table: name, kind, unit, further attributes, Prometheus name.
CONTRACT = """
poolscope.connections.opened | counter {connection} | poolscope.cause | poolscope_connections_opened_total
poolscope.connections.by_callsite | counter {connection} | code.file.path code.function.name code.line.number poolscope.cause | poolscope_connections_by_callsite_total
poolscope.connections.closed | counter {connection} | poolscope.reason | poolscope_connections_closed_total
poolscope.connections.held | counter {connection} | code.file.path code.function.name code.line.number | poolscope_connections_held_total
poolscope.connection.create_time | histogram s | error.type | poolscope_connection_create_time_seconds
poolscope.tls.handshake.duration | histogram s | tls.protocol.version tls.resumed error.type | poolscope_tls_handshake_duration_seconds
poolscope.request.duration | histogram s | poolscope.reused | poolscope_request_duration_seconds
poolscope.requests.failed | counter {request} | poolscope.reused error.type | poolscope_requests_failed_total
poolscope.connection.wait_time | histogram s | | poolscope_connection_wait_time_seconds
poolscope.connection.timeouts | counter {timeout} | | poolscope_connection_timeouts_total
poolscope.connection.pending_requests | gauge {request} | | poolscope_connection_pending_requests
poolscope.connection.max | gauge {connection} | | poolscope_connection_max
poolscope.connection.busy_time | counter s | | poolscope_connection_busy_time_seconds_total
poolscope.connection.requests | histogram {request} | | poolscope_connection_requests
poolscope.connection.idle_time | histogram s | poolscope.reason | poolscope_connection_idle_time_seconds
poolscope.connection.age_sum | gauge s | | poolscope_connection_age_sum_seconds
poolscope.connection.oldest_age | gauge s | | poolscope_connection_oldest_age_seconds
http.client.open_connections | updowncounter {connection} | http.connection.state | http_client_open_connections
poolscope.connections.stale | gauge {connection} | | poolscope_connections_stale
http.client.connection.duration | histogram s | | http_client_connection_duration_seconds
poolscope.pools.opened | counter {pool} | | poolscope_pools_opened_total
poolscope.pools.open | gauge {pool} | | poolscope_pools_open
poolscope.faults | counter {fault} | poolscope.where | poolscope_faults_total
"""  # noqa: E501 - a table


def test_the_catalogue_is_the_contracts():
    rows = [
        " | ".join(
            (
                metric.name,
                f"{metric.kind} {metric.unit}",
                " ".join(metric.attributes),
                metric.prometheus_name,
            )
        ).replace("|  |", "| |")
        for metric in catalog.CATALOG
    ]
    assert rows == CONTRACT.strip().splitlines()


def test_the_buckets_are_the_contracts():
    durations = ".001 .0025 .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10"
    lifetimes = ".01 .02 .05 .1 .2 .5 1 2 5 10 30 60 120 300 600 1800 3600 21600"
    requests = "1 2 5 10 20 50 100 200 500 1000 5000"
    idle = "1 5 10 15 30 60 75 120 240 300 350 600 1800"
    expected = {
        catalog.REQUEST: durations,
        catalog.WAIT_TIME: durations,
        catalog.CREATE_TIME: durations,
        catalog.HANDSHAKE: durations,
        catalog.LIFETIME: lifetimes,
        catalog.REQUESTS: requests,
        catalog.IDLE_TIME: idle,
    }
    for metric in catalog.CATALOG:
        bounds = tuple(map(float, expected.get(metric, "").split()))
        assert metric.bounds == bounds, metric.name


def test_the_causes_and_reasons_are_the_contracts():
    assert catalog.REASONS == (
        "server_close", "stale", "reset", "pool_full", "unread", "pool_closed", "evicted",
        "collected", "timeout", "error", "explicit", "exit",
    )  # fmt: skip
    assert catalog.NEEDED_CAUSES == ("first", "growth")
    named = {*catalog.AVOIDABLE_CAUSES, *catalog.OTHER_SIDE_CAUSES} - {"new_pool"}
    assert {name.removeprefix("replaced_") for name in named} <= set(catalog.REASONS)


def test_the_readmes_table_is_the_catalogue():
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `[^`]+` \| .* \| `[^`]+` \|$", readme, re.MULTILINE)
    kinds = {"updowncounter": "up-down counter"}
    assert rows == [
        f"| `{metric.name}` | {kinds.get(metric.kind, metric.kind)} {metric.unit} | "
        f"{', '.join(f'`{catalog.prometheus_label(name)}`' for name in metric.attributes)} | "
        f"{metric.help} | `{metric.prometheus_name}` |"
        for metric in catalog.CATALOG
    ]


def test_the_readme_names_every_cause_and_reason():
    readme = (ROOT / "README.md").read_text()
    causes = (*catalog.AVOIDABLE_CAUSES, *catalog.OTHER_SIDE_CAUSES, *catalog.NEEDED_CAUSES)
    assert [name for name in (*causes, *catalog.REASONS) if f"`{name}`" not in readme] == []


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache"],
        ["ruff", "format", "--check"],
        ["mypy"],
    ],
    ids=" ".join,
)
def test_the_linters_are_content(command):
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr

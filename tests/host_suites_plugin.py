"""A pytest plugin for the suites that ``host_suites.py`` runs, in their own environments.

Writes a JSON line for every phase of every test. If asked to, it attaches poolscope before
anything of the suite is imported, and at the end tells how that went.
"""

import atexit
import gc
import json
import os
import sys
import threading
from pathlib import Path

import pytest

#: The exit status of a run that had ended but whose process stayed, with threads of the suite's.
STAYED = 97
_PATIENCE = 15

_failed = []
_records = Path(os.environ.pop("HOST_SUITES_RECORDS"))
_attached = os.environ.pop("HOST_SUITES_ATTACHED") == "1"


def _write(**record):
    with _records.open("a") as file:
        file.write(f"{json.dumps(record)}\n")


def _tell():
    """Write down whether poolscope is attached and well."""
    gc.collect()
    exported = sum(len(family.samples) for family in registry.collect())
    summary = poolscope.snapshot()
    patcher = poolscope._process.patchers["urllib3"]
    asleep = [
        patch.target
        for patch in patcher.patches
        if not patch.active or vars(patch.owner).get(patch.attribute) is not patch.wrapper
    ]
    _write(
        faults=summary["faults"],
        asleep=asleep + (patcher.degraded if patcher.patches else ["all"]),
        requests=sum(origin["requests"]["answered"] for origin in summary["origins"]),
        exported=exported,
    )


if _attached:
    from prometheus_client import CollectorRegistry

    import poolscope

    registry = CollectorRegistry()
    # Before instrument(), so that it is called after poolscope's own last words.
    atexit.register(_tell)
    poolscope.instrument(registry)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):  # noqa: ARG001 - pytest goes by the names
    """Remember what was raised; a test that fails should fail of the same."""
    outcome = yield
    outcome.get_result().raised = call.excinfo.typename if call.excinfo else ""


def pytest_runtest_logfinish():
    """Collect what a test that failed has left, bare and attached, before the next one begins.

    Its traceback keeps sockets, and the collector would come upon these in some later test, which
    then fails of an unclosed one: in which test depends on how much has been allocated by then.
    """
    if not _failed:
        return
    _failed.clear()
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _what: None
    gc.collect()
    sys.unraisablehook = hook


def pytest_runtest_logreport(report):
    """Write down what a phase of a test came to."""
    if report.failed:
        _failed.append(report.nodeid)
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    elif report.failed:
        outcome = f"failed in {report.when} of {getattr(report, 'raised', '?')}"
    _write(test=report.nodeid, when=report.when, outcome=outcome)


def pytest_collectreport(report):
    """Write down a file that could not be imported, or that skips itself."""
    if not report.passed:
        _write(test=f"{report.nodeid} (import)", when="collect", outcome=report.outcome)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    """Tell how it went, and see to it that the process ends."""
    if _attached:
        _tell()
    timer = threading.Timer(_PATIENCE, os._exit, [STAYED])
    timer.daemon = True
    timer.start()

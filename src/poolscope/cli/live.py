"""What the live page shows: the same numbers as ``/metrics``, with findings and processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolscope import scrape
from poolscope.advice import Upstream, words, worst_first
from poolscope.cli.report import described
from poolscope.collector import Attached, Collector
from poolscope.readings import Readings
from poolscope.summary import summarize

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: The page itself: it asks for the state every two seconds, and for nothing else.
PAGE = Path(__file__).with_name("live.html")
#: What a browser may load for it: what is in the page, and the state.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_NAME = 200  # characters of a program's name


def state(
    program: str, kept: Readings, registry: CollectorRegistry, collector: Collector
) -> dict[str, Any]:
    """Return what is known now, ready for ``json.dumps``: upstreams worst first, processes.

    Numbers are those of ``registry``; ``kept`` was told the same, and knows what no scrape shows.
    Arguments of processes are left out, as they may hold secrets.
    """
    readings = scrape.readings_of(registry.collect())
    readings.remember(kept)
    summary, processes = summarize(readings), collector.processes
    return {
        "run": os.getpid(),
        "command": words.clean(program),
        "seconds": summary["seconds"],
        "origins": [_row(one) for one in worst_first(summary) if one.attempts],
        "faults": summary["faults"],
        "processes": [_process(one) for one in processes],
        "ended": max(0, collector.attached - len(processes)),
    }


def _row(one: Upstream) -> dict[str, Any]:
    name = words.upstream(one.origin)
    return {"name": name, "verdict": one.verdict, "failed": one.failed, **described(one)}


def _process(one: Attached) -> dict[str, Any]:
    """Name a process; what it calls itself may be anything, and a page shows what turns text."""
    program, python = (
        words.shorten(words.clean(text), _NAME) for text in (one.program, one.python)
    )
    return {"pid": one.pid, "python": python, "program": program}

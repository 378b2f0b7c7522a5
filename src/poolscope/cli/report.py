"""``poolscope report``: the report of running services, and the printing of every report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from poolscope import table
from poolscope.advice import Upstream, worst_first
from poolscope.cli.speak import say
from poolscope.fetching import MeaninglessError, ScrapeError
from poolscope.readings import Readings
from poolscope.summary import summarize


def run(fetch: Callable[[], Readings], *, as_json: bool) -> int:
    """Print the report on what ``fetch`` gets; return the exit status.

    0 when there is a report, whatever it says; 1 when there is none, and why on stderr; 2 when
    there can't be one.
    """
    try:
        readings = fetch()
    except ScrapeError as error:
        say(str(error))
        return 2 if isinstance(error, MeaninglessError) else 1
    print_report(summarize(readings), sys.stdout, as_json=as_json)
    return 0


def print_report(summary: dict[str, Any], stream: TextIO, *, as_json: bool) -> None:
    """Print the report on a summary of :func:`poolscope.summary.summarize` to ``stream``.

    Colour is for terminals only, and not if ``NO_COLOR`` is set (https://no-color.org).
    """
    if as_json:
        text = json.dumps(document(summary), indent=2) + "\n"
    else:
        colour = stream.isatty() and not os.environ.get("NO_COLOR")
        text = table.render(summary, colour=colour)
    # A host's name in letters that the stream can't take must not cost the report.
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def document(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the report for machines: the summary, worst origin first, each with its findings."""
    return {
        "seconds": summary["seconds"],
        "most_pools_open": summary["most_pools_open"],
        "origins": [described(one) for one in worst_first(summary)],
        "faults": summary["faults"],
        "incomplete": summary["incomplete"],
    }


def described(one: Upstream) -> dict[str, Any]:
    """Return an origin with its findings, ready for ``json.dumps``."""
    return {**one.origin, "findings": [asdict(finding) for finding in one.findings]}

"""Puts panels into rows, gives them their numbers, and says which alert is seen on which panel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build

from alerts import ALERTS
from panels import link

RUNBOOK = "poolscope-runbook"
OVERVIEW = "poolscope-overview"
SERVICE = "poolscope-service"

#: The runbook's first panel is its introduction.
_FIRST_SECTION = 2


@dataclass
class Shown:
    """A panel, and the alerts that are about what it shows."""

    panel: Any
    alerts: tuple[str, ...] = ()


@dataclass
class Row:
    """Panels under a heading."""

    title: str
    shown: list[Shown] = field(default_factory=list)


def section_of(alert: str) -> int:
    """Return the number of an alert's panel in the runbook."""
    return [one.name for one in ALERTS].index(alert) + _FIRST_SECTION


def runbook_link(alert: str) -> build.DashboardLink:
    """Return a link from a panel to what to do about it."""
    url = f"/d/{RUNBOOK}?viewPanel=panel-{section_of(alert)}"
    return link(f"Runbook: {alert.removeprefix('Poolscope')}", url)


def fill(board: build.Dashboard, rows: Iterable[Row]) -> dict[str, int]:
    """Add rows to a dashboard; return the number of the panel on which each alert is seen."""
    number, seen_on = 0, {}
    for row in rows:
        if row.title:
            number += 1
            board.with_row(build.Row(row.title).id(number))
        for shown in row.shown:
            number += 1
            links = [runbook_link(alert) for alert in shown.alerts]
            board.with_panel(shown.panel.id(number).links(links))
            seen_on |= dict.fromkeys(shown.alerts, number)
    return seen_on

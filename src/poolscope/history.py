"""Readings out of a Prometheus server: what services did in a window of time that has passed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from poolscope import catalog, scrape
from poolscope.catalog import Metric
from poolscope.readings import Readings
from poolscope.scrape import NotFoundError, ScrapeError

_WINDOW = re.compile(r"([1-9]\d*)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class _Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: str


class _Family(NamedTuple):
    samples: list[_Sample]


def fetch(url: str, window: str, job: str = "", timeout: float = 30.0) -> Readings:
    """Ask the Prometheus at ``url`` by how much everything grew in a window such as ``1h``.

    Levels are those of now. ``job`` narrows it down; all instances add up. Growth is Prometheus'
    ``increase()``: extrapolated to the window's ends, and blind to a series' first value. Raises
    :exc:`poolscope.scrape.ScrapeError`.
    """
    given = _WINDOW.fullmatch(window)
    if given is None:
        raise ScrapeError(f"{window!r} is not a window of time; give one such as 30m, 1h or 7d.")
    base = scrape.complete(url, "/").rstrip("/")
    where = "{job=" + json.dumps(job) + "}" if job else ""
    families = []
    for name, query in _queries(where, window):
        address = f"{base}/api/v1/query?{urlencode({'query': query})}"
        families.append(_Family([_Sample(name, *row) for row in _rows(address, url, timeout)]))
    readings = scrape.readings_of(families)
    if not readings.numbers and not readings.distributions:
        whose = f" of the job {job!r}" if job else ""
        raise ScrapeError(f"{url} has no series of poolscope{whose} in the last {window}.")
    readings.seconds = float(given[1]) * _SECONDS[given[2]]
    return readings


def _queries(where: str, window: str) -> Iterator[tuple[str, str]]:
    """Yield what to ask, and the name of the series that the answer stands for."""
    for metric in catalog.CATALOG:
        name = metric.prometheus_name
        grown = [name] if metric.kind == "counter" else []
        if metric.kind == "histogram":
            grown = [f"{name}_sum", f"{name}_bucket"]
        for each in grown:
            further = ", le" if each.endswith("_bucket") else ""
            yield each, f"sum by ({_labels(metric)}{further}) (increase({each}{where}[{window}]))"
        if metric in catalog.LEVELS:
            yield name, f"{metric.merge} by ({_labels(metric)}) ({name}{where})"


def _labels(metric: Metric) -> str:
    return ", ".join(metric.labels)


def _rows(address: str, url: str, timeout: float) -> list[tuple[dict[str, str], str]]:
    try:
        answer: Any = json.loads(scrape.get(address, timeout).text)
        return [(row["metric"], row["value"][1]) for row in answer["data"]["result"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, ScrapeError) and not isinstance(error, NotFoundError):
            raise
        raise ScrapeError(f"{url} answers, but not as a Prometheus server does.") from error

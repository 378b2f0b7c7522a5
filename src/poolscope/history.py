"""Readings out of a Prometheus server: what services did in a window of time that has passed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

from poolscope import catalog, scrape
from poolscope.catalog import Metric
from poolscope.fetching import (
    MeaninglessError,
    NotFoundError,
    ScrapeError,
    complete,
    get,
    within,
    without_secrets,
)
from poolscope.readings import Readings

_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PATIENCE = 30.0  # seconds for each answer
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class _Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: str


class _Family(NamedTuple):
    samples: list[_Sample]


def fetch(url: str, window: str, job: str = "", timeout: float = 120.0) -> Readings:
    """Ask the Prometheus at ``url`` by how much everything grew in a window such as ``1h``.

    Levels are those of now. ``job`` narrows it down; all instances add up. Growth is Prometheus'
    ``increase()``: extrapolated to the window's ends, and blind to a series' first value. All of
    it takes ``timeout`` seconds at most. Raises :exc:`poolscope.fetching.ScrapeError`.
    """
    given = _WINDOW.fullmatch(window)
    if given is None:
        raise MeaninglessError(
            f"{window!r} is not a window of time; give one such as 30m, 1h or 7d."
        )
    if _SURROGATE.search(job):
        raise MeaninglessError(f"{job!r} is not the name of a job.")
    base = complete(url, "/").rstrip("/")
    # As PromQL wants it: JSON's way to escape what is not ASCII is not its way.
    where = "{job=" + json.dumps(job, ensure_ascii=False) + "}" if job else ""
    readings = within(timeout, url, partial(_ask, base, where, window))
    if not readings.numbers and not readings.distributions:
        whose = f" of the job {job!r}" if job else ""
        raise ScrapeError(
            f"{without_secrets(url)} has no series of poolscope{whose} in the last {window}."
        )
    readings.seconds = float(given[1]) * _SECONDS[given[2]]
    return scrape.check(readings, url)


def _ask(base: str, where: str, window: str) -> Readings:
    families = []
    for name, query in _queries(where, window):
        address = f"{base}/api/v1/query?{urlencode({'query': query})}"
        families.append(_Family([_Sample(name, *row) for row in _rows(address, base)]))
    return scrape.readings_of(families)


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


def _rows(address: str, base: str) -> list[tuple[dict[str, str], str]]:
    try:
        # Whole numbers as long as an answer may be would take for ever to be read as such.
        answer: Any = json.loads(get(address, _PATIENCE).text, parse_int=float)
        return [(_labelled(row["metric"]), row["value"][1]) for row in answer["data"]["result"]]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        if isinstance(error, ScrapeError) and not isinstance(error, NotFoundError):
            raise
        raise ScrapeError(
            f"{without_secrets(base)} answers, but not as a Prometheus server does."
        ) from error


def _labelled(labels: Any) -> dict[str, str]:
    """Return a series' labels if they are such. Raises ``ValueError``."""
    if not all(isinstance(value, str) for value in labels.values()):
        raise ValueError("a label's value is no text")
    return dict(labels)

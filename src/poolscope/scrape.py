"""Readings out of a service's metrics page, in the Prometheus text format or OpenMetrics."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from poolscope import catalog
from poolscope.catalog import Metric
from poolscope.fetching import NotFoundError, Page, ScrapeError, complete, get, within
from poolscope.fetching import without_secrets as shown
from poolscope.readings import Readings

__all__ = ["NotFoundError", "Page", "ScrapeError", "fetch", "read", "readings_of"]

_openmetrics: Any = openmetrics  # untyped in prometheus-client 0.16

_NUMBERS = {m.prometheus_name: m for m in catalog.CATALOG if m.kind != "histogram"}
_BUCKETS = {f"{m.prometheus_name}_bucket": m for m in catalog.CATALOG if m.kind == "histogram"}
_CREATED = {f"{m.prometheus_name.removesuffix('_total')}_created" for m in catalog.CATALOG}
_SUMS = {f"{m.prometheus_name}_sum": m for m in catalog.CATALOG if m.kind == "histogram"}

#: What a page may say: beyond, it is no number of ours, and sums would not be numbers at all.
_MOST, _LEAST = 1e15, 1e-9
_LONGEST = 1000  # characters of a label's value
_PATH, _LINE = "code_file_path", "code_line_number"
_DIGITS = re.compile(r"[0-9]{1,9}")
#: Upstreams in one report. Each is held against all others, so a million would take for ever.
_ORIGINS = 10_000

_Key = tuple[Metric, tuple[str, ...]]


def read(text: str) -> Readings:
    """Parse a metrics page; whatever is not poolscope's is passed over.

    Series that differ in foreign labels only (``instance``, ``pid``) become one: their sum, or
    their maximum where the catalogue says so. Raises ``ValueError`` if the page is no metrics.
    """
    return readings_of(_families(text))


def fetch(url: str, timeout: float = 10.0) -> Readings:
    """Get a service's metrics page and parse it, in ``timeout`` seconds altogether.

    ``url`` may be short: ``host:port`` stands for ``http://host:port/metrics``. Raises
    :exc:`ScrapeError`.
    """
    url = complete(url)
    return within(timeout, url, partial(_fetch, url, timeout))


def _fetch(url: str, timeout: float) -> Readings:
    page = get(url, timeout)
    try:
        families = _families(page.text)
    except ValueError:
        families = []
    if not families:
        raise ScrapeError(
            f"{shown(url)} answers, but not with Prometheus metrics; check the port and the path, "
            "which is /metrics in most services."
        )
    readings = readings_of(families)
    if not readings.numbers and not readings.distributions:
        raise ScrapeError(
            f"{shown(url)} shows metrics, but none of poolscope: either the service does not call "
            "poolscope.instrument() (or was not started by `poolscope run`), or it has not made "
            "an HTTP request through urllib3 yet."
        )
    readings.seconds = _age(families, page.date)
    return check(readings, url)


def check(readings: Readings, url: str) -> Readings:
    """Return readings that a report can be made of. Raises :exc:`ScrapeError`."""
    if len(readings.origins()) > _ORIGINS:
        raise ScrapeError(
            f"{shown(url)} shows more than {_ORIGINS:,} upstreams, which is more than one report "
            "can say anything of; ask for fewer."
        )
    return readings


def _age(families: Iterable[Any], date: float) -> float | None:
    """Return for how many seconds a service has counted, if its page says since when."""
    samples = (sample for family in families for sample in family.samples)
    since = min((_number(one.value) for one in samples if one.name in _CREATED), default=0.0)
    return date - since if 0 < since < date else None


# ---- parsing


def _families(text: str) -> list[Any]:
    parse: Callable[[str], Iterable[Any]] = text_string_to_metric_families
    if text.rstrip().endswith("# EOF"):
        parse = _openmetrics.text_string_to_metric_families
    try:
        return list(parse(text))
    except Exception as error:
        # The parsers raise whatever they stumble over.
        raise ValueError(f"not a page of metrics: {error}") from error


def readings_of(families: Iterable[Any]) -> Readings:
    """Return what families of samples say; those that are not poolscope's are passed over.

    So is a value that nothing of poolscope's can have: below 0, beyond all counting, no number.
    """
    readings = Readings()
    # Buckets are cumulative, so each series has to be taken apart before it can be added.
    buckets: dict[tuple[_Key, frozenset[tuple[str, str]]], dict[float, float]] = defaultdict(dict)
    for sample in (sample for family in families for sample in family.samples):
        name, labels, value = sample.name, dict(sample.labels), _number(sample.value)
        if value and not _LEAST <= value <= _MOST:  # NaN is neither
            continue
        if name in _NUMBERS and (key := _key(_NUMBERS[name], labels)):
            _put(readings, key, value)
        elif name in _SUMS and (key := _key(_SUMS[name], labels)):
            readings.distribution_at(*key).sum += value
        elif name in _BUCKETS and (key := _key(_BUCKETS[name], labels)):
            bound = _number(labels.pop("le", "nan"))
            buckets[key, frozenset(labels.items())][bound] = value
    for (key, _), cumulative in buckets.items():
        _put_buckets(readings, key, cumulative)
    return readings


def _key(metric: Metric, labels: dict[str, str]) -> _Key | None:
    """Return the metric and its attributes' values, or None if the series is not ours.

    Two names are of the semantic conventions, so that others may show them too.
    """
    if metric.common and not labels.get("poolscope_client"):
        return None
    if labels.get(_PATH) and not _DIGITS.fullmatch(labels.get(_LINE, "")):
        labels = {**labels, _LINE: "0"}  # it is going to be read as a number
    return metric, tuple(labels.get(label, "")[:_LONGEST] for label in metric.labels)


def _number(spelled: Any) -> float:
    """Return what a page says as a number; NaN if it is none."""
    try:
        return float(spelled)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _put(readings: Readings, key: _Key, value: float) -> None:
    metric, values = key
    if metric.merge == "max":
        readings.set(metric, values, max(value, readings.numbers[metric].get(values, value)))
    else:
        readings.add(metric, values, value)


def _put_buckets(readings: Readings, key: _Key, cumulative: dict[float, float]) -> None:
    metric, values = key
    counts = readings.distribution_at(metric, values).counts
    below = 0.0
    for bound in sorted(bound for bound in cumulative if not math.isnan(bound)):
        # Where somebody configured other buckets, samples go to the one that holds their bound.
        counts[bisect_left(metric.bounds, bound)] += max(0.0, cumulative[bound] - below)
        below = max(below, cumulative[bound])

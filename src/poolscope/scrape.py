"""Readings out of a service's metrics page, in the Prometheus text format or OpenMetrics."""

from __future__ import annotations

import http.client
import ipaddress
import math
import urllib.error
import urllib.request
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from poolscope import catalog
from poolscope.catalog import Metric
from poolscope.readings import Readings

_openmetrics: Any = openmetrics  # untyped in prometheus-client 0.16

_NUMBERS = {m.prometheus_name: m for m in catalog.CATALOG if m.kind != "histogram"}
_BUCKETS = {f"{m.prometheus_name}_bucket": m for m in catalog.CATALOG if m.kind == "histogram"}
_CREATED = {f"{m.prometheus_name.removesuffix('_total')}_created" for m in catalog.CATALOG}
_SUMS = {f"{m.prometheus_name}_sum": m for m in catalog.CATALOG if m.kind == "histogram"}

_LIMIT = 64 * 1024 * 1024  # bytes; no metrics page is that long, but an endless answer is
_NOT_FOUND = 404
_EXAMPLE = "http://localhost:9464/metrics"

_Key = tuple[Metric, tuple[str, ...]]


class Page(NamedTuple):
    """What a server answers, and when by its own clock (0.0 if it does not say)."""

    text: str
    date: float


class ScrapeError(ValueError):
    """There are no readings to be had; the message is one sentence that says what to do."""


class NotFoundError(ScrapeError):
    """A server answers, but has nothing at that path."""


def read(text: str) -> Readings:
    """Parse a metrics page; whatever is not poolscope's is passed over.

    Series that differ in foreign labels only (``instance``, ``pid``) become one: their sum, or
    their maximum where the catalogue says so. Raises ``ValueError`` if the page is no metrics.
    """
    return readings_of(_families(text))


def fetch(url: str, timeout: float = 5.0) -> Readings:
    """Get a service's metrics page and parse it; waits ``timeout`` seconds for each answer.

    ``url`` may be short: ``host:port`` stands for ``http://host:port/metrics``. Raises
    :exc:`ScrapeError`.
    """
    url = complete(url)
    page = get(url, timeout)
    try:
        families = _families(page.text)
    except ValueError:
        families = []
    if not families:
        raise ScrapeError(
            f"{url} answers, but not with Prometheus metrics; check the port and the path, which "
            "is /metrics in most services."
        )
    readings = readings_of(families)
    if not readings.numbers and not readings.distributions:
        raise ScrapeError(
            f"{url} shows metrics, but none of poolscope: either the service does not call "
            "poolscope.instrument() (or was not started by `poolscope run`), or it has not made "
            "an HTTP request through urllib3 yet."
        )
    readings.seconds = _age(families, page.date)
    return readings


def _age(families: Iterable[Any], date: float) -> float | None:
    """Return for how many seconds a service has counted, if its page says since when."""
    samples = (sample for family in families for sample in family.samples)
    since = min((float(one.value) for one in samples if one.name in _CREATED), default=0.0)
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
    """Return what families of samples say; those that are not poolscope's are passed over."""
    readings = Readings()
    # Buckets are cumulative, so each series has to be taken apart before it can be added.
    buckets: dict[tuple[_Key, frozenset[tuple[str, str]]], dict[float, float]] = defaultdict(dict)
    for sample in (sample for family in families for sample in family.samples):
        name, labels, value = sample.name, dict(sample.labels), float(sample.value)
        if not math.isfinite(value):
            continue
        if name in _NUMBERS and (key := _key(_NUMBERS[name], labels)):
            _put(readings, key, value)
        elif name in _SUMS and (key := _key(_SUMS[name], labels)):
            readings.distribution_at(*key).sum += value
        elif name in _BUCKETS and (key := _key(_BUCKETS[name], labels)):
            bound = float(labels.pop("le", "nan"))
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
    return metric, tuple(labels.get(label, "") for label in metric.labels)


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


# ---- getting


def complete(url: str, path: str = "/metrics") -> str:
    """Return the whole URL that a short one stands for. Raises :exc:`ScrapeError`."""
    whole = url.strip()
    if "://" not in whole:
        whole = f"http://{whole}"
    try:
        parts = urlsplit(whole)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that don't match
        is_good = False
    is_plain = all(char.isprintable() and char != " " for char in whole)
    if not is_good or not is_plain or parts.username is not None:  # urllib takes no user names
        raise ScrapeError(_malformed(url))
    if parts.path in ("", "/"):
        parts = parts._replace(path=path)
    return parts._replace(fragment="").geturl()


def get(url: str, timeout: float) -> Page:
    """Return what is at a URL. Raises :exc:`ScrapeError`."""
    # A proxy could not reach what this machine calls itself.
    proxies: dict[str, str] | None = {} if is_loopback(urlsplit(url).hostname or "") else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    request = urllib.request.Request(url, headers={"Accept": "text/plain;version=0.0.4, */*;q=0.5"})  # noqa: S310 - complete() lets http and https through only
    try:
        with opener.open(request, timeout=timeout) as response:
            text = response.read(_LIMIT).decode("utf-8", "replace")
            return Page(text, _timestamp(response.headers.get("Date", "")))
    except urllib.error.HTTPError as error:
        error.close()
        kind = NotFoundError if error.code == _NOT_FOUND else ScrapeError
        raise kind(_refusal(url, error.code, error.reason)) from error
    except TimeoutError as error:
        raise ScrapeError(_unreachable(url, f"no answer within {timeout:g} s")) from error
    except urllib.error.URLError as error:
        reason: Any = error.reason
        why = f"no answer within {timeout:g} s"
        if not isinstance(reason, TimeoutError):
            why = getattr(reason, "strerror", None) or str(reason)
        raise ScrapeError(_unreachable(url, why)) from error
    except (http.client.InvalidURL, UnicodeError) as error:
        raise ScrapeError(_malformed(url)) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or "what answers does not speak HTTP"
        raise ScrapeError(_unreachable(url, why)) from error


def _timestamp(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, OSError):  # a date that is none
        return 0.0


def _malformed(url: str) -> str:
    return f"{url!r} is not the URL of a metrics page; give one such as {_EXAMPLE} or host:port."


def _refusal(url: str, status: int, reason: str) -> str:
    answer = f"{url} answers with the HTTP status {status} ({reason})"
    if status in (401, 403):
        return f"{answer}: it wants a log-in; give a URL that shows the metrics without one."
    if status == _NOT_FOUND:
        return f"{answer}: check the path, which is /metrics in most services."
    return f"{answer}: look into the service's log, or try again."


def _unreachable(url: str, why: str) -> str:
    return (
        f"{url} can't be read ({why}); check the host and port, and that the service is running "
        "and shows its metrics there."
    )


def is_loopback(host: str) -> bool:
    """Tell whether a host, by its name or address, is what this machine calls itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""How queries are spelled: names come from the catalogue, so that none can be wrong."""

from __future__ import annotations

from poolscope.catalog import COMMON, FAILED, REQUEST, Metric, prometheus_label

#: Who runs the service; the first two are empty where nobody sets them.
JOB = ("cluster", "namespace", "job")
#: A job's upstream: what everything is recorded and alerted by. No instance: a fleet has thousands.
UPSTREAM = (*JOB, *(prometheus_label(name) for name in COMMON))

#: The same window everywhere: long enough for a scrape a minute, with one lost.
WINDOW = "5m"


def rate(metric: Metric, where: str = "", *, suffix: str = "", window: str = WINDOW) -> str:
    """Spell a counter's rate; ``suffix`` names a histogram's part (``_count``)."""
    matchers = f"{{{where}}}" if where else ""
    return f"rate({metric.prometheus_name}{suffix}{matchers}[{window}])"


def total(expression: str, by: tuple[str, ...]) -> str:
    """Spell a sum."""
    return f"sum by ({', '.join(by)}) ({expression})"


def requests(where: str = "", window: str = WINDOW) -> str:
    """Spell the rate of all requests, answered or failed, without a sum around it."""
    answered = rate(REQUEST, where, suffix="_count", window=window)
    # Failed ones have a label that answered ones have not, so "or" keeps both.
    return f"{answered} or {rate(FAILED, where, window=window)}"


def quantile(
    q: float, metric: Metric, by: tuple[str, ...], where: str = "", window: str = WINDOW
) -> str:
    """Spell a histogram's quantile; nothing where there were no samples."""
    buckets = total(rate(metric, where, suffix="_bucket", window=window), ("le", *by))
    return f"(histogram_quantile({q:g}, {buckets}) >= 0)"


def mean(metric: Metric, by: tuple[str, ...], where: str = "", window: str = WINDOW) -> str:
    """Spell a histogram's mean; nothing where there were no samples."""
    sums, counts = (
        total(rate(metric, where, suffix=suffix, window=window), by)
        for suffix in ("_sum", "_count")
    )
    return f"{sums} / ({counts} > 0)"

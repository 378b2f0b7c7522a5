"""A summary as text for people: a block of numbers and plain sentences per upstream, worst first.

Nothing in it needs colour; colour only says again which upstreams are unwell.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from poolscope.advice import ENOUGH_REQUESTS, Upstream, words, worst_first
from poolscope.advice.words import counted
from poolscope.catalog import DURATION_BOUNDS

#: How many upstreams are shown in full; a process may call hundreds, a person reads a few.
SHOWN = 10

_BOLD, _RED, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"
_NAME = 84  # columns for an upstream's name
_UNIT = re.compile(r"(\d) (ms|s|min|h|days)\b")
_HARD_SPACE = "\N{NO-BREAK SPACE}"  # textwrap does not break a line there
_RE_USED = 0.5  # the share of requests from which "connections are re-used" is said

#: What is said instead of "nothing to fix" where something may be missing.
_INCOMPLETE = "no finding, but not everything was counted"

_LEGEND = (
    "First request, re-used: the time until a response's headers are there, on a new connection "
    "that had to be opened first, and on one that was open already; the gap is what opening "
    "costs. By estimate, half of the requests took less than p50, and 99 of 100 less than p99."
)


def render(summary: dict[str, Any], *, colour: bool, width: int = 100) -> str:
    """Return the report on a summary of :func:`poolscope.summary.summarize`, newline at the end.

    No line is longer than ``width`` columns (100 at least, for the numbers).
    """
    paint = _Paint(colour)
    # An origin that a scrape knows but that nothing was sent to is no news.
    upstreams = [one for one in worst_first(summary) if one.attempts]
    well = _INCOMPLETE if summary["incomplete"] or summary["faults"] else "nothing to fix"
    lines = list(_lines(upstreams, paint, width, well))
    if summary["faults"]:
        places = ", ".join(f"{words.clean(place)}" for place in sorted(summary["faults"]))
        number = sum(summary["faults"].values())
        lines += _wrapped(
            f"poolscope itself had {counted(number, 'fault')}, in {places}: the program was not "
            "disturbed, but numbers may be missing. Please report it.",
            width,
        )
    return "\n".join(lines) + "\n"


def _lines(upstreams: list[Upstream], paint: _Paint, width: int, well: str) -> Iterator[str]:
    if not upstreams:
        yield "poolscope: no outbound HTTP request through urllib3 was seen."
        return
    unwell = sum(1 for one in upstreams if one.findings)
    if unwell:
        verdict = "1 upstream needs" if unwell == 1 else f"{unwell:,} upstreams need"
        order = ", worst first" if len(upstreams) > 1 else ""
        yield from _wrapped(f"{_totals(upstreams)}; {verdict} attention{order}.", width)
    else:
        yield from _wrapped(_all_well(upstreams, well), width)
        for one in upstreams:
            yield from _dead(one.origin, width, f"{words.upstream(one.origin, _NAME)}: ")
        if any(one.is_judged for one in upstreams):
            return
    said: dict[str, str] = {}
    for one in upstreams[:SHOWN]:
        yield ""
        name = words.upstream(one.origin, _NAME)
        yield paint.bold(f"{name:<{_NAME}}") + f"{'p50':>8}{'p99':>8}"
        yield from _numbers(one)
        yield from _dead(one.origin, width, "  ")
        yield from _sentences(one, name, said, paint, width, well)
    rest = upstreams[SHOWN:]
    if rest:
        unwell = sum(1 for one in rest if one.findings)
        state = f"{unwell:,} of them with findings" if unwell else f"{well} there"
        yield ""
        yield from _wrapped(
            f"And {counted(len(rest), 'more upstream')}, {state} (`--json` shows all).", width
        )
    yield ""
    yield from _wrapped(_LEGEND, width)


# ---- the numbers


def _numbers(one: Upstream) -> Iterator[str]:
    """Lay out the five signals as three columns, 100 wide."""
    origin = one.origin
    requests, connections = origin["requests"], origin["connections"]
    pool, lifetime = origin["pool"], origin["lifetime"]
    left = (
        ("requests answered", words.count(requests["answered"])),
        ("requests failed", words.count(one.failed)),
        ("connections opened", words.count(connections["opened"])),
        ("TLS handshakes", words.count(origin["handshakes"]["completed"])),
    )
    middle = (
        ("requests per connection", words.ratio(connections["requests_per_connection"])),
        ("on a re-used connection", words.share(requests["reused_share"])),
        ("thrown away, pool full", words.count(pool["discarded"])),
        ("mean connection age", words.duration(lifetime["mean"])),
    )
    for (a, b), (c, d), (e, f, g) in zip(left, middle, _times(origin)):
        yield f"  {a:<19}{b:>10}   {c:<23}{d:>9}   {e:<15}{f:>8}{g:>8}".rstrip()


def _dead(origin: dict[str, Any], width: int, indent: str) -> list[str]:
    """Say which idle connections will be of no use, if any."""
    stale, idle = origin["connections"]["stale"], origin["connections"]["idle"]
    if not stale:
        return []
    return _wrapped(
        f"{stale:,} of {counted(idle, 'idle connection')} are already dead: the other side has "
        "hung up, and the next request will find out.",
        width,
        indent,
    )


def _times(origin: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    latency, wait = origin["latency"], origin["pool"]["wait"]
    first, reused = latency["first"], latency["reused"]

    def row(label: str, times: dict[str, float | None]) -> tuple[str, str, str]:
        p50, p99 = (words.estimate(times[q], DURATION_BOUNDS) for q in ("p50", "p99"))
        return label, p50, p99

    p50, p99 = (words.gap(first[q], reused[q], DURATION_BOUNDS) for q in ("p50", "p99"))
    return (
        row("first request", first),
        row("re-used", reused),
        ("gap", p50, p99),
        row("pool wait", wait),
    )


# ---- the sentences


def _sentences(
    one: Upstream, name: str, said: dict[str, str], paint: _Paint, width: int, well: str
) -> Iterator[str]:
    """Say what is wrong. ``said`` remembers where a change was told, to tell it only once."""
    if not one.findings:
        few = f"Too few requests to judge ({ENOUGH_REQUESTS} are needed)."
        yield f"  {well.capitalize()}." if one.is_judged else f"  {few}"
    for number, finding in enumerate(one.findings, 1):
        mark = f"{number}. " if len(one.findings) > 1 else "! "
        problem = _wrapped(finding.problem, width, "  " + mark)
        yield from paint.severity(finding.severity, problem)
        indent = " " * (len(mark) + 2)
        yield from _wrapped(f"Whose move: {finding.whose}. {finding.cause}", width, indent)
        if finding.where:
            yield from _wrapped(f"Where: {finding.where}.", width, indent)
        change = finding.change
        if change in said:
            change = f"as for {said[change]} above."
        said.setdefault(finding.change, name)
        yield from _wrapped(f"Change: {change}", width, indent)
        if finding.saves:
            yield from _wrapped(f"Saves: {finding.saves}", width, indent)
        yield f"{indent}Runbook: {finding.id}"


def _totals(upstreams: list[Upstream], kind: str = "connection") -> str:
    requests = sum(one.answered for one in upstreams)
    opened = sum(one.origin["connections"]["opened"] for one in upstreams)
    failed = sum(one.failed for one in upstreams)
    more = f" ({failed:,} more failed)" if failed else ""
    return (
        f"poolscope: {counted(requests, 'request')}{more} to {counted(len(upstreams), 'upstream')} "
        f"over {counted(opened, kind)}"
    )


def _all_well(upstreams: list[Upstream], well: str) -> str:
    requests = sum(one.answered for one in upstreams)
    reused = sum(one.origin["requests"]["reused"] for one in upstreams)
    if not any(one.is_judged for one in upstreams):
        return f"{_totals(upstreams)}: too few to judge (under {ENOUGH_REQUESTS})."
    if reused >= _RE_USED * requests > 0:
        return f"{_totals(upstreams, 're-used connection')}: {well}."
    return f"{_totals(upstreams)}, hardly any without need: {well}."


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break lines at spaces, but not within code, to be copied, nor between number and unit."""
    pieces = text.split("`")
    pieces[1::2] = [code.replace(" ", _HARD_SPACE) for code in pieces[1::2]]
    lines = textwrap.wrap(
        _UNIT.sub(rf"\1{_HARD_SPACE}\2", "`".join(pieces)),
        width,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
    )
    return [line.replace(_HARD_SPACE, " ") for line in lines]


class _Paint:
    """Colours, or none."""

    def __init__(self, colour: bool) -> None:  # noqa: FBT001 - private, one use
        self.colour = colour

    def bold(self, text: str) -> str:
        return f"{_BOLD}{text}{_PLAIN}" if self.colour else text

    def severity(self, severity: str, lines: list[str]) -> list[str]:
        if not self.colour:
            return lines
        code = _RED if severity == "failing" else _YELLOW
        return [f"{code}{line}{_PLAIN}" for line in lines]

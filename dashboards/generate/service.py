"""The service view: one job, a row for each signal, then causes, pools and our own health."""

from __future__ import annotations

import thresholds as t
from layout import OVERVIEW, SERVICE, Row, Shown, fill
from panels import GREEN, RED, YELLOW, Board, Query, board, lines, link, number, places, variable
from poolscope.catalog import (
    AGE_SUM,
    AVOIDABLE_CAUSES,
    BY_CALLSITE,
    CLOSED,
    FAILED,
    FAULTS,
    HANDSHAKE,
    HELD,
    NEEDED_CAUSES,
    OPEN,
    OPENED,
    OTHER_SIDE_CAUSES,
    POOLS_OPEN,
    POOLS_OPENED,
    REQUEST,
    TIMEOUTS,
    prometheus_label,
)
from queries import ALL_REQUESTS, FIRST, FULL, GOOD, JOB, LATER, at, now, rated, summed
from signals import SIGNALS

_APPLICATION = ("#F2495C", "#FF7383", "#C4162A", "#FF9830", "#FA6400", "#FFB357", "#E0B400")
_OTHER_SIDE = ("#8F3BB8", "#B877D9", "#5794F2", "#8AB8FF", "#A352CC")
_NOBODY = ("#73BF69", "#37872D", "#96D98D")


def _shades(*groups: tuple[tuple[str, ...], tuple[str, ...]]) -> dict[str, str]:
    return {
        name: shade for names, shades in groups for name, shade in zip(names, shades, strict=False)
    }


_SITE = tuple(map(prometheus_label, BY_CALLSITE.attributes))

#: By whose move it is; the same on every dashboard.
CAUSE_COLOURS = _shades(
    (AVOIDABLE_CAUSES, _APPLICATION), (OTHER_SIDE_CAUSES, _OTHER_SIDE), (NEEDED_CAUSES, _NOBODY)
)
_REASON_COLOURS = _shades(
    (("collected", "pool_closed", "pool_full", "unread", "evicted", "explicit"), _APPLICATION),
    (("server_close", "stale", "reset", "timeout", "error"), _OTHER_SIDE),
    (("exit",), _NOBODY),
)

_GLANCE = Row("", [
    Shown(number(
        "Requests", "All requests a second, each retry and redirect one.", ALL_REQUESTS,
        unit="reqps",
    )),
    Shown(number(
        "Requests per connection",
        "How often a connection is used before another one has to be opened. Normal: dozens to "
        "thousands. Near 1 no connection is used twice.",
        f"{ALL_REQUESTS} / (sum({rated(OPENED)}) > 0)", unit="none", decimals=1, empty="none "
        "opened",
        coloured=((None, RED), (t.REQUESTS_PER_CONNECTION.value, YELLOW), (20, GREEN)),
    )),
    Shown(number(
        "Requests that paid for TLS",
        "TLS handshakes for each request. Normal: next to none.",
        f"(sum({rated(HANDSHAKE, GOOD, '_count')}) or vector(0)) / {ALL_REQUESTS}",
        unit="percentunit", coloured=((None, GREEN), (0.05, YELLOW), (t.HANDSHAKES.value, RED)),
    )),
    Shown(number(
        "First request slower by",
        "How much longer the first request on a connection takes than later ones, at the 99th "
        "percentile. That is what a lost connection costs a caller.",
        f"{at(0.99, REQUEST, (), FIRST)} - {at(0.99, REQUEST, (), LATER)}",
        unit="s", empty="nothing to compare",
        coloured=((None, GREEN), (0.1, YELLOW), (t.FIRST_GAP.value, RED)),
    )),
    Shown(number(
        "Thrown away or timed out",
        "Connections that a full pool threw away, and requests that gave up waiting for one, a "
        "second. Normal: none.",
        f"(sum({rated(CLOSED, FULL)}) or vector(0)) + (sum({rated(TIMEOUTS)}) or vector(0))",
        unit="cps", coloured=((None, GREEN), (0.01, RED)),
    )),
    Shown(number(
        "Mean connection age",
        "How long the connections that are open now have lived. Normal: half a minute and more. "
        "Under a second they are hardly used twice.",
        f"sum({now(AGE_SUM)}) / (sum({now(OPEN)}) > 0)", unit="s", empty="none open",
        coloured=((None, RED), (t.LIFETIME.value, YELLOW), (30, GREEN)),
    )),
])  # fmt: skip

_WHY = Row("Why? Causes and reasons", [
    Shown(lines(
        "Why were connections opened?",
        "Red and orange: avoidable by the application. Purple and blue: the other side closed the "
        "one before. Green: needed.",
        [Query(summed(OPENED, ("poolscope_cause",)), "{{poolscope_cause}}")],
        unit="cps", stacked=True, by_name=CAUSE_COLOURS,
    ), ("PoolscopePoolEviction",)),
    Shown(lines(
        "Why were connections closed?",
        "The first cause seen. Red and orange: the application (collected and pool_closed: a "
        "Session was dropped or closed). Purple and blue: the other side, or a failure. Green: "
        "nobody's fault.",
        [Query(summed(CLOSED, ("poolscope_reason",)), "{{poolscope_reason}}")],
        unit="cps", stacked=True, by_name=_REASON_COLOURS, empty="none closed",
    ), ("PoolscopeServerCloses",)),
    Shown(lines(
        "Which lines of code asked for connections without need?",
        "The ten busiest, of connections that the application need not have opened. Looked for "
        "under `poolscope run`, and with call_sites=True.",
        [Query(
            f"topk(10, {summed(BY_CALLSITE, _SITE)})",
            "{{code_file_path}}:{{code_line_number}} in {{code_function_name}}: "
            "{{poolscope_cause}}",
        )],
        unit="cps", empty="none, or not looked for", span=24,
    ), (
        "PoolscopeSessionPerRequest", "PoolscopeUnreadResponses", "PoolscopeApplicationCloses",
    )),
    Shown(lines(
        "Which lines of code take responses and keep their connections?",
        "The ten busiest, of responses that kept their connection, in silence, for longer than "
        "held_after (a minute unless set). Without a name where nobody knows. Normal: none.",
        [Query(
            f"topk(10, {summed(HELD, _SITE[:-1])})",
            "{{code_file_path}}:{{code_line_number}} in {{code_function_name}}",
        )],
        unit="cps", empty="none held", span=24,
    ), ("PoolscopeHeldConnections",)),
    Shown(lines(
        "Which requests failed?",
        "connect: no usable connection. reset on a re-used connection: the other side hung up on "
        "an idle one. Normal: none.",
        [Query(
            summed(FAILED, ("error_type", "poolscope_reused")),
            "{{error_type}}, re-used: {{poolscope_reused}}",
        )],
        unit="cps", stacked=True, reds=True, empty="none failed",
    ), ("PoolscopeConnectFailures", "PoolscopeRequestTimeouts", "PoolscopeRequestsCutOff")),
    Shown(lines(
        "How many pools are there, and how many are made?",
        "A pool belongs to one Session or PoolManager and one host. Normal: none made once the "
        "service runs. Many made: a Session per request.",
        [
            Query(f"sum({now(POOLS_OPEN)})", "open"),
            Query(summed(POOLS_OPENED), "made a second"),
        ],
        unit="none", by_name={"open": GREEN, "made a second": RED},
    )),
])  # fmt: skip

_HEALTH = Row("Is poolscope itself well?", [
    Shown(number(
        "Faults of poolscope's own",
        "The application is not touched by them; there is just less telemetry. Normal: none.",
        f'sum({FAULTS.prometheus_name}{{{JOB}, instance=~"$instance"}}) or vector(0)',
        unit="none", coloured=((None, GREEN), (1, RED)), span=8,
    ), ("PoolscopeFaults",)),
    Shown(number(
        "Instances that report",
        "Instances of this job with at least one upstream.",
        f"count(group by (instance) ({POOLS_OPEN.prometheus_name}{{{JOB}}}))",
        unit="none", span=8, empty="none",
    ), ("PoolscopeBlind",)),
    Shown(number(
        "Most upstreams of an instance",
        "Each instance tells at most 100 apart (max_origins); later ones share the address _other.",
        f"max(count by (instance) ({POOLS_OPEN.prometheus_name}{{{JOB}}}))",
        unit="none", span=8, coloured=((None, GREEN), (100, RED)), empty="none",
    ), ("PoolscopeOtherUpstreams",)),
])  # fmt: skip


def service() -> tuple[Board, dict[str, int]]:
    """Return the dashboard, and the number of the panel on which each alert is seen."""
    made = board(
        SERVICE,
        "poolscope: service",
        "One service's outbound HTTP connections: are they re-used, what does it cost when they "
        "are not, and why are they not?",
    )
    values = POOLS_OPENED.prometheus_name
    job = f'{values}{{job="$job"}}'
    made = (
        made.with_variable(variable("job", "Job", f"label_values({values}, job)", several=False))
        .with_variable(variable("instance", "Instance", f"label_values({job}, instance)"))
        .with_variable(variable("upstream", "Upstream", f"label_values({job}, server_address)"))
        .with_variable(variable("client", "Client", f"label_values({job}, poolscope_client)"))
        .link(link("All services", f"/d/{OVERVIEW}"))
    )
    places(made, job)
    return made, fill(made, (_GLANCE, *SIGNALS, _WHY, _HEALTH))

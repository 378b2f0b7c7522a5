"""The overview: of all services, who churns, what it costs and who waits; reads recorded series."""

from __future__ import annotations

import recordings as r
import thresholds as t
from layout import OVERVIEW, SERVICE, Row, Shown, fill
from panels import (
    CLEAR,
    GREEN,
    RED,
    YELLOW,
    Board,
    Column,
    Query,
    board,
    lines,
    number,
    places,
    rows,
    variable,
)
from promql import UPSTREAM
from service import CAUSE_COLOURS

_JOBS = 'job=~"$job", cluster=~"$cluster", namespace=~"$namespace"'
_WHERE = f'{_JOBS}, server_address=~"$upstream", poolscope_client=~"$client"'
_AT = "{{job}} → {{server_address}}:{{server_port}}"
_TOP = 10
_ROWS = 25
_SERVICE = (
    f"/d/{SERVICE}?var-datasource=${{datasource}}&var-job=${{__data.fields.Service}}"
    "&var-upstream=${__data.fields.Upstream}&${cluster:queryparam}&${namespace:queryparam}"
    "&${__url_time_range}"
)


def _of(record: str, more: str = "") -> str:
    return f"{record}{{{_WHERE}{', ' if more else ''}{more}}}"


def _by_upstream(record: str, more: str = "") -> str:
    """Spell a record without its name, so that a table's columns meet in one row."""
    return f"sum by ({', '.join(UPSTREAM)}) ({_of(record, more)})"


def _top(expression: str) -> str:
    return f"topk({_TOP}, {expression})"


#: Who pays most for connections; where nobody opens any, who asks most.
_WORST = f"topk({_ROWS}, {_by_upstream(r.CREATE_SECONDS)} or 0 * {_by_upstream(r.REQUESTS)})"


def _column(record: str, more: str = "") -> str:
    return f"{_by_upstream(record, more)} and on ({', '.join(UPSTREAM)}) {_WORST}"


_SHARE = ((None, GREEN), (0.05, YELLOW), (1 / t.REQUESTS_PER_CONNECTION.value, RED))

_GLANCE = Row("", [
    Shown(number(
        "Services", "Jobs of which at least one instance reports.",
        f"count({r.INSTANCES}{{{_JOBS}}})", unit="none", empty="none: are the rules loaded?",
    )),
    Shown(number(
        "Instances", "Scrape targets that report, of all these services.",
        f"sum({r.INSTANCES}{{{_JOBS}}})", unit="none", empty="none",
    )),
    Shown(number(
        "Requests", "All requests a second, answered or failed.", f"sum({_of(r.REQUESTS)})",
        unit="reqps", empty="none",
    )),
    Shown(number(
        "Open a connection", "Normal: near 0 %. At 100 % nothing is used twice.",
        f"(sum({_of(r.OPENED_RATE)}) or vector(0)) / sum({_of(r.REQUESTS)})",
        unit="percentunit", coloured=_SHARE, empty="no requests",
    )),
    Shown(number(
        "Time lost a second",
        "Seconds a second that callers wait for connections to be opened. At 1 s one caller is "
        "waiting at any time.",
        f"sum({_of(r.CREATE_SECONDS)}) or vector(0)", unit="s",
    )),
    Shown(number(
        "Alerts that fire", "Of poolscope's own. The table of them is in Alertmanager, or in "
        "Prometheus under Alerts.",
        f'count(ALERTS{{alertname=~"Poolscope.+", alertstate="firing", {_JOBS}}}) or vector(0)',
        unit="none", coloured=((None, GREEN), (1, RED)),
    )),
])  # fmt: skip

_WORST_FIRST = Row("Who churns, what does it cost, who waits? Worst first", [
    Shown(rows(
        f"Which {_ROWS} services and upstreams lose most to new connections?",
        "Time lost is what callers wait for connections to be opened, in seconds a second. Red is "
        "beyond the alert's threshold. The first column leads to the service.",
        ("job", "url_scheme", "server_address", "server_port"),
        (
            Column("Time lost a second", _WORST, "s"),
            Column("Requests", _column(r.REQUESTS), "reqps"),
            Column(
                "Open a connection", _column(r.OPENED_RATIO), "percentunit",
                ((None, CLEAR), *_SHARE[1:]),
            ),
            Column(
                "TLS per request", _column(r.HANDSHAKES_RATIO), "none",
                ((None, CLEAR), (0.05, YELLOW), (t.HANDSHAKES.value, RED)), decimals=2,
            ),
            Column(
                "First slower by", _column(r.FIRST_GAP), "s",
                ((None, CLEAR), (0.1, YELLOW), (t.FIRST_GAP.value, RED)),
            ),
            Column(
                "Thrown away", _column(r.CLOSED_RATE, 'poolscope_reason="pool_full"'),
                "cps", ((None, CLEAR), (0.01, RED)),
            ),
            Column(
                "Wait, p99", _column(r.WAIT), "s",
                ((None, CLEAR), (0.01, YELLOW), (t.POOL_WAIT.value, RED)),
            ),
            Column(
                "Mean age", _column(r.AGE), "s",
                ((None, CLEAR), (0, RED), (t.LIFETIME.value, YELLOW), (30, CLEAR)),
            ),
        ),
        names={
            "job": "Service", "url_scheme": "Scheme",
            "server_address": "Upstream", "server_port": "Port",
        },
        href=_SERVICE,
        sort_by="Time lost a second",
    )),
])  # fmt: skip

_CHURN = Row("Who churns?", [
    Shown(lines(
        f"Which {_TOP} upstreams have the largest share of requests that open a connection?",
        "Normal: near 0 %. Above the line the churn alert fires after a while.",
        [Query(_top(_of(r.OPENED_RATIO)), _AT)],
        unit="percentunit", limit=1 / t.REQUESTS_PER_CONNECTION.value, empty="none opened",
    ), ("PoolscopeConnectionChurn",)),
    Shown(lines(
        "Why were connections opened?",
        "Red and orange: avoidable by the application. Purple and blue: the other side closed the "
        "one before. Green: needed.",
        [Query(f"sum by (poolscope_cause) ({_of(r.OPENED_RATE)})", "{{poolscope_cause}}")],
        unit="cps", stacked=True, by_name=CAUSE_COLOURS, empty="none opened",
    ), ("PoolscopeSessionPerRequest",)),
])  # fmt: skip

_COST = Row("What does it cost?", [
    Shown(lines(
        f"Which {_TOP} upstreams take most of callers' time for opening connections?",
        "Seconds a second: at 1 s one caller is waiting for a connection at any time. Normal: near "
        "0.",
        [Query(_top(_of(r.CREATE_SECONDS)), _AT)],
        unit="s", empty="none opened",
    )),
    Shown(lines(
        f"Where are first requests slower than later ones? The {_TOP} largest gaps",
        "At the 99th percentile. Beyond the line the alert fires, if first requests are not rare.",
        [Query(_top(_of(r.FIRST_GAP)), _AT)],
        unit="s", limit=t.FIRST_GAP.value, empty="nothing to compare",
    ), ("PoolscopeFirstRequestSlow",)),
])  # fmt: skip

_WAITING = Row("Who waits, who throws away?", [
    Shown(lines(
        f"Where do requests wait longest for a pooled connection? The {_TOP} longest",
        "The 99th percentile, of pools that block. Normal: under a millisecond.",
        [Query(_top(_of(r.WAIT)), _AT)],
        unit="s", limit=t.POOL_WAIT.value, empty="no pool blocks",
    ), ("PoolscopePoolWait", "PoolscopePoolWaitTimeouts")),
    Shown(lines(
        f"Which {_TOP} upstreams' pools throw most connections away?",
        "Connections a second that a full pool had no room for. Normal: none at peak.",
        [Query(_top(_of(r.CLOSED_RATE, 'poolscope_reason="pool_full"')), _AT)],
        unit="cps", empty="none thrown away",
    ), ("PoolscopePoolTooSmall",)),
])  # fmt: skip


def overview() -> Board:
    """Return the dashboard."""
    made = board(
        OVERVIEW,
        "poolscope: overview",
        "Outbound HTTP connections of all services: who churns, what it costs, who waits. Needs "
        "poolscope's recording rules.",
    )
    values = r.REQUESTS
    made = (
        made.with_variable(variable("job", "Job", f"label_values({values}, job)"))
        .with_variable(
            variable(
                "upstream", "Upstream", f'label_values({values}{{job=~"$job"}}, server_address)'
            )
        )
        .with_variable(
            variable("client", "Client", f'label_values({values}{{job=~"$job"}}, poolscope_client)')
        )
    )
    places(made, f'{values}{{job=~"$job"}}')
    fill(made, (_GLANCE, _WORST_FIRST, _CHURN, _COST, _WAITING))
    return made

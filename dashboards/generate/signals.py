"""The rows of the five signals, each a question."""

from __future__ import annotations

import thresholds as t
from layout import Row, Shown
from panels import BLUE, GREEN, RED, YELLOW, Query, distribution, lines
from poolscope.catalog import (
    AGE_SUM,
    BUSY_TIME,
    CLOSED,
    CREATE_TIME,
    HANDSHAKE,
    IDLE_TIME,
    LIFETIME,
    MAX,
    OLDEST_AGE,
    OPEN,
    OPENED,
    PENDING,
    REQUEST,
    REQUESTS,
    STALE,
    TIMEOUTS,
    WAIT_TIME,
)
from promql import total
from queries import (
    ALL_REQUESTS,
    AT,
    BY,
    FIRST,
    FULL,
    GOOD,
    IDLE,
    LATER,
    at,
    grown,
    now,
    or_zero,
    per_request,
    summed,
)

_REUSED = {"first request": RED, "later requests": GREEN}


_S1 = Row("S1 · Is keep-alive working?", [
    Shown(lines(
        "How many requests had to open a connection?",
        "Normal: near 0 %. At 100 % every request opens its own. Above the line: look at the "
        "causes below, then at the runbook.",
        [Query(per_request(summed(OPENED, BY)), AT)],
        unit="percentunit", limit=1 / t.REQUESTS_PER_CONNECTION.value,
    ), ("PoolscopeConnectionChurn",)),
    Shown(lines(
        "How many requests, and how many new connections?",
        "Normal: the lower line lies at the bottom, whatever the upper one does.",
        [Query(ALL_REQUESTS, "requests"), Query(summed(OPENED), "connections opened")],
        unit="cps", by_name={"requests": BLUE, "connections opened": RED},
    )),
])  # fmt: skip

_S2 = Row("S2 · How much TLS set-up is paid?", [
    Shown(lines(
        "How many TLS handshakes does a request cost?",
        "Normal: a small fraction. 1.0 is one for every request; through a TLS proxy it can be 2.",
        [Query(per_request(summed(HANDSHAKE, BY, GOOD, "_count")), AT)],
        unit="none", limit=t.HANDSHAKES.value,
    ), ("PoolscopeHandshakeShare",)),
    Shown(lines(
        "How long does a TLS handshake take?",
        "One round trip with TLS 1.3, two with 1.2, and CPU on both sides. Resumed ones are "
        "cheaper.",
        [
            Query(at(0.5, HANDSHAKE, ("tls_protocol_version",), GOOD),
                  "p50 {{tls_protocol_version}}"),
            Query(at(0.99, HANDSHAKE, ("tls_protocol_version",), GOOD),
                  "p99 {{tls_protocol_version}}"),
        ],
        unit="s", empty="no TLS",
    )),
])  # fmt: skip

_S3 = Row("S3 · What does a lost connection cost the caller?", [
    Shown(lines(
        "How slow is the first request on a connection, how slow are later ones?",
        "99th percentiles. The gap is the price of opening a connection, paid by a caller each "
        "time.",
        [
            Query(at(0.99, REQUEST, (), FIRST), "first request"),
            Query(at(0.99, REQUEST, (), LATER), "later requests"),
        ],
        unit="s", by_name=_REUSED,
    ), ("PoolscopeFirstRequestSlow",)),
    Shown(lines(
        "How much of callers' time goes into opening connections?",
        "Seconds a second: at 1 s one caller is waiting for a connection at any time. Normal: near "
        "0.",
        [Query(summed(CREATE_TIME, BY, suffix="_sum"), AT)],
        unit="s", stacked=True,
    )),
])  # fmt: skip

_S4 = Row("S4 · Is the pool too small?", [
    Shown(lines(
        "How many connections are thrown away because the pool is full?",
        "A second, of pools that do not block (the usual ones). Normal: 0 at peak.",
        [Query(or_zero(summed(CLOSED, BY, FULL)), AT)],
        unit="cps",
    ), ("PoolscopePoolTooSmall",)),
    Shown(lines(
        "How long do requests wait for a pooled connection?",
        "Only pools with block=True make anybody wait. Normal: under a millisecond.",
        [
            Query(at(0.5, WAIT_TIME, BY), f"p50 {AT}"),
            Query(at(0.99, WAIT_TIME, BY), f"p99 {AT}"),
        ],
        unit="s", limit=t.POOL_WAIT.value, empty="no pool blocks",
    ), ("PoolscopePoolWait",)),
    Shown(lines(
        "How many requests gave up waiting, and how many wait now?",
        "Each that gives up has failed. Normal: 0.",
        [
            Query(or_zero(summed(TIMEOUTS, BY)), f"gave up a second, {AT}"),
            Query(total(now(PENDING), BY), f"wait now, {AT}"),
        ],
        unit="none",
    ), ("PoolscopePoolWaitTimeouts", "PoolscopePoolExhausted")),
    Shown(lines(
        "How many connections are in use, how many may be kept?",
        "In use: the mean number checked out (Little's law). A pool should keep about twice that; "
        "where latency varies much, four to five times.",
        [
            Query(summed(BUSY_TIME), "in use, mean"),
            Query(f"sum({now(OPEN)})", "open"),
            Query(f"sum({now(MAX)})", "pools may keep"),
        ],
        unit="none", by_name={"in use, mean": BLUE, "open": YELLOW, "pools may keep": GREEN},
    )),
])  # fmt: skip

_S5 = Row("S5 · How long do connections live?", [
    Shown(lines(
        "How old are the open connections?",
        "Normal: half a minute and more on average. Under the line they are hardly used twice.",
        [
            Query(f"{total(now(AGE_SUM), BY)} / ({total(now(OPEN), BY)} > 0)", f"mean {AT}"),
            Query(f"max by ({', '.join(BY)}) ({now(OLDEST_AGE)})", f"oldest {AT}"),
        ],
        unit="s", empty="none open",
    )),
    Shown(distribution(
        "How long had closed connections lived?",
        "Each column is a moment, each field how many connections had lived for so long. Normal: "
        "few, and high up. A dark band at the bottom is a heap of short ones.",
        grown(LIFETIME),
    ), ("PoolscopeShortLifetimes",)),
    Shown(lines(
        "How many requests does a connection serve before it closes?",
        "The mean. Normal: dozens and more.",
        [Query(
            f"{summed(REQUESTS, BY, suffix='_sum')} / ({summed(REQUESTS, BY, suffix='_count')} > "
            f"0)",
            AT,
        )],
        unit="none", empty="none closed",
    )),
    Shown(lines(
        "How many idle connections are dead already?",
        "Their peer has hung up, and the next request on each has to open another. Normal: none. "
        "Many: the other side's idle time-out is shorter than the pauses here. (Linux only.)",
        [
            Query(f"sum({now(OPEN, IDLE)})", "idle"),
            Query(f"sum({now(STALE)})", "idle, and dead"),
        ],
        unit="none", by_name={"idle": BLUE, "idle, and dead": RED},
    ), ("PoolscopeIdleTimeoutRace",)),
    Shown(lines(
        "How long had connections been idle when the other side dropped them?",
        "The median: the other side's, or a firewall's, idle time-out seen from above. Time-outs "
        "on your side must end before it.",
        [Query(at(0.5, IDLE_TIME, ("poolscope_reason", *BY)), f"{{{{poolscope_reason}}}} {AT}")],
        unit="s", empty="none dropped",
    ), ("PoolscopeIdleTimeoutRace",)),
])  # fmt: skip

SIGNALS = (_S1, _S2, _S3, _S4, _S5)

"""The alerts: when each fires, and what it tells the person whom it wakes."""

from __future__ import annotations

from dataclasses import dataclass

import recordings as r
import thresholds as t
from promql import JOB, UPSTREAM

_WHERE = (
    "{{ $labels.url_scheme }}://{{ $labels.server_address }}"
    "{{ if $labels.server_port }}:{{ $labels.server_port }}{{ end }}"
)
#: One upstream's labels in a template's query, quoted as PromQL wants it.
_NAMED = ", ".join(f"{label}=%q" for label in UPSTREAM)
_NAMES = " ".join(f"$labels.{label}" for label in UPSTREAM)


def _limit(threshold: t.Threshold) -> str:
    """Spell a threshold so that a second series of it, from another Prometheus, does no harm."""
    return f"max({threshold.record})"


#: Enough requests to judge by, in all and for each instance that sends them: who asks once in two
#: minutes finds its connection closed, and nothing is wrong.
_BUSY = (
    f"{r.REQUESTS} > on () group_left () {_limit(t.MIN_REQUESTS)} "
    f"and {r.REQUESTS} / {r.CALLERS} > on () group_left () {_limit(t.MIN_EACH)}"
)


@dataclass(frozen=True)
class Alert:
    """One alert; it is about an upstream unless ``by`` says otherwise."""

    name: str
    severity: str
    expression: str
    lasts: str
    summary: str
    description: str
    by: tuple[str, ...] = UPSTREAM


def _above(value: str, threshold: t.Threshold, *guards: str) -> str:
    return _guarded(f"({value})\n  > on () group_left () {_limit(threshold)}", *guards)


def _guarded(condition: str, *guards: str) -> str:
    by = ", ".join(UPSTREAM)
    return "\n".join([condition, *(f"and on ({by}) ({guard})" for guard in guards)])


def _per_request(record: str, where: str) -> str:
    return f"sum by ({', '.join(UPSTREAM)}) ({record}{{{where}}}) / ({r.REQUESTS} > 0)"


def _also(record: str, word: str, show: str, more: str = "") -> str:
    """Spell a template that asks for another number of the same upstream, and says it."""
    query = f'printf "topk(1, {record}{{{_NAMED}{more}}})" {_NAMES} | query'
    return f"{{{{ with {query} }}}}{word.format(show=f'{{{{ . | first | {show} }}}}')}{{{{ end }}}}"


_MAIN_CAUSE = _also(
    r.OPENED_RATE, " Most were opened because of `{show}`.", 'label "poolscope_cause"'
)
_COSTS = _also(
    r.CREATE_SECONDS,
    " Opening connections takes {show} of callers' time a second.",
    "value | humanizeDuration",
)
_IDLE_FOR = _also(
    r.IDLE, " Half of them had been idle for less than {show}.", "value | humanizeDuration",
    ",poolscope_reason='reset'",
)  # fmt: skip

_FIRST_SHARE = f"{r.OPENED_RATIO} > on () group_left () {_limit(t.FIRST_SHARE)}"
_MANY_CLOSED = (
    f"sum by ({', '.join(UPSTREAM)}) ({r.CLOSED_RATE}) > on () group_left () {_limit(t.MIN_CLOSED)}"
)
_FAILS_TO_CONNECT = f'sum by ({", ".join(UPSTREAM)}) ({r.FAILED_RATE}{{error_type="connect"}})'
#: Those on a connection that had been used before are for PoolscopeIdleTimeoutRace.
_CUT_OFF = (
    f'sum by ({", ".join(UPSTREAM)}) ({r.FAILED_RATE}{{error_type=~"protocol|other"}} or '
    f'{r.FAILED_RATE}{{error_type="reset",poolscope_reused="false"}})'
)
_JOB = ", ".join(JOB)

ALERTS = (
    Alert(
        "PoolscopeConnectionChurn",
        "warning",
        _guarded(
            f"{r.OPENED_RATIO}\n  > on () group_left () (1 / {_limit(t.REQUESTS_PER_CONNECTION)})",
            _BUSY,
        ),
        "15m",
        f"{{{{ $labels.job }}}} does not re-use its connections to {_WHERE}.",
        "{{ $value | humanizePercentage }} of the requests had to open a new connection."
        + _MAIN_CAUSE + _COSTS,
    ),
    Alert(
        "PoolscopeHandshakeShare",
        "info",
        _above(r.HANDSHAKES_RATIO, t.HANDSHAKES, _BUSY),
        "15m",
        f"{{{{ $labels.job }}}} makes a TLS handshake with {_WHERE} too often.",
        '{{ $value | printf "%.2f" }} TLS handshakes per request; re-used connections need next to '
        "none. Each costs a round trip or two, and CPU on both sides." + _MAIN_CAUSE,
    ),
    Alert(
        "PoolscopeFirstRequestSlow",
        "info",
        _above(r.FIRST_GAP, t.FIRST_GAP, _FIRST_SHARE, _BUSY),
        "15m",
        f"First requests from {{{{ $labels.job }}}} to {_WHERE} are slow.",
        "At the 99th percentile the first request on a connection takes "
        "{{ $value | humanizeDuration }} longer than a later one: that is the price of opening a "
        "connection." + _MAIN_CAUSE,
    ),
    Alert(
        "PoolscopePoolTooSmall",
        "warning",
        _above(_per_request(r.CLOSED_RATE, 'poolscope_reason="pool_full"'), t.DISCARDS, _BUSY),
        "15m",
        f"The connection pool of {{{{ $labels.job }}}} for {_WHERE} is too small.",
        "After {{ $value | humanizePercentage }} of the requests the connection was thrown away, "
        "because the pool had no room to keep it." + _COSTS,
    ),
    Alert(
        "PoolscopePoolWait",
        "warning",
        _above(r.WAIT, t.POOL_WAIT),
        "15m",
        f"Requests from {{{{ $labels.job }}}} to {_WHERE} queue for a connection.",
        "1 request in 100 waits {{ $value | humanizeDuration }} or longer until its pool has a "
        "connection free.",
    ),
    Alert(
        "PoolscopePoolWaitTimeouts",
        "critical",
        _above(f"{r.TIMEOUTS_RATE} / ({r.REQUESTS} + {r.TIMEOUTS_RATE})", t.POOL_TIMEOUTS),
        "10m",
        f"Requests from {{{{ $labels.job }}}} to {_WHERE} fail: no connection is free in time.",
        "{{ $value | humanizePercentage }} of the requests gave up waiting for a connection of "
        "their pool."
        + _also(r.WAIT, " 1 request in 100 waits {show} or longer.", "value | humanizeDuration"),
    ),
    Alert(
        "PoolscopePoolExhausted",
        "critical",
        f"{r.STUCK} > 0",
        "10m",
        f"Requests from {{{{ $labels.job }}}} to {_WHERE} wait for connections that do not come "
        "back.",
        "{{ $value }} requests have been waiting for a connection of their pool all the time, and "
        "none has come through. Without a time-out they wait for ever, and no other alert sees "
        "them: a wait is counted when it ends.",
    ),
    Alert(
        "PoolscopeShortLifetimes",
        "info",
        _guarded(f"{r.LIVED}\n  < on () group_left () {_limit(t.LIFETIME)}", _MANY_CLOSED, _BUSY),
        "15m",
        f"Connections from {{{{ $labels.job }}}} to {_WHERE} live too short.",
        "A connection lives for {{ $value | humanizeDuration }} on average."
        + _also(r.CLOSED_RATE, " Most are closed because of `{show}`.", 'label "poolscope_reason"'),
    ),
    Alert(
        "PoolscopeIdleTimeoutRace",
        "warning",
        _above(
            _per_request(r.FAILED_RATE, 'poolscope_reused="true",error_type="reset"'),
            t.IDLE_RESETS,
            _BUSY,
        ),
        "10m",
        f"{_WHERE} hangs up on connections just as {{{{ $labels.job }}}} uses them again.",
        "{{ $value | humanizePercentage }} of the requests were cut off, without an answer, on a "
        "connection that had been used before." + _IDLE_FOR,
    ),
    Alert(
        "PoolscopeSessionPerRequest",
        "warning",
        _above(_per_request(r.OPENED_RATE, 'poolscope_cause="new_pool"'), t.NEW_POOLS, _BUSY),
        "15m",
        f"{{{{ $labels.job }}}} makes a new Session or PoolManager for its requests to {_WHERE}.",
        "{{ $value | humanizePercentage }} of the requests opened a connection because their "
        "Session or PoolManager was a new one. Every bare `requests.get()` does that." + _COSTS,
    ),
    Alert(
        "PoolscopeUnreadResponses",
        "warning",
        _above(_per_request(r.CLOSED_RATE, 'poolscope_reason="unread"'), t.UNREAD, _BUSY),
        "15m",
        f"{{{{ $labels.job }}}} loses connections to {_WHERE} by not reading responses.",
        "After {{ $value | humanizePercentage }} of the requests the connection had to be closed, "
        "because the response was given up before it had been read to the end." + _COSTS,
    ),
    Alert(
        "PoolscopeHeldConnections",
        "warning",
        _above(f"{r.HELD_RATE} / ({r.REQUESTS} > 0)", t.HELD, _BUSY),
        "15m",
        f"{{{{ $labels.job }}}} does not let go of connections to {_WHERE}.",
        "{{ $value | humanizePercentage }} of the requests' responses kept their connection for "
        "longer than `held_after` after the headers had come, and nothing came on it for as long. "
        "Mostly they are neither read nor closed.",
    ),
    Alert(
        "PoolscopeApplicationCloses",
        "warning",
        _above(
            _per_request(
                r.OPENED_RATE, 'poolscope_cause=~"replaced_explicit|replaced_pool_closed"'
            ),
            t.APPLICATION_CLOSES, _BUSY,
        ),
        "15m",
        f"{{{{ $labels.job }}}} closes connections to {_WHERE} that it needs again.",
        "{{ $value | humanizePercentage }} of the requests had to open a connection, because the "
        "one before had been closed by hand: `close()` on a connection that its pool would have "
        "kept." + _COSTS,
    ),
    Alert(
        "PoolscopeServerCloses",
        "info",
        _above(_per_request(r.CLOSED_RATE, 'poolscope_reason="server_close"'), t.SERVER_CLOSES,
               _BUSY),
        "15m",
        f"{_WHERE} ends connections from {{{{ $labels.job }}}} with its answers.",
        "{{ $value | humanizePercentage }} of the requests were answered with "
        "`Connection: close` or HTTP/1.0, so that the next one had to open a new connection."
        + _COSTS,
    ),
    Alert(
        "PoolscopeRequestTimeouts",
        "warning",
        _above(_per_request(r.FAILED_RATE, 'error_type="timeout"'), t.TIMEOUTS, _BUSY),
        "10m",
        f"Requests from {{{{ $labels.job }}}} to {_WHERE} time out.",
        "{{ $value | humanizePercentage }} of the requests got no answer within the time-out that "
        "the application sets. Each costs its connection, too.",
    ),
    Alert(
        "PoolscopeRequestsCutOff",
        "warning",
        _above(
            f"{_CUT_OFF} / ({r.REQUESTS} > 0)", t.CUT_OFF, _BUSY
        ),
        "10m",
        f"Requests from {{{{ $labels.job }}}} to {_WHERE} are cut off.",
        "{{ $value | humanizePercentage }} of the requests were cut off on a new connection, "
        "answered with something that is not HTTP, or ended by another error.",
    ),
    Alert(
        "PoolscopePoolEviction",
        "warning",
        _above(
            _per_request(r.OPENED_RATE, 'poolscope_cause="replaced_evicted"'), t.EVICTIONS, _BUSY
        ),
        "15m",
        f"{{{{ $labels.job }}}} forgets its connections to {_WHERE} for those to other hosts.",
        "{{ $value | humanizePercentage }} of the requests opened a connection again that had been "
        "dropped to make room for another host's." + _COSTS,
    ),
    Alert(
        "PoolscopeConnectFailures",
        "critical",
        _above(
            f"{_FAILS_TO_CONNECT} / ({r.REQUESTS} > 0)",
            t.CONNECT_FAILURES,
            f"{_FAILS_TO_CONNECT} > on () group_left () {_limit(t.MIN_FAILURES)}",
        ),
        "10m",
        f"{{{{ $labels.job }}}} can't connect to {_WHERE}.",
        "{{ $value | humanizePercentage }} of the requests fail before they have a connection: "
        "name, TCP, proxy or TLS.",
    ),
    Alert(
        "PoolscopeBlind",
        "warning",
        f"({r.INSTANCES} offset 1h unless on ({_JOB}) {r.INSTANCES})\nand on ({_JOB}) (sum by "
        f"({_JOB}) (up) > 0)",
        "15m",
        "poolscope sees nothing of {{ $labels.job }} any more.",
        "An hour ago {{ $value }} instances reported their connections; none does now, and they "
        "are up.",
        JOB,
    ),
    Alert(
        "PoolscopeFaults",
        "info",
        f"{r.FAULTY} > 0",
        "0m",
        "poolscope itself had a fault in {{ $labels.job }}.",
        "{{ $value }} faults at {{ $labels.poolscope_where }}. The application is not affected; "
        "some numbers may be too low until the processes are started anew.",
        JOB,
    ),
    Alert(
        "PoolscopeOtherUpstreams",
        "info",
        f"{r.OTHERS} > 0",
        "15m",
        "{{ $labels.job }} has more upstreams than poolscope tells apart.",
        "{{ $value }} instances file upstreams beyond `max_origins` under "
        '`server_address="_other"`.',
        JOB,
    ),
)  # fmt: skip

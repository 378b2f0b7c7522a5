"""The cases in which requests fail: no connection, no answer in time, or one that breaks off."""

from __future__ import annotations

from poolscope.advice.evidence import TIMES, Evidence, Finding, Whose
from poolscope.advice.words import counted

_FORGOTTEN = 60.0  # seconds of idleness after which firewalls begin to forget a connection

#: What most connects failed of: in words, whose move, why, what to do.
_CONNECT: dict[str, tuple[str, Whose, str, str]] = {
    "dns": (
        "the host name could not be resolved",
        "the application",
        "The name does not exist, or the name server does not answer.",
        "Check the host name in the application's settings, then the machine's DNS.",
    ),
    "refused": (
        "the connection was refused",
        "the other side",
        "Nothing listens on that port, or a firewall rejects the connection.",
        "Check that the service is running there, and the host and port that are called.",
    ),
    "timeout": (
        "connecting took longer than the time-out",
        "the other side",
        "The host is down, overloaded or cut off by a firewall, or the time-out is too short.",
        "Check that the host can be reached from here, and that the time-out is long enough.",
    ),
    "tls": (
        "TLS could not be agreed on",
        "the application or the other side",
        "Mostly the certificate is expired, for another name, or of an unknown authority.",
        "Read the error in the log; renew the certificate there, or name its authority here.",
    ),
    "proxy": (
        "the proxy did not let it through",
        "the application or the other side",
        "The proxy refused the tunnel, or wants a log-in.",
        "Check the proxy's address and log-in (`HTTPS_PROXY`, `proxies=`) and its rules.",
    ),
    "other": (
        "connecting failed for another reason",
        "the other side",
        "The network or the other side ended the attempt.",
        "Read the error in the application's log.",
    ),
}


def connect_failures(seen: Evidence) -> Finding | None:
    """Look for requests for which no usable connection could be had."""
    number = seen.failed.get("connect", 0)
    if not seen.fails(number):
        return None
    errors = seen.connect_errors or {"other": number}
    kind = max(errors, key=lambda error: errors[error])
    what, whose, cause, change = _CONNECT.get(kind, _CONNECT["other"])
    if len(errors) > 1:
        what = f"mostly, {what}"
    return Finding(
        id="PoolscopeConnectFailures",
        upstream=seen.upstream,
        severity="failing",
        whose=whose,
        problem=f"{number:,} of {counted(seen.attempts, 'request')} failed without a connection: "
        f"{what}.",
        cause=cause,
        change=change,
    )


def requests_time_out(seen: Evidence) -> Finding | None:
    """Look for requests that timed out, before the headers or within the body."""
    waiting = seen.failed.get("timeout", 0)
    # Connections that timed out, less the requests and connects that did: bodies.
    connecting = seen.connect_errors.get("timeout", 0)
    bodies = max(0, seen.closed.get("timeout", 0) - waiting - connecting)
    if not seen.fails(waiting + bodies):
        return None
    problem = f"{waiting:,} of {counted(seen.attempts, 'request')} timed out without an answer"
    if bodies and not waiting:
        problem = f"{counted(bodies, 'response')} timed out before the body's end"
    elif bodies:
        problem += f", and {counted(bodies, 'response')} before the body's end"
    silent = seen.dropped.get("timeout")
    also = ""
    if silent and silent["count"] >= TIMES and silent["p50"] >= _FORGOTTEN:
        also = (
            f" {silent['count']:,} of these came on a connection that had been idle for a minute "
            "or more: a firewall that forgot it looks just like that."
        )
    return Finding(
        id="PoolscopeRequestTimeouts",
        upstream=seen.upstream,
        severity="failing",
        whose="the other side",
        problem=f"{problem}. A connection is closed with each.",
        cause="It took longer than the time-out that the application sets." + also,
        change="Find out why it is slow; if that is normal, raise the read time-out (`timeout=`).",
        saves=seen.saves("replaced_timeout"),
        cost=seen.cost("replaced_timeout"),
    )


def requests_break(seen: Evidence) -> Finding | None:
    """Look for requests cut off, or answered with rubbish."""
    resets = max(0, seen.failed.get("reset", 0) - seen.idle_resets())
    bodies = max(0, seen.closed.get("reset", 0) - seen.failed.get("reset", 0))
    broken = seen.failed.get("protocol", 0)
    other = seen.failed.get("other", 0)
    # Connections that an error ended, less those of requests and of connects: bodies.
    connects = sum(seen.connect_errors.get(kind, 0) for kind in ("tls", "proxy", "other"))
    bad = max(0, seen.closed.get("error", 0) - broken - other - connects)
    if not seen.fails(resets + bodies + broken + other + bad):
        return None
    parts = (
        (resets, "{} cut off before the answer"),
        (bodies, "{} cut off within the answer's body"),
        (broken, "{} answered with something that is not HTTP"),
        (other, "{} ended by another error"),
        (bad, "{} ended by an error in the answer's body"),
    )
    listed = ", ".join(text.format(f"{number:,}") for number, text in parts if number)
    causes = ("replaced_reset", "replaced_error")
    return Finding(
        id="PoolscopeRequestsCutOff",
        upstream=seen.upstream,
        severity="failing",
        whose="the application or the other side",
        problem=f"Of {counted(seen.attempts, 'request')} some failed half-way: {listed}.",
        cause="Mostly that is a server or proxy that crashes, restarts or is overloaded.",
        change="Look into its log, and the application's, at the times of the errors.",
        saves=seen.saves(*causes),
        cost=seen.cost(*causes),
    )

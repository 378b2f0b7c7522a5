"""The cases for what is left: connections that the application closes, and any other churn."""

from __future__ import annotations

from collections.abc import Collection

from poolscope.advice.evidence import Evidence, Finding, Whose
from poolscope.advice.words import clean, counted
from poolscope.catalog import AVOIDABLE_CAUSES, NEEDED_CAUSES, OTHER_SIDE_CAUSES

#: What a finding is about, so that nothing is told twice: the causes that it explains.
EXPLAINED = {
    "PoolscopeConnectFailures": ("replaced_error", "replaced_timeout"),
    "PoolscopeRequestTimeouts": ("replaced_timeout",),
    "PoolscopeRequestsCutOff": ("replaced_reset", "replaced_error"),
    "PoolscopeSessionPerRequest": ("new_pool",),
    "PoolscopePoolTooSmall": ("replaced_pool_full",),
    "PoolscopeUnreadResponses": ("replaced_unread", "replaced_collected"),
    "PoolscopePoolEviction": ("replaced_evicted",),
    "PoolscopeServerCloses": ("replaced_server_close",),
    "PoolscopeIdleTimeoutRace": ("replaced_stale", "replaced_reset"),
    "PoolscopeApplicationCloses": ("replaced_explicit", "replaced_pool_closed"),
}

_BECAUSE = {
    "new_pool": "because the Session or PoolManager was a new one",
    "replaced_pool_full": "as the pool had had no room to keep one",
    "replaced_unread": "as a response had been given up unread",
    "replaced_collected": "as one had been dropped unclosed",
    "replaced_evicted": "as another host's had taken the place",
    "replaced_explicit": "as the application had closed one",
    "replaced_pool_closed": "as the application had closed the pool",
    "replaced_server_close": "as an answer had ended one",
    "replaced_stale": "as the other side had closed one that was idle",
    "replaced_reset": "as the other side had hung up on a request or body",
    "replaced_timeout": "as a request or body had timed out",
    "replaced_error": "as an error had ended one",
}
#: How many causes are named; the rest are few.
_NAMED = 4


def application_closes(seen: Evidence) -> Finding | None:
    """Look for connections that the application closes, and then needs again."""
    causes = EXPLAINED["PoolscopeApplicationCloses"]
    number = seen.number(*causes)
    if not seen.often(number):
        return None
    return Finding(
        id="PoolscopeApplicationCloses",
        upstream=seen.upstream,
        severity="costly",
        whose="the application",
        problem=f"{number:,} of {counted(seen.opened_total, 'connection')} had to be opened "
        "because the one before had been closed here, by hand." + seen.price(*causes),
        cause="It, or a library that it uses, calls `close()` on a connection "
        "(`response.connection.close()`, `conn.close()`) that its pool would have kept.",
        change="Take these calls out: when a response has been read to its end, its pool takes the "
        "connection back by itself (with `preload_content=False` after "
        "`response.release_conn()`). Where a connection must not be used again, this is its price.",
        saves=seen.saves(*causes),
        cost=seen.cost(*causes),
        where=seen.where(*causes),
    )


def connection_churn(seen: Evidence, others: Collection[str]) -> Finding | None:
    """Look for connections opened again for what none of the ``others`` (findings' ids) explains.

    Each cause may be rare for itself, or unknown here: a report may be newer or older than what
    it reads.
    """
    explained = {*NEEDED_CAUSES, *(cause for one in others for cause in EXPLAINED.get(one, ()))}
    if seen.asks_seldom():
        explained.add("replaced_stale")  # nothing is wrong with that
    left = {cause: number for cause, number in seen.opened.items() if cause not in explained}
    causes = sorted((cause for cause in left if left[cause]), key=lambda cause: -left[cause])
    number = sum(left.values())
    if not seen.answered or not seen.often(number):
        return None
    listed = [f"{left[cause]:,} {_because(cause)}" for cause in causes[:_NAMED]]
    if len(causes) > _NAMED:
        rest = sum(left[cause] for cause in causes[_NAMED:])
        listed.append(f"{rest:,} for other causes")
    return Finding(
        id="PoolscopeConnectionChurn",
        upstream=seen.upstream,
        severity="costly",
        whose=_whose(causes),
        problem=f"{number:,} of {counted(seen.opened_total, 'connection')} had to be opened though "
        f"there had been others before: {', '.join(listed)}." + seen.price(*causes),
        cause="Connections are lost for the causes that are named, and have to be opened again.",
        change="Begin with the cause that comes first: the runbook says of each what it means, and "
        "where to go on.",
        saves=seen.saves(*causes),
        cost=seen.cost(*causes),
        where=seen.where(*causes),
    )


def _because(cause: str) -> str:
    return _BECAUSE.get(cause, f"because of `{clean(cause)}`")


def _whose(causes: list[str]) -> Whose:
    if set(causes) <= set(AVOIDABLE_CAUSES):
        return "the application"
    if set(causes) <= set(OTHER_SIDE_CAUSES):
        return "the other side"
    return "the application or the other side"

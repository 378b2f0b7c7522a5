"""The cases in which connections are opened that need not be, or held, or waited for."""

from __future__ import annotations

from poolscope import catalog
from poolscope.advice import words
from poolscope.advice.evidence import (
    ENOUGH_REQUESTS,
    FAILING_SHARE,
    HARDLY_IDLE,
    Cost,
    Evidence,
    Finding,
)
from poolscope.advice.sizing import pool_size
from poolscope.advice.words import counted

_LONG_WAIT = 0.010  # seconds that 1 in 100 waits for a connection


def session_per_call(seen: Evidence) -> Finding | None:
    """Look for connections that a new Session or PoolManager had to open again."""
    number = seen.opened.get("new_pool", 0)
    if not seen.often(number):
        return None
    also = ""
    if seen.often(seen.closed.get("server_close", 0)):
        also = " The other side closes connections as well, so it takes both changes."
    return Finding(
        id="PoolscopeSessionPerRequest",
        upstream=seen.upstream,
        severity="costly",
        whose="the application",
        problem=f"{number:,} of {counted(seen.opened_total, 'connection')} had to be opened "
        "because the Session or PoolManager was a new one." + seen.price("new_pool"),
        cause="It makes a new Session or PoolManager again and again, and drops the old one with "
        "its open connections. Every plain `requests.get()` or `requests.post()` does that, and "
        "so does `close()` or `clear()` before one is used again." + also,
        change="Make one Session when the program starts (`session = requests.Session()` at module "
        "level, or one for each long-lived thread) and call `session.get(...)`. With urllib3 "
        "keep one `PoolManager()`.",
        saves=seen.saves("new_pool"),
        cost=seen.cost("new_pool"),
        where=seen.where("new_pool"),
    )


def pool_too_small(seen: Evidence) -> Finding | None:
    """Look for connections that their pool had no room to keep."""
    number = seen.closed.get("pool_full", 0)
    if not seen.often(number, FAILING_SHARE):
        return None
    kept = seen.pool_size
    # Connections that are held are in use as well, and more room would not be for others.
    size = None if is_held(seen) else pool_size(seen)
    keeps = f" (it keeps {kept:,})" if kept else ""
    maxsize = f"{size.connections:,}" if size else "N"
    reached = f": {size.why}" if size else ""
    n = "" if size else ", N being the number of threads that use it"
    return Finding(
        id="PoolscopePoolTooSmall",
        upstream=seen.upstream,
        severity="costly",
        whose="the application",
        problem=f"{counted(number, 'connection')} were thrown away after use, because the pool "
        f"had no room to keep them{keeps}." + seen.price("replaced_pool_full"),
        cause=f"It uses more connections at once than the pool has room for{reached}.",
        change=f"Make room for {maxsize}{n}: "
        f'`session.mount("{seen.scheme}://", HTTPAdapter(pool_maxsize={maxsize}))`; with urllib3 '
        f"`PoolManager(maxsize={maxsize})`.",
        saves=seen.saves("replaced_pool_full"),
        cost=seen.cost("replaced_pool_full"),
        where=seen.where("replaced_pool_full"),
        settings={"pool_maxsize": size.connections} if size else {},
    )


def pool_wait(seen: Evidence) -> Finding | None:
    """Look for requests that queue, perhaps in vain, for a pool's connection."""
    timeouts, p99 = seen.pool["timeouts"], seen.pool["wait"]["p99"] or 0.0
    gave_up = seen.fails(timeouts)
    if not gave_up and not _waits_long(seen):
        return None
    kept = seen.pool_size
    limit = f" to {counted(kept, 'connection')}" if kept else ""
    longest = f"about {words.duration(p99)} or longer"
    if p99 >= catalog.DURATION_BOUNDS[-1]:
        longest = f"more than {words.duration(p99)}"
    problem = f"1 in 100 requests waited {longest} for a free connection"
    if gave_up:
        problem = f"{counted(timeouts, 'request')} failed: no connection became free in time"
    size = None if is_held(seen) else pool_size(seen)
    maxsize = f"{size.connections:,}" if size else "N"
    change = (
        f"Raise the limit to {maxsize}{'' if size else ', the number of threads that use the pool'}"
        f": `PoolManager(maxsize={maxsize}, block=True)`, `HTTPAdapter(pool_maxsize={maxsize}, "
        "pool_block=True)`. A connection is taken until its response is read to the end, so read "
        "soon."
    )
    if is_held(seen):
        change = "Let go of the responses that hold connections, then see what waits are left."
    hourly = seen.hourly(seen.waited)
    return Finding(
        id="PoolscopePoolWaitTimeouts" if gave_up else "PoolscopePoolWait",
        upstream=seen.upstream,
        severity="failing" if gave_up else "costly",
        whose="the application",
        problem=f"{problem}. All waits together took {words.duration(seen.waited)}.",
        cause=f"The pool is limited{limit} (`block=True`), and at times more requests than that "
        f"want one{': ' + size.why if size else ''}.",
        change=change,
        saves=f"at this rate up to {words.duration(hourly)} of waiting an hour." if hourly else "",
        cost=Cost(seconds=seen.waited, seconds_per_hour=hourly),
        settings={"pool_maxsize": size.connections} if size else {},
    )


def idle_race(seen: Evidence) -> Finding | None:
    """Look for connections that the other side ends while they are idle."""
    stale, resets = seen.closed.get("stale", 0), seen.idle_resets()
    failing = seen.fails(resets)
    if not failing and (seen.asks_seldom() or not seen.often(stale + resets)):
        return None
    problem = []
    if stale:
        problem.append(
            f"{counted(stale, 'connection')} had been closed by the other side while idle, and "
            "had to be replaced when the next request wanted them."
        )
    if resets:
        problem.append(
            f"{counted(resets, 'request')} failed because the other side hung up on an idle "
            "connection just as it was used again."
        )
    kind = "stale" if stale else "reset"
    idle = seen.dropped.get(kind, {}).get("p50")
    cause = "It, or a proxy, load balancer or firewall in between, ends idle connections"
    if idle is not None and idle <= HARDLY_IDLE:
        cause += " less than a second after the answer, without saying so in the answer."
    elif idle is not None:
        side = "more" if idle >= catalog.IDLE_BOUNDS[-1] else "less"
        after = words.duration(idle)
        cause += f"; half of these had been idle for {side} than {after} when that showed"
        # Who was found dropped had been dropped before: that bounds the time-out from above.
        shortest = seen.dropped[kind]["shortest_at_most"]
        cause += f", the shortest for at most {words.duration(shortest)}." if shortest else "."
    else:
        cause += "."
    retry = ""
    if resets:
        retry = (
            " Meanwhile let requests that may be repeated be repeated: "
            "`HTTPAdapter(max_retries=Retry(total=2))`."
        )
    causes = ("replaced_stale", "replaced_reset")
    return Finding(
        id="PoolscopeIdleTimeoutRace",
        upstream=seen.upstream,
        severity="failing" if failing else "costly",
        whose="the other side",
        problem=" ".join(problem) + seen.price(*causes),
        cause=cause,
        change="Raise the keep-alive (idle) time-out there above the usual pause between requests: "
        "gunicorn `--keep-alive` (2 s unless set), uvicorn `--timeout-keep-alive` (5 s), nginx "
        "`keepalive_timeout` (75 s), AWS load balancer `idle_timeout` (60 s)." + retry,
        saves=seen.saves(*causes),
        cost=seen.cost(*causes),
    )


def server_closes(seen: Evidence) -> Finding | None:
    """Look for answers after which the connection can't be used again."""
    number = seen.closed.get("server_close", 0)
    if not seen.often(number):
        return None
    return Finding(
        id="PoolscopeServerCloses",
        upstream=seen.upstream,
        severity="costly",
        whose="the other side",
        problem=f"{number:,} of {counted(seen.answered, 'answer')} told the client to close the "
        "connection." + seen.price("replaced_server_close"),
        cause="Those answers say `Connection: close` or are HTTP/1.0: keep-alive is switched off, "
        "or limited to few requests, in the server or in a proxy before it.",
        change="Switch keep-alive on there (nginx: `keepalive_timeout`, `keepalive_requests`; "
        "gunicorn: the default `sync` worker can't do it, `--worker-class gthread` can). Make sure "
        "that the application sends no `Connection: close` header of its own.",
        saves=seen.saves("replaced_server_close"),
        cost=seen.cost("replaced_server_close"),
    )


def unread_responses(seen: Evidence) -> Finding | None:
    """Look for connections closed because a response was not read to its end."""
    number = seen.closed.get("unread", 0) + seen.opened.get("replaced_collected", 0)
    if not seen.often(number):
        return None
    causes = ("replaced_unread", "replaced_collected")
    return Finding(
        id="PoolscopeUnreadResponses",
        upstream=seen.upstream,
        severity="costly",
        whose="the application",
        problem=f"{counted(number, 'connection')} had to be closed because the response on it was "
        "given up before it had been read to the end." + seen.price(*causes),
        cause="It closes or drops responses (`stream=True`, `preload_content=False`) with a part "
        "of the body unread. Leaving a `with` block does that too, and so does a loop over chunks "
        "or lines that ends early, or an alarm, time limit or Ctrl-C while the body is read.",
        change="Read every response to its end, also when its content does not matter: "
        "`response.content` in requests, `response.drain_conn()` in urllib3. Where only the "
        "headers are wanted, send HEAD. Where stopping early is meant, this is its price.",
        saves=seen.saves(*causes),
        cost=seen.cost(*causes),
        where=seen.where(*causes),
    )


def held_connections(seen: Evidence) -> Finding | None:
    """Look for responses that nobody reads or closes, while they keep their connection."""
    if not is_held(seen):
        return None
    failing = seen.fails(seen.pool["timeouts"])
    return Finding(
        id="PoolscopeHeldConnections",
        upstream=seen.upstream,
        severity="failing" if failing else "costly",
        whose="the application",
        problem=f"{counted(seen.held, 'response')} kept a connection for longer than allowed "
        "(`held_after`, a minute unless set), and nothing came on it for as long.",
        cause="Nobody else can use these connections meanwhile. Mostly it asks with `stream=True` "
        "or `preload_content=False`, keeps the response, and neither reads nor closes it; or the "
        "other side stalls in the midst of a body.",
        change="Take such responses in a `with` block that reads them: "
        "`with session.get(url, stream=True) as response:`; in urllib3 call "
        "`response.release_conn()` after the last `read()`. Streams that are meant to be silent "
        "for long need a Session of their own, and a larger `held_after`.",
        where=seen.where_held(),
    )


def is_held(seen: Evidence) -> bool:
    """Tell whether so many responses hold on to a connection that it is worth a sentence.

    That is a share of the requests, or half of a pool for which others wait.
    """
    if seen.often(seen.held, FAILING_SHARE):
        return True
    waits = seen.pool["timeouts"] or seen.pool["pending"] or _waits_long(seen)
    return seen.often(seen.held, 0.0) and bool(waits) and 2 * seen.held >= seen.pool_size > 0


def _waits_long(seen: Evidence) -> bool:
    p99 = seen.pool["wait"]["p99"] or 0.0
    return bool(seen.pool["waits"] >= ENOUGH_REQUESTS and p99 >= _LONG_WAIT)


def pool_evictions(seen: Evidence) -> Finding | None:
    """Look for connections lost because a manager calls more hosts than it remembers."""
    number = seen.opened.get("replaced_evicted", 0)
    if not seen.often(number):
        return None
    hosts = seen.upstreams
    num_pools = f"{hosts:,}" if hosts else "N"
    calls = (
        f" {hosts:,} are called altogether."
        if hosts
        else (" Different settings for one host (certificates, time-outs) count as several.")
    )
    return Finding(
        id="PoolscopePoolEviction",
        upstream=seen.upstream,
        severity="costly",
        whose="the application",
        problem=f"{counted(number, 'connection')} had to be opened again because the connections "
        "to this host had been dropped to make room for another host's."
        + seen.price("replaced_evicted"),
        cause="One Session or PoolManager calls more hosts than it keeps connections for (10 "
        f"unless set).{calls}",
        change=f'Let it keep as many hosts as it calls: `session.mount("{seen.scheme}://", '
        f"HTTPAdapter(pool_connections={num_pools}))`; with urllib3 "
        f"`PoolManager(num_pools={num_pools})`.",
        saves=seen.saves("replaced_evicted"),
        cost=seen.cost("replaced_evicted"),
        where=seen.where("replaced_evicted"),
        settings={"num_pools": hosts} if hosts else {},
    )

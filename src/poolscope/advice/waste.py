"""The cases in which connections are opened that need not be, or waited for."""

from __future__ import annotations

from poolscope import catalog
from poolscope.advice import words
from poolscope.advice.evidence import (
    ENOUGH_REQUESTS,
    FAILING_SHARE,
    HARDLY_IDLE,
    Evidence,
    Finding,
)
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
        "session-per-call",
        "costly",
        "the application",
        f"{number:,} of {counted(seen.opened_total, 'connection')} had to be opened because the "
        f"Session or PoolManager was a new one." + seen.price("new_pool"),
        "It makes a new Session or PoolManager again and again, and drops the old one with its "
        "open connections. Every plain `requests.get()` or `requests.post()` does that." + also,
        "Make one Session when the program starts (`session = requests.Session()` at module "
        "level, or one for each long-lived thread) and call `session.get(...)`. With urllib3 "
        "keep one `PoolManager()`.",
        seen.cost("new_pool"),
        seen.where("new_pool"),
    )


def pool_too_small(seen: Evidence) -> Finding | None:
    """Look for connections that their pool had no room to keep."""
    number = seen.closed.get("pool_full", 0)
    if not seen.often(number, FAILING_SHARE):
        return None
    size, peak = seen.pool_size(), seen.peak()
    keeps = f" (it keeps {size:,})" if size else ""
    at_once = ""
    if peak > max(size, 1):
        at_once = f"up to {peak:,}" if seen.pool["pools_opened"] == 1 else f"about {peak:,}"
    number_of = f"{max(peak, size + 1):,}" if at_once else "N"
    why = "" if at_once else ", N being the number of threads that use it"
    return Finding(
        "pool-too-small",
        "costly",
        "the application",
        f"{counted(number, 'connection')} were thrown away after use, because the pool "
        f"had no room to keep them{keeps}." + seen.price("replaced_pool_full"),
        f"At peak it uses {at_once or 'more'} connections at once, and the pool has room for less.",
        f"Make room for as many connections as there are threads, at least {number_of}{why}: "
        f'`session.mount("{seen.scheme}://", HTTPAdapter(pool_maxsize={number_of}))`; with urllib3 '
        f"`PoolManager(maxsize={number_of})`.",
        seen.cost("replaced_pool_full"),
    )


def pool_wait(seen: Evidence) -> Finding | None:
    """Look for requests that queue, perhaps in vain, for a pool's connection."""
    timeouts, p99 = seen.pool["timeouts"], seen.pool["wait"]["p99"] or 0.0
    gave_up = seen.fails(timeouts)
    if not gave_up and not (seen.pool["waits"] >= ENOUGH_REQUESTS and p99 >= _LONG_WAIT):
        return None
    size = seen.pool_size()
    limit = f" to {counted(size, 'connection')}" if size else ""
    longest = f"about {words.duration(p99)} or longer"
    if p99 >= catalog.DURATION_BOUNDS[-1]:
        longest = f"more than {words.duration(p99)}"
    problem = f"1 in 100 requests waited {longest} for a free connection"
    if gave_up:
        problem = f"{counted(timeouts, 'request')} failed: no connection became free in time"
    return Finding(
        "pool-wait",
        "failing" if gave_up else "costly",
        "the application",
        f"{problem}. All waits together took {words.duration(seen.waited)}.",
        f"The pool is limited{limit} (`block=True`), and at times more requests than that "
        "want one.",
        "Raise the limit to the number of threads that use the pool (`PoolManager(maxsize=N, "
        "block=True)`, `HTTPAdapter(pool_maxsize=N, pool_block=True)`). A connection is taken "
        "until its response is read to the end, so read soon.",
        seen.waited,
    )


def idle_race(seen: Evidence) -> Finding | None:
    """Look for connections that the other side ends while they are idle."""
    stale, resets = seen.closed.get("stale", 0), seen.idle_resets()
    failing = seen.fails(resets)
    if not failing and not seen.often(stale + resets):
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
    if seen.dead:
        problem.append(f"{seen.dead:,} of {seen.idle:,} idle connections are already dead.")
    kind = "stale" if stale else "reset"
    idle = seen.dropped.get(kind, {}).get("p50")
    cause = "It, or a proxy, load balancer or firewall in between, ends idle connections"
    if idle is not None and idle <= HARDLY_IDLE:
        cause += " less than a second after the answer, without saying so in the answer."
    elif idle is not None:
        side = "more" if idle >= catalog.IDLE_BOUNDS[-1] else "less"
        after = words.duration(idle)
        cause += f"; half of these had been idle for {side} than {after} when that showed."
    else:
        cause += "."
    retry = ""
    if resets:
        retry = (
            " Meanwhile let requests that may be repeated be repeated: "
            "`HTTPAdapter(max_retries=Retry(total=2))`."
        )
    return Finding(
        "idle-race",
        "failing" if failing else "costly",
        "the other side",
        " ".join(problem) + seen.price("replaced_stale", "replaced_reset"),
        cause,
        "Raise the keep-alive (idle) time-out there above the usual pause between requests: "
        "gunicorn `--keep-alive` (2 s unless set), uvicorn `--timeout-keep-alive` (5 s), nginx "
        "`keepalive_timeout` (75 s), AWS load balancer `idle_timeout` (60 s)." + retry,
        seen.cost("replaced_stale", "replaced_reset"),
    )


def server_closes(seen: Evidence) -> Finding | None:
    """Look for answers after which the connection can't be used again."""
    number = seen.closed.get("server_close", 0)
    if not seen.often(number):
        return None
    return Finding(
        "server-closes",
        "costly",
        "the other side",
        f"{number:,} of {counted(seen.answered, 'answer')} told the client to close the "
        "connection." + seen.price("replaced_server_close"),
        "Those answers say `Connection: close` or are HTTP/1.0: keep-alive is switched off, or "
        "limited to few requests, in the server or in a proxy before it.",
        "Switch keep-alive on there (nginx: `keepalive_timeout`, `keepalive_requests`; gunicorn: "
        "the default `sync` worker can't do it, `--worker-class gthread` can). Make sure that "
        "the application sends no `Connection: close` header of its own.",
        seen.cost("replaced_server_close"),
    )


def unread_responses(seen: Evidence) -> Finding | None:
    """Look for connections closed because a response was not read to its end."""
    number = seen.closed.get("unread", 0) + seen.opened.get("replaced_collected", 0)
    if not seen.often(number):
        return None
    causes = ("replaced_unread", "replaced_collected")
    return Finding(
        "unread-responses",
        "costly",
        "the application",
        f"{counted(number, 'connection')} had to be closed because the response on it was given "
        "up before it had been read to the end." + seen.price(*causes),
        "It closes or drops responses (`stream=True`, `preload_content=False`) with a part of "
        "the body unread. Leaving a `with` block does that too.",
        "Read every response to its end, also when its content does not matter: "
        "`response.content` in requests, `response.drain_conn()` in urllib3. Where only the "
        "headers are wanted, send HEAD. Where stopping early is meant, this is its price.",
        seen.cost(*causes),
    )


def pool_evictions(seen: Evidence) -> Finding | None:
    """Look for connections lost because a manager calls more hosts than it remembers."""
    number = seen.opened.get("replaced_evicted", 0)
    if not seen.often(number):
        return None
    return Finding(
        "pool-evictions",
        "costly",
        "the application",
        f"{counted(number, 'connection')} had to be opened again because the connections to this "
        "host had been dropped to make room for another host's." + seen.price("replaced_evicted"),
        "One Session or PoolManager calls more hosts than it keeps connections for (10 unless "
        "set).",
        f'Let it keep as many hosts as it calls: `session.mount("{seen.scheme}://", '
        "HTTPAdapter(pool_connections=N))`; with urllib3 `PoolManager(num_pools=N)`.",
        seen.cost("replaced_evicted"),
    )

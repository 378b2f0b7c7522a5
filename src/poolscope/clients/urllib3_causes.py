"""Why a urllib3 connection closed, or failed: read off the call stack and the exception."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from poolscope.clients.urllib3_errors import failure, is_of_the_exchange
from poolscope.records import KEY, Carrier

_DEPTH = 24


class Why(NamedTuple):
    """Why ``close`` is called: the reason, and what ended the request that was under way.

    ``response`` is the http.client response that goes on to own the socket, if there is one.
    """

    reason: str
    failed: str = "other"
    error: BaseException | None = None
    response: Any = None


_EXPLICIT = Why("explicit")


def why_closed(closing: FrameType | None, carrier: Carrier) -> Why:
    """Say why ``close`` is being called on a connection: where it is called says why.

    Of the frames around it, the innermost that has to do with this very connection counts. The
    calling code may run anywhere inside urllib3 (as the generator of another request's body, a
    logging handler, a finalizer), and close whichever it likes.
    """
    for frame, name in _around(closing):
        tell = _TELLING.get(name)
        if tell is None:
            continue
        why = tell(frame, frame.f_globals.get("__name__", ""), carrier)
        if why is not None:
            return why
    return _EXPLICIT


def _around(frame: FrameType | None) -> Iterator[tuple[FrameType, str]]:
    """Yield the frames from this one outwards, with their functions' names."""
    for _ in range(_DEPTH):
        if frame is None:
            return
        yield frame, frame.f_code.co_name
        frame = frame.f_back


def _has(owner: Any, record: Any) -> bool:
    """Tell whether a record of ours hangs on what a frame of urllib3's calls conn or self."""
    return getattr(owner, KEY, None) is record


def _is(owner: Any, record: Any) -> bool:
    """Tell the same of a frame that may be anybody's: no code of that object's may run."""
    try:
        return object.__getattribute__(owner, KEY) is record
    except AttributeError:
        return False


def is_requested(frame: FrameType | None, carrier: Carrier) -> bool:
    """Tell whether a request on this connection is made, or its response let go, around a frame.

    Else somebody has taken the connection out of its pool by hand, perhaps to warm it.
    """
    for around, name in _around(frame):
        where = (name, around.f_globals.get("__name__"))
        if where == ("urlopen", "urllib3.connectionpool"):
            if _has(around.f_locals.get("conn"), carrier):
                return True
        elif where == ("release_conn", "urllib3.response") and _is_read_on(around, carrier):
            return True
    return False


# ---- what each function says in which a connection is closed; None if it is about another one


def _getresponse(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    if module != "http.client" or not _has(frame.f_locals.get("self"), carrier):
        return None
    response = frame.f_locals.get("response")
    # begin() raises before it can tell whether the response will close.
    if getattr(response, "will_close", None) is True:
        return Why("server_close", response=response)
    return Why("reset", "reset")


def _connect(frame: FrameType, _module: str, carrier: Carrier) -> Why | None:
    """Say why its own set-up closes it: somebody's connection class tidies up when that fails."""
    error = sys.exc_info()[1]
    if not carrier.connecting or error is None or not _is(frame.f_locals.get("self"), carrier):
        return None
    return Why(_reason(carrier.failed or failure(error)))


def _tunnel(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    is_it = module in ("http.client", "urllib3.connection")
    return Why("error") if is_it and _has(frame.f_locals.get("self"), carrier) else None


def _make_request(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    """Say why it is closed within its own request, where nothing of urllib3's does it."""
    is_it = module == "urllib3.connectionpool" and not carrier.connecting
    return _EXPLICIT if is_it and _has(frame.f_locals.get("conn"), carrier) else None


def _urlopen(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    """Say why ``finally`` closes it: the error is in flight, or in ``err`` if it retries."""
    if module != "urllib3.connectionpool" or not _has(frame.f_locals.get("conn"), carrier):
        return None
    if frame.f_locals.get("clean_exit"):
        return None  # somebody else closes it as it is given back
    error = frame.f_locals.get("err")
    error = error if isinstance(error, BaseException) else sys.exc_info()[1]
    if not carrier.taken_at and not is_of_the_exchange(error):
        return Why("unread")  # the headers had come, and the body was being read
    kind = failure(error)
    is_late = carrier.taken_at and _is_half_read(carrier)
    reason = "unread" if is_late else _reason(carrier.failed or kind)
    return Why(reason, "protocol" if kind == "tls" else kind, error)


def _get_conn(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    if module == "urllib3.connectionpool":
        if not _has(frame.f_locals.get("conn"), carrier):
            return None
        # What waits on a connection that went back too early is the rest of its last body.
        return Why("unread" if _is_half_read(carrier) else "stale")
    if not _is(frame.f_locals.get("self"), carrier.pool):
        return None
    # Somebody's own pool may close what is dropped, or what it finds too old.
    connection = carrier.connection
    return Why("stale") if connection is not None and connection.is_dead() else None


def _is_half_read(carrier: Carrier) -> bool:
    """Tell whether the last response on a connection has not been read to its end.

    Who gives such a connection back makes the next request fail, unless it is found in time.
    """
    conn = carrier.ref and carrier.ref()
    response = getattr(conn, "_HTTPConnection__response", None)
    if getattr(response, "fp", None) is not None:
        return True
    # What has been closed says how much was left, but for what read1() had taken (until 3.13).
    left, connection = getattr(response, "length", None), carrier.connection
    return bool(left) and connection is not None and not connection.is_dead()


def _put_conn(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    if module == "urllib3.connectionpool":
        if not _has(frame.f_locals.get("conn"), carrier):
            return None
        return Why("pool_closed" if carrier.pool.closed else "pool_full")
    is_it = carrier.pool.closed and _is(frame.f_locals.get("self"), carrier.pool)
    return Why("pool_closed") if is_it else None


def _close_pool_connections(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    if module != "urllib3.connectionpool" or not _has(frame.f_locals.get("conn"), carrier):
        return None
    for closing, name in _around(frame.f_back):
        where = (name, closing.f_globals.get("__name__", ""))
        if where in (("close", "urllib3.connectionpool"), ("clear", "urllib3.poolmanager")):
            return Why("pool_closed")
        if where == ("_exitfunc", "weakref"):
            return Why("exit")
    return Why("evicted" if carrier.pool.evicted else "collected")


def _error_catcher(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    """Say why it is closed within a body: for what is caught, or because nobody reads on."""
    if module != "urllib3.response" or not _is_read_on(frame, carrier):
        return None
    if frame.f_locals.get("clean_exit"):
        return None  # as above
    error = sys.exc_info()[1]  # in a finally with an exception in flight, so this is that one
    return Why(_reason(failure(error)) if is_of_the_exchange(error) else "unread")


def _close(frame: FrameType, module: str, carrier: Carrier) -> Why | None:
    if module != "urllib3.response" or not _is_read_on(frame, carrier):
        return None
    caller = frame.f_back
    if caller is not None and caller.f_code.co_name == "_update_chunk_length":
        # The body ended where a chunk's length should have been, or something else stood there.
        return Why("error" if caller.f_locals.get("line") else "reset")
    return Why("unread")


def _is_read_on(frame: FrameType, carrier: Carrier) -> bool:
    """Tell whether a response's method is about the body that comes on this connection."""
    return _has(getattr(frame.f_locals.get("self"), "_connection", None), carrier)


def _reason(failed: str) -> str:
    return failed if failed in ("reset", "timeout") else "error"


#: By the name of the function that is found around a close.
_TELLING: dict[str, Callable[[FrameType, str, Carrier], Why | None]] = {
    "getresponse": _getresponse,
    "connect": _connect,
    "_tunnel": _tunnel,
    "_make_request": _make_request,
    "urlopen": _urlopen,
    "_get_conn": _get_conn,
    "_put_conn": _put_conn,
    "_close_pool_connections": _close_pool_connections,
    "_error_catcher": _error_catcher,
    "close": _close,
}

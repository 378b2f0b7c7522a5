"""Why a urllib3 connection closed, or failed: read off the call stack and the exception."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead
from types import FrameType
from typing import Any, NamedTuple

from poolscope.records import KEY, Pool

_DEPTH = 24
#: The functions that say why when they are found around a close.
_TELLING = frozenset(
    ("getresponse", "urlopen", "_get_conn", "_put_conn", "_close_pool_connections", "_tunnel",
     "_error_catcher", "close")
)  # fmt: skip


class Why(NamedTuple):
    """Why ``close`` is called: the reason, and what ended the request that was under way.

    ``response`` is the http.client response that goes on to own the socket, if there is one.
    """

    reason: str
    failed: str = "other"
    error: BaseException | None = None
    response: Any = None


def why_closed(closing: FrameType | None, failed: str, *, evicted: bool, pool_closed: bool) -> Why:
    """Say why ``close`` is being called, from the frames around it: where it is called says why.

    ``failed`` is the class of the error that the connect's own hooks saw, ``evicted`` and
    ``pool_closed`` what is known of the pool.
    """
    for frame, name in _around(closing):
        if name not in _TELLING:
            continue
        module = frame.f_globals.get("__name__", "")
        if name == "getresponse" and module == "http.client":
            response = frame.f_locals.get("response")
            # begin() raises before it can tell whether the response will close.
            if getattr(response, "will_close", None) is True:
                return Why("server_close", response=response)
            return Why("reset", "reset")
        if name == "urlopen" and module == "urllib3.connectionpool":
            error = _error_of(frame)
            kind = failure(error)
            return Why(_reason(failed or kind), "protocol" if kind == "tls" else kind, error)
        reason = _reason_at(frame, name, module, evicted=evicted, pool_closed=pool_closed)
        if reason:
            return Why(reason)
    return Why("explicit")


def _around(frame: FrameType | None) -> Iterator[tuple[FrameType, str]]:
    """Yield the frames from this one outwards, with their functions' names."""
    for _ in range(_DEPTH):
        if frame is None:
            return
        yield frame, frame.f_code.co_name
        frame = frame.f_back


def _reason_at(
    frame: FrameType, name: str, module: str, *, evicted: bool, pool_closed: bool
) -> str:
    """Name the reason that one frame stands for, or ""."""
    if name == "_get_conn" and _is_a_pools(frame, module):
        return "stale"
    if name == "_put_conn" and _is_a_pools(frame, module):
        return "pool_closed" if pool_closed else "pool_full"
    if name == "_close_pool_connections" and module == "urllib3.connectionpool":
        return _why_pool_closed(frame.f_back, evicted=evicted)
    if name == "_tunnel" and module in ("http.client", "urllib3.connection"):
        return "error"
    if name == "_error_catcher" and module == "urllib3.response":
        # In a finally with an exception in flight, so this is that one.
        return _reason(failure(sys.exc_info()[1]))
    if name == "close" and module == "urllib3.response":
        return _why_response_closed(frame.f_back)
    return ""


def _is_a_pools(frame: FrameType, module: str) -> bool:
    """Tell a pool's method, perhaps of a subclass elsewhere, from a function of that name."""
    if module == "urllib3.connectionpool":
        return True
    return isinstance(getattr(frame.f_locals.get("self"), KEY, None), Pool)


def _why_response_closed(caller: FrameType | None) -> str:
    if caller is not None and caller.f_code.co_name == "_update_chunk_length":
        # The body ended where a chunk's length should have been, or something else stood there.
        return "error" if caller.f_locals.get("line") else "reset"
    return "unread"


def _why_pool_closed(closing: FrameType | None, *, evicted: bool) -> str:
    for frame, name in _around(closing):
        if name in ("close", "clear", "_exitfunc"):
            module = frame.f_globals.get("__name__", "")
            if (name, module) in (
                ("close", "urllib3.connectionpool"),
                ("clear", "urllib3.poolmanager"),
            ):
                return "pool_closed"
            if (name, module) == ("_exitfunc", "weakref"):
                return "exit"
    return "evicted" if evicted else "collected"


def _error_of(urlopen: FrameType) -> BaseException | None:
    """Return the error for which urlopen's ``finally`` gives the connection up.

    It is in flight, or, when a retry is to come, in the variable ``err``.
    """
    error = urlopen.f_locals.get("err")
    return error if isinstance(error, BaseException) else sys.exc_info()[1]


def _reason(failed: str) -> str:
    return failed if failed in ("reset", "timeout") else "error"


def failure(error: BaseException | None) -> str:
    """Classify what ended a request: ``reset``, ``timeout``, ``protocol``, ``tls`` or ``other``."""
    for cause in _unwrapped(error):
        if isinstance(cause, IncompleteRead | ConnectionError | ssl.SSLEOFError):
            return "reset"
        if isinstance(cause, ssl.SSLZeroReturnError):
            return "reset"
        if isinstance(cause, TimeoutError | socket.timeout):
            return "timeout"
        if isinstance(cause, ssl.SSLError):
            return "tls"
        if isinstance(cause, HTTPException):
            return "protocol"
    names = {type(cause).__name__ for cause in _unwrapped(error)}
    if names & {"ReadTimeoutError", "ConnectTimeoutError", "Timeout"}:
        return "timeout"
    return "protocol" if "ProtocolError" in names else "other"


def connect_failure(error: BaseException, *, tunnelling: bool) -> str:
    """Classify why no usable connection came about.

    Returns ``dns``, ``refused``, ``timeout``, ``tls``, ``proxy`` or ``other``. ``tunnelling``
    says that TCP to the proxy stood and that the target's TLS had not begun.
    """
    chain = list(_unwrapped(error))
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return "dns"
        if isinstance(cause, ConnectionRefusedError) and not tunnelling:
            return "refused"
        if isinstance(cause, TimeoutError | socket.timeout):
            return "timeout"
        if isinstance(cause, ssl.SSLError | ssl.CertificateError):
            return "tls"
    names = {type(cause).__name__ for cause in chain}
    if "ConnectTimeoutError" in names and "NewConnectionError" not in names:
        return "timeout"
    if names & {"CertificateError", "SSLError"}:
        return "tls"
    if tunnelling or any(map(_is_socks, chain)):
        return "proxy"
    return "other"


def is_about_connecting(error: BaseException | None) -> bool:
    """Tell whether an error that came before there was a connection is why there is none."""
    return any(
        isinstance(cause, OSError) or type(cause).__name__ == "NewConnectionError"
        for cause in _unwrapped(error)
    )


def reached_proxy(error: BaseException) -> bool:
    """Tell whether TCP to a SOCKS proxy stood, and it was the proxy that said no."""
    names = {type(cause).__name__ for cause in _unwrapped(error) if _is_socks(cause)}
    return bool(names) and "ProxyConnectionError" not in names


def _is_socks(error: BaseException) -> bool:
    return type(error).__module__ == "socks"


def _unwrapped(error: BaseException | None) -> list[BaseException]:
    """Return the error and those inside it, outermost first.

    urllib3 2.x chains with ``from``, 1.26 keeps the inner error in ``args`` or raises while it
    handles it. Other implicit contexts are the caller's own business and not followed.
    """
    found: list[BaseException] = []
    while error is not None and len(found) < _DEPTH:
        found.append(error)
        error = _inside(error)
    return found


def _inside(error: BaseException) -> BaseException | None:
    try:
        return _look_inside(error)
    except Exception:  # noqa: BLE001 - an exception of the host's may do anything when it is asked
        return None


def _look_inside(error: BaseException) -> BaseException | None:
    candidates: list[Any] = [
        getattr(error, "reason", None),
        getattr(error, "original_error", None),
        getattr(error, "socket_err", None),
        error.__cause__,
        *reversed(error.args),
    ]
    if type(error).__module__ == "urllib3.exceptions":
        candidates.append(error.__context__)
    return next((item for item in candidates if isinstance(item, BaseException)), None)

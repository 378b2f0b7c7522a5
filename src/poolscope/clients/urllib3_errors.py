"""What an error on a urllib3 connection says: whose it is, and of which kind."""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPException, ImproperConnectionState, IncompleteRead
from types import FrameType
from typing import Any

from poolscope.shield import is_the_hosts

_DEPTH = 24
#: Where the classes of those errors are from that reading a body raises of itself, besides
#: OSError and HTTPException: a decoder's, or for want of memory.
_READERS = ("urllib3.exceptions", "builtins")


def failure(error: BaseException | None) -> str:
    """Classify what ended a request: ``reset``, ``timeout``, ``protocol``, ``tls`` or ``other``."""
    for cause in _unwrapped(error):
        if isinstance(cause, IncompleteRead) and _met_rubbish(cause):
            return "protocol"
        if isinstance(cause, IncompleteRead | ConnectionError | ssl.SSLEOFError):
            return "reset"
        if isinstance(cause, ssl.SSLZeroReturnError):
            return "reset"
        if isinstance(cause, TimeoutError | socket.timeout):
            return "timeout"
        if isinstance(cause, ssl.SSLError):
            return "tls"
        if isinstance(cause, HTTPException):
            # The calling code has left the last response unread, or ...
            return "other" if isinstance(cause, ImproperConnectionState) else "protocol"
    names = {type(cause).__name__ for cause in _unwrapped(error)}
    if names & {"ReadTimeoutError", "ConnectTimeoutError", "Timeout"}:
        return "timeout"
    return "protocol" if "ProtocolError" in names else "other"


def _met_rubbish(error: BaseException) -> bool:
    """Tell whether http.client has found, and not missed, what should have been a chunk's length.

    It calls both an incomplete read, raised while it handles int()'s error.
    """
    reader = _raised_in(error)
    cause: BaseException | None = error
    while isinstance(cause, IncompleteRead):
        cause = cause.__context__
    if reader is None or not isinstance(cause, ValueError):
        return False
    parser = _raised_in(cause)
    return (
        parser is not None
        and parser.f_code.co_name == "_read_next_chunk_size"
        and parser.f_locals.get("self") is reader.f_locals.get("self")
        and bool(parser.f_locals.get("line"))
    )


def _raised_in(error: BaseException) -> FrameType | None:
    traceback, frame = error.__traceback__, None
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
    return frame


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


def is_of_the_exchange(error: BaseException | None) -> bool:
    """Tell whether the other side, or what came of it, has ended a body.

    Else the calling code has: it reads no further, was told to stop, or its own time was up.
    """
    chain = _unwrapped(error)
    if any(map(_is_from_outside, chain)):
        return False
    return any(
        isinstance(cause, OSError | HTTPException)
        or (isinstance(cause, Exception) and type(cause).__module__ in _READERS)
        for cause in chain
    )


def _is_from_outside(error: BaseException) -> bool:
    """Tell whether an error was thrown into a body's generator, or raised by a signal's handler."""
    traceback = error.__traceback__
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if _handles_a_signal(frame):
            return True
        if (
            frame.f_code.co_name == "read_chunked"
            and type(error).__module__ != _READERS[0]  # which it raises itself
            and (traceback is None or traceback.tb_frame.f_back is not frame)
        ):
            return True  # nothing that it has called
    return False


def _handles_a_signal(frame: FrameType) -> bool:
    """Tell whether a frame is that of a signal's handler, which is told whom it interrupts."""
    caller = frame.f_back
    if caller is None:
        return False
    return any(
        item is caller or (type(item) is tuple and any(one is caller for one in item))
        for item in frame.f_locals.values()
    )


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
    except Exception as struck:
        if is_the_hosts(struck):
            raise
        return None  # an exception of the host's may do anything when it is asked


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

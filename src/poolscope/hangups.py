"""Whether a socket's peer is gone, or silent: asked of the kernel, without touching a byte."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

# The first byte of the kernel's struct tcp_info is the connection's state (linux/tcp.h). Other
# systems lay it out differently, so nothing is asked there.
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
#: Where tcpi_last_data_recv is in it: after eight bytes and eleven numbers of four.
_LAST_DATA_RECV = 8 + 11 * 4
#: The peer has closed its side (TCP_CLOSE_WAIT), or has reset the connection (TCP_CLOSE).
_ENDED = (8, 7)


def has_hung_up(sock: Any) -> bool:
    """Tell whether the peer of a connected TCP socket is gone; False where nobody can tell.

    Safe at any time and on any thread: nothing is read, and a socket that is closed or is none
    of TCP says so.
    """
    info = _tcp_info(sock, 1)
    return bool(info) and info[0] in _ENDED


def silent_for(sock: Any) -> float | None:
    """Return for how many seconds nothing has come on a TCP socket; None where nobody can tell."""
    info = _tcp_info(sock, _LAST_DATA_RECV + 4)
    if len(info) < _LAST_DATA_RECV + 4:
        return None
    milliseconds: int = struct.unpack_from("=I", info, _LAST_DATA_RECV)[0]
    return milliseconds / 1000


def _tcp_info(sock: Any, length: int) -> bytes:
    if _TCP_INFO is None:
        return b""
    try:
        return bytes(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, length))
    except Exception:  # noqa: BLE001 - what stands for a socket may lack this, or raise anything
        return b""

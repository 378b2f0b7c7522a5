"""Whether a socket's peer has hung up already: asked of the kernel, without touching a byte."""

from __future__ import annotations

import socket
import sys
from typing import Any

# The first byte of the kernel's struct tcp_info is the connection's state (linux/tcp.h). Other
# systems lay it out differently, so nothing is asked there.
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
#: The peer has closed its side (TCP_CLOSE_WAIT), or has reset the connection (TCP_CLOSE).
_ENDED = (8, 7)


def has_hung_up(sock: Any) -> bool:
    """Tell whether the peer of a connected TCP socket is gone; False where nobody can tell.

    Safe at any time and on any thread: nothing is read, and a socket that is closed or is none
    of TCP says so.
    """
    if _TCP_INFO is None:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] in _ENDED
    except Exception:  # noqa: BLE001 - what stands for a socket may lack this, or raise anything
        return False

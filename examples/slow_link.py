"""Makes a local server feel a round trip away: a relay in user space, without root or netem.

What it emulates, per connection and with R for the round-trip time:

* every byte arrives R/2 after it was sent, in either direction;
* nothing of a new connection arrives before R has passed. The kernel answers the TCP handshake
  at once, so a client here begins to talk one R too early, and the relay makes up for that.

A first request over TLS 1.3 thus costs 3 R (TCP, TLS, the request) and a later one 1 R, as on a
real link. A client that looks closely sees the R of TCP within its TLS handshake, not before it.
Bytes are never early, and up to about a millisecond late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

_CHUNK = 65536


class SlowLink:
    """Accepts connections and carries each to ``port`` on this machine, slowly."""

    def __init__(self, port: int, rtt: float, accepted: Callable[[], None]) -> None:
        self._port = port
        self._rtt = rtt
        self._accepted = accepted
        # Event loops hold tasks weakly; without this, one could be collected while it waits.
        self._carrying: set[asyncio.Task[None] | None] = set()

    async def listen(self, port: int) -> int:
        """Accept on a port of the loopback interface, 0 for a free one; return which."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", port)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until both of its ends have hung up."""
        self._accepted()
        task = asyncio.current_task()
        self._carrying.add(task)
        open_from = asyncio.get_running_loop().time() + self._rtt
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(
                self._carry(reader, far_writer, open_from),
                self._carry(far_reader, writer, open_from),
            )
            far_writer.close()
        except asyncio.CancelledError:
            pass  # the server ends
        finally:
            writer.close()
            self._carrying.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_from: float
    ) -> None:
        """Pass on what comes from one end, and at last that it has hung up."""
        clock = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def take_in() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(_CHUNK)
                except OSError:  # a reset; for the other end it is just the end
                    data = b""
                under_way.put_nowait((max(clock(), open_from) + self._rtt / 2, data))

        taking_in = asyncio.create_task(take_in())
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - clock())
            if not data:
                break
            writer.write(data)
        await taking_in
        with contextlib.suppress(OSError):  # the other end may be gone already
            writer.write_eof()

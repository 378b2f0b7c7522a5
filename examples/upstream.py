"""The upstream of all examples: a small HTTPS server a round trip away, which counts for itself.

It runs as a process of its own, on the loopback interface only. An example starts it so:

    with Upstream(rtt_ms=20) as upstream:
        requests.get(f"{upstream.url}/prices/1", verify=upstream.ca)
        print(upstream.counts())

and you can start it in a terminal (for ``gunicorn_app.py``):

    python examples/upstream.py --rtt-ms 20

It then prints where it is, as variables to put in front of another command; Enter shows what it
has counted, Ctrl-C ends it. There is no ``GET /counts``: asking would change the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import ssl
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import final

from slow_link import SlowLink

RTT_MS = 20.0
IDLE_MS = 60_000.0


@dataclass
class Counts:
    """What the server has seen; only its own thread writes."""

    accepts: int = 0
    handshakes: int = 0
    answered: int = 0


@final
class Upstream:
    """The server, as seen by the process that starts it."""

    def __init__(
        self, rtt_ms: float = RTT_MS, idle_ms: float = IDLE_MS, *, plain: bool = False
    ) -> None:
        self._command = [sys.executable, __file__]
        self._command += ["--rtt-ms", str(rtt_ms), "--idle-ms", str(idle_ms)]
        self._command += ["--plain"] * plain
        self.url = ""
        self.ca = ""

    def __enter__(self) -> Upstream:
        """Start the server and wait until it listens."""
        stay_local()
        # It ends with its standard input, so it can't outlive us, however we end.
        self._process = subprocess.Popen(  # noqa: S603 - our own file and our own numbers
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        where = dict(part.split("=", 1) for part in shlex.split(self._ask()))
        if not where:  # it has said why, on stderr
            sys.exit(self._process.wait())
        self.url, self.ca = where["UPSTREAM_URL"], where["UPSTREAM_CA"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self._process.communicate()

    def counts(self) -> dict[str, int]:
        """Return how many connections, TLS handshakes and answers the server itself has counted."""
        counts: dict[str, int] = json.loads(self._ask("\n"))
        return counts

    def in_words(self) -> str:
        """Return the counts as the end of a sentence."""
        counted = ", ".join(f"{name} {number}" for name, number in self.counts().items())
        return f"the upstream itself counted: {counted}."

    def _ask(self, question: str = "") -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes, as asked for above
        assert stdout is not None  # noqa: S101 - as above
        stdin.write(question)
        stdin.flush()
        return stdout.readline()


def stay_local() -> None:
    """Keep a proxy that the environment names away from the loopback interface."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    # Libraries differ in which of the two they read first.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [known, "127.0.0.1"]))


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the one option that all examples have."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rtt-ms",
        type=float,
        default=RTT_MS,
        metavar="MS",
        help="round-trip time to the upstream (%(default)g)",
    )
    return parser


# ---- from here on: inside the server's process


class Server:
    """Answers every GET with a little JSON, behind a slow link."""

    def __init__(self, *, think: float, idle: float, tls: ssl.SSLContext | None) -> None:
        self.counts = Counts()
        self._think = think
        self._idle = idle
        self._tls = tls

    async def listen(self, rtt: float, port: int) -> int:
        """Accept connections; return the port that clients see, which is the link's."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        link = SlowLink(server.sockets[0].getsockname()[1], rtt, self._accepted)
        return await link.listen(port)

    def _accepted(self) -> None:
        self.counts.accepts += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; asyncio calls this when its TLS handshake is complete."""
        self.counts.handshakes += self._tls is not None
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client hung up
        except asyncio.TimeoutError:
            pass  # it was idle for too long, so we hang up
        except asyncio.CancelledError:
            pass  # the server ends
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The examples send no bodies, so a request ends with its headers.
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._idle)
        await asyncio.sleep(self._think)
        body = json.dumps({"path": head.split()[1].decode("ascii"), "value": 42}).encode()
        # Counted first: a client that has its answer must find it counted.
        self.counts.answered += 1
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()


async def hang_up() -> None:
    """End what is under way: an interpreter that exits under a busy event loop complains."""
    under_way = asyncio.all_tasks() - {asyncio.current_task()}
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)


def new_certificate(ca_file: Path) -> ssl.SSLContext:
    """Return a server's TLS settings with a fresh certificate, and write down who signed it."""
    try:
        import trustme  # noqa: PLC0415 - only the server's process needs it
    except ImportError:
        sys.exit("The examples' upstream needs trustme: pip install 'poolscope[examples]'")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


def main() -> None:
    """Serve until standard input ends; answer each of its lines with the counts."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--think-ms", type=float, default=0, metavar="MS", help="time a request takes to handle (0)"
    )
    parser.add_argument(
        "--idle-ms",
        type=float,
        default=IDLE_MS,
        metavar="MS",
        help="hang up on a connection that is idle for so long (%(default)g)",
    )
    parser.add_argument("--port", type=int, default=0, help="where to listen (a free one)")
    parser.add_argument("--plain", action="store_true", help="speak HTTP instead of HTTPS")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="poolscope-example-") as folder:
        ca_file = Path(folder, "ca.pem")
        tls = None if args.plain else new_certificate(ca_file)
        server = Server(think=args.think_ms / 1000, idle=args.idle_ms / 1000, tls=tls)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        listening = asyncio.run_coroutine_threadsafe(
            server.listen(args.rtt_ms / 1000, args.port), loop
        )
        scheme = "http" if args.plain else "https"
        where = f"UPSTREAM_URL={scheme}://127.0.0.1:{listening.result()}"
        print(where, f"UPSTREAM_CA={shlex.quote(str(ca_file))}", flush=True)
        try:
            for _line in sys.stdin:
                print(json.dumps(asdict(server.counts)), flush=True)
        except KeyboardInterrupt:
            pass  # the usual way to end it in a terminal
        asyncio.run_coroutine_threadsafe(hang_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


if __name__ == "__main__":
    main()

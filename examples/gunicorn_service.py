"""A gunicorn service from start to end: two forked workers, each calling its upstream.

    poolscope run -- python examples/gunicorn_service.py

Starts the upstream, gunicorn with gunicorn_app.py, and the load; stops gunicorn as an
orchestrator would, with SIGTERM, and prints what the upstream counted. The calls are made two
processes further down, in gunicorn's workers.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

from load import drive
from upstream import Upstream, arguments

HERE = Path(__file__).parent.resolve()


def start_gunicorn(
    upstream: Upstream, listener: socket.socket, workers: int
) -> subprocess.Popen[bytes]:
    """Start gunicorn on a socket that listens already, so nobody has to wait for it."""
    # The environment is passed on, as tools like `poolscope run` travel in it.
    env = os.environ | {"UPSTREAM_URL": upstream.url, "UPSTREAM_CA": upstream.ca}
    fd = listener.fileno()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{fd}", "--workers", str(workers)]
    command += ["--config", str(HERE / "gunicorn_settings.py"), "--pythonpath", str(HERE)]
    return subprocess.Popen(  # noqa: S603 - our own app and our own numbers
        [*command, "gunicorn_app:app"], env=env, pass_fds=[fd]
    )


def main() -> None:
    """Serve and drive, then print what was done in one line."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, default=2, help="%(default)d")
    parser.add_argument("--requests", type=int, default=80, help="how many (%(default)d)")
    args = parser.parse_args()
    for name in ("gunicorn", "requests"):
        if importlib.util.find_spec(name) is None:
            sys.exit(f"This example needs {name}: pip install 'poolscope[examples]'")

    with Upstream(args.rtt_ms) as upstream, socket.create_server(("127.0.0.1", 0)) as listener:
        gunicorn = start_gunicorn(upstream, listener, args.workers)
        try:
            host, port = listener.getsockname()
            done = drive(f"{host}:{port}", args.requests, threads=2 * args.workers)
        finally:
            gunicorn.terminate()
            status = gunicorn.wait()
        print(f"{done}, gunicorn ended with {status}; {upstream.in_words()}")


if __name__ == "__main__":
    main()

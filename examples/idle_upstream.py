"""A service whose upstream hangs up between its calls: every call finds its connection stale.

    poolscope run -- python examples/idle_upstream.py
    poolscope run -- python examples/idle_upstream.py --idle-ms 5000

The service does it right, with one Session, but it calls every 400 ms and the upstream closes
connections that are idle for 200 ms. So keep-alive never works, and it is the upstream that
decides on it. With --idle-ms 5000 the upstream is more patient.
"""

from __future__ import annotations

import sys
import time

from upstream import Upstream, arguments

try:
    import requests
except ImportError:
    sys.exit("This example needs requests: pip install 'poolscope[examples]'")

SESSION = requests.Session()


def main() -> None:
    """Ask the upstream now and then, and print what was done in one line."""
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=11, help="how many (%(default)d)")
    parser.add_argument(
        "--pause-ms", type=float, default=400, metavar="MS", help="between them (%(default)g)"
    )
    parser.add_argument(
        "--idle-ms",
        type=float,
        default=200,
        metavar="MS",
        help="when the upstream hangs up on an idle connection (%(default)g)",
    )
    args = parser.parse_args()
    with Upstream(args.rtt_ms, args.idle_ms) as upstream:
        asking = 0.0
        for number in range(args.requests):
            if number:
                time.sleep(args.pause_ms / 1000)
            began = time.perf_counter()
            SESSION.get(f"{upstream.url}/news/{number}", verify=upstream.ca).raise_for_status()
            asking += time.perf_counter() - began
        print(f"{args.requests} requests, waited {asking:.2f} s; {upstream.in_words()}")


if __name__ == "__main__":
    main()

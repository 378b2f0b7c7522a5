"""A service with more threads than its pool has room for: connections are opened to be dropped.

    poolscope run -- python examples/small_pool.py
    poolscope run -- python examples/small_pool.py --block
    poolscope run -- python examples/small_pool.py --pool 8

It makes pages, each from 8 answers that it asks for at once. The pool of a Session has room for
10 connections by default, here for 2. That does not limit how many are open: a thread that finds
the pool empty opens one more, and throws it away when it finds the pool full afterwards. With
--block threads wait for a connection instead. With --pool 8 there is room for all of them.
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from upstream import Upstream, arguments

try:
    import requests
    from requests.adapters import HTTPAdapter
except ImportError:
    sys.exit("This example needs requests: pip install 'poolscope[examples]'")

SESSION = requests.Session()


def main() -> None:
    """Make the pages, then print what was done in one line."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--threads",
        type=int,
        default=8,
        help="answers that make a page, all asked for at once (%(default)d)",
    )
    parser.add_argument("--pool", type=int, default=2, help="room in the pool (%(default)d)")
    parser.add_argument("--block", action="store_true", help="wait while the pool is empty")
    parser.add_argument("--pages", type=int, default=25, help="how many (%(default)d)")
    args = parser.parse_args()

    # urllib3 warns of every connection it throws away, into a log that few services show.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    SESSION.mount("https://", HTTPAdapter(pool_maxsize=args.pool, pool_block=args.block))
    with Upstream(args.rtt_ms) as upstream, ThreadPoolExecutor(args.threads) as threads:

        def ask(part: int) -> None:
            SESSION.get(f"{upstream.url}/parts/{part}", verify=upstream.ca).raise_for_status()

        began = perf_counter()
        for _page in range(args.pages):
            list(threads.map(ask, range(args.threads)))
        seconds = perf_counter() - began
        print(f"{args.pages} pages in {seconds:.2f} s; {upstream.in_words()}")


if __name__ == "__main__":
    main()

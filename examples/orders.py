"""What bare_get.py and one_session.py have in common: an upstream, and a queue of orders."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from upstream import Upstream, arguments


def run(handle: Callable[[Upstream, int], None], about: str | None) -> None:
    """Handle the orders one by one, then print what was done in one line."""
    parser = arguments(about)
    parser.add_argument("--orders", type=int, default=20, help="how many (%(default)d)")
    args = parser.parse_args()
    with Upstream(args.rtt_ms) as upstream:
        began = perf_counter()
        for number in range(args.orders):
            handle(upstream, number)
        seconds = perf_counter() - began
        print(f"{args.orders} orders in {seconds:.2f} s; {upstream.in_words()}")

"""A service that asks its upstream through one Session: one connection serves every call.

    poolscope run -- python examples/one_session.py

It does what bare_get.py does and differs in the three calls alone.
"""

from __future__ import annotations

import sys

import orders
from upstream import Upstream

try:
    import requests
except ImportError:
    sys.exit("This example needs requests: pip install 'poolscope[examples]'")

SESSION = requests.Session()


def price(shop: Upstream, number: int) -> int:
    """Ask what the ordered item costs."""
    answer = SESSION.get(f"{shop.url}/prices/{number}", verify=shop.ca)
    return int(answer.json()["value"])


def in_stock(shop: Upstream, number: int) -> bool:
    """Ask whether the item is there."""
    answer = SESSION.get(f"{shop.url}/stock/{number}", verify=shop.ca)
    return int(answer.json()["value"]) > 0


def ship(shop: Upstream, number: int, amount: int) -> None:
    """Have the item sent."""
    answer = SESSION.get(f"{shop.url}/shipping/{number}?amount={amount}", verify=shop.ca)
    answer.raise_for_status()


def handle(shop: Upstream, number: int) -> None:
    """Handle one order: three questions to one upstream."""
    amount = price(shop, number)
    if in_stock(shop, number):
        ship(shop, number, amount)


if __name__ == "__main__":
    orders.run(handle, __doc__)

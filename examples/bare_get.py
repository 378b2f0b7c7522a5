"""A service that asks its upstream with bare requests.get(): every call opens a new connection.

    poolscope run -- python examples/bare_get.py

Each requests.get() makes a Session for itself and throws it away, and with it the connection.
Nothing fails and nothing warns; it is only slow. Compare one_session.py, which differs in the
three calls alone.
"""

from __future__ import annotations

import sys

import orders
from upstream import Upstream

try:
    import requests
except ImportError:
    sys.exit("This example needs requests: pip install 'poolscope[examples]'")


def price(shop: Upstream, number: int) -> int:
    """Ask what the ordered item costs."""
    answer = requests.get(f"{shop.url}/prices/{number}", verify=shop.ca)
    return int(answer.json()["value"])


def in_stock(shop: Upstream, number: int) -> bool:
    """Ask whether the item is there."""
    answer = requests.get(f"{shop.url}/stock/{number}", verify=shop.ca)
    return int(answer.json()["value"]) > 0


def ship(shop: Upstream, number: int, amount: int) -> None:
    """Have the item sent."""
    answer = requests.get(f"{shop.url}/shipping/{number}?amount={amount}", verify=shop.ca)
    answer.raise_for_status()


def handle(shop: Upstream, number: int) -> None:
    """Handle one order: three questions to one upstream."""
    amount = price(shop, number)
    if in_stock(shop, number):
        ship(shop, number, amount)


if __name__ == "__main__":
    orders.run(handle, __doc__)

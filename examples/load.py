"""Drives a local HTTP service from several threads, with nothing that poolscope would count.

python examples/load.py 127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import http.client
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter


def get(server: str, path: str) -> int:
    """Return the status of one GET, over http.client alone: it knows of no pools and proxies."""
    connection = http.client.HTTPConnection(server, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def drive(server: str, requests: int, threads: int) -> str:
    """Send so many requests from so many threads; return in words how it went."""
    began = perf_counter()
    with ThreadPoolExecutor(threads) as executor:
        paths = [f"/items/{number}" for number in range(requests)]
        statuses = list(executor.map(lambda path: get(server, path), paths))
    good = statuses.count(http.HTTPStatus.OK)
    return f"{good} of {requests} requests good in {perf_counter() - began:.2f} s"


def main() -> None:
    """Drive the service that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", help="HOST:PORT of the service")
    parser.add_argument("--requests", type=int, default=80, help="how many (%(default)d)")
    parser.add_argument("--threads", type=int, default=4, help="%(default)d")
    args = parser.parse_args()
    print(drive(args.server, args.requests, args.threads) + ".")


if __name__ == "__main__":
    main()

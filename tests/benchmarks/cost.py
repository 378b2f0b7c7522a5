"""What poolscope costs the application: CPU per request and per connection, memory, scrapes.

    python tests/benchmarks/cost.py            # about 8 minutes
    python tests/benchmarks/cost.py --quick    # does it run at all

Everything is measured in one process and one run, in turns (bare, poolscope, bare, ...), as CPU
time of the whole process; what is printed are medians of paired differences, with quartiles.
Machines are noisy: look at the ratios. What is not installed (opentelemetry-sdk,
opentelemetry-instrumentation-urllib3) is left out.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time

import urllib3
import wrapt
from footprint import growth, idle, memory, scrapes
from paths import requests_and_connections


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="see that it runs; no numbers to quote"
    )
    parser.add_argument("--long", action="store_true", help="5 million requests for the growth")
    options = parser.parse_args()
    extension = "with" if wrapt.FunctionWrapper.__module__ == "_wrappers" else "without"
    print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
        f"urllib3 {urllib3.__version__}, wrapt {extension} its C extension, "
        f"{platform.machine()} {sys.platform}"
    )
    quick = options.quick
    requests_and_connections(rounds=3 if quick else 80)
    memory(50 if quick else 500)
    idle(50 if quick else 5_000)
    if options.long:
        growth(5_000_000, 1_000_000)
    else:
        growth(200 if quick else 100_000, 100 if quick else 20_000)
    scrapes(5 if quick else 100, 50 if quick else 10_000, rounds=3 if quick else 20)


if __name__ == "__main__":
    main()

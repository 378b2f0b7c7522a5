"""Whether the overview answers in time for a fleet: a day of it, in a real Prometheus.

    python tests/benchmarks/fleet.py            # 2,000 instances, 20 upstreams each; some minutes
    python tests/benchmarks/fleet.py --instances 100

Needs Prometheus (apt: prometheus). Written down is what the recording rules make of such a fleet
once a minute; then every query of the overview is asked as Grafana would ask it for that day. What
evaluating the rules costs is not measured here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from poolscope import events as ev
from poolscope.backends.prometheus import PrometheusObserver

TESTS = Path(__file__).parent.parent
sys.path.append(str(TESTS))  # that is where a Prometheus is started
from watching import DASHBOARDS, Watching, ask  # noqa: E402 - see above

STEP = 60  # seconds
BLOCK = 2 * 3600  # what promtool makes blocks of
DAY = 24 * 3600
PER_JOB = 50  # instances
POINTS = 800  # what a panel is wide, in pixels and so in points
SECOND = 1000.0  # milliseconds

#: The values of the labels that recorded series have besides the upstream's.
FURTHER = {
    "poolscope_cause": ("first", "growth", "new_pool", "replaced_stale"),
    "poolscope_reason": ("stale", "collected", "pool_full", "exit"),
    "http_connection_state": ("active", "idle"),
    "poolscope_reused": ("true", "false"),
    "error_type": ("reset",),
    "poolscope_where": (),
}


def recorded() -> dict[str, tuple[str, ...]]:
    """Return the names of what is recorded for each upstream, with their further labels."""
    rules = yaml.safe_load((DASHBOARDS / "recording-rules.yaml").read_text())["groups"][1]["rules"]
    found = {}
    for rule in rules:
        labels = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        found[rule["record"]] = tuple(label for label in FURTHER if label in labels)
    return found


def series(instances: int, upstreams: int) -> list[str]:
    """Return every recorded series of a fleet."""
    found = []
    for job in range(max(1, instances // PER_JOB)):
        mine = f'job="job-{job}"'
        found.append(f"job:poolscope_instances:count{{{mine}}}")
        for upstream in range(upstreams):
            where = (
                f'{mine},server_address="upstream-{upstream}.example",server_port="443",'
                'url_scheme="https",poolscope_client="urllib3"'
            )
            for name, further in recorded().items():
                if name.startswith("job:"):
                    continue
                for values in itertools.product(*(FURTHER[label] for label in further)):
                    more = "".join(
                        f',{label}="{value}"' for label, value in zip(further, values, strict=True)
                    )
                    found.append(f"{name}{{{where}{more}}}")
    return found


def blocks(names: list[str], end: int, home: Path) -> Iterator[Path]:
    """Write a file for each two hours of the day."""
    dice = random.Random(1)
    for begin in range((end - DAY) // BLOCK * BLOCK, end, BLOCK):
        path = home / f"{begin}.txt"
        moments = range(begin, min(begin + BLOCK, end), STEP)
        with path.open("w") as file:
            for name in names:
                value = dice.random()
                file.writelines(f"{name} {value:.3f} {moment}\n" for moment in moments)
            file.write("# EOF\n")
        yield path


def fill(path: Path, data: Path) -> None:
    """Have promtool make a block of a file."""
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "-q", path, data]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    path.unlink()


def per_upstream() -> int:
    """Return how many series an instance exposes for an upstream that is asked over HTTPS."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(drain=int)  # nothing is waiting to be told
    registry.register(observer)
    origin = ev.Origin("upstream.example", "443", "https", "urllib3")
    some = ev.Histogram((1,) * 14, (0.1,) * 14)
    observer.tell(
        [
            ev.OriginSeen(origin), ev.PoolOpened(origin), ev.Busy(origin, 1.0), ev.Levels(origin),
            ev.Created(origin, 0.1), ev.Handshake(origin, 0.1, "1.3", "false"),
            *(ev.Answered(origin, reused, some) for reused in (False, True)),
            *(ev.Opened(origin, cause) for cause in FURTHER["poolscope_cause"]),
            *(ev.Closed(origin, reason, 60.0, 5) for reason in FURTHER["poolscope_reason"]),
        ]
    )  # fmt: skip
    lines = generate_latest(registry).decode().splitlines()
    return sum(not line.startswith("#") and "_created" not in line for line in lines)


def questions() -> Iterator[tuple[str, str, bool]]:
    """Yield every query of the overview: its panel, itself, whether it asks for now alone."""
    for panel in json.loads((DASHBOARDS / "poolscope-overview.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = re.sub(r"\$(job|upstream|client|cluster|namespace)", ".*", target["expr"])
            yield panel["title"], query, bool(target.get("instant"))


def took(watch: Any, query: str, end: int, *, instant: bool) -> float:
    """Return the milliseconds until a query is answered, the median of three."""
    what: dict[str, Any] = {"query": query}
    what |= {"time": end} if instant else {"start": end - DAY, "end": end, "step": DAY // POINTS}
    kind = "query" if instant else "query_range"
    url = f"{watch.url}/api/v1/{kind}?{urllib.parse.urlencode(what)}"
    times = []
    for _ in range(3):
        began = time.perf_counter()
        answer = ask(url)["data"]["result"]
        if not answer:
            sys.exit(f"there is no answer to {query}")
        times.append((time.perf_counter() - began) * SECOND)
    return median(times)


def main() -> None:
    """Fill, ask and print; exit with 1 if a panel takes longer than a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--upstreams", type=int, default=20)
    options = parser.parse_args()
    names = series(options.instances, options.upstreams)
    pairs = max(1, options.instances // PER_JOB) * options.upstreams
    print(f"{options.instances} instances, {options.upstreams} upstreams each")
    print(f"{per_upstream()} series exposed by an instance for an upstream")
    print(f"{len(names) / pairs:.1f} recorded for a job and upstream, of which there are {pairs}")
    end = int(time.time()) // STEP * STEP
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        with ThreadPoolExecutor(2) as executor:
            list(executor.map(lambda path: fill(path, home / "data"), blocks(names, end, home)))
        slowest = 0.0
        with Watching(home, {}) as watch:
            for title, query, instant in questions():
                milliseconds = took(watch, query, end, instant=instant)
                slowest = max(slowest, milliseconds)
                print(f"{milliseconds:8.0f} ms   {title}")
    if slowest > SECOND:
        sys.exit(f"{slowest:.0f} ms is longer than a second")


if __name__ == "__main__":
    main()

"""A budget for connections in a test suite: pytest's marker, fixture and ``--poolscope``.

pytest finds this by its entry point. Nothing is attached until a test or the command line asks.

    @pytest.mark.connections(per_request=0.2, handshakes=3)
    def test_checkout(shop): ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Mapping
from typing import Any

import pytest

_LIMITS = ("per_request", "opened", "handshakes")
_MARKER = (
    "connections(per_request=None, opened=None, handshakes=None): fail if the test opens more "
    "connections per request, more connections, or makes more TLS handshakes than that"
)


class Connections:
    """What has happened since it was made: the fixture ``connections``, and what budgets judge.

    Counts are of all upstreams together. Reading them costs a drain.
    """

    def __init__(self) -> None:
        self._before = _totals()

    @property
    def requests(self) -> int:
        """Requests that were answered or failed."""
        return sum(self._grown()["requests"].values())

    @property
    def opened(self) -> int:
        """Connections opened."""
        return sum(self._grown()["opened"].values())

    @property
    def handshakes(self) -> int:
        """TLS handshakes completed."""
        return sum(self._grown()["handshakes"].values())

    @property
    def per_request(self) -> float:
        """Connections opened for each request; 0 without requests."""
        grown = self._grown()
        requests = sum(grown["requests"].values())
        return sum(grown["opened"].values()) / requests if requests else 0.0

    def describe(self) -> str:
        """Say it for each upstream, with the lines of code that asked without need."""
        grown = self._grown()
        requests, opened = grown["requests"], grown["opened"]
        handshakes, sites = grown["handshakes"], grown["sites"]
        lines = []
        for upstream in {**requests, **opened}:
            lines.append(
                f"{upstream}: {requests.get(upstream, 0)} requests, "
                f"{opened.get(upstream, 0)} connections, "
                f"{handshakes.get(upstream, 0)} TLS handshakes"
            )
            lines += [
                f"    {number} opened without need at {where}"
                for (at, where), number in sites.items()
                if at == upstream
            ]
        return "\n".join(lines)

    def _grown(self) -> dict[str, dict[Any, int]]:
        """Return what has grown, everything at one moment."""
        grown: dict[str, dict[Any, int]] = defaultdict(dict)
        for what, now in _totals().items():
            before = self._before[what]
            more = {key: number - before.get(key, 0) for key, number in now.items()}
            grown[what] = {key: number for key, number in more.items() if number}
        return grown


def _totals() -> dict[str, dict[Any, int]]:
    import poolscope  # noqa: PLC0415 - a test suite that does not ask must not pay
    from poolscope.advice import words  # noqa: PLC0415 - as above

    totals: dict[str, dict[Any, int]] = defaultdict(dict)
    for row in poolscope.snapshot()["origins"]:
        upstream = words.upstream(row)
        requests, connections = row["requests"], row["connections"]
        totals["requests"][upstream] = requests["answered"] + sum(requests["failed"].values())
        totals["opened"][upstream] = connections["opened"]
        totals["handshakes"][upstream] = row["handshakes"]["completed"]
        for site in connections["call_sites"]:
            where = f"{words.call_site(site)} ({site['cause']})"
            totals["sites"][upstream, where] = site["count"]
    return totals


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--poolscope``."""
    parser.getgroup("poolscope").addoption(
        "--poolscope",
        action="store_true",
        help="report on the outbound HTTP connections of the whole run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marker, and attach if the command line asks."""
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("--poolscope"):
        config.pluginmanager.register(_Report(config), "poolscope-report")


class _Report:
    """The hooks of ``--poolscope``, in the run itself and in each of pytest-xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        from poolscope.readings import Readings  # noqa: PLC0415 - as above

        self._readings = Readings()
        #: What a worker hands over; None in the run itself.
        self._output: dict[str, Any] | None = getattr(config, "workeroutput", None)
        self._silent: list[str] = []
        _attach(self._readings)

    def pytest_sessionfinish(self) -> None:
        """Hand over what was counted, if this is a worker."""
        if self._output is not None:
            _drain()
            self._output["poolscope"] = self._readings.plain()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker has counted, unless it crashed."""
        rows = getattr(node, "workeroutput", {}).get("poolscope")
        if rows is None:
            self._silent.append(node.gateway.id)
        else:
            self._readings.include(rows)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the report."""
        from poolscope.summary import summarize  # noqa: PLC0415 - as above
        from poolscope.table import render  # noqa: PLC0415 - as above

        _drain()
        terminalreporter.section("outbound HTTP connections")
        terminalreporter.write(render(summarize(self._readings), colour=False))
        if self._silent:
            names = ", ".join(self._silent)
            terminalreporter.write(f"Without these workers, which crashed: {names}.\n")


def _drain() -> None:
    import poolscope  # noqa: PLC0415 - as above

    poolscope.snapshot()


@pytest.fixture
def connections() -> Connections:
    """Return the connections and requests from here on, to be asked at any time."""
    _attach()
    return Connections()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Hold a marked test against its budget, if it passes otherwise."""
    marker = item.get_closest_marker("connections")
    if marker is None:
        yield
        return
    broken = _bad_limits(marker)
    if not broken:
        _attach()
        seen = Connections()
    outcome: Any = yield
    if outcome.excinfo is None and (broken or (broken := _exceeded(seen, marker.kwargs))):
        try:
            pytest.fail(broken, pytrace=False)
        except BaseException as failure:
            if not hasattr(outcome, "force_exception"):  # pluggy before 1.1
                raise
            outcome.force_exception(failure)


def _attach(told: Any = ()) -> None:
    import poolscope  # noqa: PLC0415 - as above

    poolscope.instrument(told, call_sites=True)


def _bad_limits(marker: pytest.Mark) -> str:
    for name, limit in marker.kwargs.items():
        if name not in _LIMITS:
            return f"connections() knows {', '.join(_LIMITS)}, not {name!r}."
        if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0:
            return f"connections({name}=...) must be a number from 0 on, not {limit!r}."
    if marker.args or not marker.kwargs:
        return f"connections() takes its limits by name: {', '.join(_LIMITS)}."
    return ""


def _exceeded(seen: Connections, limits: Mapping[str, float]) -> str:
    found = {name: getattr(seen, name) for name in limits}
    over = [
        f"{name.replace('_', ' ')}: {found[name]:.4g}, allowed {limit:.4g}"
        for name, limit in limits.items()
        if found[name] > limit
    ]
    if not over:
        return ""
    return "\n".join(["more connections than the budget allows", *over, seen.describe()])

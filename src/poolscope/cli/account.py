"""What ``poolscope run`` knows of a command: the account of all its processes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from poolscope.backends import prometheus
from poolscope.cli import live
from poolscope.cli.place import Place, bases
from poolscope.collector import Collector
from poolscope.observers import Observer
from poolscope.readings import Readings

if TYPE_CHECKING:
    from poolscope.cli.export import Export


class Account:
    """One account of all processes, and where they find it.

    Raises ``OSError`` if there is no place for it, and ``RuntimeError`` if there is no thread.
    """

    def __init__(self, max_origins: int, export: Export | None) -> None:
        self.registry = CollectorRegistry()
        self.readings = Readings()
        metrics = prometheus.observer(self.registry, self._drain)
        observers: list[Observer] = [metrics, self.readings]
        self._export = export
        if export is not None:
            observers.append(export.observer)
        self._place, self.collector = _settle(observers, max_origins)
        try:
            self.collector.start()
        except RuntimeError:
            self._place.close()
            raise

    @property
    def path(self) -> str:
        """The Unix socket that the collector listens on."""
        return self._place.socket

    @property
    def incomplete(self) -> list[str]:
        """Say in sentences what may be missing, once it is closed."""
        roster = self.collector.roster
        said = [f"not attached to {executable}: {why}" for executable, why in roster.refused]
        if roster.silent:
            said.append(
                f"{roster.silent} of {roster.attached} Python processes ended without a good-bye "
                "(killed, or by a signal that they do not handle): what they counted last may be "
                "missing"
            )
        if roster.running:
            said.append(
                f"{roster.running} of {roster.attached} Python processes still run: what they "
                "count from now on is missing"
            )
        return sorted(said)

    def state(self, program: str) -> dict[str, Any]:
        """Return what the live page shows of a program."""
        return live.state(program, self.readings, self.registry, self.collector)

    def _drain(self) -> None:
        self.collector.drain()

    def close(self) -> None:
        """Read what is left to be read, and clean up, whatever fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._place.close)
            if self._export is not None:
                stack.callback(self._export.close)
            stack.callback(self.readings.stop)
            self.collector.finish()


def _settle(observers: list[Observer], max_origins: int) -> tuple[Place, Collector]:
    """Listen where there is room for it."""
    trouble: OSError = FileNotFoundError("there is no directory for a socket")
    for base in bases():
        with contextlib.ExitStack() as stack:
            try:
                place = Place(base)
                stack.callback(place.close)
                collector = Collector(place.socket, observers, max_origins)
            except OSError as error:
                trouble = error
                continue
            stack.pop_all()
            return place, collector
    raise trouble

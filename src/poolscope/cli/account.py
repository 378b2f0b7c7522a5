"""What ``poolscope run`` needs to hear a command's processes, in a private directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from poolscope.backends import prometheus
from poolscope.cli import live
from poolscope.collector import Collector
from poolscope.observers import Observer
from poolscope.readings import Readings

if TYPE_CHECKING:
    from poolscope.cli.export import Export

_LONGEST_BASE = 60  # bytes; a Unix socket's path has to fit into about 100


class Account:
    """One account of all processes, and where they find it.

    Raises ``OSError`` if there is no place for it.
    """

    def __init__(self, max_origins: int, export: Export | None) -> None:
        self.registry = CollectorRegistry()
        self.readings = Readings()
        metrics = prometheus.observer(self.registry, self._drain)
        observers: list[Observer] = [metrics, self.readings]
        self._export = export
        if export is not None:
            observers.append(export.observer)
        self._directory, self.collector = _settle(observers, max_origins)
        self.collector.start()

    @property
    def path(self) -> str:
        """The Unix socket that the collector listens on."""
        return _socket_in(self._directory)

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
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            if self._export is not None:
                stack.callback(self._export.close)
            stack.callback(self.readings.stop)
            self.collector.finish()


def _settle(observers: list[Observer], max_origins: int) -> tuple[str, Collector]:
    """Make a directory that is ours alone, and listen there; where there is room for it."""
    trouble: OSError = FileNotFoundError()
    for base in _bases():
        directory = os.path.join(base, f"poolscope-{os.urandom(6).hex()}")  # noqa: PTH118 - bytes count
        try:
            os.mkdir(directory, 0o700)  # noqa: PTH102 - as above
            return directory, Collector(_socket_in(directory), observers, max_origins)
        except OSError as error:
            trouble = error
            shutil.rmtree(directory, ignore_errors=True)
    raise trouble


def _socket_in(directory: str) -> str:
    return f"{directory}/collector"


def _bases() -> Iterator[str]:
    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR"))
    for base in (*named, "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - the directory is made private
        if base and os.path.isabs(base) and len(os.fsencode(base)) <= _LONGEST_BASE:  # noqa: PTH117 - as above
            yield base

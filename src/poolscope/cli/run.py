"""``poolscope run``: starts a command unchanged, attaches to its Pythons, keeps their account."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from poolscope import config
from poolscope.backends import prometheus
from poolscope.cli.report import print_report
from poolscope.cli.serve import Endpoint
from poolscope.cli.supervise import Command, end_like
from poolscope.collector import Collector
from poolscope.readings import Readings
from poolscope.relay import SOCKET
from poolscope.summary import summarize

BOOTSTRAP = Path(__file__).parent.parent / "bootstrap"

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # the shell's own exit statuses


@dataclass(frozen=True)
class Options:
    """What the command line says: where to serve, how to report (see ``poolscope run --help``)."""

    host: str
    port: int
    max_origins: str | None
    report: bool
    json: bool


def run(argv: Sequence[str], environ: Mapping[str, str], options: Options) -> int:
    """Run a command in ``environ`` and return its exit status, or die of the signal it died of.

    Raises :exc:`poolscope.ConfigError` for a bad setting, before the command is started.
    """
    maximum = config.max_origins(options.max_origins, environ)
    program = shutil.which(argv[0])
    if program is None:
        return _cannot_start(argv[0])
    if config.disabled(environ):
        os.execve(program, list(argv), dict(environ))  # noqa: S606 - the command is the user's own
    registry = CollectorRegistry()
    readings = Readings()
    with _private_directory() as directory:
        path = str(directory / "collector")
        command = Command()  # signals wait for it from here on, in all threads
        observers = (prometheus.observer(registry, lambda: None), readings)
        collector = Collector(path, observers, maximum)
        collector.start()
        endpoint = _open_endpoint(options.host, options.port, registry)
        status = command.run(program, argv, environment(path, maximum, environ))
        collector.finish()
        if endpoint is not None:
            endpoint.close()
    _explain(collector)
    if options.report:
        print_report(summarize(readings), sys.stderr, as_json=options.json)
    sys.stderr.flush()
    return end_like(status)


def environment(path: str, max_origins: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the command's environment: its own (``environ``), and the way to the collector."""
    found = dict(environ)
    # An empty entry in PYTHONPATH would mean the working directory.
    before = found.get("PYTHONPATH")
    found["PYTHONPATH"] = f"{BOOTSTRAP}{os.pathsep}{before}" if before else str(BOOTSTRAP)
    found[SOCKET] = path
    found["POOLSCOPE_MAX_ORIGINS"] = str(max_origins)
    return found


def _cannot_start(name: str) -> int:
    if Path(name).exists():
        print(f"poolscope: {name} can't be executed.", file=sys.stderr)
        return NOT_EXECUTABLE
    print(f"poolscope: there is no command {name}.", file=sys.stderr)
    return NOT_FOUND


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    # A Unix socket's path has to fit into about 100 bytes.
    base = tempfile.gettempdir()
    if len(base) > 60:  # noqa: PLR2004 - the rest of the path needs 30 more
        base = "/tmp"  # noqa: S108 - mkdtemp makes it private
    directory = tempfile.mkdtemp(prefix="poolscope-", dir=base)
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _open_endpoint(host: str, port: int, registry: object) -> Endpoint | None:
    try:
        endpoint = Endpoint(host, port, registry)
    except OSError as error:
        why = error.strerror or error
        print(
            f"poolscope: no metrics at {host}:{port} ({why}); the command runs all the same. "
            "Choose another port with --port.",
            file=sys.stderr,
        )
        return None
    if port == 0:
        print(f"poolscope: metrics at http://{host}:{endpoint.port}/metrics", file=sys.stderr)
    return endpoint


def _explain(collector: Collector) -> None:
    for refused in sorted(set(collector.refused)):
        print(f"poolscope: not attached to {refused}", file=sys.stderr)
    if not collector.attached and not collector.refused:
        print(
            "poolscope: the command started no Python process that could be attached "
            "(python -I, -E and -S can't be).",
            file=sys.stderr,
        )

"""``poolscope run``: starts a command unchanged, attaches to its Pythons, keeps their account."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from poolscope import config
from poolscope.cli.report import print_report
from poolscope.cli.serve import Endpoint
from poolscope.cli.supervise import Command, end_like
from poolscope.collector import Collector
from poolscope.relay import SOCKET
from poolscope.summary import summarize

BOOTSTRAP = Path(__file__).parent.parent / "bootstrap"

# What puts prometheus_client into multiprocess mode, under its present and its former name.
_MULTIPROCESS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # the shell's own exit statuses


def run(
    argv: Sequence[str], *, host: str, port: int, max_origins: int | None, report: bool, json: bool
) -> int:
    """Run a command and return its exit status; dies of the signal that the command died of.

    Raises :exc:`poolscope.ConfigError` for a bad setting, before the command is started.
    """
    maximum = config.max_origins(max_origins)
    program = shutil.which(argv[0])
    if program is None:
        return _cannot_start(argv[0])
    if config.disabled():
        os.execve(program, list(argv), os.environ)  # noqa: S606 - the command is the user's own
    environ = dict(os.environ)
    for name in _MULTIPROCESS:
        os.environ.pop(name, None)  # the command's directory is not ours to write to
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - only without those

    from poolscope.backends import prometheus  # noqa: PLC0415 - likewise
    from poolscope.readings import Readings  # noqa: PLC0415 - not before a command is there

    registry = CollectorRegistry()
    readings = Readings()
    with _private_directory() as directory:
        path = str(directory / "collector")
        command = Command()  # signals wait for it from here on, in all threads
        observers = (prometheus.observer(registry, lambda: None), readings)
        collector = Collector(path, observers, maximum)
        collector.start()
        endpoint = _open_endpoint(host, port, registry)
        status = command.run(program, argv, environment(path, maximum, environ))
        collector.finish()
        if endpoint is not None:
            endpoint.close()
    _explain(collector)
    if report:
        print_report(summarize(readings), sys.stderr, as_json=json)
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

"""``poolscope run``: starts a command unchanged, attaches to its Pythons, keeps their account."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from poolscope import config
from poolscope.cli.account import Account
from poolscope.cli.export import Export
from poolscope.cli.export import endpoint as otlp_endpoint
from poolscope.cli.report import print_report
from poolscope.cli.serve import Endpoint
from poolscope.cli.speak import say as _say
from poolscope.cli.supervise import CannotStartError, Command, end_like, execute
from poolscope.relay import SOCKET
from poolscope.summary import summarize

BOOTSTRAP = Path(__file__).parent.parent / "bootstrap"

_NOT_FOUND = 127  # the shell's own exit status


@dataclass(frozen=True)
class Options:
    """What the command line says: where to serve, how to report (see ``poolscope run --help``)."""

    host: str
    port: int
    allow_host: tuple[str, ...]
    otlp: str | None
    max_origins: str | None
    held_after: str | None
    report: bool
    json: bool


def run(argv: Sequence[str], environ: Mapping[str, str], options: Options) -> int:
    """Run a command in ``environ`` and return its exit status, or die of the signal it died of.

    Raises :exc:`poolscope.ConfigError` for a bad setting, before the command is started.
    """
    disabled = config.disabled(environ)
    named = {"max_origins": options.max_origins, "held_after": options.held_after}
    settings = config.Settings() if disabled else config.settings(environ, **named)
    program = shutil.which(argv[0])
    if program is None and not os.path.isfile(argv[0]):  # noqa: PTH113 - it takes any name
        _say(f"there is no command {argv[0]!r}.")
        return _NOT_FOUND
    try:
        if disabled:
            execute(program or argv[0], argv, environ)
        return _supervise(program or argv[0], argv, environ, settings, options)
    except CannotStartError as error:
        _say(f"{argv[0]} can't be executed: {error}.")
        return error.status


def _supervise(
    program: str,
    argv: Sequence[str],
    environ: Mapping[str, str],
    settings: config.Settings,
    options: Options,
) -> int:
    command = Command()  # signals wait for it from here on, in all threads
    account = endpoint = None
    try:
        export = _open_export(program, environ, options)
        try:
            account = Account(settings.max_origins, export)
            endpoint = _open_endpoint(options, account, Path(program).name)
            environ = environment(account.path, settings, environ)
        except (OSError, RuntimeError) as error:
            _say(f"the command runs unattached: {_why(error)}.")
        status = command.run(program, argv, environ)
    finally:
        # Nothing of ours may replace the command's own end, and nothing stays behind.
        for one in (account, endpoint):
            if one is not None:
                with contextlib.suppress(Exception):
                    one.close()
        with contextlib.suppress(KeyboardInterrupt):
            command.release_signals()
    if account is not None:
        with contextlib.suppress(OSError, KeyboardInterrupt):
            _report(account, options)
    return end_like(status)


def _why(error: Exception) -> str:
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    return f"{error.strerror} ({error.filename})"


def environment(path: str, settings: config.Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the command's environment: its own (``environ``), and the way to the collector."""
    found = dict(environ)
    # An empty entry in PYTHONPATH would mean the working directory.
    before = found.get("PYTHONPATH")
    found["PYTHONPATH"] = f"{BOOTSTRAP}{os.pathsep}{before}" if before else str(BOOTSTRAP)
    found[SOCKET] = path
    found["POOLSCOPE_MAX_ORIGINS"] = str(settings.max_origins)
    found["POOLSCOPE_HELD_AFTER"] = str(settings.held_after)
    return found


def _open_export(program: str, environ: Mapping[str, str], options: Options) -> Export | None:
    """Export if the command line or the environment says so; a bad option ends everything here."""
    try:
        url = otlp_endpoint(options.otlp, environ)
        return Export(url, program, environ, _say) if url else None
    except config.ConfigError as error:
        if options.otlp is not None:
            raise
        _say(f"nothing is exported over OTLP: {error}")
        return None


def _open_endpoint(options: Options, account: Account, program: str) -> Endpoint | None:
    host = options.host.strip("[]")
    named = f"[{host}]" if ":" in host else host
    try:
        registry, allowed = account.registry, options.allow_host
        state = partial(account.state, program)
        endpoint = Endpoint(host, options.port, registry, state, allowed)
    except OSError as error:
        why = error.strerror or error
        _say(
            f"no metrics at {named}:{options.port} ({why}); the command runs all the same. "
            "Choose others with --host and --port."
        )
        return None
    if options.port == 0:
        _say(f"metrics at http://{named}:{endpoint.port}/metrics")
    return endpoint


def _report(account: Account, options: Options) -> None:
    roster, incomplete = account.collector.roster, account.incomplete
    for sentence in incomplete:
        hint = ""
        if "ModuleNotFoundError" in sentence:
            executable = sentence.removeprefix("not attached to ").partition(": ")[0]
            hint = f"; install it there as well: {executable} -m pip install poolscope"
        _say(f"{sentence}{hint}.")
    if not roster.attached and not roster.refused:
        _say(
            "no Python process of the command could be attached. python -S can't be, nor what runs "
            "as another user or clears its environment."
        )
        if not options.json:
            return
    if options.report:
        summary = summarize(account.readings, incomplete)
        print_report(summary, sys.stderr, as_json=options.json)

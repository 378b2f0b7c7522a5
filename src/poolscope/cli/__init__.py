"""The command line: ``poolscope run``, ``report``, ``dashboards`` and ``check``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import poolscope
from poolscope import config
from poolscope.cli.speak import say

DEFAULT_PORT = 9464  # the OpenTelemetry convention's port of a Prometheus exporter
_LAST_PORT = 65535
_BROKEN_PIPE = 141  # as the shell says of a program that SIGPIPE ended
_INTERRUPTED = 130  # likewise of SIGINT


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        say(f"{message}. See '{self.prog} --help'.")
        self.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status: 2 for what can't be meant."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name in letters that nobody can print here must not cost the report it is in.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(argv)
    try:
        return int(options.act(options))
    except config.ConfigError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of a report has seen enough; nor may the interpreter's last flush fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="poolscope",
        description="Shows whether outbound HTTP connections are re-used, and why not.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"poolscope {poolscope.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    run = verbs.add_parser(
        "run",
        help="run a command unchanged and report on its connections",
        usage="poolscope run [options] -- COMMAND ...",
        allow_abbrev=False,
    )
    run.add_argument("--port", type=_port, default=DEFAULT_PORT, help="of /metrics (%(default)s)")
    run.add_argument("--host", default="127.0.0.1", help="to serve /metrics on (%(default)s)")
    run.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="answer requests for this name, too (.NAME: for all below it; *: for any)",
    )
    run.add_argument(
        "--otlp", metavar="URL", help="export over OTLP, too (or OTEL_EXPORTER_OTLP_ENDPOINT)"
    )
    run.add_argument("--max-origins", metavar="N", help="how many origins to tell apart (100)")
    run.add_argument(
        "--held-after",
        metavar="SECONDS",
        help="how long a response may keep its connection before it counts as held (60)",
    )
    run.add_argument(
        "--span-attributes",
        action="store_true",
        help="let the command's OpenTelemetry spans know of their connections",
    )
    run.add_argument(
        "--call-sites",
        action=argparse.BooleanOptionalAction,
        help="look which line of code asks for connections without need (the default)",
    )
    run.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="print a report to standard error at the end (the default)",
    )
    run.add_argument("--json", action="store_true", help="print that report as JSON")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    run.set_defaults(act=lambda options: _run(run, options))

    report = verbs.add_parser(
        "report", help="report on a running service from its /metrics", allow_abbrev=False
    )
    report.add_argument("url", metavar="URL", nargs="?", help="of the metrics, or HOST:PORT")
    report.add_argument("--prometheus", metavar="URL", help="ask a Prometheus server instead")
    report.add_argument(
        "--window", metavar="1h", help="with --prometheus: of how long until now (1h)"
    )
    report.add_argument("--job", help="with --prometheus: of this job alone")
    report.add_argument("--json", action="store_true", help="print the report as JSON")
    report.set_defaults(act=lambda options: _report(report, options))

    dashboards = verbs.add_parser(
        "dashboards",
        help="write Grafana dashboards, Prometheus rules and the runbook",
        allow_abbrev=False,
    )
    dashboards.add_argument("directory", metavar="DIR", help="where to write them")
    dashboards.add_argument(
        "--grafana-url", metavar="URL", help="where links in alerts lead (http://localhost:3000)"
    )
    dashboards.set_defaults(act=_dashboards)

    check = verbs.add_parser(
        "check", help="tell what is installed, hooked and degraded, and why", allow_abbrev=False
    )
    check.set_defaults(act=_check)
    return parser


def _port(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to {_LAST_PORT}")
    return number


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or not command[0]:
        parser.error("there is no command to run; say 'poolscope run -- COMMAND'")
    if not options.host.strip("[]"):
        parser.error("--host is empty; leave it out to serve on loopback, or say 0.0.0.0")
    if sys.stderr is None:  # closed by whoever started us
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process
    environ = dict(os.environ)
    if options.span_attributes:
        environ["POOLSCOPE_SPAN_ATTRIBUTES"] = "1"
    if options.call_sites is not None:
        environ["POOLSCOPE_CALL_SITES"] = "1" if options.call_sites else "0"
    environ.setdefault("POOLSCOPE_CALL_SITES", "1")
    # prometheus_client looks at these when it is imported: the command's multiprocess
    # directory is the command's, and not ours to write to.
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)
    from poolscope.cli.run import Options, run  # noqa: PLC0415 - each verb imports its own

    # What is switched off takes any setting.
    allowed = () if config.disabled(environ) else config.allowed_hosts(options.allow_host, environ)
    options.allow_host = allowed
    names = ("host", "port", "allow_host", "otlp", "max_origins", "held_after", "report", "json")
    return run(command, environ, Options(**{name: getattr(options, name) for name in names}))


def _report(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if (options.url is None) == (options.prometheus is None):
        parser.error("give either the URL of a service's metrics or --prometheus URL")
    if options.url is not None and (options.window, options.job) != (None, None):
        parser.error("--window and --job go with --prometheus")
    from poolscope import history, scrape  # noqa: PLC0415 - each verb imports its own
    from poolscope.cli.report import run  # noqa: PLC0415 - as above

    fetch = partial(scrape.fetch, options.url)
    if options.prometheus is not None:
        asked = (
            options.prometheus,
            "1h" if options.window is None else options.window,
            options.job or "",
        )
        fetch = partial(history.fetch, *asked)
    return run(fetch, as_json=options.json)


def _dashboards(options: argparse.Namespace) -> int:
    from poolscope.cli.dashboards import GRAFANA, run  # noqa: PLC0415 - each verb imports its own

    return run(options.directory, GRAFANA if options.grafana_url is None else options.grafana_url)


def _check(_options: argparse.Namespace) -> int:
    from poolscope.cli.check import run  # noqa: PLC0415 - each verb imports its own

    return run()

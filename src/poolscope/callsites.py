"""Which line of the application asked for a connection: read off the call stack.

Looking happens on the host's stack, so it takes no lock and calls no foreign code; spelling
happens in the drain.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import TYPE_CHECKING, NamedTuple

from poolscope.catalog import AVOIDABLE_CAUSES
from poolscope.events import AskedFor, Held, Origin

if TYPE_CHECKING:
    from poolscope.records import Connection

#: How many call sites a process tells apart; further ones share one name.
MAX_SITES = 50
_DEPTH = 200
_MAX_FILES = 10_000
_LONGEST = 300  # characters of a file's or function's name
#: Requests of a pool that are looked at after a response was held or given up there.
_FOLLOWED = 1000

#: Packages through which requests pass on their way, installed or not.
_HTTP = frozenset((
    "urllib3", "requests", "requests_toolbelt", "requests_unixsocket", "requests_oauthlib",
    "cachecontrol", "botocore", "boto3", "s3transfer", "aiobotocore", "docker", "kubernetes",
    "elasticsearch", "elastic_transport", "opensearchpy", "opentelemetry", "ddtrace", "sentry_sdk",
    "newrelic", "wrapt", "vcr", "responses", "tenacity", "backoff", "urllib3_future", "pip",
))  # fmt: skip
#: Packages that run applications: never the ones that ask.
_RUNNERS = frozenset((
    "gunicorn", "uvicorn", "hypercorn", "waitress", "cheroot", "werkzeug", "flask", "django",
    "rest_framework", "starlette", "fastapi", "anyio", "asgiref", "a2wsgi", "tornado", "aiohttp",
    "gevent", "greenlet", "eventlet", "celery", "billiard", "kombu", "vine", "rq", "dramatiq",
    "huey", "apscheduler", "pytest", "_pytest", "pluggy", "click", "typer", "coverage",
    "uwsgidecorators",
))  # fmt: skip

_SKIPPED, _CLIENT, _RUNNER, _PACKAGE, _APPLICATION = range(5)
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120 - a prefix
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_STDLIB = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")}
    | {os.path.dirname(os.path.abspath(os.__file__)) + os.sep}  # noqa: PTH100, PTH120 - as above
)

#: Where installed commands are, which are made by pip and run packages.
_SCRIPTS = (sysconfig.get_path("scripts") + os.sep, os.path.dirname(sys.executable) + os.sep)  # noqa: PTH120 - as above

#: What kind of code each file has; asked for every frame, so it is worked out once.
_kinds: dict[str, int] = {}


class Site(NamedTuple):
    """A line of code that is not spelled out yet."""

    code: CodeType
    line: int


class CallSite(NamedTuple):
    """A line of code: the file (below the working directory or a package), function, number."""

    path: str
    function: str
    line: str


#: What sites beyond the bound are called.
OTHER = CallSite("_other", "_other", "0")
#: What a site is called that nobody looked at in time.
UNKNOWN = CallSite("", "", "")
#: What is asked for because a response was given up, or its connection closed by hand: the line
#: that did so is to be told.
_GIVEN_UP = ("replaced_unread", "replaced_collected", "replaced_explicit")


def asking(frame: FrameType | None) -> Site | None:
    """Return the innermost line of the application around a frame.

    Where there is none, because everything is installed: of the outermost package that neither
    runs applications nor makes requests for others, the innermost line; in a bare pool of workers
    the outermost call of a client, as that is the task.
    """
    client, outermost = None, ""
    packages: dict[str, FrameType] = {}
    for _ in range(_DEPTH):
        if frame is None:
            break
        code = frame.f_code
        kind = _kinds.get(code.co_filename)
        if kind is None:
            kind = _remember(frame)
        if kind == _APPLICATION:
            return Site(code, frame.f_lineno)
        if kind == _PACKAGE:
            outermost = _root(frame)
            packages.setdefault(outermost, frame)
        elif kind == _CLIENT:
            client = frame
        frame = frame.f_back
    found = packages.get(outermost, client)
    return None if found is None else Site(found.f_code, found.f_lineno)


def _remember(frame: FrameType) -> int:
    if len(_kinds) >= _MAX_FILES:  # files that are made up at run time
        _kinds.clear()
    path = frame.f_code.co_filename
    kind = _kinds[path] = _kind(path, _root(frame))
    return kind


def _root(frame: FrameType) -> str:
    """Name the package that a frame's code belongs to."""
    names = frame.f_globals
    module = names.get("__name__")
    if module == "__main__":  # of ``python -m gunicorn``, for one
        module = getattr(names.get("__spec__"), "name", None) or module
    return module.partition(".")[0] if isinstance(module, str) else ""


def _kind(path: str, root: str) -> int:
    if path.startswith((_OURS, "<frozen ", "<hook of ")):
        return _SKIPPED
    if root == "__main__" and path.startswith(_SCRIPTS):  # gunicorn, celery
        return _RUNNER
    if root in _HTTP:
        return _CLIENT
    if root in _RUNNERS:
        return _RUNNER
    if any(part in path for part in _PACKAGES):
        return _PACKAGE
    return _SKIPPED if path.startswith(_STDLIB) else _APPLICATION


class CallSites:
    """The sites that a process tells apart; for the drain alone."""

    def __init__(self) -> None:
        self._known: set[CallSite] = set()

    def asked_for(self, connection: Connection, origin: Origin) -> Iterator[AskedFor]:
        """Yield what is to be told of a connection whose cause is known.

        Where it replaces one that an unread response has cost, that response's line is told; where
        it replaces one that was closed by hand, the line that did so.
        """
        site, losers = connection.site, connection.carrier.pool.losers
        if connection.cause in _GIVEN_UP and losers:
            site = losers.pop(0)
        if connection.site is not None and connection.cause in AVOIDABLE_CAUSES:
            yield AskedFor(origin, *self.spelled(site), connection.cause)

    def closed(self, connection: Connection, reason: str) -> None:
        """Remember who gave a connection up, until it is replaced."""
        pool = connection.carrier.pool
        if f"replaced_{reason}" in _GIVEN_UP:
            pool.losers = pool.losers or []
            is_known = reason == "explicit" and connection.taker is not None
            pool.losers.append(connection.taker if is_known else _taker(connection))

    def held(self, connection: Connection, origin: Origin) -> Held:
        """Return what is to be told of a connection that is held."""
        return Held(origin, *self.spelled(_taker(connection)))

    def spelled(self, site: Site | None) -> CallSite:
        """Spell a site out, or return what stands for those that are unknown or too many."""
        if site is None:
            return UNKNOWN
        code = site.code
        function = getattr(code, "co_qualname", code.co_name)  # new in Python 3.11
        path = _printable(_short(code.co_filename))
        return self.known(CallSite(path, _printable(function), str(site.line)))

    def known(self, site: CallSite) -> CallSite:
        """Return a site if there is room for it, or what stands for all beyond the bound."""
        if site not in self._known:
            if len(self._known) >= MAX_SITES:
                return OTHER
            self._known.add(site)
        return site


def _taker(connection: Connection) -> Site | None:
    """Return the line that took a connection last, if it is known; for a while it will be.

    The first request was made where it was asked for; later ones are looked at only in pools
    where that matters, as it costs them some microseconds.
    """
    if connection.site is not None:  # else nobody looks for lines of code
        connection.carrier.pool.follows = _FOLLOWED
    if connection.taker is not None or connection.answered > 1:
        taker: Site | None = connection.taker
        return taker
    opener: Site | None = connection.site
    return opener


def _printable(name: str) -> str:
    """Spell what a file system may hold and UTF-8 may not, or nobody can read: too long a name."""
    kept = name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"
    return kept.encode("utf-8", "backslashreplace").decode()


def _short(path: str) -> str:
    for part in _PACKAGES:
        if part in path:
            return path.rpartition(part)[2]
    try:
        here = os.getcwd() + os.sep  # noqa: PTH109 - a prefix
    except OSError:  # it was removed
        return path
    return path.removeprefix(here)

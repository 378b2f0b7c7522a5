"""The public verbs. poolscope shows whether outbound HTTP connections are re-used, and why not.

``import poolscope`` imports neither wrapt nor an HTTP client nor a metric vendor.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from poolscope.config import ConfigError

if TYPE_CHECKING:
    from poolscope.process import Process

__version__ = "0.1.0"
__all__ = ["ConfigError", "__version__", "instrument", "snapshot", "uninstrument"]

# What importlib.reload() finds is kept: a second process's hooks would count everything again.
_process: Process | None = globals().get("_process")
_lock: RLock = globals().get("_lock") or RLock()  # two threads may attach at once


def instrument(
    observers: Any = None,
    *,
    max_origins: int | None = None,
    span_attributes: bool | None = None,
    call_sites: bool | None = None,
    held_after: float | None = None,
) -> None:
    """Attach to the HTTP clients of this process, those imported later included.

    ``observers`` says who is told: ``None`` means every metric backend that is installed, with
    its default registry; otherwise a registry, an own :class:`poolscope.observers.Observer`, or
    several of them; ``()`` means nobody, for :func:`snapshot` alone. ``max_origins`` bounds how
    many origins are told apart (100; ``POOLSCOPE_MAX_ORIGINS``). ``span_attributes`` lets
    OpenTelemetry spans know of the connections that were used under them (no;
    ``POOLSCOPE_SPAN_ATTRIBUTES``; see :mod:`poolscope.clients.urllib3_spans`). ``call_sites`` looks
    which line of code asks for a connection that need not be opened (no;
    ``POOLSCOPE_CALL_SITES``; :mod:`poolscope.callsites`). ``held_after`` is for how many seconds a
    response may keep its connection before it is counted as held (60; ``POOLSCOPE_HELD_AFTER``).
    All of these hold for the process from the first call on.

    Calling it again changes nothing, except that observers that are new are told as well. With
    ``POOLSCOPE_DISABLED=1`` in the environment it does nothing at all. What is broken in this
    environment (a backend that can't be imported, a default registry with metrics of these names)
    is logged in one line each, and done without.

    Raises :exc:`ConfigError` for a setting's bad value, :exc:`TypeError` for an observer of an
    unknown kind, and :exc:`ValueError` for a given registry that has metrics of these names,
    before anything is touched.
    """
    global _process  # noqa: PLW0603 - hooks are the process's, so there can be only one
    from poolscope import config  # noqa: PLC0415 - the public module imports what it uses late

    if config.disabled():
        return
    settings = config.settings(
        max_origins=max_origins,
        span_attributes=span_attributes,
        call_sites=call_sites,
        held_after=held_after,
    )
    from poolscope.process import Process  # noqa: PLC0415 - as above
    from poolscope.shield import say  # noqa: PLC0415 - as above

    if why := _unsupported():
        say("poolscope: it does not attach: %s.", why)
        return
    with _lock:
        heard = _installed() if observers is None else _resolve(observers)
        if _process is None:
            _process = Process(settings)
        _process.attach(heard)


def uninstrument() -> None:
    """Detach: restore what was patched. Counts stay, and go on at the next :func:`instrument`."""
    with _lock:
        if _process is not None:
            _process.detach()


def snapshot() -> dict[str, Any]:
    """Return what is known now, as plain data: every origin with its five signals.

    Durations are in seconds. The fields are those of :mod:`poolscope.summary`.
    """
    from poolscope.readings import Readings  # noqa: PLC0415 - not needed to instrument
    from poolscope.summary import summarize  # noqa: PLC0415 - not needed to instrument

    if _process is None:
        return summarize(Readings())
    _process.drain()
    with _process.scope.locked():
        return summarize(_process.readings)


def _drain() -> None:
    if _process is not None:
        _process.drain()


def _unsupported() -> str:
    """Say why this interpreter can't be attached to; "" if it can."""
    try:
        # Until Python 3.12, which ends the whole process if a thread is left in one of these.
        interpreters: Any = import_module("_xxsubinterpreters")
    except ImportError:
        return ""
    is_main = interpreters.get_current() == interpreters.get_main()
    return "" if is_main else "subinterpreters are watched from Python 3.13 on"


def _installed() -> list[Any]:
    """Return observers for the metric backends that are installed and work."""
    from poolscope.backends import BACKENDS  # noqa: PLC0415 - as above
    from poolscope.shield import is_the_hosts, say, spelled  # noqa: PLC0415 - as above

    found: list[Any] = []
    for row in BACKENDS:
        try:
            if row.installed:
                found.append(row.observer(None, _drain))
        except Exception as error:
            if is_the_hosts(error):
                raise
            say("poolscope: nothing is reported to %s (%s).", row.vendor, spelled(error))
    return found


def _resolve(observers: Any) -> list[Any]:
    """Turn what ``instrument()`` was given into observers."""
    from poolscope.backends import BACKENDS  # noqa: PLC0415 - as above
    from poolscope.observers import Observer  # noqa: PLC0415 - as above

    if isinstance(observers, Observer) or any(row.accepts(observers) for row in BACKENDS):
        observers = (observers,)
    elif not isinstance(observers, Iterable):
        raise TypeError(_unknown(observers))
    found: list[Any] = []
    for target in observers:
        row = next((row for row in BACKENDS if row.accepts(target)), None)
        if row is not None:
            found.append(row.observer(target, _drain))
        elif isinstance(target, Observer):
            found.append(target)
        else:
            raise TypeError(_unknown(target))
    return found


def _unknown(target: object) -> str:
    return (
        f"instrument() can't report to {target!r}: give it a Prometheus CollectorRegistry, an "
        "OpenTelemetry MeterProvider or an object of a "
        "class derived from poolscope.observers.Observer."
    )

"""Whose exception is it: one of ours stays ours, one of the host's is let through."""

from __future__ import annotations

import logging
import signal

_log = logging.getLogger("poolscope")


def is_the_hosts(error: BaseException) -> bool:
    """Tell whether a signal handler of the host raised this while our code happened to run.

    Time limits work like that (``SoftTimeLimitExceeded``, an ``alarm`` of one's own): swallowed,
    they would be lost.
    """
    trace = error.__traceback__
    handlers = None
    while trace is not None:
        if handlers is None:
            handlers = _handlers()
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def say(message: str, *args: object) -> None:
    """Log a warning; a host's logging filter or handler that fails must not cost us anything."""
    try:
        _log.warning(message, *args)
    except Exception as error:
        if is_the_hosts(error):
            raise


def _handlers() -> set[object]:
    found = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):
            function = getattr(handler, "__func__", handler)
            found.add(getattr(function, "__code__", None))
    return found - {None}

"""Whose exception is it: one of ours stays ours, one of the host's is let through."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
from types import CodeType, FunctionType, MethodType
from typing import Any

from poolscope import aside

_log = logging.getLogger("poolscope")


def is_the_hosts(error: BaseException) -> bool:
    """Tell whether a signal handler of the host raised this while our code happened to run.

    Time limits work like that (``SoftTimeLimitExceeded``, an ``alarm`` of one's own): swallowed,
    they would be lost.
    """
    trace = error.__traceback__
    if trace is None:
        return False
    handlers = _handlers()
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def is_a_handler(code: CodeType) -> bool:
    """Tell whether this is the code of a signal handler of the host."""
    return code in _handlers()


def _handlers() -> set[CodeType | None]:
    try:
        return {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    except Exception:  # noqa: BLE001 - the host's handlers may be any object
        return set()


def say(message: str, *args: object) -> None:
    """Log a warning; a host's logging filter or handler that fails must not cost us anything."""

    def log() -> None:
        try:
            _log.warning(message, *args)
        except Exception as error:
            if is_the_hosts(error):
                raise

    with contextlib.suppress(aside.NoThreadError):
        aside.call(log)


def spelled(error: BaseException) -> str:
    """Spell an exception; an observer's may fail at that too."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - its name will do
        return type(error).__name__


def _code_of(handler: Any) -> CodeType | None:
    """Return the code that runs when a signal handler is called; None if it is not Python's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if isinstance(handler, MethodType):
        handler = handler.__func__
    if not isinstance(handler, FunctionType):
        kinds = type(handler).__mro__
        handler = next((vars(kind)["__call__"] for kind in kinds if "__call__" in vars(kind)), None)
    return handler.__code__ if isinstance(handler, FunctionType) else None

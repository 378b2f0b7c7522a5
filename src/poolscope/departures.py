"""Ends that Python sees and ``atexit`` does not: functions after which the process is no more.

Children of multiprocessing, workers of celery and servers that raise a signal once more end so.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import stat
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from poolscope.shield import is_the_hosts

_PATIENCE = 5.0  # seconds that the last words may take; somebody may hold a lock for ever

# By default these are ignored, or stop the process, or let it go on.
_HARMLESS = {
    getattr(signal, f"SIG{name}", None)
    for name in ("CHLD", "CONT", "INFO", "STOP", "TSTP", "TTIN", "TTOU", "URG", "WINCH")
}
_INIT = 1  # the first process of a container, which no signal ends that it does not handle


class Departures:
    """Calls ``finish`` before a function ends this process, and ``resume`` should it go on.

    It does so only if there is something to say (``has_news``).

    The function is called as the host called it. What will not be the end (a signal that is
    handled, blocked or harmless, a file that can't be executed) passes through.
    """

    def __init__(
        self,
        finish: Callable[[], None],
        resume: Callable[[], None],
        has_news: Callable[[], bool],
    ) -> None:
        self._has_news = has_news
        self._finish = finish
        self._resume = resume
        self._watched: list[_Watched] = []

    def watch(self) -> None:
        """Stand in the place of the functions."""
        for module, name in _ENDS:
            if any(one.is_for(module, name) for one in self._watched):
                continue  # somebody has wrapped it: it is there still, underneath
            if hasattr(module, name):
                self._watched.append(_Watched(self, module, name))
        for one in self._watched:
            one.active = True

    def unwatch(self) -> None:
        """Give them their places back; go dormant where somebody has wrapped ours."""
        for one in self._watched:
            one.active = False
        self._watched = [one for one in self._watched if not one.restore()]

    def has_news(self) -> bool:
        """Tell whether there is anything to say."""
        return self._has_news()

    def depart(self) -> None:
        """Say the last words in bounded time."""
        if not isinstance(_thread.start_new_thread, BuiltinFunctionType):
            self._speak()  # gevent: a greenlet that waits for a thread would stop them all
            return
        spoken = _thread.allocate_lock()
        spoken.acquire()

        def speak() -> None:
            try:
                self._speak()
            finally:
                spoken.release()

        # On a thread of its own, as this one may be amid anything, with any lock in its hands.
        try:
            _thread.start_new_thread(speak, ())
        except RuntimeError:  # the interpreter shuts down, or there are too many
            self._speak()
        else:
            spoken.acquire(timeout=_PATIENCE)

    def _speak(self) -> None:
        with contextlib.suppress(Exception):  # nobody is left to be told
            self._finish()

    def stay(self) -> None:
        """Go on: it was not the end."""
        with contextlib.suppress(Exception):  # there is just less telemetry
            self._resume()


class _Watched:
    """What stands in the place of a built-in function, and looks like it.

    It is no function of Python's: those become methods in a class, built-in ones don't.
    """

    def __init__(self, departures: Departures, module: Any, name: str) -> None:
        self.active = False
        self._departures = departures
        self._home = module
        self._is_end = _ENDS[module, name]
        self.__wrapped__ = wrapped = getattr(module, name)
        self.__module__ = module.__name__
        self.__name__ = self.__qualname__ = name
        self.__doc__ = wrapped.__doc__
        setattr(module, name, self)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return self.__wrapped__(*args, **kwargs)
        departs = False
        try:
            departs = self._is_end(*args, **kwargs) and self._departures.has_news()
            if departs:
                self._departures.depart()
        except Exception as error:
            # What is wrong with the host's arguments the function itself says best.
            if is_the_hosts(error):
                raise
        try:
            return self.__wrapped__(*args, **kwargs)
        finally:
            if departs:
                self._departures.stay()

    def __eq__(self, other: object) -> bool:
        # As a member of os.supports_fd, for one.
        return other is self or other == self.__wrapped__

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __reduce__(self) -> str:
        return self.__name__  # a reference, as the built-in function is pickled and copied

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def is_for(self, module: Any, name: str) -> bool:
        return self._home is module and self.__name__ == name

    def restore(self) -> bool:
        """Put back what was there; tell whether that could be done."""
        if vars(self._home).get(self.__name__) is not self:
            return False
        setattr(self._home, self.__name__, self.__wrapped__)
        return True


# ---- is it the end


def _exits(status: int) -> bool:
    return isinstance(status, int) and -(2**31) <= status < 2**31


def _aborts() -> bool:
    return True


def _executes(path: Any, argv: Any, env: Any = None) -> bool:  # noqa: ARG001 - as the function has it
    if not argv or (not isinstance(path, int) and not os.access(path, os.X_OK)):
        return False
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - it may be a descriptor
        return False
    if isinstance(path, int):
        return True
    with open(path, "rb") as file:  # noqa: PTH123 - it may be bytes
        head = file.read(2)
    # Else it is text that does not name its interpreter, which is the shell's to read.
    return head == b"#!" or not head.isascii() or not head.decode().isprintable()


def _kills(pid: int, signalnum: int, /) -> bool:
    return pid in (os.getpid(), 0, -os.getpgrp()) and _is_deadly(signalnum)


def _kills_group(pgid: int, signalnum: int, /) -> bool:
    return pgid in (0, os.getpgrp()) and _is_deadly(signalnum)


def _raises(signalnum: int, /) -> bool:
    return _is_deadly(signalnum)


def _kills_thread(_thread_id: int, signalnum: int, /) -> bool:
    return _is_deadly(signalnum)


def _is_deadly(number: int) -> bool:
    """Tell whether this process dies of a signal that it gets."""
    return (
        number in signal.valid_signals()
        and number not in _HARMLESS
        and signal.getsignal(number) is signal.SIG_DFL
        and number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        and os.getpid() != _INIT
    )


_ENDS: dict[tuple[Any, str], Callable[..., bool]] = {
    (os, "_exit"): _exits,
    (os, "abort"): _aborts,
    (os, "execv"): _executes,
    (os, "execve"): _executes,
    (os, "kill"): _kills,
    (os, "killpg"): _kills_group,
    (signal, "raise_signal"): _raises,
    (signal, "pthread_kill"): _kills_thread,
}

"""Calls foreign code in a forked child: on a thread that can be left behind, should it never end.

A fork copies a lock as it is. What another thread of the parent held then, one of OpenTelemetry,
prometheus_client or a logging handler, is held in the child for ever.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable

#: Seconds that a thread waits for foreign code in a forked child.
PATIENCE = 2.0

#: Threads of ours, by their idents: they may be left behind.
ours: set[int] = set()


class _Process:
    is_child = False


class NoThreadError(RuntimeError):
    """The system has no thread left, or Python starts none any more: nothing was called."""


def forked() -> None:
    """Take note that this process is a forked child."""
    _Process.is_child = True
    ours.clear()


def call(act: Callable[[], object]) -> bool:
    """Call ``act``; return whether it has ended, in a forked child within :data:`PATIENCE`.

    Raises :exc:`NoThreadError` as :func:`begin`.
    """
    return ended(begin(act))


def begin(act: Callable[[], object]) -> _thread.LockType | None:
    """Call ``act``; in a forked child, where it must not raise, on a thread of its own.

    Returns what that thread releases at its end, if there is one. Raises :exc:`NoThreadError` if
    there is none to be had.
    """
    if not _Process.is_child:
        act()
        return None
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            act()
        finally:
            done.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:
        # Python 3.12 starts no thread at its end.
        if _thread.get_ident() not in ours:
            raise NoThreadError(*error.args) from None
        act()
        return None
    return done


def ended(done: _thread.LockType | None) -> bool:
    """Wait for what was begun, and tell whether it has ended within :data:`PATIENCE`."""
    return done is None or done.acquire(timeout=PATIENCE)

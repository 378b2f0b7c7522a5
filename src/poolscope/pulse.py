"""The heartbeat: a thread that drains once a second, from the first connection on."""

from __future__ import annotations

import _thread
from collections.abc import Callable


class Pulse:
    """Calls ``beat`` every ``interval`` seconds while it runs.

    Hooks wake it, possibly from within a finalizer, so :meth:`wake` must not wait for anything:
    ``_thread.start_new_thread`` takes none of threading's locks. No thread is ever there while
    the process forks.
    """

    def __init__(self, beat: Callable[[], None], interval: float = 1.0) -> None:
        self._beat = beat
        self._interval = interval
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child, where the thread does not exist."""
        self.beating = False
        # Looked up on use, so that gevent's are taken where it has patched them in.
        self._stopped = _thread.allocate_lock()
        self._running = _thread.allocate_lock()

    def wake(self) -> None:
        """Start beating unless it does."""
        if self.beating or not self._running.acquire(blocking=False):
            return
        self.beating = True
        self._stopped.acquire(blocking=False)
        try:
            _thread.start_new_thread(self._run, (self._stopped, self._running))
        except RuntimeError:  # no more threads, or the interpreter shuts down
            self.beating = False
            self._running.release()

    def stop(self, timeout: float = 1.0) -> None:
        """Stop beating; waits ``timeout`` seconds at most for a beat under way."""
        if not self.beating:
            return
        self.beating = False
        if self._stopped.locked():
            self._stopped.release()
        if self._running.acquire(timeout=timeout):
            self._running.release()

    def _run(self, stopped: _thread.LockType, running: _thread.LockType) -> None:
        try:
            while not stopped.acquire(timeout=self._interval):
                self._beat()
        finally:
            self.beating = False
            running.release()

"""The heartbeat: a thread that drains once a second, from the first connection on."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from time import sleep

_LOOKS, _BETWEEN_LOOKS = 100, 0.0001  # seconds; a few are enough


class Pulse:
    """Calls ``beat`` every ``interval`` seconds while it runs.

    Hooks wake it, possibly from within a finalizer, so :meth:`wake` must not wait for anything:
    ``_thread.start_new_thread`` takes none of threading's locks. No thread is ever there while
    the process forks.
    """

    def __init__(
        self, beat: Callable[[], None], interval: float = 1.0, first: float = 0.05
    ) -> None:
        self._beat = beat
        self._interval = interval
        #: Seconds to the first beat: a process that is killed soon has been heard by then.
        self._first = first
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child, where the thread does not exist."""
        self.beating = False
        #: The thread's number in the kernel.
        self._task = 0
        self._over = False
        self._allocate_lock = _thread.allocate_lock
        self._stopped = _thread.allocate_lock()
        self._running = _thread.allocate_lock()

    def wake(self) -> None:
        """Start beating unless it does."""
        if self.beating or self._over:
            return
        if self._allocate_lock is not _thread.allocate_lock:
            # gevent has patched itself in since: a greenlet that waits for a real lock would
            # stop the whole process.
            self.forget()
        if not self._running.acquire(blocking=False):
            return
        try:
            self.beating = True
            self._stopped.acquire(blocking=False)
            _thread.start_new_thread(self._run, (self._stopped, self._running))
        except BaseException as error:
            # A fault, or a signal handler of the host's, must not be the end of all beats.
            self.beating = False
            self._running.release()
            if not isinstance(error, RuntimeError):  # no more threads, or the end of Python
                raise

    def end(self) -> None:
        """Stop for good: the interpreter shuts down, where no thread may be started."""
        self._over = True
        self.stop()

    def stop(self, timeout: float = 1.0) -> None:
        """Stop beating after one last time; waits ``timeout`` seconds at most for that."""
        if not self.beating:
            return
        self.beating = False
        if self._stopped.locked():
            self._stopped.release()
        if self._running.acquire(timeout=timeout):
            self._running.release()
            self._see_off()

    def _see_off(self) -> None:
        """Wait until the kernel has let go of the thread, which counts for a moment longer.

        Python 3.12 and later ask the kernel when they warn of a fork amid threads.
        """
        task = f"/proc/self/task/{self._task}"
        for _ in range(_LOOKS):
            # A greenlet's number is this thread's own.
            if self._task == _thread.get_native_id() or not os.access(task, os.F_OK):
                return
            sleep(_BETWEEN_LOOKS)

    def _run(self, stopped: _thread.LockType, running: _thread.LockType) -> None:
        self._task = _thread.get_native_id()
        pause, is_over = self._first, False
        try:
            # Once more when it is stopped: a server's master only forks from then on, and nothing
            # wakes its pulse again.
            while not is_over:
                is_over = stopped.acquire(timeout=pause)
                self._beat()
                pause = self._interval
        finally:
            self.beating = False
            running.release()

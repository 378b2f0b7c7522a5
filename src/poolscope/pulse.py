"""The heartbeat: a thread that drains once a second, from the first connection on."""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from time import sleep

from poolscope import aside

_LOOKS, _BETWEEN_LOOKS = 100, 0.0001  # seconds; a few are enough


class _Asking:
    """A thread that waits for a beat, and whether there was one."""

    def __init__(self, done: _thread.LockType) -> None:
        self.done = done
        self.done.acquire()
        self.has_beaten = False


class Pulse:
    """Calls ``beat`` every ``interval`` seconds while it runs, and ``finish`` at the end.

    Hooks wake it, possibly from within a finalizer, so :meth:`wake` must not wait for anything:
    ``_thread.start_new_thread`` takes none of threading's locks. No thread is ever there while
    the process forks.
    """

    def __init__(
        self,
        beat: Callable[[], None],
        finish: Callable[[], None],
        interval: float = 1.0,
        first: float = 0.05,
    ) -> None:
        self._beat = beat
        self._finish = finish
        self._interval = interval
        #: Seconds to the first beat: a process that is killed soon has been heard by then.
        self._first = first
        self.forget()

    def forget(self, lives_with: threading.Thread | None = None) -> None:
        """Begin anew in a forked child, where the thread does not exist.

        ``lives_with`` is a thread with which the process ends, if no other is left.
        """
        self._lives_with = lives_with
        self.beating = False
        #: The thread's number in the kernel.
        self._task = 0
        self._ident = 0
        self._over = False
        self._last: Callable[[], None] = _nothing
        self._allocate_lock = _thread.allocate_lock
        #: Released to have the thread look at once: that it is stopped, or at who asks for a beat.
        self._called = _thread.allocate_lock()
        self._running = _thread.allocate_lock()
        #: Those who wait for a beat.
        self._asking: deque[_Asking] = deque()

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
            self._called.acquire(blocking=False)
            _thread.start_new_thread(self._run, (self._called, self._running))
        except BaseException as error:
            # A fault, or a signal handler of the host's, must not be the end of all beats.
            self.beating = False
            self._running.release()
            if not isinstance(error, RuntimeError):  # no more threads, or the end of Python
                raise

    def beat_now(self, timeout: float) -> bool:
        """Let the thread beat, and wait until it has.

        False if there is none, if it asks for that itself, or if it takes longer than ``timeout``
        seconds.
        """
        if not self.beating or self._ident == _thread.get_ident():
            return False
        asking = _Asking(self._allocate_lock())
        self._asking.append(asking)
        self._call()
        if not self.beating:  # it has ended since, and may not have seen who is asking
            return False
        return asking.done.acquire(timeout=timeout) and asking.has_beaten

    def end(self, timeout: float) -> bool:
        """Stop for good; ``finish`` is the last thing that the thread does.

        False if there is no thread for it. The interpreter shuts down, where none may be started.
        """
        self._over = True
        if not self.beating or self._ident == _thread.get_ident():
            return False
        self._last = self._finish
        self.stop(timeout)
        return True

    def stop(self, timeout: float = 1.0) -> None:
        """Stop beating after one last time; waits ``timeout`` seconds at most for that."""
        if not self.beating:
            return
        self.beating = False
        self._call()
        running = self._running  # greenlets go on in a child that another one forks meanwhile
        if running.acquire(timeout=timeout):
            running.release()
            self._see_off()

    def _call(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is called already
            self._called.release()

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

    def _run(self, called: _thread.LockType, running: _thread.LockType) -> None:
        self._task = _thread.get_native_id()
        self._ident = _thread.get_ident()
        aside.ours.add(self._ident)
        pause, is_over = self._first, False
        try:
            # Once more when it is stopped: a server's master only forks from then on, and nothing
            # wakes its pulse again.
            while not is_over:
                called.acquire(timeout=pause)
                is_over = not self.beating or self._is_alone()
                waiting = len(self._asking)  # who asks from now on waits for the next one
                self._beat()
                self._answer(waiting, has_beaten=True)
                pause = self._interval
            self._last()
        finally:
            self.beating = False
            self._answer(len(self._asking), has_beaten=False)
            aside.ours.discard(self._ident)
            self._ident = 0
            running.release()

    def _answer(self, waiting: int, *, has_beaten: bool) -> None:
        for _ in range(waiting):
            asking = self._asking.popleft()
            asking.has_beaten = has_beaten
            asking.done.release()

    def _is_alone(self) -> bool:
        """Tell whether nothing but this thread keeps the process from ending."""
        if self._lives_with is None or self._lives_with.is_alive():
            return False
        # Such a process knows no atexit.
        self._last = self._finish
        return True


def _nothing() -> None:
    """Do nothing after the last beat."""

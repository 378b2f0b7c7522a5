"""The ways in which a process ends while Python still runs, to tell what it has counted last."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from typing import Any

from poolscope.importing import when_imported


class Ending:
    """Calls ``finish`` when this process ends, and when a child that was forked from it does.

    Workers of multiprocessing and of celery leave by ``os._exit``, which knows no ``atexit``.
    """

    def __init__(self, finish: Callable[[], None], faults: Any) -> None:
        self._finish = finish
        self._is_known = False
        atexit.register(finish)
        self._tell_multiprocessing()
        when_imported("celery.signals", self._tell_celery, faults)

    def forked(self) -> None:
        """Go on in a forked child."""
        self._tell_multiprocessing()

    def _tell_multiprocessing(self) -> None:
        util: Any = sys.modules.get("multiprocessing.util")
        if util is None or self._is_known:
            return
        self._is_known = True
        # Called when a child begins, which forgets all finalizers that it has inherited.
        util.register_after_fork(self, Ending._finalize)
        if sys.modules["multiprocessing.process"].parent_process() is not None:
            self._finalize()  # it has begun: what it was started for has attached us

    def _finalize(self) -> None:
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, self._finish_after_threads, exitpriority=-100)

    def _finish_after_threads(self) -> None:
        # A child runs its finalizers before it waits for its threads.
        if _awaited():
            threading.Thread(target=self._wait, name="poolscope-end").start()
        else:
            self._finish()

    def _wait(self) -> None:
        while threads := _awaited():
            threads[0].join()
        self._finish()

    def _tell_celery(self) -> None:
        def receive(**_signal: object) -> None:
            self._finish()

        signals: Any = sys.modules["celery.signals"]
        signals.worker_process_shutdown.connect(receive, weak=False)


def _awaited() -> list[threading.Thread]:
    """Return the threads for which Python waits before it ends."""
    own = (threading.current_thread(), threading.main_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in own]

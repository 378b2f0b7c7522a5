"""The registry: once a drain, folds what hooks wrote and tells the observers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from time import monotonic

from poolscope import events as ev
from poolscope.audience import Listener
from poolscope.config import Settings
from poolscope.folding import Folding
from poolscope.observers import Observer
from poolscope.records import Connection
from poolscope.shield import is_the_hosts

_PATIENCE = 1.0  # seconds that a fork waits for drains to end


class Scope(Folding):
    """Everything that one process knows about its connections.

    Hooks write to ``ledger``. :meth:`drain` reads it, on whichever thread asks: the pulse once a
    second, a scrape, the end of the process.
    """

    def __init__(self, max_origins: int, held_after: float = Settings.held_after) -> None:
        #: Whether anybody listens, or may ask.
        self.attached = False
        self._listeners: list[Listener] = []
        super().__init__(max_origins, held_after)

    @property
    def observers(self) -> list[Observer]:
        """Who is told."""
        return [listener.observer for listener in self._listeners]

    def begin(self) -> None:
        """Start an empty history: at birth, and in a forked child."""
        super().begin()
        # Re-entrant, because a finalizer that runs inside a drain may ask for one.
        self._lock = threading.RLock()
        self._draining = False
        for listener in self._listeners:
            listener.renew()

    def hold(self) -> list[Callable[[], None]]:
        """Keep drains out, before a fork: no observer's lock is then held by a drain.

        Returns what lets them in again, in the parent. Where one goes on for long it stays out of
        that; a signal handler may fork in the midst of a fork.
        """
        deadline = monotonic() + _PATIENCE
        held: list[Callable[[], None]] = []
        if not self._lock.acquire(timeout=_PATIENCE):
            return held
        try:
            held.append(self._lock.release)
            for listener in self._listeners:
                if listener.hold(deadline):
                    held.insert(0, listener.release)
        except BaseException:
            for release in (*(one.release for one in self._listeners), self._lock.release):
                release()
            raise
        return held

    # ---- draining

    def locked(self) -> AbstractContextManager[object]:
        """Keep drains on other threads out while something is read that they write."""
        return self._lock

    def drain(self) -> None:
        """Fold everything written so far and tell the observers; safe from any thread.

        Raises nothing of ours, only what a signal handler of the host raises meanwhile.
        """
        try:
            if self._take_in():
                self._tell()
        except Exception as error:
            # It would end the host's scrape, or the pulse.
            if is_the_hosts(error):
                raise
            self.fault("drain", error)

    def _take_in(self) -> bool:
        """Fold, and tell those observers that can be told under the lock; False in a drain."""
        with self._lock:
            if self._draining or not self.attached:
                return False
            self._draining = True
            try:
                self._shielded(self._fold)
                events, self._events = self._events, []
                for listener in self._listeners:
                    if listener.is_behind:
                        listener.is_behind = False
                        listener.hear(self._known())
                    listener.hear(events)
            finally:
                self._draining = False
            for listener in list(self._listeners):
                if not listener.observer.may_block:
                    listener.tell()
            return True

    def _tell(self) -> None:
        """Tell all others; not under the lock, as they may wait for a thread that wants it."""
        for listener in list(self._listeners):
            listener.tell()

    def cause(self, connection: Connection) -> str:
        """Return why a connection was opened; "" while a drain is at work: nobody waits for it."""
        if not connection.cause and self._lock.acquire(blocking=False):
            was_draining, self._draining = self._draining, True
            try:
                if not was_draining:
                    self._read_log()
            finally:
                self._draining = was_draining
                self._lock.release()
        return connection.cause

    def finish(self) -> None:
        """Drain for the last time: what is open now ends with the interpreter."""
        with self._lock:
            self._settle(lambda connection: connection.reason or "exit")
            listeners = self._take_leave()
        for listener in listeners:
            listener.end()

    def settle(
        self,
        ended: Callable[[Connection], str],
        in_use: Callable[[Connection], bool] = lambda _connection: False,
    ) -> None:
        """Count as closed those open connections for which ``ended`` returns a reason.

        The others go on being busy if they are ``in_use``.
        """
        self._settle(ended, in_use)
        self._tell()

    def _settle(
        self,
        ended: Callable[[Connection], str],
        in_use: Callable[[Connection], bool] = lambda _connection: False,
    ) -> None:
        with self._lock:
            self._take_in()
            now = self.clock()
            for connection in [known for state in self._origins for known in state.open]:
                if reason := ended(connection):
                    connection.end(now, reason)
                elif in_use(connection):
                    connection.busy_since = now
                    connection.carrier.touch()
            self._take_in()

    def introduce(self, observers: Iterable[Observer]) -> None:
        """Tell observers that come late what there is, and everything from now on.

        All at once: what has been written while nobody listened is told to all of them.
        """
        with self._lock:
            self._take_in()
            known = self.observers
            for observer in dict.fromkeys(observers):
                if observer not in known:
                    listener = Listener(observer, self.fault)
                    listener.hear(self._known())
                    self._listeners.append(listener)
            self.attached = True
        self._tell()

    def _known(self) -> list[ev.AnyEvent]:
        """Return what those are told who have missed it: all origins, and their levels."""
        known: list[ev.AnyEvent] = []
        for state in self._origins:
            known.append(ev.OriginSeen(state.origin))
            if state.told_levels is not None:  # the others heard it; it may stay like that
                known.append(state.told_levels)
        return known

    def dismiss(self) -> None:
        """Drain, tell the observers that nothing is known to be open any more, and let them go.

        What finalizers write from now on waits in the ledger for the next ``introduce``.
        """
        with self._lock:
            try:
                self._take_in()
                self._let_rest()
                self._take_in()
            finally:
                listeners = self._take_leave()
                for state in self._origins:
                    state.told_levels = None
        for listener in listeners:
            listener.end()

    def _let_rest(self) -> None:
        """End all checkouts: nobody will see them come back, nor the answers they wait for."""
        now = self.clock()
        for connection in [known for state in self._origins for known in state.open]:
            if connection.busy_since:
                connection.missed = True
                connection.give_back(now)
                connection.carrier.touch()

    def _take_leave(self) -> list[Listener]:
        """Return all listeners, who are to hear that nothing is open any more, and go."""
        listeners, self._listeners = self._listeners, []
        self.attached = False
        # In multiprocess mode the levels of a process stay behind in its files.
        nothing = [ev.Levels(state.origin) for state in self._origins]
        for listener in listeners:
            listener.hear(nothing)
        return listeners

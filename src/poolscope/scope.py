"""The registry: once a drain, folds what hooks wrote and tells the observers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from poolscope import events as ev
from poolscope.config import Settings
from poolscope.folding import Folding
from poolscope.observers import Observer
from poolscope.records import Connection
from poolscope.shield import is_the_hosts


class Scope(Folding):
    """Everything that one process knows about its connections.

    Hooks write to ``ledger``. :meth:`drain` reads it, on whichever thread asks: the pulse once a
    second, a scrape, the end of the process.
    """

    def __init__(self, max_origins: int, held_after: float = Settings.held_after) -> None:
        self.observers: list[Observer] = []
        super().__init__(max_origins, held_after)

    def begin(self) -> None:
        """Start an empty history: at birth, and in a forked child."""
        super().begin()
        # Re-entrant, because a finalizer that runs inside a drain may ask for one.
        self._lock = threading.RLock()
        self._draining = False

    def hold(self) -> bool:
        """Keep drains out, before a fork: no observer's lock is then held by a drain."""
        return self._lock.acquire(timeout=1.0)

    def release(self) -> None:
        """Let drains in again, in the parent after a fork."""
        self._lock.release()

    # ---- draining

    def locked(self) -> AbstractContextManager[object]:
        """Keep drains on other threads out while something is read that they write."""
        return self._lock

    def drain(self) -> None:
        """Fold everything written so far and tell the observers; safe from any thread.

        Raises nothing of ours, only what a signal handler of the host raises meanwhile.
        """
        with self._lock:
            if self._draining or not self.attached:
                return
            self._draining = True
            try:
                self._shielded(self._fold)
                events, self._events = self._events, []
                self._tell(events, list(self.observers))
            finally:
                self._draining = False

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
            self.settle(lambda connection: connection.reason or "exit")
            self._let_go()

    def settle(
        self,
        ended: Callable[[Connection], str],
        in_use: Callable[[Connection], bool] = lambda _connection: False,
    ) -> None:
        """Count as closed those open connections for which ``ended`` returns a reason.

        The others go on being busy if they are ``in_use``.
        """
        with self._lock:
            self.drain()
            now = self.clock()
            for connection in [known for state in self._origins for known in state.open]:
                if reason := ended(connection):
                    connection.end(now, reason)
                elif in_use(connection):
                    connection.busy_since = now
                    connection.carrier.touch()
            self.drain()

    def introduce(self, observers: Iterable[Observer]) -> None:
        """Tell observers that come late what there is, and everything from now on.

        All at once: what has been written while nobody listened is told to all of them.
        """
        with self._lock:
            self.drain()
            seen: list[ev.AnyEvent] = []
            for state in self._origins:
                seen.append(ev.OriginSeen(state.origin))
                if state.told_levels is not None:  # the others heard it; it may stay like that
                    seen.append(state.told_levels)
            new = [one for one in dict.fromkeys(observers) if one not in self.observers]
            self.observers += new
            self._tell(seen, new)

    def dismiss(self) -> None:
        """Drain, tell the observers that nothing is known to be open any more, and let them go.

        What finalizers write from now on waits in the ledger for the next ``introduce``.
        """
        with self._lock:
            self.drain()
            now = self.clock()
            for connection in [known for state in self._origins for known in state.open]:
                if connection.busy_since:
                    # Nobody will see it come back, nor the answer that it is waiting for.
                    connection.missed = True
                    connection.give_back(now)
                    connection.carrier.touch()
            self.drain()
            self._let_go()
            for state in self._origins:
                state.told_levels = None

    def _let_go(self) -> None:
        # In multiprocess mode the levels of a process stay behind in its files.
        self._tell([ev.Levels(state.origin) for state in self._origins], list(self.observers))
        for observer in list(self.observers):
            self.observers.remove(observer)
            try:
                observer.ended()
            except Exception as error:  # noqa: BLE001 - an observer must not stop the others
                self.fault(f"observer.{type(observer).__name__}", error)

    @property
    def attached(self) -> bool:
        """Whether anybody listens."""
        return bool(self.observers)

    def _tell(self, events: Sequence[ev.AnyEvent], observers: Iterable[Observer]) -> None:
        for observer in observers:
            try:
                observer.tell(events)
            except Exception as error:
                if is_the_hosts(error):
                    raise
                self.observers.remove(observer)
                self.fault(f"observer.{type(observer).__name__}", error)

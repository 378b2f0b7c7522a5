"""Who is told, and what they have not heard yet: one that fails or hangs costs only itself."""

from __future__ import annotations

import _thread
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from poolscope import aside
from poolscope.events import AnyEvent
from poolscope.observers import Observer
from poolscope.shield import is_the_hosts

#: Events that are kept for an observer that takes its time; beyond that the oldest are lost.
MOST_EVENTS = 20_000
_PATIENCE = 10.0  # seconds that a thread waits while another one tells the same observer


class Listener:
    """One observer, told in order, by one thread at a time.

    One that raises has missed what it was just being told: it ``is_behind``, and is told of all
    origins and their levels anew.
    """

    def __init__(self, observer: Observer, fault: Callable[[str, Exception], None]) -> None:
        self.observer = observer
        self._fault = fault
        self.is_behind = False
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child, where a thread of the parent may hold the lock for ever."""
        self._lock = _thread.allocate_lock()
        self._batches: deque[Sequence[AnyEvent]] = deque()
        #: The thread that is telling it, and what stands for its turn.
        self._teller = 0
        self._turn: object = None
        #: A thread has waited in vain for the one that is telling it: the others don't wait.
        self._hangs = False

    def hear(self, events: Sequence[AnyEvent]) -> None:
        """Keep events for it until :meth:`tell`."""
        if not events:
            return
        self._batches.append(events)
        while len(self._batches) > 1 and sum(map(len, list(self._batches))) > MOST_EVENTS:
            self._oldest()
            self._missed(TimeoutError("it takes too long, and has missed something"))

    def tell(self) -> None:
        """Tell it what waits; leave that to another thread that is telling it and does not end.

        Raises what a signal handler of the host raises meanwhile.
        """
        self._alone(self._tell)

    def end(self) -> None:
        """Tell it what waits, and that nothing more comes; as :meth:`tell`."""
        self._alone(self._end)

    def hold(self, deadline: float) -> bool:
        """Keep other threads from telling it; False if one does that until ``deadline``.

        That is a time of ``time.monotonic()``.
        """
        ident = _thread.get_ident()
        if self._hangs or self._teller == ident:
            return False
        is_held = self._lock.acquire(timeout=max(0.0, deadline - monotonic()))
        if is_held:
            self._teller = ident
        return is_held

    def release(self) -> None:
        """Let others tell it again, if this thread has kept them from it."""
        ident = _thread.get_ident()
        if self._teller == ident:
            self._lock.release()
            if self._teller == ident:  # not another one, which has had its turn since
                self._teller = 0

    def _alone(self, act: Callable[[], None]) -> None:
        if self._teller == _thread.get_ident():
            return  # the observer itself has asked for a drain
        lock = self._lock  # of this process: the observer may fork
        turn, is_begun, done = object(), False, None
        if not lock.acquire(timeout=0 if self._hangs else _PATIENCE):
            self._hangs = self._turn is not None
            if not self._hangs:  # a signal handler raised just as somebody had acquired it
                self._lock = _thread.allocate_lock()
            return
        try:
            self._turn = turn
            step = partial(self._act, act, lock, turn)
            is_begun = True
            if self.observer.may_block:
                done = aside.begin(step)
            else:
                step()
        except BaseException as error:
            if not is_begun or self._turn is turn:
                self._give_up(lock, turn)
            if not isinstance(error, aside.NoThreadError):
                raise
            self._missed(error)
        else:
            self._hangs = not aside.ended(done)

    def _act(self, act: Callable[[], None], lock: _thread.LockType, turn: object) -> None:
        try:
            self._teller = _thread.get_ident()
            act()
        finally:
            self._give_up(lock, turn)

    def _give_up(self, lock: _thread.LockType, turn: object) -> None:
        """Let others have their turn."""
        self._teller = 0
        self._hangs = False
        with contextlib.suppress(RuntimeError):
            lock.release()
        if self._turn is turn:
            self._turn = None

    def _tell(self) -> None:
        while self._batches:
            self._shielded(partial(self.observer.tell, self._oldest()))

    def _oldest(self) -> Sequence[AnyEvent]:
        try:
            return self._batches.popleft()
        except IndexError:  # taken by another thread since
            return ()

    def _end(self) -> None:
        self._tell()
        self._shielded(self.observer.ended)

    def _shielded(self, say: Callable[[], None]) -> None:
        try:
            say()
        except BaseException as error:
            self.is_behind = True
            if not isinstance(error, Exception) or is_the_hosts(error):
                raise
            self._missed(error)

    def _missed(self, error: Exception) -> None:
        self.is_behind = True
        self._fault(f"observer.{type(self.observer).__name__}", error)

"""One process's attachment: its scope, pulse and clients, through forks and to the exit."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import BuiltinFunctionType
from typing import Any

from poolscope import aside
from poolscope.clients import CLIENTS, ClientRow
from poolscope.config import Settings
from poolscope.departures import Departures
from poolscope.forks import Forks
from poolscope.importing import when_imported
from poolscope.observers import Observer
from poolscope.patcher import Patcher
from poolscope.pulse import Pulse
from poolscope.readings import Readings
from poolscope.scope import Scope
from poolscope.shield import is_the_hosts

_PATIENCE = 10.0  # seconds that the main thread waits for the pulse


class Process:
    """There is one in a process, from the first ``instrument()`` on, for good.

    Its history outlives ``uninstrument()``: counts go on where they stopped.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.scope = Scope(settings.max_origins, settings.held_after)
        self.readings = Readings()
        self.pulse = Pulse(self.scope.drain, self.scope.finish)
        #: By the client's package, once the application has imported it.
        self.patchers: dict[str, Patcher] = {}
        self.attached = False
        self._waiting: set[str] = set()
        self._watched: set[str] = set()
        self._known: dict[Observer, None] = {}
        #: The threads that keep drains out because they fork, each with what lets these in again.
        self._forking: list[tuple[int, list[Callable[[], None]]]] = []
        self._was_beating = False
        self._is_main = True
        self._is_child = False
        self.forks = Forks(
            self._before_fork, self._after_in_parent, self._after_in_child, self.scope.faults
        )
        atexit.register(self._exit)
        self._departures = Departures(self._leave, self._stay, self._has_news)
        self._left: tuple[Observer, ...] = ()

    def attach(self, observers: Iterable[Observer]) -> None:
        """Put the hooks in, and tell the observers that are not told yet."""
        heard = (self.readings, *observers)
        self._known.update(dict.fromkeys(heard))
        self.scope.introduce(heard)
        self.attached = True
        self._departures.watch()
        for row in CLIENTS:
            with self._shield(f"attach.{row.package}"):
                if row.first in sys.modules:
                    self._watch(row)
                elif row.first not in self._waiting:
                    when_imported(row.first, partial(self._watch, row), self.scope.faults)
                    self._waiting.add(row.first)
        if self.scope.has_open():
            self.pulse.wake()

    def drain(self) -> None:
        """Drain now, for whoever wants to know.

        The main thread leaves it to the pulse: there a signal handler of the host may raise at
        any line, which would cost news.
        """
        with self._shield("drain"):
            self.forks.notice()
            is_main = _thread.get_ident() == threading.main_thread().ident
            if is_main and not _has_greenlets() and self.pulse.beat_now(_PATIENCE):
                return
        self.scope.drain()

    def _watch(self, row: ClientRow) -> None:
        if not self.attached or row.package in self._watched:
            return
        self.forks.ask_uwsgi()
        client: Any = importlib.import_module(row.module)
        if row.package not in self.patchers:
            kind = client.Client
            if self._settings.span_attributes:
                kind = importlib.import_module(row.spans).TracedClient
            made = kind(self.scope, self.pulse)
            made.finds_call_sites = self._settings.call_sites
            made.notice_fork = self.forks.notice
            self.patchers[row.package] = Patcher(made.hooks, self.scope.faults, client.refuse)
        # What closed while nobody watched is counted now; why, nobody can tell any more.
        self.scope.settle(
            lambda connection: "" if client.still_open(connection) else "explicit",
            client.is_checked_out,
        )
        self.patchers[row.package].attach()
        self._watched.add(row.package)

    def detach(self) -> None:
        """Take the hooks out and let the observers go."""
        if not self.attached:
            return
        self.attached = False
        with self._shield("detach"):
            self._watched.clear()
            for patcher in self.patchers.values():
                patcher.detach()
        for step in (self._departures.unwatch, self.pulse.stop, self.scope.dismiss):
            with self._shield("detach"):
                step()

    # ---- forks and the end

    # Python drops what these raise, so they do all that they can and count what failed.

    def _before_fork(self) -> None:
        with self._shield("before_fork"):
            self._is_main = threading.current_thread() is threading.main_thread()
            if self.attached:
                self._was_beating |= self.pulse.beating
                self.pulse.stop()
                self._forking.append((_thread.get_ident(), self.scope.hold()))

    def _after_in_parent(self) -> None:
        try:
            self._let_drains_in()
        except BaseException as error:
            self._let_drains_in()
            if not isinstance(error, Exception) or is_the_hosts(error):
                raise
            self.scope.fault("after_fork", error)
        # Requests of other threads go on, and wake it only when they begin. Without others ours
        # must not be there: Pythons from 3.12 on warn of it, some of those look only now.
        with self._shield("after_fork"):
            was_beating, self._was_beating = self._was_beating, False
            if was_beating and not _is_alone():
                self.pulse.wake()

    def _let_drains_in(self) -> None:
        """Undo what this thread's last fork has kept out."""
        ident = _thread.get_ident()
        ours = [forking for forking in self._forking if forking[0] == ident]
        if ours:
            held = ours[-1][1]
            while held:
                held[0]()
                del held[0]
            self._forking.remove(ours[-1])

    def _after_in_child(self) -> None:
        with self._shield("after_fork"):
            aside.forked()
            self._is_child = True
            self._forking.clear()
            self._was_beating = False
        with self._shield("after_fork"):
            # Forked by another thread than the main one, the child ends when that one does.
            self.pulse.forget(None if self._is_main else threading.main_thread())
        with self._shield("after_fork"):
            self.scope.begin()
        # Those that are let go of as well: they may be told again one day.
        for observer in self._known:
            with self._shield(f"observer.{type(observer).__name__}"):
                observer.forked()

    @contextlib.contextmanager
    def _shield(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_the_hosts(error):
                raise
            self.scope.fault(where, error)

    def _exit(self) -> None:
        with self._shield("exit"):
            self.forks.notice()  # not everybody who forks tells Python
            if self.attached and not self.pulse.end(_PATIENCE):
                self.scope.finish()

    def _has_news(self) -> bool:
        """Tell whether a child has counted anything; the first process has at least to leave."""
        self.forks.notice()
        return not self._is_child or self.scope.has_history()

    def _leave(self) -> None:
        # Another thread may be leaving, too: then they have gone already.
        self._left = tuple(self.scope.observers) or self._left
        self.scope.finish()

    def _stay(self) -> None:
        self.scope.introduce(self._left)


def _is_alone() -> bool:
    """Tell whether nobody but this thread can be in the midst of a request."""
    return threading.active_count() == 1 and not _has_greenlets()


def _has_greenlets() -> bool:
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)
